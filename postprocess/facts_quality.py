"""Base against fine-tuned, from quality/quality.csv."""

import dataclasses

import measured as m

METRICS = {
    "valid_loss": "validation loss",
    "validation_loss": "validation loss",
    "loss": "validation loss",
    "bleu": "BLEU",
    "rouge_l": "ROUGE-L",
    "rouge-l": "ROUGE-L",
    "rouge_1": "ROUGE-1",
    "rouge-1": "ROUGE-1",
    "rouge_2": "ROUGE-2",
    "rouge-2": "ROUGE-2",
    "perplexity": "perplexity",
    "validation loss": "validation loss",
}
LOWER_IS_BETTER = ("validation loss", "perplexity")


@dataclasses.dataclass(frozen=True)
class QualityRow:
    precision: str
    mode: str
    metric: str
    base: m.Stat
    tuned: m.Stat
    difference: m.Stat
    low: m.Stat | None  # of the difference
    high: m.Stat | None
    row: m.Row

    @property
    def better(self) -> bool | None:
        """Beyond the interval of the difference; None: within it, or the interval was not measured."""
        if self.low is None or self.high is None:
            return None
        sign = -1 if self.metric in LOWER_IS_BETTER else 1
        low, high = sorted((sign * self.low.value, sign * self.high.value))
        return True if low > 0 else False if high < 0 else None


def _value(row: m.Row, *columns: str) -> m.Stat | None:
    for column in columns:
        if row.fields.get(column) not in (None, ""):
            value = m.read._number(row.where, column, row.fields[column])
            if value is not None:
                return m.Stat(value, value, value, 1, row.source(column), ())
    return None


class QualityFacts:
    m: m.Measured

    def quality_rows(self) -> list[QualityRow]:
        found = []
        for row in self.m.quality:
            metric = METRICS.get(row.text("metric").lower(), row.text("metric"))
            base, tuned = _value(row, "base"), _value(row, "fine_tuned", "fine-tuned", "tuned", "adapter")
            if base is None or tuned is None:
                continue
            difference = _value(row, "difference") or m.Stat(tuned.value - base.value, 0, 0, 1, tuned.source, ())
            found.append(
                QualityRow(
                    row.text("precision"),
                    row.text("mode"),
                    metric,
                    base,
                    tuned,
                    difference,
                    _value(row, "low"),
                    _value(row, "high"),
                    row,
                )
            )
        return found

    def quality_words(self) -> str:
        row = self.m.quality[0]
        parts = [row.text(c) for c in ("model", "data", "device") if row.text(c)]
        samples = sorted({int(r["samples"]) for r in self.m.quality if r["samples"]})
        parts += [f"{n:,} samples" for n in samples[-1:]]
        return " · ".join(parts)
