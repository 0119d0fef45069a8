"""How figures look: one frame, one palette, and files whose bytes depend on the numbers alone.

A precision has the same colour in every figure (Okabe and Ito's palette, told apart by readers who are colour
blind). Importing this module sets Matplotlib up without a display and without a writable home folder.
"""
import atexit
import math
import os
import pathlib
import shutil
import tempfile
import textwrap


def _can_make(folder: pathlib.Path) -> bool:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and folder != folder.parent and os.access(folder, os.W_OK | os.X_OK)


def _give_matplotlib_a_folder() -> None:
    """Matplotlib warns and is slow where it cannot keep its font list; then a folder for this process."""
    if "MPLCONFIGDIR" in os.environ:
        return
    home = pathlib.Path(os.path.expanduser("~"))
    config = os.environ.get("XDG_CONFIG_HOME") or home / ".config"
    cache = os.environ.get("XDG_CACHE_HOME") or home / ".cache"
    if _can_make(pathlib.Path(config)) and _can_make(pathlib.Path(cache)):
        return
    folder = tempfile.mkdtemp(prefix="llmft-matplotlib-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["MPLCONFIGDIR"] = folder


_give_matplotlib_a_folder()
import matplotlib  # noqa: E402

matplotlib.use("Agg")
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.patches import Patch  # noqa: E402
from matplotlib.ticker import FuncFormatter  # noqa: E402

COLOURS = {"fp32": "#0072B2", "tf32": "#56B4E9", "fp16": "#E69F00", "bf16": "#009E73", "fp8": "#CC79A7"}
MARKERS = {"fp32": "o", "tf32": "v", "fp16": "s", "bf16": "D", "fp8": "^"}
INK, FAINT, GRID = "#222222", "#666666", "#DDDDDD"
DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
_HATCH = "////"
_LEFT, _TOP, _BOTTOM = 0.95, 0.9, 1.0  # inches around the axes

matplotlib.rcdefaults()  # whatever the reader's own matplotlibrc says
matplotlib.rcParams.update(
    {
        "font.size": 11,
        "axes.labelsize": 11,
        "axes.titlesize": 11,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": FAINT,
        "axes.labelcolor": INK,
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "axes.axisbelow": True,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "grid.color": GRID,
        "legend.frameon": False,
        "hatch.linewidth": 0.8,
        "svg.fonttype": "none",  # text stays text: it can be searched, and read aloud
        "svg.hashsalt": "llmft",
    }
)


def short_device(name: str) -> str:
    for noise in ("(R)", "(TM)", "(r)", "(tm)", " CPU", " Processor"):
        name = name.replace(noise, "")
    return " ".join(name.split("@")[0].split())


def is_gpu(device: str) -> bool:
    return any(word in device for word in ("NVIDIA", "Tesla", "GeForce", "Instinct", "Radeon"))


def ranks_label(device: str) -> str:
    return "GPUs (one rank each)" if is_gpu(device) else "ranks (MPI processes)"


class Unit:
    """An axis' unit, from its largest value: text of a value beside a bar, and the axis' label."""

    def __init__(self, name: str, factor: float = 1):
        self.name, self.factor = name, factor

    def __call__(self, value: float) -> float:
        return value / self.factor

    def text(self, value: float) -> str:
        return short(self(value))


def short(value: float) -> str:
    """Three figures, or all before the point below 10,000."""
    size = abs(value)
    if size >= 9999.5:
        step, letter = (1e3, "k") if size < 999.5e3 else (1e6, "M") if size < 999.5e6 else (1e9, "G")
        return f"{value / step:.{max(0, 2 - int(math.log10(size / step * 1.0005)))}f}{letter}"
    if size >= 99.95:
        return f"{value:,.0f}"
    if size < 0.01:
        return f"{value:.2g}"
    return f"{value:.{1 if size >= 9.995 else 2 if size >= 0.9995 else 3}f}"


def value_ticks(axes: Axes) -> None:
    """As "20k" or "1.5M" where there are many digits."""
    top = axes.get_ylim()[1]
    step, letter = (1e6, "M") if top >= 1e6 else (1e3, "k") if top >= 1e4 else (1, "")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v / step:,g}{letter if v else ''}"))


