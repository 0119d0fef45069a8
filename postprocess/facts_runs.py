"""What follows from run directories: which to show, losses by precision, time to a loss, what lies in memory."""

import dataclasses
import statistics

import measured as m
import run_files
from read import PRECISIONS, Run
from style import is_gpu

_ALIKE = (
    "data",
    "model",
    "train.pack_tokens",
    "train.batch_packs",
    "train.seed",
    "train.lr",
    "train.schedule",
    "train.warmup_steps",
    "train.warmup_ratio",
    "adapter.rank",
    "adapter.alpha",
    "adapter.targets",
    "deterministic",
    "report.profile",
)
STRATEGY = {"none": "one GPU", "ddp": "DDP", "fsdp": "FSDP", "hsdp": "HSDP"}


@dataclasses.dataclass(frozen=True)
class TimeToLoss:
    loss: m.Stat
    seconds: dict[str, m.Stat]
    curves: dict[str, tuple[list[float], list[float]]]
    run: Run
    device: str


def seconds_of(run: Run) -> tuple[list[float], list[float]] | None:
    """(training time, validation loss) at each validation of a run whose steps were all timed."""
    at, losses, now = [], [], 0.0
    for row in run_files.steps(run):
        if row["step_time_s"] is None:
            return None
        now += row["step_time_s"]
        if row["valid_loss"] is not None:
            at.append(now)
            losses.append(row["valid_loss"])
    return (at, losses) if len(at) > 1 else None


@dataclasses.dataclass(frozen=True)
class Parity:
    """Two runs on the same batches. At first only their rounding differs; it grows, as any small difference does in training,
    until single batches tell little: then means over many steps are compared."""

    step: int  # of the first steps, the one that is furthest apart
    a: float
    b: float
    late: tuple[float, float] | None  # means over the last fifth of long runs

    @property
    def early_gap(self) -> float:
        return abs(self.b - self.a) / abs(self.a)

    @property
    def late_gap(self) -> float | None:
        return abs(self.late[1] - self.late[0]) / abs(self.late[0]) if self.late else None


FIRST_STEPS, LONG_RUN = 20, 50


