"""The hours of a sweep: what its runs took, what others are expected to take, and what is left.

All times are seconds by the clock. Nothing is known of a method before one of its runs has ended: what others
took, or a prediction, then stands for it. A teacher's trainings count as all others do, but to no method.
"""

import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from bench.config.identity import teaches
from bench.config.schema import LOOKS, SweepConfig
from bench.report.numbers.rows import stands_alone
from bench.results.selection import MethodKey, is_stopped, read_score
from bench.results.store import Result
from bench.sweep.plan import Point

Measure = Callable[[Point], float | None]  # of a planned run; None: unknown


@dataclass(frozen=True)
class Taken:
    """What one run took."""

    point: Point
    seconds: float  # of all attempts at it; of a pack, its share
    whole: float | None = None  # of its training from the beginning to the end, alone in its process
    score: float | None = None  # on validation; None: it has no success
    is_packed: bool = False


@dataclass
class TimeBudget:
    """What a sweep may take, while it runs; ``math.inf`` seconds without a budget."""

    seconds: float
    settings: SweepConfig
    slots: int = 1  # runs that train at once
    weigh: Measure = lambda _: None  # what a run computes, in one unit for all
    predict: Measure = lambda _: None  # seconds of a run, as predicted before any was measured
    clock: Callable[[], float] = time.monotonic
    taken: dict[str, Taken] = field(default_factory=dict)  # by run_id
    earlier: float = 0.0  # seconds of runs before this sweep began, one after the other

    def __post_init__(self) -> None:
        self.began = self.clock()
        self.weights: dict[str, float | None] = {}  # by run_id

    @property
    def spent(self) -> float:
        """The seconds that the sweep has taken, with those of its runs before it began."""
        return self.earlier / self.slots + self.clock() - self.began

    @property
    def left(self) -> float:
        """The seconds that are left; below 0 where runs took longer than expected."""
        return self.seconds - self.spent

    @property
    def _rivals(self) -> list[Taken]:
        """What runs took that compete for a row of the table, as a teacher's trainings do not."""
        return [one for one in self.taken.values() if not teaches(one.point.config)]

    def meet(self, point: Point, record: Result | None) -> None:
        """Count what a run took before this sweep came to it, the first time."""
        if record is not None and point.run_id not in self.taken:
            self.note(point, record)
            self.earlier += self.taken[point.run_id].seconds

    def note(self, point: Point, record: Result | None) -> None:
        """Note what a run took that has ended."""
        if record is not None:
            self.taken[point.run_id] = read_taken(point, record, self.settings.select_by)

    def count_spent(self) -> dict[MethodKey, float]:
        """Add up the seconds of each method of which a run was tried."""
        spent: dict[MethodKey, float] = {}
        for one in self._rivals:
            spent[one.point.method_key] = spent.get(one.point.method_key, 0.0) + one.seconds
        return spent

    def expect(self, point: Point) -> float | None:
        """Return the seconds that a run may take: as others of its method, of any method, or as predicted.

        Where predictions say how much runs compute, it takes the more time the more it computes. A method
        without a success takes no less than its failures took.
        """
        weight = self.count_work(point)
        measured = [(one, one.whole) for one in self.taken.values() if one.whole is not None]
        same = [
            whole * (weight / other if weight and (other := self.count_work(one.point)) else 1.0)
            for one, whole in measured
            if one.point.method_key == point.method_key
        ]
        if same:
            return statistics.fmean(same)
        rates = [whole / other for one, whole in measured if (other := self.count_work(one.point))]
        found = weight * statistics.median(rates) if weight and rates else self.predict(point)
        failed = [one.seconds for one in self.taken.values() if one.point.method_key == point.method_key]
        least = [statistics.fmean(failed)] if failed else []
        return max(least, default=None) if found is None else max([found, *least])

    def afford(self, points: Iterable[Point], *, keep: float = 0.0) -> list[Point]:
        """Return those of the points, in order, that end in time with so many seconds to spare.

        What is unknown counts as nothing.
        """
        room, chosen = (self.left - keep) * self.slots, list[Point]()
        if math.isinf(self.seconds):
            return list(points)
        for point in points:
            seconds = self.expect(point) or 0.0
            if room > 0 and seconds <= room:
                room -= seconds
                chosen.append(point)
        return chosen

    def reserve(self, *, packed: MethodKey | None = None) -> float:
        """Return the seconds to keep for the final seeds, and for measuring alone what is best of a pack.

        Args:
            packed: a method that is to train in a pack next.
        """
        if math.isinf(self.seconds):
            return 0.0
        best = dict[MethodKey, Taken]()
        for one in self._rivals:
            key, score = one.point.method_key, one.score
            if score is not None and (key not in best or score > (best[key].score or 0.0)):
                best[key] = one
        runs = [
            (one.point, count_seeds(one.point, self.settings) + (one.is_packed or key == packed))
            for key, one in best.items()
        ]
        return sum(count * (self.expect(point) or 0.0) for point, count in runs if count) / self.slots

    def count_work(self, point: Point) -> float | None:
        """Return what a run computes, in one unit for all; None: unknown."""
        if point.run_id not in self.weights:
            self.weights[point.run_id] = self.weigh(point)
        return self.weights[point.run_id]


def count_seeds(point: Point, settings: SweepConfig) -> int:
    """Count the runs that the final seeds add to a configuration; of rounds, those of the first."""
    if "seed" not in point.identity.canonical:
        return 0
    if settings.final_seeds == "auto":
        return LOOKS[0] - 1
    return len({*settings.final_seeds} - {point.config.seed})


def read_taken(point: Point, record: Result, select_by: str) -> Taken:
    """Read from a run's record what it took."""
    last = {name: getattr(record, name) for name in ("started_at", "ended_at", "packed")}
    is_whole = record.is_success and stands_alone(record) and not is_stopped(record)
    return Taken(
        point,
        seconds=math.fsum(_measure(attempt) for attempt in (*record.attempts, last)),
        whole=_measure(last) or None if is_whole else None,
        score=read_score(record, select_by) if record.is_success else None,
        is_packed=record.is_success and record.packed is not None,
    )


def _measure(attempt: Mapping[str, Any]) -> float:
    """Return the seconds of an attempt, or its share of a pack's; 0 where it has no end."""
    begun, ended = (attempt.get(name) for name in ("started_at", "ended_at"))
    if not begun or not ended:
        return 0.0
    try:
        seconds = (datetime.fromisoformat(ended) - datetime.fromisoformat(begun)).total_seconds()
    except (TypeError, ValueError):  # not a time that bench wrote
        return 0.0
    return max(0.0, seconds) / ((attempt.get("packed") or {}).get("size") or 1)
