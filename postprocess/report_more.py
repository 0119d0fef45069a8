"""One GPU in detail, memory, quality, preprocessing, generation."""
import figures
import measured as m
from document import (
    MISSING, Block, Name, Paragraph, Points, gigabytes, heading, join, number, percent, ratio, say, table, times,
)  # fmt: skip
from facts import PEERS, Facts
from report_results import STUDY, main_table, memory, of, over, rate, resources_table, setting_table, setting_title
from style import short_device


def precision_findings(facts: Facts) -> list:
    """What a precision does to speed and memory, wherever several were measured at one setting."""
    items = []
    settings = ([facts.original_setting] if facts.original_setting else []) + facts.ordered_settings()
    for s in settings:
        speeds = {p: facts.ours(s, p, "tokens_per_s") for p in STUDY}
        speeds = {p: v for p, v in speeds.items() if v}
        if len(speeds) < 2 or "fp32" not in speeds:
            continue
        others = [say("{p} {x}", p=Name(p), x=over(v, speeds["fp32"])) for p, v in speeds.items() if p != "fp32"]
        text = say("{t}: over fp32, {list}.", t=setting_title(s), list=join(others))
        if "fp16" in speeds and "bf16" in speeds:
            a, b = speeds["bf16"], speeds["fp16"]
            first, second = ("bf16", "fp16") if a.value >= b.value else ("fp16", "bf16")
            text += say(" {first} is {d} faster than {second}.", first=Name(first), second=Name(second), d=percent(max(a.value, b.value) / min(a.value, b.value) - 1, f"{a.source}; {b.source}"))
        wide, narrow = facts.ours(s, "fp32", "peak_memory_bytes"), facts.ours(s, "bf16", "peak_memory_bytes")
        if wide and narrow:
            change = "less" if narrow.value < wide.value else "more"
            text += say(" bf16 takes {x} {change} memory than fp32.", x=percent(abs(1 - narrow.value / wide.value), f"{narrow.source}; {wide.source}"), change=change)
        items.append(text)
    packed = [s for s in facts.ordered_settings() if not s.fixed]
    for s in packed:
        fixed = [f for f in facts.ordered_settings() if f.fixed and (f.device, f.mode, f.adapter_rank, f.tokens) == (s.device, s.mode, s.adapter_rank, s.tokens)]
        for p in STUDY:
            a, b = facts.ours(s, p, "tokens_per_s"), facts.ours(fixed[0], p, "tokens_per_s") if fixed else None
            if a and b:
                items.append(say("Real lengths, packed ({p}): {x} of the tokens/s at one length.", p=Name(p), x=percent(a.value / b.value, f"{a.source}; {b.source}")))
        for system in PEERS:
            peer, mine = facts.peer(s, system, "bf16"), facts.ours(s, "bf16", "tokens_per_s")
            if peer and mine:
                items.append(say("On such lengths {system} pads and reaches {t} real tokens/s{mark}; llmft has {x} of it.", system=Name(system), t=rate(peer), mark="" if peer.here else " in an earlier visit", x=over(mine, peer)))
    return items


def speed_section(facts: Facts, picture, gallery) -> list[Block]:
    out: list[Block] = [heading(2, "One GPU"), heading(3, "At the original's setting"), resources_table(facts)]
    if findings := precision_findings(facts):
        out += [Points(findings)]
    settings = facts.ordered_settings()
    if not settings:
        out.append(Paragraph(say("Other settings: {it}.", it=None)))
    for s in settings:
        out += setting_table(facts, s)
    if not any(not s.fixed for s in settings):
        out.append(Paragraph(say("Real lengths, packed: {it}.", it=None)))
    if not any(s.mode == "full" for s in settings):
        out.append(Paragraph(say("Full fine-tuning: {it}.", it=None)))
    out += gallery(picture, ("throughput", "epoch_time", "training_time", "memory_usage"))
    out += [heading(3, "Where a step's time goes"), *picture("roofline"), *ledger_block(facts)]
    return out


def ledger_block(facts: Facts) -> list[Block]:
    run = facts.profiled()
    if run is None:
        return [Paragraph(say("Time by kernel group: {it}.", it=None))]
    rows = [r for r in m.ledger(run) if r.text("group") != "step"]
    step = next((r for r in m.ledger(run) if r.text("group") == "step"), None)
    rows.sort(key=lambda r: r["seconds"] or 0, reverse=True)
    top = rows[:3]
    text = say("The longest groups are {list}.",
               list=join([say("{g} ({s})", g=Name(r.text("group")), s=percent(r["share"], r.source("share"))) for r in top]))  # fmt: skip
    limited = [r for r in rows if r["roofline"]]
    if limited and step and step["seconds"]:
        whole = sum(r["roofline"] * r["seconds"] for r in limited)
        text += say(" Weighted by time, the groups whose work is counted run at {x} of what the GPU's peaks allow, which is {y} of the whole step.",
                    x=percent(whole / sum(r["seconds"] for r in limited), limited[0].source("roofline")), y=percent(whole / step["seconds"], step.source("seconds")))  # fmt: skip
    gaps = next((r for r in rows if r.text("group") == "gaps"), None)
    if gaps is not None:
        text += say(" Gaps, in which the GPU waits, are {g}.", g=percent(gaps["share"] or 0.0, gaps.source("share")))
    return [Paragraph(text)]


