"""Base against fine-tuned and precision against precision, from the tables of tools/quality.py."""

import dataclasses

import measured as m
from measured import Row, Stat
from style import short_device

METRICS = {"valid_loss": "validation loss", "bleu": "BLEU", "rouge-l": "ROUGE-L", "rouge_l": "ROUGE-L"}
LOWER_IS_BETTER = ("validation loss", "perplexity")
MAIN = ("validation loss", "perplexity", "BLEU", "ROUGE-L")


def metric_of(row: Row) -> str:
    return METRICS.get(row.text("metric").lower(), row.text("metric"))


@dataclasses.dataclass(frozen=True)
class QualityRow:
    precision: str
    mode: str
    metric: str
    base: Stat  # low and high: its interval, or its value twice
    tuned: Stat
    difference: Stat
    low: Stat | None  # of the difference
    high: Stat | None
    row: Row

    @property
    def better(self) -> bool | None:
        """Beyond the interval of the difference; None: within it, or the interval was not measured."""
        if self.low is None or self.high is None:
            return None
        sign = -1 if self.metric in LOWER_IS_BETTER else 1
        low, high = sorted((sign * self.low.value, sign * self.high.value))
        return True if low > 0 else False if high < 0 else None


@dataclasses.dataclass(frozen=True)
class Agreement:
    """A precision less another, in one mode and metric. They agree where the paired difference, with its whole interval, is
    smaller than the margin, half the interval of the reference's score."""

    mode: str
    metric: str
    precision: str
    reference: str
    difference: Stat
    low: float
    high: float
    margin: Stat
    row: Row

    @property
    def holds(self) -> bool:
        return -self.margin.value < self.low and self.high < self.margin.value


def plain_value(row: Row, *columns: str) -> Stat | None:
    """Of the first of the columns that is there; zero is a value."""
    for column in columns:
        value = m.read._number(row.where, column, row.fields.get(column) or "")
        if value is not None:
            return Stat(value, value, value, 1, row.source(column), ())
    return None


def _with_interval(row: Row, value: Stat, name: str) -> Stat:
    low, high = plain_value(row, f"{name}_low"), plain_value(row, f"{name}_high")
    return dataclasses.replace(value, low=low.value, high=high.value) if low and high else value


class QualityFacts:
    m: m.Measured

    def quality_rows(self) -> list[QualityRow]:
        found = []
        for row in self.m.quality:
            base, tuned = plain_value(row, "base"), plain_value(row, "tuned")
            if base is None or tuned is None:
                continue
            change = tuned.value - base.value
            difference = plain_value(row, "difference") or Stat(change, change, change, 1, tuned.source, ())
            base, tuned = _with_interval(row, base, "base"), _with_interval(row, tuned, "tuned")
            low, high = plain_value(row, "difference_low"), plain_value(row, "difference_high")
            precision, mode = row.text("precision"), row.text("mode")
            found.append(QualityRow(precision, mode, metric_of(row), base, tuned, difference, low, high, row))
        return found

    def agreements(self) -> list[Agreement]:
        found = []
        for row in self.m.agreement:
            values = [plain_value(row, c) for c in ("difference", "low", "high", "margin")]
            if None in values:
                continue
            difference, low, high, margin = values
            names = (row.text("mode"), metric_of(row), row.text("precision"), row.text("reference"))
            found.append(Agreement(*names, difference, low.value, high.value, margin, row))
        return found

    def quality_words(self) -> str:
        row = self.m.quality[0]
        parts = [short_device(row.text("device"))] if row.text("device") else []
        samples = sorted({int(r["samples"]) for r in self.m.quality if r["samples"]})
        parts += [f"{n:,} validation samples" for n in samples[-1:]]
        seeds = max((len(r.text("seeds").split()) for r in self.m.quality), default=0)
        parts += [f"means over up to {seeds} seeds"] if seeds > 1 else []
        return " · ".join(parts)

    def quality_data(self, key: str, part: str = "data"):
        """(value, source) out of quality.json's account of the data, or of its settings."""
        value = self.m.quality_json.get(part, {}).get(key)
        return (value, f"quality/quality.json, {part}.{key}") if isinstance(value, (int, float)) else (None, "")
