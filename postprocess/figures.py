"""The figures: which runs each shows, and how. A function takes the runs of one device and returns a Drawn, or
raises NotMeasured; cells.py has decided what the numbers are, style.py how they look."""
import dataclasses

import cells as c
import style
from cells import Choice, NotMeasured
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from read import Benchmark, Run

MODE_NAMES = {"lora": "LoRA", "full": "full"}
STRATEGY_NAMES = {"ddp": "DDP", "fsdp": "FSDP"}
LEGEND = 0.3  # inches that a legend or a title above the axes takes
MOST_CURVES = 12


@dataclasses.dataclass(frozen=True)
class Measure:
    column: str
    kind: str  # unit, or what style.unit_of makes one of
    label: str
    title: str
    note: str = ""


EPOCH = Measure(
    "epoch_time_s", "seconds", "epoch time", "Time of an epoch",
    "Epoch time: tokens of an epoch over the run's median tokens/s.",
)  # fmt: skip
THROUGHPUT = Measure("tokens_per_s", "tokens/s", "throughput", "Throughput", "All tokens of all ranks, after warm-up.")
SAMPLES = Measure("samples_per_s", "samples/s", "throughput", "Throughput")
TRAINING = Measure("training_time_s", "seconds", "training time", "Training time")
MEMORY = Measure("peak_memory_bytes", "bytes", "peak memory of a rank", "Peak memory", "Memory: of the fullest rank.")


@dataclasses.dataclass(frozen=True)
class Drawn:
    figure: Figure
    left_out: int  # runs that were measured, but at another setting


def _caption(choice: Choice, *notes: str, whiskers: bool = True) -> str:
    counts = {cell.n for cell in choice.cells.values()}
    several = f"{min(counts)} to {max(counts)}" if len(counts) > 1 else f"{max(counts)}"
    repeats = f"Medians of n = {several} runs" + ("; whiskers: lowest and highest." if whiskers else ".")
    if counts == {1}:
        repeats = "One run each."
    versions = ", ".join(sorted({f"{row.version} {row.fields.get('commit') or ''}".strip() for row in choice.rows}))
    hosts = sorted({row.host for row in choice.rows} - {""})
    where = ", ".join(hosts) if len(hosts) <= 4 else f"{hosts[0]} and {len(hosts) - 1} more hosts"
    return " ".join((repeats, *(note for note in notes if note), f"llmft {versions}{' on ' if where else ''}{where}."))


def _subtitle(choice: Choice, modes) -> str:
    return f"{style.short_device(choice.rows[0].device)} · {choice.setting.text(modes)}"


def _axis_label(axes: Axes, measure: Measure, unit: style.Unit) -> None:
    axes.set_ylabel(f"{measure.label} ({unit.name})")


def _unit(measure: Measure, choice: Choice) -> style.Unit:
    return style.unit_of(measure.kind, max(cell.high for cell in choice.cells.values()))


def _bars_by_precision(axes: Axes, measure: Measure, choice: Choice) -> None:
    unit = _unit(measure, choice)
    modes = [mode for mode in MODE_NAMES if any(m == mode for _, m in choice.cells)]
    style.bars(axes, choice.cells, unit, modes, MODE_NAMES, c.in_order(p for p, _ in choice.cells))
    _axis_label(axes, measure, unit)


def by_precision(measure: Measure, beside: Measure | None = None):
    """Bars by precision, LoRA and full side by side; `beside`: a second panel of the same runs."""

    def draw(rows: list[Benchmark]) -> Drawn:
        choice = c.by_precision(rows, measure.column)
        panels = [(measure, choice)]
        if beside and all(getattr(row, beside.column) is not None for row in choice.rows):
            panels.append((beside, c.by_precision(choice.rows, beside.column)))
        modes = {mode for _, mode in choice.cells}
        figure, axes = style.frame(
            f"{measure.title} by precision",
            _subtitle(choice, modes),
            _caption(choice, measure.note),
            len(panels),
            above=LEGEND * (len(modes) > 1),
        )
        for at, (of, cells) in zip(axes, panels):
            _bars_by_precision(at, of, cells)
        return Drawn(figure, choice.left_out)

    return draw


