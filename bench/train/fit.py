"""Fits one classifier, a network or a baseline, and says what each held-out text is taken for."""

import dataclasses
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from bench.config.schema import Config, TrainConfig
from bench.data import prompt as prompts
from bench.data import tokens
from bench.data.dataset import Dataset, name_labels
from bench.errors import ConfigError
from bench.model import build, positions, random_weights, weights
from bench.train import baselines, loop, metrics, optimizers, parallel, resumption
from bench.train import task as tasks
from bench.train.checkpoint import BEST
from bench.train.device import choose_precision
from bench.train.loop import Probabilities
from bench.train.meter import Meter

_logger = logging.getLogger(__name__)
EVALUATED = ("validation", "test")


@dataclass(frozen=True)
class Fitted:
    """What fitting came to, as the blocks of a record."""

    probabilities: Mapping[str, Probabilities]  # by split
    parameters: dict[str, int | None]  # {trainable, total}
    model: dict[str, Any] = field(default_factory=dict)
    throughput: dict[str, float | None] = field(default_factory=dict)
    truncated_share: float | None = None
    reasons: dict[str, str] = field(default_factory=dict)


def fit(
    config: Config,
    dataset: Dataset,
    *,
    model_folder: Path | None,
    run_folder: Path,
    meter: Meter,
    log: loop.Log,
) -> Fitted:
    """Fits what the method's estimator names; ``log`` gets the rows of the history as they come.

    Raises:
        ConfigError: the method does not fit the model or this machine.
        DivergedError: the loss stopped being a number.
    """
    set_seed(config.seed)
    if config.method.estimator == "network":
        return _fit_network(
            config, dataset, model_folder=model_folder, run_folder=run_folder, meter=meter, log=log
        )
    if config.method.estimator == "frozen_encoder":
        return _fit_frozen_encoder(config, dataset, model_folder=model_folder, meter=meter)
    fit_baseline = {"tfidf": baselines.fit_tfidf, "majority": baselines.fit_majority}
    with meter.phase("train"):
        fitted = fit_baseline[config.method.estimator](dataset)
    return _describe_baseline(fitted, total=fitted.parameters)


def score_all(probabilities: Mapping[str, Probabilities], dataset: Dataset) -> dict[str, dict[str, float]]:
    """The block ``metrics`` of a record: accuracy, f1_macro and loss of each evaluated split."""
    return {
        split: metrics.score(values, dataset.splits[split]["label"].to_numpy())
        for split, values in probabilities.items()
    }


