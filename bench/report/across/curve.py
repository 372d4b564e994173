"""Learning curves: from how many labels on a method pays, and what more labels would bring; pure numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bench.report.across.groups import group_sizes
from bench.report.across.law import FEWEST, Law, Projection, Reading, fit
from bench.report.numbers.comparison import Known
from bench.report.numbers.rows import Row
from bench.report.numbers.scores import Scored
from bench.report.numbers.statistics import Floats

TIMES = (2, 10)  # the labels of the largest size: what is forecast
LEVEL = 0.95  # of a break-even's interval
FEWEST_SHARED = 3  # sizes that two methods have in common, for a break-even
_DRAWS = 4000


@dataclass(frozen=True)
class BreakEven:
    """From how many labels on a method is more accurate than a simpler one, at every larger size too.

    Between two sizes the difference is linear in their logarithm. Infinity: not within the sizes that
    were measured; the smallest of these: from there on or before.
    """

    simpler: Row
    labels: float
    low: float  # of the interval of LEVEL
    high: float


@dataclass(frozen=True)
class MethodCurve:
    """A method's accuracies by the number of train texts, with one base model."""

    rows: Mapping[int, Row]  # by size, ascending
    break_evens: Sequence[BreakEven]
    law: Law | None  # None: no forecast can be defended

    @property
    def largest(self) -> Row:
        """Its row at the most texts."""
        return self.rows[max(self.rows)]

    @property
    def forecasts(self) -> list[Projection]:
        """What so many TIMES the labels of its largest size would bring; empty without a law."""
        return [] if self.law is None else [self.law.forecast(times * self.law.largest) for times in TIMES]


@dataclass(frozen=True)
class Curve:
    """All methods on one data set, by the number of train texts."""

    sizes: Sequence[int]
    methods: Sequence[MethodCurve]


def draw_curves(rows: Sequence[Row], scored: Known) -> list[Curve]:
    """Return the learning curve of each data set that has several train sizes.

    Args:
        scored: of compare_methods, by chosen runs.
    """
    return [_draw_curve(same, scored) for same in group_sizes(rows)]


def _draw_curve(rows: Sequence[Row], scored: Known) -> Curve:
    by_method: dict[tuple[str, str | None], dict[int, Row]] = {}
    for row in sorted(rows, key=lambda row: (row.rank, row.title, row.task.origin.train_rows or 0)):
        key = (row.method, row.task.revision if row.has_model else None)
        by_method.setdefault(key, {}).setdefault(row.task.origin.train_rows or 0, row)
    answers = {key: _find_answers(same, scored) for key, same in by_method.items()}
    methods = []
    for key, same in by_method.items():
        simpler = [
            (by_method[other], answers[other])
            for other in by_method
            if other != key and other[1] in (None, key[1]) and _is_simpler(by_method[other], same)
        ]
        evens = (_find_break_even(answers[key], known, max(found.items())[1]) for found, known in simpler)
        methods.append(MethodCurve(same, [one for one in evens if one], fit_law(same)))
    return Curve(sorted({size for same in by_method.values() for size in same}), methods)


def _is_simpler(other: Mapping[int, Row], same: Mapping[int, Row]) -> bool:
    """Tell whether the other fits no network, and less than this method does."""
    first, own = next(iter(other.values())), next(iter(same.values()))
    return first.baseline and 0 < first.rank < own.rank  # 0: the majority class


def learns(row: Row) -> bool:
    """Tell whether labels make the method better: not the majority class, nor the base as it is."""
    return row.rank > 0 and not row.as_it_is


def _find_answers(rows: Mapping[int, Row], scored: Known) -> dict[int, Scored]:
    """Return the scores at the sizes where they are known and say something."""
    found = {size: scored.get(row.run_ids) for size, row in rows.items() if not row.is_untrained}
    return {size: one for size, one in found.items() if isinstance(one, Scored)}


def _find_break_even(
    own: Mapping[int, Scored], other: Mapping[int, Scored], simpler: Row
) -> BreakEven | None:
    """Find from how many labels on the method is ahead, if they have enough sizes on the same texts."""
    sizes = [size for size in own if size in other and own[size].texts == other[size].texts]
    if len(sizes) < FEWEST_SHARED:
        return None
    ahead = np.stack([own[size].accuracy.spread - other[size].accuracy.spread for size in sizes])
    errors = [
        sum(each.error for each in (*own[size].accuracy.seeds, *other[size].accuracy.seeds)) for size in sizes
    ]
    covariance = np.cov(ahead) / ahead.shape[1] + np.diag(errors)
    return BreakEven(
        simpler, *bound_crossing(np.array(sizes, dtype=np.float64), ahead.mean(axis=1), covariance)
    )


def bound_crossing(sizes: Floats, ahead: Floats, covariance: Floats) -> tuple[float, float, float]:
    """Return from which size on the difference is positive, and the interval of LEVEL of that size.

    The interval is of what other texts and other seeds would show: differences are drawn again, with the
    covariance that these have.

    Args:
        sizes: ascending. # (sizes,)
        ahead: the difference in accuracy at each. # (sizes,)
        covariance: of the differences. # (sizes, sizes)
    """
    random = np.random.RandomState(0)
    drawn = ahead + random.standard_normal((_DRAWS, len(sizes))) @ _root(covariance).T
    crossings = np.sort(find_crossings(sizes, drawn))
    places = [round((_DRAWS - 1) * share) for share in ((1 - LEVEL) / 2, (1 + LEVEL) / 2)]
    low, high = (float(crossings[place]) for place in places)
    return float(find_crossings(sizes, ahead[None])[0]), low, high


def _root(covariance: Floats) -> Floats:
    values, vectors = np.linalg.eigh(covariance)
    root: Floats = vectors * np.sqrt(np.maximum(values, 0.0))
    return root


def find_crossings(sizes: Floats, ahead: Floats) -> Floats:
    """Return for each row the size from which on all its differences are positive; infinity: there is none.

    Args:
        ahead: differences at each size. # (rows, sizes)
    """
    behind = ahead <= 0
    last = np.where(behind.any(axis=1), len(sizes) - 1 - behind[:, ::-1].argmax(axis=1), -1)
    crossings = np.where(last < 0, sizes[0], np.inf)
    between = (last >= 0) & (last < len(sizes) - 1)
    place = last[between]
    below, above = ahead[between, place], ahead[between, place + 1]
    logs = np.log(sizes)
    crossings[between] = np.exp(logs[place] + (logs[place + 1] - logs[place]) * below / (below - above))
    return crossings


def fit_law(rows: Mapping[int, Row]) -> Law | None:
    """Fit a law to the accuracies of a method that is trained on labels, by the number of train texts."""
    known = [
        Reading(size, row.accuracy.mean, row.accuracy.n)
        for size, row in rows.items()
        if row.accuracy is not None and not row.is_untrained
    ]
    texts = next((row.task.test_size for row in rows.values() if row.task.test_size), None)
    if len(known) < FEWEST or texts is None or not learns(next(iter(rows.values()))):
        return None
    return fit(known, texts=texts)
