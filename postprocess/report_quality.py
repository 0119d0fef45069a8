"""Quality: base against fine-tuned, losses by precision, time to a loss."""

from document import Block, Name, Paragraph, Points, Text, heading, join, number, percent, say, table
from facts import Facts
from facts_quality import QualityRow
from facts_runs import parity
from figures import MODE_NAMES
from measured import Stat
from read import PRECISIONS
from report_results import of
from style import is_gpu, short_device


def quality_section(facts: Facts, picture) -> list[Block]:
    out: list[Block] = [heading(2, "Quality")]
    rows = facts.quality_rows()
    if rows:
        out += [Paragraph(quality_data(facts)), Points(quality_findings(rows) + agreement_findings(facts))]
        out += [*picture("evaluation"), quality_table(facts, rows), *agreement_table(facts)]
    else:
        words = say("Validation loss, BLEU, ROUGE-L and perplexity before and after fine-tuning: {it}.", it=None)
        out.append(Paragraph(words))
    out += [heading(3, "Losses by precision"), *picture("loss_by_precision")]
    out += loss_findings(facts)
    out += [*picture("time_to_loss"), *time_findings(facts)]
    return out


def quality_data(facts: Facts) -> Text:
    """What was trained on and judged by, as far as the study told."""
    values = {k: facts.quality_data(k) for k in ("train_samples", "valid_samples", "overlap", "base_overlap")}
    shown = {k: number(v, source, 0) for k, (v, source) in values.items()}
    text = say(
        "A small Llama was first trained by llmft itself on a part of the kinds of tasks, and then fine-tuned on all of them: "
        "{train_samples} samples, judged by {valid_samples} others.",
        **shown,
    )
    overlaps = [values[k][0] for k in ("overlap", "base_overlap")]
    if None not in overlaps:
        words = (
            "None of those was seen in either training"
            if not any(overlaps)
            else "**{k} of those were seen in training**"
        )
        text += say(" " + words + ".", k=number(sum(overlaps), values["overlap"][1], 0))
    settings = {k: facts.quality_data(k, "settings") for k in ("base_steps", "steps", "resamples")}
    if all(value is not None for value, _ in settings.values()):
        text += say(
            " The base had {base_steps} steps, a fine-tuning {steps}; answers are greedy, intervals are those of {resamples} bootstrap resamples of the samples judged, differences are paired.",
            **{k: number(value, source, 0) for k, (value, source) in settings.items()},
        )
    if facts.m.quality_json.get("settings", {}).get("device") == "cpu":
        text += say(" All of it on a CPU, which rounds to each precision where a GPU does.")
    return text


def with_interval(value: Stat) -> Text:
    if value.low == value.high:
        return say("{v}", v=of(value))
    low, high = number(value.low, value.source), number(value.high, value.source)
    return say("{v} [{low}, {high}]", v=of(value), low=low, high=high)


def quality_table(facts: Facts, rows: list[QualityRow]) -> Block:
    body = []
    for r in rows:
        verdict = {True: "better", False: "**worse**", None: "within it" if r.low else "not told"}[r.better]
        spread = (r.low and r.high) and say("{low} to {high}", low=of(r.low), high=of(r.high))
        body.append(
            [
                Name(f"{MODE_NAMES.get(r.mode, r.mode)} {r.precision}"),
                Name(r.metric),
                with_interval(r.base),
                with_interval(r.tuned),
                of(r.difference),
                spread or None,
                say(verdict),
            ]
        )
    caption = say(
        "{w}. In brackets and for the difference (fine-tuned less base, paired): bootstrap intervals.",
        w=Name(facts.quality_words() or "quality.csv"),
    )
    head = ["", "metric", "base", "fine-tuned", "difference", "its interval", "beyond it"]
    return table(head, body, caption, left=2, words=(6,))


def agreement_findings(facts: Facts) -> list:
    found = facts.agreements()
    if not found:
        return [say("Agreement of the precisions in quality: {it}.", it=None)]
    failed = [a for a in found if not a.holds]
    count = number(len(found), "quality/agreement.csv", 0)
    if not failed:
        return [
            say(
                "In all {n} comparisons of two precisions the paired difference, with its interval, is smaller than half the interval of the score.",
                n=count,
            )
        ]
    names = join(
        [say("{x}", x=Name(f"{a.metric}, {a.mode}, {a.precision} against {a.reference}")) for a in failed], "; ", "; "
    )
    return [
        say(
            "Precisions do **not** agree in {k} of {n} comparisons: {names}.",
            k=number(len(failed), "quality/agreement.csv", 0),
            n=count,
            names=names,
        )
    ]


