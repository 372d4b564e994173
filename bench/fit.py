"""Fits one classifier, a network or a baseline, and says what each held-out text is taken for."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import set_seed

from bench import baselines, metrics, model, tokens, trainer
from bench.config import Config, TrainConfig
from bench.data import Dataset
from bench.measure import Meter

BEST = "best.safetensors"  # what was trained, at its best validation score
EVALUATED = ("validation", "test")

Probabilities = Mapping[str, npt.NDArray[np.float64]]  # by split, (rows, labels)


Log = Callable[[trainer.Row, int], None]


@dataclass(frozen=True)
class Fitted:
    """What fitting came to, as the blocks of a record."""

    probabilities: Probabilities
    parameters: dict[str, int | None]  # {trainable, total}
    model: dict[str, Any] = field(default_factory=dict)
    throughput: dict[str, float | None] = field(default_factory=dict)
    truncated_share: float | None = None
    reasons: dict[str, str] = field(default_factory=dict)


def fit(
    config: Config, dataset: Dataset, *, model_folder: Path, run_folder: Path, meter: Meter, log: Log
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


def score_all(probabilities: Probabilities, dataset: Dataset) -> dict[str, dict[str, float]]:
    """The block ``metrics`` of a record: accuracy, f1_macro and loss of each evaluated split."""
    return {
        split: metrics.score(values, dataset.splits[split]["label"].to_numpy())
        for split, values in probabilities.items()
    }


def _fit_network(
    config: Config, dataset: Dataset, *, model_folder: Path, run_folder: Path, meter: Meter, log: Log
) -> Fitted:
    """Trains the network, takes its best state by validation, and evaluates that."""
    settings = config.train
    precision = model.choose_precision(settings.precision, meter.device)
    accelerator = trainer.make_accelerator(meter.device, precision)
    splits, padding = _tokenise(config, dataset, model_folder=model_folder, meter=meter)
    with meter.phase("load"):
        network = model.build(
            config,
            folder=model_folder,
            labels=dataset.labels,
            pad_token_id=padding.token_id,
            device=meter.device,
            precision=precision,
        )

    def predict(split: str) -> npt.NDArray[np.float64]:
        batches = tokens.eval_batches(splits[split], batch_size=settings.eval_batch_size, padding=padding)
        return trainer.predict(network.model, batches, accelerator=accelerator)

    steps = count_steps(settings, rows=len(splits["train"]))
    progress = trainer.train(
        network.model,
        tokens.train_batches(
            splits["train"],
            micro_batch_size=settings.micro_batch_size,
            micro_batches=steps * settings.gradient_accumulation_steps,
            seed=config.seed,
            group_by_length=settings.group_by_length,
            padding=padding,
        ),
        settings=settings,
        steps=steps,
        accelerator=accelerator,
        meter=meter,
        validate=lambda: metrics.score(predict("validation"), splits["validation"].labels),
        select_by=config.sweep.select_by,
        save_best=lambda: model.save_trained(network.model, run_folder / BEST),
        log=log,
    )
    with meter.phase("save"):
        model.load_trained(network.model, run_folder / BEST)
    with meter.phase("eval"):
        probabilities = {split: predict(split) for split in EVALUATED}
    seconds = meter.seconds["train"]
    return Fitted(
        probabilities,
        parameters={"trainable": network.trainable_parameters, "total": network.total_parameters},
        model={**network.choices, "steps": progress.steps, "best_step": progress.best_step},
        throughput={
            "tokens_per_second": progress.tokens / seconds,
            "samples_per_second": progress.samples / seconds,
        },
        truncated_share=splits["train"].truncated_share,
    )


def _tokenise(
    config: Config, dataset: Dataset, *, model_folder: Path, meter: Meter
) -> tuple[dict[str, tokens.TokenisedSplit], tokens.Padding]:
    """The splits as the model's token ids, and how its batches are padded."""
    with meter.phase("data"):
        tokenizer = model.load_tokenizer(model_folder)
        splits = tokens.tokenise(
            dataset, tokenizer, max_length=config.train.max_length, cache_dir=config.cache_dir
        )
    return splits, tokens.Padding.of(tokenizer)


def count_steps(settings: TrainConfig, *, rows: int) -> int:
    """Optimizer steps of a training on this many rows: max_steps, or what the epochs come to."""
    if settings.max_steps is not None:
        return settings.max_steps
    micro_batches = math.ceil(rows / settings.micro_batch_size)
    return max(1, math.ceil(micro_batches * (settings.epochs or 0) / settings.gradient_accumulation_steps))


def _fit_frozen_encoder(config: Config, dataset: Dataset, *, model_folder: Path, meter: Meter) -> Fitted:
    """Logistic regression on the mean of the encoder's last hidden states."""
    settings = config.train
    precision = model.choose_precision(settings.precision, meter.device)
    accelerator = trainer.make_accelerator(meter.device, precision)
    splits, padding = _tokenise(config, dataset, model_folder=model_folder, meter=meter)
    with meter.phase("load"):
        encoder = model.load_encoder(model_folder, device=meter.device, precision=precision)
    with meter.phase("train"):
        features = {
            split: trainer.embed(
                encoder,
                tokens.eval_batches(tokenised, batch_size=settings.eval_batch_size, padding=padding),
                accelerator=accelerator,
            )
            for split, tokenised in splits.items()
        }
        fitted = baselines.fit_frozen(features, dataset)
    encoder_parameters = sum(parameter.numel() for parameter in encoder.parameters())
    described = _describe_baseline(fitted, total=fitted.parameters + encoder_parameters)
    choices = {"architecture": type(encoder).__name__, "precision": precision}
    return Fitted(
        described.probabilities,
        described.parameters,
        model=choices,
        throughput=described.throughput,
        truncated_share=splits["train"].truncated_share,
        reasons=described.reasons,
    )


def _describe_baseline(fitted: baselines.Fitted, *, total: int) -> Fitted:
    reason = "a baseline is fitted without training steps"
    return Fitted(
        fitted.probabilities,
        parameters={"trainable": fitted.parameters, "total": total},
        throughput={"tokens_per_second": None, "samples_per_second": None},
        reasons={"throughput": reason, "time.eval_seconds": "evaluation is part of fitting a baseline"},
    )
