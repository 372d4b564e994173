"""The micro-batch of a run that was out of memory: halved, with accumulation doubled."""

import dataclasses

from bench.config.schema import Config
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