def _fit_network(
    config: Config,
    dataset: Dataset,
    *,
    model_folder: Path | None,
    run_folder: Path,
    meter: Meter,
    log: loop.Log,
) -> Fitted:
    """Trains the network, from its newest checkpoint if it has one, and evaluates its best state."""
    settings = config.train
    precision = choose_precision(settings.precision, meter.device)
    accelerator = loop.make_accelerator(meter.device, precision, parallel.plug_in(settings, precision))
    with accelerator.main_process_first(), meter.phase("data"):  # the others find its tokens on the disk
        splits, padding, task = tokenise(config, dataset, model_folder=model_folder)
    # What is sharded need not fit on one device.
    place = torch.device("cpu") if settings.distributed == "fsdp2" else meter.device
    with meter.phase("load"):
        network = build.build(
            config,
            folder=model_folder,
            labels=dataset.labels,
            pad_token_id=padding.token_id,
            device=place,
            precision=precision,
        )
    if rank := accelerator.process_index:  # the same weights as the first process, but dropout of its own
        torch.manual_seed(config.seed + (rank << 32))

    def predict(split: str) -> Probabilities:
        rows = max(1, settings.eval_batch_size // task.sequences)
        batches = tokens.eval_batches(splits[split], batch_size=rows, padding=padding)
        return loop.predict(network.model, batches, task=task, accelerator=accelerator)

    steps = count_steps(settings, rows=len(splits["train"]))
    training = loop.prepare(network.model, config, task=task, steps=steps, accelerator=accelerator)
    resumed = _train(
        training,
        config,
        splits["train"],
        lineage=resumption.describe_lineage(config, dataset, device=meter.device, precision=precision),
        padding=padding,
        run_folder=run_folder,
        meter=meter,
        predict=partial(predict, "validation"),
        score=lambda found: metrics.score(found, splits["validation"].labels),
        log=log,
    )
    with meter.phase("save"):
        accelerator.wait_for_everyone()  # above all for the first process, which writes
        build.load_trained(network.model, run_folder / BEST)
    with meter.phase("eval"):
        if training.best is None:  # an earlier attempt made it
            training.best = predict("validation")
        tested = predict("test")
    parameters = {"trainable": network.trainable_parameters, "total": network.total_parameters}
    choices = {**network.choices, "resumed_from_step": resumed}
    return describe_trained(training, tested, parameters, choices, split=splits["train"], meter=meter)


def describe_trained(
    training: loop.Training,
    tested: Probabilities,
    parameters: Mapping[str, int | None],
    choices: Mapping[str, Any],
    *,
    split: tokens.TokenisedSplit,
    meter: Meter,
) -> Fitted:
    """What the training of a network came to; with ``resumed_from_step`` its times are less exact."""
    assert training.best is not None  # every training ends in an evaluation
    progress, processes = training.progress, training.settings.processes
    steps: dict[str, int | None] = {"steps": progress.steps, "best_step": progress.best_step}
    steps["skipped_steps"] = progress.skipped_steps if training.scales_loss else None
    reasons = _explain_cut(choices["max_length"], training.settings)
    if not training.scales_loss:
        reasons["model.skipped_steps"] = (
            f"only fp16 scales the loss and skips steps, and the run computes in {choices['precision']}"
        )
    return Fitted(
        {"validation": training.best, "test": tested},
        parameters=dict(parameters),
        model={**choices, **steps, "processes": processes},  # the first one's memory, energy and history
        throughput=progress.rates(meter.seconds["train"]),
        truncated_share=split.truncated_share,
        reasons=reasons,
    )


def _train(
    training: loop.Training,
    config: Config,
    split: tokens.TokenisedSplit,
    *,
    lineage: Mapping[str, Any],
    padding: tokens.Padding,
    run_folder: Path,
    meter: Meter,
    predict: Callable[[], Probabilities],
    score: Callable[[Probabilities], Mapping[str, float]],
    log: loop.Log,
) -> int | None:
    """Trains to the end or to stop_step, from the newest checkpoint if there is one: its step."""
    settings = config.train
    resumed, network = None, training.accelerator.unwrap_model(training.model)
    meter.count_paged = partial(optimizers.count_paged, training.optimizer)
    if settings.distributed == "none":
        with meter.phase("save"):
            resumed = resumption.resume(training, config, run_folder=run_folder, lineage=lineage, meter=meter)
    for row in training.progress.history:  # this attempt's record is of the whole training
        log({name: value for name, value in row.items() if name != "step"}, int(row["step"] or 0))
    loop.train(
        training,
        tokens.train_batches(
            split,
            micro_batch_size=settings.micro_batch_size,
            micro_batches=training.steps * settings.gradient_accumulation_steps,
            seed=config.seed,
            group_by_length=settings.group_by_length,
            padding=padding,
            skipped=training.progress.steps * settings.gradient_accumulation_steps,
        ),
        stop=settings.stop_step or training.steps,
        meter=meter,
        predict=predict,
        score=score,
        select_by=config.sweep.select_by,
        save_best=lambda: build.save_trained(
            network, run_folder / BEST, writes=training.accelerator.is_main_process
        ),
        save_checkpoint=lambda: resumption.save_checkpoint(
            training, run_folder=run_folder, lineage=lineage, meter=meter
        ),
        log=log,
    )
    return resumed


def tokenise(
    config: Config, dataset: Dataset, *, model_folder: Path | None
) -> tuple[dict[str, tokens.TokenisedSplit], tokens.Padding, tasks.Task]:
    """The splits as the model's token ids, how its batches are padded, and what it makes of them."""
    prompt = None
    if model_folder is None:
        tokenizer = random_weights.make_tokenizer(config.model)
    else:
        tokenizer = build.load_tokenizer(model_folder)
    if config.task == "label_likelihood" and config.method.estimator == "network":
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
    return splits, padding, tasks.make(prompt)


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
    """Optimizer steps of a training on this many rows: max_steps, or what the epochs come to.

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


def _fit_frozen_encoder(
    config: Config, dataset: Dataset, *, model_folder: Path | None, meter: Meter
) -> Fitted:
    """Logistic regression on the mean of the encoder's last hidden states."""
    settings = config.train
    precision = choose_precision(settings.precision, meter.device)
    accelerator = loop.make_accelerator(meter.device, precision)
    with meter.phase("data"):
        splits, padding, _ = tokenise(config, dataset, model_folder=model_folder)
    with meter.phase("load"):
        encoder = build.load_encoder(config.model, model_folder, device=meter.device, precision=precision)
    with meter.phase("train"):
        features = {
            split: loop.embed(
                encoder,
                tokens.eval_batches(tokenised, batch_size=settings.eval_batch_size, padding=padding),
                accelerator=accelerator,
            )
            for split, tokenised in splits.items()
        }
        fitted = baselines.fit_frozen(features, dataset)
    encoder_parameters = sum(parameter.numel() for parameter in encoder.parameters())
    described = _describe_baseline(fitted, total=fitted.parameters + encoder_parameters)
    choices: dict[str, Any] = {
        "architecture": type(encoder).__name__,
        **build.describe_source(config.model),
        "precision": precision,
        "max_length": positions.cut_length(settings.max_length, encoder),
    }
    return Fitted(
        described.probabilities,
        described.parameters,
        model=choices,
        throughput=described.throughput,
        truncated_share=splits["train"].truncated_share,
        reasons=described.reasons | _explain_cut(choices["max_length"], settings),
    )


def _describe_baseline(fitted: baselines.Fitted, *, total: int) -> Fitted:
    reason = "a baseline is fitted without training steps"
    return Fitted(
        fitted.probabilities,
        parameters={"trainable": fitted.parameters, "total": total},
        throughput={"tokens_per_second": None, "samples_per_second": None},
        reasons={"throughput": reason, "time.eval_seconds": "evaluation is part of fitting a baseline"},
    )
