"""Draws the scores of `llmft eval`, base against adapter with their 95 % intervals, as <out>/eval.svg and eval.png."""
import argparse
import csv
import math
import pathlib
import sys

from style import COLOURS, INK, frame, short

EXAMPLES = """examples:
  python postprocess/eval_plot.py runs/eval
  python postprocess/eval_plot.py runs/orca/eval --out results
"""
SYSTEMS = {"base": "#999999", "adapter": COLOURS["fp32"]}
COLUMNS = ["metric", "system", "samples", "value", "low", "high", "p"]


class UserError(Exception):
    pass


def read(folder: pathlib.Path) -> list[dict[str, str]]:
    path = folder / "eval.csv"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            columns, rows = reader.fieldnames, list(reader)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give the folder that 'llmft eval' made") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is not a table ({error}); it is damaged or another file") from None
    if columns != COLUMNS or not rows:
        raise UserError(f"{path}: is not a table of 'llmft eval' (its columns must be {', '.join(COLUMNS)}, with a row below)")
    for number, row in enumerate(rows, 2):
        check(f"{path}:{number}", row)
    if missing := {row["metric"] for row in rows} - {row["metric"] for row in rows if row["system"] == "base"}:
        raise UserError(f"{path}: has no row of the base for {', '.join(sorted(missing))}; it is torn or was edited")
    return rows


def check(where: str, row: dict[str, str]) -> None:
    if None in row or None in row.values():
        raise UserError(f"{where}: has not {len(COLUMNS)} fields (the line is torn or was edited)")
    for column in ("samples", "value", "low", "high", *(("p",) if row["system"] == "difference" else ())):
        try:
            number = int(row[column]) if column == "samples" else float(row[column])
        except ValueError:
            raise UserError(f"{where}: {column} '{row[column][:40]}' is not a number; mend or remove the line") from None
        if not math.isfinite(number):
            raise UserError(f"{where}: {column} is {row[column]}, which cannot be drawn")


def panel(axes, rows: list[dict[str, str]], metrics: list[str]) -> None:
    cells = {(r["metric"], r["system"]): r for r in rows}
    systems = [s for s in SYSTEMS if (metrics[0], s) in cells]
    width = 0.8 / len(systems)
    top = 0.0
    for i, metric in enumerate(metrics):
        for j, system in enumerate(systems):
            row = cells[metric, system]
            value, low, high = (float(row[key]) for key in ("value", "low", "high"))
            at = i + (j - (len(systems) - 1) / 2) * width
            axes.bar(at, value, width * 0.95, color=SYSTEMS[system], label=system if i == 0 else None)
            axes.errorbar(at, value, [[max(0, value - low)], [max(0, high - value)]], color=INK, capsize=3, linewidth=1)
            axes.annotate(short(value) if value else "0", (at, max(value, high)), xytext=(0, 3), textcoords="offset points", ha="center", fontsize=9)
            top = max(top, value, high)
    axes.set_xticks(range(len(metrics)), metrics)
    axes.set_xlim(-0.6, len(metrics) - 0.4)
    axes.set_ylim(0, top * 1.15 if top > 0 else 1)
    axes.tick_params(axis="x", length=0)


def draw(rows: list[dict[str, str]], out: pathlib.Path) -> None:
    metrics = list(dict.fromkeys(r["metric"] for r in rows))
    left, right = [m for m in metrics if m == "perplexity"], [m for m in metrics if m != "perplexity"]
    panels = [p for p in (left, right) if p]
    samples = {r["metric"]: int(r["samples"]) for r in rows}
    tests = [f"{r['metric']} p = {float(r['p']):.3g}" for r in rows if r["system"] == "difference"]
    subtitle = "Perplexity: lower is better. BLEU and ROUGE (0 to 100): higher is better."
    caption = "Samples: " + ", ".join(f"{m} {n}" for m, n in samples.items()) + ". Lines: 95 % bootstrap intervals."
    if tests:
        caption += " Paired randomization test: " + ", ".join(tests) + "."
    figure, axes = frame("Answers on the validation set", subtitle, caption, panels=len(panels), above=0.2)
    for each, names in zip(axes, panels):
        panel(each, rows, names)
    if tests:
        axes[-1].legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, borderaxespad=0.2)
    out.mkdir(parents=True, exist_ok=True)
    figure.savefig(out / "eval.svg", metadata={"Date": None})
    figure.savefig(out / "eval.png", dpi=150)
    print(f"{out}/eval.svg, eval.png")


def main() -> int:
    parser = argparse.ArgumentParser(prog="eval_plot.py", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path, help="what 'llmft eval --output' named")
    parser.add_argument("--out", type=pathlib.Path, help="folder for the figure (default: the same)")
    args = parser.parse_args()
    try:
        draw(read(args.folder), args.out or args.folder)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
