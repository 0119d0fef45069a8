"""The first page of the report: the result in tiles, what failed, the main table; and the tables of one GPU."""
import figures
from document import (
    MISSING, Block, Name, Note, Num, Picture, Points, Tiles, gigabytes, heading, join, number, percent, plain, ratio, say, table,
    times, Paragraph,
)  # fmt: skip
from facts import PEERS, Facts, Setting, Value
from measured import Stat
from read import PRECISIONS
from style import short_device

STUDY = ("fp32", "tf32", "fp16", "bf16")


def of(value: "Stat | Value | None", digits: int | None = None, unit: str = "") -> Num:
    return MISSING if value is None else number(value.value, value.source, digits, unit)


def rate(value: "Stat | Value | None") -> Num:
    return MISSING if value is None else number(value.value, value.source, 0)


def over(a: "Stat | Value | None", b: "Stat | Value | None") -> Num:
    return MISSING if a is None or b is None else times(ratio(a.value, b.value), f"{a.source}; {b.source}")


def memory(value: "Stat | Value | None") -> Num:
    return MISSING if value is None else gigabytes(value.value, value.source)


def aside(value: Value | None, shown: Num):
    """A peer's figure; of another visit it is marked."""
    return shown if value is None or value.here else say("{it} †", it=shown)


def original_words(facts: Facts):
    o = facts.original
    return say("{b} × {s} tokens a step, LoRA r = {r} on q, v, o", b=number(o.batch, o.source, 0), s=number(o.sample_tokens, o.source, 0), r=number(o.rank, o.source, 0))


def fastest(facts: Facts) -> str | None:
    """The precision that is fastest at the original's setting."""
    speeds = {p: facts.ours(facts.original_setting, p, "samples_per_s") for p in STUDY}
    return max((p for p in speeds if speeds[p]), key=lambda p: speeds[p].value, default=None)


def main_table(facts: Facts) -> Block:
    speed, setting = facts.original_speed(), facts.original_setting
    rows = []
    for precision in STUDY:
        mine = facts.ours(setting, precision, "samples_per_s")
        published = speed[precision]["published"]
        peers = [speed[precision][system] for system in PEERS]
        rows.append([
            Name(precision), of(mine), of(published), over(mine, published),
            *(cell for peer in peers for cell in (aside(peer, of(peer)), over(mine, peer))),
        ])  # fmt: skip
    head = ["precision", "llmft, samples/s", "published original", "llmft over it"]
    head += [word for system in PEERS for word in (system, "llmft over it")]
    device = short_device(setting.device) if setting else None
    caption = say(
        "Samples a second at the original's setting ({words}){on}. † not in the same visit. Of a peer's forms the fastest.",
        words=original_words(facts), on=say(", one {device}", device=Name(device)) if device else (),
    )  # fmt: skip
    return table(head, rows, caption, strong=(1,))


def resources_table(facts: Facts) -> Block:
    setting, rows = facts.original_setting, []
    for precision in STUDY:
        published = facts.reference.published("memory_gb", precision, "none", 1)
        other = published and Value(published["value"] * 1e9, published.source("value"))
        mine = facts.ours(setting, precision, "peak_memory_bytes")
        peers = [facts.original_peer(system, precision, "peak_memory_bytes") for system in PEERS]
        joules, mfu = facts.ours(setting, precision, "joules_per_token"), facts.ours(setting, precision, "mfu")
        tokens = facts.ours(setting, precision, "tokens_per_s")
        rows.append([
            Name(precision), rate(tokens), memory(mine), memory(other), *(aside(p, memory(p)) for p in peers),
            number(joules.value, joules.source, 2, " mJ", 1e-3) if joules else MISSING, percent(mfu.value, mfu.source) if mfu else MISSING,
        ])  # fmt: skip
    head = ["precision", "tokens/s", "llmft, peak memory", "published original", *PEERS, "energy a token", "MFU"]
    return table(head, rows, say("The same runs: memory, energy and utilization. MFU counts the FLOPs of a plain step. † not in the same visit."), strong=(2,))


