"""What the tests of `llmft train` share: the program under mpirun, small models, and readers of what it writes."""
import csv
import dataclasses
import json
import os
import pathlib
import signal
import struct
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("LLMFT_BINARY", str(ROOT / "llmft"))
SAMPLE = ROOT / "inputs/tiny/sample.parquet"
TINY = ROOT / "inputs/tiny/model"
ENV = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
           OMPI_MCA_rmaps_base_oversubscribe="1", OMPI_MCA_mpi_yield_when_idle="1",
           OMPI_MCA_btl_vader_single_copy_mechanism="none",
           # shared memory alone: the search for networks takes longer than most tests
           OMPI_MCA_pml="ob1", OMPI_MCA_btl="self,vader", NO_COLOR="1")
TIMEOUT = 120


def command(*args, ranks=1):
    launcher = [] if ranks == 1 else ["mpirun", "-n", str(ranks)]
    return [*launcher, BINARY, *map(str, args)]


def llmft(*args, ranks=1, timeout=TIMEOUT, **kwargs):
    return subprocess.run(command(*args, ranks=ranks), env=ENV, capture_output=True, text=True, timeout=timeout, **kwargs)


def error_lines(done):
    return [line for line in done.stderr.splitlines() if "error:" in line]


@dataclasses.dataclass
class Run:
    """A run directory."""
    path: pathlib.Path
    stderr: str = ""

    def rows(self):
        return list(csv.DictReader((self.path / "steps.csv").open()))

    def columns(self, *names):
        return [[row[name] for name in names] for row in self.rows()]

    def losses(self):
        return [float(row["loss"]) for row in self.rows()]

    def report(self):
        return json.loads((self.path / "run.json").read_text())

    def memory(self):
        """part -> bytes by rank"""
        parts = {}
        for row in csv.DictReader((self.path / "memory.csv").open()):
            parts.setdefault(row["part"], []).append(int(row["bytes"]))
        return parts

    def product(self):
        """The bytes of what was trained."""
        [path] = [p for p in (self.path / "adapter/adapter_model.safetensors", self.path / "model/model.safetensors")
                  if p.exists()]
        return path.read_bytes()

    def checkpoints(self):
        return sorted(p.name for p in (self.path / "checkpoints").iterdir())

    def numbers(self):
        """What must be equal, bit for bit, whatever the ranks and interruptions."""
        return self.columns("step", "epoch", "loss", "lr", "grad_norm", "tokens", "supervised_tokens", "loss_scale",
                            "skipped", "valid_loss")


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def start(*args, ranks=1):
    return subprocess.Popen(command(*args, ranks=ranks), env=ENV, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                            text=True)


def rank_pids(process):
    """The ranks below a launcher, or the process itself, lowest rank first."""
    children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ranks = []
    for child in children:
        if pathlib.Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")[0] == BINARY.encode():
            environment = pathlib.Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
            [rank] = [int(e.split(b"=")[1]) for e in environment if e.startswith(b"OMPI_COMM_WORLD_RANK=")]
            ranks.append((rank, int(child)))
    return [pid for _, pid in sorted(ranks)] or [process.pid]


def wait_for_step(process, run, step):
    """Until steps.csv has this step; the run must still be under way."""
    deadline = time.time() + TIMEOUT
    table = run.path / "steps.csv"
    while not table.exists() or table.read_text().count("\n") < step + 1:
        assert process.poll() is None, f"it was over before step {step}: {process.stderr.read()}"
        assert time.time() < deadline
        time.sleep(0.001)


def send(process, number, rank=None):
    """A signal to the launcher (which forwards SIGUSR1), or to one rank."""
    os.kill(process.pid if rank is None else rank_pids(process)[rank], number)


def finish(process, timeout=TIMEOUT):
    try:
        _, stderr = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        raise
    return stderr


def read_safetensors(path):
    """name -> (dtype, shape, bytes), and the metadata"""
    data = pathlib.Path(path).read_bytes()
    [size] = struct.unpack("<Q", data[:8])
    header = json.loads(data[8:8 + size])
    metadata = header.pop("__metadata__", {})
    body = data[8 + size:]
    return {name: (t["dtype"], t["shape"], body[slice(*t["data_offsets"])]) for name, t in header.items()}, metadata


def write_safetensors(path, tensors):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    pathlib.Path(path).write_bytes(struct.pack("<Q", len(text)) + text + b"".join(t[2] for t in tensors.values()))


def make_model(folder, layers=2):
    """The shipped model with its first layers only."""
    folder.mkdir(parents=True)
    for path in TINY.iterdir():
        if path.suffix == ".json":
            (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((TINY / "config.json").read_text())
    config["num_hidden_layers"] = layers
    (folder / "config.json").write_text(json.dumps(config))
    tensors, _ = read_safetensors(TINY / "model.safetensors")
    keep = {name: value for name, value in tensors.items()
            if not name.startswith("model.layers.") or int(name.split(".")[2]) < layers}
    write_safetensors(folder / "model.safetensors", keep)
    return folder


def make_shards(folder, rows=300, skip=0, **options):
    """Shards of some of the sample's rows, with a validation set."""
    import pyarrow.parquet as pq
    folder.mkdir(parents=True)
    pq.write_table(pq.read_table(SAMPLE).slice(skip, rows), folder / "rows.parquet")
    options = {"max_length": 64, "validation": 0.1, "rows_per_shard": 100} | options
    done = llmft("preprocess", "--input", folder / "rows.parquet", "--tokenizer", TINY, "--output", folder / "shards",
                 *(f"--preprocess.{key}={value}" for key, value in options.items()))
    assert done.returncode == 0, done.stderr
    return folder / "shards"