def unit_of(kind: str, largest: float) -> Unit:
    if kind == "bytes":
        return Unit("GB", 1e9) if largest >= 1e9 else Unit("MB", 1e6)
    if kind == "seconds":
        return Unit("hours", 3600) if largest >= 10800 else Unit("minutes", 60) if largest >= 180 else Unit("s")
    return Unit(kind)


def frame(
    title: str, subtitle: str, caption: str, panels: int = 1, right: float = 0.25, above: float = 0,
    height: float = 3.1, left: float = _LEFT,
) -> tuple[Figure, list[Axes]]:
    """A figure with room for its words; `right`, `left`: inches beside each panel, for labels at the ends of lines;
    `above`: inches above it, for a legend or a panel's title; `height`: of the panels."""
    width = 7.6 if panels == 1 else 11.6
    characters = int(width * 13.2)
    lines = textwrap.wrap(subtitle, characters, break_on_hyphens=False)
    notes = textwrap.wrap(caption, int(characters * 1.1), break_on_hyphens=False)
    top, bottom = _TOP + above + 0.2 * (len(lines) - 1), _BOTTOM + 0.17 * (len(notes) - 1)
    panel, height = height, height + top + bottom
    figure = Figure(figsize=(width, height))
    figure.text(0.25 / width, 1 - 0.2 / height, title, fontsize=14, weight="bold", va="top")
    figure.text(0.25 / width, 1 - 0.5 / height, "\n".join(lines), fontsize=10, color=FAINT, va="top", linespacing=1.3)
    figure.text(0.25 / width, 0.15 / height, "\n".join(notes), fontsize=9, color=FAINT, va="bottom", linespacing=1.3)
    each = width / panels
    size = ((each - left - right) / width, panel / height)
    axes = [figure.add_axes(((i * each + left) / width, bottom / height, *size)) for i in range(panels)]
    return figure, axes


def bars(axes: Axes, cells: dict, unit: Unit, groups: list[str], names: dict[str, str], categories: list[str]) -> None:
    """cells: {(category, group): Cell}; a category is a precision, which gives the colour; the second of two
    groups is hatched. What was not measured has no bar."""
    width = 0.62 if len(groups) == 1 else 0.38
    top = max(cell.high for cell in cells.values())
    for (category, group), cell in cells.items():
        here = [g for g in groups if (category, g) in cells]
        at = categories.index(category) + (here.index(group) - (len(here) - 1) / 2) * (width + 0.02)
        colour, hatched = COLOURS[category], groups.index(group) > 0
        axes.bar(
            at,
            unit(cell.value),
            width,
            color=_tint(colour) if hatched else colour,
            edgecolor=colour,
            hatch=_HATCH if hatched else None,
        )
        if cell.high > cell.low:
            low, high = unit(cell.value - cell.low), unit(cell.high - cell.value)
            axes.errorbar(at, unit(cell.value), [[low], [high]], color=INK, capsize=3, linewidth=1)
        axes.annotate(
            unit.text(cell.value),
            (at, unit(cell.high)),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=10 if len(categories) * len(groups) <= 8 else 8.5,
        )
    axes.set_xticks(range(len(categories)), categories)
    axes.set_xlim(-0.6, len(categories) - 0.4)
    axes.set_ylim(0, unit(top) * 1.13)
    value_ticks(axes)
    axes.tick_params(axis="x", length=0)
    axes.set_xlabel("precision")
    if len(groups) > 1:
        looks = (("#888888", None), ("#DDDDDD", _HATCH))
        patches = [Patch(facecolor=colour, edgecolor="#444444", hatch=hatch) for colour, hatch in looks]
        place = {"loc": "lower right", "bbox_to_anchor": (1.0, 1.0), "ncols": 2, "borderaxespad": 0.2}
        axes.legend(patches, [names[g] for g in groups], **place)


