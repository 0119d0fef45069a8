"""Several GPUs: efficiency against one, beside peers; memory of each rank, exposed communication, what --deterministic costs."""

import dataclasses
import functools
import re

import measured as m
import run_files
from measured import Cell, Stat, stat
from read import PRECISIONS

SYSTEMS = ("llmft", "PEFT", "Liger", "Unsloth")
STRATEGIES = ("none", "ddp", "fsdp", "hsdp")


@dataclasses.dataclass(frozen=True)
class Scaled:
    """A strategy on several ranks, and the same on one."""

    system: str
    mode: str
    precision: str
    strategy: str
    sharding: str  # "full_shard", "shard_grad_op", or ""
    ranks: int
    tokens: int  # a rank and step
    device: str
    rows: list[Cell]
    one: Stat | None  # tokens/s
    many: Stat

    @property
    def efficiency(self) -> float | None:
        return self.many.value / (self.ranks * self.one.value) if self.one else None


class ScalingFacts:
    m: m.Measured

    def sharding(self, row: Cell) -> str:
        if row.text("strategy") not in ("fsdp", "hsdp") or row.system != "llmft":
            return ""
        return self.m.option(row, "fsdp_mode") or "full_shard"

    def is_deterministic(self, row: Cell) -> bool:
        return self.m.option(row, "deterministic") == "true"

    def is_tuned(self, row: Cell) -> bool:
        """The same options as a row of the study, so something outside of them was changed (an environment variable): its
        run's name says what."""
        return any(row.text("config_hash") == other.text("config_hash") for other in self.m.cells if other is not row)

    def plain_cells(self) -> list[Cell]:
        """Of both tables, what ran without --deterministic and tuning."""
        extra = [
            row
            for row in self.m.variants
            if self.m.run_of(row) and not self.is_deterministic(row) and not self.is_tuned(row)
        ]
        return [row for row in [*self.m.cells, *extra] if row["tokens_per_s"] and not self.is_deterministic(row)]

    @functools.cached_property
    def scaled(self) -> list[Scaled]:
        groups: dict[tuple, list[Cell]] = {}
        for row in self.plain_cells():
            length = round(row.mean_length, -1) if row.mean_length else None
            key = (
                row.device,
                row.system,
                row.text("mode"),
                row.adapter_rank,
                row.text("precision"),
                row.tokens_a_rank,
                length,
            )
            groups.setdefault((*key, row.text("strategy"), self.sharding(row), row.ranks), []).append(row)
        found = []
        for (*key, strategy, sharding, ranks), rows in groups.items():
            if ranks == 1:
                continue
            device, system, mode, _, precision, tokens, _ = key
            alone = groups.get((*key, "none", "", 1)) or groups.get((*key, strategy, sharding, 1), [])
            found.append(
                Scaled(
                    system,
                    mode,
                    precision,
                    strategy,
                    sharding,
                    ranks,
                    tokens,
                    device,
                    rows,
                    stat(alone, "tokens_per_s"),
                    stat(rows, "tokens_per_s"),
                )
            )
        order = lambda s: (
            s.device,
            s.mode == "full",
            SYSTEMS.index(s.system),
            PRECISIONS.index(s.precision),
            s.tokens,  # noqa: E731
            STRATEGIES.index(s.strategy),
            s.sharding,
            s.ranks,
        )
        return sorted(found, key=order)

    def scaled_at(self, device: str, **wanted) -> list[Scaled]:
        return [s for s in self.scaled if s.device == device and all(getattr(s, k) == v for k, v in wanted.items())]

    def scaling_device(self) -> str | None:
        """Of our runs on several ranks, the device with the most."""
        devices = [s.device for s in self.scaled if s.system == "llmft"]
        return max(sorted(set(devices)), key=devices.count, default=None)

    def peak_memory(self, row: Cell) -> tuple[float, float, str] | None:
        """(least, most, source) bytes over the ranks of a run; of a peer rank 0's."""
        run = self.m.run_of(row)
        peaks = [parts["peak"]["bytes"] for parts in run_files.memory(run).values() if "peak" in parts] if run else []
        peaks = [peak for peak in peaks if peak]
        if peaks:
            return min(peaks), max(peaks), f"runs/{run.name}/memory.csv, peak"
        value = row["peak_memory_bytes"]
        return (value, value, row.source("peak_memory_bytes")) if value else None

    def exposed(self, row: Cell) -> tuple[float, float, str] | None:
        """(least, most) seconds a step for which a rank's device stood waiting for collectives."""
        run = self.m.run_of(row)
        count = row["steps"]
        if not run or not count:
            return None
        rows = [phases.get("exposed_communication") for phases in run_files.timing(run).values()]
        values = [float(r.fields["seconds"]) / count for r in rows if r]
        return (
            (min(values), max(values), f"runs/{run.name}/timing.csv, exposed_communication over steps")
            if values
            else None
        )

    def deterministic(self) -> list[tuple[Cell, Cell | None]]:
        """(run with --deterministic, the same without)."""
        pairs = []
        for row in self.m.variants + self.m.cells:
            if not self.is_deterministic(row) or not row["tokens_per_s"] or not self.m.run_of(row):
                continue
            alike = [
                other
                for other in self.plain_cells()
                if other.system == "llmft"
                and other.device == row.device
                and other["batch_packs"] == row["batch_packs"]
                and all(
                    other.text(c) == row.text(c)
                    for c in ("precision", "strategy", "mode", "adapter_rank", "ranks", "pack_tokens")
                )
                and self.sharding(other) == self.sharding(row)
            ]
            pairs.append((row, alike[0] if alike else None))
        key = lambda pair: (pair[0].text("mode") == "full", pair[0].ranks, STRATEGIES.index(pair[0].text("strategy")))  # noqa: E731
        return sorted(pairs, key=key)

    def same_bits(self) -> list[list[str]]:
        """Groups of --deterministic runs of the same batches, by name."""
        groups: dict[tuple, list[str]] = {}
        for row in self.m.variants + self.m.cells:
            run = self.m.run_of(row)
            if not run or not self.is_deterministic(row):
                continue
            keys = (
                "device",
                "precision",
                "mode",
                "adapter_rank",
                "pack_tokens",
                "batch_packs",
                "data",
                "model",
                "steps",
            )
            groups.setdefault(tuple(row.text(k) for k in keys), []).append(run.name)
        return [names for names in groups.values() if len(names) > 1]

    def tuned(self) -> list[tuple[Cell, Cell]]:
        """(run with something else in its environment, the study's)."""
        pairs = []
        for row in self.m.variants:
            other = next((o for o in self.m.ours if o.text("config_hash") == row.text("config_hash")), None)
            if other and row["tokens_per_s"] and not self.is_deterministic(row):
                pairs.append((row, other))
        return pairs


def tuning_words(name: str) -> str:
    """LLMFT_OVERLAP_CTAS=8 of lora-bf16-fsdp-llmft_overlap_ctas-8-2."""
    found = re.search(r"((?:llmft|nccl)_[a-z_]+)-([^-]+)", name)
    return f"{found[1].upper()}={found[2]}" if found else name
