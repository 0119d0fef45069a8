"""postprocess/: figures hold the table's numbers, what was not measured is left out aloud, bad tables end with 2."""
import dataclasses
import json
import os
import pathlib
import struct
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "postprocess"))
import cells  # noqa: E402
import figures  # noqa: E402
import read  # noqa: E402
import style  # noqa: E402

H100 = "NVIDIA H100 80GB HBM3"
SPEED = {"fp32": 8000.0, "tf32": 30000.0, "fp16": 40000.0, "bf16": 41000.0, "fp8": 60000.0}
MEMORY = {"fp32": 20 * 10**9, "tf32": 20 * 10**9, "fp16": 12 * 10**9, "bf16": 12 * 10**9, "fp8": 10 * 10**9}
EPOCH_TOKENS = 6e8


def entry(precision="bf16", strategy="ddp", ranks=1, mode="lora", **more) -> dict:
    speed = SPEED[precision] * ranks * (1.0 if mode == "lora" else 0.5)
    of = dict.fromkeys(read.BENCHMARK_COLUMNS, "")
    of |= dict(
        time_utc="2026-03-01T10:00:00Z", run="a", host="node01", device=H100, version="0.1.0", command="train",
        precision=precision, strategy=strategy, mode=mode, adapter_rank=16 if mode == "lora" else 0, ranks=ranks,
        nodes=1, pack_tokens=1024, batch_packs=16, steps=50, samples=4000, tokens=819200, supervised_tokens=400000,
        samples_per_s=speed / 200, tokens_per_s=speed, supervised_tokens_per_s=speed / 2,
        step_time_median_s=16384 / speed, epoch_time_s=EPOCH_TOKENS / speed, training_time_s=819200 / speed,
        peak_memory_bytes=MEMORY[precision] // (ranks if strategy == "fsdp" else 1),
        loss_first=8.0, loss_last=2.0, valid_loss=2.1, config_hash="00",
    )  # fmt: skip
    return of | more


def grid() -> list[dict]:
    return [entry(p, s, n) for p in ("fp32", "bf16") for s in ("ddp", "fsdp") for n in (1, 2, 4)] + [
        entry(p, "ddp", 1, "full") for p in ("fp32", "bf16")
    ]


def write_table(path: pathlib.Path, rows: list[dict]) -> pathlib.Path:
    lines = [",".join(read.BENCHMARK_COLUMNS)]
    lines += [",".join(f'"{v}"' if "," in str(v) else str(v) for v in row.values()) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return path


def table(tmp_path: pathlib.Path, rows: list[dict]) -> list[read.Benchmark]:
    return read.read_benchmarks(write_table(tmp_path / "table.csv", rows))


def write_run(folder: pathlib.Path, losses, valid=None, finished=True, **report) -> pathlib.Path:
    folder.mkdir(parents=True)
    lines = [",".join(read.STEP_COLUMNS)]
    for step, loss in enumerate(losses, 1):
        row = dict.fromkeys(read.STEP_COLUMNS, "")
        row |= {"step": step, "loss": loss, "valid_loss": (valid or {}).get(step, "")}
        lines.append(",".join(map(str, row.values())))
    (folder / "steps.csv").write_text("\n".join(lines) + "\n")
    (folder / "config.yaml").write_text(
        'model: "models/tiny"\ndata: "shards/tiny"\nprecision: "bf16"\nstrategy: "ddp"\nadapter:\n  rank: 16\n'
    )
    results = dict(
        precision="bf16", strategy="ddp", mode="lora", loss_first=losses[0], loss_last=losses[-1], tokens_per_s=5123.4,
        peak_memory_bytes=3 * 2**29, valid_loss_first=9.0, valid_loss_last=2.5,
    )  # fmt: skip
    of = dict(format=1, command="train", started="2026-03-01T10:00:00Z", finished=finished, ranks=2, device=H100)
    (folder / "run.json").write_text(json.dumps(of | {"results": results if finished else {}} | report))
    return folder


def run(script: str, *args, **env) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "postprocess" / script), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ | env)


