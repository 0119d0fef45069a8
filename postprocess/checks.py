"""The study checks itself: what must hold of any measurement of this program, whatever it measured.

A check that found nothing to look at says so; it never counts as passed.
"""
import dataclasses
import math
import statistics

import measured as m
from document import Name, Text, join, number, percent, say
from facts import Facts
from read import PRECISIONS, Run

# How far from its expectation a figure may be, and why.
FIRST_LOSS = (-0.1, 0.75)  # nats around log V + n s^2 / 2 of a random model: one batch, and tied embeddings
BASE_LOSS = 0.05  # relative: a validation set and a part of it
SUPERVISED = (0.02, 0.98)  # all tokens supervised: prompts are trained on; none: answers are masked
SUPERVISED_ALIKE = 0.03  # of runs on the same data
FLOOR = 0.01  # nats: rounding of a mean over thousands of tokens
PARITY = {"tf32": 0.002, "fp16": 0.01, "bf16": 0.01, "fp8": 0.03}  # relative, of losses at the same step
RATES = 0.05  # samples/s and tokens/s are medians of their own
SUPERLINEAR = 1.05
WATTS = (0.05, 1.1)  # of the device's limit
SPREAD = 0.15


@dataclasses.dataclass(frozen=True)
class Check:
    name: Text
    looked_at: int
    failures: list[Text]

    @property
    def passed(self) -> bool | None:
        return None if not self.looked_at else not self.failures


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
            failures.append(say("{run}: {loss} nats, expected {low} to {high}", run=Name(row.text("run")), loss=number(loss, row.source("loss_first"), 3),
                                low=number(low, "checks.py and models.csv", 2), high=number(high, "checks.py and models.csv", 2)))  # fmt: skip
    return Check(say("the first loss of a random model is near log V"), count, failures)


def base_loss(facts: Facts) -> Check:
    """Fine-tuning begins where the base stands: the validation loss before the first step is the base's."""
    failures, count = [], 0
    rows = facts.quality_rows()
    base = [math.log(r.base.value) if r.metric == "perplexity" else r.base.value for r in rows if r.metric in ("perplexity", "validation loss")]
    losses = [run.results.get("valid_loss_first") for run in facts.m.quality_runs.values()]
    runs = [(run, loss) for run, loss in zip(facts.m.quality_runs.values(), losses) if isinstance(loss, float)]
    if base:
        for run, loss in runs:
            count += 1
            nearest = min(base, key=lambda b: abs(b - loss))
            if abs(loss - nearest) > BASE_LOSS * nearest:
                failures.append(say("{run} begins at {loss} nats, its base has {base}", run=Name(run.name),
                                    loss=number(loss, f"quality/runs/{run.name}/run.json", 3), base=number(nearest, rows[0].base.source, 3)))  # fmt: skip
    return Check(say("fine-tuning begins at the base model's validation loss"), count, failures)


def floor(facts: Facts) -> Check:
    """No loss under the entropy of the data where that is known, and none under zero: less is a leak of the answer."""
    failures, count = [], 0
    for run in facts.all_runs():
        data = facts.m.data.get(run.config.get("data", "").rstrip("/").rpartition("/")[2])
        least = (data["floor_nats"] or 0.0) if data else 0.0
        passes = [row["epoch"] for row in m.steps(run)]
        for row in m.steps(run):
            for column in ("loss", "valid_loss"):
                value = m.read._number(row.where, column, row.text(column))
                if value is None:
                    continue
                count += 1
                # beyond the first pass a training sample may have been learnt by heart
                bound = least if column == "valid_loss" or (passes and (row["epoch"] or 0) <= 1) else 0.0
                if value < bound - FLOOR or value <= 0:
                    failures.append(say("{run}: {loss} nats, the floor is {floor}", run=Name(f"{run.name}, {column}"), loss=number(value, row.where, 4),
                                        floor=number(bound, data.source("floor_nats") if data else "zero", 4)))  # fmt: skip
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
            failures.append(say("{run}: {share} of the tokens are supervised", run=Name(row.text("run")), share=percent(share, row.source("supervised_tokens"))))
    for data, shares in of_data.items():
        least, most = min(s for s, _ in shares), max(s for s, _ in shares)
        if data and most - least > SUPERVISED_ALIKE:
            failures.append(say("{data}: {a} to {b} in runs on the same data", data=Name(data), a=percent(least, "benchmarks.csv"), b=percent(most, "benchmarks.csv")))
    return Check(say("the supervised fraction is in range, and the same in all runs on the same data"), count, failures)


def _aligned(a: Run, b: Run) -> tuple[int, float, float] | None:
    """Loss of both at the last step that both have."""
    of = [{s: l for s, l in zip(run.steps.step, run.steps.loss) if l is not None} for run in (a, b)]
    common = sorted(of[0].keys() & of[1].keys())
    return (common[-1], of[0][common[-1]], of[1][common[-1]]) if common else None


