"""Readers of what `llmft` writes: results/benchmarks.csv and run directories (docs/formats.md).

An empty field is a measurement that was not made and reads as None, never as zero. A file that is not of the
documented form ends the program with one line that names file and line; no row is dropped in silence.
"""
import csv
import dataclasses
import io
import json
import math
import os
import pathlib

PRECISIONS = ("fp32", "tf32", "fp16", "bf16", "fp8")
STRATEGIES = ("none", "ddp", "fsdp", "hsdp")
MODES = ("lora", "full")

BENCHMARK_COLUMNS = (
    "time_utc,run,host,device,version,command,precision,strategy,mode,adapter_rank,ranks,nodes,pack_tokens,"
    "batch_packs,steps,samples,tokens,supervised_tokens,samples_per_s,tokens_per_s,supervised_tokens_per_s,"
    "step_time_median_s,epoch_time_s,training_time_s,peak_memory_bytes,mfu,loss_first,loss_last,valid_loss,"
    "config_hash"
).split(",")
# Of later versions: a table without them is whole, and they read as not measured.
LATER_COLUMNS = (
    "machine,versions,adapter_alpha,sample_length_mean,max_length,padded_tokens_per_s,joules_per_token,vocab_size,"
    "perplexity,bleu,rouge_l"
).split(",")
SCORES = ("perplexity", "bleu", "rouge_l")
STEP_COLUMNS = (
    "step,epoch,loss,lr,grad_norm,tokens_per_s,supervised_tokens_per_s,tokens,supervised_tokens,step_time_s,"
    "data_wait_s,imbalance,loss_scale,skipped,mfu,valid_loss"
).split(",")

_TEXT = {"time_utc", "run", "host", "device", "version", "command", "config_hash", "precision", "strategy", "mode"}
_TEXT |= {"machine", "versions"}
_COUNTS = {"adapter_rank", "ranks", "nodes", "pack_tokens", "batch_packs", "steps"}
_MAY_BE_ZERO = {"adapter_alpha", "loss_first", "loss_last", "valid_loss", "bleu", "rouge_l"}
_CHOICES = {"precision": PRECISIONS, "strategy": STRATEGIES, "mode": MODES}


class UserError(Exception):
    """What is wrong, why, what to do; the program ends with exit code 2."""


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """One finished training run: the columns of benchmarks.csv that figures use. None: not measured."""

    time_utc: str
    run: str
    host: str
    device: str
    version: str
    precision: str
    strategy: str
    mode: str
    adapter_rank: int
    ranks: int
    nodes: int
    pack_tokens: int
    batch_packs: int
    steps: int
    tokens: float | None
    samples_per_s: float | None
    tokens_per_s: float | None
    epoch_time_s: float | None
    training_time_s: float | None
    peak_memory_bytes: float | None
    supervised_tokens_per_s: float | None = None
    step_time_median_s: float | None = None
    mfu: float | None = None
    loss_first: float | None = None
    loss_last: float | None = None
    valid_loss: float | None = None
    config_hash: str = ""
    machine: str = ""
    versions: str = ""
    adapter_alpha: float | None = None
    sample_length_mean: float | None = None
    max_length: float | None = None
    padded_tokens_per_s: float | None = None
    joules_per_token: float | None = None
    vocab_size: float | None = None
    # Of the fine-tuned model, and of the one that it was made from: the last `llmft eval --results` of this run.
    perplexity: float | None = None
    bleu: float | None = None
    rouge_l: float | None = None
    base_perplexity: float | None = None
    base_bleu: float | None = None
    base_rouge_l: float | None = None
    fields: dict = dataclasses.field(default_factory=dict, compare=False, repr=False)  # every column's text, for --where