def plots(tmp_path: pathlib.Path, *args, **env) -> subprocess.CompletedProcess:
    paths = ("--benchmarks", tmp_path / "benchmarks.csv", "--runs", tmp_path / "runs", "--out", tmp_path / "out")
    return run("plots.py", *paths, *args, **env)


def test_a_table_of_the_first_version_reads_as_one_whose_later_columns_were_not_measured(tmp_path):
    (row,) = table(tmp_path, [entry()])
    assert row.machine == "" and row.joules_per_token is None and row.perplexity is None and row.base_bleu is None
    assert row.valid_loss == 2.1 and row.config_hash == "00"


def test_later_columns_and_the_scores_of_a_run(tmp_path):
    later = dict.fromkeys(read.LATER_COLUMNS, "")
    more = later | {"machine": "2 x X, 64 CPUs", "max_length": 512, "joules_per_token": 0.01, "adapter_alpha": 0}
    scores = lambda command, run, ppl: dict.fromkeys(read.BENCHMARK_COLUMNS, "") | later | {
        "command": command, "run": run, "perplexity": ppl, "bleu": 0}  # fmt: skip
    rows = [entry(run="a") | more, entry(run="b") | more, scores("eval-base", "a", 9.5), scores("eval", "a", 3.5)]
    rows += [scores("eval", "elsewhere", 1), entry(run="a") | more, scores("eval", "b", 7), scores("eval", "b", 6)]
    path = tmp_path / "table.csv"
    lines = [",".join(read.BENCHMARK_COLUMNS + read.LATER_COLUMNS)]
    lines += [",".join(f'"{v}"' if "," in str(v) else str(v) for v in row.values()) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    first, second, again = read.read_benchmarks(path)
    assert (first.perplexity, first.base_perplexity, first.bleu, first.base_rouge_l) == (3.5, 9.5, 0, None)
    assert second.perplexity == 6 and again.perplexity is None
    assert (first.machine, first.max_length, first.joules_per_token) == ("2 x X, 64 CPUs", 512, 0.01)
    path.write_text(path.read_text().replace(",3.5,", ",x,"))
    with pytest.raises(read.UserError, match="perplexity 'x' is not a number"):
        read.read_benchmarks(path)


def test_every_figure_of_a_full_table(tmp_path):
    write_table(tmp_path / "benchmarks.csv", grid())
    write_run(tmp_path / "runs/first", [8.0 / k + 1 for k in range(1, 80)], {40: 1.5, 79: 1.25})
    done = plots(tmp_path, HOME="/nonexistent")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert "skipped" not in done.stdout
    expected = (
        "epoch_time throughput training_time memory_usage DDP_VS_FSDP speedup_plot loss_curves "
        "time_gpu_ddp epoch_time_gpu_ddp throughput_gpu_ddp memory_gpu_ddp "
        "time_gpu_fsdp epoch_time_gpu_fsdp throughput_gpu_fsdp memory_gpu_fsdp"
    ).split()
    made = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert made == sorted(f"{name}.{form}" for name in expected for form in ("svg", "png"))
    for name in expected:
        png = (tmp_path / "out" / f"{name}.png").read_bytes()
        width, height = struct.unpack(">II", png[16:24])
        assert width >= 900 and height >= 500 and len(png) > 15000, name
        svg = (tmp_path / "out" / f"{name}.svg").read_text()
        assert "H100" in svg and "DejaVu Sans" in svg, name
        if name != "loss_curves":
            assert "16 packs × 1,024 tokens a step" in svg, name

    first = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    plots(tmp_path)
    for path in (tmp_path / "out").iterdir():
        assert path.read_bytes() == first[path.name], f"{path.name} differs from one drawing to the next"


def test_bars_are_the_medians_of_the_table(tmp_path):
    speeds = {"fp32": [8000.0, 8400.0, 7000.0], "bf16": [40000.0, 42000.0]}
    rows = [entry(p, tokens_per_s=v, samples_per_s=v / 100) for p, values in speeds.items() for v in values]
    rows = table(tmp_path, rows)
    choice = cells.by_precision(rows, "tokens_per_s")
    assert choice.cells == {
        ("fp32", "lora"): cells.Cell(8000.0, 7000.0, 8400.0, 3),
        ("bf16", "lora"): cells.Cell(41000.0, 40000.0, 42000.0, 2),
    }
    figure = figures.BENCHMARK_FIGURES["throughput"](rows).figure
    tokens, samples = figure.axes
    assert [bar.get_height() for bar in tokens.patches] == [8000.0, 41000.0]
    assert [bar.get_height() for bar in samples.patches] == [80.0, 410.0]
    assert [label.get_text() for label in tokens.get_xticklabels()] == ["fp32", "bf16"]
    assert [text.get_text() for text in tokens.texts] == ["8,000", "41.0k"]
    assert tokens.get_ylabel() == "throughput (tokens/s)" and tokens.get_ylim()[0] == 0
    words = " ".join(text.get_text() for text in figure.texts)
    assert "n = 2 to 3 runs" in words and "NVIDIA H100" in words and "LoRA r = 16" in words


def test_modes_stand_side_by_side(tmp_path):
    rows = table(tmp_path, [entry(p, mode=m) for p in ("fp32", "bf16") for m in ("full", "lora")])
    (axes,) = figures.BENCHMARK_FIGURES["memory_usage"](rows).figure.axes
    assert [bar.get_height() for bar in axes.patches] == [20, 20, 12, 12]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["LoRA", "full"]
    assert axes.get_ylabel() == "peak memory of a rank (GB)"


def test_lines_by_ranks(tmp_path):
    rows = table(tmp_path, grid())
    (axes,) = figures.BENCHMARK_FIGURES["memory_gpu_fsdp"](rows).figure.axes
    lines = [line for line in axes.lines if line.get_marker() != "None"]
    drawn = {line.get_color(): (list(line.get_xdata()), list(line.get_ydata())) for line in lines}
    assert drawn[style.COLOURS["fp32"]] == ([1, 2, 4], [20, 10, 5])
    assert drawn[style.COLOURS["bf16"]] == ([1, 2, 4], [12, 6, 3])
    assert axes.get_xlabel() == "GPUs (one rank each)"
    cpu = [dataclasses.replace(row, device="Some CPU") for row in rows]
    (axes,) = figures.BENCHMARK_FIGURES["memory_gpu_fsdp"](cpu).figure.axes
    assert axes.get_xlabel() == "ranks (MPI processes)"


def test_speedup_is_relative_to_the_fewest_ranks(tmp_path):
    speeds = {2: 100.0, 4: 190.0, 8: 300.0}
    rows = [entry("bf16", "ddp", n, tokens_per_s=v) for n, v in speeds.items()]
    rows = table(tmp_path, rows + [entry("fp32", "ddp", n, tokens_per_s=10.0 * n) for n in (4, 8)])
    choice = cells.by_ranks(rows, "tokens_per_s", ("ddp", "fsdp"))
    assert cells.speedups(choice) == (2, {("ddp", "bf16", "lora"): [(2, 1.0), (4, 1.9), (8, 3.0)]})
    (axes,) = figures.BENCHMARK_FIGURES["speedup_plot"](rows).figure.axes
    ideal = next(line for line in axes.lines if line.get_color() == style.FAINT)
    assert list(ideal.get_ydata()) == [1, 2, 4]


def test_a_run_without_strategy_is_the_first_point_of_both(tmp_path):
    rows = table(tmp_path, [entry("bf16", "none", 1), entry("bf16", "ddp", 2), entry("bf16", "fsdp", 2)])
    for strategy in ("ddp", "fsdp"):
        choice = cells.by_ranks(rows, "tokens_per_s", (strategy,))
        assert {key[0] for key in choice.cells} == {strategy}
        assert {key[-1]: cell.value for key, cell in choice.cells.items()} == {1: 41000.0, 2: 82000.0}
    rows = [entry("bf16", "none", 1), entry("bf16", "ddp", 1, tokens_per_s=5.0), entry("bf16", "ddp", 2)]
    own = table(tmp_path, rows)
    assert cells.by_ranks(own, "tokens_per_s", ("ddp",)).cells["ddp", "bf16", "lora", 1] == cells.Cell(5.0, 5.0, 5.0, 1)


def test_settings_are_not_mixed(tmp_path):
    """Another batch, length, adapter rank, data or number of nodes is another figure, and a weak study is one
    by its batch per rank."""
    rows = [entry(p) for p in ("fp32", "bf16")]
    for other in ({"pack_tokens": 512}, {"batch_packs": 8}, {"adapter_rank": 64}, {"ranks": 2}):
        choice = cells.by_precision(table(tmp_path, rows + [entry("fp8") | other]), "tokens_per_s")
        assert set(choice.cells) == {("fp32", "lora"), ("bf16", "lora")}, other
        assert choice.left_out == 1
    longer = table(tmp_path, rows + [entry("fp8", steps=99, tokens=1622016)])
    assert len(cells.by_precision(longer, "tokens_per_s").cells) == 3
    assert len(cells.by_precision(longer, "training_time_s").cells) == 2

    weak = table(tmp_path, [entry("bf16", "ddp", n, batch_packs=4 * n) for n in (1, 2, 4)])
    choice = cells.by_ranks(weak, "tokens_per_s", ("ddp",))
    assert choice.setting.batch == ("rank", 4) and len(choice.cells) == 3
    assert "4 packs × 1,024 tokens a step and rank" in choice.setting.text(["lora"])
    strong = cells.by_ranks(table(tmp_path, grid()), "tokens_per_s", ("ddp",))
    assert strong.setting.batch == ("step", 16)

    rows = [entry("bf16"), entry("bf16", "ddp", 2), entry("bf16", "ddp", 2, nodes=2, tokens_per_s=1.0)]
    spread = table(tmp_path, rows)
    assert cells.by_ranks(spread, "tokens_per_s", ("ddp",)).cells["ddp", "bf16", "lora", 2].value == 82000.0
    newer = entry("bf16", version="0.2.0", time_utc="2026-04-01T10:00:00Z", tokens_per_s=7.0)
    versions = table(tmp_path, [entry("bf16"), newer])
    assert cells.by_precision(versions, "tokens_per_s").cells["bf16", "lora"] == cells.Cell(7.0, 7.0, 7.0, 1)


def test_ddp_against_fsdp(tmp_path):
    lines = figures.BENCHMARK_FIGURES["DDP_VS_FSDP"](table(tmp_path, grid())).figure
    assert len(lines.axes) == 2 and not lines.axes[0].patches
    rows = [entry(p, s, 2) for p in ("fp32", "bf16") for s in ("ddp", "fsdp")]
    speed, memory = figures.BENCHMARK_FIGURES["DDP_VS_FSDP"](table(tmp_path, rows)).figure.axes
    assert [bar.get_height() for bar in speed.patches] == [16000, 16000, 82000, 82000]
    assert [bar.get_height() for bar in memory.patches] == [20, 10, 12, 6]
    with pytest.raises(cells.NotMeasured, match="both"):
        cells.ddp_and_fsdp(table(tmp_path, [entry("fp32", "ddp", 2), entry("bf16", "fsdp", 2)]), "tokens_per_s")


def test_not_measured_is_left_out_with_a_word(tmp_path):
    write_table(tmp_path / "benchmarks.csv", [entry("bf16", "ddp", 2, peak_memory_bytes="", epoch_time_s="0")])
    stale = tmp_path / "out/memory_usage.png"
    stale.parent.mkdir()
    stale.write_bytes(b"of last year")
    done = plots(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "skipped memory_usage: peak_memory_bytes was not measured\n" in done.stdout
    assert "skipped epoch_time: epoch_time_s was not measured\n" in done.stdout
    assert "skipped throughput_gpu_ddp: measured on 2 ranks only" in done.stdout
    assert "skipped throughput_gpu_fsdp: no finished fsdp run\n" in done.stdout
    assert "skipped loss_curves: " in done.stdout
    made = sorted(path.name for path in stale.parent.iterdir())
    assert made == ["throughput.png", "throughput.svg", "training_time.png", "training_time.svg"]

    write_table(tmp_path / "benchmarks.csv", [])
    done = plots(tmp_path)
    assert done.returncode == 0 and done.stdout.count("skipped ") == 15
    assert not list(stale.parent.iterdir())


def test_one_device_a_figure(tmp_path):
    rows = [entry("fp32"), entry("bf16", device="Other, model 2", time_utc="2026-05-01T10:00:00Z")]
    write_table(tmp_path / "benchmarks.csv", rows)
    done = plots(tmp_path)
    note = "note: figures show Other, model 2, of the newest run; --where device=... draws another: "
    assert note + H100 in done.stdout
    svg = (tmp_path / "out/throughput.svg").read_text()
    assert "Other, model 2" in svg and "H100" not in svg and "fp32" not in svg
    assert "note: figures show" not in plots(tmp_path, "--where", f"device={H100}").stdout
    svg = (tmp_path / "out/throughput.svg").read_text()
    assert "H100" in svg and "bf16" not in svg
    assert "with --where" in plots(tmp_path, "--where", "device=nothing").stdout


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda text: text.replace("tokens_per_s,", "tok,", 1), ":1: column tokens_per_s missing"),
        (lambda text: text + "2026-03-01T10:00:00Z,torn", ":4: 2 fields where the header has 30"),
        (lambda text: text.replace("41000.0", "fast"), ":3: tokens_per_s 'fast' is not a number"),
        (lambda text: text.replace(",ddp,", ",dpd,"), ":2: strategy 'dpd' is not one of none, ddp, fsdp, hsdp"),
        (lambda text: text.replace("bf16", "fp64"), ":3: precision 'fp64' is not one of"),
        (lambda text: text.replace(",16,1,1,", ",16,0,1,", 1), ":2: ranks is 0"),
        (lambda text: text.replace(",16,1,1,", ",16,-1,1,", 1), ":2: ranks '-1' is not a whole number"),
        (lambda text: text.replace("0.1.0", '0.1"0', 1).replace("node01", '"node', 1), "is not CSV"),
        (lambda text: text.replace("node01", "node\udcff", 1), "is not UTF-8"),
        (lambda text: "", "is empty"),
        (None, "no such file"),
    ],
)
def test_malformed_table(tmp_path, spoil, says):
    path = write_table(tmp_path / "benchmarks.csv", [entry("fp32"), entry("bf16")])
    if spoil:
        path.write_bytes(spoil(path.read_text()).encode(errors="surrogateescape"))
    else:
        path.unlink()
    done = plots(tmp_path)
    assert done.returncode == 2, done.stdout
    assert says in done.stderr and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_bad_arguments_and_runs(tmp_path):
    write_table(tmp_path / "benchmarks.csv", grid())
    assert plots(tmp_path, "--where", "colour=red").returncode == 2
    assert "examples:" in run("plots.py", "--help").stdout and "examples:" in run("summary.py", "--help").stdout
    folder = write_run(tmp_path / "runs/first", [3.0, 2.0, 1.0])
    steps = folder / "steps.csv"
    whole = steps.read_text()
    steps.write_text(whole + "4,0.5,0.")
    assert read.read_steps(steps).loss == [3.0, 2.0, 1.0], "a torn last line is a run that was killed"
    steps.write_text(whole.replace("2,,2.0", "2,,two"))
    done = plots(tmp_path)
    assert done.returncode == 2 and "steps.csv:3: loss 'two' is not a number" in done.stderr
    steps.write_text(whole + whole.splitlines()[1] + "\n")
    assert "steps.csv:5: step 1 follows step 3" in plots(tmp_path).stderr
    steps.write_text(whole)
    (tmp_path / "out").write_text("a file where the folder should be")
    done = plots(tmp_path)
    assert done.returncode == 2 and "/out: cannot write" in done.stderr


