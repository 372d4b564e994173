"""Fits a pack: runs that share all but their adapters' hyperparameters, over one frozen base."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from transformers import set_seed

from bench.config.schema import Config
from bench.data import tokens
from bench.data.dataset import Dataset
from bench.model import trained
from bench.packs import network
from bench.packs.loop import PackTraining, predict, prepare, train
from bench.train import loop, metrics
from bench.train.checkpoint import BEST
from bench.train.device import choose_precision
from bench.train.fit import Fitted, count_steps, describe_trained, tokenise
from bench.train.meter import Meter


def fit_pack(
    configs: Sequence[Config],
    dataset: Dataset,
    *,
    model_folder: Path | None,
    run_folders: Sequence[Path],
    meter: Meter,
    logs: Sequence[loop.Log],
) -> list[Fitted | BaseException]:
    """What fit makes of each run, all trained at once; a run that diverged comes back as its RunError.

    The runs must be of one packable.shared_key. With dropout they are not the same as alone, but as likely:
    all random numbers are drawn for the whole pack. ``meter`` measures the whole pack too.

    Raises:
        ConfigError: the method does not fit the model or this machine.
    """
    set_seed(configs[0].seed)
    packed, splits, padding = _load(configs, dataset, model_folder=model_folder, meter=meter, logs=logs)
    bests = {
        one.member.adapter: folder / BEST for one, folder in zip(packed.trainings, run_folders, strict=True)
    }
    _train(packed, configs[0], splits, padding=padding, bests=bests, meter=meter)
    running = packed.running
    with meter.phase("save"):
        for one in running:
            trained.read(one.member.trained, bests[one.member.adapter])
    with meter.phase("eval"):
        found = _predict(packed, splits["test"], padding) if running else []
    choices = {**packed.pack.choices, "resumed_from_step": None}
    fitted = {
        one.member.adapter: describe_trained(
            one.training,
            tested,
            {"trainable": one.member.trainable_parameters, "total": one.member.total_parameters},
            choices,
            split=splits["train"],
            meter=meter,
        )
        for one, tested in zip(running, found, strict=True)
    }
    return [one.error or fitted[one.member.adapter] for one in packed.trainings]


def _load(
    configs: Sequence[Config],
    dataset: Dataset,
    *,
    model_folder: Path | None,
    meter: Meter,
    logs: Sequence[loop.Log],
) -> tuple[PackTraining, dict[str, tokens.TokenisedSplit], tokens.Padding]:
    """The pack before its first step, the texts as its token ids, and how its batches are padded."""
    first = configs[0]
    precision = choose_precision(first.train.precision, meter.device)
    accelerator = loop.make_accelerator(meter.device, precision)
    with meter.phase("data"):
        splits, padding, task = tokenise(first, dataset, model_folder=model_folder)
    with meter.phase("load"):
        pack = network.build(
            configs,
            folder=model_folder,
            labels=dataset.labels,
            pad_token_id=padding.token_id,
            device=meter.device,
            precision=precision,
        )
    steps = count_steps(first.train, rows=len(splits["train"]))
    packed = prepare(pack, configs, task=task, steps=steps, accelerator=accelerator, logs=logs)
    return packed, splits, padding


def _train(
    packed: PackTraining,
    shared: Config,
    splits: dict[str, tokens.TokenisedSplit],
    *,
    padding: tokens.Padding,
    bests: dict[str, Path],
    meter: Meter,
) -> None:
    settings = shared.train
    train(
        packed,
        tokens.train_batches(
            splits["train"],
            micro_batch_size=settings.micro_batch_size,
            micro_batches=packed.steps * settings.gradient_accumulation_steps,
            seed=shared.seed,
            group_by_length=settings.group_by_length,
            padding=padding,
        ),
        meter=meter,
        predict=lambda: _predict(packed, splits["validation"], padding),
        score=lambda probabilities: metrics.score(probabilities, splits["validation"].labels),
        select_by=shared.sweep.select_by,
        save_best=lambda member: trained.write(member.trained, bests[member.adapter]),
    )


def _predict(
    packed: PackTraining, split: tokens.TokenisedSplit, padding: tokens.Padding
) -> list[npt.NDArray[np.float64]]:
    """Each running member's probabilities; as many rows at once as alone, or as in a step of training."""
    running = packed.running
    settings = running[0].training.settings
    rows = max(settings.eval_batch_size // len(running), settings.micro_batch_size)
    rows = max(1, rows // packed.task.sequences)
    return predict(packed, tokens.eval_batches(split, batch_size=rows, padding=padding))
