"""What is missing, what the checks say, every row."""

import check as c
from check import Check
from document import MISSING, Block, Name, Note, heading, join, number, percent, say, table
from facts import Facts
from report_results import PEERS, STUDY, setting_title
from style import short_device

TRAINS = {"lora": "LoRA", "full": "Full fine-tuning"}
ELSEWHERE = 0.05  # relative: two measurement runs' peers differ by less


def shares_text(shares: list[float]):
    if not shares:
        return MISSING
    low, high = (
        percent(shares[0], "benchmarks.csv, supervised_tokens over tokens"),
        percent(shares[-1], "benchmarks.csv, supervised_tokens over tokens"),
    )
    return low if low == high else say("{a} to {b}", a=low, b=high)


def cells_without_rows(facts: Facts) -> list:
    """Of the study's grid: what no row is of."""
    items = []
    modes = [mode for mode in ("lora", "full") if any(row.text("mode") == mode for row in facts.m.ours)]
    for mode in modes:
        for words, there in (
            ("on one GPU, samples of one length", lambda r: r.ranks == 1 and r.fixed),
            ("on one GPU, real lengths packed", lambda r: r.ranks == 1 and not r.fixed),
            ("DDP on several", lambda r: r.ranks > 1 and r.text("strategy") == "ddp"),
            ("FSDP on several", lambda r: r.ranks > 1 and r.text("strategy") == "fsdp"),
        ):
            have = {row.text("precision") for row in facts.m.ours if row.text("mode") == mode and there(row)}
            if lacking := [p for p in STUDY if p not in have]:
                text = "{mode}, " + words + ": {list} {it}."
                items.append(
                    say(text, mode=Name(TRAINS[mode]), list=join([say("{p}", p=Name(p)) for p in lacking]), it=None)
                )
    return items


def peers_before(facts: Facts) -> list:
    """Where a peer was measured beside this program and, apart from it, earlier, and the two differ."""
    items = []
    for setting in facts.single:
        for system in PEERS:
            for precision in STUDY:
                now, before = facts.peer(setting, system, precision), facts.earlier_peer(setting, system, precision)
                if not (now and before and now.here and now.same_batch and before.same_batch):
                    continue
                if abs(before.value / now.value - 1) > ELSEWHERE:
                    items.append(
                        say(
                            "{system}, {p}, at {setting}: {now} tokens/s beside this program, {before} in an earlier measurement of peers alone.",
                            system=Name(system),
                            p=Name(precision),
                            setting=setting_title(setting),
                            now=number(now.value, now.source, 0),
                            before=number(before.value, before.source, 0),
                        )
                    )
    return items


def limits(facts: Facts) -> list:
    items = []
    missing = [
        p for p in ("fp32", "tf32", "fp16", "bf16") if not facts.ours(facts.original_setting, p, "samples_per_s")
    ]
    if missing:
        items.append(
            say(
                "At the original's setting {list} {it}.",
                list=join([say("{p}", p=Name(p)) for p in missing]),
                it=say("was {n}" if len(missing) == 1 else "were {n}", n=None),
            )
        )
    ranks = sorted({row.ranks for row in facts.m.ours})
    published = [int(r["gpus"]) for r in facts.reference.original if r["gpus"]]
    if ranks and max(ranks) < max(published):
        items.append(
            say(
                "The published study went to {p} GPUs, these measurements to {n}; what lies between is planned for and rehearsed on CPU ranks, but {it} on GPUs.",
                p=number(max(published), facts.reference.original[0].source("gpus"), 0),
                n=number(max(ranks), "benchmarks.csv, ranks", 0),
                it=None,
            )
        )
    items += [*cells_without_rows(facts), *peers_before(facts)]
    nodes = max((row["nodes"] or 1 for row in facts.m.ours), default=1)
    if nodes == 1:
        items.append(say("Several nodes: {it}.", it=None))
    transcribed = [row for row in facts.m.cells if row.text("source")]
    if transcribed:
        items.append(
            say(
                "{n} of {k} rows were transcribed from tables in the documentation, whose run files were not kept: {devices}.",
                n=number(len(transcribed), "benchmarks.csv, source", 0),
                k=number(len(facts.m.cells), "benchmarks.csv", 0),
                devices=Name(", ".join(sorted({short_device(row.device) for row in transcribed}))),
            )
        )
    for column, words in (
        ("joules_per_token", "Energy"),
        ("training_time_s", "Training time"),
        ("valid_loss", "Validation loss of the speed runs"),
        ("mfu", "MFU"),
    ):
        n = sum(row[column] is not None for row in facts.m.ours)
        if n < len(facts.m.ours):
            text = say(
                "{words}: {it} in {n} of {k} rows.",
                words=words,
                it=None,
                n=number(len(facts.m.ours) - n, f"benchmarks.csv, {column}", 0),
                k=number(len(facts.m.ours), "benchmarks.csv", 0),
            )
            items.append(text)
    others = [s for s in facts.single if facts.is_original(s)]
    joules = [s for s in others if any(facts.ours(s, p, "joules_per_token") for p in facts.single[s])]
    if others and not joules:
        items.append(say("Energy at the original's setting: {it}.", it=None))
    if not facts.m.quality:
        items.append(say("Quality: {it}.", it=None))
    if facts.m.preprocess:
        items.append(
            say(
                "Preprocessing was measured on rows made to the size and word frequencies of the real ones, and from a page cache; a slow disk would show."
            )
        )
    items.append(
        say("The published study's figures are quoted, not run again; its program was not available on these machines.")
    )
    return items