def _lines(choice: Choice) -> dict[tuple, list[tuple]]:
    """{(everything but ranks): [(ranks, cell)]}, precisions from wide to narrow."""
    lines: dict[tuple, list] = {}
    for (*line, ranks), cell in sorted(choice.cells.items(), key=lambda item: item[0][-1]):
        lines.setdefault(tuple(line), []).append((ranks, cell))
    return {line: lines[line] for line in sorted(lines, key=lambda l: (c.PRECISIONS.index(l[1]), l))}


def _end_labels(choice: Choice, unit: style.Unit, name_of) -> dict[tuple, str]:
    return {key: f"{name_of(key)}  {unit.text(points[-1][1].value)}" for key, points in _lines(choice).items()}


def _draw_lines(axes: Axes, choice: Choice, measure: Measure, device: str, name_of, dash_of) -> None:
    """name_of, dash_of: of a line's key (strategy, precision, ...)."""
    unit = _unit(measure, choice)
    labels = _end_labels(choice, unit, name_of)
    ends = []
    lines = _lines(choice)
    for (key, points), width in zip(lines.items(), style.widths(len(lines))):
        precision = key[1]
        xs, ys = [ranks for ranks, _ in points], [unit(cell.value) for _, cell in points]
        look = {"marker": style.MARKERS[precision], "markersize": 6, "linewidth": width}
        style.line(axes, xs, ys, precision, dash_of(key), **look)
        for ranks, cell in points:
            if cell.high > cell.low:
                low, high = unit(cell.value - cell.low), unit(cell.high - cell.value)
                axes.errorbar(ranks, unit(cell.value), [[low], [high]], color=style.COLOURS[precision], capsize=3)
        ends.append((xs[-1], ys[-1], labels[key], style.COLOURS[precision]))
    style.rank_axis(axes, sorted({key[-1] for key in choice.cells}), device)
    axes.set_ylim(0, axes.get_ylim()[1] * 1.02)
    style.value_ticks(axes)
    _axis_label(axes, measure, unit)
    style.label_ends(axes, ends)


def _alone_note(choice: Choice) -> str:
    alone = any(row.strategy == "none" for row in choice.rows)
    return "The point at one rank is a run without a strategy." if alone else ""


def by_ranks(measure: Measure, strategy: str):
    """A line a precision over the number of ranks; full fine-tuning is dashed where LoRA was measured too."""

    def draw(rows: list[Benchmark]) -> Drawn:
        choice = c.by_ranks(rows, measure.column, (strategy,))
        modes = {mode for _, _, mode, _ in choice.cells}
        device = choice.rows[0].device
        both = len(modes) > 1

        def name_of(key: tuple) -> str:
            return f"{key[1]} {MODE_NAMES[key[2]]}" if both else key[1]

        figure, (axes,) = style.frame(
            f"{measure.title} by number of {'GPUs' if style.is_gpu(device) else 'ranks'}, {STRATEGY_NAMES[strategy]}",
            _subtitle(choice, modes),
            _caption(choice, measure.note, _alone_note(choice)),
            right=style.room_for(list(_end_labels(choice, _unit(measure, choice), name_of).values())),
        )
        _draw_lines(axes, choice, measure, device, name_of, lambda key: int(both and key[2] == "full"))
        return Drawn(figure, choice.left_out)

    return draw


