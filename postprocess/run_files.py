"""The small tables of a run directory: steps, memory and time by rank, the profile."""

import functools
import pathlib
from collections.abc import Iterable

import read
from measured import Row, read_table
from read import Run


def table(run: Run, name: str, columns: Iterable[str]) -> list[Row]:
    return [Row(f"runs/{run.name}/{row.where}", row.fields) for row in read_table(run.path / name, columns)]


def ledger(run: Run) -> list[Row]:
    return table(
        run, "profile.csv", ("group", "calls", "seconds", "share", "flops", "bytes", "tflops", "tb_s", "roofline")
    )


def memory(run: Run) -> dict[int, dict[str, Row]]:
    """{rank: {part: row}}"""
    of: dict[int, dict[str, Row]] = {}
    for row in table(run, "memory.csv", ("rank", "part", "bytes")):
        of.setdefault(read._count(row.where, "rank", row.text("rank")), {})[row.text("part")] = row
    return of


def measured_memory(run: Run) -> dict[int, dict[str, Row]]:
    """Of the ranks whose peak is known: a run that was cut off leaves a header alone."""
    return {rank: parts for rank, parts in memory(run).items() if "peak" in parts and parts["peak"]["bytes"]}


def timing(run: Run) -> dict[int, dict[str, Row]]:
    of: dict[int, dict[str, Row]] = {}
    for row in table(run, "timing.csv", ("rank", "phase", "seconds", "count")):
        of.setdefault(read._count(row.where, "rank", row.text("rank")), {})[row.text("phase")] = row
    return of


@functools.lru_cache(maxsize=512)
def _steps(path: pathlib.Path, name: str) -> tuple[Row, ...]:
    return tuple(Row(f"runs/{name}/{r.where}", r.fields) for r in read_table(path, read.STEP_COLUMNS))


def steps(run: Run) -> tuple[Row, ...]:
    return _steps(run.path / "steps.csv", run.name)


def read_all(run: Run) -> None:
    """So that a damaged file ends the program before anything is written."""
    ledger(run), memory(run), timing(run), steps(run)