def parity(a: Run, b: Run) -> Parity | None:
    of = [{s: l for s, l in zip(run.steps.step, run.steps.loss) if l is not None} for run in (a, b)]
    common = sorted(of[0].keys() & of[1].keys())
    first = [step for step in common if step <= FIRST_STEPS and of[0][step]]
    if not first:
        return None
    worst = max(first, key=lambda step: abs(of[1][step] / of[0][step] - 1))
    last = common[-max(1, len(common) // 5) :]
    late = tuple(statistics.fmean(losses[step] for step in last) for losses in of) if len(common) >= LONG_RUN else None
    return Parity(worst, of[0][worst], of[1][worst], late)


class RunFacts:
    m: m.Measured

    def alike(self, runs: list[Run]) -> list[dict[str, Run]]:
        """Groups {precision: run} of runs that differ in precision alone; the newest of a precision."""
        groups: dict[tuple, dict[str, Run]] = {}
        for run in runs:
            if not run.steps or len(run.steps.step) < 2 or run.precision not in PRECISIONS:
                continue
            length = None if run.config.get("train.schedule") == "constant" else run.config.get("train.steps")
            setting = tuple(run.config.get(k) for k in _ALIKE)
            key = (run.report.get("device"), run.strategy, run.report.get("ranks"), run.mode, length, *setting)
            groups.setdefault(key, {})[run.precision] = run
        return [{p: of[p] for p in PRECISIONS if p in of} for of in groups.values()]

    def all_runs(self) -> list[Run]:
        return [*self.m.runs.values(), *self.m.quality_runs.values()]

    def loss_runs(self) -> dict[str, Run]:
        """The group with the most precisions; of those one with validation, then the longest."""
        groups = self.alike(self.all_runs())

        def worth(of: dict[str, Run]) -> tuple:
            validated = all(any(v is not None for v in run.steps.valid_loss) for run in of.values())
            return len(of), validated, min(len(run.steps.step) for run in of.values())

        return max(groups, key=worth, default={})

    def time_to_loss(self) -> TimeToLoss | None:
        best = None
        for of in self.alike(self.all_runs()):
            curves = {p: seconds_of(run) for p, run in of.items()}
            curves = {p: curve for p, curve in curves.items() if curve}
            gpu = is_gpu(str(next(iter(of.values())).report.get("device", "")))
            if len(curves) > 1 and (best is None or (gpu, len(curves)) > (best[2], len(best[1]))):
                best = of, curves, gpu
        if best is None:
            return None
        of, curves, _ = best
        worst = max(curves, key=lambda p: min(curves[p][1]))
        value = min(curves[worst][1])
        loss = m.Stat(value, value, value, 1, f"runs/{of[worst].name}/steps.csv, valid_loss", ())
        seconds = {}
        for p, (at, losses) in curves.items():
            first = next(t for t, l in zip(at, losses) if l <= value)
            seconds[p] = m.Stat(first, first, first, 1, f"runs/{of[p].name}/steps.csv, sum of step_time_s", ())
        run = next(iter(of.values()))
        return TimeToLoss(loss, seconds, curves, run, str(run.report.get("device", "")))

    def profiled(self) -> Run | None:
        """The newest profile, bf16 LoRA on one GPU before others."""
        runs = [run for run in self.m.runs.values() if (run.path / "profile.csv").is_file()]
        plain = lambda run: (run.precision == "bf16", run.mode == "lora", run.report.get("ranks") == 1)  # noqa: E731
        return max(runs, key=lambda run: (*plain(run), str(run.report.get("started"))), default=None)

    def memory_runs(self) -> list[tuple[str, Run]]:
        """(label, run): the device and batch with the most kinds, one run of each mode, precision, strategy, mode of FSDP."""
        groups: dict[tuple, dict[tuple, Run]] = {}
        for run in self.m.runs.values():
            if run.config.get("deterministic") == "true" or not run_files.measured_memory(run):
                continue
            key = (run.report.get("device"), run.config.get("train.pack_tokens"))
            sharding = run.config.get("fsdp_mode", "") if run.strategy in ("fsdp", "hsdp") else ""
            kind = (run.mode, run.precision, run.strategy, sharding, run.report.get("ranks"))
            groups.setdefault(key, {}).setdefault(kind, run)
        if not groups:
            return []
        of = groups[max(groups, key=lambda key: (len(groups[key]), str(key)))]
        order = {"none": 0, "ddp": 1, "hsdp": 2, "fsdp": 3}
        kinds = sorted(
            of,
            key=lambda k: (
                k[0] == "full",
                PRECISIONS.index(k[1]) if k[1] in PRECISIONS else 9,
                order.get(k[2], 9),
                k[3],
            ),
        )
        named = []
        for mode, precision, strategy, sharding, ranks in kinds:
            if strategy == "none" and (mode, precision, "ddp") in {k[:3] for k in kinds}:
                continue  # one GPU holds what a rank of DDP holds
            words = f"{'LoRA' if mode == 'lora' else 'full'} {precision}, {STRATEGY.get(strategy, strategy)}"
            words += f" {sharding}" if sharding == "shard_grad_op" else ""
            words += f" × {ranks}" if ranks != 1 else ""
            named.append((words, of[mode, precision, strategy, sharding, ranks]))
        return named

    def run_words(self, run: Run, strategy: bool = True, precision: bool = True) -> str:
        """A run's setting, for a figure's subtitle."""
        config = run.config
        parts = [run.precision] if precision else []
        ranks = run.report.get("ranks") or 1
        if strategy and run.strategy not in ("", "none"):
            parts.append(f"{STRATEGY[run.strategy]} on {ranks}")
        if run.mode == "full":
            parts.append("full fine-tuning")
        elif run.mode == "lora" and strategy:
            parts.append(f"LoRA r = {config.get('adapter.rank', '?')}")
        packs, tokens = config.get("train.batch_packs"), config.get("train.pack_tokens")
        if tokens and tokens.isdigit():
            one = packs == str(ranks)
            parts.append(
                f"{int(tokens):,} tokens a {'rank and step' if ranks != 1 or not strategy else 'step'}"
                if one
                else f"{packs} packs of {int(tokens):,} tokens a step"
            )
        model = config.get("model", "").rstrip("/").rpartition("/")[2]
        parts += [model] if model not in ("", "model") else []
        return " · ".join(parts)
