"""Fits classifiers, networks or baselines, and has them classify the held-out texts."""

import dataclasses
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from torch import nn
from transformers import set_seed

from bench.config.schema import Config, TrainConfig
from bench.data import prompt as prompts
from bench.data import tokens
from bench.data.dataset import Dataset, name_labels
from bench.errors import ConfigError, RunError
from bench.model import build, positions, random_weights, trained, weights
from bench.train import baselines, loop, metrics, optimizers, parallel, resumption
from bench.train import task as tasks
from bench.train.checkpoint import BEST
from bench.train.device import choose_precision
from bench.train.meter import Meter
from bench.train.training import (
    Log,
    Member,
    Networks,
    Probabilities,
    Training,
    build_alone,
    find_stream,
    list_streams,
    make_accelerator,
    prepare,
)

_logger = logging.getLogger(__name__)
EVALUATED = ("validation", "test")


@dataclass(frozen=True)
class Fitted:
    """A classifier's answers and what fitting it took, as the blocks of a record."""

    probabilities: Mapping[str, Probabilities]  # by split
    parameters: dict[str, int | None]  # {trainable, total}
    model: dict[str, Any] = field(default_factory=dict)
    throughput: dict[str, float | None] = field(default_factory=dict)
    truncated_share: float | None = None
    reasons: dict[str, str] = field(default_factory=dict)


class Texts(NamedTuple):
    """A data set as a model's token ids, how its batches are padded, and what the model makes of them."""

    splits: dict[str, tokens.TokenisedSplit]
    padding: tokens.Padding
    task: tasks.Task


def fit(
    config: Config,
    dataset: Dataset,
    *,
    model_folder: Path | None,
    run_folder: Path,
    meter: Meter,
    log: Log,
) -> Fitted:
    """Fit what the method's estimator names; ``log`` gets the rows of the history as they come.

    Raises:
        ConfigError: the method does not fit the model or this machine.
        DivergedError: the loss stopped being a number.
    """
    set_seed(config.seed)
    if config.method.estimator == "network":
        [alone] = fit_together(
            [config],
            [dataset],
            build_networks=build_alone,
            model_folder=model_folder,
            run_folders=[run_folder],
            meter=meter,
            logs=[log],
        )
        assert isinstance(alone, Fitted)  # its error would have been raised
        return alone
    if config.method.estimator in ("frozen_encoder", "zero_shot"):
        return _fit_on_frozen(config, dataset, model_folder=model_folder, meter=meter)
    fit_baseline = {"tfidf": baselines.fit_tfidf, "majority": baselines.fit_majority}
    with meter.phase("train"):
        fitted = fit_baseline[config.method.estimator](dataset)
    return _describe_baseline(fitted, total=fitted.parameters)


def score_all(probabilities: Mapping[str, Probabilities], dataset: Dataset) -> dict[str, dict[str, float]]:
    """Compute the block ``metrics`` of a record: accuracy, f1_macro and loss of each evaluated split."""
    return {
        split: metrics.score(values, dataset.splits[split]["label"].to_numpy())
        for split, values in probabilities.items()
    }


def fit_together(
    configs: Sequence[Config],
    datasets: Sequence[Dataset],
    *,
    build_networks: Callable[..., Networks],
    model_folder: Path | None,
    run_folders: Sequence[Path],
    meter: Meter,
    logs: Sequence[Log],
) -> list[Fitted | RunError]:
    """Train one network or those of a pack, and evaluate each one's best state; a diverged one has its error.

    Args:
        build_networks: makes the networks of the configurations, as build_alone does that of one

    Raises:
        ConfigError: the method does not fit the model or this machine.
        DivergedError: a run alone diverged.
    """
    training, texts, trains, choices = _load(
        configs, datasets, build_networks=build_networks, model_folder=model_folder, meter=meter, logs=logs
    )
    weights = {member: folder / BEST for member, folder in zip(training.members, run_folders, strict=True)}
    resumed = None
    lineage = resumption.describe_lineage(
        configs[0], datasets[0], device=meter.device, precision=choices["precision"]
    )
    if len(configs) == 1 and training.settings.distributed == "none":
        with meter.phase("save"):
            resumed = resumption.resume(
                training, configs[0], run_folder=run_folders[0], lineage=lineage, meter=meter
            )
    batches = _make_batches(training, configs, trains, padding=texts.padding)
    _train_to_stop(training, configs[0], texts, batches, weights=weights, lineage=lineage, meter=meter)
    running = training.running
    with meter.phase("save"):
        training.accelerator.wait_for_everyone()  # above all for the first process, which writes
        for member in running:
            trained.read(member.part.find(), weights[member])
    with meter.phase("eval"):
        if any(member.best is None for member in running):  # an earlier attempt made it
            for member, probabilities in zip(running, _predict(training, texts, "validation"), strict=True):
                member.best = probabilities
        tested: Iterable[Probabilities] = _predict(training, texts, "test") if running else []
    choices = {**choices, "resumed_from_step": resumed}
    fitted = {
        member: _describe(training, member, probabilities, choices, split=trains[member.stream], meter=meter)
        for member, probabilities in zip(running, tested, strict=True)
    }
    return [member.error or fitted[member] for member in training.members]