def test_loss_curves(tmp_path):
    write_run(tmp_path / "runs/one", [4.0, float("nan"), 2.0, 1.0], {4: 1.5})
    write_run(tmp_path / "runs/group/two", [5.0, 4.0], finished=False, started="2026-03-02T10:00:00Z")
    write_run(tmp_path / "runs/elsewhere", [9.0, 9.0], device="Some CPU", started="2026-02-01T10:00:00Z")
    drawn = figures.loss_curves(read.read_runs(tmp_path / "runs"))
    (axes,) = drawn.figure.axes
    data = [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines]
    assert ([1, 3, 4], [4.0, 2.0, 1.0]) in data and ([4], [1.5]) in data
    labels = [text.get_text() for text in axes.texts]
    assert labels == ["one  1.00", "two (unfinished)  4.00"]
    assert drawn.left_out == 1
    words = " ".join(text.get_text().replace("\n", " ") for text in drawn.figure.texts)
    assert "data shards/tiny · model models/tiny" in words
    config = tmp_path / "runs/one/config.yaml"
    config.write_text(config.read_text().replace("models/tiny", "models/tuned"))
    drawn = figures.loss_curves(read.read_runs(tmp_path / "runs"))
    words = " ".join(text.get_text().replace("\n", " ") for text in drawn.figure.texts)
    assert "2 starting models" in words and "From models/tuned: one. From models/tiny: two." in words