def goals(facts: Facts) -> Block:
    """What the project asked of itself, and whether it is so."""
    setting, rows = facts.original_setting, []
    fp32 = facts.ours(setting, "fp32", "samples_per_s")
    device = facts.scaling_device()

    def add(words, value: float | None, source: str, goal, shown, least: bool = True) -> None:
        wanted = facts.reference.goals[goal]
        met = None if value is None else (value >= wanted["value"]) == least or value == wanted["value"]
        rows.append([words, shown(value, source), shown(wanted["value"], wanted.source("value")), say("{it}", it=None) if met is None else say("met" if met else "**not met**")])

    for precision in ("fp32", "fp16", "bf16"):
        mine, published = facts.ours(setting, precision, "samples_per_s"), facts.original_speed()[precision]["published"]
        value = ratio(mine and mine.value, published and published.value)
        add(say("{p}: samples/s over the published", p=Name(precision)), value, mine.source if mine else "", ("times_published", precision), times)
    tf32 = facts.ours(setting, "tf32", "samples_per_s")
    add(say("tf32: samples/s over our own fp32"), ratio(tf32 and tf32.value, fp32 and fp32.value), tf32.source if tf32 else "", ("times_own_fp32", "tf32"), times)
    peak = facts.ours(setting, "bf16", "peak_memory_bytes")
    gb = lambda value, source: number(value, source, 2, " GB")  # noqa: E731
    add(say("bf16: peak memory, at most"), peak and peak.value / 1e9, peak.source if peak else "", ("memory_gb", "bf16"), gb, least=False)
    tokens = facts.ours(setting, "bf16", "tokens_per_s")
    whole = lambda value, source: number(value, source, 0)  # noqa: E731
    add(say("bf16: tokens/s at the original's setting"), tokens and tokens.value, tokens.source if tokens else "", ("tokens_per_s_original_setting", "bf16"), whole)
    h100 = [s for s in facts.ordered_settings() if "H100" in s.device and s.fixed]
    for mode, precision, goal in (("lora", "bf16", "tokens_per_s_lora"), ("lora", "tf32", "tokens_per_s_lora"), ("lora", "fp32", "tokens_per_s_lora"), ("full", "bf16", "tokens_per_s_full")):
        found = [facts.ours(s, precision, "tokens_per_s") for s in h100 if s.mode == mode and (mode == "full" or s.adapter_rank < facts.original.rank)]
        best = max((f for f in found if f), key=lambda f: f.value, default=None)
        add(say("{p} {mode}: tokens/s on one H100", p=Name(precision), mode=Name(figures.MODE_NAMES[mode])), best and best.value, best.source if best else "", (goal, precision), whole)
    for mode, strategy, goal in (("lora", "ddp", "efficiency_ddp"), ("lora", "fsdp", "efficiency_fsdp"), ("full", "fsdp", "efficiency_fsdp_full")):
        found = [s for s in facts.scaled_at(device or "", system="llmft", mode=mode, precision="bf16", strategy=strategy, ranks=2) if s.sharding in ("", "full_shard")]
        value = found[0].efficiency if found else None
        add(say("bf16 {mode}, {s}: share of as many times one GPU", mode=Name(figures.MODE_NAMES[mode]), s=Name(strategy.upper())), value,
            found[0].many.source if found else "", (goal, "bf16"), percent)  # fmt: skip
    for strategy in ("ddp", "fsdp"):
        mine = [s for s in facts.scaled_at(device or "", system="llmft", mode="lora", precision="bf16", strategy=strategy, ranks=2) if s.sharding in ("", "full_shard")]
        liger = [s for s in facts.scaled_at(device or "", system="Liger", mode="lora", precision="bf16", strategy=strategy, ranks=2) if mine and s.tokens == mine[0].tokens]
        value = mine[0].many.value / liger[0].many.value if liger else None
        add(say("bf16 LoRA, {s}: tokens/s over Liger's beside it", s=Name(strategy.upper())), value, mine[0].many.source if mine else "", ("times_liger", "bf16"), times)
    caption = say("Goals set before the measurements, and what was measured.")
    return table(["", "measured", "goal", ""], rows, caption)


def abstract(facts: Facts) -> list[Block]:
    setting, best = facts.original_setting, fastest(facts)
    sentences = [say(
        "llmft is a C++20 program that fine-tunes Llama 3.2-1B under MPI on GPUs, and this is its study of precision and parallel training: what "
        "fp32, tf32, fp16 and bf16 do to speed, memory and quality, and what DDP and FSDP gain and cost."
    )]  # fmt: skip
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
                tail = say("; that is {list}, {when}", list=join(comparisons), when="measured beside it" if together else "measured on another day")
            sentences.append(say("At the setting of the study that it repeats ({w}) {p} trains on {n} samples a second, {faster} the published {pub} ({x}){tail}.",
                                 w=original_words(facts), p=Name(best), n=of(mine), faster=words, pub=of(published), x=over(mine, published), tail=tail))  # fmt: skip
    else:
        sentences.append(say("At the setting of the study that it repeats: {it}.", it=None))
    return [Paragraph(tuple(part for s in sentences for part in (*s, " ")))]