def _load(
    configs: Sequence[Config],
    datasets: Sequence[Dataset],
    *,
    build_networks: Callable[..., Networks],
    model_folder: Path | None,
    meter: Meter,
    logs: Sequence[Log],
) -> tuple[Training, Texts, list[tokens.TokenisedSplit], dict[str, Any]]:
    """Load the texts and the model, for a training that is before its first step.

    Returns:
        The training, the texts, those that each stream of it is trained on, and the choices made.
    """
    config, settings = configs[0], configs[0].train
    precision = choose_precision(settings.precision, meter.device)
    accelerator = make_accelerator(meter.device, precision, parallel.plug_in(settings, precision))
    with accelerator.main_process_first(), meter.phase("data"):  # the others find its tokens on the disk
        texts, trains = _tokenise_each(configs, datasets, model_folder=model_folder)
    # What is sharded need not fit on one device.
    place = torch.device("cpu") if settings.distributed == "fsdp2" else meter.device
    with meter.phase("load"):
        networks = build_networks(
            configs,
            folder=model_folder,
            labels=datasets[0].labels,
            pad_token_id=texts.padding.token_id,
            device=place,
            precision=precision,
        )
    if rank := accelerator.process_index:  # the same weights as the first process, but dropout of its own
        torch.manual_seed(config.seed + (rank << 32))
    steps = count_steps(settings, rows=len(texts.splits["train"]))
    training = prepare(networks, configs, task=texts.task, steps=steps, accelerator=accelerator, logs=logs)
    return training, texts, trains, networks.choices


def _tokenise_each(
    configs: Sequence[Config], datasets: Sequence[Dataset], *, model_folder: Path | None
) -> tuple[Texts, list[tokens.TokenisedSplit]]:
    """Tokenise what the runs are evaluated on, the same texts for all, and what each stream is trained on."""
    first = tokenise(configs[0], datasets[0], model_folder=model_folder)
    splits = {datasets[0].fingerprint: first.splits["train"]}
    for config, dataset in zip(configs, datasets, strict=True):
        if dataset.fingerprint not in splits:
            other = tokenise(config, dataset, model_folder=model_folder)
            splits[dataset.fingerprint] = other.splits["train"]
    streams = {find_stream(one): splits[its.fingerprint] for one, its in zip(configs, datasets, strict=True)}
    return first, list(streams.values())


def _train_to_stop(
    training: Training,
    config: Config,
    texts: Texts,
    batches: Iterable[tokens.Batch],
    *,
    weights: Mapping[Member, Path],
    lineage: Mapping[str, Any],
    meter: Meter,
) -> None:
    """Train to the end or to stop_step; each member's best weights are in its file afterwards."""
    first = training.members[0]
    meter.count_paged = partial(optimizers.count_paged, first.optimizer)
    for row in first.progress.history:  # a run that is resumed has the record of the whole training
        first.log({name: value for name, value in row.items() if name != "step"}, int(row["step"] or 0))
    loop.train(
        training,
        batches,
        meter=meter,
        predict=lambda: _predict(training, texts, "validation"),
        score=lambda probabilities: metrics.score(probabilities, texts.splits["validation"].labels),
        select_by=config.sweep.select_by,
        save_best=lambda member: trained.write(
            member.part.find(), weights[member], writes=training.accelerator.is_main_process
        ),
        save_checkpoint=lambda: resumption.save_checkpoint(
            training, run_folder=weights[first].parent, lineage=lineage, meter=meter
        ),
    )


def _make_batches(
    training: Training,
    configs: Sequence[Config],
    trains: Sequence[tokens.TokenisedSplit],
    *,
    padding: tokens.Padding,
) -> Iterator[tokens.Batch]:
    """Make the micro-batches of the steps that are left."""
    settings = training.settings
    grid: dict[str, Any] = {
        "micro_batch_size": settings.micro_batch_size,
        "micro_batches": training.steps * settings.gradient_accumulation_steps,
        "group_by_length": settings.group_by_length,
        "padding": padding,
        "skipped": training.step * settings.gradient_accumulation_steps,
        "merged": training.merged,
    }
    if training.streams == 1:
        return tokens.train_batches(trains[0], seed=configs[0].seed, **grid)
    seeds = [seed for seed, *_ in list_streams(configs)]
    return tokens.train_batches_apart(list(zip(trains, seeds, strict=True)), **grid)


