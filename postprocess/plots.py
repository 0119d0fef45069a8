"""Draws the figures of results/benchmarks.csv and of the run directories, as SVG and PNG.

What was not measured is not drawn: one line says so, and a figure of that name from an earlier time is removed,
so that it cannot be mistaken for one of today's numbers.
"""
import argparse
import pathlib
import sys

from cells import NotMeasured, newest_device
from read import BENCHMARK_COLUMNS, LATER_COLUMNS, Benchmark, Run, UserError, read_benchmarks, read_runs

EXAMPLES = """examples:
  python postprocess/plots.py
  python postprocess/plots.py --benchmarks study/benchmarks.csv --runs study/runs --out study/plots
  python postprocess/plots.py --where "device=NVIDIA H100 80GB HBM3" --where pack_tokens=8192
"""


def arguments(args: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="plots.py", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    paths = {"type": pathlib.Path, "metavar": "PATH"}
    parser.add_argument("--benchmarks", default="results/benchmarks.csv", help="table of runs (%(default)s)", **paths)
    parser.add_argument("--runs", default="runs", help="folder of runs, for their loss curves (%(default)s)", **paths)
    parser.add_argument("--out", default="results", help="folder for the figures (%(default)s)", **paths)
    parser.add_argument(
        "--where", action="append", default=[], metavar="COLUMN=VALUE",
        help="only runs with this value in the table; may be repeated. Without it: the device of the newest run",
    )  # fmt: skip
    return parser.parse_args(args)


def conditions(where: list[str]) -> dict[str, str]:
    wanted = {}
    for text in where:
        column, equals, value = text.partition("=")
        if not equals or column not in BENCHMARK_COLUMNS + LATER_COLUMNS + ["model", "data"]:
            raise UserError(f"--where {text}: must be COLUMN=VALUE with a column of benchmarks.csv, as device=...")
        wanted[column] = value
    return wanted


def of_one_device(rows: list[Benchmark], wanted: dict[str, str]) -> list[Benchmark]:
    rows = [row for row in rows if all(row.fields.get(column, "") == value for column, value in wanted.items())]
    if not rows:
        return []
    device = newest_device(rows)
    others = [row for row in rows if row.device != device]
    if others:
        names = ", ".join(sorted({row.device for row in others}))
        print(f"note: figures show {device}, of the newest run; --where device=... draws another: {names}")
    return [row for row in rows if row.device == device]


def matching(runs: list[Run], wanted: dict[str, str]) -> list[Run]:
    """Of --where, what a run directory knows."""

    def known(run: Run) -> dict[str, str]:
        of = {"run": run.name, "precision": run.precision, "strategy": run.strategy, "mode": run.mode}
        for column in ("device", "ranks", "nodes", "version", "config_hash"):
            of[column] = str(run.report.get(column, ""))
        for column, key in (("pack_tokens", "train.pack_tokens"), ("batch_packs", "train.batch_packs")):
            of[column] = run.config.get(key, "")
        return of

    return [run for run in runs if all(known(run).get(column, value) == value for column, value in wanted.items())]


def draw_all(options: argparse.Namespace) -> None:
    wanted = conditions(options.where)
    rows = read_benchmarks(options.benchmarks)
    runs = matching(read_runs(options.runs), wanted)
    rows = of_one_device(rows, wanted)
    import figures  # Matplotlib takes a second: bad input is told before
    import style

    options.out.mkdir(parents=True, exist_ok=True)
    drawn = 0
    for name in figures.NAMES:
        try:
            if name in figures.RUN_FIGURES:
                made = figures.RUN_FIGURES[name](runs)
            elif not rows:
                raise NotMeasured(f"no finished training run in {options.benchmarks}" + " with --where" * bool(wanted))
            else:
                made = figures.BENCHMARK_FIGURES[name](rows)
        except NotMeasured as reason:
            style.remove(options.out, name)
            print(f"skipped {name}: {reason}")
            continue
        style.save(made.figure, options.out, name)
        drawn += 1
        if made.left_out:
            print(f"note: {name} leaves out runs of another setting than its title's: {made.left_out} (--where picks)")
    print(f"{drawn} of {len(figures.NAMES)} figures drawn into {options.out}/ as SVG and PNG")


def main(args: list[str] | None = None) -> int:
    try:
        draw_all(arguments(args))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.filename}: cannot write ({error.strerror})", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
