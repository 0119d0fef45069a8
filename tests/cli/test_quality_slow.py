"""tools/quality.py end to end, shortened: fine-tuning is worth it in fp32 and bf16, and a training that learns nothing is found out."""
import csv
import json
import subprocess
import sys

import runs


def quality(folder, *args):
    done = subprocess.run([sys.executable, runs.ROOT / "tools/quality.py", "--program", runs.BINARY, "--work", folder / "work", "--output",
                           folder / "out", "--seeds", "0", *map(str, args)], capture_output=True, text=True, env=runs.ENV, timeout=900)
    tables = {name: list(csv.DictReader((folder / "out" / f"{name}.csv").open())) for name in ("quality", "agreement", "checks")
              if (folder / "out" / f"{name}.csv").exists()}
    return done, tables


def failing(rows):
    return [row for row in rows if row["verdict"] != "holds"]


def test_fine_tuned_beats_pretrained(tmp_path):
    done, tables = quality(tmp_path, "--precisions", "fp32,bf16", "--base-steps", 300, "--steps", 250)
    assert done.returncode in (0, 1), done.stderr
    assert len(tables["quality"]) == 2 * 2 * 4 and not failing(tables["quality"]), done.stdout
    assert not failing(tables["checks"]), done.stdout
    # Answers of models trained so shortly, from one seed, differ by more than the full command's; their losses do not.
    sure = [row for row in tables["agreement"] if row["metric"] in ("valid_loss", "perplexity")]
    assert len(sure) == 4 and not failing(sure), done.stdout
    assert (done.returncode == 0) == (not failing(tables["agreement"]))
    summary = json.loads((tmp_path / "out/quality.json").read_text())
    assert summary["data"]["overlap"] == summary["data"]["base_overlap"] == 0 and summary["data"]["valid_samples"] > 400
    for name in ("base", "lora-fp32-s0", "lora-bf16-s0", "full-bf16-s0"):
        rows = list(csv.DictReader((tmp_path / "out/runs" / name / "steps.csv").open()))
        assert sum(row["valid_loss"] != "" for row in rows) >= 10
        assert (tmp_path / "out/runs" / name / "config.yaml").exists()


def test_a_training_that_learns_nothing_fails(tmp_path):
    done, tables = quality(tmp_path, "--precisions", "fp32", "--modes", "lora", "--base-steps", 2, "--steps", 1)
    assert done.returncode == 1, done.stderr
    assert {"BLEU", "ROUGE-L"} <= {row["metric"] for row in failing(tables["quality"])}
    assert "FAILS" in done.stdout and "FAIL;" in done.stdout
