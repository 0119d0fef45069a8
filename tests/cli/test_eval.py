"""`llmft eval` end to end: its scores are the real sacrebleu's and rouge_score's on its own answers, perplexity is the
trainer's validation loss, and the number of ranks changes nothing."""
import csv
import json
import math
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
import sacrebleu
from rouge_score import rouge_scorer

import runs

SAMPLES = 12


@pytest.fixture(scope="session")
def trained(train_once):
    return train_once("--steps", 12, "--adapter-rank", 8)


@pytest.fixture(scope="session")
def evaluate(model, shards, tmp_path_factory):
    def run(*args, ranks=1, output=None):
        output = output or tmp_path_factory.mktemp("eval") / "out"
        done = runs.llmft("eval", "--model", model, "--data", pathlib.Path(shards) / "valid", "--device", "cpu", "--samples", SAMPLES,
                          "--max-tokens", 12, "--eval.resamples=50", "--output", output, *args, ranks=ranks)
        return done, output

    return run


@pytest.fixture(scope="session")
def both(evaluate, trained):
    done, output = evaluate("--adapter", trained.path / "adapter")
    assert done.returncode == 0, done.stderr
    return done, output


def table(output):
    return {(row["metric"], row["system"]): row for row in csv.DictReader((output / "eval.csv").open())}


def answers(output):
    return [json.loads(line) for line in (output / "answers.jsonl").read_text().splitlines()]


def test_scores_are_those_of_the_real_libraries(both):
    done, output = both
    rows = answers(output)
    assert len(rows) == SAMPLES
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"])
    for system in ("base", "adapter"):
        hyps, refs = [row[system]["text"] for row in rows], [row["reference"] for row in rows]
        metric = sacrebleu.BLEU()
        score = metric.corpus_score(hyps, [refs])
        assert float(table(output)["BLEU", system]["value"]) == pytest.approx(score.score, rel=1e-12)
        assert str(metric.get_signature()).startswith(re.search("BLEU: (.*)", done.stdout).group(1))
        for name, key in (("ROUGE-1", "rouge1"), ("ROUGE-2", "rouge2"), ("ROUGE-L", "rougeL")):
            f = [scorer.score(r, h)[key].fmeasure for h, r in zip(hyps, refs)]
            assert float(table(output)[name, system]["value"]) == pytest.approx(100 * sum(f) / len(f), rel=1e-12, abs=1e-12)
        assert all(row[system]["tokens"] <= 12 for row in rows)


def test_scores_go_into_the_table_of_runs(evaluate, trained, train_args, tmp_path):
    sys.path.insert(0, str(runs.ROOT / "postprocess"))
    import read

    results = tmp_path / "benchmarks.csv"
    results.write_bytes(pathlib.Path(train_args[train_args.index("--results") + 1]).read_bytes())
    before = results.read_text()
    done, output = evaluate("--adapter", trained.path / "adapter", "--results", results)
    assert done.returncode == 0, done.stderr
    assert results.read_text().startswith(before)
    row = [row for row in read.read_benchmarks(results) if row.run == trained.path.name][-1]
    assert row.base_perplexity == float(table(output)["perplexity", "base"]["value"])
    for system, prefix in (("adapter", ""), ("base", "base_")):
        for metric, column in (("perplexity", "perplexity"), ("BLEU", "bleu"), ("ROUGE-L", "rouge_l")):
            assert getattr(row, prefix + column) == float(table(output)[metric, system]["value"])


def test_perplexity_is_the_trainers_validation_loss(both, trained):
    _, output = both
    losses = [float(row["valid_loss"]) for row in trained.rows() if row["valid_loss"]]
    value = float(table(output)["perplexity", "adapter"]["value"])
    assert math.log(value) == pytest.approx(losses[-1], abs=2e-3)
    assert value < float(table(output)["perplexity", "base"]["value"])


def test_table_intervals_and_paired_test(both):
    done, output = both
    rows = table(output)
    assert set(rows) == {(m, s) for m in ("perplexity", "BLEU", "ROUGE-1", "ROUGE-2", "ROUGE-L") for s in ("base", "adapter", "difference")}
    for (metric, system), row in rows.items():
        assert metric in done.stdout
        assert float(row["low"]) <= float(row["high"])
        assert (row["p"] != "") == (system == "difference")
    assert float(rows["perplexity", "difference"]["p"]) < 0.05
    assert float(rows["perplexity", "difference"]["high"]) < 0
    report = json.loads((output / "run.json").read_text())
    assert report["command"] == "eval" and report["finished"]
    page = (output / "answers.md").read_text()
    assert page.count("**Base**") == page.count("**Adapter**") == SAMPLES


