"""The labels that predictions.csv says of a text, one or several, as a matrix of marks and back."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

Marks = npt.NDArray[np.bool_]  # whether a row has a label: (rows, labels)


def find_separator(config: Mapping[str, Any]) -> str | None:
    """Return what stands between the labels of a text in a run's files; None where a text has one label."""
    data = config.get("data") or {}
    return str(data.get("label_separator", "|")) if data.get("multi_label") else None


def mark(labels: npt.NDArray[Any], classes: int) -> Marks:
    """Mark the one label of each row; marks of several stay as they are. # (rows, labels)"""
    return labels if labels.ndim == 2 else np.eye(classes, dtype=bool)[labels]


def read_marks(written: pd.Series, labels: Sequence[str], separator: str | None) -> Marks | None:
    """Read a column of predictions.csv; None where it holds another label.

    Args:
        separator: as of find_separator
    """
    places = {label: place for place, label in enumerate(labels)}
    codes, distinct = pd.factorize(written)
    marks = np.zeros((len(distinct), len(labels)), dtype=bool)
    for number, text in enumerate(distinct):
        for label in split(text, separator):
            if label not in places:
                return None
            marks[number, places[label]] = True
    return marks[codes]


def split(written: str, separator: str | None) -> list[str]:
    """Return the labels in a cell of predictions.csv; none in an empty one where a text may have several."""
    if separator is None:
        return [written]
    return written.split(separator) if written else []


def write_marks(marks: Marks, labels: Sequence[str], separator: str) -> list[str]:
    """Write the labels of each row, in their declared order, as a cell of predictions.csv."""
    names = np.array(labels, dtype=object)
    return [separator.join(names[row]) for row in marks]
