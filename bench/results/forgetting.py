"""What a run on a stream knew of each piece after each of its trainings, and what it forgot.

Pure: the block ``updates`` of a record in, numbers out. ``accuracy`` has a row for each training, in the
order of the pieces, and a column for the test texts of each piece, also of those that were yet to come.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

Matrix = Sequence[Sequence[float]]  # accuracy: (trainings, pieces)


def find_forgetting(accuracy: Matrix) -> float:
    """Return how much of the best accuracy on each earlier piece is lost at the end, on average over these.

    The best is that after any training before the last.

    Source: Chaudhry et al., "Riemannian Walk for Incremental Learning", arXiv:1801.10112, section 3.
    """
    *before, last = accuracy
    return statistics.fmean(
        max(row[piece] for row in before) - last[piece] for piece in range(len(accuracy) - 1)
    )


def find_backward_transfer(accuracy: Matrix) -> float:
    """Return the accuracy on each earlier piece at the end less that just after it was learned, on average.

    Source: Lopez-Paz and Ranzato, "Gradient Episodic Memory", arXiv:1706.08840, equation 3.
    """
    last = accuracy[-1]
    return statistics.fmean(last[piece] - accuracy[piece][piece] for piece in range(len(accuracy) - 1))


def read_new(updates: Mapping[str, Any]) -> list[float]:
    """Return the accuracy on the newest test texts after each training but the first."""
    return [row[place] for place, row in enumerate(updates["accuracy"]) if place]


def read_old(updates: Mapping[str, Any]) -> list[float]:
    """Return the accuracy on all earlier pieces' test texts together after each training but the first."""
    tests = updates["tests"]
    return [
        sum(share * count for share, count in zip(row[:place], tests, strict=False)) / sum(tests[:place])
        for place, row in enumerate(updates["accuracy"])
        if place
    ]


def count_seconds(updates: Mapping[str, Any]) -> float:
    """Return the seconds of all trainings but the first, which every strategy begins with."""
    return float(sum(updates["train_seconds"][1:]))
