"""Which runs belong in one figure, and the value of each bar or point.

A figure shows runs of one setting: one device, one batch, one adapter rank, whatever its axes do not vary.
Where the table has several settings the one with the most cells (bars or points) is drawn; of equals the one
with the fewest ranks, DDP before FSDP, LoRA before full, the newest; and the caller is told how many runs were
left out. Runs of the same cell are repeats: their median.
"""
import dataclasses
import itertools
import statistics
from collections.abc import Callable, Hashable, Iterable
from typing import NamedTuple

import numpy as np
from read import PRECISIONS, STRATEGIES, Benchmark


class NotMeasured(Exception):
    """Why a figure cannot be drawn."""


class NoSetting(NotMeasured):
    """Measured, but at no setting often enough for the figure."""


class Setting(NamedTuple):
    """What all runs of a figure have in common; None: the figure varies it or does not depend on it."""

    strategy: str | None = None
    ranks: int | None = None
    nodes: int | None = None
    mode: str | None = None
    adapter_rank: int | None = None
    pack_tokens: int | None = None
    batch: tuple[str, int] | None = None  # ("step", packs a step) or ("rank", packs a rank and step)
    work: tuple[str, float] | None = None  # ("steps", n) or ("epochs", n): what a training time is of
    model: str | None = None  # these two only where the table has such columns
    data: str | None = None

    def text(self, modes: Iterable[str]) -> str:
        parts = []
        if self.model:
            parts.append(self.model)
        if self.data:
            parts.append(self.data)
        if self.strategy and self.strategy != "none":
            parts.append(self.strategy.upper())
        if self.ranks:
            parts.append(plural(self.ranks, "rank"))
        if self.nodes and self.nodes > 1:
            parts.append(plural(self.nodes, "node"))
        kind, packs = self.batch
        step = "step" if kind == "step" else "step and rank"
        parts.append(f"{plural(packs, 'pack')} × {self.pack_tokens:,} tokens a {step}")
        if self.work:
            kind, amount = self.work
            parts.append(plural(amount, kind[:-1]))
        modes = set(modes)
        if "lora" in modes:
            parts.append(f"LoRA r = {self.adapter_rank}" + (" and full" if "full" in modes else ""))
        elif modes:
            parts.append("full fine-tuning")
        return " · ".join(parts)


def plural(count: float, noun: str) -> str:
    return f"{count:,g} {noun}{'' if count == 1 else 's'}"


@dataclasses.dataclass(frozen=True)
class Cell:
    """Median of the runs of a bar or point, their range and number."""

    value: float
    low: float
    high: float
    n: int


@dataclasses.dataclass(frozen=True)
class Choice:
    setting: Setting
    cells: dict[Hashable, Cell]
    rows: list[Benchmark]  # those in the cells
    left_out: int  # runs that were measured, at other settings


def newest_device(rows: list[Benchmark]) -> str:
    return max(rows, key=lambda row: row.time_utc).device


def epochs(row: Benchmark) -> float | None:
    """Passes over the data, where the table tells."""
    if None in (row.tokens, row.epoch_time_s, row.tokens_per_s):
        return None
    return row.tokens / (row.epoch_time_s * row.tokens_per_s)


def _options(row: Benchmark, field: str, lora_ranks: set[int]) -> list:
    """The values of a field that a row agrees with: full fine-tuning goes with any adapter rank, and a batch
    may be kept by step (strong scaling) or by rank (weak)."""
    if field == "adapter_rank":
        return [row.adapter_rank] if row.mode == "lora" else sorted(lora_ranks) or [0]
    if field == "batch_of_step":
        return [("step", row.batch_packs)]
    if field == "batch":
        per_rank = row.batch_packs / row.ranks
        return [("step", row.batch_packs)] + ([("rank", int(per_rank))] if per_rank == int(per_rank) else [])
    if field == "work":
        passes = epochs(row)
        whole = passes is not None and passes >= 0.95
        return [("steps", row.steps)] + ([("epochs", round(passes, 1))] if whole else [])
    if field in ("model", "data"):
        return [row.fields.get(field)]
    return [getattr(row, field)]


