"""Disk and memory (RAM) that a sweep takes, known before it begins. Never imports torch."""

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from bench.config.cards import GIB
from bench.config.packable import cannot_pack
from bench.config.schema import Config
from bench.errors import MissingError, StoreError
from bench.memory.prediction import Prediction, count_steps
from bench.model import weights
from bench.results import selection
from bench.results.selection import MethodKey
from bench.results.store import Result, Store
from bench.sweep.machine import count_slots
from bench.sweep.plan import Plan, Point
from bench.sweep.predict import Found, Target
from bench.sweep.search.halving import count_by_rung, find_rungs, group_points
from bench.train import checkpoint

PROCESS_BYTES = GIB  # of a run beside its tensors: Python, torch and other libraries; a CPU's has 0.35 GiB
_RELEASED_ITEMSIZE = 2  # bytes of a weight on the hub: nearly all of them are in 16 bits
_CONVERTED_ITEMSIZE = 4  # bytes of a weight of a GGUF file, read into fp32
_TOKEN_BYTES = 4


@dataclass(frozen=True)
class Disk:
    """One file system: what the sweep puts there, and what is free."""

    folders: tuple[str, ...]  # each with the setting that names it: results_dir=results/article
    free_bytes: int
    needs: Mapping[str, int]  # weights, checkpoints, downloads, conversions, tokens: bytes

    @property
    def needed_bytes(self) -> int:
        """All of the needs."""
        return sum(self.needs.values())

    @property
    def missing_bytes(self) -> int:
        """The bytes that are missing; negative: those left."""
        return self.needed_bytes - self.free_bytes


@dataclass(frozen=True)
class HostMemory:
    """The machine's memory that the most demanding run takes beside the card's, and what there is."""

    loading_bytes: int  # base weights on their way from the disk to the card
    paged_bytes: int  # optimizer states, while it trains
    saving_bytes: int  # the largest tensor, as weights are saved one by one
    runs_at_once: int
    available_bytes: int
    total_bytes: int

    @property
    def needed_bytes(self) -> int:
        """Bytes of all runs at once; loading is over when training begins."""
        each = PROCESS_BYTES + max(self.loading_bytes, self.paged_bytes + self.saving_bytes)
        return each * self.runs_at_once


@dataclass(frozen=True)
class Space:
    """Disk and memory that the runs to train take."""

    disks: tuple[Disk, ...]
    host: HostMemory | None  # None: no card, or no prediction
    unknown: int  # runs whose weights have no predicted size
    keeps_all: bool  # whether train.keep=chosen would take less


def find_space(
    plan: Plan,
    base: Config,
    store: Store,
    *,
    found: Mapping[str, Found],
    target: Target,
    limit_pack: Callable[[Point], int] = lambda _: 1,
) -> Space:
    """Return what the plan's runs without a success take of disks and memory.

    ``limit_pack`` says how many runs may train together with one.
    """
    results, _ = store.read_all()
    done = {result.run_id: result for result in results if result.is_success}
    known = {
        run_id: value
        for run_id, value in found.items()
        if isinstance(value, Prediction) and (base.plan.force or _can_train(value, target))
    }
    left = [point for point in plan.every if point.run_id not in done]
    traced = [point for point in left if point.run_id in known]
    groups = _group(point for point in plan.every if point.run_id in known)
    needs = {
        ("results_dir", base.results_dir): {
            "weights": sum(_count_weights(group, known, base, done) for group in groups)
            + _count_rewriting(traced, known, base),
            "checkpoints": _count_checkpoints(traced, known, base, limit_pack),
        },
        ("cache_dir", base.cache_dir): {"tokens": _count_tokens(traced, known)},
    }
    downloads, conversions = _count_models(traced, known)
    if downloads:
        from huggingface_hub import constants

        needs["HF_HUB_CACHE", constants.HF_HUB_CACHE] = {"downloads": downloads}
    if conversions:
        needs["XDG_CACHE_HOME", str(weights.find_cache())] = {"conversions": conversions}
    unknown = sum(isinstance(found.get(point.run_id), str) for point in left)
    return Space(
        disks=_group_disks(needs),
        host=_find_host(traced, known, base) if target.device_type == "cuda" else None,
        unknown=unknown,
        keeps_all=any(point.config.train.keep in ("best", "all") for point in traced),
    )


def require(space: Space, base: Config) -> None:
    """Refuse a sweep that this machine cannot hold, unless plan.force=true.

    Raises:
        StoreError: a disk has not the room.
        MissingError: the machine has not the memory, even if nothing else used it.
    """
    if base.plan.force:
        return
    if short := [_tell_disk(disk, space) for disk in space.disks if disk.missing_bytes > 0]:
        raise StoreError("\n".join(short))
    if space.host is not None and space.host.needed_bytes > space.host.total_bytes:
        raise MissingError(
            f"{_tell_host(space.host)}: this machine has too little; leave out the method with paged states "
            "or an unquantised base, or train fewer runs at once (devices=); plan.force=true tries it"
        )


