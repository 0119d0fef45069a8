"""slurm/eval.sh: ranks on several nodes score one validation set together, as a user would ask for it."""

import csv
import json
import subprocess

import pytest


@pytest.fixture(scope="module")
def data(clone):
    subprocess.run([clone.folder / "llmft", "preprocess", "--config", "inputs/tiny/preprocess.yaml"], cwd=clone.folder,
                   env=clone.cluster.env | {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}, check=True, timeout=60, capture_output=True)
    return "shards/tiny/valid"


def test_a_model_scored_on_four_nodes(clone, data):
    job = clone.submit("eval.sh", "--samples", 6, "--max-tokens", 4, model="inputs/tiny/model", data=data, device="cpu", output="runs/e")
    text = job.wait()
    report = json.loads((clone.folder / "runs/e/run.json").read_text())
    assert report["ranks"] == 4 and report["nodes"] == 4
    rows = list(csv.DictReader((clone.folder / "runs/e/eval.csv").open()))
    assert {row["metric"]: int(row["samples"]) for row in rows}["BLEU"] == 6
    assert "perplexity" in text and (clone.folder / "runs/e/eval.png").exists()


@pytest.mark.parametrize("settings, words", [
    ({"adapter": "runs/none"}, ("LLMFT_ADAPTER", "runs/none")),
    ({"data": "shards/none"}, ("shards/none", "preprocess.sh")),
])
def test_what_is_missing(clone, data, settings, words):
    job = clone.submit("eval.sh", **({"model": "inputs/tiny/model", "data": data, "device": "cpu"} | settings))
    text = job.wait("FAILED", code=2)
    [line] = [line for line in text.splitlines() if line]
    for word in ("error: ", *words):
        assert word in line