def parity(facts: Facts) -> Check:
    failures, count = [], 0
    for of in facts.alike(facts.all_runs()):
        wide = next(p for p in PRECISIONS if p in of)
        for precision, run in of.items():
            both = _aligned(of[wide], run) if precision != wide else None
            if both is None:
                continue
            count += 1
            step, first, other = both
            if abs(first - other) > PARITY.get(precision, 0.01) * abs(first):
                failures.append(say("{run}: {b} nats at step {step}, {wide} has {a}", run=Name(run.name), wide=Name(wide), step=number(step, "steps.csv", 0),
                                    a=number(first, f"runs/{of[wide].name}/steps.csv", 4), b=number(other, f"runs/{run.name}/steps.csv", 4)))  # fmt: skip
    return Check(say("precisions agree: losses at the same step of runs that differ in precision alone"), count, failures)


def quality_parity(facts: Facts) -> Check:
    """Of each mode and metric the precisions' gains lie within one another's intervals."""
    failures, count = [], 0
    rows = [r for r in facts.quality_rows() if r.low and r.high]
    for key in dict.fromkeys((r.mode, r.metric) for r in rows):
        of = [r for r in rows if (r.mode, r.metric) == key]
        wide = min(of, key=lambda r: PRECISIONS.index(r.precision) if r.precision in PRECISIONS else 9)
        for r in of:
            if r is wide:
                continue
            count += 1
            low, high = sorted((wide.low.value, wide.high.value))
            mine = sorted((r.low.value, r.high.value))
            if mine[1] < low or mine[0] > high:
                failures.append(say("{metric} of {mode} {precision} gains {gain}, {wide} {other}: their intervals do not meet", metric=Name(r.metric), mode=Name(r.mode),
                                    precision=Name(r.precision), gain=number(r.difference.value, r.difference.source), wide=Name(wide.precision),
                                    other=number(wide.difference.value, wide.difference.source)))  # fmt: skip
    return Check(say("precisions agree in quality, within bootstrap intervals"), count, failures)


def quality_gain(facts: Facts) -> Check:
    failures, rows = [], [r for r in facts.quality_rows() if r.metric in ("validation loss", "perplexity", "BLEU", "ROUGE-L") and r.low and r.high]
    for r in rows:
        if r.better is not True:
            failures.append(say("{what}: {base} before, {tuned} after", what=Name(f"{r.metric}, {r.mode} {r.precision}"),
                                base=number(r.base.value, r.base.source), tuned=number(r.tuned.value, r.tuned.source)))  # fmt: skip
    return Check(say("fine-tuned beats pretrained beyond the bootstrap interval, in every precision and metric"), len(rows), failures)


def fsdp_memory(facts: Facts) -> Check:
    failures, count = [], 0
    for fsdp in facts.scaled:
        if fsdp.system != "llmft" or fsdp.strategy != "fsdp":
            continue
        same = ("device", "mode", "precision", "ranks", "tokens", "system")
        for ddp in facts.scaled:
            if ddp.strategy != "ddp" or any(getattr(ddp, k) != getattr(fsdp, k) for k in same):
                continue
            if ddp.rows[0].adapter_rank != fsdp.rows[0].adapter_rank:
                continue
            a, b = facts.peak_memory(fsdp.rows[0]), facts.peak_memory(ddp.rows[0])
            if a is None or b is None:
                continue
            count += 1
            if a[1] >= b[0]:
                failures.append(say("{run}: {a}, DDP {b}", run=Name(fsdp.rows[0].text("run")), a=number(a[1], a[2], 3, " GB", 1e9), b=number(b[0], b[2], 3, " GB", 1e9)))
    return Check(say("FSDP takes less memory than DDP on every rank"), count, failures)


def rates(facts: Facts) -> Check:
    failures, count = [], 0
    for row in [*facts.m.ours, *facts.m.variants]:
        samples, tokens = row["samples_per_s"], row["tokens_per_s"]
        if samples and tokens and row.mean_length:
            count += 1
            if abs(samples * row.mean_length / tokens - 1) > RATES:
                failures.append(say("{run}: {s} samples/s, {t} tokens/s, {l} tokens a sample", run=Name(row.text("run")), s=number(samples, row.source("samples_per_s")),
                                    t=number(tokens, row.source("tokens_per_s"), 0), l=number(row.mean_length, row.source("tokens"))))  # fmt: skip
        if tokens and row["step_time_median_s"] and row["tokens"] and row["steps"]:
            count += 1
            if abs(row["tokens"] / row["steps"] / row["step_time_median_s"] / tokens - 1) > RATES:
                failures.append(say("{run}: tokens of a step over its time are not its tokens/s", run=Name(row.text("run"))))
        if tokens and row["padded_tokens_per_s"]:
            count += 1
            if row["padded_tokens_per_s"] < tokens * (1 - RATES):
                failures.append(say("{run}: fewer tokens a second with padding than without", run=Name(row.text("run"))))
    return Check(say("samples/s, tokens/s and step times tell the same"), count, failures)