def describe(space: Space) -> dict[str, Any]:
    """Return what ``bench plan --json`` prints about disks and memory."""
    host = space.host
    return {
        "disks": [
            {
                "folders": list(disk.folders),
                "free_bytes": disk.free_bytes,
                "needed_bytes": disk.needed_bytes,
                **{f"{name}_bytes": value for name, value in disk.needs.items()},
                "enough": disk.missing_bytes <= 0,
            }
            for disk in space.disks
        ],
        "runs_of_unknown_weights": space.unknown,
        "host_memory": None
        if host is None
        else {**vars(host), "process_bytes": PROCESS_BYTES, "needed_bytes": host.needed_bytes},
    }


def summarise(space: Space) -> list[str]:
    """Return a line for each disk and one for the memory."""
    lines = [_tell_disk(disk, space) for disk in space.disks]
    if space.unknown:
        lines.append(f"disk: the weights of {space.unknown} runs are not counted, as their size is unknown")
    if space.host is not None:
        lines.append(_tell_host(space.host))
    return lines


def _can_train(prediction: Prediction, target: Target) -> bool:
    """Return whether the run fits with the smallest micro-batch; else it is not started."""
    least = sum(size for name, size in prediction.parts.items() if name != "activations")
    return target.device_type == "cpu" or least <= target.usable_bytes


def _group(points: Iterable[Point]) -> list[list[Point]]:
    """Group the points of each method on each task, of which one is chosen."""
    groups: dict[MethodKey, list[Point]] = {}
    for point in points:
        groups.setdefault(point.method_key, []).append(point)
    return list(groups.values())


def _count_weights(
    group: Sequence[Point], known: Mapping[str, Prediction], base: Config, done: Mapping[str, Result]
) -> int:
    """Count the bytes of weights that one method's runs leave, at the moment when these are most."""
    config = group[0].config
    if config.train.keep == "none":
        return 0
    left = [point for point in group if point.run_id not in done]
    largest = max(known[point.run_id].trained_bytes for point in group)
    total = sum(known[point.run_id].trained_bytes for point in left)
    if left:
        total = total * _count_rungs(left, base) // len(left)
    seeds = set(base.sweep.most_seeds) - {point.config.seed for point in group}
    if not left:  # so that the choice is made, and some of its seeds may be trained
        theirs = [one for one in done.values() if selection.method_key(one) == group[0].method_key]
        seeds -= {selection.read_seed(one) for one in theirs}
    finals = len(seeds) * len({point.config.data.fold for point in group}) * largest
    if checkpoint.is_for_chosen(config.train.keep, trainable=config.method.trainable, weights_bytes=largest):
        return max(total, finals + largest if left else finals)
    return total + finals


def _count_rungs(group: Sequence[Point], base: Config) -> int:
    """Count the runs of the points: with halving each rung of a configuration is a run of its own."""
    if base.sweep.strategy != "halving":
        return len(group)
    return sum(sum(_count_by_rung(rivals)) for rivals in group_points(group))


def _count_by_rung(rivals: Sequence[Point]) -> list[int]:
    total = rivals[0].config.train.max_steps
    if len(rivals) == 1 or total is None:
        return [len(rivals)]
    return count_by_rung(len(rivals), rungs=find_rungs(rivals))


def _count_rewriting(points: Sequence[Point], known: Mapping[str, Prediction], base: Config) -> int:
    """Count the bytes of weights that training rewrites: new best ones before the old ones go."""
    sizes = [
        known[point.run_id].trained_bytes * (2 if point.config.train.keep == "none" else 1)
        for point in points
    ]
    return _add_largest(sizes, base)


def _count_checkpoints(
    points: Sequence[Point],
    known: Mapping[str, Prediction],
    base: Config,
    limit_pack: Callable[[Point], int],
) -> int:
    """Count the bytes of checkpoints at most: of runs that train, of rungs to resume, and of those kept.

    A checkpoint holds weights, the best ones so far and the optimizer's states; a new one is written before
    the oldest goes.
    """
    training, kept = list[int](), 0
    for point in points:
        one, train = known[point.run_id], point.config.train
        steps = count_steps(point.config, one.train_rows)
        count = 0 if train.checkpoint_steps is None else (steps - 1) // train.checkpoint_steps
        together = limit_pack(point) if cannot_pack(point.config) is None else 1
        ended = min(len(one.piece_rows) - 1, checkpoint.KEPT + 1) * one.trained_bytes  # trainings of a stream
        training.append(together * min(count, checkpoint.KEPT + 1) * _checkpoint_bytes(one) + ended)
        kept += min(count, checkpoint.KEPT) * _checkpoint_bytes(one) if train.keep == "all" else 0
    if base.sweep.strategy == "halving":
        for rivals in group_points(points):
            kept += sum(_count_by_rung(rivals)[:-1]) * _checkpoint_bytes(known[rivals[0].run_id])
    return kept + _add_largest(training, base)


