"""Preprocessing on several nodes: the bytes of one rank; what a cancelled job and a killed rank leave is finished by the next."""
import json
import os
import random
import signal
import subprocess

import pytest

NODES = ("--nodes=4", "--ntasks-per-node=1", "--no-requeue")
ARGS = ("--rows-per-shard", 100)
SHARDS = 60


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def source(clone):
    """Rows, and the shards one rank makes of them, without Slurm."""
    rng = random.Random(1)
    with open(clone.folder / "rows.jsonl", "w") as out:
        for i in range(SHARDS * 100):
            text = " ".join(rng.choices(["owl", "river", "naïve", "42", "of", "日本"], k=20))
            out.write(json.dumps({"system_prompt": "Be brief." if i % 2 else "", "question": f"{i}: {text}?", "response": text}) + "\n")
    subprocess.run([clone.folder / "llmft", "preprocess", "--input", "rows.jsonl", "--tokenizer", "inputs/tiny/model", "--output",
                    "shards/one", "--validation", "0.05", *map(str, ARGS)], cwd=clone.folder, check=True, capture_output=True, timeout=60)
    return contents(clone.folder / "shards/one")


def submit(clone, data, options=NODES, **settings):
    return clone.submit("preprocess.sh", *ARGS, options=options, input="rows.jsonl", tokenizer="inputs/tiny/model", data=data,
                        validation=0.05, **settings)


def test_four_nodes_give_the_bytes_of_one_rank(clone, source):
    submit(clone, "shards/four").wait()
    assert contents(clone.folder / "shards/four") == source


@pytest.mark.parametrize("loss", ["job cancelled", "rank killed"])
def test_a_lost_job_is_finished_by_the_next(clone, source, loss):
    data = f"shards/{loss.split()[0]}"
    folder = clone.folder / data
    job = submit(clone, data, LLMFT_TEST_SLOW_RANK="*:100")
    done = lambda: [path for path in folder.glob("shard-*.h5") if (folder / "valid" / path.name).exists()]
    job.wait_until(lambda: len(done()) >= 8, "eight shards")
    if loss == "job cancelled":
        job.cancel()
        job.wait("CANCELLED")
    else:
        os.kill(job.rank_pids()[2], signal.SIGKILL)
        job.wait("FAILED")
    assert not job.rank_pids()
    assert not (folder / "manifest.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in done()}
    assert 8 <= len(kept) < SHARDS
    # whole or not there, whatever the moment
    left = contents(folder)
    assert all(source[name] == content for name, content in left.items() if name.endswith(".h5"))
    text = submit(clone, data, options=("--nodes=2", "--ntasks-per-node=2")).wait()
    assert f"{len(kept)} finished shards are kept" in text, text
    assert contents(folder) == source
    assert all(path.stat().st_mtime_ns == mtime for path, mtime in kept.items())
