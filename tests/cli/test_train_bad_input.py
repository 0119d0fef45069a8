"""`llmft train` with bad input: exit code 2, one line that says what, where and what to do, and no run directory."""
import ctypes
import json
import os
import shutil
import subprocess
import time

import pytest
from runs import BINARY, ENV, Run, contents, error_lines, llmft, make_shards, read_safetensors, write_safetensors

Q_PROJ = "model.layers.1.self_attn.q_proj.weight"


def copy(folder, to):
    shutil.copytree(folder, to)
    return to


def edit_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_tensors(folder, change):
    tensors, _ = read_safetensors(folder / "model.safetensors")
    change(tensors)
    write_safetensors(folder / "model.safetensors", tensors)


def misshape(tensors):
    dtype, shape, data = tensors[Q_PROJ]
    tensors[Q_PROJ] = (dtype, [shape[0] // 2, shape[1]], data[:len(data) // 2])


def small_vocabulary(tensors):
    dtype, shape, data = tensors["model.embed_tokens.weight"]
    tensors["model.embed_tokens.weight"] = (dtype, [1024, shape[1]], data[:2 * 1024 * shape[1]])


def flip_tokens(folder, shard=0):
    """A byte in the middle of the shard's tokens."""
    import h5py
    path = sorted(folder.glob("shard-*.h5"))[shard]
    with h5py.File(path) as file:
        at = file["tokens"].id.get_chunk_info(0).byte_offset + 2 * len(file["tokens"])
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)
    return path


def cut(path, share=0.5):
    data = path.read_bytes()
    path.write_bytes(data[:int(len(data) * share)])


CASES = {}


def case(*says, ranks=1):
    """Registers a function that breaks something and returns the options to use it; says: what the error must have."""

    def register(function):
        CASES[function.__name__.replace("_", " ")] = (function, says, ranks)
        return function

    return register


@case("none/config.json: not found", "hf download")
def no_model(at):
    return ["--model", at.tmp / "none"]


@case("config.json: not found", "hf download")
def no_config(at):
    (copy(at.model, at.tmp / "m") / "config.json").unlink()
    return ["--model", at.tmp / "m"]


@case("config.json: not a JSON object", "again")
def config_is_no_json(at):
    cut(copy(at.model, at.tmp / "m") / "config.json")
    return ["--model", at.tmp / "m"]


@case("config.json: model_type is 'mistral', 'llama' is needed", "use a Llama 3.x model")
def another_kind_of_model(at):
    edit_json(copy(at.model, at.tmp / "m") / "config.json", model_type="mistral")
    return ["--model", at.tmp / "m"]


@case("config.json: rope_scaling.rope_type is 'yarn', which is not supported", "use a Llama 3.x model")
def wrong_rope_scaling(at):
    edit_json(copy(at.model, at.tmp / "m") / "config.json", rope_scaling={"rope_type": "yarn", "factor": 4.0})
    return ["--model", at.tmp / "m"]


@case("rope_scaling.high_freq_factor is missing")
def half_a_rope_scaling(at):
    edit_json(copy(at.model, at.tmp / "m") / "config.json",
              rope_scaling={"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0})
    return ["--model", at.tmp / "m"]


@case("m: ", "model.safetensors")
def no_tensors(at):
    (copy(at.model, at.tmp / "m") / "model.safetensors").unlink()
    return ["--model", at.tmp / "m"]


@case(Q_PROJ, "m")
def missing_tensor(at):
    edit_tensors(copy(at.model, at.tmp / "m"), lambda tensors: tensors.pop(Q_PROJ))
    return ["--model", at.tmp / "m"]


@case(Q_PROJ, "[64, 128]", "[128, 128]")
def misshapen_tensor(at):
    edit_tensors(copy(at.model, at.tmp / "m"), misshape)
    return ["--model", at.tmp / "m"]


@case("model.safetensors: ", "the file is cut short", "copy or download it again")
def truncated_tensors(at):
    cut(copy(at.model, at.tmp / "m") / "model.safetensors")
    return ["--model", at.tmp / "m"]


@case("none: no such folder", "llmft preprocess --output")
def no_data(at):
    return ["--data", at.tmp / "none"]


@case("shards of another tokenizer", "llmft preprocess --tokenizer")
def another_tokenizer(at):
    edit_json(copy(at.model, at.tmp / "m") / "tokenizer.json", version="1.0 ")
    return ["--model", at.tmp / "m"]


@case("shards of another vocabulary (2048 ids, the model has 1024)", "llmft preprocess --tokenizer")
def larger_vocabulary(at):
    folder = copy(at.model, at.tmp / "m")
    edit_json(folder / "config.json", vocab_size=1024, bos_token_id=0, eos_token_id=1)
    edit_tensors(folder, small_vocabulary)
    (folder / "tokenizer.json").unlink()
    return ["--model", at.tmp / "m"]


@case("shard has", "bytes, the manifest says", "llmft preprocess")
def truncated_shard(at):
    cut(sorted(copy(at.shards, at.tmp / "d").glob("*.h5"))[1], 0.9)
    return ["--data", at.tmp / "d"]


@case("shard is missing", "llmft preprocess")
def missing_shard(at):
    sorted(copy(at.shards, at.tmp / "d").glob("*.h5"))[1].unlink()
    return ["--data", at.tmp / "d"]


@case("manifest.json")
def damaged_manifest(at):
    cut(copy(at.shards, at.tmp / "d") / "manifest.json")
    return ["--data", at.tmp / "d"]


@case("every sample is longer than 4 tokens", "raise")
def packs_too_short(at):
    return ["--pack-tokens", 4]


@case("c.yaml:3: unknown option 'train.batch_pack'; did you mean 'train.batch_packs'?")
def unknown_key(at):
    (at.tmp / "c.yaml").write_text("train:\n  lr: 1e-3\n  batch_pack: 8\n")
    return ["--config", at.tmp / "c.yaml"]


@case("c.yaml:2: 'fast' is not valid for train.lr (a number is needed)")
def ill_typed_key(at):
    (at.tmp / "c.yaml").write_text("train:\n  lr: fast\n")
    return ["--config", at.tmp / "c.yaml"]


@case("c.yaml:2: not valid YAML")
def no_yaml(at):
    (at.tmp / "c.yaml").write_text("train: {lr: 1\n")
    return ["--config", at.tmp / "c.yaml"]


@case("none.yaml: cannot open")
def no_config_file(at):
    return ["--config", at.tmp / "none.yaml"]


@case("--adapter-rnak: unknown option; did you mean '--adapter-rank'?")
def unknown_option(at):
    return ["--adapter-rnak", 8]


@case("--precision: 'bf61' is not valid", "one of", "did you mean 'bf16'")
def unknown_precision(at):
    return ["--precision", "bf61"]


@case("--precision fp8: not in this version yet; use bf16")
def fp8(at):
    return ["--precision", "fp8"]


@case("--hsdp-group 2: does not divide the 3 ranks", ranks=3)
def hsdp_group(at):
    return ["--strategy", "hsdp", "--hsdp-group", 2, "--batch-packs", 3]


@case("adapter", "query", "q_proj")
def unknown_target(at):
    return ["--adapter.targets=query"]


@case("none/adapter_config.json")
def no_adapter(at):
    return ["--adapter", at.tmp / "none"]


@case("out", "make this folder")
def output_below_a_file(at):
    (at.tmp / "file").write_text("")
    return ["--output", at.tmp / "file/out"]


@case("/proc/none/out", "make this folder")
def output_cannot_be_made(at):
    return ["--output", "/proc/none/out"]


@case("/proc/none", "make this folder")
def table_cannot_be_made(at):
    return ["--results", "/proc/none/benchmarks.csv"]


@case("--model", "lies in the run directory", "another --output")
def model_lies_in_the_output(at):
    copy(at.model, at.tmp / "out2/model")
    return ["--model", at.tmp / "out2/model", "--output", at.tmp / "out2"]


@case("train.batch_packs: 3 micro-batches a step do not divide among 2 ranks; use a multiple of 2", ranks=2)
def batch_that_does_not_divide(at):
    return ["--batch-packs", 3]


@case("--strategy none: is for one rank, and 2 were started; use --strategy ddp, fsdp or hsdp", ranks=2)
def no_strategy_for_two(at):
    return ["--strategy", "none"]


@case("--deterministic: 3 ranks", "use 1, 2, 4, 8, ... ranks", ranks=3)
def deterministic_on_three(at):
    return ["--deterministic", "--batch-packs", 3]


@case("train.beta1, train.beta2: 1 and 0.999; both must be less than 1")
def beta_of_one(at):
    return ["--train.beta1", 1]


@case("--epochs: '1e300' is not valid for train.epochs (0 to 1e+06 is needed)")
def too_many_epochs(at):
    return ["--steps", 0, "--epochs", "1e300"]


@case("--resume, --overwrite: ", "give one of them")
def resume_and_overwrite(at):
    return ["--resume", "--overwrite"]


class Place:
    def __init__(self, tmp, model, shards):
        self.tmp, self.model, self.shards = tmp, model, shards


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_one_clear_error(name, train_args, model, shards, tmp_path):
    function, says, ranks = CASES[name]
    options = function(Place(tmp_path, model, shards))
    before = {p for p in tmp_path.rglob("*")}
    done = llmft(*train_args, "--output", tmp_path / "out", *options, ranks=ranks, timeout=30)
    assert done.returncode == 2, done.stderr
    [error] = error_lines(done)
    for text in says:
        assert text in error
    assert done.stdout == ""
    assert {p for p in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("name", ["no model", "missing tensor", "another tokenizer", "unknown key", "fp8",
                                  "output cannot be made"])
def test_four_ranks_end_with_one_error(name, train_args, model, shards, tmp_path):
    function, says, _ = CASES[name]
    options = function(Place(tmp_path, model, shards))
    began = time.time()
    done = llmft(*train_args, "--output", tmp_path / "out", *options, ranks=4, timeout=30)
    assert time.time() - began < 10
    assert done.returncode == 2, done.stderr
    [error] = error_lines(done)
    assert all(text in error for text in says)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("missing", ["--model", "--data", "--output"])
def test_what_is_needed_is_named(missing, train_args, tmp_path):
    args = [*train_args, "--output", tmp_path / "out"]
    at = args.index(missing)
    done = llmft(*args[:at], *args[at + 2:])
    assert done.returncode == 2
    [error] = error_lines(done)
    assert f"{missing}: no " in error


@pytest.mark.skipif(b"nvidia" in (open("/proc/modules", "rb").read() if os.path.exists("/proc/modules") else b""),
                    reason="has a GPU")
def test_cuda_without_a_gpu(train_args, tmp_path):
    done = llmft(*train_args, "--output", tmp_path / "out", "--device", "cuda")
    assert done.returncode == 2
    [error] = error_lines(done)
    assert "cuda" in error.lower() and "--device cpu" in error
    assert not (tmp_path / "out").exists()


def test_cuda_with_an_old_driver(train_args, tmp_path):
    """A driver of our own that says it is of CUDA 12.4."""
    compiler = shutil.which("cc")
    if compiler is None or "not built in" in llmft("info").stdout:
        pytest.skip("needs a C compiler and a build with CUDA")
    (tmp_path / "driver.c").write_text("int cuInit(unsigned f) { return 0; }\n"
                                       "int cuDriverGetVersion(int* v) { *v = 12040; return 0; }\n")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", tmp_path / "libcuda.so.1", tmp_path / "driver.c"], check=True)
    libraries = f"{tmp_path}:{ENV.get('LD_LIBRARY_PATH', '')}".rstrip(":")
    done = subprocess.run([BINARY, *map(str, train_args), "--output", tmp_path / "out", "--device", "cuda"],
                          env=dict(ENV, LD_LIBRARY_PATH=libraries), capture_output=True, text=True, timeout=30)
    assert done.returncode == 2, done.stderr
    [error] = error_lines(done)
    assert "the NVIDIA driver is too old (it supports CUDA 12.4" in error and "update the driver" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["eval", "plan", "export"])
def test_unknown_option_of_other_commands(name):
    done = llmft(name, "--anything")
    assert done.returncode == 2 and done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line == "error: --anything: unknown option; see --help for the list"


def test_unknown_command():
    done = llmft("trian")
    assert done.returncode == 2 and error_lines(done) == ["error: trian: unknown command; did you mean 'train'?"]


def test_a_run_directory_in_use_is_left_alone(train_once, train_args):
    run = train_once()
    before = contents(run.path)
    for ranks in (1, 2):
        done = llmft(*train_args, "--output", run.path, ranks=ranks)
        assert done.returncode == 2
        [error] = error_lines(done)
        assert "holds a run already; give --resume to go on with it, --overwrite to delete it" in error
        assert contents(run.path) == before


def test_overwriting_with_bad_input_deletes_nothing(train_once, train_args, tmp_path):
    shutil.copytree(train_once().path, tmp_path / "run")
    before = contents(tmp_path / "run")
    done = llmft(*train_args, "--output", tmp_path / "run", "--overwrite", "--adapter", tmp_path / "none")
    assert done.returncode == 2 and len(error_lines(done)) == 1
    assert contents(tmp_path / "run") == before


def test_adapter_of_another_model(train_once, train_args, model, tmp_path):
    adapter = copy(train_once().path / "adapter", tmp_path / "adapter")
    tensors, _ = read_safetensors(adapter / "adapter_model.safetensors")
    name = next(n for n in tensors if n.endswith("q_proj.lora_A.weight"))
    dtype, _, data = tensors[name]
    tensors[name] = (dtype, [4, 64], data[:len(data) // 2])
    write_safetensors(adapter / "adapter_model.safetensors", tensors)
    done = llmft(*train_args, "--output", tmp_path / "out", "--adapter", adapter)
    assert done.returncode == 2
    [error] = error_lines(done)
    assert name in error and "[4, 64]" in error and "[4, 128]" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("change, says", [
    ({"lora_bias": True}, "lora_bias is true"), ({"fan_in_fan_out": True}, "fan_in_fan_out is true"),
    ({"trainable_token_indices": [1, 2]}, "trainable_token_indices is [1,2]"), ({"lora_alpha": -3}, "lora_alpha is not positive"),
    ({"bias": "all"}, 'bias is "all"'), ({"use_dora": "x"}, 'use_dora is "x"'), ({"peft_type": None}, "peft_type is null"),
    ({"r": "x"}, "not a PEFT adapter config")])
def test_an_adapter_that_is_more_than_lora(train_once, train_args, tmp_path, change, says):
    adapter = copy(train_once().path / "adapter", tmp_path / "adapter")
    edit_json(adapter / "adapter_config.json", **change)
    done = llmft(*train_args, "--output", tmp_path / "out", "--adapter", adapter)
    assert done.returncode == 2
    [error] = error_lines(done)
    assert "adapter_config.json" in error and says in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["train", "export"])
def test_a_tensor_of_the_adapter_that_would_be_left_out(train_once, train_args, model, tmp_path, command):
    adapter = copy(train_once().path / "adapter", tmp_path / "adapter")
    tensors, _ = read_safetensors(adapter / "adapter_model.safetensors")
    dtype, shape, data = next(t for n, t in tensors.items() if n.endswith("q_proj.lora_B.weight"))
    tensors["base_model.model.model.layers.0.self_attn.q_proj.lora_B.bias"] = (dtype, shape[:1], data[:4 * shape[0]])
    write_safetensors(adapter / "adapter_model.safetensors", tensors)
    args = train_args if command == "train" else ["export", "--merge", "--device", "cpu", "--model", model]
    done = llmft(*args, "--output", tmp_path / "out", "--adapter", adapter)
    assert done.returncode == 2
    [error] = error_lines(done)
    assert "q_proj.lora_B.bias" in error and "plain LoRA" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["export", "plan", "serve", "chat", "tokenize"])
def test_a_command_of_one_process_on_two_ranks(command):
    done = llmft(command, ranks=2)
    assert done.returncode == 2 and f"error: {command}: runs as one process, and was started as 2" in done.stderr


# --- errors in the middle of a run ------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranks", [1, 4])
def test_a_damaged_shard_ends_the_run(train_args, tmp_path, ranks):
    """Found when a rank first reads that part of the file: the others are in the middle of a step then."""
    folder = make_shards(tmp_path / "data", rows=600, rows_per_shard=50)
    path = flip_tokens(folder, shard=5)
    began = time.time()
    done = llmft(*train_args, "--data", folder, "--output", tmp_path / "out", "--steps", 1000, ranks=ranks, timeout=30)
    assert time.time() - began < 20
    assert done.returncode == 2, done.stderr
    [error] = error_lines(done)
    assert str(path) in error and "checksum" in error and "llmft preprocess" in error


@pytest.mark.parametrize("bad_rank", [0, 1])
def test_an_error_of_one_rank_ends_all(train_args, tmp_path, bad_rank):
    good = [BINARY, *map(str, train_args), "--batch-packs", "3", "--output", str(tmp_path / "out")]
    bad = [*good, "--model", str(tmp_path / "none")]
    parts = [bad, good, good] if bad_rank == 0 else [good, bad, good]
    began = time.time()
    done = subprocess.run(["mpirun", "-n", "1", *parts[0], ":", "-n", "1", *parts[1], ":", "-n", "1", *parts[2]],
                          env=ENV, capture_output=True, text=True, timeout=30)
    assert time.time() - began < 10
    assert done.returncode == 2, done.stderr
    [error] = error_lines(done)
    assert f"[rank {bad_rank}] error: " in error and "none/config.json" in error


def poison(tensors):
    dtype, shape, data = tensors["model.layers.1.mlp.down_proj.weight"]
    tensors["model.layers.1.mlp.down_proj.weight"] = (dtype, shape, b"\xc0\x7f" + data[2:])  # a bf16 NaN


@pytest.mark.parametrize("ranks, strategy", [(1, "none"), (2, "fsdp")])
def test_nan_in_the_model(train_args, model, tmp_path, ranks, strategy):
    edit_tensors(copy(model, tmp_path / "m"), poison)
    done = llmft(*train_args, "--model", tmp_path / "m", "--output", tmp_path / "out", "--strategy", strategy,
                 ranks=ranks, timeout=30)
    assert done.returncode == 2, done.stderr
    [error] = error_lines(done)
    assert "step 1: the loss is nan (rank 0, source rows " in error
    assert "train.lr" in error and "no checkpoint was written before" in error
    run = Run(tmp_path / "out")
    assert not run.report()["finished"] and run.rows() == [] and not (run.path / "adapter").exists()


def test_diverging_run(train_args, tmp_path):
    done = llmft(*train_args, "--output", tmp_path / "out", "--lr", "1e30", "--adapter-rank", 0, "--checkpoint-every", 1,
                 "--steps", 20, ranks=2)
    assert done.returncode == 2, done.stderr
    [error] = error_lines(done)
    run = Run(tmp_path / "out")
    step = len(run.rows()) + 1
    assert 2 < step < 6
    assert f"step {step}: the loss is " in error or f"step {step}: the gradient norm is nan" in error
    assert f"last checkpoint: step {step - 1} in {run.path}/checkpoints" in error and "lower train.lr" in error
    assert run.checkpoints()[-1] == f"step-{step - 1:06}"
    assert not run.report()["finished"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 3 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", str(folder).encode(), b"tmpfs", 0, b"size=3m") != 0:
        pytest.skip(f"cannot mount a small file system here ({os.strerror(ctypes.get_errno())})")
    yield folder
    libc.umount2(str(folder).encode(), 2)


@pytest.mark.parametrize("ranks", [1, 2])
def test_full_disk(small_disk, train_args, ranks):
    """A checkpoint of full fine-tuning takes 7 MiB, the tables next to nothing."""
    done = llmft(*train_args, "--output", small_disk / "out", "--adapter-rank", 0, "--checkpoint-every", 2, ranks=ranks,
                 timeout=30)
    assert done.returncode == 2, done.stderr
    [error] = error_lines(done)
    assert "No space left on device" in error and "checkpoints/step-000002" in error and "free space" in error
    run = Run(small_disk / "out")
    assert [name for name in run.checkpoints() if not name.endswith(".tmp")] == []
    assert len(run.rows()) == 2 and not run.report()["finished"] and not (run.path / "model").exists()


def test_unreadable_model_and_unwritable_output(train_args, model, tmp_path):
    """As a user who has no right to, also when the tests run as root."""
    for path in (tmp_path, *tmp_path.parents):
        if os.stat(path).st_uid == os.getuid() and str(path).startswith("/tmp/"):
            path.chmod(0o755)
    user = {"user": 65534, "cwd": "/"} if os.getuid() == 0 else {"cwd": "/"}
    if not os.access(BINARY, os.X_OK) or \
            subprocess.run([BINARY, "train", "--help"], env=ENV, capture_output=True, **user).returncode != 0:
        pytest.skip("the program cannot be run as another user here")
    secret = copy(model, tmp_path / "m")
    (secret / "model.safetensors").chmod(0)
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    data = tmp_path / "data"
    shutil.copytree(train_args[train_args.index("--data") + 1], data)
    readable = copy(model, tmp_path / "readable")
    common = (*train_args, "--data", data, "--results", "")
    done = llmft(*common, "--model", secret, "--output", tmp_path / "out", **user)
    assert done.returncode == 2, done.stderr
    [error] = error_lines(done)
    assert "Permission denied" in error
    done = llmft(*common, "--model", readable, "--output", locked, **user)
    assert done.returncode == 2, done.stderr
    [error] = error_lines(done)
    assert "locked: folder is not writable (Permission denied)" in error
