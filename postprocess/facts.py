"""What follows from the measurements: medians at each setting, ratios, scaling. No words, no rounding; None: not measured."""

import dataclasses
import functools

from facts_quality import QualityFacts
from facts_runs import RunFacts
from facts_scaling import ScalingFacts
from measured import Cell, Measured, Row, Stat, same_visit, stat
from reference import Reference

PEERS = ("PEFT", "Liger", "Unsloth")


@dataclasses.dataclass(frozen=True)
class Value:
    value: float
    source: str
    here: bool = True  # measured in the same measurement run as ours; else published, or of another measurement run
    row: Row | None = None
    same_batch: bool = True  # as many tokens a step as ours


@dataclasses.dataclass(frozen=True)
class Original:
    """The published study's setting."""

    batch: int
    sample_tokens: int
    rank: int
    source: str

    @property
    def tokens(self) -> int:
        return self.batch * self.sample_tokens


@dataclasses.dataclass(frozen=True, order=True)
class Setting:
    """What a table of one GPU has in common."""

    mode: str
    adapter_rank: int
    tokens: int  # most a step
    pack_tokens: int
    fixed: bool
    length: int | None  # mean tokens of a sample
    longest: int | None
    device: str
    model: str

    @property
    def batch(self) -> float | None:
        return self.tokens / self.length if self.fixed and self.length else None


def setting_of(row: Cell) -> Setting:
    length = row.mean_length
    length = round(length) if length else None
    longest = int(row["max_length"] or 0) or None
    if row.fixed and longest and length and length > 0.97 * longest:
        length = longest
    return Setting(
        row.text("mode"),
        row.adapter_rank,
        row.tokens_a_rank,
        row.pack_tokens,
        row.fixed,
        length,
        None if row.fixed else longest,
        row.device,
        row.text("model"),
    )


