"""tools/study.sh, as `make study` runs it: the grid by mpirun on this machine, small."""
import csv
import pathlib
import re
import signal
import subprocess
import time

import pytest
import runs

STUDY = runs.ROOT / "tools/study.sh"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Shards of the shipped sample, and of samples of 40 tokens each."""
    folder = tmp_path_factory.mktemp("study")
    for name, options in (("data", ["--max-length", 64]), ("data-512", ["--max-length", 40, "--min-length", 40, "--on-too-long", "truncate"])):
        done = runs.llmft("preprocess", "--input", runs.SAMPLE, "--tokenizer", runs.TINY, "--output", folder / name, "--validation", 0.05, *options)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def settings(model, data, tmp_path):
    """Of the smallest study: one cell."""
    return {"CONFIG": runs.ROOT / "inputs/tiny/train.yaml", "BINARY": runs.BINARY, "MODEL": model, "DATA": data / "data", "DEVICE": "cpu",
            "RANKS": 2, "THREADS": 1, "RUNS": tmp_path / "runs", "RESULTS": tmp_path / "results", "PYTHON": "no-python", "STEPS": 2,
            "WARMUP": 1, "VALIDATE_PACKS": 1, "PACK_TOKENS": 256, "ADAPTER_RANK": 4, "REPEATS": 1, "MODES": "lora", "LENGTHS": "packed",
            "PRECISIONS": "bf16", "STRATEGIES": "ddp", "RANK_COUNTS": "1"}


def environment(settings):
    clean = {k: v for k, v in runs.ENV.items() if not k.startswith(("LLMFT_", "SLURM"))}
    return clean | {f"LLMFT_{k}": str(v) for k, v in settings.items()}


def study(settings, *args):
    return subprocess.run([STUDY, *map(str, args)], env=environment(settings), capture_output=True, text=True, timeout=300)


def table(settings):
    return list(csv.DictReader((pathlib.Path(settings["RESULTS"]) / "benchmarks.csv").open()))


@pytest.mark.parametrize("name, value", [("RANKS", "abc"), ("REPEATS", "x"), ("REPEATS", "0"), ("BUDGET", "abc"), ("STEPS", "abc"), ("THREADS", "-1")])
def test_settings_that_are_no_numbers(settings, name, value):
    done = study(settings | {name: value})
    errors = [line for line in done.stderr.splitlines() if "error:" in line]
    assert done.returncode == 2 and len(errors) == 1 and f"LLMFT_{name}: '{value}' is no whole number" in errors[0], done.stderr
    assert not pathlib.Path(settings["RUNS"]).exists()


def test_a_cell_of_another_build_is_named(settings):
    assert study(settings).returncode == 0
    report = next(pathlib.Path(settings["RUNS"]).glob("*/run.json"))
    assert "by a build" not in study(settings).stderr
    report.write_text(re.sub(r'("git": *)"[^"]*"', r'\1"abc1234"', report.read_text()))
    again = study(settings)
    assert "0 cells run, 1 finished before" in again.stderr and "finished already, by a build of commit abc1234, not " in again.stderr


def test_the_grid_and_going_on_with_it(settings):
    grid = settings | {"MODES": "lora full", "LENGTHS": "fixed packed", "STRATEGIES": "ddp fsdp", "RANK_COUNTS": "1 2"}
    done = study(grid)
    assert done.returncode == 0, done.stderr
    assert "12 cells run, 0 finished before, 0 failed" in done.stderr
    rows = table(grid)
    on = {"1": ["none"], "2": ["ddp", "fsdp"]}
    assert [(r["mode"], r["ranks"], r["strategy"], r["data"]) for r in rows] == [
        (mode, n, strategy, name) for mode in ("lora", "full") for n in ("1", "2") for strategy in on[n] for name in ("data-512", "data")]
    for r in rows:
        assert (r["pack_tokens"], r["batch_packs"], r["steps"]) == ("256", r["ranks"], "2")
        assert r["max_length"] == ("40" if r["data"] == "data-512" else "64")
        assert (r["adapter_rank"], r["adapter_alpha"]) == (("4", "8") if r["mode"] == "lora" else ("0", "0"))
        assert float(r["training_time_s"]) > 0 and float(r["samples_per_s"]) > 0 and r["valid_loss"]
        padding = float(r["padded_tokens_per_s"]) / float(r["tokens_per_s"])
        assert padding == pytest.approx(1) if r["data"] == "data-512" else padding > 1.2
    # fp8 needs a GPU: its cells fail and are named, the others are done
    more = study(grid | {"PRECISIONS": "fp8 bf16", "REPEATS": 1, "RANK_COUNTS": "1"})
    assert more.returncode == 1
    failed = re.search(r"0 cells run, 4 finished before, 4 failed: (.*); table", more.stderr)[1].split()
    assert len(failed) == 4 and all("/train-none-fp8-x1-" in name for name in failed)
    assert len(table(grid)) == 12
    again = study(grid | {"REPEATS": 2, "MODES": "lora", "RANK_COUNTS": "1"})
    assert again.returncode == 0 and "2 cells run, 2 finished before, 0 failed" in again.stderr
    assert [r["run"].endswith("-r2") for r in table(grid)[12:]] == [True, True]


def test_random_weights_and_made_up_samples(settings, tmp_path):
    for name in ("MODEL", "DATA", "CONFIG"):
        del settings[name]
    settings |= {"RANDOM": tmp_path / "gpu", "RANDOM_SIZE": "tiny", "LENGTHS": "fixed packed", "PACK_TOKENS": 2048, "STEPS": 2}
    assert study(settings).returncode == 0
    fixed, packed = table(settings)
    assert (fixed["data"], fixed["max_length"], fixed["sample_length_mean"]) == ("letters-512", "512", "512")
    assert (packed["data"], packed["max_length"]) == ("lengths-like-openorca", "2048") and 380 < float(packed["sample_length_mean"]) < 450
    assert {r["model"] for r in (fixed, packed)} == {"llama-3.2-1b-random"}
    assert 0.43 < int(packed["supervised_tokens"]) / int(packed["tokens"]) < 0.47
    assert "0 cells run, 2 finished before" in study(settings).stderr


def test_scores_and_profile_of_a_cell(settings):
    done = study(settings | {"MODES": "lora full", "EVAL": 1, "EVAL_SAMPLES": 2, "EVAL_PERPLEXITY": 4, "PROFILE": 1})
    assert done.returncode == 0, done.stderr
    rows = table(settings)
    assert [r["command"] for r in rows] == ["train", "eval-base", "eval", "train", "eval"]
    assert rows[2]["run"] == rows[0]["run"] and rows[4]["run"] == rows[3]["run"]
    assert all(float(r["perplexity"]) > 1 and r["bleu"] and r["rouge_l"] for r in rows if r["command"] != "train")
    folders = {path.name: {p.name for p in path.iterdir()} for path in pathlib.Path(settings["RUNS"]).iterdir()}
    assert len(folders) == 4 and sum("profile.csv" in files for name, files in folders.items() if name.endswith("-profile")) == 2
    assert not any({"model", "checkpoints"} & files for files in folders.values())


def test_a_budget_leaves_out_what_does_not_fit_and_ends_what_runs(settings):
    done = study(settings | {"BUDGET": 60, "CELL_SECONDS": 1000, "RANK_COUNTS": "1 2"})
    assert done.returncode == 0 and "0 cells run, 0 finished before, 0 failed" in done.stderr
    left = re.search("left out, the budget of 60 s is used up: (.*)", done.stderr)[1].split()
    assert [re.search("ddp-bf16-x[0-9]", name)[0] for name in left] == ["ddp-bf16-x1", "ddp-bf16-x2"]
    started = time.monotonic()
    done = study(settings | {"BUDGET": 5, "CELL_SECONDS": 1, "STEPS": 1000000})
    assert time.monotonic() - started < 30
    assert done.returncode == 0 and "cut off, the budget of 5 s is used up" in done.stderr


@pytest.mark.parametrize("keep", [0, 1], ids=["measured", "kept"])
def test_stopped_it_ends_and_goes_on(settings, keep):
    """Where nothing is kept, there is no checkpoint: the cell begins anew."""
    settings |= {"KEEP": keep, "STEPS": 300}
    process = subprocess.Popen([STUDY], env=environment(settings), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                               start_new_session=True)
    folder = pathlib.Path(settings["RUNS"])
    end = time.monotonic() + 60
    while not any(path.read_text().count("\n") > 2 for path in folder.glob("*/steps.csv")):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 143
    assert "started again, it goes on" in process.stderr.read()
    done = study(settings)
    assert done.returncode == 0 and "1 cells run, 0 finished before, 0 failed" in done.stderr, done.stderr
    assert ("resuming after step" in done.stderr) == (keep == 1)
    [run] = folder.iterdir()
    steps = [int(row["step"]) for row in csv.DictReader((run / "steps.csv").open())]
    assert steps == list(range(1, 301))


@pytest.mark.parametrize(("change", "words"), [
    ({"LENGTHS": "fixed", "DATA_FIXED": "none"}, ("LLMFT_DATA_FIXED", "none", "preprocess", "--min-length 512", "LLMFT_LENGTHS=packed")),
    ({"DATA": "none"}, ("LLMFT_DATA", "preprocess")),
    ({"MODEL": "none"}, ("LLMFT_MODEL", "hf download")),
    ({"BINARY": "./none"}, ("./none", "make")),
    ({"STRATEGIES": "dp"}, ("LLMFT_STRATEGIES", "'dp'")),
    ({"RANK_COUNTS": "2", "MPIRUN": "false"}, ("false", "2 rank")),
])
def test_what_is_missing_is_said(settings, change, words):
    done = study(settings | change)
    lines = [line for line in done.stderr.splitlines() if line]
    assert done.returncode == 2 and len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    for word in words:
        assert word in lines[0]
    assert not pathlib.Path(settings["RUNS"]).exists()
