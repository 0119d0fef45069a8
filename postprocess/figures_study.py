"""Figures of the report that the tables of runs alone cannot give: beside others, by kernel group, by part of memory.

Each takes the facts and returns a Drawn, or raises NotMeasured.
"""

from matplotlib.patches import Patch

import cells as c
import run_files
import style
from cells import NotMeasured
from facts import Facts
from figures import Drawn
from figures_quality import evaluation, loss_by_precision, time_to_loss

SYSTEMS = {"published": "#999999", "PEFT": "#D8BFA6", "Liger": "#E69F00", "Unsloth": "#CC79A7", "llmft": "#0072B2"}


SYSTEM_HATCH = {"published": "////", "PEFT": "", "Liger": "", "Unsloth": "", "llmft": ""}


PARTS = {
    "weights": "#0072B2",
    "adapters": "#56B4E9",
    "gradients": "#E69F00",
    "optimizer": "#D55E00",
    "gathered": "#F0E442",
    "activations": "#009E73",
    "logits": "#CC79A7",
    "workspace": "#999999",
}


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
    figure, (axes,) = style.frame(
        "Speed at the original study's setting", subtitle, caption + " " + facts.beside_note(), above=0.3
    )
    top = max(value.value for value in cells.values())
    for i, precision in enumerate(precisions):
        here = [s for s in systems if (precision, s) in cells]
        for j, system in enumerate(here):
            at, value = i + (j - (len(here) - 1) / 2) * 0.19, cells[precision, system].value
            axes.bar(
                at,
                value,
                0.175,
                color=SYSTEMS[system],
                hatch=SYSTEM_HATCH[system],
                edgecolor="white" if SYSTEM_HATCH[system] else SYSTEMS[system],
            )
            axes.annotate(
                style.short(value),
                (at, value),
                xytext=(0, 2),
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontsize=7.8,
            )
    axes.set_xticks(range(len(precisions)), precisions)
    axes.set_xlim(-0.55, len(precisions) - 0.45)
    axes.set_ylim(0, top * 1.1)
    axes.tick_params(axis="x", length=0)
    axes.set_ylabel("samples/s")
    patches = [
        Patch(facecolor=SYSTEMS[s], hatch=SYSTEM_HATCH[s], edgecolor="white" if SYSTEM_HATCH[s] else SYSTEMS[s])
        for s in systems
    ]
    axes.legend(
        patches,
        [names.get(s, s) for s in systems],
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=len(systems),
        borderaxespad=0.2,
        fontsize=9.5,
        columnspacing=1.2,
    )
    return Drawn(figure, 0)


def roofline(facts: Facts) -> Drawn:
    """Where a step's time goes, and how near each group is to what the GPU could do."""
    run = facts.profiled()
    if run is None:
        raise NotMeasured("no run with --profile")
    rows = [r for r in run_files.ledger(run) if r.text("group") != "step" and (r["share"] or 0) >= 0.01]
    if not rows:
        raise NotMeasured(f"{run.name}: its profile has no group")
    rows.sort(key=lambda r: r["share"], reverse=True)
    at = range(len(rows))[::-1]
    names = [r.text("group") for r in rows]
    subtitle = f"{style.short_device(str(run.report.get('device', '')))} · {facts.run_words(run)}"
    caption = "Left: mean time of a step. Right: the least time that the GPU's peak FLOP/s and memory rate allow for a group's work, over the time it took; no bar where a group's work is not counted. Groups under a hundredth of the step are left out."
    room = 0.35 + 0.082 * max(map(len, names))
    figure, (left, right) = style.frame(
        "Where a step's time goes", subtitle, caption, 2, right=0.5, left=room, height=0.25 * len(rows) + 0.35
    )
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
        left.annotate(
            f"{100 * r['share']:.1f} %",
            (1e3 * r["seconds"], y),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
        if r["roofline"]:
            right.barh(y, 100 * r["roofline"], 0.7, color="#009E73")
            right.annotate(
                f"{100 * r['roofline']:.0f} %",
                (100 * r["roofline"], y),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                fontsize=9,
            )
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
        ranks = run_files.measured_memory(run)
        fullest = max(ranks, key=lambda r: ranks[r]["peak"]["bytes"])
        bars.append((name, ranks[fullest]))
    parts = [p for p in PARTS if any((of.get(p) and of[p]["bytes"] or 0) > 5e6 for _, of in bars)]
    names = [name for name, _ in bars]
    room = 0.3 + 0.085 * max(map(len, names))
    run = chosen[0][1]
    subtitle = f"{style.short_device(str(run.report.get('device', '')))} · {facts.run_words(run, strategy=False, precision=False)}"
    caption = "The fullest rank; each part at its own highest. Black mark: the most held at one time."
    figure, (axes,) = style.frame(
        "Memory by part", subtitle, caption, right=0.7, left=room, height=0.36 * len(bars) + 0.35, above=0.55
    )
    at = list(range(len(bars)))[::-1]
    ends = [0.0] * len(bars)
    for part in parts:
        sizes = [(of[part]["bytes"] or 0) / 1e9 if part in of else 0 for _, of in bars]
        axes.barh(at, sizes, 0.66, left=ends, color=PARTS[part], label=part)
        ends = [a + b for a, b in zip(ends, sizes)]
    for y, end, (_, of) in zip(at, ends, bars):
        peak = of["peak"]["bytes"] / 1e9
        axes.plot([peak, peak], [y - 0.36, y + 0.36], color=style.INK, linewidth=1.6)
        axes.annotate(
            f"{peak:.1f}", (max(end, peak), y), xytext=(4, 0), textcoords="offset points", va="center", fontsize=9.5
        )
    axes.set_yticks(at, names)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", visible=True)
    axes.set_xlim(0, 1.08 * max(ends))
    axes.set_xlabel("GB (1e9 bytes)")
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-room / (7.6 - room - 0.7), 1.0),
        ncols=4,
        borderaxespad=0.2,
        fontsize=9.5,
        columnspacing=1.2,
        handlelength=1.2,
    )
    return Drawn(figure, 0)


FIGURES = {
    "beside": beside,
    "roofline": roofline,
    "memory_parts": memory_parts,
    "loss_by_precision": loss_by_precision,
    "time_to_loss": time_to_loss,
    "evaluation": evaluation,
}