class Facts(ScalingFacts, RunFacts, QualityFacts):
    def __init__(self, measured: Measured, reference: Reference):
        self.m, self.reference = measured, reference
        of = {q: reference.published(q) for q in ("batch", "sample_tokens", "adapter_rank")}
        self.original = Original(*(int(row["value"]) for row in of.values()), of["batch"].source("value"))

    # --- one GPU -----------------------------------------------------------------------------------------------

    @functools.cached_property
    def single(self) -> dict[Setting, dict[str, list[Cell]]]:
        """{setting: {precision: repeats}} of our runs on one rank."""
        found: dict[Setting, dict[str, list[Cell]]] = {}
        for row in self.m.ours:
            if row.ranks == 1 and row["tokens_per_s"] and not self.is_deterministic(row):
                found.setdefault(setting_of(row), {}).setdefault(row.text("precision"), []).append(row)
        for of in found.values():
            for precision, rows in of.items():
                # on one rank DDP has nothing to do; sharding still moves things
                whole = [row for row in rows if row.text("strategy") in ("none", "ddp")]
                rows = whole or rows
                program = max(rows, key=lambda row: row.text("time_utc")).program
                of[precision] = [row for row in rows if row.program == program]
        return found

    def is_original(self, setting: Setting) -> bool:
        o = self.original
        return (setting.mode, setting.adapter_rank, setting.tokens, setting.fixed) == (
            "lora",
            o.rank,
            o.tokens,
            True,
        ) and (setting.length is not None and abs(setting.length - o.sample_tokens) <= 0.03 * o.sample_tokens)

    @functools.cached_property
    def original_setting(self) -> Setting | None:
        """Measured at the original's setting, on its device where we have been on one."""
        found = [s for s in self.single if self.is_original(s)]
        return max(found, key=lambda s: ("H100" in s.device, len(self.single[s])), default=None)

    def ordered_settings(self) -> list[Setting]:
        """Without that of the main table: most precisions first within a device, H100 first, LoRA before full."""
        rest = [s for s in self.single if s != self.original_setting]
        return sorted(
            rest,
            key=lambda s: (
                "H100" not in s.device,
                s.device,
                s.mode == "full",
                not s.fixed,
                -len(self.single[s]),
                s.tokens,
            ),
        )

    def ours(self, setting: Setting | None, precision: str, column: str) -> Stat | None:
        return stat(self.single.get(setting, {}).get(precision, ()), column)

    def peer(self, setting: Setting, system: str, precision: str, column: str = "tokens_per_s") -> Value | None:
        """The fastest form of a peer at a setting: beside ours if it was run there, else of an earlier measurement run."""
        ours = [row for rows in self.single.get(setting, {}).values() for row in rows]

        def alike(row: Cell) -> bool:
            length = row.mean_length
            near = (
                length is None
                or setting.length is None
                or not setting.fixed
                or abs(length - setting.length) <= 0.05 * setting.length
            )
            same = (row.text("mode"), row.adapter_rank, row.device) == (
                setting.mode,
                setting.adapter_rank,
                setting.device,
            )
            return (
                row.system == system
                and row.ranks == 1
                and row.text("precision") == precision
                and same
                and near
                and row.fixed == setting.fixed
            )

        rows = [row for row in self.m.peers if alike(row) and row["tokens_per_s"]]
        alike_in_batch = [row for row in rows if row.tokens_a_rank == setting.tokens]
        rows = alike_in_batch or rows
        if rows:
            best = max(rows, key=lambda row: row["tokens_per_s"])
            if best[column] is None:
                return None
            return Value(best[column], best.source(column), any(same_visit(best, row) for row in ours), best, bool(alike_in_batch))
        return self.earlier_peer(setting, system, precision, column)

    def earlier_peer(
        self, setting: Setting, system: str, precision: str, column: str = "tokens_per_s"
    ) -> Value | None:
        """Of the peers' own benchmark, before this program existed."""
        rows = [
            r
            for r in self.reference.peers
            if (r.text("system"), r.text("precision"), r.text("device"), r.text("mode"))
            == (system, precision, setting.device, setting.mode)
            and (r["adapter_rank"] or 0) == setting.adapter_rank
            and r["gpus"] == 1
            and (r.text("lengths") == "fixed") == setting.fixed
            and (not setting.fixed or (r["sample_tokens"] == setting.length))
        ]
        alike_in_batch = [r for r in rows if (r["batch"] or 0) * (r["sample_tokens"] or 0) == setting.tokens]
        rows = alike_in_batch or rows
        column, factor = ("memory_gb", 1e9) if column == "peak_memory_bytes" else (column, 1)
        rows = [r for r in rows if r[column]]
        if not rows:
            return None
        best = max(rows, key=lambda r: r["tokens_per_s"])
        return Value(best[column] * factor, best.source(column), False, best, bool(alike_in_batch))

    def original_peer(self, system: str, precision: str, column: str = "tokens_per_s") -> Value | None:
        o = self.original
        setting = self.original_setting or Setting(
            "lora", o.rank, o.tokens, o.tokens, True, o.sample_tokens, None, "NVIDIA H100 80GB HBM3", ""
        )
        return self.peer(setting, system, precision, column)

    def original_speed(self) -> dict[str, dict[str, Value | None]]:
        """{precision: {"published", peers, "llmft": samples/s}}"""
        found = {}
        for precision in ("fp32", "tf32", "fp16", "bf16"):
            row = self.reference.published("samples_per_s", precision, "none", 1)
            of: dict[str, Value | None] = {"published": row and Value(row["value"], row.source("value"), False)}
            for system in PEERS:
                value = self.original_peer(system, precision)
                # a peer's samples are all of the setting's length
                of[system] = value and Value(
                    value.value / self.original.sample_tokens, value.source, value.here, value.row
                )
            mine = self.ours(self.original_setting, precision, "samples_per_s")
            of["llmft"] = mine and Value(mine.value, mine.source, True, mine.rows[0])
            found[precision] = of
        return found

    def beside_note(self) -> str:
        values = [v for of in self.original_speed().values() for s, v in of.items() if s in PEERS and v]
        if not values:
            return "Peers: not measured."
        if all(v.here for v in values):
            return "Peers ran beside ours in the same measurement run."
        return (
            "Peers ran in another measurement run than ours."
            if not any(v.here for v in values)
            else "Some peers ran in another measurement run than ours."
        )
