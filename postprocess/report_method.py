"""How it was measured, what differs from the original, what is missing, and how to do it again."""
import checks as c
import measured as m
from document import MISSING, Block, Code, Name, Note, Paragraph, Points, heading, join, number, percent, say, table
from facts import Facts
from report_results import of, original_words
from style import short_device

REPRODUCE = """make                                              # builds ./llmft
sbatch slurm/precision_study.sh                   # or: make study, without SLURM
sbatch slurm/scaling_ddp.sh
sbatch slurm/scaling_fsdp.sh
python postprocess/collect.py results runs        # into docs/measured
make report                                       # docs/report.md, report.html, slides.html
"""


def _values(rows, column: str) -> list[float]:
    return sorted({row[column] for row in rows if row[column] is not None})


def _range(values: list[float], source: str, digits: int | None = 0, unit: str = ""):
    if not values:
        return MISSING
    low, high = number(values[0], source, digits, unit), number(values[-1], source, digits, unit)
    return low if low == high else say("{a} to {b}", a=low, b=high)


def _option(facts: Facts, key: str):
    """The values of an option over the runs whose files are kept."""
    found = sorted({run.config[key] for run in facts.m.runs.values() if key in run.config})
    return Name(", ".join(found)) if found else MISSING


def machines(facts: Facts) -> Block:
    rows = []
    for device in dict.fromkeys(row.device for row in facts.m.cells):
        of_device = [row for row in facts.m.cells if row.device == device]
        dates = sorted({row.text("time_utc")[:10] for row in of_device})
        limit = facts.reference.device(device)
        told = sorted({row.text("machine") for row in of_device if row.text("machine")})
        runs = [run for run in facts.m.runs.values() if run.report.get("device") == device]
        cpus = sorted({f"{short_device(str(run.report['machine'].get('cpu', '')))}, {run.report['machine'].get('cores', '?')} cores" for run in runs if isinstance(run.report.get("machine"), dict)})
        versions = sorted({f"llmft {row.text('version')}" for row in of_device if row.system == "llmft"} | {row.text("versions") for row in of_device if row.text("versions")} | {f"commit {run.report['build'].get('git')}" for run in runs if isinstance(run.report.get("build"), dict) and run.report["build"].get("git")})
        peers = sorted({row.text("version") for row in of_device if row.system != "llmft"})
        ranks = max(row.ranks for row in of_device)
        rows.append([Name(short_device(device)), number(ranks, of_device[0].where, 0), number(limit["power_w"], limit.source("power_w"), 0, " W") if limit else MISSING,
                     Name("; ".join(told or cpus)) if told or cpus else MISSING, Name("; ".join(versions)), Name("; ".join(peers)) if peers else MISSING, Name(", ".join(dates)), number(len(of_device), "benchmarks.csv", 0)])  # fmt: skip
    head = ["device", "most used at once", "power limit", "machine", "versions", "peers", "measured on", "rows"]
    return table(head, rows, say("Machines of the measurements."), left=1, words=(3, 4, 5, 6))


