"""`make bundle`: a folder that was moved runs in a root of its own with glibc, a shell and CUDA's libraries alone, one rank
and two, by the bundle's MPI."""
import os
import pathlib
import shutil
import subprocess

import pytest
from runs import BINARY, ROOT

BUNDLE = "/opt/somewhere else/bundle"
GLIBC = ("libc.so.6", "libm.so.6", "libpthread.so.0", "librt.so.1", "libdl.so.2", "libresolv.so.2", "libutil.so.1")


def copy(path, root):
    to = root / str(path).lstrip("/")
    if not to.exists():
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(os.path.realpath(path), to)


def libraries_of(path):
    """name -> path, or None where it is not found"""
    text = subprocess.run(["ldd", path], capture_output=True, text=True).stdout
    rows = [line.split() for line in text.splitlines() if "=>" in line]
    return {row[0]: None if row[2] == "not" else row[2] for row in rows}


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    """run(program, arguments...) in a root that has little but the bundle."""
    if os.getuid() != 0:
        pytest.skip("needs the right to chroot")
    built = tmp_path_factory.mktemp("made") / "bundle"
    made = subprocess.run(["tools/bundle.sh", pathlib.Path(BINARY).parent, built], cwd=ROOT, capture_output=True, text=True)
    if made.returncode != 0 and "pip" in made.stderr:
        pytest.skip("the MPI runtime's wheel cannot be had: no network")
    assert made.returncode == 0, made.stderr
    root = tmp_path_factory.mktemp("root")
    for folder in ("bin", "usr", "dev/shm", "tmp", "etc", "proc", BUNDLE.lstrip("/").rsplit("/", 1)[0]):
        (root / folder).mkdir(parents=True)
    (root / "usr/bin").symlink_to("/bin")
    (root / "etc/passwd").write_text("root:x:0:0::/:/bin/bash\n")
    (root / "etc/hosts").write_text(f"127.0.0.1 localhost {os.uname().nodename}\n")
    for tool in ("bash", "env", "dirname", "basename", "grep"):
        path = shutil.which(tool)
        shutil.copy(path, root / "bin")
        for library in libraries_of(path).values():
            copy(library, root)
    system = pathlib.Path(libraries_of(shutil.which("bash"))["libc.so.6"]).parent
    for library in GLIBC:
        copy(system / library, root)
    copy("/lib64/ld-linux-x86-64.so.2", root)
    cuda = root / "usr/local/cuda/lib64"
    cuda.mkdir(parents=True)
    for name, path in libraries_of(BINARY).items():
        if name.startswith(("libcublas", "libcudnn")):
            shutil.copy(path, cuda / name)
    for name, minor in (("null", 3), ("zero", 5), ("urandom", 9)):
        subprocess.run(["mknod", "-m", "666", root / "dev" / name, "c", "1", str(minor)], check=True)
    if subprocess.run(["mount", "-t", "proc", "proc", root / "proc"], capture_output=True).returncode != 0:
        pytest.skip("cannot mount /proc for another root here")
    shutil.move(built, root / BUNDLE.lstrip("/"))
    environment = [f"{name}=1" for name in ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM",
                                            "PRTE_ALLOW_RUN_AS_ROOT", "PRTE_ALLOW_RUN_AS_ROOT_CONFIRM")]

    def run(program, *args):
        return subprocess.run(["chroot", root, "/bin/env", "-i", "PATH=/bin", "HOME=/tmp", *environment,
                               f"{BUNDLE}/{program}", *map(str, args)], capture_output=True, text=True, timeout=120)

    run.root = root
    yield run
    subprocess.run(["umount", root / "proc"], check=True)
    shutil.rmtree(root)


def test_one_rank_and_two_of_the_bundles_mpi(node):
    info = node("llmft", "info")
    assert info.returncode == 0, info.stderr
    assert "MPI Open MPI v5" in info.stdout
    tiny = f"{BUNDLE}/inputs/tiny"
    done = node("llmft", "preprocess", "--input", f"{tiny}/sample.parquet", "--tokenizer", f"{tiny}/model", "--output", "/tmp/shards")
    assert done.returncode == 0, done.stderr
    options = ("--model", f"{tiny}/model", "--data", "/tmp/shards", "--device", "cpu", "--precision", "fp32", "--steps", 2,
               "--batch-packs", 2, "--pack-tokens", 256, "--results", "", "--deterministic")
    for ranks in (1, 2):
        done = node("mpirun", "--oversubscribe", "-n", ranks, f"{BUNDLE}/llmft", "train", *options, "--output", f"/tmp/{ranks}")
        assert done.returncode == 0, done.stderr
        assert f" on {ranks} rank" in done.stderr
    adapters = [(node.root / f"tmp/{ranks}/adapter/adapter_model.safetensors").read_bytes() for ranks in (1, 2)]
    assert adapters[0] == adapters[1]


def test_a_library_that_is_missing_is_named(node):
    libraries = sorted((node.root / "usr/local/cuda/lib64").iterdir())
    if not libraries:
        pytest.skip("a build without CUDA")
    for path in libraries:
        path.rename(f"{path}.away")
        done = node("llmft", "info")
        pathlib.Path(f"{path}.away").rename(path)
        assert done.returncode == 2, (path, done.stderr)
        [line] = done.stderr.splitlines()
        assert line.startswith(f"error: {path.name} is not on this node; ") and "LLMFT_CUDA_LIBS" in line
