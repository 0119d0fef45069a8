"""Quality: base against fine-tuned, losses by precision, time to a loss."""

import figures
from document import Block, Name, Paragraph, Points, heading, join, number, percent, say, table
from facts import Facts
from report_results import of
from style import short_device


def quality_section(facts: Facts, picture) -> list[Block]:
    out: list[Block] = [heading(2, "Quality")]
    rows = facts.quality_rows()
    if rows:
        out.append(Points(quality_findings(rows)))
        table_rows = []
        for r in rows:
            interval = (
                say("{low} to {high}", low=of(r.low), high=of(r.high)) if r.low and r.high else say("{it}", it=None)
            )
            verdict = {True: "better", False: "**worse**", None: "within it"}[r.better]
            table_rows.append(
                [
                    Name(f"{figures.MODE_NAMES.get(r.mode, r.mode)} {r.precision}"),
                    Name(r.metric),
                    of(r.base),
                    of(r.tuned),
                    of(r.difference),
                    interval,
                    say(verdict),
                ]
            )
        caption = say(
            "{w}. Difference: fine-tuned less base, with its bootstrap interval.",
            w=Name(facts.quality_words() or "quality/quality.csv"),
        )
        out += [
            *picture("evaluation"),
            table(
                ["", "metric", "base", "fine-tuned", "difference", "interval", "beyond it"], table_rows, caption, left=2
            ),
        ]
    else:
        out.append(
            Paragraph(say("Validation loss, BLEU, ROUGE-L and perplexity before and after fine-tuning: {it}.", it=None))
        )
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
            items.append(
                say(
                    "{metric}: fine-tuned is better than its base beyond the bootstrap interval in all of {n} runs.",
                    metric=Name(metric),
                    n=count,
                )
            )
        else:
            rest = [
                say("{x}", x=Name(f"{figures.MODE_NAMES.get(r.mode, r.mode)} {r.precision}"))
                for r in of_metric
                if r.better is not True
            ]
            items.append(
                say(
                    "{metric}: fine-tuned is **not** shown to be better in {rest} ({k} of {n} runs show it).",
                    metric=Name(metric),
                    rest=join(rest),
                    k=number(len(better), "quality.csv", 0),
                    n=count,
                )
            )
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
        items.append(
            say(
                "{p} is {gap} from {wide} at step {n} ({b} and {a} nats).",
                p=Name(p),
                wide=Name(wide),
                gap=percent(gap, f"runs/{run.name}/steps.csv", 3),
                n=number(b.step[common], "steps.csv", 0),
                a=number(a.loss[common], f"runs/{runs[wide].name}/steps.csv", 4),
                b=number(b.loss[common], f"runs/{run.name}/steps.csv", 4),
            )
        )
    return [Points(items)]


def time_findings(facts: Facts) -> list[Block]:
    goal = facts.time_to_loss()
    if goal is None:
        return [Paragraph(say("Time to a given validation loss: {it}.", it=None))]
    order = sorted(goal.seconds, key=lambda p: goal.seconds[p].value)
    parts = [say("{p} after {s} s", p=Name(p), s=of(goal.seconds[p])) for p in order]
    return [
        Paragraph(
            say(
                "A validation loss of {l} nats is reached by {list}, on {device}.",
                l=of(goal.loss, 3),
                list=join(parts),
                device=Name(short_device(goal.device)),
            )
        )
    ]
