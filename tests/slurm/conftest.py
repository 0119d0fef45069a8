"""A SLURM cluster of four nodes on this machine (slurm_sandbox.sh), and a fresh copy of what a clone of the repository
holds, from which the tests submit the scripts as a user does."""

import csv
import os
import pathlib
import shutil
import subprocess
import tempfile
import time

import pytest

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SANDBOX = HERE / "slurm_sandbox.sh"
BINARY = pathlib.Path(os.environ.get("LLMFT_BINARY", ROOT / "llmft"))
NODES = 4
# One rank on each node, no GPUs; the scripts ask for GPUs.
ON_FOUR_NODES = ("--nodes=4", "--ntasks-per-node=1", "--gpus-per-node=0", "--cpus-per-task=1")
# A step of the tiny model in a few hundredths of a second.
TINY = ("--pack-tokens", "256", "--validation.packs", "1", "--report.timing_warmup", "1")

# A study of as few cells as its axes allow.
STUDIES = ("precision_study.sh", "scaling_ddp.sh", "scaling_fsdp.sh")
SMALLEST = {"modes": "lora", "lengths": "packed", "repeats": 1}


def why_not():
    if os.geteuid() != 0:
        return "the one-machine SLURM gives each node its own host name, for which it must run as root"
    missing = [c for c in ("slurmctld", "slurmd", "sbatch", "srun", "munged", "unshare") if not shutil.which(c)]
    if missing:
        return f"no {', '.join(missing)} here: 'make deps' installs SLURM"
    return ""


def clean_environment():
    """Ours, without what would change a job: an outer job's variables, settings of the scripts and of MPI on one host."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SBATCH", "SRUN", "LLMFT", "PMIX", "OMPI", "FAKE"))}


class Cluster:
    def __init__(self, folder):
        self.folder = folder
        self.env = clean_environment()

    def start(self):
        # KillWait as on real sites: nothing may rely on a shorter one
        settings = {"SLURM_SANDBOX_CONF": "KillWait=30", "SLURM_SANDBOX_GRACE": "20"}
        told = subprocess.run(["bash", SANDBOX, "start", self.folder, str(NODES)], env=self.env | settings, text=True,
                              capture_output=True, timeout=120)
        assert told.returncode == 0, told.stderr
        self.env["SLURM_CONF"] = str(self.folder / "etc/slurm.conf")
        if "namespaces: yes" not in told.stderr:
            pytest.skip("no right to make namespaces here: the nodes would share one host name and /dev/shm")

    def stop(self):
        subprocess.run(["bash", SANDBOX, "stop", self.folder], env=self.env, timeout=120, check=False)

    def run(self, *command, check=True, **kwargs):
        done = subprocess.run([*map(str, command)], env=self.env, text=True, capture_output=True, timeout=60, **kwargs)
        assert done.returncode == 0 or not check, f"{command}: {done.stderr}"
        return done.stdout.strip()

    def tell(self, action, *args):
        """slurm_sandbox.sh ACTION: crash and boot of a node."""
        self.run("bash", SANDBOX, action, self.folder, *args)


class Job:
    def __init__(self, cluster, job, output):
        self.cluster, self.id, self.output = cluster, job, output

    def field(self, name):
        shown = self.cluster.run("scontrol", "--oneliner", "show", "job", self.id)
        return next(word.partition("=")[2] for word in shown.split() if word.startswith(name + "="))

    @property
    def state(self):
        return self.field("JobState")

    def text(self):
        return self.output.read_text() if self.output.exists() else "(no output)"

    def wait_until(self, condition, what, seconds=60):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"not in {seconds} s: {what}; {self.state}\n{self.text()}"
            time.sleep(0.05)

    def wait(self, expected="COMPLETED", code=None, seconds=90):
        """Until it is over; returns what it printed."""
        over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED")
        self.wait_until(lambda: self.state in over, "the job's end", seconds)
        time.sleep(0.1)
        assert self.state == expected, self.text()
        assert code is None or self.field("ExitCode") == f"{code}:0", self.text()
        return self.text()

    def wait_for_requeue(self, restarts=1):
        """Until it is in the queue again and its last start is cleaned up; then it starts soon, not after the site's delay.
        Sooner it would fail: 'launch failed', and 'Job credential revoked', for which nodes compare whole seconds."""
        self.wait_until(lambda: self.field("Restarts") == str(restarts), "requeued", 40)
        self.wait_until(lambda: self.state in ("PENDING", "RUNNING"), "pending", 40)
        busy = lambda: [pid for pid in self.processes("slurmstepd")]
        self.wait_until(lambda: self.state != "PENDING" or not busy(), "cleaned up", 40)
        if self.state == "PENDING":
            self.cluster.run("scontrol", "update", f"jobid={self.id}", "starttime=now+2")

    def processes(self, name):
        """The job's slurmstepd or the like, whose command lines name it: 'slurmstepd: [12.batch]'."""
        found = []
        for process in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                ours = str(self.cluster.folder).encode() in (process / "environ").read_bytes()
            except OSError:
                continue
            if ours and line.startswith(f"{name}: [{self.id}."):
                found.append(int(process.name))
        return found

    def rank_pids(self, program="llmft"):
        """{rank: pid} of the job's running ranks."""
        found = {}
        for process in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                if (process / "comm").read_text().strip() != program:
                    continue
                env = dict(e.split("=", 1) for e in (process / "environ").read_text(errors="replace").split("\0") if "=" in e)
            except OSError:
                continue
            if env.get("SLURM_JOB_ID") == self.id and env.get("SLURM_CONF") == self.cluster.env["SLURM_CONF"]:
                found[int(env.get("SLURM_PROCID", -1))] = int(process.name)
        return found

    def cancel(self):
        self.cluster.run("scancel", self.id, check=False)


