"""The checkpoint that a training goes on from, the newest of its own, and what it had cost by then."""

import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from bench.config.identity import identify
from bench.config.schema import Config, replace_values
from bench.data.dataset import Dataset
from bench.errors import RunError, StoreError
from bench.files import replacing
from bench.model import weights
from bench.train import checkpoint, state
from bench.train.checkpoint import BEST
from bench.train.meter import Meter
from bench.train.training import Member, Progress, Training

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
        whole,
        data_fingerprint=dataset.fingerprint,
        model_revision=weights.revision(config.model),
        unlabelled=dataset.unlabelled_fingerprint,
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
    training: Training,
    configs: Sequence[Config],
    *,
    run_folders: Sequence[Path],
    lineages: Sequence[Mapping[str, Any]],
    meter: Meter,
) -> int | None:
    """Put the training where its newest valid checkpoints are; return their step, or None at the beginning.

    A run's own checkpoints come before those of the run ``resume_from``, which are only read. Runs of a
    pack go on together, from a step of which each of them has a checkpoint.
    """
    places = [
        [folder, *([folder.parent / config.resume_from] if config.resume_from else [])]
        for folder, config in zip(run_folders, configs, strict=True)
    ]
    paths = _find_common(places, lineages, last_step=training.stop)
    for member, folder, path in zip(training.members, run_folders, paths, strict=False):
        state.load(training, member, path)
        _take_best(member.progress, path, folder)
    if paths:
        add_spent(meter, [json.loads((path / SPENT).read_text(encoding="utf-8")) for path in paths])
        _logger.info("goes on from step %d, %s", training.step, ", ".join(map(str, paths)))
    elif earlier := [config.resume_from for config in configs if config.resume_from]:
        _logger.warning("resume_from=%s: has no checkpoint to go on from; begins anew", ", ".join(earlier))
    for folder in run_folders:
        checkpoint.remove_after(folder, training.step)
    return training.step if paths else None


def _find_common(
    places: Sequence[Sequence[Path]], lineages: Sequence[Mapping[str, Any]], *, last_step: int
) -> list[Path]:
    """Find a checkpoint of each member at one step, the newest that all have; return none without any."""
    first, *others = (
        _find_all(folders, lineage, last_step) for folders, lineage in zip(places, lineages, strict=True)
    )
    by_step = [{path.name: path for path in reversed(list(found))} for found in others]
    return next(
        (
            [path, *(paths[path.name] for paths in by_step)]
            for path in first
            if all(path.name in paths for paths in by_step)
        ),
        [],
    )


def _find_all(folders: Sequence[Path], lineage: Mapping[str, Any], last_step: int) -> Iterator[Path]:
    """Find a member's valid checkpoints, those of the first folder before the others'."""
    for folder in folders:
        yield from checkpoint.find(folder, lineage=lineage, last_step=last_step)


def _take_best(progress: Progress, path: Path, run_folder: Path) -> None:
    """Take the best weights as of the checkpoint: those in the run's folder may be of a later evaluation."""
    if progress.best_step is None:
        return
    source = path / (state.WEIGHTS if progress.best_step == progress.steps else BEST)
    with replacing(run_folder / BEST, durable=False) as partial:
        shutil.copyfile(source, partial)


def save_checkpoints(
    training: Training,
    *,
    run_folders: Mapping[Member, Path],
    lineages: Mapping[Member, Mapping[str, Any]],
    meter: Meter,
) -> None:
    """Write a checkpoint of each running member; a disk that refuses it costs the checkpoint and not the run.

    Raises:
        DivergedError: the loss of a run alone is NaN or infinite.
    """
    for member in training.running:
        try:
            _save_one(training, member, run_folders[member], lineages[member], meter)
        except RunError as error:
            training.end(member, error)
        except (OSError, StoreError) as error:
            _logger.warning("the checkpoint of step %d cannot be written: %s", member.progress.steps, error)


def _save_one(
    training: Training, member: Member, run_folder: Path, lineage: Mapping[str, Any], meter: Meter
) -> None:
    progress = member.progress

    def save(folder: Path) -> None:
        state.save(training, member, folder)
        (folder / SPENT).write_text(json.dumps(read_spent(meter)), encoding="utf-8")
        if progress.best_step not in (None, progress.steps):  # else they are the checkpoint's own weights
            shutil.copyfile(run_folder / BEST, folder / BEST)

    checkpoint.write(run_folder, step=progress.steps, lineage=lineage, save=save)


def read_spent(meter: Meter) -> dict[str, Any]:
    """Read what the run, or the whole pack, has cost so far, over all its attempts."""
    seconds = {name: meter.seconds[name] for name in ("train", "eval") if name in meter.seconds}
    total = meter.time_record()["total_seconds"] or 0.0
    return {
        "seconds": {**seconds, EARLIER: total + meter.seconds.get(EARLIER, 0.0)},
        "peaks": {name: meter.peaks[name] for name in ("train", "eval") if name in meter.peaks},
        "joules": meter.joules,
        "runs": meter.runs,
    }


def add_spent(meter: Meter, found: Sequence[Mapping[str, Any]]) -> None:
    """Count what earlier attempts cost up to the checkpoints as this one's; of several, the longest."""
    spent = max(found, key=lambda one: float(one["seconds"][EARLIER]))
    meter.runs = max(meter.runs, *(int(one.get("runs", 1)) for one in found))
    meter.seconds |= spent["seconds"]
    meter.peaks |= spent["peaks"]
    meter.joules = spent["joules"]