def physics(facts: Facts) -> Check:
    """No MFU above one, no memory or power that the device does not have, no speedup beyond the number of ranks."""
    failures, count = [], 0
    for row in [*facts.m.cells, *facts.m.variants]:
        device = facts.reference.device(row.device)
        if row["mfu"]:
            count += 1
            if not 0 < row["mfu"] < 1:
                failures.append(say("{run}: MFU {mfu}", run=Name(row.text("run")), mfu=number(row["mfu"], row.source("mfu"))))
        if device and row["peak_memory_bytes"]:
            count += 1
            if row["peak_memory_bytes"] > device["memory_gb"] * 1e9:
                failures.append(say("{run}: more memory than the device has", run=Name(row.text("run"))))
        if device and row["joules_per_token"] and row["tokens_per_s"]:
            count += 1
            share = row["joules_per_token"] * row["tokens_per_s"] / row.ranks / device["power_w"]
            if not WATTS[0] <= share <= WATTS[1]:
                failures.append(say("{run}: {share} of the device's power limit", run=Name(row.text("run")), share=percent(share, row.source("joules_per_token"))))
    for s in facts.scaled:
        if s.efficiency is not None:
            count += 1
            if s.efficiency > SUPERLINEAR:
                failures.append(say("{run}: {share} of as many times one rank", run=Name(s.rows[0].text("run")), share=percent(s.efficiency, s.many.source)))
    return Check(say("nothing beyond what the devices can: MFU, memory, power, speedup"), count, failures)


def memory_parts(facts: Facts) -> Check:
    failures, count = [], 0
    for run in facts.m.runs.values():
        for rank, parts in m.memory(run).items() if (run.path / "memory.csv").is_file() else ():
            sizes = {part: row["bytes"] or 0 for part, row in parts.items()}
            count += 1
            held = [size for part, size in sizes.items() if part not in ("total", "peak")]
            if not max(held, default=0) <= sizes.get("peak", 0) <= sum(held) * (1 + 1e-9):
                failures.append(say("{run}, rank {rank}", run=Name(run.name), rank=number(rank, "memory.csv", 0)))
    return Check(say("the peak of memory is at most the sum of its parts, and at least the largest"), count, failures)


def same_bits(facts: Facts) -> Check:
    failures, count = [], 0
    for names in facts.same_bits():
        runs = [facts.m.runs[name] for name in names]
        texts = [[(row.text("step"), row.text("loss"), row.text("grad_norm")) for row in m.steps(run)] for run in runs]
        for run, text in zip(runs[1:], texts[1:]):
            count += 1
            if text != texts[0]:
                failures.append(say("{a} differs from {b}", a=Name(run.name), b=Name(runs[0].name)))
    return Check(say("runs with `--deterministic` have the same losses and gradient norms to the last digit, whatever the strategy and number of ranks"), count, failures)


def skipped(facts: Facts) -> Check:
    failures, count = [], 0
    for run in facts.all_runs():
        rows = m.steps(run)
        if not rows:
            continue
        count += 1
        losses = [value for value in run.steps.loss if value is not None]
        share = statistics.fmean(float(row["skipped"] or 0) for row in rows)
        if share > 0.1 or len(losses) < len(rows):
            failures.append(say("{run}: {share} of its steps skipped, or a loss that is not finite", run=Name(run.name), share=percent(share, f"runs/{run.name}/steps.csv")))
        elif len(losses) > 7 and losses[-1] >= losses[0]:
            failures.append(say("{run}: its loss did not fall", run=Name(run.name)))
    return Check(say("losses are finite and fall, and few steps are skipped"), count, failures)


def repeats(facts: Facts) -> Check:
    failures, count = [], 0
    for setting, of in facts.single.items():
        for precision in of:
            rate = facts.ours(setting, precision, "tokens_per_s")
            if rate.n > 1:
                count += 1
                if (rate.high - rate.low) / rate.value > SPREAD:
                    failures.append(say("{run} and its repeats: {low} to {high} tokens/s", run=Name(rate.rows[0].text("run")),
                                        low=number(rate.low, rate.source, 0), high=number(rate.high, rate.source, 0)))  # fmt: skip
    return Check(say("repeated runs agree in speed"), count, failures)


ALL = (first_loss, base_loss, floor, supervised, parity, quality_gain, quality_parity, fsdp_memory, memory_parts, same_bits, rates, physics,
       skipped, repeats)  # fmt: skip


def run_all(facts: Facts) -> list[Check]:
    return [check(facts) for check in ALL]


def outcome(check: Check) -> Text:
    if check.passed is None:
        return say("nothing to look at: {it}", it=None)
    if check.passed:
        return say("passed ({n} looked at)", n=number(check.looked_at, "checks.py", 0))
    return say("**FAILED**: {what}", what=join(check.failures, "; ", "; "))
