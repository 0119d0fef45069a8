"""What must hold of losses and scores. How far from it is too far stands first, with the reason."""

import math
import statistics

import measured as m
import run_files
from check import Check
from document import Name, number, percent, say
from facts import Facts
from facts_quality import MAIN, plain_value
from facts_runs import parity as parity_of
from read import PRECISIONS

# How far from its expectation a figure may be, and why.
FIRST_LOSS = (-0.1, 0.75)  # nats around log V + n s^2 / 2 of a random model: one batch, and tied embeddings


BASE_LOSS = 0.02  # nats: the trainer's sums and the evaluation's, in 16 bits


SUPERVISED = (0.02, 0.98)  # all tokens supervised: prompts are trained on; none: answers are masked


SUPERVISED_ALIKE = 0.03  # of runs on the same data


# bf16 keeps eight bits of a weight: an update of less than half the last of them shows only when several have added up, so
# training all weights at a small rate is behind the other precisions at first, in any program (docs/numerics.md)
LAGS = ("full", "bf16")
MOST_SKIPPED = 0.1  # of the steps: the loss scale begins too high and is halved a few times
RISE = 1.02  # mean loss of the last fifth of the steps over that of the first
FLOOR = 0.01  # nats: rounding of a mean over thousands of tokens


PARITY = {"tf32": 0.002, "fp16": 0.01, "bf16": 0.01, "fp8": 0.03}  # relative, of each of the first steps
LATE_PARITY = 0.03  # relative, of means over the last fifth of the steps


def _vocabulary(facts: Facts, row: m.Cell) -> m.Row | None:
    """The model's row of models.csv, where it is one of random weights; the table's own vocab_size counts too."""
    model = facts.m.models.get(row.text("model"))
    return model if model is not None and model["random"] else None


def first_loss(facts: Facts) -> Check:
    """A random model knows nothing: log V, and n s^2 / 2 more for logits of that variance."""
    failures, count = [], 0
    for row in [*facts.m.ours, *facts.m.variants]:
        model, loss = _vocabulary(facts, row), row["loss_first"]
        if model is None or loss is None:
            continue
        count += 1
        vocabulary = row["vocab_size"] or model["vocab_size"]
        expected = math.log(vocabulary) + (model["hidden_size"] or 0) * (model["init_std"] or 0) ** 2 / 2
        low, high = math.log(vocabulary) + FIRST_LOSS[0], expected + FIRST_LOSS[1]
        if not low <= loss <= high:
            failures.append(
                say(
                    "{run}: {loss} nats, expected {low} to {high}",
                    run=Name(row.text("run")),
                    loss=number(loss, row.source("loss_first"), 3),
                    low=number(low, "checks.py and models.csv", 2),
                    high=number(high, "checks.py and models.csv", 2),
                )
            )
    return Check(say("the first loss of a random model is near log V"), count, failures)


def base_loss(facts: Facts) -> Check:
    """Fine-tuning begins where the base stands: the validation loss before the first step is the base's."""
    failures, count = [], 0
    for r in facts.quality_rows():
        if r.metric != "validation loss":
            continue
        for name in r.row.text("runs").split():
            run = facts.m.quality_runs.get(name)
            loss = run.results.get("valid_loss_first") if run else None
            if not isinstance(loss, (int, float)):
                continue
            count += 1
            if abs(loss - r.base.value) > BASE_LOSS:
                begins = number(loss, f"quality/runs/{name}/run.json", 3)
                base = number(r.base.value, r.base.source, 3)
                failures.append(
                    say("{run} begins at {loss} nats, its base has {base}", run=Name(name), loss=begins, base=base)
                )
    return Check(say("fine-tuning begins at the base model's validation loss"), count, failures)


def floor(facts: Facts) -> Check:
    """No loss under the entropy of the data where that is known, and none under zero: less is a leak of the answer."""
    failures, count = [], 0
    for run in facts.all_runs():
        data = facts.m.data.get(run.config.get("data", "").rstrip("/").rpartition("/")[2])
        least = (data["floor_nats"] or 0.0) if data else 0.0
        passes = [row["epoch"] for row in run_files.steps(run)]
        for row in run_files.steps(run):
            for column in ("loss", "valid_loss"):
                value = m.read._number(row.where, column, row.text(column))
                if value is None:
                    continue
                count += 1
                # beyond the first pass a training sample may have been learnt by heart
                bound = least if column == "valid_loss" or (passes and (row["epoch"] or 0) <= 1) else 0.0
                if value < bound - FLOOR or value <= 0:
                    failures.append(
                        say(
                            "{run}: {loss} nats, the floor is {floor}",
                            run=Name(f"{run.name}, {column}"),
                            loss=number(value, row.where, 4),
                            floor=number(bound, data.source("floor_nats") if data else "zero", 4),
                        )
                    )
                    break
    return Check(say("no loss is under its closed-form floor (zero, or the entropy of made data)"), count, failures[:5])


