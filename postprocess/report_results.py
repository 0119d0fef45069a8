"""The tables of one GPU: at the original's setting and at others, beside peers."""

from document import MISSING, Block, Name, Num, gigabytes, number, percent, ratio, say, table, times
from facts import PEERS, Facts, Setting, Value
from measured import Stat
from read import PRECISIONS
from style import short_device

STUDY = ("fp32", "tf32", "fp16", "bf16")


NAMES = {"none": "one GPU", "ddp": "DDP", "fsdp": "FSDP", "hsdp": "HSDP"}


def spread(values: tuple[float, float, str] | None, shown) -> object:
    """One figure, or the least and the most of the ranks."""
    if values is None:
        return MISSING
    low, high = shown(values[0], values[2]), shown(values[1], values[2])
    return low if low == high else say("{low} to {high}", low=low, high=high)


def of(value: Stat | Value | None, digits: int | None = None, unit: str = "") -> Num:
    return MISSING if value is None else number(value.value, value.source, digits, unit)


def rate(value: Stat | Value | None) -> Num:
    return MISSING if value is None else number(value.value, value.source, 0)


def over(a: Stat | Value | None, b: Stat | Value | None) -> Num:
    return MISSING if a is None or b is None else times(ratio(a.value, b.value), f"{a.source}; {b.source}")


def memory(value: Stat | Value | None) -> Num:
    return MISSING if value is None else gigabytes(value.value, value.source)


def aside(value: Value | None, shown: Num):
    """A peer's figure; of another measurement run, or another batch, it is marked."""
    if value is None or (value.here and value.same_batch):
        return shown
    return say("{it} " + ("" if value.here else "†") + ("" if value.same_batch else "‡"), it=shown)


def original_words(facts: Facts):
    o = facts.original
    return say(
        "{b} × {s} tokens a step, LoRA r = {r} on q, v, o",
        b=number(o.batch, o.source, 0),
        s=number(o.sample_tokens, o.source, 0),
        r=number(o.rank, o.source, 0),
    )


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
        rows.append(
            [
                Name(precision),
                of(mine),
                of(published),
                over(mine, published),
                *(cell for peer in peers for cell in (aside(peer, of(peer)), over(mine, peer))),
            ]
        )
    head = ["precision", "llmft, samples/s", "published original", "llmft over it"]
    head += [word for system in PEERS for word in (system, "llmft over it")]
    device = short_device(setting.device) if setting else None
    caption = say(
        "Samples a second at the original's setting ({words}){on}. † not in the same measurement run. Of a peer's forms the fastest.",
        words=original_words(facts),
        on=say(", one {device}", device=Name(device)) if device else (),
    )
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
        rows.append(
            [
                Name(precision),
                rate(tokens),
                memory(mine),
                memory(other),
                *(aside(p, memory(p)) for p in peers),
                number(joules.value, joules.source, 2, " mJ", 1e-3) if joules else MISSING,
                percent(mfu.value, mfu.source) if mfu else MISSING,
            ]
        )
    head = ["precision", "tokens/s", "llmft, peak memory", "published original", *PEERS, "energy a token", "MFU"]
    return table(
        head,
        rows,
        say(
            "The same runs: memory, energy and utilization. MFU counts the operations of a plain implementation that computes logits of supervised tokens alone. † not in the same measurement run."
        ),
        strong=(2,),
    )


def setting_title(s: Setting):
    where = "benchmarks.csv"
    mode = say("LoRA r = {r}", r=number(s.adapter_rank, where, 0)) if s.mode == "lora" else say("Full fine-tuning")
    if s.batch:
        size = say("{b} × {l} tokens a step", b=number(s.batch, where, 0), l=number(s.length, where, 0))
    elif not s.fixed:
        size = say(
            "real lengths (mean {m}, at most {x}), packed, {t} tokens a step",
            m=number(s.length, where, 0),
            x=number(s.longest, where, 0),
            t=number(s.tokens, where, 0),
        )
    else:
        size = say("{t} tokens a step", t=number(s.tokens, where, 0))
    if s.pack_tokens and s.tokens != s.pack_tokens:
        size += say(" in packs of {p}", p=number(s.pack_tokens, where, 0))
    return say("{mode}, {size}, one {device}", mode=mode, size=size, device=Name(short_device(s.device)))


def setting_table(facts: Facts, s: Setting) -> list[Block]:
    rows, marked, other_batch = [], False, False
    padded = not s.fixed and any(facts.ours(s, p, "padded_tokens_per_s") for p in PRECISIONS)
    peers = [system for system in PEERS if any(facts.peer(s, system, p) for p in PRECISIONS)]
    for precision in PRECISIONS:
        mine = facts.ours(s, precision, "tokens_per_s")
        if mine is None:
            continue
        joules, mfu = facts.ours(s, precision, "joules_per_token"), facts.ours(s, precision, "mfu")
        cells = [Name(precision), rate(mine), of(facts.ours(s, precision, "samples_per_s"))]
        cells += [rate(facts.ours(s, precision, "padded_tokens_per_s"))] if padded else []
        cells += [
            memory(facts.ours(s, precision, "peak_memory_bytes")),
            percent(mfu.value, mfu.source) if mfu else MISSING,
        ]
        cells += [number(joules.value, joules.source, 2, " mJ", 1e-3) if joules else MISSING]
        for system in peers:
            peer = facts.peer(s, system, precision)
            marked |= peer is not None and not peer.here
            other_batch |= peer is not None and not peer.same_batch
            cells += [aside(peer, rate(peer)), over(mine, peer)]
        rows.append(cells)
    head = [
        "precision",
        "tokens/s",
        "samples/s",
        *(["as if padded, tokens/s"] if padded else []),
        "peak memory",
        "MFU",
        "energy a token",
    ]
    head += [word for system in peers for word in (f"{system}, tokens/s", "llmft over it")]
    notes = [say("{t}.", t=setting_title(s))]
    if not s.fixed:
        notes.append(
            say("Tokens/s counts real tokens: packs have no padding, peers pad a batch to its longest sample.")
        )
    if marked:
        notes.append(say("† not in the same measurement run."))
    if other_batch:
        notes.append(say("‡ at another number of tokens a step."))
    sources = {row.text("source") for rows_ in facts.single[s].values() for row in rows_} - {""}
    if sources:
        notes.append(say("Rows {it}; run files were not kept.", it=Name("; ".join(sorted(sources)))))
    caption = tuple(part for note in notes for part in (*note, " "))[:-1]
    return [table(head, rows, caption, strong=(1,))]
