"""Two methods' memory and time, compared over all pairs of their seeds."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.report.numbers.comparison import Comparison
from bench.report.numbers.rows import ReportTask, Row, find_peak, stands_alone
from bench.results.selection import read_number

Group = tuple[ReportTask, str | None]  # what can be compared: one task, measured in one kind of memory


@dataclass(frozen=True)
class Contrast:
    """One method's memory or time less another's, as a share of the other's."""

    one: Row
    other: Row
    measure: str  # memory | train_time
    values: tuple[float, float]  # as the table has them, bytes or seconds
    change: float
    low: float  # the least and the greatest change among all pairs of seeds
    high: float
    runs: int  # of the method with fewer


@dataclass(frozen=True)
class AccuracyGap:
    """One method's accuracy less another's, from their paired comparison."""

    one: Row
    other: Row
    estimate: float
    low: float | None  # of the 95 % interval over texts and seeds
    high: float | None
    comparison: Comparison


def group_rows(rows: Sequence[Row]) -> dict[Group, list[Row]]:
    """Group the rows by table, in the tables' order."""
    groups: dict[Group, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.task, row.memory_kind].append(row)
    return groups


def contrast(one: Row, other: Row, measure: str) -> Contrast | str:
    """Compare two methods' memory or train time, or say why not: by a key below ``claims.no_contrast``."""
    values = [row.peak_memory_bytes if measure == "memory" else row.train_seconds for row in (one, other)]
    measured = [_read_alone(row, measure) for row in (one, other)]
    if one.memory_kind != other.memory_kind or one.task.fingerprint != other.task.fingerprint:
        return "kinds"
    if values[0] is None or not values[1] or not all(measured):
        return "unknown"
    if measure == "train_time" and (read_hardware(one) is None or read_hardware(one) != read_hardware(other)):
        return "hardware"
    return Contrast(
        one=one,
        other=other,
        measure=measure,
        values=(values[0], values[1]),
        change=values[0] / values[1] - 1,
        low=min(measured[0]) / max(measured[1]) - 1,
        high=max(measured[0]) / min(measured[1]) - 1,
        runs=min(map(len, measured)),
    )


def find_gap(row: Row, other: Row, comparisons: Sequence[Comparison]) -> AccuracyGap | None:
    """Return the two methods' paired comparison with ``one`` first, or None if they were not compared."""
    for comparison in comparisons:
        difference = comparison.accuracy
        if (comparison.one, comparison.other) == (row, other):
            return AccuracyGap(row, other, difference.estimate, difference.low, difference.high, comparison)
        if (comparison.one, comparison.other) == (other, row):
            low = None if difference.high is None else -difference.high
            high = None if difference.low is None else -difference.low
            return AccuracyGap(row, other, -difference.estimate, low, high, comparison)
    return None


def read_hardware(row: Row) -> str | None:
    """Return what all chosen runs ran on, or None if they differ or do not say."""
    results = row.selection.results if row.selection else ()
    names = {_name_hardware(result.provenance.get("hardware")) for result in results}
    return names.pop() if len(names) == 1 else None


def _name_hardware(hardware: Any) -> str | None:
    if not isinstance(hardware, Mapping):
        return None
    name = hardware.get("gpu") or f"{hardware.get('cpu')}, {hardware.get('cores')} cores"
    return str(name)


def _read_alone(row: Row, measure: str) -> list[float]:
    """Return the measure of each chosen run that stands alone; none if one of them lacks it."""
    alone = [result for result in row.selection.results if stands_alone(result)] if row.selection else []
    is_memory = measure == "memory"
    values = [
        read_number(result, find_peak(result, row.memory_kind) if is_memory else "time.train_seconds")
        for result in alone
    ]
    known = [value for value in values if value]
    return known if len(known) == len(values) else []
