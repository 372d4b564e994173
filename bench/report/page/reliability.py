"""Reliability diagrams: how often answers are right, by how sure they are."""

from collections.abc import Iterator, Sequence
from typing import Any

from bench.report.blocks import Figure
from bench.report.language.text import Text
from bench.report.numbers.rows import Row
from bench.report.page import charts
from bench.report.page.charts import Key
from bench.report.page.pareto import to_percent


def draw_reliability(rows: Sequence[Row], key: Key, text: Text, make: Any) -> Iterator[Figure]:
    """Draw a diagram of the probabilities as predicted, and of those with each run's temperature."""
    axes, known = text.under("figures.axes"), [row for row in rows if row.calibration]
    for kind in ("reliability", "tempered"):
        points: list[dict[str, Any]] = [
            {
                "title": row.title,
                "kind": "point",
                "confidence": to_percent(one.confidence),
                "accuracy": to_percent(one.accuracy),
                "answers": one.answers,
            }
            for row in known
            if row.calibration
            for one in (row.calibration.bins if kind == "reliability" else row.calibration.tempered_bins)
        ]
        if not points or (kind == "tempered" and not any(_has_temperature(row) for row in known)):
            continue
        diagonal = [{"kind": "diagonal", "confidence": end, "accuracy": end} for end in (0, 100)]
        names = ("method", "confidence", "accuracy", "answers")
        lines = [
            [
                point["title"],
                f"{point['confidence']:.1f}",
                f"{point['accuracy']:.1f}",
                str(point["answers"]),
            ]
            for point in points
        ]
        spec = charts.draw_reliability([*diagonal, *points], key=key, text=text)
        yield make(kind, spec=spec, header=[axes[name] for name in names], rows=lines)


def _has_temperature(row: Row) -> bool:
    return row.calibration is not None and set(row.calibration.temperatures) != {None}
