"""Texts with several labels: each combination of labels is a number, as a label is where texts have one.

So rows are drawn, shuffled, padded and counted as ever, and who needs the labels looks them up in a matrix.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from bench.errors import DataError

LEAST_STRATUM = 10  # rows of a combination that are drawn in proportion by themselves; rarer ones are pooled

Marks = npt.NDArray[np.bool_]  # whether a row has a label: (rows, labels)
Frames = dict[str, pd.DataFrame]


def list_labels(frame: pd.DataFrame) -> pd.Series:
    """List every label of every row, of which a row may have several or none. # (labels of all rows,)"""
    return frame["label"].explode().dropna()


def require_separable(labels: Sequence[str], separator: str) -> None:
    """Raise a DataError where a label holds the separator, as predictions.csv could not be read again."""
    if held := [repr(label) for label in labels if separator in label]:
        raise DataError(
            f"data.label_separator={separator}: the label {held[0]} holds it, and predictions.csv writes it "
            "between labels; choose another that no label holds, for example data.label_separator=';'"
        )


def number_sets(frames: Frames, labels: Sequence[str]) -> tuple[Frames, Marks]:
    """Replace the labels of each row by the number of their combination, and say what each number stands for.

    Numbers follow from all rows together, so that every draw of train texts has the same.

    Returns:
        the frames, and the labels of each combination. # (combinations, labels)
    """
    places = {label: place for place, label in enumerate(labels)}
    as_places = {
        split: [tuple(sorted(places[label] for label in row)) for row in frame["label"]]
        for split, frame in frames.items()
    }
    combinations = sorted({one for rows in as_places.values() for one in rows})
    numbers = {combination: number for number, combination in enumerate(combinations)}
    marks = np.zeros((len(combinations), len(labels)), dtype=bool)
    for number, combination in enumerate(combinations):
        marks[number, [*combination]] = True
    numbered = {
        split: frame.assign(label=[numbers[one] for one in as_places[split]])
        for split, frame in frames.items()
    }
    return numbered, marks


def find_strata(numbers: pd.Series) -> pd.Series:
    """Return what rows are drawn in proportion by: combinations, and all rare ones as one. # (rows,)

    The bound is fixed, so that test texts stay where another size changes.
    """
    counts = np.bincount(numbers)
    strata = np.cumsum(counts >= LEAST_STRATUM) * (counts >= LEAST_STRATUM)  # 0: those pooled
    return pd.Series(strata[numbers.to_numpy()], index=numbers.index)
