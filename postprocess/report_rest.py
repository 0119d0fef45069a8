"""Memory by part, preprocessing, generation."""

import run_files
from document import (
    MISSING,
    Block,
    Name,
    Paragraph,
    Text,
    gigabytes,
    heading,
    join,
    number,
    percent,
    ratio,
    say,
    table,
    times,
)
from facts import Facts
from figures import MODE_NAMES
from figures_study import PARTS
from measured import Row
from style import short_device


def told(rows: list[Row]) -> Text:
    """Where rows were transcribed from."""
    sources = sorted({row.text("source") for row in rows} - {""})
    return say(" Rows {it}.", it=Name("; ".join(sources))) if sources else ()


def memory_section(facts: Facts, picture) -> list[Block]:
    out: list[Block] = [heading(2, "Memory"), *picture("memory_parts")]
    runs = facts.memory_runs()
    if not runs:
        return [*out, Paragraph(say("Memory by part: {it}.", it=None))]
    body, activations = [], []
    for name, run in runs:
        ranks = run_files.measured_memory(run)
        fullest = max(ranks.values(), key=lambda parts: parts["peak"]["bytes"])
        sizes = [
            (fullest[part]["bytes"] or 0, fullest[part].source("bytes")) if part in fullest else (None, "")
            for part in PARTS
        ]
        peak = fullest["peak"]
        body.append(
            [
                Name(name),
                *(number(size, source, 2, "", 1e9) for size, source in sizes),
                number(peak["bytes"], peak.source("bytes"), 2, "", 1e9),
            ]
        )
        activations.append((fullest["activations"]["bytes"] or 0) / peak["bytes"] if "activations" in fullest else 0)
    low, high = percent(min(activations), "memory.csv"), percent(max(activations), "memory.csv")
    text = say("Activations are {low} to {high} of the peak.", low=low, high=high)
    saved, more = [], []
    for ddp, fsdp in facts.ddp_fsdp_pairs(facts.scaling_device() or ""):
        a, b = facts.peak_memory(ddp.rows[0]), facts.peak_memory(fsdp.rows[0])
        if a and b:
            less = gigabytes(abs(a[1] - b[1]), f"{a[2]}; {b[2]}")
            (saved if b[1] < a[1] else more).append(
                say(
                    "{x} ({m} {p} on {n})",
                    x=less,
                    m=Name(MODE_NAMES[ddp.mode]),
                    p=Name(ddp.precision),
                    n=number(ddp.ranks, ddp.many.source, 0),
                )
            )
    if saved:
        text += say(" Of a rank's memory FSDP saves {list} against DDP.", list=join(saved))
    if more:
        text += say(" FSDP takes **more** of a rank's memory than DDP: {list}.", list=join(more))
    out.append(Paragraph(text))
    caption = say("GB of the fullest rank; each part at its own highest, so the peak may be less than their sum.")
    return [*out, table(["", *PARTS, "peak"], body, caption, strong=(len(PARTS) + 1,))]


