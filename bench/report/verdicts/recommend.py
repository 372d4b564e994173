"""Which method and settings to take, within limits of memory and hours and above a floor of accuracy.

Only the user's own results count. A configuration that exceeds a limit counts as failed; the others compete
as in the table: by validation within a method, by the paired comparison between methods. Where a split has
several base models, the methods of all of them compete.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from bench.config.cards import GIB
from bench.report.across.groups import Split, choose_leader, group_models, part_sizes
from bench.report.cells import format_gib
from bench.report.language.text import Text
from bench.report.naming import name_models, name_row
from bench.report.numbers.comparison import Comparison, Known, compare_methods
from bench.report.numbers.contrast import Group, find_gap, group_rows
from bench.report.numbers.rows import Row, build_rows, find_peak, stands_alone
from bench.report.verdicts.answer import most_accurate
from bench.results.selection import MethodKey, configuration_key, group_by_method, read_number, read_value
from bench.results.store import Result

Read = Callable[[str], pd.DataFrame]  # run_id -> its predictions
Place = Group | Split  # a table, or all base models on one split
_MOST_TRIED = 6  # amounts of memory beyond the limit


@dataclass(frozen=True)
class TrainingLimits:
    """What a user has, and wants."""

    vram_gib: float | None
    max_seconds: float | None  # of one training
    min_accuracy: float | None  # a share

    @property
    def vram_bytes(self) -> float | None:
        """The memory in the unit of the records."""
        return None if self.vram_gib is None else self.vram_gib * GIB


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
    results: Sequence[Result],
    read: Read,
    *,
    limits: TrainingLimits,
    delta: float,
    text: Text,
    known: Known | None = None,
) -> dict[Place, Recommendation]:
    """Return what to take on each split; ``delta`` and ``known`` are as for compare_methods."""
    groups, within = group_by_method(results), group_rows(build_rows(fail_outside(results, limits)))
    advice = {}
    rows, _ = part_sizes(build_rows(results))
    models = name_models([row.task for row in rows], text)
    for place, same in group_places(rows).items():
        fitting, rejected = [], []
        for row in same:
            inside = next(one for one in within[row.task, row.memory_kind] if one.method == row.method)
            members = groups[MethodKey(row.task.fingerprint, row.task.revision, row.method)]
            same_kind = [member for member in members if read_value(member, "memory.kind") == row.memory_kind]
            of_method = list(_list_needs(same_kind).values())
            reason = _find_reason(row, inside, of_method, limits, text)
            if isinstance(place[0], str):
                row, inside = (name_row(one, models, text) for one in (row, inside))
            if reason is None:
                fitting.append(inside)
            else:
                rejected.append((_measure_excess(row, of_method, limits), row, reason))
        rejected.sort(key=lambda one: one[0])
        advice[place] = _choose(fitting, [one[1:] for one in rejected], read, delta, known)
    return advice


def group_places(rows: Sequence[Row]) -> dict[Place, list[Row]]:
    """Group the rows among which one is to be chosen: those of all base models on a split, or of a table."""
    panels, places = group_models(rows), dict[Place, list[Row]]()
    for split, same in panels.items():
        places[split] = same
    for group, same in group_rows(rows).items():
        if (group[0].fingerprint, group[1]) not in panels:
            places[group] = same
    return places


def find_changes(
    results: Sequence[Result],
    read: Read,
    place: Place,
    chosen: Row | None,
    *,
    limits: TrainingLimits,
    delta: float,
    text: Text,
    known: Known,
) -> list[tuple[str, float, Row | None]]:
    """Find how much less memory, and how much more, would change what to take.

    Returns:
        below | from, the bytes, and what to take then; None: nothing fits.
    """
    if limits.vram_bytes is None:
        return []
    peaks = sorted({need.peak_bytes for need in _list_needs(results).values() if need.peak_bytes is not None})

    def take(size: float) -> Row | None:
        other = replace(limits, vram_gib=size / GIB)
        advice = recommend(results, read, limits=other, delta=delta, text=text, known=known)
        return advice[place].chosen

    changes = list[tuple[str, float, Row | None]]()
    if chosen is not None and chosen.peak_memory_bytes:
        bound = chosen.peak_memory_bytes
        less = [peak for peak in peaks if round(peak / GIB, 2) < round(bound / GIB, 2)]  # as it is shown
        for peak in less[: -_MOST_TRIED - 1 : -1]:
            other = take(peak)
            if other is None or other.title != chosen.title:
                changes.append(("below", bound, other))
                break
            bound = peak  # another configuration of the same method needs a little less
        else:
            if len(less) <= _MOST_TRIED:
                changes.append(("below", bound, None))
    for peak in [peak for peak in peaks if peak > limits.vram_bytes][:_MOST_TRIED]:
        other = take(peak)
        if other and (chosen is None or (other.title, other.run_ids) != (chosen.title, chosen.run_ids)):
            return [*changes, ("from", peak, other)]
    return changes


def _choose(
    fitting: Sequence[Row],
    rejected: Sequence[tuple[Row, str]],
    read: Read,
    delta: float,
    known: Known | None,
) -> Recommendation:
    """Choose the least memory among the most accurate; trainings before baselines.

    Of several base models the best on validation stands for the most accurate, as only with it those of other
    models are compared, unless others are shown to be more accurate.
    """
    fitting, comparisons, _ = compare_methods(fitting, read, delta=delta, known=known)
    pool = [row for row in fitting if not row.baseline] or list(fitting)
    if has_models := len({row.task for row in pool}) > 1:
        pool = [row for row in pool if not row.has_random_weights] or pool
    best = None if any(row.has_random_weights for row in pool) else most_accurate(pool)
    if has_models and best and (leader := choose_leader(pool)):
        ahead = [row for row in pool if row is not leader and _is_ahead(row, leader, comparisons)]
        best = choose_leader(ahead) or leader
    same = [best] if best else list(pool)
    same += [row for row in pool if best and row is not best and _is_untold(best, row, comparisons)]
    chosen = min(same, key=_order, default=None)
    is_trained = chosen is not None and best is not None and not chosen.baseline
    baselines = [row for row in fitting if row.baseline and is_trained]
    equal = [row for row in baselines if chosen and not _is_better(chosen, row, comparisons)]
    return Recommendation(
        chosen=chosen,
        same=same if best else [],
        fitting=fitting,
        rejected=rejected,
        baseline=most_accurate(equal),
        comparisons=comparisons,
    )


def _order(row: Row) -> tuple[float, float]:
    """Return what to sort by: the least memory first, of equals the quickest; unknown memory last."""
    peak = math.inf if row.peak_memory_bytes is None else row.peak_memory_bytes
    return peak, row.train_seconds or 0.0


def _is_ahead(row: Row, other: Row, comparisons: Sequence[Comparison]) -> bool:
    """Return whether the first is shown to be more accurate."""
    gap = find_gap(row, other, comparisons)
    return gap is not None and gap.comparison.verdict == "difference" and gap.estimate > 0


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
    if limits.vram_bytes is not None and not peaks:
        return text("advice.rejections.unknown_memory")
    if limits.vram_bytes is not None and min(peaks) > limits.vram_bytes:
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
    if value is None or (value and not limit):
        return math.inf
    return value / limit if limit else 0.0


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


def fail_outside(results: Sequence[Result], limits: TrainingLimits) -> list[Result]:
    """Return the runs as they would have ended within the limits."""
    needs = _list_needs(results)

    def fail(result: Result) -> Result:
        if not result.is_success:
            return result
        need = needs.get(_key(result), _Need(None, None))
        if _divide(need.peak_bytes, limits.vram_bytes) > 1:
            return replace(result, status="oom")
        return replace(result, status="timeout") if _divide(need.seconds, limits.max_seconds) > 1 else result

    return [fail(result) for result in results]


def move_to_card(results: Sequence[Result], peaks: Mapping[str, float]) -> list[Result]:
    """Return the runs as on a card that they did not run on, of which only the memory is predicted.

    Runs on a CPU take the predicted peak of their configuration, and their train time is unknown there. What
    reads no base model needs nothing of a card.

    Args:
        peaks: bytes that a run would reserve on the card, by run_id.
    """
    by_key = {configuration_key(result): peaks[result.run_id] for result in results if result.run_id in peaks}
    moved = []
    for result in results:
        if read_value(result, "memory.kind") == "cuda":
            moved.append(result)
            continue
        has_model = read_value(result, "canonical_config.model.revision") is not None
        peak = by_key.get(configuration_key(result)) if has_model else 0
        memory = {phase: {"peak_reserved_bytes": peak} for phase in ("train", "eval")}
        spent = {**result.time, "train_seconds": None}
        moved.append(
            replace(
                result,
                memory={"kind": "cuda", "is_predicted": True, **memory},
                time=spent,
                packed=None,
                model={**result.model, "resumed_from_step": None},
            )
        )
    return moved


def is_predicted(row: Row) -> bool:
    """Tell whether the row's memory is predicted for a card, by move_to_card."""
    runs = row.selection.results if row.selection else ()
    return any(read_value(run, "memory.is_predicted") for run in runs)
