"""Texts longer than a model reads: kept at both ends, or read in windows whose scores are averaged."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

OVERLAP = 0.25  # of a window, with the one before: what stands at the end of one is whole in the next


def cut(ids: Sequence[int], room: int, way: str) -> list[list[int]]:
    """Return the parts of a text's tokens that are read as data.long_texts says, each at most ``room`` long.

    head_tail keeps the first and the last half (Sun et al., "How to Fine-Tune BERT for Text Classification?",
    arXiv:1905.05583, section 5.3.1). windows are as long as they can be, the last one ends with the text.
    """
    if len(ids) <= room:
        return [[*ids]]
    if way == "head_tail":
        tail = room // 2
        return [[*ids[: room - tail], *ids[len(ids) - tail :]]]
    step = max(1, room - int(OVERLAP * room))
    starts = [*range(0, len(ids) - room, step), len(ids) - room]
    return [[*ids[start : start + room]] for start in starts]


def pool(values: npt.NDArray[Any], owners: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Average the values of each text's windows. # (rows, ...) -> (texts, ...)

    Args:
        owners: the text that each row is of, ascending; empty where each row is a text. # (rows,)
    """
    if not len(owners):
        return values
    starts = np.flatnonzero(np.diff(owners, prepend=-1))
    counts = np.diff([*starts, len(owners)])
    return np.add.reduceat(values, starts, axis=0) / counts.reshape(-1, *[1] * (values.ndim - 1))