def ddp_against_fsdp(rows: list[Benchmark]) -> Drawn:
    """Throughput and memory; lines where both were measured on several numbers of ranks, else bars."""
    choice = c.ddp_and_fsdp(rows, THROUGHPUT.column)
    panels = [(THROUGHPUT, choice)]
    note = "Peak memory was not measured."
    if all(row.peak_memory_bytes is not None for row in choice.rows):
        panels.append((MEMORY, c.ddp_and_fsdp(choice.rows, MEMORY.column)))
        note = MEMORY.note
    device, mode = choice.rows[0].device, choice.setting.mode
    paired = c.common_ranks(choice.cells)
    title, subtitle = "DDP against FSDP", _subtitle(choice, {mode})
    if len(paired) > 1:

        def name_of(key: tuple) -> str:
            return f"{key[1]} {STRATEGY_NAMES[key[0]]}"

        labels = [t for m, of in panels for t in _end_labels(of, _unit(m, of), name_of).values()]
        caption = _caption(choice, THROUGHPUT.note, note)
        figure, axes = style.frame(title, subtitle, caption, len(panels), style.room_for(labels))
        for at, (measure, of) in zip(axes, panels):
            _draw_lines(at, of, measure, device, name_of, lambda key: int(key[0] == "fsdp"))
        return Drawn(figure, choice.left_out)

    ranks = paired[0]
    subtitle += f" · {c.plural(ranks, 'rank')}"
    figure, axes = style.frame(
        title, subtitle, _caption(choice, THROUGHPUT.note, note), len(panels), above=LEGEND
    )
    for at, (measure, of) in zip(axes, panels):
        here = {(precision, strategy): cell for (strategy, precision, n), cell in of.cells.items() if n == ranks}
        unit = style.unit_of(measure.kind, max(cell.high for cell in here.values()))
        style.bars(at, here, unit, list(STRATEGY_NAMES), STRATEGY_NAMES, c.in_order(p for p, _ in here))
        _axis_label(at, measure, unit)
    return Drawn(figure, choice.left_out)


def speedup(rows: list[Benchmark]) -> Drawn:
    """tokens/s over that at the smallest number of ranks; a panel a strategy."""
    choice = c.by_ranks(rows, THROUGHPUT.column, ("ddp", "fsdp"))
    first, lines = c.speedups(choice)
    device = choice.rows[0].device
    strategies = [s for s in STRATEGY_NAMES if any(key[0] == s for key in lines)]
    modes = {mode for _, _, mode in lines}
    kind = "strong scaling" if choice.setting.batch[0] == "step" else "weak scaling"
    notes = (f"Speedup: median tokens/s over those on {c.plural(first, 'rank')} ({kind}).", _alone_note(choice))
    both = len(modes) > 1
    caption = _caption(choice, *notes, whiskers=False)
    room = style.room_for(["fp32 LoRA  99.9" if both else "ideal  99.9"])
    figure, axes = style.frame("Speedup", _subtitle(choice, modes), caption, len(strategies), room, LEGEND)
    counts = sorted({ranks for points in lines.values() for ranks, _ in points})
    ideal = [n / first for n in counts]
    highest = max([ideal[-1], *(value for points in lines.values() for _, value in points)])
    for at, strategy in zip(axes, strategies):
        at.plot(counts, ideal, color=style.FAINT, linestyle=(0, (2, 2)), linewidth=1.5)
        ends = [(counts[-1], ideal[-1], f"ideal  {style.short(ideal[-1])}", style.FAINT)]
        for precision, mode in sorted(
            ((p, m) for s, p, m in lines if s == strategy), key=lambda of: c.PRECISIONS.index(of[0])
        ):
            xs, ys = zip(*lines[strategy, precision, mode])
            marker = style.MARKERS[precision]
            style.line(at, xs, ys, precision, int(both and mode == "full"), marker=marker, markersize=6)
            name = f"{precision} {MODE_NAMES[mode]}" if both else precision
            ends.append((xs[-1], ys[-1], f"{name}  {style.short(ys[-1])}", style.COLOURS[precision]))
        style.rank_axis(at, counts, device)
        if at.get_xscale() == "log":
            at.set_yscale("log", base=2)
            at.set_yticks(ideal, [f"{value:g}" for value in ideal])
            at.minorticks_off()
        else:
            at.set_ylim(0, highest * 1.08)
        at.set_title(STRATEGY_NAMES[strategy], loc="left", weight="bold")
        at.set_ylabel(f"speedup over {c.plural(first, 'rank')}")
        style.label_ends(at, ends)
    return Drawn(figure, choice.left_out)


