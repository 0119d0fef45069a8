"""Scores, intervals and verdicts of tools/quality.py, from the samples.csv that `llmft eval` writes.

A score is a function of sums over samples, so one set of resamples, drawn once, serves every system: differences are paired
because both sides see the same resample. A system is a precision and mode, trained from one or several seeds; its score is
the mean over seeds of each model's score, and the samples alone are resampled.
"""
import csv
import dataclasses
import math
import pathlib

import numpy as np

COLUMNS = ["loss_sum", "supervised_tokens", "rouge_l", "bleu_hypothesis", "bleu_reference",
           *(f"bleu_{kind}_{n}" for kind in ("match", "total") for n in (1, 2, 3, 4))]
LOWER_IS_BETTER = {"valid_loss": True, "perplexity": True, "BLEU": False, "ROUGE-L": False}


class UserError(Exception):
    pass


def read_samples(path, system="base"):
    """(source rows [n], counts [n, columns and one for the sample itself])"""
    path = pathlib.Path(path)
    try:
        with path.open(newline="") as file:
            lines = [line for line in csv.DictReader(file) if line["system"] == system]
        rows = [int(line["row"]) for line in lines]
        counts = np.array([[float(line[name]) for name in COLUMNS] + [1.0] for line in lines])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: is no table of samples with all scores ({error}); make it with 'llmft eval --samples -1'") from None
    if not rows:
        raise UserError(f"{path}: has no samples of system '{system}'")
    return rows, counts


def bleu(sums):
    """As sacrebleu's corpus_score: smoothing 'exp', no effective order."""
    hypothesis, reference, match, total = sums[0], sums[1], sums[2:6], sums[6:10]
    if not any(match):
        return 0.0
    smooth, logs = 1.0, 0.0
    for matched, of in zip(match, total):
        if of == 0:
            return 0.0
        if matched == 0:
            smooth *= 2
        logs += math.log(100 * matched / of if matched else 100 / (smooth * of))
    return min(1.0, math.exp(1 - reference / hypothesis)) * math.exp(logs / 4)


def scores(sums):
    """Of sums [k, columns]: metric -> [k]."""
    loss = sums[:, 0] / sums[:, 1]
    return {"valid_loss": loss, "perplexity": np.exp(loss), "BLEU": np.array([bleu(row) for row in sums[:, 3:13].tolist()]),
            "ROUGE-L": 100 * sums[:, 2] / sums[:, 13]}


@dataclasses.dataclass
class Interval:
    value: float
    low: float
    high: float

    def half_width(self):
        return (self.high - self.low) / 2


@dataclasses.dataclass
class System:
    """metric -> score, and its resamples [R]; spread: highest less lowest of the seeds' scores."""
    value: dict
    draws: dict
    spread: dict

    def interval(self, metric):
        low, high = np.percentile(self.draws[metric], [2.5, 97.5])
        return Interval(self.value[metric], float(low), float(high))

    def less(self, other, metric):
        """This one's score less the other's, on the same resamples."""
        low, high = np.percentile(self.draws[metric] - other.draws[metric], [2.5, 97.5])
        return Interval(self.value[metric] - other.value[metric], float(low), float(high))


class Bootstrap:
    """The same resamples for every system of n samples."""

    def __init__(self, n, resamples, seed):
        rng = np.random.Generator(np.random.PCG64(seed))
        self.times = np.stack([np.bincount(rng.integers(0, n, n), minlength=n) for _ in range(resamples)]).astype(float)

    def system(self, models):
        """models: counts [n, columns] of each seed's model"""
        values = [scores(counts.sum(axis=0, keepdims=True)) for counts in models]
        draws = [scores(self.times @ counts) for counts in models]
        each = {m: [float(v[m][0]) for v in values] for m in LOWER_IS_BETTER}
        return System({m: sum(v) / len(v) for m, v in each.items()}, {m: np.mean([d[m] for d in draws], axis=0) for m in LOWER_IS_BETTER},
                      {m: max(v) - min(v) for m, v in each.items()})


def beats(base, tuned, metric):
    """(difference, whether the fine-tuned model is better and the whole interval says so)"""
    difference = tuned.less(base, metric)
    return difference, difference.high < 0 if LOWER_IS_BETTER[metric] else difference.low > 0


def agrees(reference, other, metric):
    """(difference, margin, whether they agree). They do where the paired difference, with its whole interval, is smaller than half
    the interval of the reference's score: then no precision's score could be told from another's by a new validation set. This is
    a test of equivalence: a large difference fails it, and so does a noisy one."""
    difference, margin = other.less(reference, metric), reference.interval(metric).half_width()
    return difference, margin, -margin < difference.low and difference.high < margin


def verdict(holds):
    return "holds" if holds else "FAILS"


def verdicts(base, tuned):
    """base: precision -> System; tuned: (mode, precision) -> System. Rows of the two tables."""
    gains, agreement = [], []
    for (mode, precision), system in tuned.items():
        for metric in LOWER_IS_BETTER:
            difference, holds = beats(base[precision], system, metric)
            before, after = base[precision].interval(metric), system.interval(metric)
            gains.append({"precision": precision, "mode": mode, "metric": metric, "base": before.value, "base_low": before.low,
                          "base_high": before.high, "tuned": after.value, "tuned_low": after.low, "tuned_high": after.high,
                          "difference": difference.value, "difference_low": difference.low, "difference_high": difference.high,
                          "seed_spread": system.spread[metric], "verdict": verdict(holds)})
    keys = list(tuned)
    for i, (mode, precision) in enumerate(keys):
        for reference in [p for m, p in keys[:i] if m == mode]:
            for metric in LOWER_IS_BETTER:
                difference, margin, holds = agrees(tuned[mode, reference], tuned[mode, precision], metric)
                agreement.append({"mode": mode, "metric": metric, "precision": precision, "reference": reference,
                                  "difference": difference.value, "low": difference.low, "high": difference.high, "margin": margin,
                                  "zero_inside": int(difference.low <= 0 <= difference.high), "verdict": verdict(holds)})
    return gains, agreement


def near(name, run, value, expected, tolerance):
    """A row of checks.csv: |value - expected| <= tolerance. Not a number is never near."""
    return {"check": name, "run": run, "value": value, "expected": expected, "tolerance": tolerance,
            "verdict": verdict(abs(value - expected) <= tolerance)}
