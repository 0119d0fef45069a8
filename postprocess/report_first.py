"""The first page of the report: the results in a paragraph and in tiles."""

import figures
from document import Block, Name, Paragraph, Tiles, gigabytes, join, number, percent, say
from facts import PEERS, Facts
from report_results import aside, fastest, memory, of, original_words, over, rate
from style import short_device


def abstract(facts: Facts) -> list[Block]:
    setting, best = facts.original_setting, fastest(facts)
    sentences = [
        say(
            "llmft is a C++20 program that fine-tunes Llama 3.2-1B under MPI on GPUs, and this is its study of precision and parallel training: what "
            "fp32, tf32, fp16 and bf16 do to speed, memory and quality, and what DDP and FSDP gain and cost."
        )
    ]
    if best:
        mine, published = facts.ours(setting, best, "samples_per_s"), facts.original_speed()[best]["published"]
        if published:
            words = "faster than" if mine.value > published.value else "slower than"
            peers = {s: facts.original_speed()[best][s] for s in PEERS}
            peers = {s: v for s, v in peers.items() if v}
            tail = ()
            if peers:
                comparisons = [say("{x} {name}'s", x=over(mine, v), name=Name(s)) for s, v in peers.items()]
                together = all(v.here for v in peers.values())
                tail = say(
                    "; that is {list}, {when}",
                    list=join(comparisons),
                    when="measured beside it" if together else "measured in another measurement run",
                )
            sentences.append(
                say(
                    "At the setting of the study that it repeats ({w}) {p} trains on {n} samples a second, {faster} the published {pub} ({x}){tail}.",
                    w=original_words(facts),
                    p=Name(best),
                    n=of(mine),
                    faster=words,
                    pub=of(published),
                    x=over(mine, published),
                    tail=tail,
                )
            )
    else:
        sentences.append(say("At the setting of the study that it repeats: {it}.", it=None))
    sentences += more_of_abstract(facts, best)
    return [Paragraph(tuple(part for s in sentences for part in (*s, " "))[:-1])]


def more_of_abstract(facts: Facts, best: str | None) -> list:
    """Memory, scaling, quality, tokenization: a sentence each of what was measured."""
    sentences = []
    peak, other = (
        facts.ours(facts.original_setting, best or "", "peak_memory_bytes"),
        facts.reference.published("memory_gb", best or "", "none", 1),
    )
    if peak and other:
        sentences.append(
            say(
                "It takes {m} of memory; the original took {o}.",
                m=memory(peak),
                o=gigabytes(other["value"] * 1e9, other.source("value")),
            )
        )
    device = facts.scaling_device()
    if device:
        ours = [
            s for s in facts.main_scaling(device, precision="bf16") if s.efficiency and s.strategy in ("ddp", "fsdp")
        ]
        ranks = max((s.ranks for s in ours), default=0)
        parts = [
            say(
                "{e} ({m}, {s})",
                e=percent(s.efficiency, s.many.source),
                m=Name(figures.MODE_NAMES[s.mode]),
                s=Name(s.strategy.upper()),
            )
            for s in ours
            if s.ranks == ranks
        ]
        if parts:
            sentences.append(
                say(
                    "{n} ranks give, of as many times one, {list} in bf16.",
                    n=number(ranks, ours[0].many.source, 0),
                    list=join(parts),
                )
            )
    gains = [r for r in facts.quality_rows() if r.low and r.high]
    if gains:
        better = [r for r in gains if r.better]
        verdict = "in every precision and metric" if len(better) == len(gains) else "in {k} of {n} cases"
        sentences.append(
            say(
                "Fine-tuned beats pretrained beyond the bootstrap interval " + verdict + ".",
                k=number(len(better), "quality.csv", 0),
                n=number(len(gains), "quality.csv", 0),
            )
        )
    else:
        sentences.append(say("Quality: {it}.", it=None))
    return sentences


def tiles(facts: Facts) -> Block:
    setting, best = facts.original_setting, fastest(facts) or "bf16"
    mine, published = facts.ours(setting, best, "samples_per_s"), facts.original_speed()[best]["published"]
    unsloth = facts.original_speed()[best]["Unsloth"]
    peak = facts.ours(setting, best, "peak_memory_bytes")
    other = facts.reference.published("memory_gb", best, "none", 1)
    items = [
        (
            say("{n} samples/s", n=of(mine)) if mine else say("{n}", n=None),
            say(
                "samples/s in {p}, {w}; published {pub} ({x}), Unsloth {u} ({y})"
                if not mine
                else "{p}, {w}; published {pub} ({x}), Unsloth {u} ({y})",
                p=Name(best),
                w=original_words(facts),
                pub=of(published),
                x=over(mine, published),
                u=aside(unsloth, of(unsloth)),
                y=over(mine, unsloth),
            ),
        ),
        (
            say("{m}", m=memory(peak)),
            say(
                "peak memory of that run; published {o}",
                o=gigabytes(other["value"] * 1e9, other.source("value")) if other else None,
            ),
        ),
    ]
    device = facts.scaling_device()
    for strategy in ("ddp", "fsdp"):
        found = facts.main_scaling(device or "", mode="lora", precision="bf16", strategy=strategy)
        found = [s for s in found if s.efficiency]
        if found:
            s = max(found, key=lambda s: s.ranks)
            items.append(
                (
                    say("{e}", e=percent(s.efficiency, s.many.source)),
                    say(
                        "of {n} times one: {strategy}, bf16 LoRA, {t} tokens/s on {n} × {d}",
                        n=number(s.ranks, s.many.source, 0),
                        strategy=Name(strategy.upper()),
                        t=rate(s.many),
                        d=Name(short_device(device)),
                    ),
                )
            )
    gains = [r for r in facts.quality_rows() if r.metric in ("validation loss", "perplexity")]
    if gains:
        r = next((r for r in gains if r.precision == "bf16"), gains[0])
        items.append(
            (
                say("{a} → {b}", a=of(r.base), b=of(r.tuned)),
                say(
                    "{metric} before and after fine-tuning, {p} {mode}",
                    metric=Name(r.metric),
                    p=Name(r.precision),
                    mode=Name(figures.MODE_NAMES.get(r.mode, r.mode)),
                ),
            )
        )
    else:
        items.append((say("{it}", it=None), say("quality before and after fine-tuning")))
    rows = [r for r in facts.m.preprocess if r.text("system") == "llmft" and r["wall_s"]]
    dask = facts.reference.published("tokenize_dask_minutes")
    if rows:
        r = min(rows, key=lambda r: (-(r["rows"] or 0), r["wall_s"]))  # the largest data, at its fastest
        items.append(
            (
                say("{s} s", s=number(r["wall_s"], r.source("wall_s"), 1)),
                say(
                    "to tokenize {n} million rows into shards on {c} cores; published {d} minutes with Dask",
                    n=number(r["rows"], r.source("rows"), None, "", 1e6),
                    c=number(r["cores"], r.source("cores"), 0),
                    d=number(dask["value"], dask.source("value"), 0),
                ),
            )
        )
    return Tiles([(a if isinstance(a, tuple) else say("{it}", it=a), b) for a, b in items])