def preprocess_section(facts: Facts) -> list[Block]:
    out: list[Block] = [heading(2, "Preprocessing")]
    one, dask, count = (
        facts.reference.published(q) for q in ("tokenize_minutes", "tokenize_dask_minutes", "tokenize_rows")
    )
    rows = [
        [
            Name("published original, one program"),
            number(count["value"], count.source("value"), 2, "", 1e6),
            MISSING,
            MISSING,
            number(one["value"], one.source("value"), 0, " min"),
            MISSING,
            MISSING,
        ],
        [
            Name("published original with Dask"),
            number(count["value"], count.source("value"), 2, "", 1e6),
            MISSING,
            MISSING,
            number(dask["value"], dask.source("value"), 0, " min"),
            MISSING,
            MISSING,
        ],
    ]
    mine = [r for r in facts.m.preprocess if r["wall_s"]]
    for r in mine:
        name = r.text("system") + (f" ({r.text('note')})" if r.text("note") else "")
        rows.append(
            [
                Name(name),
                number(r["rows"], r.source("rows"), 2, "", 1e6),
                number(r["text_bytes"], r.source("text_bytes"), 2, "", 1e9),
                number(r["cores"], r.source("cores"), 0),
                number(r["wall_s"], r.source("wall_s"), 1, " s"),
                number(r["cpu_s"], r.source("cpu_s"), 1, " s"),
                number(
                    ratio(r["text_bytes"], r["wall_s"] * (r["cores"] or 1)),
                    f"{r.source('text_bytes')} over wall_s and cores",
                    0,
                    "",
                    1e6,
                ),
            ]
        )
    if mine:
        best = min((r for r in mine if r["rows"] == count["value"]), key=lambda r: r["wall_s"], default=None)
        if best is not None:
            minutes = best["wall_s"] / 60
            words = "faster than" if minutes < dask["value"] else "slower than"
            text = say(
                "{n} million rows from Parquet to shards take {s} s on {c} cores ({m}), {words} the published {d} minutes with Dask ({x}). The published runs used other processors and the real data, ours rows made to its size; so the ratio is one of programs and machines together.",
                n=number(best["rows"], best.source("rows"), None, "", 1e6),
                s=number(best["wall_s"], best.source("wall_s"), 1),
                c=number(best["cores"], best.source("cores"), 0),
                m=Name(best.text("machine")),
                words=words,
                d=number(dask["value"], dask.source("value"), 0),
                x=times(ratio(dask["value"] * 60, best["wall_s"]), f"{dask.source('value')}; {best.source('wall_s')}"),
            )
            out.append(Paragraph(text))
    else:
        out.append(Paragraph(say("Tokenization end to end: {it}.", it=None)))
    out.append(
        table(
            ["", "million rows", "GB of text", "cores", "wall time", "CPU time", "MB/s a core"],
            rows,
            say(
                "From Parquet to shards ready for training. Rates are of wall time.{told}",
                told=told(facts.m.preprocess),
            ),
        )
    )
    tokenizers = facts.m.tokenizers
    if tokenizers:
        columns = ("en_first", "en_repeated", "mix_first", "mix_repeated")
        body = [
            [Name(r.text("tokenizer")), Name(r.text("form")), *(number(r[c], r.source(c), 1) for c in columns)]
            for r in tokenizers
        ]
        best = {
            c: max((r for r in tokenizers if r.text("tokenizer") != "llmft" and r[c]), key=lambda r: r[c], default=None)
            for c in columns
        }
        ours = {
            c: max((r for r in tokenizers if r.text("tokenizer") == "llmft" and r[c]), key=lambda r: r[c], default=None)
            for c in columns
        }
        pairs = [(c, ours[c], best[c]) for c in columns if ours[c] is not None and best[c] is not None]
        slow = [c for c, a, b in pairs if a[c] < b[c]]
        if pairs:
            words = (
                "Against the fastest peer on each text llmft's tokenizer reaches {list}."
                if not slow
                else "llmft's tokenizer is **not** the fastest on every text; against the fastest peer it reaches {list}."
            )
            names = {
                "en_first": "English, first pass",
                "en_repeated": "English, repeated",
                "mix_first": "mixed, first pass",
                "mix_repeated": "mixed, repeated",
            }
            out.append(
                Paragraph(
                    say(
                        words,
                        list=join(
                            [
                                say(
                                    "{x} ({t})", x=times(a[c] / b[c], f"{a.source(c)}; {b.source(c)}"), t=Name(names[c])
                                )
                                for c, a, b in pairs
                            ]
                        ),
                    )
                )
            )
        out.append(
            table(
                ["tokenizer", "form", "English, first pass", "repeated", "mixed, first pass", "repeated"],
                body,
                say(
                    "MB/s of UTF-8 text on one core, Llama 3's vocabulary; {w}.{told}",
                    w=Name(tokenizers[0].text("machine")),
                    told=told(tokenizers),
                ),
                left=2,
            )
        )
    return out


def generation_section(facts: Facts) -> list[Block]:
    rows = facts.m.generation
    out: list[Block] = [heading(2, "Generation")]
    if not rows:
        return [*out, Paragraph(say("Speed of generation: {it}.", it=None))]
    kinds = list(dict.fromkeys((r.text("system"), r.text("kind")) for r in rows))
    batches = sorted({int(r["batch"]) for r in rows})
    by = {(r.text("system"), r.text("kind"), int(r["batch"])): r for r in rows}
    cell = lambda r: number(r["tokens_per_s"], r.source("tokens_per_s"), 0) if r is not None else MISSING  # noqa: E731
    body = [[Name(s), Name(k), *(cell(by.get((s, k, b))) for b in batches)] for s, k in kinds]
    r = rows[0]
    head = ["", "", *(say("batch {b}", b=number(b, r.source("batch"), 0)) for b in batches)]
    mine = {b: by.get(("llmft", "with the prompts", b)) for b in batches}
    other = {b: next((x for x in rows if x.text("system") != "llmft" and x["batch"] == b), None) for b in batches}
    ratios = [
        say(
            "{x} at batch {b}",
            x=times(mine[b]["tokens_per_s"] / other[b]["tokens_per_s"], f"{mine[b].where}; {other[b].where}"),
            b=number(b, r.source("batch"), 0),
        )
        for b in batches
        if mine[b] is not None and other[b] is not None
    ]
    if ratios:
        out.append(
            Paragraph(
                say(
                    "New tokens a second of the whole batch, prompts included, over {peer}: {list}.",
                    peer=Name(next(x for x in other.values() if x is not None).text("system")),
                    list=join(ratios),
                )
            )
        )
    out.append(
        table(
            head,
            body,
            say(
                "New tokens a second, {p}, {d}; {n} prompt tokens a sequence.{told}",
                p=Name(r.text("precision")),
                d=Name(short_device(r.text("device"))),
                told=told(rows),
                n=number(r["prompt_tokens"], r.source("prompt_tokens"), 0),
            ),
            left=2,
        )
    )
    return out