def supervised(facts: Facts) -> Check:
    failures, count = [], 0
    of_data: dict[str, list[tuple[float, m.Cell]]] = {}
    for row in [*facts.m.ours, *facts.m.variants]:
        if not row["tokens"] or not row["supervised_tokens"]:
            continue
        count += 1
        share = row["supervised_tokens"] / row["tokens"]
        of_data.setdefault(row.text("data"), []).append((share, row))
        told = facts.m.data[row.text("data")]["supervised_fraction"] if row.text("data") in facts.m.data else None
        if not SUPERVISED[0] <= share <= SUPERVISED[1] or (told and abs(share - told) > SUPERVISED_ALIKE):
            failures.append(
                say(
                    "{run}: {share} of the tokens are supervised",
                    run=Name(row.text("run")),
                    share=percent(share, row.source("supervised_tokens")),
                )
            )
    for data, shares in of_data.items():
        least, most = min(s for s, _ in shares), max(s for s, _ in shares)
        if data and most - least > SUPERVISED_ALIKE:
            failures.append(
                say(
                    "{data}: {a} to {b} in runs on the same data",
                    data=Name(data),
                    a=percent(least, "benchmarks.csv"),
                    b=percent(most, "benchmarks.csv"),
                )
            )
    return Check(say("the supervised fraction is in range, and the same in all runs on the same data"), count, failures)


def parity(facts: Facts) -> Check:
    failures, count, lagging = [], 0, []
    for of in facts.alike(facts.all_runs()):
        wide = next(p for p in PRECISIONS if p in of)
        for precision, run in of.items():
            found = parity_of(of[wide], run) if precision != wide else None
            if found is None:
                continue
            source, other = f"runs/{run.name}/steps.csv", f"runs/{of[wide].name}/steps.csv"
            if (run.mode, precision) == LAGS:
                a, b, step = number(found.a, other, 4), number(found.b, source, 4), number(found.step, source, 0)
                words = "{run} has {b} nats at step {step}, {wide} {a}"
                lagging.append(say(words, run=Name(run.name), wide=Name(wide), step=step, a=a, b=b))
                continue
            count += 1
            if found.early_gap > PARITY.get(precision, 0.01):
                a, b, step = number(found.a, other, 4), number(found.b, source, 4), number(found.step, source, 0)
                words = "{run}: {b} nats at step {step}, {wide} has {a}"
                failures.append(say(words, run=Name(run.name), wide=Name(wide), step=step, a=a, b=b))
            if found.late and found.late_gap > LATE_PARITY:
                a, b = number(found.late[0], other, 4), number(found.late[1], source, 4)
                words = "{run}: {b} nats over the last steps, {wide} has {a}"
                failures.append(say(words, run=Name(run.name), wide=Name(wide), a=a, b=b))
    name = "precisions agree in loss: the first steps, and the mean of the last ones, of runs that differ in precision alone"
    if lagging:
        name += " (not all weights in bf16, which lags at first: numerics.md)"
    return Check(say(name), count, failures, tuple(lagging))


def quality_parity(facts: Facts) -> Check:
    """In each mode and metric the paired difference of two precisions, with its whole interval, is smaller than half the
    interval of the score itself: a large difference fails, and so does a noisy one."""
    failures, rows = [], facts.agreements()
    for a in rows:
        if a.holds:
            continue
        what = Name(f"{a.metric}, {a.mode}, {a.precision} less {a.reference}")
        difference, margin = number(a.difference.value, a.difference.source), number(a.margin.value, a.margin.source)
        failures.append(say("{what}: {d}, the margin is {m}", what=what, d=difference, m=margin))
    return Check(
        say("precisions agree in quality: differences are smaller than half the bootstrap interval"),
        len(rows),
        failures,
    )


def quality_own(facts: Facts) -> Check:
    """What tools/quality.py has checked of its runs: no validation sample was trained on, log V before training, losses of
    trainer and evaluation alike."""
    failures, rows = [], facts.m.quality_checks
    for row in rows:
        value, expected, tolerance = (read_number(row, c) for c in ("value", "expected", "tolerance"))
        if value is None or expected is None or tolerance is None or abs(value - expected) > tolerance:
            what = Name(f"{row.text('check')} ({row.text('run')})")
            failures.append(say("{what}: {value}", what=what, value=number(value, row.source("value"))))
    return Check(
        say("the quality study's own checks hold (nothing of the validation set was trained on, and others)"),
        len(rows),
        failures,
    )


def read_number(row: m.Row, column: str) -> float | None:
    """Zero is a value here."""
    value = plain_value(row, column)
    return value.value if value else None


def quality_gain(facts: Facts) -> Check:
    failures, rows = ([], [r for r in facts.quality_rows() if r.metric in MAIN and r.low and r.high])
    for r in rows:
        if r.better is not True:
            failures.append(
                say(
                    "{what}: {base} before, {tuned} after",
                    what=Name(f"{r.metric}, {r.mode} {r.precision}"),
                    base=number(r.base.value, r.base.source),
                    tuned=number(r.tuned.value, r.tuned.source),
                )
            )
    return Check(
        say("fine-tuned beats pretrained beyond the bootstrap interval, in every precision and metric"),
        len(rows),
        failures,
    )


def skipped(facts: Facts) -> Check:
    failures, count = [], 0
    for run in facts.all_runs():
        rows = run_files.steps(run)
        if not rows:
            continue
        count += 1
        losses = [value for value in run.steps.loss if value is not None]
        share = statistics.fmean(float(row["skipped"] or 0) for row in rows)
        fifth = max(1, len(losses) // 5)
        if share > MOST_SKIPPED or len(losses) < len(rows):
            words = "{run}: {share} of its steps skipped, or a loss that is not finite"
            failures.append(say(words, run=Name(run.name), share=percent(share, f"runs/{run.name}/steps.csv")))
        elif len(losses) > 7 and statistics.fmean(losses[-fifth:]) > RISE * statistics.fmean(losses[:fifth]):
            failures.append(say("{run}: its loss rises", run=Name(run.name)))
    return Check(say("losses are finite and do not rise, and few steps are skipped"), count, failures)
