"""Builds the report of a folder of measurements: report.md, report.html and slides.html, with their figures.

The report's numbers and its sentences of finding are computed from the tables; what was not measured reads so. The same
measurements give the same bytes.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys

from measured import Measured, read_measured
from read import UserError, without_report
from reference import Reference

EXAMPLES = """examples:
  python postprocess/report.py                                          docs/measured -> docs/report.md, report.html, slides.html
  python postprocess/report.py --measured results --runs runs --out results/report
  python postprocess/report.py --pdf                                    also report.pdf and slides.pdf, where chromium is installed
"""
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def arguments(args: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="report.py", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    paths = {"type": pathlib.Path, "metavar": "PATH"}
    parser.add_argument("--measured", default="docs/measured", help="folder of tables (%(default)s)", **paths)
    parser.add_argument("--runs", help="folder of run directories (runs in the folder of tables)", **paths)
    parser.add_argument("--out", default="docs", help="folder for the report (%(default)s)", **paths)
    parser.add_argument("--pdf", action="store_true", help="also as PDF, by chromium")
    return parser.parse_args(args)


def draw(facts, out: pathlib.Path) -> dict[str, str]:
    """{figure: why it is not there, or ""}"""
    import figures
    import style
    from cells import NotMeasured
    from figures_study import FIGURES
    from report_pictures import rows_of

    out.mkdir(parents=True, exist_ok=True)
    made = {}
    for name in (*figures.BENCHMARK_FIGURES, *FIGURES):
        try:
            if name in FIGURES:
                drawn = FIGURES[name](facts)
            else:
                drawn = figures.BENCHMARK_FIGURES[name](rows_of(facts, name))
        except NotMeasured as reason:
            (out / f"{name}.svg").unlink(missing_ok=True)
            made[name] = str(reason)
            continue
        style.save(drawn.figure, out, name, forms=("svg",))
        made[name] = ""
    return made


def write(path: pathlib.Path, text: str) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def build(measured: Measured, out: pathlib.Path) -> list[pathlib.Path]:
    import page
    import run_files
    import slides
    from document import markdown
    from facts import Facts
    from report_text import deck, report

    facts = Facts(measured, Reference())
    for run in facts.all_runs():
        run_files.read_all(run)
    drawn = draw(facts, out / "figures")
    blocks = report(facts, drawn)
    write(out / "report.md", markdown(blocks, "figures"))
    write(out / "report.html", page.page(blocks, out / "figures"))
    write(out / "slides.html", slides.slides(deck(facts, drawn), out / "figures"))
    return [out / name for name in ("report.md", "report.html", "slides.html")]


def tell_of_skipped(folders: list[pathlib.Path]) -> None:
    skipped = [path for folder in folders for path in without_report(folder)]
    if skipped:
        names = ", ".join(map(str, skipped[:5])) + (f" and {len(skipped) - 5} more" if len(skipped) > 5 else "")
        what = "1 run folder has" if len(skipped) == 1 else f"{len(skipped)} run folders have"
        print(f"warning: {what} no run.json and went unread: {names}", file=sys.stderr)


def print_pdf(path: pathlib.Path) -> pathlib.Path:
    program = next((found for name in CHROMIUM if (found := shutil.which(name))), None)
    if program is None:
        raise UserError(f"--pdf: no chromium here ({', '.join(CHROMIUM)}); open {path} in a browser and print it")
    target = path.with_suffix(".pdf")
    command = [
        program,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-pdf-header-footer",
        f"--print-to-pdf={target}",
        path.resolve().as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode != 0 or not target.is_file():
        raise UserError(f"--pdf: {program} failed ({done.stderr.strip().splitlines()[-1:] or done.returncode})")
    return target


def main(args: list[str] | None = None) -> int:
    options = arguments(args)
    try:
        made = build(read_measured(options.measured, options.runs), options.out)
        tell_of_skipped([options.runs or options.measured / "runs", options.measured / "quality/runs"])
        if options.pdf:
            made += [print_pdf(path) for path in made if path.suffix == ".html"]
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    print("written: " + ", ".join(map(str, made)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
