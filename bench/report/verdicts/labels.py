"""The advice of `bench recommend --labels`: what about so many bring, and whether to label more."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bench.report.across.curve import TIMES, fit_law, learns
from bench.report.across.groups import group_sizes
from bench.report.across.law import FEWEST, Gain, Law
from bench.report.language.text import Text
from bench.report.naming import join_titles
from bench.report.numbers.rows import Row, build_rows
from bench.report.verdicts.recommend import Recommendation
from bench.results.selection import method_key
from bench.results.store import Result

REACH = math.sqrt(
    2
)  # the fewest and the most labels that were measured stand for so many times fewer and more


@dataclass(frozen=True)
class LabelBudget:
    """How many texts a user has labelled to train on, and what another label costs."""

    labels: int
    cost: float | None  # of one, in any currency


def keep_nearest(results: Sequence[Result], labels: int) -> list[Result]:
    """Return the runs at the size nearest to so many labels, of each learning curve; runs of no curve go."""
    kept = set()
    for curve in group_sizes(build_rows(results)):
        size = _find_nearest(curve, labels)
        kept |= {row.task.fingerprint for row in curve if row.task.origin.train_rows == size}
    return [result for result in results if method_key(result).data_fingerprint in kept]


def say_size(budget: LabelBudget, curve: Sequence[Row], text: Text) -> str:
    """Say with how many train texts the advice was measured.

    Args:
        curve: the rows of one learning curve, of group_sizes.
    """
    labels, sizes, size = budget.labels, _list_sizes(curve), _find_nearest(curve, budget.labels)
    if _is_below(labels, sizes):
        count = len(sizes) + math.ceil(math.log2(sizes[0] / labels))
        return text("labels.size.fewer", labels=labels, size=size, count=count)
    if _is_beyond(labels, sizes):
        return text("labels.size.more", labels=labels, size=size)
    return text("labels.size.nearest", labels=labels, size=size)


def say_more(
    budget: LabelBudget, curve: Sequence[Row], advice: Recommendation, *, delta: float, text: Text
) -> Iterator[str]:
    """Say what the labels would bring where they were not measured, and what more of them would, a line each.

    Args:
        curve: the rows within the limits of one learning curve, of group_sizes.
        delta: the difference in accuracy within which two methods count as equal, a share.
    """
    chosen, labels, sizes = advice.chosen, budget.labels, _list_sizes(curve)
    if chosen is None or chosen.has_random_weights or _is_below(labels, sizes):
        return
    laws = {row.title: law for row in advice.fitting if (law := fit_law(_follow(curve, row))) is not None}
    if _is_beyond(labels, sizes):
        yield from _compare_forecasts(labels, advice.fitting, laws, text)
    told = [row for row in (chosen, advice.baseline) if row is not None]
    for row in told:
        if not learns(row):
            yield text("labels.unchanged", title=row.title)
        elif row.title not in laws:
            yield text("labels.unknown", title=row.title, fewest=FEWEST)
        else:
            yield from _say_gains(budget, row, laws[row.title], delta, text)
    if any(row.title in laws for row in told):
        yield text("labels.caution")


def _list_sizes(curve: Sequence[Row]) -> list[int]:
    """Return the numbers of train texts, ascending, whether a method succeeded with them or not."""
    return sorted({row.task.origin.train_rows or 0 for row in curve})


def _find_nearest(curve: Sequence[Row], labels: int) -> int:
    """Return the size nearest to so many labels in ratio; of two the smaller."""
    return min(_list_sizes(curve), key=lambda size: (abs(math.log(size / labels)), size))


def _is_below(labels: int, sizes: Sequence[int]) -> bool:
    return labels * REACH < sizes[0]


def _is_beyond(labels: int, sizes: Sequence[int]) -> bool:
    return labels > REACH * sizes[-1]


def _is_reached(labels: int, law: Law) -> bool:
    return labels <= TIMES[-1] * law.largest


def _follow(curve: Sequence[Row], row: Row) -> dict[int, Row]:
    """Return the rows of this row's method and base model, by size."""
    return {
        one.task.origin.train_rows or 0: one
        for one in curve
        if one.method == row.method and (one.task.revision == row.task.revision or not row.has_model)
    }


def _compare_forecasts(
    labels: int, rows: Sequence[Row], laws: Mapping[str, Law], text: Text
) -> Iterator[str]:
    """Forecast each method, and call the best ahead only if its interval lies above all others."""
    able = [row for row in rows if row.title in laws and _is_reached(labels, laws[row.title])]
    found = {row.title: laws[row.title].forecast(labels) for row in able}
    if not able:
        return
    best, *others = sorted(able, key=lambda row: -found[row.title].estimate)
    said = []
    for row in (best, *others):
        one = found[row.title]
        cell = {"here": 100 * one.estimate, "low": 100 * one.low, "high": 100 * one.high}
        said.append(text("labels.forecast.method", title=row.title, **cell))
    yield text("labels.forecast.all", labels=labels, methods=text("join.semicolon").join(said))
    if near := [row for row in others if found[row.title].high >= found[best.title].low]:
        yield text("labels.forecast.open", titles=join_titles([best, *near], text))
    elif others:
        yield text("labels.forecast.ahead", title=best.title, titles=join_titles(others, text))


def _say_gains(budget: LabelBudget, row: Row, law: Law, delta: float, text: Text) -> Iterator[str]:
    """Say what twice and ten times the labels would bring the method, and what a further point costs."""
    for times in TIMES:
        labels = times * budget.labels
        if not _is_reached(labels, law):
            names = {"title": row.title, "labels": labels, "times": TIMES[-1], "most": law.largest}
            yield text("labels.too_far", **names)
            return
        found, gain = law.forecast(labels), law.find_gain(budget.labels, labels)
        cell = {"here": 100 * found.estimate, "low": 100 * found.low, "high": 100 * found.high}
        gains = {"points": gain.estimate, "least": gain.low, "most": gain.high}
        points = {name: round(100 * one, 1) + 0.0 for name, one in gains.items()}  # never -0.0
        kind = "forecast" if labels > law.largest else "between"
        names = {"title": row.title, "labels": labels, "times": times}
        verdict = text(f"labels.verdicts.{_judge(gain, delta)}", delta=text.format_points(delta))
        yield text(f"labels.gain.{kind}", verdict=verdict, **names, **cell, **points)
        if budget.cost is not None:
            yield _say_cost(labels - budget.labels, budget.cost, gain, text)


def _judge(gain: Gain, delta: float) -> str:
    """Return whether more labels help: yes | little | open."""
    if gain.low > 0:
        return "yes"
    return "little" if gain.high < delta else "open"


def _say_cost(more: int, cost: float, gain: Gain, text: Text) -> str:
    """Say what the labels cost in all, and for each further point of accuracy."""

    def price(points: float) -> str:
        return _format_amount(more * cost / (100 * points))

    names = {"more": more, "cost": _format_amount(more * cost)}
    if gain.low > 0:
        costs = {"here": price(gain.estimate), "low": price(gain.high), "high": price(gain.low)}
        return text("labels.cost.bounded", **names, **costs)
    if gain.estimate > 0:
        return text("labels.cost.open", **names, here=price(gain.estimate), low=price(gain.high))
    return text("labels.cost.nothing", **names)


def _format_amount(amount: float) -> str:
    """Write an amount of money to three digits, and those before the point in full."""
    return f"{amount:,.0f}" if amount >= 100 else f"{amount:.3g}"
