"""Figures of losses and scores: by precision, time to a loss, before and after fine-tuning."""

from matplotlib.patches import Patch

import cells as c
import style
from cells import NotMeasured
from facts import Facts
from figures import Drawn


def loss_by_precision(facts: Facts) -> Drawn:
    runs = facts.loss_runs()
    if len(runs) < 2:
        raise NotMeasured("no two precisions ran on the same data with the same settings")
    labels, curves = {}, {}
    for precision, run in runs.items():
        steps, losses = c.measured(run.steps.step, run.steps.loss)
        curves[precision] = (steps, losses, c.smoothed(losses, c.smoothing_window(steps)))
        labels[precision] = f"{precision}  {curves[precision][2][-1]:.3f}"
    first = next(iter(runs.values()))
    validated = any(v is not None for run in runs.values() for v in run.steps.valid_loss)
    caption = "Faint: mean loss of a step's supervised tokens; strong: its running mean." + (
        " Points: validation loss." if validated else ""
    )
    figure, (axes,) = style.frame(
        "Loss by precision",
        f"{style.short_device(str(first.report.get('device', '')))} · {facts.run_words(first, precision=False)}",
        caption,
        right=style.room_for(list(labels.values())),
    )
    ends = []
    for (precision, run), width in zip(runs.items(), style.widths(len(runs))):
        steps, raw, smooth = curves[precision]
        if smooth != raw:
            style.line(axes, steps, raw, precision, alpha=0.25, linewidth=0.8)
        style.line(axes, steps, smooth, precision, linewidth=width)
        at, valid = c.measured(run.steps.step, run.steps.valid_loss)
        style.line(
            axes,
            at,
            valid,
            precision,
            linestyle="none",
            marker=style.MARKERS[precision],
            markersize=7,
            markeredgecolor="white",
            zorder=3,
        )
        ends.append((steps[-1], smooth[-1], labels[precision], style.COLOURS[precision]))
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss (nats per token)")
    axes.margins(x=0.02)
    style.label_ends(axes, ends)
    return Drawn(figure, 0)


def time_to_loss(facts: Facts) -> Drawn:
    """Validation loss by training time, a line a precision, with the loss that all reach."""
    goal = facts.time_to_loss()
    if goal is None:
        raise NotMeasured("no two precisions with validation losses at one setting")
    unit = style.unit_of("seconds", max(seconds[-1] for seconds, _ in goal.curves.values()))
    first = [s.value for s in goal.seconds.values()]
    logarithmic = max(first) > 6 * min(first)
    subtitle = f"{style.short_device(goal.device)} · {facts.run_words(goal.run, precision=False)}"
    caption = f"Time of the optimizer steps alone. Dotted: {goal.loss.value:.3f} nats, the lowest loss that every precision reaches."
    figure, (axes,) = style.frame("Time to a given validation loss", subtitle, caption)
    axes.axhline(goal.loss.value, color=style.FAINT, linestyle=(0, (2, 2)), linewidth=1.3)
    for (precision, (seconds, losses)), width in zip(goal.curves.items(), style.widths(len(goal.curves))):
        when = f"{precision}: {style.short(unit(goal.seconds[precision].value))} {unit.name}"
        style.line(
            axes,
            [unit(s) for s in seconds],
            losses,
            precision,
            linewidth=width,
            marker=style.MARKERS[precision],
            markersize=6,
            label=when,
        )
    axes.set_xlabel(f"training time ({unit.name})")
    axes.set_ylabel("validation loss (nats per token)")
    if logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(style.FuncFormatter(lambda v, _: f"{v:g}"))
    else:
        axes.set_xlim(0, None)
    axes.legend(loc="upper right", title="until the dotted line", title_fontsize=9.5, fontsize=10)
    return Drawn(figure, 0)


def evaluation(facts: Facts) -> Drawn:
    """Base against fine-tuned by precision: a panel a metric."""
    rows = facts.quality_rows()
    if not rows:
        raise NotMeasured("no quality run")
    metrics = [k for k in ("validation loss", "perplexity", "BLEU", "ROUGE-L") if any(r.metric == k for r in rows)]
    metrics = [k for k in metrics if not (k == "validation loss" and "perplexity" in metrics and len(metrics) > 3)]
    cells = [
        (p, mode)
        for mode in ("lora", "full")
        for p in c.PRECISIONS
        if any((r.precision, r.mode) == (p, mode) for r in rows)
    ]
    modes = {mode for _, mode in cells}
    caption = "Whiskers: bootstrap intervals. " + ("Hatched: full fine-tuning." if len(modes) > 1 else "")
    figure, panels = style.frame(
        "Pretrained against fine-tuned", facts.quality_words(), caption, len(metrics), right=0.15, left=0.6, above=0.5
    )
    for axes, metric in zip(panels, metrics):
        here = {(r.precision, r.mode): r for r in rows if r.metric == metric}
        top = 0.0
        for i, key in enumerate(cells):
            r = here.get(key)
            if r is None:
                continue
            axes.bar(i - 0.2, r.base.value, 0.38, color="#BBBBBB")
            axes.bar(
                i + 0.2,
                r.tuned.value,
                0.38,
                color=style.COLOURS[key[0]],
                hatch="////" if key[1] == "full" and len(modes) > 1 else None,
                edgecolor="white" if key[1] == "full" and len(modes) > 1 else style.COLOURS[key[0]],
            )
            high = r.tuned.value
            for at, s in ((i - 0.2, r.base), (i + 0.2, r.tuned)):
                if s.high > s.low:
                    reach = [[max(0, s.value - s.low)], [max(0, s.high - s.value)]]
                    axes.errorbar(at, s.value, reach, color=style.INK, capsize=2, linewidth=1)
            high = max(high, r.tuned.high)
            top = max(top, high, r.base.high)
            if len(cells) <= 5:
                axes.annotate(
                    style.short(r.tuned.value),
                    (i + 0.2, high),
                    xytext=(0, 2),
                    textcoords="offset points",
                    ha="center",
                    fontsize=7.5,
                )
        axes.set_xticks(
            range(len(cells)),
            [p for p, _ in cells],
            fontsize=9 if len(cells) <= 5 else 8,
            rotation=0 if len(cells) <= 5 else 60,
        )
        axes.tick_params(axis="x", length=0)
        axes.set_ylim(0, top * 1.12 if top else 1)
        direction = "lower is better" if metric in ("perplexity", "validation loss") else "higher is better"
        axes.set_title(f"{metric}\n", loc="left", weight="bold", fontsize=10.5)
        axes.text(0, 1.02, direction, transform=axes.transAxes, fontsize=8.5, color=style.FAINT)
    panels[-1].legend(
        [Patch(color="#BBBBBB"), Patch(color=style.COLOURS["bf16"])],
        ["base", "fine-tuned"],
        loc="lower right",
        bbox_to_anchor=(1.02, 1.0),
        borderaxespad=0.1,
        fontsize=8.5,
        handlelength=1.1,
    )
    return Drawn(figure, 0)
