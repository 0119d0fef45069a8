"""The check for machines of several GPUs (tools/multi_gpu_check.py), rehearsed on two CPU ranks with a tiny model."""
import csv
import pathlib
import subprocess
import sys

import pytest
from runs import BINARY, ENV, ROOT

CHECK = ROOT / "tools/multi_gpu_check.py"
PEER = """#!/usr/bin/env python3
import csv, sys
if "import torch" in " ".join(sys.argv):
    sys.exit()
if "liger" in sys.argv:
    sys.exit("ModuleNotFoundError: an error of a peer")
print('RESULT {"B": 4, "S": 64, "steps": 4, "tok_s": 1000, "ms": 512.0, "loss": 7.5, "alloc_GB": 1.5, "version": "peer 1.0, torch 2"}')
table, name = (sys.argv[sys.argv.index(option) + 1] for option in ("--table", "--name"))
header = open(table).readline().strip().split(",")
world = sys.argv[sys.argv.index("--nproc-per-node") + 1] if "--nproc-per-node" in sys.argv else "1"
row = {"run": name, "command": "peer", "ranks": world, "tokens_per_s": "1000", "version": "peer 1.0, torch 2"}
csv.writer(open(table, "a"), lineterminator="\\n").writerow([row.get(column, "") for column in header])
"""


def check(*args, **kwargs):
    return subprocess.run([sys.executable, CHECK, "--programs", pathlib.Path(BINARY).resolve().parent, "--device", "cpu", "--tiny", *map(str, args)],
                          env=ENV, capture_output=True, text=True, timeout=300, **kwargs)


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory):
    folder = tmp_path_factory.mktemp("check")
    peer = folder / "peer"
    peer.write_text(PEER)
    peer.chmod(0o755)
    done = check("--ranks", 2, "--peer-python", peer, "--only", "lora-bf16-(none|ddp|fsdp)|tree-lora-(none|fsdp)|resumed|peer", folder / "work")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "work", done.stdout


def rows(path):
    return list(csv.DictReader(path.open()))


def test_its_data_are_of_its_model(rehearsal):
    """A sample fills its length, and training takes the shards for the model's."""
    work, _ = rehearsal
    assert "kept" in (work / "data.log").read_text() or (work / "data/manifest.json").exists()
    table = rows(work / "report/benchmarks.csv")
    assert all(int(row["tokens"]) == int(row["steps"]) * int(row["batch_packs"]) * 256 for row in table if row["command"] == "train")


def test_cells_peers_and_variants_are_rows(rehearsal):
    work, said = rehearsal
    table = rows(work / "report/benchmarks.csv")
    assert [(row["run"], row["command"], row["ranks"]) for row in table] == [
        ("lora-bf16-none-1", "train", "1"), ("lora-bf16-ddp-2", "train", "2"), ("lora-bf16-fsdp-2", "train", "2"),
        ("peer-hf-lora-none-1", "peer", "1"), ("peer-hf-lora-ddp-2", "peer", "2"), ("peer-hf-lora-fsdp-2", "peer", "2"),
        ("peer-hf-full-fsdp-2", "peer", "2"), ("strong-lora-bf16-none-1", "train", "1")]
    assert table[4]["tokens_per_s"] == "1000" and table[4]["version"] == "peer 1.0, torch 2" and table[4]["valid_loss"] == ""
    assert {row["run"] for row in rows(work / "report/variants.csv")} == {"tree-lora-none-1", "tree-lora-fsdp-2", "resumed"}
    assert "peer-liger-lora-none-1: left out, exit status 1: ModuleNotFoundError" in said
    assert "lora-bf16-fsdp-2:" in said and "x peer-hf-lora-fsdp-2" in said


def test_bits_are_compared(rehearsal):
    work, said = rehearsal
    assert "tree-lora-fsdp-2: losses and gradient norms of 6 steps as tree-lora-none-1, every digit" in said
    assert "resumed: losses and gradient norms of 6 steps as tree-lora-none-1, every digit" in said
    assert not (work / "runs/resumed").exists()
    assert (work / "report/summary.txt").read_text() == said


def test_a_run_that_fails_is_named_and_its_log_kept(rehearsal):
    work, _ = rehearsal
    done = check("--ranks", 2, "--no-peers", "--only", "lora-bf16-none-1$", "--tokens", 8, "--model", work / "model", "--data", work / "data",
                 work / "again")
    assert done.returncode == 1
    assert "lora-bf16-none-1: FAILED: exit status 2: error: " in done.stdout and "SOMETHING FAILED: lora-bf16-none-1" in done.stdout
    assert "error: " in (work / "again/report/lora-bf16-none-1.log").read_text()


def test_what_there_is_no_time_for_is_left_out(rehearsal):
    work, _ = rehearsal
    done = check("--ranks", 2, "--no-peers", "--budget", 0, "--model", work / "model", "--data", work / "data", work / "late")
    assert done.returncode == 0
    assert "left out, the time was used up: collectives" in done.stdout and "lora-bf16-none-1" in done.stdout


def test_three_ranks_are_refused(tmp_path):
    done = check("--ranks", 3, tmp_path / "work")
    assert done.returncode == 1 and done.stderr == "error: 3 ranks; needs 2, 4 or 8 GPUs (--ranks chooses fewer, --device cpu none)\n"
    assert not (tmp_path / "work").exists()
