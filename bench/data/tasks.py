"""Several data sets as one: the texts of all tasks, each with the labels of its own task alone."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from bench.data.sources import SPLITS, Frames
from bench.errors import ConfigError

_BETWEEN = ": "


def name_labels(labels: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Name every task's labels as ``task: label``, one task's after another's.

    Raises:
        ConfigError: two of them would have one name.
    """
    named = [f"{task}{_BETWEEN}{label}" for task, own in labels.items() for label in own]
    if twice := sorted({name for name in named if named.count(name) > 1}):
        raise ConfigError(
            f"data.tasks: two labels would both be called {twice[0]!r}; rename a task's file, or fold the "
            "label with data.label_map in it"
        )
    return tuple(named)


def strip_task(label: str, task: str) -> str:
    """Return the label as the task's own data set has it."""
    return label.removeprefix(task + _BETWEEN)


def join_splits(parts: Sequence[tuple[Frames, int]]) -> Frames:
    """Return the splits of all tasks, one task's rows after another's in the order that they have alone.

    Args:
        parts: each task's splits, and how many labels it has.

    Returns:
        Frames with the columns of one data set, and ``task``, the number of each text's.
    """
    offsets = np.cumsum([0, *(count for _, count in parts)])
    joined = {}
    for split in SPLITS:
        frames = [
            frames[split].assign(label=frames[split]["label"] + offset, task=number)
            for number, ((frames, _), offset) in enumerate(zip(parts, offsets, strict=False))
        ]
        rows = pd.concat(frames, ignore_index=True)
        joined[split] = rows.assign(id=np.arange(len(rows)))
    return joined


def mark_heads(counts: Sequence[int]) -> npt.NDArray[np.bool_]:
    """Mark the labels that a text of each task can have, given how many each has. # (tasks, labels)"""
    owners = np.repeat(np.arange(len(counts)), counts)
    return np.asarray(owners == np.arange(len(counts))[:, None])