def _checkpoint_bytes(prediction: Prediction) -> int:
    return 2 * prediction.trained_bytes + prediction.optimizer_bytes


def _add_largest(sizes: Sequence[int], base: Config) -> int:
    """Add up the largest sizes, as many as runs train at once."""
    return sum(sorted(sizes)[-count_slots(base.devices) :])


def _count_tokens(points: Sequence[Point], known: Mapping[str, Prediction]) -> int:
    """Count the bytes of token ids at most, each text as long as the longest; runs share equal texts."""
    sizes: dict[str, int] = {}
    for point in points:
        one, config = known[point.run_id], point.config
        content = repr((config.data, config.model, config.task, config.train.max_length))
        longest = one.batch_tokens // config.train.micro_batch_size
        sizes[content] = _TOKEN_BYTES * (one.train_rows * longest + sum(one.eval_tokens.values()))
    return sum(sizes.values())


def _count_models(points: Sequence[Point], known: Mapping[str, Prediction]) -> tuple[int, int]:
    """Estimate the bytes of models to download from the hub, and count those of GGUF files to convert."""
    sizes = {
        repr(point.config.model): (point.config.model, known[point.run_id].parameters) for point in points
    }
    missing = [
        (model.source, parameters)
        for model, parameters in sizes.values()
        if model.weights == "saved" and not weights.is_here(model)
    ]
    downloads = sum(parameters for source, parameters in missing if source == "hub")
    conversions = sum(parameters for source, parameters in missing if source != "hub")
    return _RELEASED_ITEMSIZE * downloads, _CONVERTED_ITEMSIZE * conversions


def _group_disks(needs: Mapping[tuple[str, str], Mapping[str, int]]) -> tuple[Disk, ...]:
    """Return an entry for each file system, as two folders may share one."""
    disks: dict[int, Disk] = {}
    for (name, folder), parts in needs.items():
        path = Path(folder).absolute()
        there = next(one for one in (path, *path.parents) if one.exists())
        device = there.stat().st_dev
        before = disks.get(device, Disk((), shutil.disk_usage(there).free, {}))
        disks[device] = Disk(
            (*before.folders, f"{name}={folder}"), before.free_bytes, {**before.needs, **parts}
        )
    return tuple(disks.values())


def _find_host(points: Sequence[Point], known: Mapping[str, Prediction], base: Config) -> HostMemory | None:
    """Return the memory of the machine that the most demanding run needs; None if nothing is known."""
    memory, slots = psutil.virtual_memory(), count_slots(base.devices)
    hosts = [
        HostMemory(
            loading_bytes=_count_loading(point.config, known[point.run_id].parameters),
            paged_bytes=known[point.run_id].paged_bytes,
            saving_bytes=known[point.run_id].largest_bytes,
            runs_at_once=slots,
            available_bytes=memory.available,
            total_bytes=memory.total,
        )
        for point in points
    ]
    return max(hosts, key=lambda one: one.needed_bytes, default=None)


def _count_loading(config: Config, parameters: int) -> int:
    """Count the bytes of a saved base that RAM holds before the card; a quantised one goes in pieces."""
    if config.model.weights == "random" or config.method.quantization != "none":
        return 0
    held = config.train.weights if config.method.trainable == "all" else config.train.precision
    return parameters * (4 if held == "fp32" else 2)


def _tell_disk(disk: Disk, space: Space) -> str:
    """Return one file system's needs, and remedies if it lacks the room."""
    parts = ", ".join(
        f"{name} {_gib(value)}" + (" (estimated)" if name == "downloads" else "")
        for name, value in disk.needs.items()
    )
    line = (
        f"disk of {', '.join(disk.folders)}: {_gib(disk.needed_bytes)} GiB needed ({parts}), "
        f"{_gib(disk.free_bytes)} free"
    )
    if disk.missing_bytes <= 0:
        return line
    remedies = ["train.keep=chosen"] if space.keeps_all and disk.needs.get("weights") else []
    checkpoints = disk.needs.get("checkpoints", 0)
    remedies += ["train.checkpoint_steps=null"] if disk.missing_bytes <= checkpoints else []
    remedies += [f"another {folder.partition('=')[0]}=" for folder in disk.folders]
    return (
        f"{line}: the disk would be full before the end; free some, or set {' or '.join(remedies)}; "
        "plan.force=true tries it"
    )


def _tell_host(host: HostMemory) -> str:
    at_once = f" for {host.runs_at_once} runs at once" if host.runs_at_once > 1 else ""
    return (
        f"RAM: {_gib(host.needed_bytes)} GiB needed{at_once} (the process {_gib(PROCESS_BYTES)}; the base on "
        f"its way to the card {_gib(host.loading_bytes)}, or paged optimizer states {_gib(host.paged_bytes)} "
        f"and a tensor that is saved {_gib(host.saving_bytes)}), {_gib(host.available_bytes)} of "
        f"{_gib(host.total_bytes)} available"
    )


def _gib(count: int) -> str:
    return f"{count / GIB:.1f}"
