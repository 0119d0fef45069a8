"""Several GPUs: the published scaling, ours beside peers, memory of each rank."""

import figures
from document import (
    MISSING,
    Block,
    Name,
    Num,
    Paragraph,
    Points,
    gigabytes,
    heading,
    join,
    number,
    percent,
    ratio,
    say,
    table,
)
from facts import Facts
from facts_scaling import Scaled
from report_exactness import comm_table, deterministic_table, tuned_points
from report_results import NAMES, over, rate, spread
from style import short_device


def milliseconds(value: float, source: str) -> Num:
    return number(value, source, 2, "", 1e-3)


def strategy_name(s: Scaled):
    return Name(NAMES[s.strategy] + (" shard_grad_op" if s.sharding == "shard_grad_op" else ""))


def published_table(facts: Facts) -> Block:
    rows = []
    for precision, strategy in (("fp16", "ddp"), ("fp32", "fsdp"), ("fp16", "fsdp")):
        found = [
            r
            for r in facts.reference.original
            if (r.text("quantity"), r.text("precision"), r.text("strategy")) == ("samples_per_s", precision, strategy)
        ]
        one = next((r for r in found if r["gpus"] == 1), None)
        by_gpus = {int(r["gpus"]): r for r in found}
        rows.append(
            [
                Name(f"{NAMES[strategy]} {precision}"),
                *(
                    number(by_gpus[n]["value"], by_gpus[n].source("value")) if n in by_gpus else MISSING
                    for n in (1, 2, 4, 8)
                ),
            ]
        )
        last = by_gpus[max(by_gpus)]
        rows[-1].append(
            percent(ratio(last["value"], one["value"] * last["gpus"]), f"{last.source('value')}; {one.source('value')}")
            if one and last is not one
            else MISSING
        )
        memory = next(
            (
                r
                for r in facts.reference.original
                if (r.text("quantity"), r.text("precision"), r.text("strategy")) == ("memory_gb", precision, strategy)
            ),
            None,
        )
        rows[-1].append(number(memory["value"], memory.source("value"), 1, " GB") if memory else MISSING)
    source = facts.reference.published("samples_per_s", "fp16", "ddp", 1)
    gpus = [number(n, source.source("gpus"), 0) for n in (1, 2, 4, 8)]
    head = ["samples/s on", *(say("{n} GPU", n=n) for n in gpus), "efficiency at the most", "memory of a rank"]
    return table(head, rows, say("The published study's scaling."))


def trains(s: Scaled):
    mode = say("LoRA r = {r}", r=number(s.adapter_rank, s.many.source, 0)) if s.mode == "lora" else say("full")
    return mode + say(" {p}", p=Name(s.precision))


def scaling_table(facts: Facts, device: str) -> Block:
    rows = []
    for s in facts.scaled_at(device, newest=False):
        memory = facts.peak_memory(s.rows[0])
        exposed = facts.exposed(s.rows[0]) if s.system == "llmft" else None
        many, source = number(s.ranks, s.many.source, 0), s.many.source
        rows.append(
            [
                Name(" ".join([s.system, s.rows[0].text("commit")]).strip()),
                trains(s),
                say("{n}", n=strategy_name(s)),
                many,
                number(s.tokens, source, 0),
                number(s.rows[0].mean_length, s.rows[0].source("sample_length_mean"), 0),
                rate(s.one) if s.one else MISSING,
                rate(s.many),
                percent(s.efficiency, source),
                spread(memory, gigabytes),
                spread(exposed, milliseconds) if s.system == "llmft" else MISSING,
            ]
        )
    head = [
        "system",
        "trains",
        "strategy",
        "GPUs",
        "tokens a rank and step",
        "a sample",
        "tokens/s on one",
        "tokens/s",
        "efficiency",
        "peak memory of a rank",
        "exposed communication, ms a step",
    ]
    caption = say(
        "{device}; weak scaling: every rank has the tokens of a step on one GPU. Efficiency: tokens/s over those of as many single GPUs, of the same program (its commit stands beside the name; the report's sentences take the newest). Memory and exposed communication: "
        "least and most of the ranks (of a peer, rank zero's memory). Peers: PEFT is transformers and PEFT with autocast, FSDP its FSDP2; Liger has bf16 weights.",
        device=Name(short_device(device)),
    )
    return table(head, rows, caption, left=3, strong=(7,))


def beside_peers(facts: Facts, device: str) -> list:
    """Sentences: ours over each peer's, same strategy."""
    items = []
    for mode in ("lora", "full"):
        parts = []
        for system in ("PEFT", "Liger", "Unsloth"):
            for strategy in ("ddp", "fsdp"):
                if pair := facts.beside(device, mode, strategy, system):
                    mine, theirs, together = pair
                    where = "" if together else " (another measurement run)"
                    parts.append(
                        say(
                            "{x} {system}'s with {s}{where}",
                            x=over(mine.many, theirs.many),
                            system=Name(system),
                            s=Name(NAMES[strategy]),
                            where=where,
                        )
                    )
        if parts:
            words = "bf16 {mode}, tokens/s of llmft over the peers' beside it: {list}."
            items.append(say(words, mode=Name(figures.MODE_NAMES[mode]), list=join(parts)))
    return items


