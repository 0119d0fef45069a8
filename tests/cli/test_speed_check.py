"""The measurement of one GPU's speed (tools/speed_check.py), rehearsed on a CPU with a tiny model."""
import csv
import pathlib
import subprocess
import sys

from runs import BINARY, ENV, ROOT

PROGRAMS = pathlib.Path(BINARY).resolve().parent


def check(*args):
    return subprocess.run([sys.executable, ROOT / "tools/speed_check.py", *map(str, args)], env=ENV, capture_output=True, text=True, timeout=120)


def test_a_change_is_measured_in_turns_with_none(tmp_path):
    done = check(PROGRAMS, tmp_path, "--device", "cpu", "--tiny", "--steps", 4, "--rounds", 2, "--only", "bf16,full",
                 "--variant", "train.seed=2 LLMFT_SOMETHING=1", "--variant", "train.steps=none")
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.count("FAILED") == 4 and "bf16-train.steps_none-1: FAILED, exit status 2" in done.stdout
    runs = [line.split()[0] for line in done.stdout.splitlines() if "steps 4-11" in line]
    other = "{}-train.seed_2-llmft_something_1-{}".format
    assert runs == ["bf16-1", other("bf16", 1), other("bf16", 2), "bf16-2", "full-1", other("full", 1), other("full", 2), "full-2"]
    table = lambda name: [row["run"] for row in csv.DictReader(open(tmp_path / "results" / name))]
    assert table("benchmarks.csv") == ["bf16-1", "bf16-2", "full-1", "full-2"]
    assert table("variants.csv") == [other("bf16", 1), other("bf16", 2), other("full", 1), other("full", 2)]
    medians = done.stdout.split("medians of the rounds")[1]
    assert medians.count("as it is") == 2 and medians.count("%\n") == 2


def test_bad_arguments_are_named(tmp_path):
    for args, said in ((["--only", "bf15"], "no setting 'bf15'; there are bf16,"), (["--variant", "fast"], "'fast' is not NAME=VALUE")):
        done = check(PROGRAMS, tmp_path, *args)
        assert done.returncode == 2 and said in done.stderr
    done = check(tmp_path, tmp_path)
    assert done.returncode == 1 and "no program" in done.stderr and "bundle" in done.stderr
