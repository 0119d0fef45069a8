"""Prints a short table of finished runs: what each was, how its loss fell, how fast and how large it was."""
import argparse
import pathlib
import sys

from read import Run, UserError, read_run

COLUMNS = ("run", "mode", "precision", "strategy", "ranks", "loss", "valid loss", "tokens/s", "peak memory", "path")
RIGHT = {"ranks", "loss", "valid loss", "tokens/s", "peak memory"}
NONE = "-"
EXAMPLES = """examples:
  python postprocess/summary.py runs/*
  python postprocess/summary.py --markdown runs/lora-bf16 runs/full-fp32
"""


def human_bytes(value: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            break
        value /= 1024
    else:
        unit = "TiB"
    return f"{value:.0f} B" if unit == "B" else f"{value:.2f} {unit}"


def change(first, last, digits: int = 4) -> str:
    if last is None:
        return NONE
    return f"{last:.{digits}f}" if first is None else f"{first:.{digits}f} -> {last:.{digits}f}"


def number(run: Run, key: str, otherwise: list | None = None):
    """A result; of a run that has none yet, the one value of `otherwise`, if any."""
    value = run.results.get(key)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    return otherwise[0] if otherwise else None


def row(run: Run) -> dict[str, str]:
    """Of an unfinished run, what its steps tell."""
    losses = [value for value in run.steps.loss if value is not None] if run.steps else []
    valid = [value for value in run.steps.valid_loss if value is not None] if run.steps else []
    speed, memory = number(run, "tokens_per_s"), number(run, "peak_memory_bytes")
    return {
        "run": run.name + ("" if run.report.get("finished") else " (unfinished)"),
        "mode": run.mode or NONE,
        "precision": run.precision or NONE,
        "strategy": run.strategy or NONE,
        "ranks": str(run.report.get("ranks", NONE)),
        "loss": change(number(run, "loss_first", losses[:1]), number(run, "loss_last", losses[-1:])),
        "valid loss": change(number(run, "valid_loss_first"), number(run, "valid_loss_last", valid[-1:])),
        "tokens/s": f"{speed:,.0f}" if speed else NONE,
        "peak memory": human_bytes(memory) if memory else NONE,
        "path": str(run.path),
    }


def text_table(rows: list[dict[str, str]]) -> str:
    widths = {column: max(len(column), *(len(row[column]) for row in rows)) for column in COLUMNS}

    def line(row: dict[str, str]) -> str:
        fields = (row[c].rjust(widths[c]) if c in RIGHT else row[c].ljust(widths[c]) for c in COLUMNS)
        return "  ".join(fields).rstrip()

    return "\n".join([line({c: c for c in COLUMNS}), *map(line, rows)])


def markdown_table(rows: list[dict[str, str]]) -> str:
    def line(fields) -> str:
        return "| " + " | ".join(field.replace("|", "\\|") for field in fields) + " |"

    rule = "|" + "|".join("---:" if c in RIGHT else "---" for c in COLUMNS) + "|"
    return "\n".join([line(COLUMNS), rule, *(line(row[c] for c in COLUMNS) for row in rows)])


def main(args: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="summary.py", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=pathlib.Path, metavar="RUN", help="run directory of `llmft train`")
    parser.add_argument("--markdown", action="store_true", help="as a Markdown table")
    options = parser.parse_args(args)
    try:
        rows = [row(read_run(path)) for path in options.runs]
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(markdown_table(rows) if options.markdown else text_table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
