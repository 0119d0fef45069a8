"""The SLURM scripts with the real program on four nodes: the studies' tables and plots, a rank that dies, and jobs that
are stopped and go on."""

import csv
import json
import os
import signal
import time

import pytest

from conftest import ON_FOUR_NODES, TINY

FIGURES_OF = {"ddp": ("time_gpu_ddp", "epoch_time_gpu_ddp", "throughput_gpu_ddp", "memory_gpu_ddp"),
              "fsdp": ("time_gpu_fsdp", "epoch_time_gpu_fsdp", "throughput_gpu_fsdp", "memory_gpu_fsdp")}
STEPS = 24  # of a run that is stopped: more than it does while the signal is on its way
TRAINING = {"config": "inputs/tiny/train.yaml", "data": "shards/tiny"}


def figures(clone, results):
    return {path.stem for path in (clone.folder / results).glob("*.svg")}


def steps(clone, run):
    with open(clone.folder / run / "steps.csv") as rows:
        return [(int(row["step"]), row["loss"], row["grad_norm"]) for row in csv.DictReader(rows)]


def steps_done(clone, run):
    path = clone.folder / run / "steps.csv"
    return path.read_text().count("\n") - 1 if path.exists() else 0


def test_preprocess(clone, preprocessed):
    job, text = preprocessed
    for node in range(1, 5):
        assert f"rank {node - 1}: host n{node}," in text
    shards = sorted((clone.folder / "shards/tiny").rglob("shard-*.h5"))
    parts = [path.parent.relative_to(clone.folder / "shards/tiny").as_posix() for path in shards]
    assert parts.count(".") == parts.count("valid") == 5 and (clone.folder / "shards/tiny/valid/manifest.json").exists()
    before = [(path, path.stat().st_mtime_ns) for path in shards]
    again = clone.submit("preprocess.sh", "--max-length", 512, "--rows-per-shard", 512, options=("--ntasks-per-node=2",), validation=0.05,
                         input="inputs/tiny/sample.parquet", tokenizer="inputs/tiny/model", data="shards/tiny")
    again.wait()
    assert before == [(path, path.stat().st_mtime_ns) for path in shards]


def test_scaling_of_ddp_and_fsdp(clone, preprocessed):
    study = TRAINING | {"steps": 3, "runs": "runs/scaling", "results": "results/scaling"}
    ddp = clone.submit("scaling_ddp.sh", *TINY, python="./no-python", **study)
    text = ddp.wait()
    assert "3 cells run, 0 finished before, 0 failed" in text and "'make plots' draws them" in text
    fsdp = clone.submit("scaling_fsdp.sh", *TINY, **study)
    assert "3 cells run, 0 finished before, 0 failed" in fsdp.wait()
    table = clone.table("results/scaling")
    assert [(row["strategy"], row["ranks"], row["nodes"], row["precision"], row["batch_packs"], row["steps"]) for row in table] == [
        (strategy, n, n, "bf16", str(int(n)), "3") for strategy in ("ddp", "fsdp") for n in ("1", "2", "4")]
    assert figures(clone, "results/scaling") >= {*FIGURES_OF["ddp"], *FIGURES_OF["fsdp"], "DDP_VS_FSDP", "speedup_plot", "loss_curves"}

    again = clone.submit("scaling_ddp.sh", *TINY, python="./no-python", **study)
    assert "0 cells run, 3 finished before, 0 failed" in again.wait()
    assert clone.table("results/scaling") == table


def test_precision_study(clone, preprocessed):
    fixed = clone.submit("preprocess.sh", "--max-length", 40, "--min-length", 40, "--on-too-long", "truncate", options=("--ntasks-per-node=2",),
                         validation=0.05, input="inputs/tiny/sample.parquet", tokenizer="inputs/tiny/model", data="shards/tiny-512")
    fixed.wait()
    study = TRAINING | dict(steps=3, runs="runs/precision", results="results/precision", adapter_rank=8, modes="lora full",
                            lengths="fixed packed", eval=1, eval_samples=2, eval_perplexity=8, precisions="bf16 tf32")
    options = (*ON_FOUR_NODES[1:], "--nodes=2")
    assert "8 cells run, 0 finished before, 0 failed" in clone.submit("precision_study.sh", *TINY, options=options, **study).wait()
    table = clone.table("results/precision")
    cells = [(row["mode"], row["data"], row["precision"], row["ranks"]) for row in table if row["command"] == "train"]
    assert cells == [(mode, data, precision, "2") for mode in ("lora", "full") for data in ("tiny-512", "tiny")
                     for precision in ("bf16", "tf32")]
    scored = [row["run"] for row in table if row["command"] == "eval" and float(row["perplexity"]) > 1 and row["bleu"] and row["rouge_l"]]
    assert scored == [row["run"] for row in table if row["command"] == "train"]
    fixed_rows = [row for row in table if row["data"] == "tiny-512"]
    assert {(row["max_length"], row["sample_length_mean"]) for row in fixed_rows} == {("40", "40")}
    assert not list((clone.folder / "runs/precision").glob("*/model")) and not list((clone.folder / "runs/precision").glob("*/checkpoints"))
    assert figures(clone, "results/precision") >= {"epoch_time", "throughput", "training_time", "memory_usage", "loss_curves"}


