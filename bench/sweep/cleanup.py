"""What a sweep removes from the disk: leftovers of killed processes, weights of runs that were not chosen."""

import contextlib
from collections.abc import Mapping, Sequence

from bench.errors import StoreError
from bench.files import remove_temporary
from bench.results import selection
from bench.results.selection import Selection
from bench.results.store import Result, Store
from bench.run.run import tidy
from bench.sweep.plan import Point
from bench.train import checkpoint
from bench.train.checkpoint import BEST


def remove_leftovers(store: Store) -> None:
    """Remove parts of files that killed processes left, and checkpoints of runs that are done.

    Runs without a success keep their checkpoints, from which they resume; a run that another process holds
    is left alone.
    """
    remove_temporary(store.folder)
    for record in store.read_all()[0]:
        with contextlib.suppress(StoreError), store.claim(record.run_id):  # which removes parts of files
            if record.is_success:
                tidy(record, store)


def remove_losers(store: Store, planned: Mapping[str, Point], chosen: Sequence[Selection]) -> int:
    """Remove weights and checkpoints of runs that lost against their method's best; return the bytes.

    ``train.keep`` decides: as the plan has it now, or as the record has it of a run of another sweep. Kept
    are the runs that this sweep chose, and those that the table and best:METHOD choose in the whole folder.
    """
    results, _ = store.read_all()
    select_by = selection.read_criterion(results)
    groups = selection.group_by_method(selection.fill_scores(results, store, select_by))
    freed = 0
    for best in chosen:
        rivals = groups.get(selection.method_key(best.results[0]), [])
        overall = selection.select_best(rivals, select_by=select_by)
        winners = [*best.results, *(overall.results if overall else ())]
        kept = {winner.run_id for winner in winners}
        for rival in rivals:
            lost = rival.is_success and rival.run_id not in kept and _gives_way(store, rival, planned)
            if lost and not store.is_held(rival.run_id):
                freed += _count_disk(store, rival)
                checkpoint.tidy(store.run_folder(rival.run_id), policy="none", stopped=False)
    return freed


def _gives_way(store: Store, result: Result, planned: Mapping[str, Point]) -> bool:
    """Return whether the run's weights go now; another sweep may still resume a rung of its own."""
    if selection.is_stopped(result) and result.run_id not in planned:
        return False
    train, method = result.config["train"], result.config["method"]
    point = planned.get(result.run_id)
    policy = train.get("keep", "best") if point is None else point.config.train.keep
    path = store.run_folder(result.run_id) / BEST
    size = path.stat().st_size if path.exists() else 0
    return checkpoint.is_for_chosen(policy, trainable=method["trainable"], weights_bytes=size)


def _count_disk(store: Store, result: Result) -> int:
    return sum(checkpoint.measure_disk(store.run_folder(result.run_id)).values())