def tiles(facts: Facts) -> Block:
    setting, best = facts.original_setting, fastest(facts) or "bf16"
    mine, published = facts.ours(setting, best, "samples_per_s"), facts.original_speed()[best]["published"]
    unsloth = facts.original_speed()[best]["Unsloth"]
    peak = facts.ours(setting, best, "peak_memory_bytes")
    other = facts.reference.published("memory_gb", best, "none", 1)
    items = [
        (say("{n} samples/s", n=of(mine)), say("{p}, {w}; published {pub} ({x}), Unsloth {u} ({y})", p=Name(best), w=original_words(facts), pub=of(published), x=over(mine, published), u=of(unsloth), y=over(mine, unsloth))),
        (say("{m}", m=memory(peak)), say("peak memory of that run; published {o}", o=gigabytes(other["value"] * 1e9, other.source("value")) if other else None)),
    ]  # fmt: skip
    device = facts.scaling_device()
    for strategy in ("ddp", "fsdp"):
        found = [s for s in facts.scaled_at(device or "", system="llmft", mode="lora", precision="bf16", strategy=strategy) if s.sharding in ("", "full_shard") and s.efficiency]
        if found:
            s = max(found, key=lambda s: s.ranks)
            items.append((say("{e}", e=percent(s.efficiency, s.many.source)),
                          say("of {n} times one GPU: {strategy}, bf16 LoRA, {t} tokens/s on {n} × {d}", n=number(s.ranks, s.many.source, 0), strategy=Name(strategy.upper()), t=rate(s.many), d=Name(short_device(device)))))  # fmt: skip
    gains = [r for r in facts.quality_rows() if r.metric in ("validation loss", "perplexity")]
    if gains:
        r = next((r for r in gains if r.precision == "bf16"), gains[0])
        items.append((say("{a} → {b}", a=of(r.base), b=of(r.tuned)), say("{metric} before and after fine-tuning, {p} {mode}", metric=Name(r.metric), p=Name(r.precision), mode=Name(figures.MODE_NAMES.get(r.mode, r.mode)))))
    else:
        items.append((say("{it}", it=None), say("quality before and after fine-tuning")))
    rows = [r for r in facts.m.preprocess if r.text("system") == "llmft" and r["wall_s"]]
    dask = facts.reference.published("tokenize_dask_minutes")
    if rows:
        r = min(rows, key=lambda r: r["wall_s"])
        items.append((say("{s} s", s=number(r["wall_s"], r.source("wall_s"), 1)), say("to tokenize {n} million rows into shards on {c} cores; published {d} minutes with Dask",
                      n=number(r["rows"], r.source("rows"), None, "", 1e6), c=number(r["cores"], r.source("cores"), 0), d=number(dask["value"], dask.source("value"), 0))))  # fmt: skip
    return Tiles([(a if isinstance(a, tuple) else say("{it}", it=a), b) for a, b in items])


def setting_title(s: Setting):
    where = "benchmarks.csv"
    mode = say("LoRA r = {r}", r=number(s.adapter_rank, where, 0)) if s.mode == "lora" else say("Full fine-tuning")
    if s.batch:
        size = say("{b} × {l} tokens a step", b=number(s.batch, where, 0), l=number(s.length, where, 0))
    elif not s.fixed:
        size = say("real lengths (mean {m}, at most {x}), packed, {t} tokens a step", m=number(s.length, where, 0), x=number(s.longest, where, 0), t=number(s.tokens, where, 0))
    else:
        size = say("{t} tokens a step", t=number(s.tokens, where, 0))
    if s.pack_tokens and s.tokens != s.pack_tokens:
        size += say(" in packs of {p}", p=number(s.pack_tokens, where, 0))
    return say("{mode}, {size}, one {device}", mode=mode, size=size, device=Name(short_device(s.device)))


def setting_table(facts: Facts, s: Setting) -> list[Block]:
    rows, marked = [], False
    padded = any(facts.ours(s, p, "padded_tokens_per_s") for p in PRECISIONS)
    peers = [system for system in PEERS if any(facts.peer(s, system, p) for p in PRECISIONS)]
    for precision in PRECISIONS:
        mine = facts.ours(s, precision, "tokens_per_s")
        if mine is None:
            continue
        joules, mfu = facts.ours(s, precision, "joules_per_token"), facts.ours(s, precision, "mfu")
        cells = [Name(precision), rate(mine), of(facts.ours(s, precision, "samples_per_s"))]
        cells += [rate(facts.ours(s, precision, "padded_tokens_per_s"))] if padded else []
        cells += [memory(facts.ours(s, precision, "peak_memory_bytes")), percent(mfu.value, mfu.source) if mfu else MISSING]
        cells += [number(joules.value, joules.source, 2, " mJ", 1e-3) if joules else MISSING]
        for system in peers:
            peer = facts.peer(s, system, precision)
            marked |= peer is not None and not peer.here
            cells += [aside(peer, rate(peer)), over(mine, peer)]
        rows.append(cells)
    head = ["precision", "tokens/s", "samples/s", *(["as if padded, tokens/s"] if padded else []), "peak memory", "MFU", "energy a token"]
    head += [word for system in peers for word in (f"{system}, tokens/s", "llmft over it")]
    notes = [say("{t}.", t=setting_title(s))]
    if not s.fixed:
        notes.append(say("Tokens/s counts real tokens: packs have no padding, peers pad a batch to its longest sample."))
    if marked:
        notes.append(say("† not in the same visit."))
    sources = {row.text("source") for rows_ in facts.single[s].values() for row in rows_} - {""}
    if sources:
        notes.append(say("Rows {it}; run files were not kept.", it=Name("; ".join(sorted(sources)))))
    caption = tuple(part for note in notes for part in (*note, " "))[:-1]
    return [table(head, rows, caption, strong=(1,))]
