"""Figures of the report that the tables of runs alone cannot give: beside others, by kernel group, by part of memory,
losses by precision, time to a loss, before and after fine-tuning. Each returns a Drawn or raises NotMeasured."""
import cells as c
import measured as m
import style
from cells import NotMeasured
from facts import Facts
from figures import Drawn
from matplotlib.patches import Patch

SYSTEMS = {"published": "#999999", "PEFT": "#D8BFA6", "Liger": "#E69F00", "Unsloth": "#CC79A7", "llmft": "#0072B2"}
SYSTEM_HATCH = {"published": "////", "PEFT": "", "Liger": "", "Unsloth": "", "llmft": ""}
PARTS = {
    "weights": "#0072B2", "adapters": "#56B4E9", "gradients": "#E69F00", "optimizer": "#D55E00", "gathered": "#F0E442",
    "activations": "#009E73", "logits": "#CC79A7", "workspace": "#999999",
}  # fmt: skip


def beside(facts: Facts) -> Drawn:
    """samples/s at the original's setting: published, peers, ours, by precision."""
    table = facts.original_speed()
    cells = {(p, s): value for p, of in table.items() for s, value in of.items() if value is not None}
    if not any(system == "llmft" for _, system in cells):
        raise NotMeasured("the original's setting was not measured")
    precisions = [p for p in c.PRECISIONS if any(q == p for q, _ in cells)]
    systems = [s for s in SYSTEMS if any(t == s for _, t in cells)]
    setting = facts.original
    subtitle = f"{setting.batch} × {setting.sample_tokens} tokens a step, LoRA r = {setting.rank} on q, v, o · one GPU"
    names = {"published": "published original", "llmft": "llmft"}
    caption = "Median samples of 512 tokens a second." if setting.sample_tokens == 512 else "Median samples a second."
    figure, (axes,) = style.frame("Speed at the original study's setting", subtitle, caption + " " + facts.beside_note(), above=0.3)
    top = max(value.value for value in cells.values())
    for i, precision in enumerate(precisions):
        here = [s for s in systems if (precision, s) in cells]
        for j, system in enumerate(here):
            at, value = i + (j - (len(here) - 1) / 2) * 0.19, cells[precision, system].value
            axes.bar(at, value, 0.175, color=SYSTEMS[system], hatch=SYSTEM_HATCH[system], edgecolor="white" if SYSTEM_HATCH[system] else SYSTEMS[system])
            axes.annotate(style.short(value), (at, value), xytext=(0, 2), textcoords="offset points", ha="center", va="bottom", fontsize=7.8)
    axes.set_xticks(range(len(precisions)), precisions)
    axes.set_xlim(-0.55, len(precisions) - 0.45)
    axes.set_ylim(0, top * 1.1)
    axes.tick_params(axis="x", length=0)
    axes.set_ylabel("samples/s")
    patches = [Patch(facecolor=SYSTEMS[s], hatch=SYSTEM_HATCH[s], edgecolor="white" if SYSTEM_HATCH[s] else SYSTEMS[s]) for s in systems]
    axes.legend(patches, [names.get(s, s) for s in systems], loc="lower left", bbox_to_anchor=(0, 1.0), ncols=len(systems), borderaxespad=0.2, fontsize=9.5, columnspacing=1.2)
    return Drawn(figure, 0)