def memory_section(facts: Facts, picture) -> list[Block]:
    out: list[Block] = [heading(2, "Memory"), *picture("memory_parts")]
    items = []
    for name, run in facts.memory_runs():
        parts = {part: row for part, row in m.memory(run)[0].items()}
        sizes = {part: row["bytes"] or 0 for part, row in parts.items() if part not in ("total", "peak")}
        if not sizes or not parts.get("peak"):
            continue
        largest = max(sizes, key=sizes.get)
        items.append(say("{run}: {part} are the largest part, {share} of {peak}.", run=Name(name), part=Name(largest),
                         share=percent(sizes[largest] / parts["peak"]["bytes"], parts[largest].source("bytes")), peak=gigabytes(parts["peak"]["bytes"], parts["peak"].source("bytes"))))  # fmt: skip
    if items:
        out.append(Points(items))
    else:
        out.append(Paragraph(say("Memory by part: {it}.", it=None)))
    return out


def quality_section(facts: Facts, picture) -> list[Block]:
    out: list[Block] = [heading(2, "Quality")]
    rows = facts.quality_rows()
    if rows:
        out.append(Points(quality_findings(rows)))
        table_rows = []
        for r in rows:
            interval = say("{low} to {high}", low=of(r.low), high=of(r.high)) if r.low and r.high else say("{it}", it=None)
            verdict = {True: "better", False: "**worse**", None: "within it"}[r.better]
            table_rows.append([Name(f"{figures.MODE_NAMES.get(r.mode, r.mode)} {r.precision}"), Name(r.metric), of(r.base), of(r.tuned), of(r.difference), interval, say(verdict)])
        caption = say("{w}. Difference: fine-tuned less base, with its bootstrap interval.", w=Name(facts.quality_words() or "quality/quality.csv"))
        out += [*picture("evaluation"), table(["", "metric", "base", "fine-tuned", "difference", "interval", "beyond it"], table_rows, caption, left=2)]
    else:
        out.append(Paragraph(say("Validation loss, BLEU, ROUGE-L and perplexity before and after fine-tuning: {it}.", it=None)))
    out += [heading(3, "Losses by precision"), *picture("loss_by_precision")]
    out += loss_findings(facts)
    out += [*picture("time_to_loss"), *time_findings(facts)]
    return out


def quality_findings(rows) -> list:
    items = []
    for metric in dict.fromkeys(r.metric for r in rows):
        of_metric = [r for r in rows if r.metric == metric]
        better = [r for r in of_metric if r.better is True]
        count = number(len(of_metric), "quality.csv", 0)
        if len(better) == len(of_metric):
            items.append(say("{metric}: fine-tuned is better than its base beyond the bootstrap interval in all of {n} runs.", metric=Name(metric), n=count))
        else:
            rest = [say("{x}", x=Name(f"{figures.MODE_NAMES.get(r.mode, r.mode)} {r.precision}")) for r in of_metric if r.better is not True]
            items.append(say("{metric}: fine-tuned is **not** shown to be better in {rest} ({k} of {n} runs show it).", metric=Name(metric), rest=join(rest), k=number(len(better), "quality.csv", 0), n=count))
    return items


def loss_findings(facts: Facts) -> list[Block]:
    runs = facts.loss_runs()
    if len(runs) < 2:
        return [Paragraph(say("Losses of precisions on the same batches: {it}.", it=None))]
    wide = next(iter(runs))
    items = []
    for p, run in runs.items():
        if p == wide:
            continue
        a, b = runs[wide].steps, run.steps
        common = min(len(a.step), len(b.step)) - 1
        if a.loss[common] is None or b.loss[common] is None:
            continue
        gap = abs(a.loss[common] - b.loss[common]) / abs(a.loss[common])
        items.append(say("{p} is {gap} from {wide} at step {n} ({b} and {a} nats).", p=Name(p), wide=Name(wide), gap=percent(gap, f"runs/{run.name}/steps.csv", 3), n=number(b.step[common], "steps.csv", 0),
                         a=number(a.loss[common], f"runs/{runs[wide].name}/steps.csv", 4), b=number(b.loss[common], f"runs/{run.name}/steps.csv", 4)))  # fmt: skip
    return [Points(items)]


def time_findings(facts: Facts) -> list[Block]:
    goal = facts.time_to_loss()
    if goal is None:
        return [Paragraph(say("Time to a given validation loss: {it}.", it=None))]
    order = sorted(goal.seconds, key=lambda p: goal.seconds[p].value)
    parts = [say("{p} after {s} s", p=Name(p), s=of(goal.seconds[p])) for p in order]
    return [Paragraph(say("A validation loss of {l} nats is reached by {list}, on {device}.", l=of(goal.loss, 3), list=join(parts), device=Name(short_device(goal.device))))]


