"""One GPU: what a precision does, every setting, where a step's time goes."""

import run_files
from document import Block, Name, Paragraph, Points, heading, join, percent, say
from facts import PEERS, Facts
from report_results import STUDY, over, rate, resources_table, setting_table, setting_title


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
            text += say(
                " {first} is {d} faster than {second}.",
                first=Name(first),
                second=Name(second),
                d=percent(max(a.value, b.value) / min(a.value, b.value) - 1, f"{a.source}; {b.source}"),
            )
        wide, narrow = facts.ours(s, "fp32", "peak_memory_bytes"), facts.ours(s, "bf16", "peak_memory_bytes")
        if wide and narrow:
            change = "less" if narrow.value < wide.value else "more"
            text += say(
                " bf16 takes {x} {change} memory than fp32.",
                x=percent(abs(1 - narrow.value / wide.value), f"{narrow.source}; {wide.source}"),
                change=change,
            )
        items.append(text)
    for s in (s for s in facts.single if not s.fixed):
        alike = lambda f: (f.device, f.mode, f.adapter_rank, f.tokens)  # noqa: E731
        fixed = next((f for f in facts.single if f.fixed and alike(f) == alike(s)), None)
        shares = []
        for p in STUDY:
            a, b = facts.ours(s, p, "tokens_per_s"), facts.ours(fixed, p, "tokens_per_s")
            if a and b:
                shares.append(say("{p} {x}", p=Name(p), x=percent(a.value / b.value, f"{a.source}; {b.source}")))
        if shares:
            items.append(say("{t}: of the tokens/s at one length {list}.", t=setting_title(s), list=join(shares)))
        padded = []
        for system in PEERS:
            peer, mine = facts.peer(s, system, "bf16"), facts.ours(s, "bf16", "tokens_per_s")
            if peer and mine:
                mark = "" if peer.here else ", another measurement run"
                padded.append(
                    say("{x} {system}'s ({t}{mark})", x=over(mine, peer), system=Name(system), t=rate(peer), mark=mark)
                )
        if padded:
            items.append(say("On such lengths peers pad; llmft's real tokens/s in bf16 are {list}.", list=join(padded)))
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
    rows = [r for r in run_files.ledger(run) if r.text("group") != "step"]
    step = next((r for r in run_files.ledger(run) if r.text("group") == "step"), None)
    rows.sort(key=lambda r: r["seconds"] or 0, reverse=True)
    top = rows[:3]
    text = say(
        "The longest groups are {list}.",
        list=join([say("{g} ({s})", g=Name(r.text("group")), s=percent(r["share"], r.source("share"))) for r in top]),
    )
    limited = [r for r in rows if r["roofline"]]
    if limited and step and step["seconds"]:
        whole = sum(r["roofline"] * r["seconds"] for r in limited)
        text += say(
            " Weighted by time, the groups whose work is counted run at {x} of what the GPU's peaks allow, which is {y} of the whole step.",
            x=percent(whole / sum(r["seconds"] for r in limited), limited[0].source("roofline")),
            y=percent(whole / step["seconds"], step.source("seconds")),
        )
    gaps = next((r for r in rows if r.text("group") == "gaps"), None)
    if gaps is not None:
        text += say(" Gaps, in which the GPU waits, are {g}.", g=percent(gaps["share"] or 0.0, gaps.source("share")))
    return [Paragraph(text)]
