"""The verdicts of tools/quality.py on made-up evaluations: they hold where they should, and every one of them can fail."""
import subprocess
import sys

import numpy as np
import pytest
import sacrebleu

import runs

sys.path.insert(0, str(runs.ROOT / "tools"))
import quality_verdicts as q  # noqa: E402

N = 300


def counts(rng, loss=3.0, right=0.3, n=N):
    """Samples of 10 tokens whose loss is about `loss` each, answers of 8 words of which a share `right` of n-grams match."""
    match = np.stack([rng.binomial(9 - k, right, n) for k in (1, 2, 3, 4)], axis=1)
    total = np.tile([8, 7, 6, 5], (n, 1))
    return np.column_stack([10 * rng.normal(loss, 0.5, n), np.full(n, 10), match[:, 0] / 8, np.full(n, 8), np.full(n, 8), match, total, np.ones(n)])


@pytest.fixture
def rng():
    return np.random.default_rng(5)


@pytest.fixture
def bootstrap():
    return q.Bootstrap(N, 400, seed=1)


def failing(rows):
    return [r for r in rows if r["verdict"] != "holds"]


def test_bleu_is_sacrebleus():
    references = ["the owl says hoot .", "a b c d e", "one two three four five six", "x y"]
    for answers in (references, ["the owl says moo .", "a b c", "one two three four", "x"], ["q", "q", "three", "q"], ["the", "a", "one", "x"],
                    ["z"] * 4, [""] * 4):
        score = sacrebleu.BLEU().corpus_score(answers, [references])
        assert q.bleu([score.sys_len, score.ref_len, *score.counts, *score.totals]) == pytest.approx(score.score, abs=1e-9)


def test_intervals_are_those_of_the_means(rng, bootstrap):
    sample = counts(rng)
    interval = bootstrap.system([sample]).interval("valid_loss")
    error = 1.96 * (sample[:, 0] / 10).std() / N**0.5
    assert interval.half_width() == pytest.approx(error, rel=0.15)
    assert interval.low < interval.value < interval.high


def test_gain_beyond_the_interval_holds_and_agreement_too(rng, bootstrap):
    before, after = counts(rng), counts(rng, loss=1.0, right=0.8)
    rounded = after + np.column_stack([rng.normal(0, 0.02, N), np.zeros((N, after.shape[1] - 1))])
    base = {p: bootstrap.system([before]) for p in ("fp32", "bf16")}
    gains, agreement = q.verdicts(base, {("lora", "fp32"): bootstrap.system([after]), ("lora", "bf16"): bootstrap.system([rounded])})
    assert len(gains) == 8 and len(agreement) == 4
    assert not failing(gains) and not failing(agreement)


def test_one_precision_that_learned_nothing_fails(rng, bootstrap):
    before, after = counts(rng), counts(rng, loss=1.0, right=0.8)
    base = {p: bootstrap.system([before]) for p in ("fp32", "bf16")}
    gains, agreement = q.verdicts(base, {("lora", "fp32"): bootstrap.system([after]), ("lora", "bf16"): bootstrap.system([before])})
    assert {(r["precision"], r["metric"]) for r in failing(gains)} == {("bf16", m) for m in q.LOWER_IS_BETTER}
    assert len(failing(agreement)) == 4


def test_a_gain_within_the_interval_fails(rng, bootstrap):
    before = counts(rng)
    noise = before.copy()
    noise[:, 0] += rng.normal(-0.1, 5, N)
    assert not q.beats(bootstrap.system([before]), bootstrap.system([noise]), "valid_loss")[1]


@pytest.mark.parametrize("metric", list(q.LOWER_IS_BETTER))
def test_worse_is_not_better(rng, bootstrap, metric):
    good, bad = bootstrap.system([counts(rng, loss=1.0, right=0.8)]), bootstrap.system([counts(rng)])
    assert q.beats(bad, good, metric)[1]
    assert not q.beats(good, bad, metric)[1]


def test_noise_is_no_agreement(rng, bootstrap):
    """Two models of the same score whose answers have nothing in common: a test for a difference would find none."""
    one, other = bootstrap.system([counts(rng)]), bootstrap.system([counts(rng)])
    difference, margin, holds = q.agrees(one, other, "ROUGE-L")
    assert difference.low < 0 < difference.high and not holds


def test_a_small_shift_agrees_and_a_large_one_does_not(rng, bootstrap):
    sample = counts(rng)
    for shift, expected in ((0.01, True), (0.2, False), (-0.2, False)):
        shifted = sample.copy()
        shifted[:, 0] += 10 * shift
        assert q.agrees(bootstrap.system([sample]), bootstrap.system([shifted]), "valid_loss")[2] is expected


def test_seeds_are_averaged(rng, bootstrap):
    one, other = counts(rng, loss=1.0), counts(rng, loss=2.0)
    both = bootstrap.system([one, other])
    single = [bootstrap.system([x]).value["valid_loss"] for x in (one, other)]
    assert both.value["valid_loss"] == pytest.approx(sum(single) / 2)
    assert both.spread["valid_loss"] == pytest.approx(single[1] - single[0])


@pytest.mark.parametrize("value, expected, verdict", [(7.68, 7.62, "holds"), (7.9, 7.62, "FAILS"), (float("nan"), 7.62, "FAILS"),
                                                      (float("inf"), 7.62, "FAILS")])
def test_a_check_of_a_number(value, expected, verdict):
    assert q.near("loss", "base", value, expected, 0.15)["verdict"] == verdict


def test_a_table_without_scores_is_refused(tmp_path):
    path = tmp_path / "samples.csv"
    path.write_text("row,system,loss_sum,supervised_tokens\n3,base,1.5,2\n")
    with pytest.raises(q.UserError, match="samples.csv"):
        q.read_samples(path)
    with pytest.raises(q.UserError, match="none.csv"):
        q.read_samples(tmp_path / "none.csv")


def test_a_missing_program_is_one_line(tmp_path):
    done = subprocess.run([sys.executable, runs.ROOT / "tools/quality.py", "--program", tmp_path / "none", "--work", tmp_path / "work",
                           "--output", tmp_path / "out"], capture_output=True, text=True)
    assert done.returncode == 2 and "none" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def quality(tmp_path, program="/bin/true", work="work", out="out"):
    done = subprocess.run([sys.executable, runs.ROOT / "tools/quality.py", "--program", program, "--work", tmp_path / work,
                           "--output", tmp_path / out], capture_output=True, text=True, cwd=runs.ROOT)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and done.stderr.startswith("error: "), done.stderr
    return done.stderr


@pytest.mark.parametrize("foreign", ["work", "out"])
def test_a_folder_of_somebody_else_is_never_deleted(tmp_path, foreign):
    (tmp_path / foreign).mkdir()
    (tmp_path / foreign / "thesis.tex").write_text("years of work")
    said = quality(tmp_path)
    assert str(tmp_path / foreign) in said and "was not made by this program" in said
    assert (tmp_path / foreign / "thesis.tex").read_text() == "years of work"
    assert [path.name for path in tmp_path.iterdir()] == [foreign]  # nothing was begun


def test_its_own_folder_is_replaced_and_one_within_the_other_is_refused(tmp_path):
    quality(tmp_path)
    (tmp_path / "work/old").write_text("of the run before")
    quality(tmp_path)
    assert not (tmp_path / "work/old").exists()
    assert "one lies in the other" in quality(tmp_path, out="work/out")


def test_a_program_that_ends_well_and_wrote_nothing_is_one_line(tmp_path):
    assert "shards/manifest.json: is not there" in quality(tmp_path)