def test_smoothing():
    assert [cells.smoothing_window(range(n)) for n in (19, 40, 600, 9000)] == [1, 5, 61, 101]
    line = [2.0 * k for k in range(50)]
    assert cells.smoothed(line, 7)[:-3] == pytest.approx(line[:-3]), "a straight line stays, its start included"
    assert cells.smoothed([0.0, 3.0, 0.0, 2.0], 3) == pytest.approx([0.0, 1.0, 5 / 3, 1.0])
    assert cells.smoothed([1.0, 2.0], 1) == [1.0, 2.0]


def test_labels_keep_their_distance():
    places = style.spread([0.0, 50.0, 50.0, 51.0, 99.0], 10.0, 100.0)
    assert all(b - a >= 10 - 1e-9 for a, b in zip(places, places[1:]))
    assert places[0] == 0 and places[-1] == 99 and sum(places[1:4]) == pytest.approx(151)
    assert style.spread([100.0, 100.0], 10.0, 100.0) == [90.0, 100.0]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.00123, "0.0012"), (0.128, "0.128"), (1, "1.00"), (9.999, "10.0"), (99.96, "100"), (1234.4, "1,234"),
     (9999.6, "10.0k"), (41725, "41.7k"), (99960, "100k"), (321000, "321k"), (999600, "1.00M"), (1.76e6, "1.76M")],
)  # fmt: skip
def test_short_numbers(value, text):
    assert style.short(value) == text