def test_samples_add_up_to_the_scores(both):
    _, output = both
    rows = list(csv.DictReader((output / "samples.csv").open()))
    for system in ("base", "adapter"):
        own = [row for row in rows if row["system"] == system]
        total = lambda column: sum(float(row[column]) for row in own if row[column])
        assert math.exp(total("loss_sum") / total("supervised_tokens")) == pytest.approx(float(table(output)["perplexity", system]["value"]), rel=1e-12)
        answered = [row for row in own if row["rouge_l"]]
        assert [int(row["row"]) for row in answered] == [row["row"] for row in answers(output)]
        assert 100 * total("rouge_l") / SAMPLES == pytest.approx(float(table(output)["ROUGE-L", system]["value"]), rel=1e-12)
        score = sacrebleu.BLEU().corpus_score([row[system]["text"] for row in answers(output)], [[row["reference"] for row in answers(output)]])
        assert [total(f"bleu_match_{n}") for n in (1, 2, 3, 4)] == score.counts
        assert [total(f"bleu_total_{n}") for n in (1, 2, 3, 4)] == score.totals
        assert [total("bleu_hypothesis"), total("bleu_reference")] == [score.sys_len, score.ref_len]


def test_ranks_agree(both, evaluate, trained):
    _, output = both
    done, again = evaluate("--adapter", trained.path / "adapter", ranks=3)
    assert done.returncode == 0, done.stderr
    assert (again / "answers.jsonl").read_text() == (output / "answers.jsonl").read_text()
    for key, row in table(again).items():
        assert float(row["value"]) == pytest.approx(float(table(output)[key]["value"]), rel=1e-5), key


def test_base_alone_sampled(evaluate):
    done, output = evaluate("--temperature", 1, "--seed", 3)
    assert done.returncode == 0, done.stderr
    assert {system for _, system in table(output)} == {"base"}
    _, again = evaluate("--temperature", 1, "--seed", 3)
    assert (again / "answers.jsonl").read_text() == (output / "answers.jsonl").read_text()
    _, other = evaluate("--temperature", 1, "--seed", 4)
    assert (other / "answers.jsonl").read_text() != (output / "answers.jsonl").read_text()


@pytest.mark.parametrize("change, words", [
    (["--data", "/no/such"], ["/no/such"]),
    (["--model", "/no/such"], ["/no/such"]),
    (["--adapter", "/no/such"], ["/no/such", "adapter_config.json"]),
    (["--data", ""], ["--data", "no shard folder"]),
    (["--sampels", "3"], ["--samples"]),
])
def test_bad_input(evaluate, change, words):
    done, output = evaluate(*change)
    assert done.returncode == 2
    [line] = runs.error_lines(done)
    for word in words:
        assert word in line
    assert not output.exists()


def test_what_cannot_be_written_is_found_before_the_work(evaluate, tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("other,columns\n1,2\n")
    for change, output, said in (([], "/proc/x", "/proc/x"), (["--results", table], None, "has other columns (it begins 'other,columns')")):
        done, _ = evaluate(*change, output=output)
        assert done.returncode == 2 and said in runs.error_lines(done)[0]
        assert "samples for perplexity" not in done.stderr
    assert table.read_text() == "other,columns\n1,2\n"


def test_results_are_not_overwritten(both, evaluate, trained):
    _, output = both
    done, _ = evaluate(output=output)
    assert done.returncode == 2 and "--overwrite" in runs.error_lines(done)[0]


def test_a_run_of_another_command_is_left_alone(evaluate, trained, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(trained.path, folder)
    before = runs.contents(folder)
    for more in ([], ["--overwrite"]):
        done, _ = evaluate("--samples", 0, *more, output=folder)
        assert done.returncode == 2 and f"{folder}/eval" in runs.error_lines(done)[0]
        assert runs.contents(folder) == before


def test_figure(both, tmp_path):
    _, output = both
    done = subprocess.run([sys.executable, runs.ROOT / "postprocess/eval_plot.py", output, "--out", tmp_path],
                               capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "perplexity" in (tmp_path / "eval.svg").read_text()
    assert (tmp_path / "eval.png").stat().st_size > 5000
    done = subprocess.run([sys.executable, runs.ROOT / "postprocess/eval_plot.py", tmp_path / "none"], capture_output=True, text=True)
    assert done.returncode == 2 and "eval.csv" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("text, says", [
    ("", "is not a table"),
    ("metric,system,samples,value,low,high,p\n", "is not a table"),
    ("metric,system,samples,value,low,high,p\nBLEU,base,9,good,1,2,\n", "eval.csv:2: value 'good' is not a number"),
    ("metric,system,samples,value,low,high,p\nBLEU,base,9,1\n", "eval.csv:2: has not 7 fields"),
    ("metric,system,samples,value,low,high,p\nBLEU,adapter,9,1,1,2,\n", "no row of the base"),
])
def test_a_damaged_table_is_one_line(tmp_path, text, says):
    (tmp_path / "eval.csv").write_text(text)
    done = subprocess.run([sys.executable, runs.ROOT / "postprocess/eval_plot.py", tmp_path], capture_output=True, text=True)
    assert done.returncode == 2 and says in done.stderr and done.stderr.count("\n") == 1, done.stderr
