"""Which runs of a sweep train together in one process, and what is tried when such a pack fails. Pure.

A pack holds the base weights once and all else once for each member, so memory bounds its size.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from bench.config.overrides import override_line
from bench.config.pack import describe_others
from bench.config.packable import cannot_pack, list_own, shared_key
from bench.config.schema import Config, replace_values
from bench.memory.prediction import Prediction
from bench.sweep.machine import count_slots
from bench.sweep.plan import Point

LARGEST = 24  # a step gains little from more, and what kills a pack costs all of it
UNKNOWN = 4  # where no prediction says what memory allows
FEWEST = 4  # runs of one kind for packs to pay, for each that is chosen and trained once more, alone

Pack = tuple[Point, ...]  # one run alone is a pack of one


def bound_size(prediction: Prediction | None, usable_bytes: float) -> int:
    """Return how many runs like the predicted one fit in one process with this memory, at least 1."""
    if prediction is None:
        return UNKNOWN
    weights = prediction.parts.get("weights", 0)
    size = LARGEST
    while size > 1 and predict_pack(prediction, size, weights) > usable_bytes:
        size -= 1
    return size


def count_merged(prediction: Prediction, size: int, accumulation: int, usable_bytes: float) -> int:
    """Return how many of a step's micro-batches a pack of so many runs can compute as one."""
    weights = prediction.parts.get("weights", 0)
    fitting = (
        merged
        for merged in range(accumulation, 1, -1)
        if accumulation % merged == 0
        and predict_pack(prediction, size, weights, merged=merged) <= usable_bytes
    )
    return next(fitting, 1)


def predict_pack(prediction: Prediction, size: int, weights: int, *, merged: int = 1) -> int:
    """Return a pack's peak memory in bytes: ``weights`` once, and all else of training ``size`` times.

    It evaluates as many rows at once as a run alone, or as in a step of its training. Micro-batches that are
    ``merged`` have the activations of each.
    """
    kind = "peak_reserved_bytes" if prediction.device_type == "cuda" else "peak_allocated_bytes"
    peaks = {name: phase[kind] or 0 for name, phase in prediction.phases.items()}
    more = (merged - 1) * prediction.parts.get("activations", 0)
    return max(
        weights + size * (max(0, peak - weights) + more) if name == "train" else peak
        for name, peak in peaks.items()
    )


def form_packs(points: Iterable[Point], limits: Mapping[str, int], base: Config) -> list[Pack]:
    """Divide the points into packs, in the order of their first members; ``limits`` bounds their sizes.

    With several slots each kind of run is spread over all of them. Under sweep.pack=auto a kind with few
    points for each on whose data one is chosen trains one by one, unless they go on from a pack.
    """
    slots = count_slots(base.devices)
    keys = dict[Any, str]()
    order, kinds = dict[str, int](), dict[str, list[Point]]()
    for point in points:
        order[point.run_id] = len(order)
        together = limits[point.run_id] > 1 and cannot_pack(point.config) is None
        kinds.setdefault(_find_key(point.config, keys) if together else point.run_id, []).append(point)
    packs = []
    for members in kinds.values():
        begins = all(point.config.resume_from is None for point in members)
        choices = len({point.identity.canonical["data"]["fingerprint"] for point in members})
        fewest = FEWEST * choices if begins and base.sweep.pack == "auto" else 2
        size = min(limits[point.run_id] for point in members) if len(members) >= fewest else 1
        packs += _deal(members, max(-(-len(members) // size), min(slots, len(members))))
    return sorted(packs, key=lambda pack: order[pack[0].run_id])


def _find_key(config: Config, keys: dict[Any, str]) -> str:
    """Return packable.shared_key, made once for all runs of one composed configuration."""
    paths = list_own(config)
    alike = replace_values(config, dict.fromkeys(paths, 1))
    own = {path.partition(".")[0] for path in paths}
    sketch = tuple(
        id(value) if dataclasses.is_dataclass(value) and name not in own else repr(value)
        for name, value in vars(alike).items()
    )
    if sketch not in keys:
        keys[sketch] = shared_key(config)
    return keys[sketch]


def _deal(members: Sequence[Point], count: int) -> list[Pack]:
    """Deal the members into ``count`` packs of sizes as equal as can be."""
    ends = [len(members) * number // count for number in range(count + 1)]
    return [tuple(members[start:end]) for start, end in pairwise(ends)]


def shrink(pack: Pack, statuses: Mapping[str, str | None]) -> dict[str, int]:
    """Return the runs of a failed pack that train again, each with the size of its next pack.

    A pack that was out of memory is tried in halves; after any other end each run is tried alone. A run that
    diverged did so by itself, and a run that was interrupted was stopped on purpose.
    """
    if len(pack) == 1:
        return {}
    half = -(-len(pack) // 2)
    left = {run_id: status for run_id, status in statuses.items() if status not in _FINAL}
    return {run_id: half if status == "oom" else 1 for run_id, status in left.items()}


_FINAL = ("success", "diverged", "interrupted", None)


def pack_lines(pack: Pack) -> list[str]:
    """Return the overrides that turn the first member's job into one of the whole pack."""
    first, *others = (point.config for point in pack)
    return [override_line("pack", describe_others(first, *others))] if others else []


def count_sizes(packs: Iterable[Pack]) -> dict[int, int]:
    """Count the packs of each size, the largest first."""
    counts = Counter(len(pack) for pack in packs)
    return {size: counts[size] for size in sorted(counts, reverse=True)}
