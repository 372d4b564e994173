"""Runs that are asked for as one: a configuration, and in ``pack`` those to be trained beside it.

Also the block ``packed`` of their records, which says what all of them took together.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from bench.config.packable import OWN, cannot_pack, shared_key
from bench.config.schema import Config, read_field, replace_values
from bench.errors import ConfigError


def unpack(config: Config) -> list[Config]:
    """Return each run that the configuration asks for, as if it were asked for alone; its own comes first.

    Raises:
        ConfigError: ``pack`` names an unknown field, or a value of the wrong type.
    """
    alone = dataclasses.replace(config, pack=[])
    return [alone, *(replace_values(alone, values) for values in config.pack)]


def describe_others(first: Config, *others: Config) -> list[dict[str, Any]]:
    """Write the first configuration's ``pack``, which has it trained together with the others."""
    return [
        {path: value for path in OWN if (value := read_field(other, path)) != read_field(first, path)}
        for other in others
    ]


def check_pack(config: Config) -> list[str]:
    """Say why the configuration's runs cannot be trained together, a line for each reason."""
    if config.merged_micro_batches > 1 and (fault := _find_unmerged(config)):
        return [f"merged_micro_batches={config.merged_micro_batches}: {fault}; set 1"]
    if not (given := config.pack):
        return []
    wrong = [path for values in given for path in values if path not in OWN]
    if wrong:
        return [f"pack={given}: {wrong[0]} must be the same for all runs of a pack; vary {', '.join(OWN)}"]
    try:
        runs = unpack(config)
    except ConfigError as error:
        return [f"pack={given}: {error}"]
    if len({repr(dataclasses.replace(run, resume_from=None)) for run in runs}) < len(runs):
        return [f"pack={given}: two of its runs are the same; name each once"]
    reasons = dict.fromkeys(reason for run in runs if (reason := cannot_pack(run)) is not None)
    if reasons:
        return [f"pack={given}: {reason}; set pack=[]" for reason in reasons]
    if len({shared_key(run) for run in runs}) > 1:
        return [f"pack={given}: its runs do not share base weights, steps and batch; set pack=[]"]
    return []


def _find_unmerged(config: Config) -> str | None:
    """Say why micro-batches of a step cannot be computed as one, or return None."""
    if not config.pack:
        return "a run alone is computed as it was asked for"
    steps = config.train.gradient_accumulation_steps
    return "must divide train.gradient_accumulation_steps" if steps % config.merged_micro_batches else None


def count_together(config: Config) -> int:
    """Return how many texts of each run a pack computes at once."""
    return config.train.micro_batch_size * config.merged_micro_batches


def describe_pack(
    size: int,
    *,
    micro_batch_size: int | None = None,
    peak_bytes: int | None = None,
    seconds: float | None = None,
) -> dict[str, Any]:
    """Make the block ``packed`` of a record: of the whole process, and none of it one run's own.

    Args:
        micro_batch_size: the texts of each run that were computed at once
    """
    return {
        "size": size,
        "micro_batch_size": micro_batch_size,
        "pack_peak_bytes": peak_bytes,
        "pack_seconds": seconds,
    }


def find_fault(
    packed: Mapping[str, Any] | None, *, memory: Mapping[str, Any], time: Mapping[str, Any]
) -> str | None:
    """Say what is wrong with a record of a run that was trained together with others, or return None."""
    if packed is None:
        return None
    if set(packed) | {"micro_batch_size"} != set(describe_pack(2)):  # which earlier records lack
        return f"its packed has other fields: {', '.join(sorted(packed))}"
    numbers = [value for value in packed.values() if value is not None]
    if not all(
        isinstance(number, int | float) and not isinstance(number, bool) and number >= 0 for number in numbers
    ):
        return "its packed holds something that is not a number of at least 0"
    if not isinstance(packed["size"], int) or packed["size"] < 2:
        return f"was packed with a size of {packed['size']}, and a pack has at least 2 runs"
    claimed = [memory.get(name) for name in ("load", "train", "eval")]
    if any(one is not None for one in [*claimed, *time.values()]):
        return "was packed and claims memory or time of its own"
    return None
