"""What must hold of speed, memory and energy. How far from it is too far stands first, with the reason."""

import run_files
from check import Check
from document import Name, number, percent, ratio, say
from facts import Facts

RATES = 0.05  # samples/s and tokens/s are medians of their own
PACKED_RATES = 0.4  # the same where packs hold samples of many lengths: the median pack is not the mean one


SUPERLINEAR = 1.05


WATTS = (0.05, 1.1)  # of the device's limit


SPREAD = 0.15


def fsdp_memory(facts: Facts) -> Check:
    failures, count = [], 0
    for fsdp in facts.scaled:
        if fsdp.system != "llmft" or fsdp.strategy != "fsdp":
            continue
        same = ("device", "mode", "precision", "ranks", "tokens", "system", "program", "adapter_rank", "length")
        for ddp in facts.scaled:
            if ddp.strategy != "ddp" or any(getattr(ddp, k) != getattr(fsdp, k) for k in same):
                continue
            a, b = facts.peak_memory(fsdp.rows[0]), facts.peak_memory(ddp.rows[0])
            if a is None or b is None:
                continue
            count += 1
            if a[1] >= b[0]:
                failures.append(
                    say(
                        "{run}: {a}, DDP {b}",
                        run=Name(fsdp.rows[0].text("run")),
                        a=number(a[1], a[2], 3, " GB", 1e9),
                        b=number(b[0], b[2], 3, " GB", 1e9),
                    )
                )
    return Check(say("FSDP takes less memory than DDP on every rank"), count, failures)


def rates(facts: Facts) -> Check:
    failures, count = [], 0
    for row in [*facts.m.ours, *facts.m.variants]:
        samples, tokens = row["samples_per_s"], row["tokens_per_s"]
        length = ratio(row["tokens"], row["samples"]) or row.mean_length  # of this run's samples, where it tells
        if samples and tokens and length:
            count += 1
            if abs(samples * length / tokens - 1) > (RATES if row.fixed else PACKED_RATES):
                values = {
                    "s": number(samples, f"{row.where}, samples_per_s"),
                    "t": number(tokens, row.source("tokens_per_s"), 0),
                    "l": number(length, row.source("tokens")),
                }
                failures.append(
                    say("{run}: {s} samples/s, {t} tokens/s, {l} tokens a sample", run=Name(row.text("run")), **values)
                )
        if tokens and row["step_time_median_s"] and row["tokens"] and row["steps"]:
            count += 1
            if abs(row["tokens"] / row["steps"] / row["step_time_median_s"] / tokens - 1) > RATES:
                failures.append(
                    say("{run}: tokens of a step over its time are not its tokens/s", run=Name(row.text("run")))
                )
        if tokens and row["padded_tokens_per_s"]:
            count += 1
            if row["padded_tokens_per_s"] < tokens * (1 - RATES):
                failures.append(
                    say("{run}: fewer tokens a second with padding than without", run=Name(row.text("run")))
                )
    return Check(say("samples/s, tokens/s and step times tell the same"), count, failures)


def physics(facts: Facts) -> Check:
    """No MFU above one, no memory or power that the device does not have, no speedup beyond the number of ranks."""
    failures, count = [], 0
    for row in [*facts.m.cells, *facts.m.variants]:
        device = facts.reference.device(row.device)
        if row["mfu"]:
            count += 1
            if not 0 < row["mfu"] < 1:
                failures.append(
                    say("{run}: MFU {mfu}", run=Name(row.text("run")), mfu=number(row["mfu"], row.source("mfu")))
                )
        if device and row["peak_memory_bytes"]:
            count += 1
            if row["peak_memory_bytes"] > device["memory_gb"] * 1e9:
                failures.append(say("{run}: more memory than the device has", run=Name(row.text("run"))))
        if device and row["joules_per_token"] and row["tokens_per_s"]:
            count += 1
            share = row["joules_per_token"] * row["tokens_per_s"] / row.ranks / device["power_w"]
            if not WATTS[0] <= share <= WATTS[1]:
                failures.append(
                    say(
                        "{run}: {share} of the device's power limit",
                        run=Name(row.text("run")),
                        share=percent(share, row.source("joules_per_token")),
                    )
                )
    for s in facts.scaled:
        if s.efficiency is not None:
            count += 1
            if s.efficiency > SUPERLINEAR:
                failures.append(
                    say(
                        "{run}: {share} of as many times one rank",
                        run=Name(s.rows[0].text("run")),
                        share=percent(s.efficiency, s.many.source),
                    )
                )
    return Check(say("nothing beyond what the devices can: MFU, memory, power, speedup"), count, failures)


def memory_parts(facts: Facts) -> Check:
    failures, count = [], 0
    for run in facts.m.runs.values():
        for rank, parts in run_files.memory(run).items() if (run.path / "memory.csv").is_file() else ():
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
        texts = [
            [(row.text("step"), row.text("loss"), row.text("grad_norm")) for row in run_files.steps(run)]
            for run in runs
        ]
        for run, text in zip(runs[1:], texts[1:]):
            count += 1
            if text != texts[0]:
                failures.append(say("{a} differs from {b}", a=Name(run.name), b=Name(runs[0].name)))
    return Check(
        say(
            "runs with `--deterministic` have the same losses and gradient norms to the last digit, whatever the strategy and number of ranks"
        ),
        count,
        failures,
    )


def repeats(facts: Facts) -> Check:
    failures, count = [], 0
    for setting, of in facts.single.items():
        for precision in of:
            rate = facts.ours(setting, precision, "tokens_per_s")
            if rate.n > 1:
                count += 1
                if (rate.high - rate.low) / rate.value > SPREAD:
                    failures.append(
                        say(
                            "{run} and its repeats: {low} to {high} tokens/s",
                            run=Name(rate.rows[0].text("run")),
                            low=number(rate.low, rate.source, 0),
                            high=number(rate.high, rate.source, 0),
                        )
                    )
    return Check(say("repeated runs agree in speed"), count, failures)
