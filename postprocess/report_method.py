"""How it was measured, what differs from the original, and how to do it again."""

from document import MISSING, Block, Code, Name, Paragraph, Points, heading, join, number, say, table
from facts import Facts
from report_limits import limits, shares_text
from style import short_device

REPRODUCE = """make                                              # builds ./llmft
sbatch slurm/precision_study.sh                   # or: make study, without SLURM
sbatch slurm/scaling_ddp.sh
sbatch slurm/scaling_fsdp.sh
.venv/bin/python postprocess/collect.py results runs  # into docs/measured
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
        cpus = sorted(
            {
                f"{short_device(str(run.report['machine'].get('cpu', '')))}, {run.report['machine'].get('cores', '?')} cores"
                for run in runs
                if isinstance(run.report.get("machine"), dict)
            }
        )
        versions = sorted(
            {f"llmft {row.text('version')}" for row in of_device if row.system == "llmft"}
            | {row.text("versions") for row in of_device if row.text("versions")}
            | {f"commit {row.text('commit')}" for row in of_device if row.text("commit")}
            | {
                f"commit {run.report['build'].get('git')}"
                for run in runs
                if isinstance(run.report.get("build"), dict) and run.report["build"].get("git")
            }
        )
        peers = sorted({row.text("version") for row in of_device if row.system != "llmft"})
        ranks = max(row.ranks for row in of_device)
        rows.append(
            [
                Name(short_device(device)),
                number(ranks, of_device[0].where, 0),
                number(limit["power_w"], limit.source("power_w"), 0, " W") if limit else MISSING,
                Name("; ".join(told or cpus)) if told or cpus else MISSING,
                Name("; ".join(versions)),
                Name("; ".join(peers)) if peers else MISSING,
                Name(", ".join(dates)),
                number(len(of_device), "benchmarks.csv", 0),
            ]
        )
    head = [
        "device",
        "most used at once",
        "power limit (data sheet)",
        "machine",
        "versions",
        "peers",
        "measured on",
        "rows",
    ]
    return table(head, rows, say("Machines of the measurements."), left=1, words=(3, 4, 5, 6))


def section(facts: Facts) -> list[Block]:
    o, rows = facts.original, facts.m.ours
    model = next(iter(facts.m.models.values()), None)
    shares = sorted(
        row["supervised_tokens"] / row["tokens"] for row in rows if row["supervised_tokens"] and row["tokens"]
    )
    out: list[Block] = [heading(2, "Method")]
    out.append(
        Paragraph(
            say(
                "**Model.** Llama 3.2-1B{v}. Speed and memory hardly depend on the values of weights, so they are measured with random ones of that exact shape; quality is measured with a model that has learnt something. "
                "LoRA adapters sit on the query, value and output projections; full fine-tuning updates everything, with f32 masters and AdamW moments in every precision.",
                v=say(
                    " (a vocabulary of {n} tokens, hidden size {h})",
                    n=number(model["vocab_size"], model.source("vocab_size"), 0),
                    h=number(model["hidden_size"], model.source("hidden_size"), 0),
                )
                if model
                else (),
            )
        )
    )
    names = [say("{it}", it=Name(row.text("name"))) for row in facts.m.data.values() if row.text("name")]
    out.append(
        Paragraph(
            say(
                "**Data.** Loss is taken on responses and their end-of-turn token: {share} of the tokens in the runs of the tables. {made}",
                share=shares_text(shares),
                made=say("Made data: {list}.", list=join(names, "; ", "; "))
                if names
                else say("What the data is, each table's title says."),
            )
        )
    )
    out.append(
        Paragraph(
            say(
                "**A step** is what an optimizer update takes from reading the batch to the new weights: packs of whole samples, attention within a sample, forward, backward, gradient reduction, clipping, AdamW. "
                "Nothing is padded: `tokens_per_s` counts the tokens of samples. Steps are timed by the device's clock where it is a GPU."
            )
        )
    )
    steps = _values(rows, "steps")
    out.append(
        Paragraph(
            say(
                "**Medians.** A run's rate is the median over its steps after the first {w} (`report.timing_warmup`); runs have {s} steps. Runs repeated in one cell are shown by their median, in the figures with the range. "
                "A GPU at its power limit does not keep one clock, so two runs of the same program differ; a difference of one or two hundredths between cells that were run once says little.",
                w=_option(facts, "report.timing_warmup"),
                s=_range(steps, "benchmarks.csv, steps"),
            )
        )
    )
    out.append(
        Paragraph(
            say(
                "**Peers** are the same model shape, adapter and tokens in transformers with PEFT, with Liger's kernels, and in Unsloth, run by `tools/peers/`: batches of equal length, or of OpenOrca's lengths padded to the longest, the last part of each sequence supervised, median step. "
                "Where a figure is from another measurement run than ours it is marked; a peer that was run in several forms is shown by its fastest. Peak memory of peers is what their allocator counts."
            )
        )
    )
    out.append(machines(facts))
    out += [heading(3, "What differs from the original study")]
    out.append(
        Points(
            [
                say(
                    "**Shifted logits.** Row t predicts token t + one. The original compared logits with the tokens they were computed from, so its loss measured copying."
                ),
                say(
                    "**End of text is learnt.** The original masked its padding token, which was also its end-of-text token, so its model was never taught to stop. Here the end-of-turn token of every response is supervised."
                ),
                say(
                    "**No padding.** The original padded every sample to {n} tokens. Its samples a second are compared with ours on samples that really have {n} tokens, so that a GPU is given as many tokens; what packing gains on real lengths is a figure of its own.",
                    n=number(o.sample_tokens, o.source, 0),
                ),
                say(
                    "**A schedule that decays.** The original's learning rate oscillated; the default here warms up and falls. Its quality figures are therefore not compared with ours."
                ),
                say(
                    "**Supervised share.** Our made samples supervise {s} of their tokens, and work that only supervised rows need is done for those alone; the original computed logits for all.",
                    s=shares_text(shares),
                ),
            ]
        )
    )
    out += [heading(3, "Limits"), Points(limits(facts))]
    return out


def reproduce() -> list[Block]:
    return [
        heading(2, "Do it again"),
        Paragraph(
            say(
                "Every number above stands in a file of the measurements, and a pointer on it shows where (in the HTML); this page is written by `make report` and by nothing else. What is behind the columns: `docs/formats.md`; how the program reaches its speed, with what was tried: `docs/performance.md`, `docs/parallel.md`, `docs/numerics.md`."
            )
        ),
        Code(REPRODUCE),
    ]