def agreement_table(facts: Facts) -> list[Block]:
    found = facts.agreements()
    if not found:
        return []
    first = min((a.reference for a in found), key=PRECISIONS.index)
    against = [a for a in found if a.reference == first]
    precisions = sorted({a.precision for a in against}, key=PRECISIONS.index)
    body = []
    for mode, metric in dict.fromkeys((a.mode, a.metric) for a in against):
        of_row = {a.precision: a for a in against if (a.mode, a.metric) == (mode, metric)}
        margin = next(iter(of_row.values())).margin
        cells = [of(of_row[p].difference) if p in of_row else None for p in precisions]
        body.append([Name(MODE_NAMES.get(mode, mode)), Name(metric), *cells, of(margin)])
    head = ["", "metric", *(say("{p}", p=Name(p)) for p in precisions), "margin"]
    caption = say(
        "Score less that of {first}, after fine-tuning; the margin is half the bootstrap interval of the score.",
        first=Name(first),
    )
    return [table(head, body, caption, left=2)]


def quality_findings(rows: list[QualityRow]) -> list:
    """A sentence a metric: where it was from and where it went, by mode; whether that is beyond the interval."""
    items = []
    for metric in dict.fromkeys(r.metric for r in rows):
        of_metric = [r for r in rows if r.metric == metric]
        moves = []
        for mode in dict.fromkeys(r.mode for r in of_metric):
            of_mode = [r for r in of_metric if r.mode == mode]
            before, after = (span([getattr(r, k) for r in of_mode]) for k in ("base", "tuned"))
            moves.append(say("from {a} to {b} ({m})", a=before, b=after, m=Name(MODE_NAMES.get(mode, mode))))
        better = [r for r in of_metric if r.better is True]
        values = {"metric": Name(metric), "moves": join(moves), "n": number(len(of_metric), "quality.csv", 0)}
        if len(better) == len(of_metric):
            words = "{metric} {moves}: fine-tuned is better than its base beyond the bootstrap interval in all of {n} cells."
        else:
            names = [
                say("{x}", x=Name(f"{MODE_NAMES.get(r.mode, r.mode)} {r.precision}"))
                for r in of_metric
                if r.better is not True
            ]
            values |= {"rest": join(names), "k": number(len(better), "quality.csv", 0)}
            words = "{metric} {moves}: fine-tuned is **not** shown to be better in {rest} ({k} of {n} cells show it)."
        items.append(say(words, **values))
    return items


def span(values: list[Stat]) -> Text:
    """Least and most, or one figure where they print alike."""
    low, high = of(min(values, key=lambda v: v.value)), of(max(values, key=lambda v: v.value))
    return say("{a}", a=low) if low.text == high.text else say("{a}–{b}", a=low, b=high)


def loss_findings(facts: Facts) -> list[Block]:
    runs = facts.loss_runs()
    if len(runs) < 2:
        return [Paragraph(say("Losses of precisions on the same batches: {it}.", it=None))]
    wide = next(iter(runs))
    items = []
    for p, run in runs.items():
        found = parity(runs[wide], run) if p != wide else None
        if found is None:
            continue
        source = f"runs/{run.name}/steps.csv"
        gap, step = percent(found.early_gap, source, 3), number(found.step, source, 0)
        text = say(
            "{p} is at most {gap} from {wide} in the first steps (step {n})",
            p=Name(p),
            wide=Name(wide),
            gap=gap,
            n=step,
        )
        if found.late:
            text += say(
                ", and {gap} in the mean of the last fifth of the steps", gap=percent(found.late_gap, source, 2)
            )
        items.append(text + say("."))
    return [Points(items)]


def time_findings(facts: Facts) -> list[Block]:
    goal = facts.time_to_loss()
    if goal is None:
        return [Paragraph(say("Time to a given validation loss: {it}.", it=None))]
    order = sorted(goal.seconds, key=lambda p: goal.seconds[p].value)
    parts = [say("{p} after {s} s", p=Name(p), s=of(goal.seconds[p])) for p in order]
    device = Name(short_device(goal.device))
    text = say(
        "A validation loss of {l} nats is reached by {list}, on {device}.",
        l=of(goal.loss, 3),
        list=join(parts),
        device=device,
    )
    if not is_gpu(goal.device):
        text += say(" A CPU emulates the narrow precisions: these times say nothing about a GPU's.")
    return [Paragraph(text)]
