"""The report and the slides, in order; what they say is in the sections' modules."""

import checks
import report_first as first
import report_goals
import report_limits as limits
import report_method as method
import report_quality as quality
import report_rest as rest
import report_results as results
import report_scaling as scaling
import report_speed as speed
from document import Block, Gallery, Paragraph, Picture, Points, heading, numbered, say
from facts import Facts
from report_pictures import maker


def report(facts: Facts, drawn: dict[str, str]) -> list[Block]:
    picture, found = maker(drawn), checks.run_all(facts)
    return numbered(
        [
            heading(1, "llmft: precision and parallel fine-tuning of Llama 3.2-1B, measured"),
            *first.abstract(facts),
            *limits.failed_note(found),
            first.tiles(facts),
            results.main_table(facts),
            *picture("beside"),
            Paragraph(
                say(
                    "Measured until {date}. In the HTML, a pointer on a number shows where it stands.",
                    date=limits.newest(facts),
                )
            ),
            heading(2, "Goals"),
            report_goals.goals(facts),
            *speed.speed_section(facts, picture, gallery),
            *scaling.section(facts, picture),
            *by_ranks(picture),
            *rest.memory_section(facts, picture),
            *quality.quality_section(facts, picture),
            *rest.preprocess_section(facts),
            *rest.generation_section(facts),
            *limits.checks_section(facts, found),
            *method.section(facts),
            *method.reproduce(),
            *limits.all_cells(facts),
        ]
    )


def by_ranks(picture) -> list[Block]:
    names = [
        f"{name}_gpu_{strategy}"
        for name in ("throughput", "epoch_time", "time", "memory")
        for strategy in ("ddp", "fsdp")
    ]
    return [heading(3, "By number of GPUs"), *gallery(picture, names)]


def gallery(picture, names) -> list[Block]:
    """Those that are there side by side, then a word on the others."""
    blocks = [block for name in names for block in picture(name)]
    pictures = [block for block in blocks if isinstance(block, Picture)]
    return ([Gallery(pictures)] if pictures else []) + [block for block in blocks if not isinstance(block, Picture)]


def deck(facts: Facts, drawn: dict[str, str]) -> list[list[Block]]:
    """A slide is a list of blocks that begins with its heading."""
    picture, found = maker(drawn), checks.run_all(facts)
    device = facts.scaling_device()
    judged = quality.quality_findings(facts.quality_rows()) + quality.agreement_findings(facts)
    slides = [
        [
            heading(1, "llmft"),
            Paragraph(say("Precision and parallel fine-tuning of Llama 3.2-1B, measured")),
            *first.abstract(facts),
            Paragraph(say("Measured until {d}", d=limits.newest(facts))),
        ],
        [heading(2, "The results"), first.tiles(facts), *limits.failed_note(found)],
        [heading(2, "At the original study's setting"), *picture("beside")],
        [heading(2, "Samples a second, beside others"), results.main_table(facts)],
        [heading(2, "Memory, energy, utilization"), results.resources_table(facts)],
        [
            heading(2, "What a precision does"),
            Points(speed.precision_findings(facts)[:6] or [say("Several precisions at one setting: {it}.", it=None)]),
        ],
        [heading(2, "Where a step's time goes"), *picture("roofline"), *speed.ledger_block(facts)],
        [
            heading(2, "DDP and FSDP"),
            Points(scaling.findings(facts, device) + scaling.beside_peers(facts, device))
            if device
            else Paragraph(say("{it}", it=None)),
        ],
        [heading(2, "DDP against FSDP"), *picture("DDP_VS_FSDP")],
        [heading(2, "Speedup"), *picture("speedup_plot")],
        [heading(2, "What lies in memory"), *picture("memory_parts")],
        [heading(2, "Before and after fine-tuning"), *picture("evaluation")],
        [heading(2, "Is it better, and do precisions agree?"), Points(judged)],
        [heading(2, "Losses by precision"), *picture("loss_by_precision")],
        [heading(2, "Time to a given validation loss"), *picture("time_to_loss")],
        [heading(2, "Goals"), report_goals.goals(facts)],
        [heading(2, "Limits"), Points(limits.limits(facts))],
    ]
    return slides