def checks_section(facts: Facts, found: list[Check]) -> list[Block]:
    rows = [[check.name, c.outcome(check)] for check in found]
    caption = say(
        "What must hold of any measurement of this program; `postprocess/checks_loss.py` and `checks_speed.py` say how far from it is too far, and why."
    )
    return [heading(2, "The study checks itself"), table(["check", "outcome"], rows, caption, left=2)]


def failed_note(found: list[Check]) -> list[Block]:
    failed = [check for check in found if check.passed is False]
    if failed:
        items = [say("{name}: {what}", name=check.name, what=join(check.failures, "; ", "; ")) for check in failed]
        return [
            Note(
                "bad",
                say(
                    "{n} of {k} checks of these measurements",
                    n=number(len(failed), "checks.py", 0),
                    k=number(len(found), "checks.py", 0),
                ),
                items,
            )
        ]
    idle = [check for check in found if check.passed is None]
    text = say("The study's {n} checks of itself passed", n=number(len(found) - len(idle), "checks.py", 0))
    text += say("; {k} found nothing to look at.", k=number(len(idle), "checks.py", 0)) if idle else say(".")
    return [Note("good", text, [])]


def newest(facts: Facts):
    dates = sorted(row.text("time_utc") for row in facts.m.cells)
    return Name(dates[-1][:10]) if dates else MISSING


def all_cells(facts: Facts) -> list[Block]:
    rows = []
    for row in sorted(
        [*facts.m.cells, *facts.m.variants],
        key=lambda r: (
            r.device,
            r.system != "llmft",
            r.system,
            r.text("mode") == "full",
            r.adapter_rank,
            r.ranks,
            r.text("strategy"),
            r.text("precision"),
            r.text("run"),
        ),
    ):
        rows.append(
            [
                Name(row.text("run")),
                Name(row.text("commit")),
                Name(short_device(row.device)),
                Name(row.text("precision")),
                Name(f"{row.text('mode')}{f' r = {row.adapter_rank}' if row.adapter_rank else ''}"),
                Name(row.text("strategy")),
                number(row.ranks, row.where, 0),
                number(row.tokens_a_rank, row.where, 0),
                number(row.mean_length, row.source("tokens"), 0),
                number(row["tokens_per_s"], row.source("tokens_per_s"), 0),
                number(row["peak_memory_bytes"], row.source("peak_memory_bytes"), 2, "", 1e9),
            ]
        )
    head = [
        "run",
        "commit",
        "device",
        "precision",
        "trains",
        "strategy",
        "ranks",
        "tokens a rank and step",
        "tokens a sample",
        "tokens/s",
        "GB",
    ]
    return [heading(2, "All rows"), table(head, rows, say("Every row of benchmarks.csv and variants.csv."), left=6)]