def test_summary(tmp_path):
    first = write_run(tmp_path / "runs/first", [8.0, 4.0, 2.0])
    second = write_run(tmp_path / "runs/second", [7.0, 6.0], {2: 5.5}, finished=False)
    done = run("summary.py", first, second)
    assert done.returncode == 0, done.stderr
    head, one, two = done.stdout.splitlines()
    assert head.split() == "run mode precision strategy ranks loss valid loss tokens/s peak memory path".split()
    fields = ("first", "lora", "bf16", "ddp", "8.0000 -> 2.0000", "9.0000 -> 2.5000", "5,123", "1.50 GiB", str(first))
    assert all(field in one for field in fields), one
    assert "second (unfinished)" in two and "7.0000 -> 6.0000" in two and "5.5000" in two
    assert one.index(str(first)) == two.index(str(second)) == head.index("path")
    marked = run("summary.py", "--markdown", first).stdout.splitlines()
    assert marked[0].startswith("| run | mode |") and len({line.count("|") for line in marked}) == 1

    done = run("summary.py", tmp_path)
    assert done.returncode == 2 and "is not a run directory" in done.stderr
    (first / "run.json").write_text("{")
    done = run("summary.py", first)
    assert done.returncode == 2 and "is not JSON" in done.stderr and "Traceback" not in done.stderr