def _open_text(path: pathlib.Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text (byte {error.start}); it is damaged or another file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot read ({error.strerror})") from None


def _rows(path: pathlib.Path, text: str, columns: list[str]):
    """Yields ("file:line", {column: text}). Columns beyond the documented ones are allowed, in any order."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, None)
        if header is None:
            raise UserError(f"{path}: is empty, not even a header line; remove it")
        if missing := [c for c in columns if c not in header]:
            raise UserError(
                f"{path}:1: column {', '.join(missing)} missing (the table is of another version, or another "
                "file); see docs/formats.md"
            )
        if len(set(header)) != len(header):
            raise UserError(f"{path}:1: a column's name occurs twice")
        for fields in reader:
            if not fields:
                continue
            where = f"{path}:{reader.line_num}"
            if len(fields) != len(header):
                raise UserError(
                    f"{where}: {len(fields)} fields where the header has {len(header)} (the line is torn or was "
                    "edited); mend or remove it"
                )
            yield where, dict(zip(header, fields))
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num}: is not CSV ({error}); mend or remove the line") from None


def _number(where: str, column: str, text: str) -> float | None:
    if text == "":
        return None
    try:
        value = float(text)
    except ValueError:
        raise UserError(f"{where}: {column} '{text[:40]}' is not a number; mend or remove the line") from None
    return value if math.isfinite(value) else None


def _count(where: str, column: str, text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise UserError(f"{where}: {column} '{text[:40]}' is not a whole number; mend or remove the line")
    return int(text)


def _positive(value: float | None) -> float | None:
    """No run takes no time or memory: a zero says that nothing was measured (fewer steps than the warm-up)."""
    return value if value is not None and value > 0 else None


def _with_scores(where: str, rows: list[Benchmark], fields: dict[str, str]) -> None:
    """A row "eval" or "eval-base" belongs to the last row above it of the run that it names."""
    at = next((i for i in reversed(range(len(rows))) if rows[i].run == fields["run"]), None)
    if at is None:
        return  # of a run in another table
    prefix = "base_" if fields["command"] == "eval-base" else ""
    scores = {prefix + c: _number(where, c, fields.get(c, "")) for c in SCORES}
    rows[at] = dataclasses.replace(rows[at], **scores)


def read_benchmarks(path: pathlib.Path) -> list[Benchmark]:
    """Rows of `llmft train`, in the file's order, with the scores that `llmft eval` found for them; rows of other
    commands are left out."""
    found = []
    for where, fields in _rows(path, _open_text(path), BENCHMARK_COLUMNS):
        if fields["command"] in ("eval", "eval-base"):
            _with_scores(where, found, fields)
        if fields["command"] != "train":
            continue
        for column, allowed in _CHOICES.items():
            if fields[column] not in allowed:
                raise UserError(f"{where}: {column} '{fields[column]}' is not one of {', '.join(allowed)}")
        values = {}
        for column in BENCHMARK_COLUMNS + LATER_COLUMNS:
            text = fields.get(column, "")
            if column in _TEXT:
                values[column] = text
            elif column in _COUNTS:
                values[column] = _count(where, column, text)
            else:
                values[column] = _number(where, column, text)
        for column in ("ranks", "nodes"):
            if values[column] == 0:
                raise UserError(f"{where}: {column} is 0; mend or remove the line")
        names = {f.name for f in dataclasses.fields(Benchmark)} & values.keys()
        kept = {n: values[n] if n in _TEXT | _COUNTS | _MAY_BE_ZERO else _positive(values[n]) for n in names}
        found.append(Benchmark(**kept, fields=fields))
    return found


@dataclasses.dataclass(frozen=True)
class Steps:
    """Columns of steps.csv, a value a step; None where it was not measured or is not finite."""

    step: list[int]
    loss: list[float | None]
    tokens_per_s: list[float | None]
    valid_loss: list[float | None]


def read_steps(path: pathlib.Path) -> Steps:
    """A last line without its end is a row that is being written, or was when the run was killed: left out."""
    text = _open_text(path)
    if not text.endswith("\n"):
        text = text[: text.rfind("\n") + 1]
    steps = Steps([], [], [], [])
    for where, fields in _rows(path, text, STEP_COLUMNS):
        step = _count(where, "step", fields["step"])
        if steps.step and step <= steps.step[-1]:
            raise UserError(f"{where}: step {step} follows step {steps.step[-1]}; mend or remove the line")
        steps.step.append(step)
        for column in ("loss", "tokens_per_s", "valid_loss"):
            getattr(steps, column).append(_number(where, column, fields[column]))
    return steps


def read_config(path: pathlib.Path) -> dict[str, str]:
    """config.yaml as `llmft` dumps it: `key: value`, and one level of groups, read as "group.key"."""
    values, group = {}, ""
    for line in _open_text(path).splitlines():
        key, colon, value = line.partition(":")
        if not colon or key.lstrip().startswith("#"):
            continue
        indented, key, value = key.startswith(" "), key.strip(), value.strip()
        if not indented:
            group = "" if value else key + "."
        if value:
            if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
                value = value[1:-1].replace('\\"', '"').replace("\\\\", "\\")
            values[(group if indented else "") + key] = value
    return values


@dataclasses.dataclass(frozen=True)
class Run:
    """A run directory. results is empty until the run is finished."""

    path: pathlib.Path
    report: dict
    config: dict[str, str]
    steps: Steps | None

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def results(self) -> dict:
        return self.report.get("results") or {}

    @property
    def precision(self) -> str:
        return str(self.results.get("precision") or self.config.get("precision", ""))

    @property
    def strategy(self) -> str:
        return str(self.results.get("strategy") or self.config.get("strategy", ""))

    @property
    def mode(self) -> str:
        if self.results.get("mode"):
            return str(self.results["mode"])
        if self.config.get("adapter.init"):
            return "lora"
        return {"": "", "0": "full"}.get(self.config.get("adapter.rank", ""), "lora")


def is_run(path: pathlib.Path) -> bool:
    return (path / "run.json").is_file()


def read_run(path: pathlib.Path) -> Run:
    if not is_run(path):
        raise UserError(f"{path}: is not a run directory (it has no run.json); give one that `llmft train` made")
    text = _open_text(path / "run.json")
    try:
        report = json.loads(text)
    except ValueError as error:
        raise UserError(f"{path / 'run.json'}: is not JSON ({error}); the file is damaged") from None
    if not isinstance(report, dict) or not isinstance(report.get("results", {}), dict):
        raise UserError(f"{path / 'run.json'}: is not a run's report; the file is damaged or another")
    config, steps = path / "config.yaml", path / "steps.csv"
    return Run(
        path, report, read_config(config) if config.is_file() else {}, read_steps(steps) if steps.is_file() else None
    )


def find_runs(folder: pathlib.Path) -> list[pathlib.Path]:
    """Run directories at any depth, but none within another."""
    found = []
    for at, folders, files in os.walk(folder):
        if "run.json" in files:
            found.append(pathlib.Path(at))
            folders.clear()
    return sorted(found)


def without_report(folder: pathlib.Path) -> list[pathlib.Path]:
    """Folders with files of a run but no run.json, at any depth: read_runs leaves them out."""
    found = []
    for at, folders, files in os.walk(folder):
        if "run.json" in files:
            folders.clear()
        elif {"config.yaml", "steps.csv", "memory.csv", "timing.csv"} & set(files):
            found.append(pathlib.Path(at))
            folders.clear()
    return sorted(found)


def read_runs(folder: pathlib.Path) -> list[Run]:
    """Training runs under `folder`, oldest first; none if there is no such folder."""
    runs = [read_run(path) for path in find_runs(folder)]
    runs = [run for run in runs if run.report.get("command") == "train"]
    return sorted(runs, key=lambda run: (str(run.report.get("started")), run.name))