def _predict(training: Training, texts: Texts, split: str) -> npt.NDArray[np.float64]:
    """Predict a split with as many rows at once as a run alone has, or a step. # (members, rows, labels)"""
    settings = training.settings
    rows = settings.eval_batch_size
    rows = max(rows // len(training.running), min(rows, settings.micro_batch_size)) // texts.task.sequences
    batches = tokens.eval_batches(texts.splits[split], batch_size=max(1, rows), padding=texts.padding)
    return loop.predict(training, batches)


def _describe(
    training: Training,
    member: Member,
    tested: Probabilities,
    choices: Mapping[str, Any],
    *,
    split: tokens.TokenisedSplit,
    meter: Meter,
) -> Fitted:
    """Describe what training a run led to; with ``resumed_from_step`` its times are less exact."""
    assert member.best is not None  # every training ends in an evaluation
    part, progress, processes = member.part, member.progress, training.settings.processes
    steps: dict[str, int | None] = {"steps": progress.steps, "best_step": progress.best_step}
    steps["skipped_steps"] = progress.skipped_steps if training.scales_loss else None
    reasons = _explain_cut(choices["max_length"], training.settings)
    if not training.scales_loss:
        reasons["model.skipped_steps"] = (
            f"only fp16 scales the loss and skips steps, and the run computes in {choices['precision']}"
        )
    if isinstance(training.task, tasks.LabelLikelihood):
        steps["prompt_readings"] = training.task.readings
        if reason := _explain_readings(training.task):
            reasons["model.prompt_readings"] = reason
    return Fitted(
        {"validation": member.best, "test": tested},
        parameters={"trainable": part.trainable_parameters, "total": part.total_parameters},
        model={**choices, **steps, "processes": processes},  # the first one's memory, energy and history
        throughput=progress.rates(meter.seconds["train"]),
        truncated_share=split.truncated_share,
        reasons=reasons,
    )


def tokenise(config: Config, dataset: Dataset, *, model_folder: Path | None) -> Texts:
    """Turn the splits into the model's token ids; a prompt goes around each text where the task has one."""
    prompt, tokenizer = None, _load_tokenizer(config, model_folder)
    if writes_labels(config):
        words = name_labels(dataset.labels, config.data)
        prompt = prompts.make(tokenizer, template=config.model.template, words=words)
    length = build.fit_length(config.train.max_length, config.model, model_folder)
    if length < config.train.max_length:
        _logger.warning("%s", _explain_length(config.train.max_length, length))
    splits = tokens.tokenise(
        dataset,
        tokenizer,
        max_length=length,
        cache_dir=config.cache_dir,
        prompt=prompt,
    )
    if model_folder is not None:
        _require_known(splits, model_folder)
    padding = tokens.Padding.of(tokenizer)
    if prompt is not None:  # answers follow it
        padding = dataclasses.replace(padding, side="left")
    task = tasks.make(prompt, build.load_settings(config.model, model_folder))
    if reason := _explain_readings(task):
        _logger.warning("%s", reason)
    return Texts(splits, padding, task)


def _explain_readings(task: tasks.Task) -> str | None:
    """Say why evaluation reads each prompt more than once, if it does."""
    if task.readings == 1:
        return None
    return (
        "the architecture keeps other than keys and values of what it has read, so each prompt is read again "
        f"for each of the {task.readings} ways in which labels begin"
    )


def writes_labels(config: Config) -> bool:
    """Return whether the method reads prompts, after which labels are more or less likely."""
    return config.task == "label_likelihood" and config.method.estimator in ("network", "zero_shot")


def _load_tokenizer(config: Config, model_folder: Path | None) -> Any:
    if model_folder is None:
        return random_weights.make_tokenizer(config.model)
    return build.load_tokenizer(model_folder)


def _explain_cut(length: int, settings: TrainConfig) -> dict[str, str]:
    """Return the record's reason for a length other than train.max_length, if it is another."""
    wanted = settings.max_length
    return {} if length == wanted else {"model.max_length": _explain_length(wanted, length)}


def _explain_length(wanted: int, length: int) -> str:
    return f"train.max_length={wanted}: the model has positions for {length} tokens, so texts are cut there"


def _require_known(splits: Mapping[str, tokens.TokenisedSplit], folder: Path) -> None:
    """Raise a ConfigError where texts hold words that were added to the tokenizer alone, not to the model."""
    words = weights.count_words(folder)
    highest = max(int(split.ids.max()) for split in splits.values())
    if highest >= words:
        raise ConfigError(
            f"{folder}: its tokenizer gives texts the word {highest}, and the model has {words} words; save "
            "the model again after model.resize_token_embeddings(len(tokenizer))"
        )


def count_steps(settings: TrainConfig, *, rows: int) -> int:
    """Count the optimizer steps of a training on this many rows: max_steps, or those of the epochs.

    Raises:
        ConfigError: stop_step lies beyond them.
    """
    steps = settings.max_steps
    if steps is None:
        micro_batches = math.ceil(rows / settings.micro_batch_size) * (settings.epochs or 0)
        steps = max(1, math.ceil(micro_batches / settings.gradient_accumulation_steps))
    if settings.stop_step is not None and settings.stop_step > steps:
        raise ConfigError(
            f"train.stop_step={settings.stop_step}: the training has {steps} steps; stop at one of them, "
            "or set null to train to the end"
        )
    return steps


def _fit_on_frozen(config: Config, dataset: Dataset, *, model_folder: Path | None, meter: Meter) -> Fitted:
    """Fit what only reads the base: a logistic regression on its last hidden states, or nothing at all."""
    settings = config.train
    precision = choose_precision(settings.precision, meter.device)
    accelerator = make_accelerator(meter.device, precision)
    with meter.phase("data"):
        texts = tokenise(config, dataset, model_folder=model_folder)
    with meter.phase("load"):
        base = _load_frozen(
            config, dataset, texts, folder=model_folder, device=meter.device, precision=precision
        )
    with meter.phase("train"):
        if writes_labels(config):
            fitted = _ask(base, texts, config, accelerator)
        else:
            fitted = _compare(base, texts, config, dataset, model_folder, accelerator)
    base_parameters = sum(parameter.numel() for parameter in base.parameters())
    described = _describe_baseline(fitted, total=fitted.parameters + base_parameters)
    length = positions.cut_length(settings.max_length, base)
    return dataclasses.replace(
        described,
        model={
            "architecture": type(base).__name__,
            **build.describe_source(config.model, model_folder),
            "precision": precision,
            "max_length": length,
        },
        truncated_share=texts.splits["train"].truncated_share,
        reasons=described.reasons | _explain_cut(length, settings),
    )


def _load_frozen(
    config: Config,
    dataset: Dataset,
    texts: Texts,
    *,
    folder: Path | None,
    device: torch.device,
    precision: str,
) -> nn.Module:
    """Load the base to be read from only, with its head for words where it writes labels."""
    if not writes_labels(config):
        return build.load_encoder(config.model, folder, device=device, precision=precision)
    base = build.build_base(
        config,
        folder=folder,
        labels=dataset.labels,
        pad_token_id=texts.padding.token_id,
        device=device,
        precision=precision,
    )
    module: nn.Module = base.model.requires_grad_(False)
    return module.to(device)


def _ask(base: nn.Module, texts: Texts, config: Config, accelerator: Accelerator) -> baselines.FittedBaseline:
    """Ask the base how likely it is to write each label."""
    rows = max(1, config.train.eval_batch_size // texts.task.sequences)
    return baselines.FittedBaseline(
        {
            split: loop.ask(
                base,
                tokens.eval_batches(texts.splits[split], batch_size=rows, padding=texts.padding),
                task=texts.task,
                accelerator=accelerator,
            )
            for split in EVALUATED
        },
        0,
    )


def _compare(
    base: nn.Module,
    texts: Texts,
    config: Config,
    dataset: Dataset,
    model_folder: Path | None,
    accelerator: Accelerator,
) -> baselines.FittedBaseline:
    """Compare the base's states of texts with those of train, or without an example of the labels' words."""

    def embed(split: tokens.TokenisedSplit) -> Any:
        rows = config.train.eval_batch_size
        batches = tokens.eval_batches(split, batch_size=rows, padding=texts.padding)
        return loop.embed(base, batches, accelerator=accelerator)

    if config.method.estimator == "frozen_encoder":
        return baselines.fit_frozen({name: embed(value) for name, value in texts.splits.items()}, dataset)
    words = list(name_labels(dataset.labels, config.data).values())
    read = tokens.tokenise_texts(
        words,
        np.arange(len(words)),
        _load_tokenizer(config, model_folder),
        max_length=positions.cut_length(config.train.max_length, base),
        prompt=None,
        split="label_words",
    )
    return baselines.compare_words({name: embed(texts.splits[name]) for name in EVALUATED}, embed(read))


def _describe_baseline(fitted: baselines.FittedBaseline, *, total: int) -> Fitted:
    """Describe a baseline, whose model has so many parameters in all."""
    reason = "a baseline is fitted without training steps"
    return Fitted(
        fitted.probabilities,
        parameters={"trainable": fitted.parameters, "total": total},
        throughput={"tokens_per_second": None, "samples_per_second": None},
        reasons={"throughput": reason, "time.eval_seconds": "evaluation is part of fitting a baseline"},
    )