def _tint(colour: str) -> tuple:
    return tuple(0.25 * c + 0.75 for c in matplotlib.colors.to_rgb(colour))


def line(axes: Axes, xs: list, ys: list, precision: str, dash: int = 0, **more) -> None:
    dashes = DASHES[dash % len(DASHES)]
    axes.plot(xs, ys, **{"color": COLOURS[precision], "linestyle": dashes, "linewidth": 2, **more})


def widths(count: int) -> list[float]:
    """Of lines in the order they are drawn: one that lies under another shows at its edges."""
    return [3.4 - 1.8 * i / max(1, count - 1) for i in range(count)]


def rank_axis(axes: Axes, counts: list[int], device: str) -> None:
    """Linear up to a factor of 8, where straight lines stay straight; beyond, powers of two."""
    if counts[-1] > 8 * counts[0]:
        axes.set_xscale("log", base=2)
    else:
        margin = 0.06 * (counts[-1] - counts[0])
        axes.set_xlim(counts[0] - margin, counts[-1] + margin)
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.minorticks_off()
    axes.set_xlabel(ranks_label(device))


def room_for(labels: list[str]) -> float:
    """Inches right of the axes that label_ends needs."""
    return 0.3 + 0.083 * max(map(len, labels))


def spread(wanted: list[float], gap: float, height: float) -> list[float]:
    """Places for `wanted` (ascending) at least `gap` apart, moved as little as possible (least squares), within
    0..height where they fit."""
    blocks: list[list[float]] = []  # [mean of wanted - index * gap, count]
    for i, at in enumerate(wanted):
        blocks.append([at - i * gap, 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            mean, count = blocks.pop()
            total = blocks[-1][1] + count
            blocks[-1] = [(blocks[-1][0] * blocks[-1][1] + mean * count) / total, total]
    shifts = [mean for mean, count in blocks for _ in range(count)]
    highest = max(0.0, height - (len(wanted) - 1) * gap)
    return [min(max(shift, 0.0), highest) + i * gap for i, shift in enumerate(shifts)]


def label_ends(axes: Axes, ends: list[tuple[float, float, str, str]]) -> None:
    """ends: (x, y, text, colour). Labels right of the axes at the height of their line's end, moved apart where
    they would overlap, with a thin line to the end. Call when the axes' limits are final."""
    axes.get_xlim(), axes.get_ylim()  # pending autoscaling happens here
    to_axes = axes.transData + axes.transAxes.inverted()
    placed = sorted((*reversed(to_axes.transform((x, y))), text, colour) for x, y, text, colour in ends)
    height = axes.get_window_extent().height * 72 / axes.figure.dpi
    for place, (y, x, text, colour) in zip(spread([end[0] * height for end in placed], 13.0, height), placed):
        place /= height
        axes.plot(
            [x, 1.025], [y, place], color=colour, linewidth=0.8, transform=axes.transAxes, clip_on=False, zorder=1
        )
        axes.text(1.035, place, text, va="center", fontsize=10, transform=axes.transAxes)


def remove(folder: pathlib.Path, name: str) -> None:
    for form in ("svg", "png"):
        (folder / f"{name}.{form}").unlink(missing_ok=True)


def save(figure: Figure, folder: pathlib.Path, name: str, forms: tuple[str, ...] = ("svg", "png")) -> None:
    """NAME.svg and NAME.png, each renamed into place when whole; neither holds a date or a program's version."""
    of = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}
    for form, metadata in ((form, of[form]) for form in forms):
        part = folder / f".{name}.{form}.{os.getpid()}"
        try:
            figure.savefig(part, format=form, metadata=metadata, dpi=150)
            part.replace(folder / f"{name}.{form}")
        finally:
            part.unlink(missing_ok=True)