def loss_curves(runs: list[Run]) -> Drawn:
    """Training loss by step, faint as measured and smoothed on top; validation losses as points."""
    runs = [run for run in runs if run.steps and sum(value is not None for value in run.steps.loss) > 1]
    if not runs:
        raise NotMeasured("no run directory with a loss of two steps or more")

    def subject(run: Run) -> tuple:
        return run.report.get("device"), run.config.get("data")

    device, data = subject(runs[-1])
    shown = [run for run in runs if subject(run) == (device, data)][-MOST_CURVES:]
    models = list(dict.fromkeys(run.config.get("model") for run in shown))
    of = [style.short_device(str(device or "")), data and f"data {data}"]
    of.append(models[0] and f"model {models[0]}" if len(models) == 1 else f"{len(models)} starting models")
    validated = any(value is not None for run in shown for value in run.steps.valid_loss)
    window = max(c.smoothing_window(run.steps.step) for run in shown)
    caption = f"Mean loss of a step's supervised tokens; faint: as measured, strong: mean over up to {window} steps."
    caption += " Points: validation loss." if validated else ""
    for model in models if len(models) > 1 else ():
        names = ", ".join(run.name for run in shown if run.config.get("model") == model)
        caption += f" From {model or 'an unknown model'}: {names}."
    curves = [c.measured(run.steps.step, run.steps.loss) for run in shown]
    smooth = [c.smoothed(losses, c.smoothing_window(steps)) for steps, losses in curves]
    labels = [f"{_curve_name(run)}  {style.short(losses[-1])}" for run, losses in zip(shown, smooth)]
    figure, (axes,) = style.frame("Loss", " · ".join(filter(None, of)), caption, right=style.room_for(labels))
    ends, seen = [], {}
    for run, (steps, raw), losses, label, width in zip(shown, curves, smooth, labels, style.widths(len(shown))):
        precision = run.precision if run.precision in style.COLOURS else "fp32"
        dash = seen[precision] = seen.get(precision, -1) + 1
        style.line(axes, steps, raw, precision, alpha=0.3, linewidth=0.8)
        style.line(axes, steps, losses, precision, dash, linewidth=width)
        at, valid = c.measured(run.steps.step, run.steps.valid_loss)
        points = {"linestyle": "none", "marker": style.MARKERS[precision], "markersize": 7}
        style.line(axes, at, valid, precision, **points, markeredgecolor="white", zorder=3)
        ends.append((steps[-1], losses[-1], label, style.COLOURS[precision]))
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss (nats per token)")
    axes.margins(x=0.02)
    style.label_ends(axes, ends)
    return Drawn(figure, len(runs) - len(shown))


def _curve_name(run: Run) -> str:
    name = run.name if len(run.name) <= 24 else run.name[:23] + "…"
    return name + ("" if run.report.get("finished") else " (unfinished)")


BENCHMARK_FIGURES = {
    "epoch_time": by_precision(EPOCH),
    "throughput": by_precision(THROUGHPUT, SAMPLES),
    "training_time": by_precision(TRAINING),
    "memory_usage": by_precision(MEMORY),
    **{
        f"{name}_gpu_{strategy}": by_ranks(measure, strategy)
        for strategy in STRATEGY_NAMES
        for name, measure in (
            ("time", TRAINING), ("epoch_time", EPOCH), ("throughput", THROUGHPUT), ("memory", MEMORY)
        )
    },
    "DDP_VS_FSDP": ddp_against_fsdp,
    "speedup_plot": speedup,
}  # fmt: skip
RUN_FIGURES = {"loss_curves": loss_curves}
NAMES = (*BENCHMARK_FIGURES, *RUN_FIGURES)