def test_training_as_the_script_asks_for(clone, preprocessed):
    """sbatch slurm/train.sh without options: four GPUs of one node, a rank each."""
    job = clone.submit("train.sh", *TINY, options=(), steps=2, adapter_rank=4, output="runs/lora", **TRAINING)
    text = job.wait()
    assert text.count(": host n") == 4 and "local rank 3 of 4" in text
    report = json.loads((clone.folder / "runs/lora/run.json").read_text())
    assert report["finished"] and (report["ranks"], report["nodes"]) == (4, 1)
    assert (clone.folder / "runs/lora/adapter/adapter_model.safetensors").exists()


@pytest.mark.parametrize(("rank", "options"), [(0, ON_FOUR_NODES), (3, ())], ids=["first-of-four-nodes", "last-of-one-node"])
def test_a_killed_rank_ends_the_job(clone, preprocessed, rank, options):
    output = f"runs/killed-{rank}"
    job = clone.submit("train.sh", *TINY, options=options, steps=100000, output=output, **TRAINING)
    job.wait_until(lambda: steps_done(clone, output) >= 2, "two steps")
    pids = job.rank_pids()
    assert sorted(pids) == [0, 1, 2, 3]
    os.kill(pids[rank], signal.SIGKILL)
    killed = time.monotonic()
    job.wait("FAILED", seconds=30)
    seconds = time.monotonic() - killed
    assert seconds < 10, f"{seconds:.1f} s\n{job.text()}"
    assert not job.rank_pids()
    assert f"task {rank}: Killed" in job.text()
    assert job.field("Restarts") == "0"


def test_bad_input_is_the_jobs_exit_code(clone, preprocessed):
    """One message, and the code of the rank that gave it, whatever the codes of those that were ended with it."""
    job = clone.submit("train.sh", *TINY, "--train.batch_packs=3", steps=2, output="runs/bad", **TRAINING)
    text = job.wait("FAILED", code=2)
    assert len([line for line in text.splitlines() if "3 micro-batches a step do not divide among 4 ranks" in line]) == 1, text
    assert not (clone.folder / "runs/bad").exists()


# How a job is told to stop. Near the time limit Slurm signals the batch script (#SBATCH --signal=B:USR1@120); people signal
# the ranks; a job of higher priority makes Slurm send SIGTERM to the ranks.
def near_time_limit(clone, job):
    clone.cluster.run("scancel", "--batch", "--signal=USR1", job.id)


def by_hand(clone, job):
    clone.cluster.run("scancel", "--signal=USR1", job.id)


def preempt(clone, job):
    clone.cluster.run("sbatch", "--partition=urgent", "--nodes=4", "--exclusive", "--output=/dev/null", "--wrap=sleep 0.2")


@pytest.fixture(scope="module")
def undisturbed(clone, preprocessed):
    clone.submit("train.sh", *TINY, "--deterministic", steps=STEPS, output="runs/undisturbed", **TRAINING).wait()
    return steps(clone, "runs/undisturbed")


# Signals go to jobs side by side; a preemption takes all nodes.
@pytest.mark.parametrize("stops", [(near_time_limit, by_hand), (preempt,)], ids=["signalled", "preempted"])
def test_a_stopped_job_goes_on_to_the_end(clone, undisturbed, stops):
    output = {stop: f"runs/{stop.__name__}" for stop in stops}
    jobs = {stop: clone.submit("train.sh", *TINY, "--deterministic", steps=STEPS, output=output[stop], **TRAINING) for stop in stops}
    for stop, job in jobs.items():
        job.wait_until(lambda: steps_done(clone, output[stop]) >= 2, "two steps")
        stop(clone, job)
    for stop, job in jobs.items():
        job.wait_for_requeue()
    for stop, job in jobs.items():
        text = job.wait()
        assert "stopped by a signal after step" in text and "requeueing job" in text and "resuming after step" in text, text
        assert steps(clone, output[stop]) == undisturbed
        assert not (clone.folder / output[stop] / "requeue").exists()
        rows = [row for row in clone.table() if row["run"] == stop.__name__]
        assert len(rows) == 1 and rows[0]["steps"] == str(STEPS)