def roofline(facts: Facts) -> Drawn:
    """Where a step's time goes, and how near each group is to what the GPU could do."""
    run = facts.profiled()
    if run is None:
        raise NotMeasured("no run with --profile")
    rows = [r for r in m.ledger(run) if r.text("group") != "step" and (r["share"] or 0) >= 0.01]
    if not rows:
        raise NotMeasured(f"{run.name}: its profile has no group")
    rows.sort(key=lambda r: r["share"], reverse=True)
    at = range(len(rows))[::-1]
    names = [r.text("group") for r in rows]
    subtitle = f"{style.short_device(str(run.report.get('device', '')))} · {facts.run_words(run)}"
    caption = "Left: mean time of a step. Right: the least time that the GPU's peak FLOP/s and memory rate allow for a group's work, over the time it took; no bar where a group's work is not counted. Groups under a hundredth of the step are left out."
    room = 0.35 + 0.082 * max(map(len, names))
    figure, (left, right) = style.frame("Where a step's time goes", subtitle, caption, 2, right=0.5, left=room, height=0.25 * len(rows) + 0.35)
    for axes in (left, right):
        axes.set_yticks(list(at), names, fontsize=9.5)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.grid(axis="x", visible=True)
        axes.set_ylim(-0.6, len(rows) - 0.4)
    right.set_yticklabels([])
    box = right.get_position()
    shift = (room - 0.45) / figure.get_figwidth()
    right.set_position((box.x0 - shift, box.y0, box.width + shift, box.height))
    left.barh(list(at), [1e3 * r["seconds"] for r in rows], 0.7, color="#0072B2")
    for y, r in zip(at, rows):
        left.annotate(f"{100 * r['share']:.1f} %", (1e3 * r["seconds"], y), xytext=(3, 0), textcoords="offset points", va="center", fontsize=9)
        if r["roofline"]:
            right.barh(y, 100 * r["roofline"], 0.7, color="#009E73")
            right.annotate(f"{100 * r['roofline']:.0f} %", (100 * r["roofline"], y), xytext=(3, 0), textcoords="offset points", va="center", fontsize=9)
    left.set_xlabel("ms a step")
    left.set_xlim(0, 1.16 * max(1e3 * r["seconds"] for r in rows))
    right.set_xlabel("% of the roofline")
    right.set_xlim(0, max(108, 1.1 * max(100 * (r["roofline"] or 0) for r in rows)))
    return Drawn(figure, 0)


