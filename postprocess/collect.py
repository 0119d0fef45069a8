"""Brings measurements into docs/measured/: rows of tables that are not there yet, and the small files of runs.

Any folder will do: every benchmarks.csv, variants.csv, comm.txt and run directory under it is taken, and tables of
the names that docs/formats.md lists. A row that was transcribed from a document gives way to a measured one of the same cell.
Paths in config.yaml lose their folders, which mean nothing elsewhere.
"""

import argparse
import csv
import io
import pathlib
import re
import shutil
import sys
from collections.abc import Iterable

import read
from measured import QUALITY, SCORES, Cell, read_cells, read_table
from read import UserError

EXAMPLES = """examples:
  python postprocess/collect.py gpu-runs/report gpu-runs/runs --set model=llama-3.2-1b-random --set data=letters-1024
  python postprocess/collect.py gpu --set model=llama-3.2-1b-random --set data:shards512=letters-512 --set data:shards1024=letters-1024
  python postprocess/collect.py results runs --measured docs/measured
"""
CELL_TABLES = ("benchmarks.csv", "variants.csv")
TABLES = {  # name: the columns whose values together are a row's own
    "preprocess.csv": ("system", "rows", "processes", "cores", "wall_s"),
    "tokenizers.csv": ("tokenizer", "form"),
    "generation.csv": ("system", "device", "precision", "batch", "kind"),
    "comm.csv": ("device", "ranks", "collective", "of", "time_us"),
    "models.csv": ("model",),
    "data.csv": ("data",),
}
SMALL = ("run.json", "config.yaml", "steps.csv", "timing.csv", "memory.csv", "profile.csv")
NAMED = ("model", "data")
SETTABLE = (*NAMED, "commit")
LARGEST = 1 << 20