def _settings(row: Benchmark, fixed: tuple[str, ...], lora_ranks: set[int]) -> Iterable[Setting]:
    for values in itertools.product(*(_options(row, field, lora_ranks) for field in fixed)):
        yield Setting(**{"batch" if f == "batch_of_step" else f: v for f, v in zip(fixed, values)})


def _cell(rows: list[Benchmark], measure: str) -> Cell:
    values = [getattr(row, measure) for row in rows]
    return Cell(statistics.median(values), min(values), max(values), len(values))


def _repeats(rows: list[Benchmark]) -> list[Benchmark]:
    """Of the runs of a cell, those that count: a run on one rank without a strategy stands for the strategy's
    own only where that is missing; ranks spread over more nodes than needed, and an older program's runs, give
    way."""
    rows = [row for row in rows if row.strategy != "none"] or rows
    rows = [row for row in rows if row.nodes == min(row.nodes for row in rows)]
    version = max(rows, key=lambda row: row.time_utc).version
    return [row for row in rows if row.version == version]


def choose(
    rows: list[Benchmark],
    measure: str,
    fixed: tuple[str, ...],
    cells_of: Callable[[Benchmark], list[Hashable]],
    score: Callable[[Iterable[Hashable]], int] = len,
) -> Choice:
    """The setting with the highest score of its cells. NotMeasured when no row has the measurement, NoSetting
    when no setting scores."""
    rows = [row for row in rows if getattr(row, measure) is not None]
    if not rows:
        raise NotMeasured(f"{measure} was not measured")
    fixed += ("pack_tokens", "model", "data")
    lora_ranks = {row.adapter_rank for row in rows if row.mode == "lora"}
    groups: dict[Setting, dict[Hashable, list[Benchmark]]] = {}
    for row in rows:
        for setting in _settings(row, fixed, lora_ranks):
            for cell in cells_of(row):
                groups.setdefault(setting, {}).setdefault(cell, []).append(row)

    def rank(setting: Setting):
        newest = max(row.time_utc for of in groups[setting].values() for row in of)
        strategy = STRATEGIES.index(setting.strategy) if setting.strategy else 0
        return score(groups[setting]), -(setting.ranks or 0), -strategy, setting.mode == "lora", newest

    best = max(groups, key=rank)  # the first of equals: settings by step come before those by rank or epoch
    if score(groups[best]) == 0:
        raise NoSetting
    inside = {id(row) for of in groups[best].values() for row in of}
    used = {cell: _repeats(of) for cell, of in groups[best].items()}
    return Choice(
        best,
        {cell: _cell(of, measure) for cell, of in used.items()},
        [row for of in used.values() for row in of],
        sum(id(row) not in inside for row in rows),
    )


def by_precision(rows: list[Benchmark], measure: str) -> Choice:
    """Cells (precision, mode)."""
    fixed = ("strategy", "ranks", "nodes", "adapter_rank", "batch_of_step")
    fixed += ("work",) if measure == "training_time_s" else ()
    return choose(rows, measure, fixed, lambda row: [(row.precision, row.mode)])


def points_on_lines(cells: Iterable[tuple]) -> int:
    """Cells (..., ranks) whose line has at least two points."""
    lines: dict[tuple, set] = {}
    for *line, ranks in cells:
        lines.setdefault(tuple(line), set()).add(ranks)
    return sum(len(ranks) for ranks in lines.values() if len(ranks) > 1)


def by_ranks(rows: list[Benchmark], measure: str, strategies: tuple[str, ...]) -> Choice:
    """Cells (strategy, precision, mode, ranks), with at least one line of two points. One rank without a
    strategy is the first point of every strategy."""
    measured = [s for s in strategies if any(row.strategy == s for row in rows)]
    if not measured:
        raise NotMeasured(f"no finished {' or '.join(strategies)} run")
    rows = [row for row in rows if row.strategy in measured or (row.strategy == "none" and row.ranks == 1)]

    def cells_of(row: Benchmark) -> list[tuple]:
        of = measured if row.strategy == "none" else [row.strategy]
        return [(strategy, row.precision, row.mode, row.ranks) for strategy in of]

    fixed = ("adapter_rank", "batch") + (("work",) if measure == "training_time_s" else ())
    try:
        return _lines_only(choose(rows, measure, fixed, cells_of, points_on_lines))
    except NoSetting:
        counts = sorted({row.ranks for row in rows})
        reason = "no precision was measured on two numbers of ranks at one setting"
        if len(counts) == 1:
            reason = f"measured on {plural(counts[0], 'rank')} only, and a line needs two numbers of ranks"
        raise NotMeasured(reason) from None


