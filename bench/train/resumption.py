"""The checkpoint that a training goes on from, the newest of its own, and what it had cost by then."""

import json
import logging
import shutil
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from bench.config.identity import identify
from bench.config.schema import Config, replace_values
from bench.data.dataset import Dataset
from bench.errors import StoreError
from bench.files import replacing
from bench.model import weights
from bench.train import checkpoint, state
from bench.train.checkpoint import BEST
from bench.train.meter import Meter
from bench.train.training import Progress, Training

SPENT = "spent.json"  # in a checkpoint: what the run had cost
EARLIER = "earlier"  # the meter's name for all the seconds of earlier attempts
_COMPUTING = ("torch", "transformers", "peft", "bitsandbytes", "accelerate")  # may change what comes out
_logger = logging.getLogger(__name__)


def describe_lineage(
    config: Config, dataset: Dataset, *, device: torch.device, precision: str
) -> dict[str, Any]:
    """Describe what two trainings must share for one to go on from the other's checkpoint as from its own."""
    whole = replace_values(config, {"train.stop_step": None})
    identity = identify(
        whole, data_fingerprint=dataset.fingerprint, model_revision=weights.revision(config.model)
    )
    return {
        "run": identity.run_id,
        "oom_halvings": config.oom_halvings,
        "select_by": config.sweep.select_by,
        "device": device.type,
        "precision": precision,
        "packages": {name: metadata.version(name) for name in _COMPUTING},
    }


def resume(
    training: Training, config: Config, *, run_folder: Path, lineage: Mapping[str, Any], meter: Meter
) -> int | None:
    """Put the training where its newest valid checkpoint is, and return the step; None is the beginning.

    Its own checkpoints come before those of the run ``resume_from``, which are only read.
    """
    folders = [run_folder, *([run_folder.parent / config.resume_from] if config.resume_from else [])]
    valid = (
        path
        for folder in folders
        for path in checkpoint.find(folder, lineage=lineage, last_step=training.stop)
    )
    path = next(valid, None)
    if path is not None:
        state.load(training, path)
        _add_spent(meter, json.loads((path / SPENT).read_text(encoding="utf-8")))
        _take_best(training.members[0].progress, path, run_folder)
        _logger.info("goes on from step %d, %s", training.step, path)
    elif config.resume_from:
        _logger.warning("resume_from=%s: has no checkpoint to go on from; begins anew", config.resume_from)
    checkpoint.remove_after(run_folder, training.step)
    return None if path is None else training.step


def _take_best(progress: Progress, path: Path, run_folder: Path) -> None:
    """Take the best weights as of the checkpoint: those in the run's folder may be of a later evaluation."""
    if progress.best_step is None:
        return
    source = path / (state.WEIGHTS if progress.best_step == progress.steps else BEST)
    with replacing(run_folder / BEST, durable=False) as partial:
        shutil.copyfile(source, partial)


def save_checkpoint(
    training: Training, *, run_folder: Path, lineage: Mapping[str, Any], meter: Meter
) -> None:
    """Write a checkpoint; a disk that refuses it costs the checkpoint and not the run."""
    [member] = training.members
    progress = member.progress

    def save(folder: Path) -> None:
        state.save(training, folder)
        (folder / SPENT).write_text(json.dumps(_read_spent(meter)), encoding="utf-8")
        if progress.best_step not in (None, progress.steps):  # else they are the checkpoint's own weights
            shutil.copyfile(run_folder / BEST, folder / BEST)

    try:
        checkpoint.write(run_folder, step=progress.steps, lineage=lineage, save=save)
    except (OSError, StoreError) as error:
        _logger.warning("the checkpoint of step %d cannot be written: %s", progress.steps, error)


def _read_spent(meter: Meter) -> dict[str, Any]:
    """Read what the run has cost so far, over all its attempts."""
    seconds = {name: meter.seconds[name] for name in ("train", "eval") if name in meter.seconds}
    total = meter.time_record()["total_seconds"] or 0.0
    return {
        "seconds": {**seconds, EARLIER: total + meter.seconds.get(EARLIER, 0.0)},
        "peaks": {name: meter.peaks[name] for name in ("train", "eval") if name in meter.peaks},
        "joules": meter.joules,
    }


def _add_spent(meter: Meter, spent: Mapping[str, Any]) -> None:
    """Count what earlier attempts cost up to the checkpoint as this one's."""
    meter.seconds |= spent["seconds"]
    meter.peaks |= spent["peaks"]
    meter.joules = spent["joules"]