def memory_parts(facts: Facts) -> Drawn:
    """A stacked bar a run: what lies in a rank's memory."""
    chosen = facts.memory_runs()
    if not chosen:
        raise NotMeasured("no run with a memory.csv")
    bars = []
    for name, run in chosen:
        ranks = m.memory(run)
        fullest = max(ranks, key=lambda r: ranks[r]["peak"]["bytes"] or 0)
        bars.append((name, ranks[fullest]))
    parts = [p for p in PARTS if any((of.get(p) and of[p]["bytes"] or 0) > 5e6 for _, of in bars)]
    names = [name for name, _ in bars]
    room = 0.3 + 0.085 * max(map(len, names))
    run = chosen[0][1]
    subtitle = f"{style.short_device(str(run.report.get('device', '')))} · {facts.run_words(run, strategy=False, precision=False)}"
    caption = "The fullest rank; each part at its own highest. Black mark: the most held at one time."
    figure, (axes,) = style.frame("Memory by part", subtitle, caption, right=0.7, left=room, height=0.36 * len(bars) + 0.35, above=0.55)
    at = list(range(len(bars)))[::-1]
    ends = [0.0] * len(bars)
    for part in parts:
        sizes = [(of[part]["bytes"] or 0) / 1e9 if part in of else 0 for _, of in bars]
        axes.barh(at, sizes, 0.66, left=ends, color=PARTS[part], label=part)
        ends = [a + b for a, b in zip(ends, sizes)]
    for y, end, (_, of) in zip(at, ends, bars):
        peak = of["peak"]["bytes"] / 1e9
        axes.plot([peak, peak], [y - 0.36, y + 0.36], color=style.INK, linewidth=1.6)
        axes.annotate(f"{peak:.1f}", (max(end, peak), y), xytext=(4, 0), textcoords="offset points", va="center", fontsize=9.5)
    axes.set_yticks(at, names)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", visible=True)
    axes.set_xlim(0, 1.08 * max(ends))
    axes.set_xlabel("GB (1e9 bytes)")
    axes.legend(loc="lower left", bbox_to_anchor=(-room / (7.6 - room - 0.7), 1.0), ncols=4, borderaxespad=0.2, fontsize=9.5, columnspacing=1.2, handlelength=1.2)
    return Drawn(figure, 0)


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
    caption = "Faint: mean loss of a step's supervised tokens; strong: its running mean." + (" Points: validation loss." if validated else "")
    figure, (axes,) = style.frame(
        "Loss by precision", f"{style.short_device(str(first.report.get('device', '')))} · {facts.run_words(first, precision=False)}",
        caption, right=style.room_for(list(labels.values())),
    )  # fmt: skip
    ends = []
    for (precision, run), width in zip(runs.items(), style.widths(len(runs))):
        steps, raw, smooth = curves[precision]
        if smooth != raw:
            style.line(axes, steps, raw, precision, alpha=0.25, linewidth=0.8)
        style.line(axes, steps, smooth, precision, linewidth=width)
        at, valid = c.measured(run.steps.step, run.steps.valid_loss)
        style.line(axes, at, valid, precision, linestyle="none", marker=style.MARKERS[precision], markersize=7, markeredgecolor="white", zorder=3)
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
        style.line(axes, [unit(s) for s in seconds], losses, precision, linewidth=width, marker=style.MARKERS[precision], markersize=6, label=when)
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
    cells = [(p, mode) for mode in ("lora", "full") for p in c.PRECISIONS if any((r.precision, r.mode) == (p, mode) for r in rows)]
    modes = {mode for _, mode in cells}
    caption = "Whiskers: bootstrap interval of the fine-tuned model's difference from its base. " + ("Hatched: full fine-tuning." if len(modes) > 1 else "")
    figure, panels = style.frame("Pretrained against fine-tuned", facts.quality_words(), caption, len(metrics), right=0.15, left=0.6, above=0.5)
    for axes, metric in zip(panels, metrics):
        here = {(r.precision, r.mode): r for r in rows if r.metric == metric}
        top = 0.0
        for i, key in enumerate(cells):
            r = here.get(key)
            if r is None:
                continue
            axes.bar(i - 0.2, r.base.value, 0.38, color="#BBBBBB")
            axes.bar(i + 0.2, r.tuned.value, 0.38, color=style.COLOURS[key[0]], hatch="////" if key[1] == "full" and len(modes) > 1 else None, edgecolor="white" if key[1] == "full" and len(modes) > 1 else style.COLOURS[key[0]])
            high = r.tuned.value
            if r.low is not None and r.high is not None:
                low, up = r.base.value + r.low.value, r.base.value + r.high.value
                axes.errorbar(i + 0.2, r.tuned.value, [[max(0, r.tuned.value - low)], [max(0, up - r.tuned.value)]], color=style.INK, capsize=2, linewidth=1)
                high = max(high, up)
            top = max(top, high, r.base.value)
            if len(cells) <= 5:
                axes.annotate(style.short(r.tuned.value), (i + 0.2, high), xytext=(0, 2), textcoords="offset points", ha="center", fontsize=7.5)
        axes.set_xticks(range(len(cells)), [p for p, _ in cells], fontsize=9 if len(cells) <= 5 else 8, rotation=0 if len(cells) <= 5 else 60)
        axes.tick_params(axis="x", length=0)
        axes.set_ylim(0, top * 1.12 if top else 1)
        direction = "lower is better" if metric in ("perplexity", "validation loss") else "higher is better"
        axes.set_title(f"{metric}\n", loc="left", weight="bold", fontsize=10.5)
        axes.text(0, 1.02, direction, transform=axes.transAxes, fontsize=8.5, color=style.FAINT)
    panels[-1].legend([Patch(color="#BBBBBB"), Patch(color=style.COLOURS["bf16"])], ["base", "fine-tuned"], loc="lower right", bbox_to_anchor=(1.02, 1.0), borderaxespad=0.1, fontsize=8.5, handlelength=1.1)
    return Drawn(figure, 0)


FIGURES = {
    "beside": beside, "roofline": roofline, "memory_parts": memory_parts, "loss_by_precision": loss_by_precision,
    "time_to_loss": time_to_loss, "evaluation": evaluation,
}  # fmt: skip