def _lines_only(choice: Choice) -> Choice:
    """Without lone points: the thin line from a point to its label would look like measurements."""
    counts: dict[tuple, int] = {}
    for *line, _ in choice.cells:
        counts[tuple(line)] = counts.get(tuple(line), 0) + 1
    cells = {key: cell for key, cell in choice.cells.items() if counts[key[:-1]] > 1}
    return dataclasses.replace(choice, cells=cells)


def pairs(cells: Iterable[tuple]) -> int:
    """Cells (strategy, precision, ranks) measured with both strategies."""
    of = {strategy: {tuple(rest) for s, *rest in cells if s == strategy} for strategy in ("ddp", "fsdp")}
    return len(of["ddp"] & of["fsdp"])


def ddp_and_fsdp(rows: list[Benchmark], measure: str) -> Choice:
    """Cells (strategy, precision, ranks) in one mode; at least one measured with both strategies."""
    for strategy in ("ddp", "fsdp"):
        if not any(row.strategy == strategy for row in rows):
            raise NotMeasured(f"no finished {strategy} run")
    rows = [row for row in rows if row.strategy in ("ddp", "fsdp")]
    fixed = ("mode", "adapter_rank", "batch")
    try:
        return choose(rows, measure, fixed, lambda row: [(row.strategy, row.precision, row.ranks)], pairs)
    except NoSetting:
        raise NotMeasured("no precision was measured with both at one setting and number of ranks") from None


def speedups(choice: Choice) -> tuple[int, dict[tuple, list[tuple[int, float]]]]:
    """(n0, {(strategy, precision, mode): [(ranks, value over that at n0 ranks)]}) for the lines that were
    measured at n0, the smallest number of ranks of a line of two points."""
    lines: dict[tuple, dict[int, float]] = {}
    for (*line, ranks), cell in choice.cells.items():
        lines.setdefault(tuple(line), {})[ranks] = cell.value
    lines = {line: of for line, of in lines.items() if len(of) > 1}
    first = min(min(of) for of in lines.values())
    return first, {
        line: [(ranks, of[ranks] / of[first]) for ranks in sorted(of)] for line, of in lines.items() if first in of
    }


def in_order(names: Iterable[str]) -> list[str]:
    """Precisions from wide to narrow."""
    return sorted(set(names), key=PRECISIONS.index)


def common_ranks(cells: Iterable[tuple]) -> list[int]:
    """Of cells (strategy, precision, ranks): numbers of ranks where some precision has both strategies."""
    cells = set(cells)
    return sorted({ranks for s, p, ranks in cells if s == "ddp" and ("fsdp", p, ranks) in cells})


def measured(xs: list, ys: list) -> tuple[list, list]:
    """Without the points whose y was not measured."""
    kept = [(x, y) for x, y in zip(xs, ys) if y is not None]
    return [x for x, _ in kept], [y for _, y in kept]


def smoothing_window(steps: list) -> int:
    """Odd, about a tenth of the curve, at most 101 steps."""
    return min(101, 2 * (len(steps) // 20) + 1)


def smoothed(values: list[float], window: int) -> list[float]:
    """Centred mean. At the start over equally many on either side, so that the first loss stays what it was; at
    the end over what there is, so that one noisy step is not the curve's last word."""
    sums = np.concatenate([[0.0], np.cumsum(np.asarray(values, dtype=np.float64))])
    at = np.arange(len(values))
    left = np.minimum(window // 2, at)
    right = np.minimum(left, len(values) - 1 - at)
    return list((sums[at + right + 1] - sums[at - left]) / (left + right + 1))