def section(facts: Facts) -> list[Block]:
    o, rows = facts.original, facts.m.ours
    model = next(iter(facts.m.models.values()), None)
    shares = sorted(row["supervised_tokens"] / row["tokens"] for row in rows if row["supervised_tokens"] and row["tokens"])
    out: list[Block] = [heading(2, "Method")]
    out.append(Paragraph(say(
        "**Model.** Llama 3.2-1B{v}. Speed and memory hardly depend on the values of weights, so they are measured with random ones of that exact shape; quality is measured with a model that has learnt something. "
        "LoRA adapters sit on the query, value and output projections; full fine-tuning updates everything, with f32 masters and AdamW moments in every precision.",
        v=say(" (a vocabulary of {n} tokens, hidden size {h})", n=number(model["vocab_size"], model.source("vocab_size"), 0), h=number(model["hidden_size"], model.source("hidden_size"), 0)) if model else (),
    )))  # fmt: skip
    names = [say("{it}", it=Name(row.text("name"))) for row in facts.m.data.values() if row.text("name")]
    out.append(Paragraph(say(
        "**Data.** Loss is taken on responses and their end-of-turn token: {share} of the tokens in the runs of the tables. {made}",
        share=_shares(shares),
        made=say("Made data: {list}.", list=join(names, "; ", "; ")) if names else say("What the data is, each table's title says."),
    )))  # fmt: skip
    out.append(Paragraph(say(
        "**A step** is what an optimizer update takes from reading the batch to the new weights: packs of whole samples, attention within a sample, forward, backward, gradient reduction, clipping, AdamW. "
        "Nothing is padded: `tokens_per_s` counts the tokens of samples. Steps are timed by the device's clock where it is a GPU.",
    )))  # fmt: skip
    steps = _values(rows, "steps")
    out.append(Paragraph(say(
        "**Medians.** A run's rate is the median over its steps after the first {w} (`report.timing_warmup`); runs have {s} steps. Runs repeated in one cell are shown by their median, in the figures with the range. "
        "A GPU at its power limit does not keep one clock, so two runs of the same program differ; a difference of one or two hundredths between cells that were run once says little.",
        w=_option(facts, "report.timing_warmup"), s=_range(steps, "benchmarks.csv, steps"),
    )))  # fmt: skip
    out.append(Paragraph(say(
        "**Peers** are the same model shape, adapter and tokens in transformers with PEFT, with Liger's kernels, and in Unsloth, run by `tools/peers/`: whole batches of equal length, the last part of each sequence supervised, median step. "
        "Where a figure is from another visit than ours it is marked; a peer that was run in several forms is shown by its fastest. Peak memory of peers is what their allocator counts.",
    )))  # fmt: skip
    out.append(machines(facts))
    out += [heading(3, "What differs from the original study")]
    out.append(Points([
        say("**Shifted logits.** Row t predicts token t + one. The original compared logits with the tokens they were computed from, so its loss measured copying."),
        say("**End of text is learnt.** The original masked its padding token, which was also its end-of-text token, so its model was never taught to stop. Here the end-of-turn token of every response is supervised."),
        say("**No padding.** The original padded every sample to {n} tokens. Its samples a second are compared with ours on samples that really have {n} tokens, so that a GPU is given as many tokens; what packing gains on real lengths is a figure of its own.", n=number(o.sample_tokens, o.source, 0)),
        say("**A schedule that decays.** The original's learning rate oscillated; the default here warms up and falls. Its quality figures are therefore not compared with ours."),
        say("**Supervised share.** Our made samples supervise {s} of their tokens, and work that only supervised rows need is done for those alone; the original computed logits for all.", s=_shares(shares)),
    ]))  # fmt: skip
    out += [heading(3, "Limits"), Points(limits(facts))]
    return out


def _shares(shares: list[float]):
    if not shares:
        return MISSING
    low, high = percent(shares[0], "benchmarks.csv, supervised_tokens over tokens"), percent(shares[-1], "benchmarks.csv, supervised_tokens over tokens")
    return low if low == high else say("{a} to {b}", a=low, b=high)