def findings(facts: Facts, device: str) -> list:
    items = []
    ours = facts.main_scaling(device)
    pairs = facts.ddp_fsdp_pairs(device)
    if pairs:
        faster = [(d, f) for d, f in pairs if d.many.value > f.many.value]
        slower = [pair for pair in pairs if pair not in faster]
        if faster and not slower:
            items.append(say("DDP is faster than FSDP wherever both were measured: {names}.", names=_leads(faster)))
        elif slower and not faster:
            words = "FSDP is at least as fast as DDP wherever both were measured: {names}."
            items.append(say(words, names=_leads(slower)))
        else:
            words = "DDP is faster than FSDP for {a}; FSDP is faster for {b}."
            items.append(say(words, a=_leads(faster), b=_leads(slower)))
        memories = [(d, f, facts.peak_memory(d.rows[0]), facts.peak_memory(f.rows[0])) for d, f in pairs]
        memories = [m for m in memories if m[2] and m[3]]
        if memories:
            holds = [m for m in memories if m[3][1] < m[2][0]]
            saved = [1 - m[3][1] / m[2][0] for m in memories]
            if len(holds) == len(memories):
                low, high = min(saved), max(saved)
                items.append(
                    say(
                        "FSDP uses less memory than DDP on every rank, in every pair measured: {low} to {high} less. In the published study it used more ({f} against {d}).",
                        low=percent(low, "memory.csv of both"),
                        high=percent(high, "memory.csv of both"),
                        **_published_memory(facts),
                    )
                )
            else:
                broken = [m for m in memories if m not in holds]
                items.append(
                    say(
                        "FSDP does **not** use less memory than DDP in {list}.",
                        list=join(
                            [
                                say("{m} {p}", m=Name(figures.MODE_NAMES[m[0].mode]), p=Name(m[0].precision))
                                for m in broken
                            ]
                        ),
                    )
                )
    best = [s for s in ours if s.efficiency]
    if best:
        top, least = max(best, key=lambda s: s.efficiency), min(best, key=lambda s: s.efficiency)
        items.append(
            say(
                "Efficiency lies between {low} ({a}) and {high} ({b}).",
                low=percent(least.efficiency, least.many.source),
                high=percent(top.efficiency, top.many.source),
                a=_named(least),
                b=_named(top),
            )
        )
        if top.efficiency > 1:
            items.append(
                say(
                    "More than as many times one GPU cannot be a gain of parallel training: one GPU of a node may be slower than another, and runs of a few seconds differ."
                )
            )
    return items


def _leads(pairs: list[tuple[Scaled, Scaled]]):
    """Which, and by how much the faster strategy leads."""
    found = []
    for d, f in pairs:
        fast, slow = max(d.many.value, f.many.value), min(d.many.value, f.many.value)
        lead = percent(fast / slow - 1, f"{d.many.source}; {f.many.source}")
        found.append(say("{m} {p} (by {x})", m=Name(figures.MODE_NAMES[d.mode]), p=Name(d.precision), x=lead))
    return join(found)


def _named(s: Scaled):
    return say(
        "{m} {p} {s} on {n}",
        m=Name(figures.MODE_NAMES[s.mode]),
        p=Name(s.precision),
        s=strategy_name(s),
        n=number(s.ranks, s.many.source, 0),
    )


def _published_memory(facts: Facts) -> dict:
    of_ = {k: facts.reference.published("memory_gb", "fp16", s, 4) for k, s in (("f", "fsdp"), ("d", "ddp"))}
    return {k: number(r["value"], r.source("value"), 1, " GB") if r else None for k, r in of_.items()}


def section(facts: Facts, picture) -> list[Block]:
    out: list[Block] = [heading(2, "Several GPUs")]
    device = facts.scaling_device()
    if device is None:
        out.append(Paragraph(say("Runs on several GPUs: {it}.", it=None)))
    else:
        out += [Points(findings(facts, device) + beside_peers(facts, device)), scaling_table(facts, device)]
        out += picture("DDP_VS_FSDP") + picture("speedup_plot")
    out += [heading(3, "As published"), published_table(facts)]
    out += [heading(3, "What exactness costs"), *deterministic_table(facts)]
    out += [heading(3, "Communication"), *comm_table(facts)]
    if tuned := tuned_points(facts):
        out += [Paragraph(say("Tried beside, outside of the options:")), Points(tuned)]
    return out