def preprocess_section(facts: Facts) -> list[Block]:
    out: list[Block] = [heading(2, "Preprocessing")]
    one, dask, count = (facts.reference.published(q) for q in ("tokenize_minutes", "tokenize_dask_minutes", "tokenize_rows"))
    rows = [[Name("published original, one program"), number(count["value"], count.source("value"), 2, "", 1e6), MISSING, MISSING, number(one["value"], one.source("value"), 0, " min"), MISSING, MISSING],
            [Name("published original with Dask"), number(count["value"], count.source("value"), 2, "", 1e6), MISSING, MISSING, number(dask["value"], dask.source("value"), 0, " min"), MISSING, MISSING]]  # fmt: skip
    mine = [r for r in facts.m.preprocess if r["wall_s"]]
    for r in mine:
        name = r.text("system") + (f" ({r.text('note')})" if r.text("note") else "")
        rows.append([Name(name), number(r["rows"], r.source("rows"), 2, "", 1e6), number(r["text_bytes"], r.source("text_bytes"), 2, "", 1e9), number(r["cores"], r.source("cores"), 0), number(r["wall_s"], r.source("wall_s"), 1, " s"),
                     number(r["cpu_s"], r.source("cpu_s"), 1, " s"), number(ratio(r["text_bytes"], r["wall_s"] * (r["cores"] or 1)), f"{r.source('text_bytes')} over wall_s and cores", 0, "", 1e6)])  # fmt: skip
    if mine:
        best = min((r for r in mine if r["rows"] == count["value"]), key=lambda r: r["wall_s"], default=None)
        if best is not None:
            minutes = best["wall_s"] / 60
            words = "faster than" if minutes < dask["value"] else "slower than"
            text = say("{n} million rows from Parquet to shards take {s} s on {c} cores ({m}), {words} the published {d} minutes with Dask ({x}). The published runs used other processors and the real data, ours rows made to its size; so the ratio is one of programs and machines together.",
                       n=number(best["rows"], best.source("rows"), None, "", 1e6), s=number(best["wall_s"], best.source("wall_s"), 1), c=number(best["cores"], best.source("cores"), 0), m=Name(best.text("machine")), words=words, d=number(dask["value"], dask.source("value"), 0),
                       x=times(ratio(dask["value"] * 60, best["wall_s"]), f"{dask.source('value')}; {best.source('wall_s')}"))  # fmt: skip
            out.append(Paragraph(text))
    else:
        out.append(Paragraph(say("Tokenization end to end: {it}.", it=None)))
    out.append(table(["", "million rows", "GB of text", "cores", "wall time", "CPU time", "MB/s a core"], rows, say("From Parquet to shards ready for training. Rates are of wall time.")))
    tokenizers = facts.m.tokenizers
    if tokenizers:
        columns = ("en_first", "en_repeated", "mix_first", "mix_repeated")
        body = [[Name(r.text("tokenizer")), Name(r.text("form")), *(number(r[c], r.source(c), 1) for c in columns)] for r in tokenizers]
        best = {c: max((r for r in tokenizers if r.text("tokenizer") != "llmft" and r[c]), key=lambda r: r[c], default=None) for c in columns}
        ours = {c: max((r for r in tokenizers if r.text("tokenizer") == "llmft" and r[c]), key=lambda r: r[c], default=None) for c in columns}
        pairs = [(c, ours[c], best[c]) for c in columns if ours[c] is not None and best[c] is not None]
        slow = [c for c, a, b in pairs if a[c] < b[c]]
        if pairs:
            words = "Against the fastest peer on each text llmft's tokenizer reaches {list}." if not slow else "llmft's tokenizer is **not** the fastest on every text; against the fastest peer it reaches {list}."
            names = {"en_first": "English, first pass", "en_repeated": "English, repeated", "mix_first": "mixed, first pass", "mix_repeated": "mixed, repeated"}
            out.append(Paragraph(say(words, list=join([say("{x} ({t})", x=times(a[c] / b[c], f"{a.source(c)}; {b.source(c)}"), t=Name(names[c])) for c, a, b in pairs]))))
        out.append(table(["tokenizer", "form", "English, first pass", "repeated", "mixed, first pass", "repeated"], body, say("MB/s of UTF-8 text on one core, Llama 3's vocabulary; {w}.", w=Name(tokenizers[0].text("machine"))), left=2))
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
    ratios = [say("{x} at batch {b}", x=times(mine[b]["tokens_per_s"] / other[b]["tokens_per_s"], f"{mine[b].where}; {other[b].where}"), b=number(b, r.source("batch"), 0)) for b in batches if mine[b] is not None and other[b] is not None]
    if ratios:
        out.append(Paragraph(say("New tokens a second of the whole batch, prompts included, over {peer}: {list}.", peer=Name(next(x for x in other.values() if x is not None).text("system")), list=join(ratios))))
    out.append(table(head, body, say("New tokens a second, {p}, {d}; {n} prompt tokens a sequence.", p=Name(r.text("precision")), d=Name(short_device(r.text("device"))), n=number(r["prompt_tokens"], r.source("prompt_tokens"), 0)), left=2))
    return out