class Clone:
    """The repository as a user has it after 'git clone' and 'make'."""

    def __init__(self, cluster, folder, program):
        self.cluster, self.folder = cluster, folder
        folder.mkdir()
        for name in ("slurm", "inputs", "postprocess", "tools"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "llmft").symlink_to(program)
        (folder / ".venv").symlink_to(ROOT / ".venv")

    def submit(self, script, *args, options=ON_FOUR_NODES, cwd=None, **settings):
        """sbatch OPTIONS slurm/SCRIPT ARGS, with LLMFT_ settings in lower case without the prefix; others as they are."""
        one = {"precisions": "bf16"} if script.startswith("scaling") else {}
        settings = (SMALLEST | one if script in STUDIES else {}) | settings
        env = {k if k.isupper() else f"LLMFT_{k.upper()}": str(v) for k, v in settings.items()}
        cwd = cwd or self.folder
        done = subprocess.run(["sbatch", "--parsable", *options, str(self.folder / "slurm" / script), *map(str, args)],
                              env=self.cluster.env | env, cwd=cwd, text=True, capture_output=True, timeout=60)
        assert done.returncode == 0, done.stderr
        job = done.stdout.strip()
        name = self.cluster.run("squeue", "--noheader", f"--job={job}", "--states=all", "--format=%j")
        return Job(self.cluster, job, cwd / f"slurm-{name}-{job}.out")

    def table(self, results="results"):
        path = self.folder / results / "benchmarks.csv"
        return list(csv.DictReader(path.open())) if path.exists() else []


@pytest.fixture(scope="session")
def place():
    """A folder with a short path, since unix sockets lie under it; removed whatever happens."""
    if reason := why_not():
        pytest.skip(reason)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="llmft-slurm-", dir="/tmp"))
    # ends the cluster even if these tests are killed
    keeper = subprocess.Popen(
        ["bash", "-c", 'while kill -0 "$1" 2>/dev/null; do sleep 1; done; bash "$2/slurm_sandbox.sh" stop "$3/c"; rm -rf "$3"', "keeper",
         str(os.getpid()), str(HERE), str(folder)], start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL)
    yield folder
    keeper.kill()
    keeper.wait()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def cluster(place):
    cluster = Cluster(place / "c")
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(autouse=True)
def no_jobs_left(cluster):
    """A test that fails midway leaves no job to the next one."""
    yield
    if cluster.run("squeue", "--noheader", "--format=%i", check=False):
        cluster.run("scancel", "--full", "--signal=KILL", "--user=root", check=False)
        cluster.run("scancel", "--user=root", check=False)
        end = time.monotonic() + 60
        while cluster.run("squeue", "--noheader", "--format=%i", check=False) and time.monotonic() < end:
            time.sleep(0.2)


@pytest.fixture(scope="session")
def clone(cluster, place):
    if not BINARY.exists():
        pytest.skip(f"no program {BINARY}: 'make' builds it")
    return Clone(cluster, place / "clone", BINARY)


@pytest.fixture(scope="session")
def preprocessed(clone):
    """The job that made shards/tiny, on four nodes."""
    job = clone.submit("preprocess.sh", "--max-length", 512, "--rows-per-shard", 512, options=("--nodes=4", "--ntasks-per-node=1"),
                       input="inputs/tiny/sample.parquet", tokenizer="inputs/tiny/model", data="shards/tiny", validation=0.05)
    return job, job.wait()


@pytest.fixture(scope="session")
def fake(cluster, place):
    """A clone whose ./llmft is fake_llmft.sh, with a model and shards that are there as far as the scripts look."""
    fake = Clone(cluster, place / "fake", HERE / "fake_llmft.sh")
    (fake.folder / "models/Llama-3.2-1B-Instruct").mkdir(parents=True)
    (fake.folder / "models/Llama-3.2-1B-Instruct/config.json").write_text("{}")
    for name in ("openorca", "openorca-512"):
        (fake.folder / "shards" / name).mkdir(parents=True)
        (fake.folder / "shards" / name / "manifest.json").write_text("{}")
    (fake.folder / ".venv").unlink()
    return fake
