"""A folder of measurements as the report reads it (docs/formats.md, "docs/measured"): its tables.

A missing file is a thing that was not measured; a file that is there and not of its form ends the program with one
line. Every number keeps where it stands, so that the report can say so.
"""

import dataclasses
import datetime
import json
import pathlib
import statistics
from collections.abc import Callable, Iterable

import read
from read import Run, UserError

ROW_COLUMNS = tuple(c for c in read.BENCHMARK_COLUMNS if c not in ("loss_first",))


PEERS = (("unsloth", "Unsloth"), ("liger", "Liger"), ("", "PEFT"))


SCORES = ("eval", "eval-base")


def number(where: str, column: str, text: str | None) -> float | None:
    value = read._number(where, column, text or "")
    return value if value != 0 else None


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of a table: text by column. `row["x"]` is a number or None (not measured; zero reads as that too)."""

    where: str  # "benchmarks.csv:12"
    fields: dict[str, str]

    def __getitem__(self, column: str) -> float | None:
        return number(self.where, column, self.fields.get(column, ""))

    def text(self, column: str) -> str:
        return self.fields.get(column) or ""

    def source(self, column: str) -> str:
        note = self.text("source")
        return f"{self.where}, {column}" + (f" ({note})" if note else "")


DERIVED = {  # where samples have many lengths
    "samples_per_s": "tokens_per_s / sample_length_mean",
    "padded_tokens_per_s": "tokens_per_s / sample_length_mean x max_length",
}


class Cell(Row):
    """A row of benchmarks.csv or variants.csv."""

    @property
    def system(self) -> str:
        """llmft, or which peer."""
        if self.text("command") != "peer":
            return "llmft"
        version = self.text("version").lower()
        return next(name for start, name in PEERS if version.startswith(start))

    @property
    def device(self) -> str:
        return self.text("device")

    @property
    def program(self) -> str:
        """Which program: runs of another are no repeats."""
        return f"{self.text('version')} {self.text('commit')}".strip()

    @property
    def ranks(self) -> int:
        return int(self["ranks"] or 1)

    @property
    def adapter_rank(self) -> int:
        return int(self["adapter_rank"] or 0)

    @property
    def pack_tokens(self) -> int:
        return int(self["pack_tokens"] or 0)

    @property
    def tokens_a_rank(self) -> int:
        """Most tokens of a rank and step."""
        return int(self.pack_tokens * (self["batch_packs"] or 1) / self.ranks)

    @property
    def mean_length(self) -> float | None:
        """Tokens of a sample."""
        if self["sample_length_mean"]:
            return self["sample_length_mean"]
        return self["tokens"] / self["samples"] if self["tokens"] and self["samples"] else None

    @property
    def fixed(self) -> bool:
        """All samples of one length: the mean is the longest that the data allows, or a whole number, which a mean of many
        lengths is not; or nothing is said of a longest."""
        longest, mean = self["max_length"], self.mean_length
        if not (longest and mean) or mean > 0.97 * longest:
            return True
        return float(mean).is_integer() and not self.text("source")

    @property
    def samples_per_s(self) -> float | None:
        """Where samples have many lengths, of the data's mean length: the few packs of a short run have another one."""
        if self["tokens_per_s"] and self.mean_length and not self.fixed:
            return self["tokens_per_s"] / self.mean_length
        if self["samples_per_s"] or not self["tokens_per_s"] or not self.mean_length:
            return self["samples_per_s"]
        return self["tokens_per_s"] / self.mean_length

    @property
    def padded_tokens_per_s(self) -> float | None:
        """Of the program that would pad every sample to the longest and take as long."""
        if self.fixed or not (self["max_length"] and self.samples_per_s):
            return self["padded_tokens_per_s"]
        return self.samples_per_s * self["max_length"]

    def value(self, column: str) -> float | None:
        return getattr(self, column) if column in DERIVED else self[column]

    def source(self, column: str) -> str:
        return super().source(column if self.fixed else DERIVED.get(column, column))


@dataclasses.dataclass(frozen=True)
class Stat:
    """Median of repeats, with where they stand."""

    value: float
    low: float
    high: float
    n: int
    source: str
    rows: tuple[Cell, ...]


def stat(rows: Iterable[Cell], column: str) -> Stat | None:
    rows = [row for row in rows if row.value(column) is not None]
    if not rows:
        return None
    values = [row.value(column) for row in rows]
    source = rows[0].source(column) + (f" and {len(rows) - 1} more, median" if len(rows) > 1 else "")
    return Stat(statistics.median(values), min(values), max(values), len(values), source, tuple(rows))


def when(row: Row) -> datetime.datetime | None:
    text = row.text("time_utc").replace("Z", "+00:00")
    try:
        return datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.timezone.utc)
    except ValueError:
        return None


def seconds_apart(a: Row, b: Row) -> float:
    times = when(a), when(b)
    return float("inf") if None in times else abs((times[0] - times[1]).total_seconds())


def same_visit(a: Row, b: Row) -> bool:
    """One machine, half a day: beside one another. Where a host's name says nothing, half an hour. A row that was transcribed has
    no hour to compare."""
    if a.text("host") != b.text("host") or a.text("source") or b.text("source"):
        return False
    return seconds_apart(a, b) < (1800 if a.text("host") in ("vm", "localhost", "") else 12 * 3600)


def read_table(path: pathlib.Path, columns: Iterable[str], make: Callable = Row) -> list:
    """Rows of a CSV with at least these columns; none if there is no such file."""
    if not path.is_file():
        return []
    text = read._open_text(path)
    name = f"quality/{path.name}" if path.parent.name == "quality" else path.name
    return [
        make(f"{name}:{where.rpartition(':')[2]}", fields) for where, fields in read._rows(path, text, list(columns))
    ]


