"""Which method and settings to take, within limits of memory and hours and above a floor of accuracy.

Only the user's own results count. A configuration that exceeds a limit counts as failed; the others compete
as in the table: by validation within a method, by the paired comparison between methods.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from bench.config.cards import GIB
from bench.report.cells import format_gib
from bench.report.language.text import Text
from bench.report.numbers.comparison import Comparison, compare_methods
from bench.report.numbers.contrast import Group, find_gap, group_rows
from bench.report.numbers.rows import Row, build_rows, find_peak, stands_alone
from bench.report.verdicts.answer import most_accurate
from bench.results.selection import MethodKey, configuration_key, group_by_method, read_number, read_value
from bench.results.store import Result

Read = Callable[[str], pd.DataFrame]  # run_id -> its predictions


@dataclass(frozen=True)
class TrainingLimits:
    """What a user has, and wants."""

    vram_gib: float
    max_seconds: float | None  # of one training
    min_accuracy: float | None  # a share

    @property
    def vram_bytes(self) -> float:
        """The memory in the unit of the records."""
        return self.vram_gib * GIB


@dataclass(frozen=True)
class Recommendation:
    """What the results of one table say within the limits."""

    chosen: Row | None  # None: nothing fits
    same: Sequence[Row]  # of those that fit, the most accurate and what nothing tells from it
    fitting: Sequence[Row]
    rejected: Sequence[tuple[Row, str]]  # with the reason; the nearest to the limits first
    baseline: Row | None  # one that fits and is no less accurate, as far as can be told
    comparisons: Sequence[Comparison]  # of those that fit


@dataclass(frozen=True)
class _Need:
    """What one configuration needs: the most of its seeds."""

    peak_bytes: float | None  # None: no run of it says so
    seconds: float | None


def recommend(
    results: Sequence[Result], read: Read, *, limits: TrainingLimits, delta: float, text: Text
) -> dict[Group, Recommendation]:
    """Return what to take, for each table of the report; ``delta`` is as for compare_methods."""
    needs, groups = _list_needs(results), group_by_method(results)
    within = group_rows(build_rows([_fail_outside(result, needs, limits) for result in results]))
    advice = {}
    for group, rows in group_rows(build_rows(results)).items():
        kept = {row.method: row for row in within[group]}
        fitting, rejected = [], []
        for row in rows:
            inside = kept[row.method]
            members = groups[MethodKey(row.task.fingerprint, row.task.revision, row.method)]
            same_kind = [member for member in members if read_value(member, "memory.kind") == row.memory_kind]
            of_method = list(_list_needs(same_kind).values())
            reason = _find_reason(row, inside, of_method, limits, text)
            if reason is None:
                fitting.append(inside)
            else:
                rejected.append((_measure_excess(row, of_method, limits), row, reason))
        rejected.sort(key=lambda one: one[0])
        advice[group] = _choose(fitting, [one[1:] for one in rejected], read, delta)
    return advice


def _choose(
    fitting: Sequence[Row], rejected: Sequence[tuple[Row, str]], read: Read, delta: float
) -> Recommendation:
    """Choose the least memory among the most accurate; trainings before baselines."""
    fitting, comparisons, _ = compare_methods(fitting, read, delta=delta)
    pool = [row for row in fitting if not row.baseline] or list(fitting)
    best = None if any(row.has_random_weights for row in pool) else most_accurate(pool)
    same = [best] if best else list(pool)
    same += [row for row in pool if best and row is not best and _is_untold(best, row, comparisons)]
    chosen = min(same, key=lambda row: (row.peak_memory_bytes or 0.0, row.train_seconds or 0.0), default=None)
    baselines = [row for row in fitting if row.baseline and chosen and row is not chosen]
    equal = [row for row in baselines if chosen and best and not _is_better(chosen, row, comparisons)]
    return Recommendation(
        chosen=chosen,
        same=same if best else [],
        fitting=fitting,
        rejected=rejected,
        baseline=most_accurate(equal),
        comparisons=comparisons,
    )


def _is_untold(row: Row, other: Row, comparisons: Sequence[Comparison]) -> bool:
    """Return whether the two were compared and are equal, or which is more accurate is undecided."""
    gap = find_gap(row, other, comparisons)
    return gap is not None and gap.comparison.verdict in ("equal", "undecided")


def _is_better(row: Row, other: Row, comparisons: Sequence[Comparison]) -> bool:
    """Return whether the first is more accurate, or that is not known."""
    gap = find_gap(row, other, comparisons)
    return gap is None or (gap.comparison.verdict in ("difference", "one_seed") and gap.estimate > 0)


def _find_reason(
    row: Row, inside: Row, needs: Sequence[_Need], limits: TrainingLimits, text: Text
) -> str | None:
    """Say why the method is out of the question, or None; ``inside``: its row within the limits."""
    if row.selection is None:
        return text("advice.rejections.none_succeeded", status=text(f"statuses.{row.status}"))
    peaks = [need.peak_bytes for need in needs if need.peak_bytes is not None]
    if not peaks:
        return text("advice.rejections.unknown_memory")
    if min(peaks) > limits.vram_bytes:
        return text("advice.rejections.memory", needs=format_gib(min(peaks)), limit=f"{limits.vram_gib:g}")
    times = [
        need.seconds
        for need in needs
        if _divide(need.peak_bytes, limits.vram_bytes) <= 1 and need.seconds is not None
    ]
    if limits.max_seconds is not None and not times:
        return text("advice.rejections.unknown_time")
    if limits.max_seconds is not None and min(times) > limits.max_seconds:
        durations = {
            "needs": text.format_duration(min(times)),
            "limit": text.format_duration(limits.max_seconds),
        }
        return text("advice.rejections.time", **durations)
    if inside.accuracy is None:
        return text("advice.rejections.unknown_accuracy")
    if inside.is_untrained:
        return text("advice.rejections.untrained")
    if limits.min_accuracy is not None and inside.has_random_weights:
        return text("advice.rejections.random_weights")
    if limits.min_accuracy is not None and inside.accuracy.mean < limits.min_accuracy:
        shares = {"has": 100 * inside.accuracy.mean, "limit": 100 * limits.min_accuracy}
        return text("advice.rejections.accuracy", **shares)
    return None


def _measure_excess(row: Row, needs: Sequence[_Need], limits: TrainingLimits) -> float:
    """Return how many times the most exceeded limit the method needs, to sort what does not fit."""
    ratios = [
        max(_divide(need.peak_bytes, limits.vram_bytes), _divide(need.seconds, limits.max_seconds))
        for need in needs
    ]
    short = 0.0
    if limits.min_accuracy:
        short = limits.min_accuracy / row.accuracy.mean if row.accuracy and row.accuracy.mean else math.inf
    return max(min(ratios, default=math.inf), short)


def _divide(value: float | None, limit: float | None) -> float:
    """Divide a value by its limit: infinite if the value is unknown, 0 if there is no limit."""
    if limit is None:
        return 0.0
    return math.inf if value is None else value / limit


def _list_needs(results: Sequence[Result]) -> dict[str, _Need]:
    """Return what each configuration needs, by its key, from runs that stood alone."""
    members: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        if result.is_success and stands_alone(result):
            members[_key(result)].append(result)
    return {
        key: _Need(
            _largest([find_peak(one, read_value(one, "memory.kind")) for one in some], some),
            _largest(["time.train_seconds"] * len(some), some),
        )
        for key, some in members.items()
    }


def _largest(paths: Sequence[str], results: Sequence[Result]) -> float | None:
    """Return the largest number, or None if any run lacks it."""
    values = [read_number(result, path) for result, path in zip(results, paths, strict=True)]
    known = [value for value in values if value is not None]
    return max(known) if known and len(known) == len(values) else None


def _key(result: Result) -> str:
    return f"{read_value(result, 'memory.kind')} {configuration_key(result)}"


def _fail_outside(result: Result, needs: Mapping[str, _Need], limits: TrainingLimits) -> Result:
    """Return the run as it would have ended within the limits."""
    if not result.is_success:
        return result
    need = needs.get(_key(result), _Need(None, None))
    if _divide(need.peak_bytes, limits.vram_bytes) > 1:
        return replace(result, status="oom")
    return replace(result, status="timeout") if _divide(need.seconds, limits.max_seconds) > 1 else result
