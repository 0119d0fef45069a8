"""postprocess/collect.py: rows and runs come once, names stay apart, transcribed rows give way."""

import csv
import pathlib

import study
from study_files import run, write_table

import measured
import reference
from facts import Facts


def rows_of(path: pathlib.Path) -> list[dict]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_collect(tmp_path):
    s = study.Study()
    s.add("bf16", name="exact", deterministic="true")
    s.add("bf16", name="short")
    s.cells["short"]["tokens_per_s"] = ""  # shorter than its warm-up
    visit, target = s.write(tmp_path / "visit"), tmp_path / "measured"
    config = visit / "runs/packed/config.yaml"
    config.write_text(
        'model: "/home/somebody/model"\ndata: "/data/real"\noutput: "/scratch/x/packed"\n'
        + config.read_text().replace("model: random-1b\n", "").replace("data: real\n", "")
    )
    (visit / "runs/packed/checkpoints").mkdir()
    (visit / "runs/packed/checkpoints/large").write_text("x")
    (visit / "comm.txt").write_text(
        "2 ranks, Some GPU\nhead\nall_gather   a layer's weights, bf16     1000   2.5   1.0   0.5\n"
    )
    done = run("collect.py", visit, "--measured", target, "--set", "model=llama-random", "--set", "data:real=openorca")
    assert done.returncode == 0, done.stderr
    rows = rows_of(target / "benchmarks.csv")
    assert len(rows) == len(s.cells) - 2 and "exact" in {row["run"] for row in rows_of(target / "variants.csv")}
    assert "note: short has no speed" in done.stdout
    assert {path.name for path in (target / "quality/runs").iterdir()} == set(s.quality_runs)
    assert {row["model"] for row in rows} == {"llama-random"}
    assert {row["data"] for row in rows} == {"letters-512", "letters-1024", "openorca", ""}
    assert len(list((target / "runs").iterdir())) == len(s.runs) - 1
    assert not (target / "runs/packed/checkpoints").exists()
    assert (
        "somebody" not in (target / "runs/packed/config.yaml").read_text()
        and 'output: "packed"' in (target / "runs/packed/config.yaml").read_text()
    )
    assert 'model: "llama-random"\ndata: "openorca"\n' in (target / "runs/packed/config.yaml").read_text()
    assert rows_of(target / "comm.csv")[-1]["of"] == "a layer's weights, bf16"

    first = {path: path.read_bytes() for path in target.rglob("*") if path.is_file()}
    done = run("collect.py", visit, "--measured", target, "--set", "model=llama-random")
    assert "0 rows and 0 runs taken" in done.stdout
    assert {path: path.read_bytes() for path in target.rglob("*") if path.is_file()} == first

    # another visit: the same names are other runs, and keep their own files
    for row in [*s.cells.values(), *s.variants.values()]:
        row["time_utc"] = row["time_utc"].replace("2026-03-01", "2026-04-01")
    other = s.write(tmp_path / "other")
    assert run("collect.py", other, "--measured", target).returncode == 0
    runs = {row["run"] for row in rows_of(target / "benchmarks.csv")}
    assert "packed" in runs and "packed-v2" in runs and (target / "runs/packed-v2/run.json").exists()
    assert (
        Facts(measured.read_measured(target), reference.Reference()).m.run_of(
            measured.read_cells(target / "benchmarks.csv")[-1]
        )
        is None
    )


def test_it_never_takes_from_where_it_collects(tmp_path):
    target = study.Study().write(tmp_path / "docs/measured")
    before = {path: path.read_bytes() for path in target.rglob("*") if path.is_file()}
    done = run("collect.py", tmp_path, "--measured", target)
    assert done.returncode == 0 and "0 rows and 0 runs taken" in done.stdout, done.stdout + done.stderr
    done = run("collect.py", target, "--measured", target)
    assert done.returncode == 2 and "is where measurements are collected" in done.stderr
    assert {path: path.read_bytes() for path in target.rglob("*") if path.is_file()} == before


def test_a_torn_study_of_quality_replaces_none(tmp_path):
    target, visit = study.Study().write(tmp_path / "measured"), tmp_path / "visit"
    before = {path: path.read_bytes() for path in target.rglob("*") if path.is_file()}
    visit.mkdir()
    for text, said in (("precision\n", "quality.csv:1: column"), ((target / "quality/quality.csv").read_text(), "agreement.csv: is missing")):
        (visit / "quality.csv").write_text(text)
        done = run("collect.py", visit, "--measured", target)
        assert done.returncode == 2 and said in done.stderr
        assert {path: path.read_bytes() for path in target.rglob("*") if path.is_file()} == before


def test_runs_that_come_after_their_rows_have_their_names(tmp_path):
    s = study.Study()
    visit, target = s.write(tmp_path / "visit"), tmp_path / "measured"
    tables, runs = tmp_path / "tables", tmp_path / "later"
    tables.mkdir()
    for name in ("benchmarks.csv", "variants.csv"):
        (visit / name).rename(tables / name)
    (visit / "runs").rename(runs)
    assert run("collect.py", tables, "--measured", target).returncode == 0
    assert run("collect.py", runs, "--measured", target).returncode == 0
    assert {path.name for path in (target / "runs").iterdir()} == set(s.runs)


def test_a_transcribed_row_gives_way(tmp_path):
    s = study.Study()
    target = s.write(tmp_path / "measured")
    old = s.cells["lora-bf16-none-1-8192"] | dict(
        run="old", time_utc="2026-01-01", tokens_per_s=1, source="transcribed", config_hash="", host=""
    )
    lonely = old | dict(run="lonely", adapter_rank=99)
    write_table(target / "benchmarks.csv", [old, lonely])
    done = run("collect.py", s.write(tmp_path / "visit"), "--measured", target)
    assert done.returncode == 0 and "1 transcribed rows replaced" in done.stdout, done.stderr
    names = [row["run"] for row in rows_of(target / "benchmarks.csv")]
    assert "old" not in names and "lonely" in names


def test_an_error_comes_before_anything_is_copied(tmp_path):
    taken, target = study.Study().write(tmp_path / "taken"), tmp_path / "measured"
    table = taken / "benchmarks.csv"
    whole = table.read_bytes()
    for spoil, mend, said in (
        (lambda: table.write_bytes(whole[: whole.rstrip().rfind(b",") - 40]), lambda: table.write_bytes(whole), "benchmarks.csv:"),
        (lambda: (taken / "comm.txt").write_bytes(b"2 ranks, \xff\n"), (taken / "comm.txt").unlink, "comm.txt: is not UTF-8"),
    ):
        spoil()
        done = run("collect.py", taken, "--measured", target)
        assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1, done.stderr
        assert not target.exists()
        mend()
    assert run("collect.py", taken, "--measured", target).returncode == 0
    names = {row["run"] for row in rows_of(target / "benchmarks.csv")}
    assert not any("-v2" in name for name in names)
    assert {path.name for path in (target / "runs").iterdir()} <= names | {row["run"] for row in rows_of(target / "variants.csv")}


def test_bad_arguments(tmp_path):
    done = run("collect.py", tmp_path / "nothing", "--measured", tmp_path / "m")
    assert done.returncode == 2 and "no such folder" in done.stderr
    done = run("collect.py", tmp_path, "--measured", tmp_path / "m", "--set", "colour=red")
    assert done.returncode == 2 and "must be model=, data= or commit=NAME" in done.stderr
    assert "examples:" in run("report.py", "--help").stdout and "examples:" in run("collect.py", "--help").stdout
