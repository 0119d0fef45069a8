"""A small folder of measurements, whole and consistent; a test spoils what it wants to see noticed."""

import pathlib

from study_files import COLUMNS, H100, write_study

import measured
import reference
from facts import Facts

SPEED = {"fp32": 12000.0, "tf32": 60000.0, "fp16": 120000.0, "bf16": 123000.0}
FIRST = 12.05  # nats, of a random model


class Study:
    """cells, variants: rows by run name; runs: {name: {"losses", "memory": {rank: parts}, "valid": {step: loss}, ...}}"""

    def __init__(self):
        self.cells, self.variants, self.runs, self.quality, self.quality_runs = {}, {}, {}, [], {}
        self.agreement, self.quality_checks = [], []
        for precision in SPEED:
            self.add(precision, rank=64, tokens=10240, length=512)
            for strategy, ranks in (("none", 1), ("ddp", 2), ("fsdp", 2)):
                self.add(precision, strategy, ranks)
        self.add("bf16", mode="full", rank=0)
        self.add("bf16", length=400.5, longest=2048, name="packed", data="real")
        for system, version, speed in (
            ("PEFT", "transformers 5.1, torch 2.1", 50000),
            ("Liger", "liger-kernel 0.8, torch 2.1", 80000),
            ("Unsloth", "unsloth 2026.1", 97000),
        ):
            row = self.add("bf16", rank=64, tokens=10240, length=512, name=f"peer-{system}", keep=False)
            row |= dict(
                command="peer",
                version=version,
                tokens_per_s=speed,
                samples_per_s="",
                data="",
                mfu="",
                joules_per_token="",
                config_hash="",
                loss_first="",
            )
        for strategy, ranks in (("none", 1), ("ddp", 2), ("fsdp", 2)):
            self.add("bf16", strategy, ranks, name=f"tree-{strategy}", packs=2, variant=True, deterministic="true")
        self.profile()
        self.evaluation()

    def add(
        self,
        precision,
        strategy="none",
        ranks=1,
        mode="lora",
        rank=16,
        tokens=8192,
        length=1024,
        longest=None,
        name=None,
        packs=None,
        variant=False,
        keep=True,
        data=None,
        deterministic="false",
    ) -> dict:
        name = name or f"{mode}-{precision}-{strategy}-{ranks}-{tokens}"
        packs = packs or ranks
        speed = (
            SPEED[precision]
            * ranks
            * (0.98 if ranks > 1 else 1)
            * (0.7 if mode == "full" else 1)
            * (0.97 if deterministic == "true" else 1)
        )
        wide = precision in ("fp32", "tf32")
        peak = int((20e9 if wide else 11e9) * (2 if mode == "full" else 1) - (1e9 if strategy == "fsdp" else 0))
        steps, step_tokens = 10, tokens * packs
        data = data or f"letters-{length}"
        row = dict.fromkeys(COLUMNS, "") | dict(
            time_utc=f"2026-03-01T10:{len(self.cells):02d}:00Z",
            run=name,
            host="node",
            device=H100,
            version="0.1.0",
            command="train",
            precision=precision,
            strategy=strategy,
            mode=mode,
            adapter_rank=rank,
            ranks=ranks,
            nodes=1,
            pack_tokens=tokens,
            batch_packs=packs,
            steps=steps,
            samples=steps * step_tokens / length,
            tokens=steps * step_tokens,
            supervised_tokens=0.45 * steps * step_tokens,
            samples_per_s=speed / length,
            tokens_per_s=speed,
            supervised_tokens_per_s=0.45 * speed,
            step_time_median_s=step_tokens / speed,
            epoch_time_s=1e8 / speed,
            training_time_s=100.0,
            peak_memory_bytes=peak,
            mfu=0.5,
            loss_first=FIRST,
            loss_last=6.0,
            valid_loss="",
            config_hash=name,
            model="random-1b",
            data=data,
            vocab_size=128256,
            sample_length_mean=length,
            max_length=longest or length,
            joules_per_token=600 * ranks / speed,
            padded_tokens_per_s=speed * (longest or length) / length,
        )
        (self.variants if variant else self.cells)[name] = row
        if keep:
            shift = {"fp32": 0, "tf32": 1e-4, "fp16": 1e-3, "bf16": 2e-3}[precision]
            losses = [FIRST] + [round(12.0 - 0.7 * k + shift, 6) for k in range(1, steps)]
            parts = {"weights": peak // 4, "activations": peak // 2, "workspace": peak - peak // 4 - peak // 2}
            config = {
                "model": "random-1b",
                "data": data,
                "precision": precision,
                "strategy": strategy,
                "fsdp_mode": "full_shard",
                "deterministic": deterministic,
                "adapter.rank": rank,
                "train.pack_tokens": tokens,
                "train.batch_packs": packs,
                "report.timing_warmup": 3,
                "train.seed": 0,
            }
            self.runs[name] = dict(
                row=row,
                losses=losses,
                step_s=step_tokens / speed,
                valid={},
                config=config,
                memory={r: parts | {"total": peak, "peak": peak} for r in range(ranks)},
                exposed=[0.001 * steps * (r + 1) for r in range(ranks)] if ranks > 1 else [0.0],
                results={},
            )
        return row

    def profile(self) -> None:
        rows = []
        for group, share, roofline in (
            ("gate_up forward", 0.5, 0.8),
            ("attention", 0.3, 0.4),
            ("norm", 0.15, 0.9),
            ("gaps", 0.05, ""),
            ("step", 1, 0.6),
        ):
            rows.append(
                dict(
                    group=group,
                    calls=16,
                    seconds=0.07 * share,
                    share=share,
                    flops=1e12,
                    bytes=1e9,
                    tflops="",
                    tb_s="",
                    roofline=roofline,
                )
            )
        self.runs["lora-bf16-none-1-8192"]["profile"] = rows

    def evaluation(self) -> None:
        names = {"valid_loss": (3.0, 2.0, 0.1), "BLEU": (5.0, 25.0, 2.0), "ROUGE-L": (10.0, 40.0, 2.0)}
        for i, precision in enumerate(SPEED):
            run = f"quality-{precision}"
            for metric, (base, tuned, width) in names.items():
                tuned += 0.001 * i
                self.quality.append(
                    dict(
                        precision=precision,
                        mode="lora",
                        metric=metric,
                        samples=100,
                        base=base,
                        base_low=base - width,
                        base_high=base + width,
                        tuned=tuned,
                        tuned_low=tuned - width,
                        tuned_high=tuned + width,
                        difference=tuned - base,
                        difference_low=tuned - base - width,
                        difference_high=tuned - base + width,
                        seeds="0 1",
                        runs=run,
                        device=H100,
                    )
                )
                if i:
                    self.agreement.append(
                        dict(
                            mode="lora",
                            metric=metric,
                            precision=precision,
                            reference="fp32",
                            difference=0.001 * i,
                            low=0.001 * i - width / 4,
                            high=0.001 * i + width / 4,
                            margin=width,
                        )
                    )
            row = self.add(precision, tokens=512, length=64, name=run, data="sample")
            self.quality_runs[run] = self.runs.pop(run) | dict(
                losses=[3.0 - 0.1 * k + 1e-3 * i for k in range(10)],
                valid={1: 3.0, 5: 2.5 + 1e-3 * i, 10: 2.0 + 1e-3 * i},
                results={"valid_loss_first": 3.0},
            )
            del self.cells[row["run"]]
        self.quality_checks = [
            dict(
                check="validation samples that training saw",
                run="base",
                value=0,
                expected=0,
                tolerance=0,
                verdict="holds",
            )
        ]

    def write(self, folder: pathlib.Path) -> pathlib.Path:
        return write_study(self, folder)

    def facts(self, folder: pathlib.Path) -> Facts:
        return Facts(measured.read_measured(self.write(folder)), reference.Reference())
