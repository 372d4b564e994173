"""The steps of a training, and the micro-batch of a run out of memory: halved, with accumulation doubled."""

import dataclasses
import math

from bench.config.schema import Config, TrainConfig
from bench.errors import ConfigError


def halve_micro_batch(config: Config) -> Config:
    """Halve the micro-batch and double gradient accumulation, ``oom_halvings`` times.

    The effective batch, and so the run's identity, stays the same.

    Raises:
        ConfigError: the micro-batch cannot be halved so often.
    """
    train, times = config.train, config.oom_halvings
    if train.micro_batch_size % 2**times:
        raise ConfigError(
            f"oom_halvings={times}: train.micro_batch_size={train.micro_batch_size} cannot be halved so often"
        )
    halved = dataclasses.replace(
        train,
        micro_batch_size=train.micro_batch_size // 2**times,
        gradient_accumulation_steps=train.gradient_accumulation_steps * 2**times,
    )
    return dataclasses.replace(config, train=halved)


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