def read_cells(path: pathlib.Path) -> list[Cell]:
    """Rows of training runs, and after each those of its evaluations (`scores` of them)."""
    rows = [row for row in read_table(path, ROW_COLUMNS, Cell) if row.text("command") in ("train", "peer", *SCORES)]
    for row in rows:
        if row.text("command") in SCORES:
            continue
        for column, allowed in read._CHOICES.items():
            if row.text(column) not in allowed:
                raise UserError(
                    f"{path.parent / row.where}: {column} '{row.text(column)}' is not one of {', '.join(allowed)}"
                )
        for column in ("ranks", "tokens_per_s", "peak_memory_bytes"):
            if (row[column] or 0) < 0:
                raise UserError(f"{path.parent / row.where}: {column} is negative; mend or remove the line")
    return rows


def scores(rows: list[Cell]) -> list[Row]:
    """Base against fine-tuned of each run that `llmft eval` looked at, in the form of quality.csv but for the intervals, which
    benchmarks.csv does not have."""
    found, trained, base = [], {}, {}
    for row in rows:
        name, command = row.text("run"), row.text("command")
        if command == "train":
            trained[name] = row
        elif command == "eval-base":
            base[name] = row
        elif command == "eval" and name in base and name in trained:
            of = {"precision": trained[name].text("precision"), "mode": trained[name].text("mode"), "run": name}
            for column, metric in (("perplexity", "perplexity"), ("bleu", "BLEU"), ("rouge_l", "ROUGE-L")):
                values = {"base": base[name].text(column), "tuned": row.text(column)}
                if all(values.values()):
                    found.append(Row(row.where, of | {"metric": metric} | values))
    return found


@dataclasses.dataclass
class Measured:
    folder: pathlib.Path
    cells: list[Cell]  # the study's rows, ours and peers'
    variants: list[Cell]  # runs beside the study: --deterministic, other modes
    runs: dict[str, Run]
    quality: list[Row]
    quality_runs: dict[str, Run]
    agreement: list[Row]
    quality_checks: list[Row]
    quality_json: dict
    preprocess: list[Row]
    tokenizers: list[Row]
    generation: list[Row]
    comm: list[Row]
    models: dict[str, Row]
    data: dict[str, Row]

    @property
    def ours(self) -> list[Cell]:
        return [row for row in self.cells if row.system == "llmft"]

    @property
    def peers(self) -> list[Cell]:
        return [row for row in self.cells if row.system != "llmft"]

    def run_of(self, row: Cell) -> Run | None:
        """The run directory of a row: by name, and by the hash of its options where both are known."""
        run = self.runs.get(row.text("run"))
        known = run and str(run.report.get("config_hash") or "")
        return run if run and (not known or not row.text("config_hash") or known == row.text("config_hash")) else None

    def option(self, row: Cell, key: str) -> str | None:
        run = self.run_of(row)
        return run.config.get(key) if run else None

    def empty(self) -> bool:
        return not any((self.cells, self.runs, self.quality, self.preprocess, self.generation, self.tokenizers))


def _runs(folder: pathlib.Path) -> dict[str, Run]:
    return {run.name: run for run in read.read_runs(folder)} if folder.is_dir() else {}


def _named(rows: list[Row], key: str) -> dict[str, Row]:
    return {row.text(key): row for row in rows}


def _json(path: pathlib.Path) -> dict:
    if not path.is_file():
        return {}
    try:
        found = json.loads(read._open_text(path))
    except ValueError as error:
        raise UserError(f"{path}: is not JSON ({error}); the file is damaged") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: is not an object; the file is damaged or another")
    return found


QUALITY = {  # what tools/quality.py leaves
    "quality.csv": ("precision", "mode", "metric", "base", "tuned"),
    "agreement.csv": ("mode", "metric", "precision", "reference", "difference", "low", "high", "margin"),
    "checks.csv": ("check", "run", "value", "expected", "tolerance"),
}


def read_measured(folder: pathlib.Path, runs: pathlib.Path | None = None) -> Measured:
    """`runs`: the folder of run directories where it is not FOLDER/runs."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give one with benchmarks.csv, as `llmft train` fills it")
    table_of = lambda name, *columns: read_table(folder / name, columns)  # noqa: E731
    quality, agreement, checks = (table_of(f"quality/{name}", *columns) for name, columns in QUALITY.items())
    cells, variants = read_cells(folder / "benchmarks.csv"), read_cells(folder / "variants.csv")
    is_run = lambda row: row.text("command") not in SCORES  # noqa: E731
    measured = Measured(
        folder,
        [*filter(is_run, cells)],
        [*filter(is_run, variants)],
        _runs(runs or folder / "runs"),
        quality or scores(cells),
        _runs(folder / "quality/runs"),
        agreement,
        checks,
        _json(folder / "quality/quality.json"),
        table_of("preprocess.csv", "system", "rows", "text_bytes", "processes", "cores", "wall_s", "cpu_s"),
        table_of("tokenizers.csv", "tokenizer", "form", "en_first", "en_repeated", "mix_first", "mix_repeated"),
        table_of("generation.csv", "system", "device", "precision", "batch", "kind", "tokens_per_s"),
        table_of("comm.csv", "device", "ranks", "collective", "of", "bytes", "time_us", "busbw_gb_s"),
        _named(table_of("models.csv", "model", "vocab_size"), "model"),
        _named(table_of("data.csv", "data", "floor_nats"), "data"),
    )
    if measured.empty():
        raise UserError(f"{folder}: has no measurement (no benchmarks.csv with a row, no runs); see docs/formats.md")
    return measured