def write_table(path: pathlib.Path, rows: list[dict[str, str]]) -> None:
    columns = list(dict.fromkeys(c for row in rows for c in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    part = path.with_name(f".{path.name}.part")
    part.write_text(text.getvalue(), encoding="utf-8")
    part.replace(path)


def filled(fields: dict[str, str]) -> dict[str, str]:
    return {column: text for column, text in fields.items() if text}


def identity(row: Cell) -> tuple:
    """Of one measurement, whatever its run has been called."""
    return tuple(
        row.text(c)
        for c in ("time_utc", "host", "command", "precision", "strategy", "tokens_per_s", "config_hash", "perplexity")
    )


def place(row: Cell) -> tuple:
    """What a transcribed row and a measured one of the same cell have in common."""
    texts = tuple(row.text(c) for c in ("device", "precision", "mode"))
    alone = row.ranks == 1 and row.text("strategy") in ("none", "ddp")  # the same on one rank
    strategy = "none" if alone else row.text("strategy")
    return (
        row.system,
        *texts,
        strategy,
        row.adapter_rank,
        row.ranks,
        row.tokens_a_rank,
        row.fixed,
        round(row.mean_length or 0, -1) if row.fixed else None,
    )


def check_cells(rows: list[Cell]) -> None:
    """Every number that is used later is one."""
    for row in rows:
        if row.text("command") not in SCORES:
            place(row)


def read_comm(path: pathlib.Path, date: str) -> list[dict[str, str]]:
    """Rows of comm.csv, of what bench_comm has printed."""
    lines = read._open_text(path).splitlines()
    head = re.fullmatch(r"(\d+) ranks, (.+)", lines[0]) if lines else None
    if head is None:
        raise UserError(f"{path}:1: is not what bench_comm prints (its first line is 'N ranks, DEVICE')")
    found = []
    for line in lines[2:]:
        fields = re.fullmatch(r"(\S+)\s+(.+?)\s+(\d+)\s+([\d.]+)\s+([\d.]+)\s+([\d.]+)", line)
        if fields:
            names = ("collective", "of", "bytes", "time_us", "algbw_gb_s", "busbw_gb_s")
            found.append({"time_utc": date, "device": head[2], "ranks": head[1], **dict(zip(names, fields.groups()))})
    return found


class Collector:
    def __init__(self, measured: pathlib.Path, changes: dict[str, str]):
        self.measured, self.changes = measured, changes
        self.tables = {name: read_cells(measured / name) for name in CELL_TABLES}
        self.names = {row.text("run") for rows in self.tables.values() for row in rows}
        # a row may have come without its run: by what makes it one measurement, and unlikely another
        self.run_names = {
            (row.text("config_hash"), row["tokens_per_s"]): row.text("run")
            for rows in self.tables.values()
            for row in rows
            if row.text("command") == "train"
        }
        self.seen = {(path / "run.json").read_bytes() for path in read.find_runs(measured / "runs")}
        self.names |= {path.name for path in read.find_runs(measured / "runs")}
        self.renamed: dict[tuple[str, str, str], str] = {}  # (name, config hash, device): name here
        self.commits: dict[str, str] = {}  # by name here
        self.deterministic: set[str] = set()
        self.rows = self.copied = self.dropped = 0
        for rows in self.tables.values():
            check_cells(rows)
        for name, keys in TABLES.items():
            read_table(measured / name, keys)

    def unused(self, name: str) -> str:
        new, count = name, 1
        while new in self.names:
            count += 1
            new = f"{name}-v{count}"
        self.names.add(new)
        return new

    def outside(self, paths: Iterable[pathlib.Path]) -> list[pathlib.Path]:
        """Those that are not in docs/measured itself, sorted."""
        return sorted(path for path in paths if self.measured.resolve() not in path.resolve().parents)

    def name_of(self, run: read.Run) -> str:
        key = (str(run.report.get("config_hash", "")), run.results["tokens_per_s"])
        name = self.run_names.get(key)
        return name if name and not (self.measured / "runs" / name).exists() else self.unused(run.name)

    def take_runs(self, folder: pathlib.Path) -> None:
        for path in self.outside(read.find_runs(folder)):
            if "quality" in path.relative_to(folder).parts:
                continue  # those have their own place
            run = read.read_run(path)
            if run.report.get("command") != "train" or (path / "run.json").read_bytes() in self.seen:
                continue
            if not run.results.get("tokens_per_s"):
                print(f"note: {path.name} has no speed (unfinished, or shorter than its warm-up) and is left out")
                continue
            self.seen.add((path / "run.json").read_bytes())
            name = self.name_of(run)
            if run.config.get("deterministic") == "true":
                self.deterministic.add(name)
            self.renamed[run.name, str(run.report.get("config_hash", "")), str(run.report.get("device", ""))] = name
            self.commits[name] = str((run.report.get("build") or {}).get("git") or "")
            target = self.measured / "runs" / name
            target.mkdir(parents=True)
            for file in (path / small for small in SMALL if (path / small).is_file()):
                if file.stat().st_size > LARGEST:
                    print(f"note: {file} is larger than {LARGEST >> 20} MiB and is left out")
                else:
                    copy_small(file, target / file.name, self.changes)
            self.copied += 1

    def take_cells(self, path: pathlib.Path) -> None:
        known = {identity(row) for of in self.tables.values() for row in of}
        names: dict[str, str] = {}  # of this table's runs, here: rows of evaluations name them
        for row in read_cells(path):
            if identity(row) in known or not (row["tokens_per_s"] or row.text("command") in SCORES):
                continue
            known.add(identity(row))
            fields = dict(row.fields) | {"commit": row.text("commit") or self.changes.get("commit", "")}
            name = row.text("run")
            key = (name, row.text("config_hash"), row.device)
            if row.text("command") in SCORES:
                fields["run"] = names.get(name, name)
            else:
                fields["run"] = names[name] = self.renamed[key] if key in self.renamed else self.unused(name)
                fields["commit"] = self.commits.get(fields["run"], fields["commit"])
            for column in NAMED if row.system == "llmft" else ("model",):
                fields[column] = new_name(self.changes, column, row.text(column))
            table = "variants.csv" if fields["run"] in self.deterministic else path.name
            self.tables[table].append(Cell(row.where, fields))
            self.rows += 1

    def take_table(self, path: pathlib.Path) -> None:
        keys = TABLES[path.name]
        there = {tuple(r.text(k) for k in keys): r.fields for r in read_table(self.measured / path.name, keys)}
        for row in read_table(path, keys):
            key = tuple(row.text(k) for k in keys)
            self.rows += filled(there.get(key, {})) != filled(row.fields)
            there[key] = row.fields
        write_table(self.measured / path.name, list(there.values()))

    def take_comm(self, path: pathlib.Path, date: str) -> None:
        found = read_comm(path, date)
        keys = TABLES["comm.csv"]
        old = [row.fields for row in read_table(self.measured / "comm.csv", keys)]
        known = {tuple(row[k] for k in keys) for row in old}
        new = [row for row in found if tuple(row[k] for k in keys) not in known]
        self.rows += len(new)
        write_table(self.measured / "comm.csv", old + new)

    def take_quality(self, folder: pathlib.Path) -> None:
        """What tools/quality.py has left is one study: it replaces the one that is here."""
        place, target = self.measured / "quality", self.measured / ".quality.part"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for name in (*QUALITY, "quality.json"):
            if (folder / name).is_file():
                text = read._open_text(folder / name)
                (target / name).write_text(re.sub(r'(": ")/[^"]*/([^"/]+")', r"\1\2", text), encoding="utf-8")
        for path in read.find_runs(folder / "runs"):
            (target / "runs" / path.name).mkdir(parents=True)
            for file in (path / small for small in (*SMALL, "eval.csv") if (path / small).is_file()):
                copy_small(file, target / "runs" / path.name / file.name, {})
        shutil.rmtree(place, ignore_errors=True)
        target.rename(place)

    def check(self, folder: pathlib.Path) -> None:
        """All that is taken is read once before anything is copied: an error leaves docs/measured as it was."""
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder")
        if self.measured.resolve() in (folder.resolve(), *folder.resolve().parents):
            raise UserError(f"{folder}: is where measurements are collected; name the folder that they come from")
        for path in self.outside(folder.rglob("quality.csv")):
            for name, columns in QUALITY.items():
                if not read_table(path.parent / name, columns):
                    raise UserError(f"{path.parent / name}: is missing or empty, so this is no whole study of tools/quality.py")
            if (path.parent / "quality.json").is_file():
                read._open_text(path.parent / "quality.json")
        for path in self.outside(read.find_runs(folder)):
            read.read_run(path)
        for name in CELL_TABLES:
            for path in self.outside(folder.rglob(name)):
                check_cells(read_cells(path))
        for name, keys in TABLES.items():
            for path in self.outside(folder.rglob(name)):
                read_table(path, keys)
        for path in self.outside(folder.rglob("comm.txt")):
            read_comm(path, "")

    def take(self, folder: pathlib.Path) -> None:
        self.measured.mkdir(parents=True, exist_ok=True)
        self.take_runs(folder)
        dates = []
        for name in CELL_TABLES:
            for path in self.outside(folder.rglob(name)):
                self.take_cells(path)
                dates += [row.text("time_utc") for row in read_cells(path)]
        for name in TABLES:
            for path in self.outside(folder.rglob(name)):
                self.take_table(path)
        for path in self.outside(folder.rglob("comm.txt")):
            self.take_comm(path, max(dates, default="")[:10])
        for path in self.outside(folder.rglob("quality.csv")):
            self.take_quality(path.parent)

    def write(self) -> None:
        fresh = {
            place(row)
            for row in self.tables["benchmarks.csv"]
            if not row.text("source") and row.text("command") not in SCORES
        }
        for name, rows in self.tables.items():
            kept = [
                row
                for row in rows
                if not (row.text("source") and row.text("command") not in SCORES and place(row) in fresh)
            ]
            self.dropped += len(rows) - len(kept)
            if rows:
                write_table(self.measured / name, [row.fields for row in kept])


def copy_small(file: pathlib.Path, target: pathlib.Path, changes: dict[str, str]) -> None:
    if file.name == "config.yaml":
        target.write_text(without_folders(file.read_text(encoding="utf-8"), changes), encoding="utf-8")
    else:
        shutil.copyfile(file, target)


def without_folders(text: str, changes: dict[str, str]) -> str:
    text = re.sub(r'^(\w+: ")/[^"]*/([^"/]+)"', r'\1\2"', text, flags=re.M)
    for key in NAMED:
        text = re.sub(rf'^({key}: ")(.*)"$', lambda m, k=key: f'{m[1]}{new_name(changes, k, m[2])}"', text, flags=re.M)
    return text


def new_name(changes: dict[str, str], column: str, name: str) -> str:
    """As --set COLUMN:NAME=... says, else --set COLUMN=..."""
    return changes.get(f"{column}:{name}", changes.get(column, name))


def main(args: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="collect.py", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=pathlib.Path, metavar="FOLDER")
    parser.add_argument("--measured", type=pathlib.Path, default=pathlib.Path("docs/measured"), help="(%(default)s)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="COLUMN[:OLD]=NAME",
        help="names that say more than a folder's: model=..., data=... of all rows and runs taken; data:OLD=... of those called OLD",
    )
    options = parser.parse_args(args)
    try:
        changes = dict(text.split("=", 1) for text in options.set if "=" in text)
        if len(changes) != len(options.set) or {key.split(":")[0] for key in changes} - set(SETTABLE):
            raise UserError(f"--set {' '.join(options.set)}: must be model=, data= or commit=NAME, or data:OLD=NAME")
        collector = Collector(options.measured, changes)
        for folder in options.folders:
            collector.check(folder)
        # runs before tables: a run's name here is decided when its directory is taken
        for folder in sorted(options.folders, key=lambda f: not read.find_runs(f)):
            collector.take(folder)
        collector.write()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    print(
        f"{options.measured}: {collector.rows} rows and {collector.copied} runs taken, {collector.dropped} transcribed rows replaced"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
