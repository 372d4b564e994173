"""Each method's place in the plot of accuracy over memory, also of methods that lack a number."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.config.cards import GIB
from bench.report.cells import UNKNOWN
from bench.report.language.text import Text
from bench.report.numbers.rows import Row

_BELOW = 10  # points of accuracy under the trained methods; what is lower would press them together
_STEP = 0.07  # of the axis, between methods that have no number at all


@dataclass(frozen=True)
class PlotMark:
    """One method's numbers as a plot has them: GiB and percent; None where unknown."""

    title: str
    memory: float | None
    accuracy: float | None
    low: float | None
    high: float | None
    interval: str
    seconds: float | None
    time: str
    status: str | None  # in words, where no run succeeded
    baseline: bool
    label: str  # at the edge


Span = tuple[float, float]


def place_methods(
    rows: Sequence[Row], text: Text, *, cost: str = "memory"
) -> tuple[list[PlotMark], list[dict[str, Any]], dict[str, Span]]:
    """Return the methods' numbers, the rows that charts.draw_pareto draws, and its two axes.

    A method that lacks a number, or did not train, stands at the edge: on the right without its ``cost``,
    memory or seconds, at the bottom without accuracy or far below the trained methods, and in the lower right
    corner without both.
    """
    points = [_locate(row, text) for row in rows]
    domains = {cost: _span([getattr(point, cost) for point in points]), "accuracy": _span_accuracy(points)}
    (floor, top), right = domains["accuracy"], domains[cost][1]
    placed, edges, lost = list[PlotMark](), list[dict[str, Any]](), 0
    for point in points:
        spent, accuracy = getattr(point, cost), point.accuracy
        if spent is not None and accuracy is not None and accuracy >= floor:
            placed.append(point)
            continue
        x = right if spent is None else spent
        y = floor if accuracy is None else max(accuracy, floor)
        if spent is accuracy is None:
            lost += 1
            y += (top - floor) * _STEP * lost
        side = "left" if x < sum(domains[cost]) / 2 else "right"
        place = {"title": point.title, cost: x, "accuracy": y}
        edges.append({**place, "kind": "edge", "side": side, "label": point.label})
    names = ("title", "memory", "accuracy", "low", "high", "interval", "seconds", "time")
    marks = [{"kind": "point", **{name: getattr(point, name) for name in names}} for point in placed]
    return points, [*_find_front(marks, cost), *marks, *edges], domains


def _locate(row: Row, text: Text) -> PlotMark:
    peak, status = row.peak_memory_bytes, None if row.selection else text(f"statuses.{row.status}")
    if row.is_untrained:
        status = text("figures.untrained")
    accuracy = to_percent(row.accuracy.mean if row.accuracy and not row.is_untrained else None)
    low, high = (
        to_percent(end) for end in ((row.interval.low, row.interval.high) if row.interval else (None,) * 2)
    )
    shown = UNKNOWN if accuracy is None else text("percent", percent=accuracy)
    return PlotMark(
        title=row.title,
        memory=None if peak is None else round(peak / GIB, 4),
        accuracy=accuracy,
        low=low,
        high=high,
        interval=text(f"table.intervals.{row.interval.over}", low=low, high=high)
        if row.interval
        else UNKNOWN,
        seconds=None if row.train_seconds is None else round(row.train_seconds, 4),
        time=UNKNOWN if row.train_seconds is None else text.format_duration(row.train_seconds),
        status=status,
        baseline=row.baseline,
        label=text("figures.at_edge", title=row.title, number=status or shown),
    )


def _span(values: Sequence[float | None]) -> tuple[float, float]:
    """Return an axis with room for marks and for a label at its end."""
    known = [value for value in values if value is not None]
    if not known:
        return 0.0, 1.0
    low, high = min(known), max(known)
    room = max(0.12 * (high - low), 0.03 * high)
    return round(max(0.0, low - room), 4), round(high + 2 * room, 4)


def _span_accuracy(points: Sequence[PlotMark]) -> Span:
    """Return an axis from the lowest end of a trained method's interval on, and of baselines near it."""

    def ends(some: Sequence[PlotMark], name: str) -> list[float]:
        found = [getattr(one, name) if getattr(one, name) is not None else one.accuracy for one in some]
        return [end for end in found if end is not None]

    known = [point for point in points if point.accuracy is not None]
    lows = ends([one for one in known if not one.baseline], "low") or ends(known, "low")
    if not lows:
        return 0.0, 100.0
    near = [one for one in known if one.accuracy is not None and one.accuracy >= min(lows) - _BELOW]
    low, high = min(ends(near, "low")), max(ends(near, "high"))
    room = max(0.08 * (high - low), 0.5)
    return math.floor(max(0.0, low - room)), math.ceil(min(100.0, high + room))


def _find_front(points: Sequence[Mapping[str, Any]], cost: str) -> list[dict[str, Any]]:
    """Find the methods that no other beats in cost and in accuracy, from the least cost on."""
    front: list[dict[str, Any]] = []
    for point in sorted(points, key=lambda point: (point[cost], -point["accuracy"])):
        if not front or point["accuracy"] > front[-1]["accuracy"]:
            place = {name: point[name] for name in ("title", cost, "accuracy")}
            front.append({**place, "kind": "front", "order": len(front)})
    return front


def to_percent(share: float | None) -> float | None:
    return None if share is None else round(100 * share, 4)