def limits(facts: Facts) -> list:
    items = []
    missing = [p for p in ("fp32", "tf32", "fp16", "bf16") if not facts.ours(facts.original_setting, p, "samples_per_s")]
    if missing:
        items.append(say("At the original's setting {list} {it}.", list=join([say("{p}", p=Name(p)) for p in missing]), it=say("was {n}" if len(missing) == 1 else "were {n}", n=None)))
    ranks = sorted({row.ranks for row in facts.m.ours})
    published = [int(r["gpus"]) for r in facts.reference.original if r["gpus"]]
    if ranks and max(ranks) < max(published):
        items.append(say("The published study went to {p} GPUs, these measurements to {n}; what lies between is planned for and rehearsed on CPU ranks, but {it} on GPUs.", p=number(max(published), facts.reference.original[0].source("gpus"), 0), n=number(max(ranks), "benchmarks.csv, ranks", 0), it=None))
    nodes = max((row["nodes"] or 1 for row in facts.m.ours), default=1)
    if nodes == 1:
        items.append(say("Several nodes: {it}.", it=None))
    transcribed = [row for row in facts.m.cells if row.text("source")]
    if transcribed:
        items.append(say("{n} of {k} rows were transcribed from tables in the documentation, whose run files were not kept: {devices}.", n=number(len(transcribed), "benchmarks.csv, source", 0), k=number(len(facts.m.cells), "benchmarks.csv", 0),
                         devices=Name(", ".join(sorted({short_device(row.device) for row in transcribed})))))  # fmt: skip
    for column, words in (("joules_per_token", "Energy"), ("training_time_s", "Training time"), ("valid_loss", "Validation loss of the speed runs"), ("mfu", "MFU")):
        n = sum(row[column] is not None for row in facts.m.ours)
        if n < len(facts.m.ours):
            text = say("{words}: {it} in {n} of {k} rows.", words=words, it=None, n=number(len(facts.m.ours) - n, f"benchmarks.csv, {column}", 0), k=number(len(facts.m.ours), "benchmarks.csv", 0))
            items.append(text)
    others = [s for s in facts.single if facts.is_original(s)]
    joules = [s for s in others if any(facts.ours(s, p, "joules_per_token") for p in facts.single[s])]
    if others and not joules:
        items.append(say("Energy at the original's setting: {it}.", it=None))
    if not facts.m.quality:
        items.append(say("Quality: {it}.", it=None))
    if facts.m.preprocess:
        items.append(say("Preprocessing was measured on rows made to the size and word frequencies of the real ones, and from a page cache; a slow disk would show."))
    items.append(say("The published study's figures are quoted, not run again; its program was not available on these machines."))
    return items


def checks_section(facts: Facts, found: list[c.Check]) -> list[Block]:
    rows = [[check.name, c.outcome(check)] for check in found]
    caption = say("What must hold of any measurement of this program; `postprocess/checks.py` says how far from it is too far, and why.")
    return [heading(2, "The study checks itself"), table(["check", "outcome"], rows, caption, left=2)]


def failed_note(found: list[c.Check]) -> list[Block]:
    failed = [check for check in found if check.passed is False]
    if failed:
        items = [say("{name}: {what}", name=check.name, what=join(check.failures, "; ", "; ")) for check in failed]
        return [Note("bad", say("{n} of {k} checks of these measurements", n=number(len(failed), "checks.py", 0), k=number(len(found), "checks.py", 0)), items)]
    idle = [check for check in found if check.passed is None]
    text = say("The study's {n} checks of itself passed", n=number(len(found) - len(idle), "checks.py", 0))
    text += say("; {k} found nothing to look at.", k=number(len(idle), "checks.py", 0)) if idle else say(".")
    return [Note("good", text, [])]


def reproduce() -> list[Block]:
    return [heading(2, "Do it again"), Paragraph(say("Every number above stands in a file of the measurements, and a pointer on it shows where (in the HTML); this page is written by `make report` and by nothing else. What is behind the columns: `docs/formats.md`; how the program reaches its speed, with what was tried: `docs/performance.md`, `docs/parallel.md`, `docs/numerics.md`.")), Code(REPRODUCE)]


def newest(facts: Facts):
    dates = sorted(row.text("time_utc") for row in facts.m.cells)
    return Name(dates[-1][:10]) if dates else MISSING


def all_cells(facts: Facts) -> list[Block]:
    rows = []
    for row in sorted([*facts.m.cells, *facts.m.variants], key=lambda r: (r.device, r.system != "llmft", r.system, r.text("mode") == "full", r.adapter_rank, r.ranks, r.text("strategy"), r.text("precision"), r.text("run"))):
        rows.append([
            Name(row.text("run")), Name(short_device(row.device)), Name(row.text("precision")), Name(f"{row.text('mode')}{f' r = {row.adapter_rank}' if row.adapter_rank else ''}"), Name(row.text("strategy")),
            number(row.ranks, row.where, 0), number(row.tokens_a_rank, row.where, 0), number(row.mean_length, row.source("tokens"), 0), number(row["tokens_per_s"], row.source("tokens_per_s"), 0),
            number(row["peak_memory_bytes"], row.source("peak_memory_bytes"), 2, "", 1e9),
        ])  # fmt: skip
    head = ["run", "device", "precision", "trains", "strategy", "ranks", "tokens a rank and step", "tokens a sample", "tokens/s", "GB"]
    return [heading(2, "All rows"), table(head, rows, say("Every row of benchmarks.csv and variants.csv."), left=5)]
