"""A run's mirror at W&B: started with the run, and made again from the record where it is partial."""

import contextlib
import dataclasses
import logging
import shutil
from pathlib import Path

from bench.config.identity import describe
from bench.config.schema import Config, from_record
from bench.errors import BenchError, HeldError
from bench.results.store import Result, Store
from bench.run.tracking import wandb_run as tracking
from bench.run.tracking.wandb_run import Mode, Tracker

_REMADE = Mode("offline", "made from the record; upload later with `bench sync`")
_log = logging.getLogger(__name__)


def start_tracker(config: Config, record: Result, mode: Mode, *, wandb_run_id: str | None = None) -> Tracker:
    """Start the W&B run that mirrors a run, under a new id unless one is given."""
    folder = Path(config.results_dir)
    return tracking.start(
        mode,
        project=config.track.project,
        entity=config.track.entity,
        folder=folder,
        run_id=record.run_id,
        name=describe(config),
        group=folder.name,
        tags=[config.method.name, config.model.name, config.data.name],
        config=record.config,
        wandb_run_id=wandb_run_id,
    )


def flatten(result: Result) -> dict[str, object]:
    """Return the table's columns of a record, as W&B's summary."""
    train_memory = result.memory.get("train") or {}
    return {
        "status": result.status,
        "train_seconds": result.time.get("train_seconds"),
        "pack_size": (result.packed or {}).get("size"),
        **{f"train_{name}": value for name, value in train_memory.items()},
        **{
            f"{split}_{name}": value
            for split, scores in result.metrics.items()
            for name, value in (scores or {}).items()  # a training that was stopped has no test scores
            if name != "f1_by_label"
        },
        **{f"{name}_parameters": value for name, value in result.parameters.items()},
        **result.throughput,
    }


def describe_tracker(tracker: Tracker) -> dict[str, str | None]:
    """Return the block ``tracking`` of a record."""
    return {"mode": tracker.mode, "wandb_run_id": tracker.wandb_run_id, "reason": tracker.reason}


def mend(store: Store, defaults: Config) -> tuple[int, int]:
    """Leave exactly one offline W&B run for each success; return how many were made and how many removed.

    Runs of attempts that a success has replaced are removed; a run that is missing, or whose process was
    killed before it was complete, is made from the record, under its id where the record has one. What was
    uploaded, or was online, stays as it is, and so does what another process trains.
    ``defaults`` gives settings that old records lack.
    """
    made = removed = 0
    for record in store.read_all()[0]:
        if not record.is_success:
            continue
        with contextlib.suppress(HeldError), store.claim(record.run_id):
            removed += _remove_replaced(record, store)
            made += _remake(record, store, defaults)
    return made, removed


def _remove_replaced(record: Result, store: Store) -> int:
    """Remove W&B runs of earlier attempts that were not uploaded; return how many."""
    folders = tracking.find_folders(store.folder, f"{record.run_id}-*")
    replaced = [one for one in folders if not one.name.endswith(f"-{record.tracking.get('wandb_run_id')}")]
    for folder in replaced:
        shutil.rmtree(folder)
    return len(replaced)


def _remake(record: Result, store: Store, defaults: Config) -> bool:
    """Make the W&B run of a success from its record if it lacks a complete one; return whether."""
    wandb_run_id = record.tracking.get("wandb_run_id")
    if wandb_run_id is None:
        wanted = (record.tracking.get("reason") or "").startswith(tracking.NOT_STARTED)
    else:
        wanted = record.tracking["mode"] == "offline" and not tracking.is_whole(store.folder, wandb_run_id)
    if not wanted:
        return False
    for partial in tracking.find_folders(store.folder, str(wandb_run_id)):
        shutil.rmtree(partial)
    try:
        config = dataclasses.replace(
            from_record(defaults, record.config), results_dir=str(store.folder)
        )  # which may have moved
        rows, predictions = store.read_history(record.run_id), store.read_predictions(record.run_id)
    except BenchError as error:
        _log.warning("run %s: its W&B run cannot be made again: %s", record.run_id, error)
        return False
    tracker = start_tracker(config, record, _REMADE, wandb_run_id=wandb_run_id)
    for row in rows:
        tracker.log({name: value for name, value in row.items() if name != "step"}, step=row["step"])
    tracker.finish(summary=flatten(record), predictions=predictions, success=True)
    store.write(dataclasses.replace(record, tracking=describe_tracker(tracker)))
    return tracker.wandb_run_id is not None
