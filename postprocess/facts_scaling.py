"""Several GPUs: efficiency against one, beside peers; memory of each rank, exposed communication, what --deterministic costs."""

import dataclasses
import functools
import re

import measured as m
import run_files
from measured import Cell, Stat, same_visit, seconds_apart, stat
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
    adapter_rank: int
    length: float | None  # mean tokens of a sample, to the ten
    device: str
    program: str
    newest: bool  # there is none of a newer program
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
        """Of every program that was measured; efficiencies are over the same program's run on one rank."""
        groups: dict[tuple, list[Cell]] = {}
        for row in self.plain_cells():
            length = round(row.mean_length, -1) if row.mean_length else None
            mode, precision = row.text("mode"), row.text("precision")
            key = (row.device, row.system, mode, row.adapter_rank, precision, row.tokens_a_rank, length)
            groups.setdefault((*key, row.text("strategy"), self.sharding(row), row.ranks, row.program), []).append(row)
        latest = lambda rows: max(row.text("time_utc") for row in rows)  # noqa: E731
        newest: dict[tuple, str] = {}
        for (*cell, _), rows in groups.items():
            newest[tuple(cell)] = max(newest.get(tuple(cell), ""), latest(rows))
        found = []
        for (*key, strategy, sharding, ranks, program), rows in groups.items():
            if ranks == 1:
                continue
            device, system, mode, adapter_rank, precision, tokens, length = key
            alone = groups.get((*key, "none", "", 1, program), []) + groups.get((*key, "ddp", "", 1, program), [])
            alone = alone or groups.get((*key, strategy, sharding, 1, program), [])
            last = newest[*key, strategy, sharding, ranks] == latest(rows)
            one, many = stat(alone, "tokens_per_s"), stat(rows, "tokens_per_s")
            size = (ranks, tokens, adapter_rank, length)
            found.append(
                Scaled(system, mode, precision, strategy, sharding, *size, device, program, last, rows, one, many)
            )

        def order(s: Scaled) -> tuple:
            names = (
                SYSTEMS.index(s.system),
                s.tokens,
                s.length or 0,
                PRECISIONS.index(s.precision),
                STRATEGIES.index(s.strategy),
            )
            return s.device, s.mode == "full", *names, s.sharding, s.ranks, not s.newest, s.program

        return sorted(found, key=order)

    def scaled_at(self, device: str, newest: bool = True, **wanted) -> list[Scaled]:
        """Of the newest program of each cell, or of all."""
        alike = [s for s in self.scaled if s.device == device and all(getattr(s, k) == v for k, v in wanted.items())]
        return [s for s in alike if s.newest or not newest]

    def main_scaling(self, device: str, **wanted) -> list[Scaled]:
        """Ours at the one batch a rank and length of samples that was measured with the most strategies and precisions: what
        sentences speak of. The tables have all."""
        ours = self.scaled_at(device, system="llmft")
        sizes = [(s.tokens, s.length) for s in ours]
        of_size = lambda size: {(s.mode, s.precision, s.strategy) for s in ours if (s.tokens, s.length) == size}  # noqa: E731
        best = max(dict.fromkeys(sizes), key=lambda size: (len(of_size(size)), size[0]), default=None)
        chosen = [s for s in ours if (s.tokens, s.length) == best and s.sharding in ("", "full_shard")]
        return [s for s in chosen if all(getattr(s, k) == v for k, v in wanted.items())]

    def ddp_fsdp_pairs(self, device: str) -> list[tuple[Scaled, Scaled]]:
        """DDP and full_shard FSDP of one program, the newest that has both; no strategy is judged across programs."""
        found: dict[tuple, tuple[Scaled, Scaled]] = {}
        ours = [
            s for s in self.scaled if s.device == device and s.system == "llmft" and s.sharding in ("", "full_shard")
        ]
        for ddp in (s for s in ours if s.strategy == "ddp"):
            for fsdp in (s for s in ours if s.strategy == "fsdp"):
                same = ("mode", "precision", "ranks", "tokens", "adapter_rank", "length", "program")
                if any(getattr(ddp, k) != getattr(fsdp, k) for k in same):
                    continue
                key = (ddp.mode, ddp.precision, ddp.ranks, ddp.tokens, ddp.adapter_rank, ddp.length)
                last = lambda pair: max(row.text("time_utc") for row in pair[0].rows)  # noqa: E731
                if key not in found or last((ddp, fsdp)) > last(found[key]):
                    found[key] = ddp, fsdp
        return list(found.values())

    def beside(self, device: str, mode: str, strategy: str, system: str) -> tuple[Scaled, Scaled, bool] | None:
        """(ours, a peer's, whether in one measurement run): bf16, the most ranks that both have; ours is the newest of the peer's measurement run."""
        bf16 = [s for s in self.scaled_at(device, newest=False, mode=mode, precision="bf16", strategy=strategy)]
        ours = [s for s in bf16 if s.system == "llmft" and s.sharding in ("", "full_shard")]
        pairs = [
            (a, b, same_visit(a.rows[0], b.rows[0]))
            for a in ours
            for b in bf16
            if b.system == system and a.ranks == b.ranks
        ]
        if mode == "lora":
            pairs = [pair for pair in pairs if pair[0].adapter_rank == pair[1].adapter_rank]
        near = lambda pair: -abs(pair[0].tokens - pair[1].tokens)  # noqa: E731
        return max(pairs, key=lambda p: (p[2], p[0].ranks, near(p), p[0].rows[0].text("time_utc")), default=None)

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
                and other.program == row.program
                and all(
                    other.text(c) == row.text(c)
                    for c in ("precision", "strategy", "mode", "adapter_rank", "ranks", "pack_tokens", "model", "data")
                )
                and self.sharding(other) == self.sharding(row)
            ]
            apart = lambda other, row=row: seconds_apart(row, other)  # noqa: E731
            pairs.append((row, min(alike, key=apart, default=None)))
        key = lambda pair: (
            pair[0].device,
            pair[0].text("mode") == "full",
            pair[0].ranks,
            STRATEGIES.index(pair[0].text("strategy")),
        )  # noqa: E731
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
            alike = [o for o in self.m.ours if o.text("config_hash") == row.text("config_hash")]
            other = next((o for o in alike if o.program == row.program), None)
            if other and row["tokens_per_s"] and not self.is_deterministic(row):
                pairs.append((row, other))
        return pairs


def tuning_words(name: str) -> str:
    """LLMFT_OVERLAP_CTAS=8 of lora-bf16-fsdp-llmft_overlap_ctas-8-2."""
    found = re.search(r"((?:llmft|nccl)_[a-z_]+)-([^-]+)", name)
    return f"{found[1].upper()}={found[2]}" if found else name
