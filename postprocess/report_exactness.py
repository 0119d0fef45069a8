"""What --deterministic costs, bandwidth of collectives, and what was tried outside of the options."""

import checks
import figures
from document import MISSING, Block, Name, Paragraph, gigabytes, join, number, percent, say, table
from facts import Facts
from facts_scaling import tuning_words
from report_results import NAMES, spread
from style import short_device


def number_text(ranks: int):
    return say("{n}", n=number(ranks, "variants.csv, ranks", 0))


def deterministic_table(facts: Facts) -> list[Block]:
    pairs = facts.deterministic()
    if not pairs:
        return [Paragraph(say("What `--deterministic` costs: {it}.", it=None))]
    rows = []
    for row, other in pairs:
        tokens = number(row["tokens_per_s"], row.source("tokens_per_s"), 0)
        plain = number(other["tokens_per_s"], other.source("tokens_per_s"), 0) if other else MISSING
        cost = (
            percent(
                1 - row["tokens_per_s"] / other["tokens_per_s"],
                f"{row.source('tokens_per_s')}; {other.source('tokens_per_s')}",
            )
            if other
            else MISSING
        )
        rows.append(
            [
                Name(short_device(row.device)),
                say("{m} {p}", m=Name(figures.MODE_NAMES[row.text("mode")]), p=Name(row.text("precision"))),
                Name(NAMES[row.text("strategy") if row.ranks > 1 else "none"]),
                number(row.ranks, row.where, 0),
                plain,
                tokens,
                cost,
                spread(facts.peak_memory(row), gigabytes),
            ]
        )
    head = [
        "device",
        "trains",
        "strategy",
        "GPUs",
        "tokens/s",
        "tokens/s with `--deterministic`",
        "cost",
        "peak memory of a rank",
    ]
    groups = facts.same_bits()
    alike = sum(len(g) for g in groups)
    caption = say("What the same bits on any number of GPUs cost. A negative cost is the noise of short runs.")
    out: list[Block] = [table(head, rows, caption, left=3)]
    if groups:
        found = checks.same_bits(facts)
        words = (
            "have the same losses and gradient norms to the last digit"
            if found.passed
            else "do **not** have the same losses and gradient norms"
        )
        out.append(
            Paragraph(
                say(
                    "{n} such runs in {g} groups of equal batches, on {r} GPUs, " + words + ".",
                    n=number(alike, "variants.csv", 0),
                    g=number(len(groups), "variants.csv", 0),
                    r=join([number_text(r) for r in sorted({row.ranks for row, _ in pairs})]),
                )
            )
        )
    return out


def comm_table(facts: Facts) -> list[Block]:
    if not facts.m.comm:
        return [Paragraph(say("Bandwidth of collectives: {it}.", it=None))]
    rows = [
        [
            Name(r.text("collective")),
            Name(r.text("of")),
            number(r["bytes"], r.source("bytes"), 2, "", 1e6),
            number(r["time_us"], r.source("time_us"), 0),
            number(r["busbw_gb_s"], r.source("busbw_gb_s"), 1),
        ]
        for r in facts.m.comm
    ]
    r = facts.m.comm[0]
    caption = say(
        "Collectives of this model's sizes on {n} × {d}; bus bandwidth as nccl-tests count it.",
        n=number(r["ranks"], r.source("ranks"), 0),
        d=Name(short_device(r.text("device"))),
    )
    return [table(["collective", "of", "MB", "µs", "bus GB/s"], rows, caption, left=2)]


def tuned_points(facts: Facts) -> list:
    items = []
    for row, other in facts.tuned():
        items.append(
            say(
                "`{what}`, {m} {p} {s}: {x} of the tokens/s without it.",
                what=Name(tuning_words(row.text("run"))),
                m=Name(figures.MODE_NAMES[row.text("mode")]),
                p=Name(row.text("precision")),
                s=Name(NAMES[row.text("strategy")]),
                x=percent(
                    row["tokens_per_s"] / other["tokens_per_s"],
                    f"{row.source('tokens_per_s')}; {other.source('tokens_per_s')}",
                ),
            )
        )
    return items
