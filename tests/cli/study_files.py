"""Writes a study.Study as a folder of measurements (docs/formats.md), and runs the scripts of postprocess/."""

import csv
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "postprocess"))
import read  # noqa: E402

H100 = "NVIDIA H100 80GB HBM3"
COLUMNS = [
    *read.BENCHMARK_COLUMNS,
    "model",
    "data",
    "vocab_size",
    "sample_length_mean",
    "max_length",
    "joules_per_token",
    "padded_tokens_per_s",
]


def write_table(path: pathlib.Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        columns = list(dict.fromkeys(c for row in rows for c in row)) or COLUMNS
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_study(study, folder: pathlib.Path) -> pathlib.Path:
    write_table(folder / "benchmarks.csv", list(study.cells.values()))
    write_table(folder / "variants.csv", list(study.variants.values()))
    write_table(
        folder / "models.csv", [dict(model="random-1b", vocab_size=128256, hidden_size=2048, init_std=0.02, random=1)]
    )
    write_table(
        folder / "data.csv",
        [
            dict(data=d, name="made samples", floor_nats=3.2, supervised_fraction=0.45)
            for d in ("letters-512", "letters-1024")
        ],
    )
    write_table(
        folder / "preprocess.csv",
        [
            dict(
                system="llmft",
                rows=3000000,
                text_bytes=5e9,
                processes=2,
                cores=2,
                wall_s=12.0,
                cpu_s=24.0,
                machine="a machine",
            )
        ],
    )
    write_table(
        folder / "tokenizers.csv",
        [
            dict(tokenizer=t, form="document", en_first=v, en_repeated=v, mix_first=v, mix_repeated=v, machine="a core")
            for t, v in (("llmft", 300), ("other", 150))
        ],
    )
    write_table(
        folder / "generation.csv",
        [
            dict(
                system=s,
                device=H100,
                precision="bf16",
                batch=1,
                kind="with the prompts",
                tokens_per_s=v,
                prompt_tokens=256,
            )
            for s, v in (("llmft", 800), ("generate()", 20))
        ],
    )
    write_table(
        folder / "comm.csv",
        [dict(device=H100, ranks=2, collective="all_reduce", of="gradients", bytes=1e8, time_us=400, busbw_gb_s=250)],
    )
    if study.quality:
        write_table(folder / "quality/quality.csv", study.quality)
        write_table(folder / "quality/agreement.csv", study.agreement)
        write_table(folder / "quality/checks.csv", study.quality_checks)
        data = dict(train_samples=800, valid_samples=100, overlap=0, base_overlap=0)
        (folder / "quality/quality.json").write_text(json.dumps({"data": data}))
    for at, runs in ((folder / "runs", study.runs), (folder / "quality/runs", study.quality_runs)):
        for name, run in runs.items():
            write_run(at / name, run)
    return folder


def write_run(at: pathlib.Path, run: dict) -> None:
    row = run["row"]
    tokens = int(row["tokens"] / row["steps"])
    losses = run["losses"]
    write_table(
        at / "steps.csv",
        [
            dict.fromkeys(read.STEP_COLUMNS, "")
            | dict(
                step=i,
                epoch=0.01 * i,
                loss=loss,
                grad_norm=1,
                tokens=tokens,
                step_time_s=run["step_s"],
                skipped=0,
                valid_loss=run["valid"].get(i, ""),
            )
            for i, loss in enumerate(losses, 1)
        ],
    )
    write_table(
        at / "memory.csv",
        [dict(rank=r, part=p, bytes=b) for r, parts in run["memory"].items() for p, b in parts.items()],
    )
    write_table(
        at / "timing.csv",
        [dict(rank=r, phase="exposed_communication", seconds=s, count=10) for r, s in enumerate(run["exposed"])],
    )
    if "profile" in run:
        write_table(at / "profile.csv", run["profile"])
    lines = [f"{k}: {v}" for k, v in run["config"].items() if "." not in k]
    for group in ("adapter", "report", "train"):
        lines += [f"{group}:"] + [
            f"  {k.split('.')[1]}: {v}" for k, v in run["config"].items() if k.startswith(group + ".")
        ]
    (at / "config.yaml").write_text("\n".join(lines) + "\n")
    results = (
        dict(tokens_per_s=row["tokens_per_s"], precision=row["precision"], strategy=row["strategy"], mode=row["mode"])
        | run["results"]
    )
    report = dict(
        format=1,
        command="train",
        started=row["time_utc"],
        finished=True,
        ranks=row["ranks"],
        device=row["device"],
        config_hash=row["config_hash"],
        machine={"cpu": "Some CPU", "cores": 16},
        build={"git": "abcdef0"},
        results=results,
    )
    (at / "run.json").write_text(json.dumps(report))


def run(script: str, *args) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "postprocess" / script), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
