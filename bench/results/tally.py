"""Scores that follow from how often each label is right, true and answered, of rows or of resamples."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import ndtri

from bench.config.schema import MULTI_LABEL, SINGLE_LABEL
from bench.results.marks import Marks, read_marks

Floats = npt.NDArray[np.float64]

_LEVEL = 0.95  # of the interval of a label's F1


class Tally(NamedTuple):
    """How often each label was answered rightly, was true, and was the answer. # (..., labels) each"""

    right: Floats
    true: Floats
    answered: Floats


def count(truth: Marks, answers: Marks, *, weights: npt.NDArray[np.float32] | None = None) -> Tally:
    """Count each label over rows that have one or several; with weights once for each set of these.

    Args:
        truth, answers: whether a row has a label. # (rows, labels)
        weights: whole numbers, exact in 32 bits. # (samples, rows)
    """
    parts = (truth & answers, truth, answers)
    if weights is None:
        return Tally(*(part.sum(axis=0).astype(np.float64) for part in parts))
    return Tally(*((weights @ part.astype(np.float32)).astype(np.float64) for part in parts))


def score_labels(tally: Tally) -> Floats:
    """Return each label's F1; 0 for one that neither occurs nor is answered. # (..., labels)"""
    either = tally.true + tally.answered
    return np.divide(2 * tally.right, either, out=np.zeros_like(tally.right), where=either > 0)


def score_f1(tally: Tally) -> Floats:
    """Return macro F1, the mean over all labels. # (...,)"""
    return np.asarray(score_labels(tally).mean(axis=-1))


def score_f1_micro(tally: Tally) -> Floats:
    """Return micro F1, of all labels counted together; of one label a text it is the accuracy. # (...,)"""
    right, either = tally.right.sum(axis=-1), (tally.true + tally.answered).sum(axis=-1)
    return np.asarray(np.divide(2 * right, either, out=np.zeros_like(right), where=either > 0))


def score_balanced_accuracy(tally: Tally) -> Floats:
    """Return the mean recall of the labels that occur, as scikit-learn does. # (...,)"""
    occurs = tally.true > 0
    recalls = np.divide(tally.right, tally.true, out=np.zeros_like(tally.right), where=occurs)
    return np.asarray(recalls.sum(axis=-1) / occurs.sum(axis=-1))


def score_mcc(tally: Tally) -> Floats:
    """Return Matthews' correlation coefficient of several labels; 0 where it is not defined. # (...,)

    Source: Gorodkin, "Comparing two K-category assignments by a K-category correlation coefficient",
    Computational Biology and Chemistry 28 (2004).
    """
    total = tally.true.sum(axis=-1)
    covariance = tally.right.sum(axis=-1) * total - (tally.true * tally.answered).sum(axis=-1)
    squares = [total**2 - np.square(part).sum(axis=-1) for part in (tally.true, tally.answered)]
    spread = np.sqrt(squares[0] * squares[1])
    return np.asarray(np.divide(covariance, spread, out=np.zeros_like(spread), where=spread > 0))


# Those that a tally is enough for, by the names of schema.METRICS.
SCORES: dict[str, Callable[[Tally], Floats]] = {
    "f1_macro": score_f1,
    "balanced_accuracy": score_balanced_accuracy,
    "mcc": score_mcc,
    "f1_micro": score_f1_micro,
}


def list_scores(*, multi_label: bool) -> dict[str, Callable[[Tally], Floats]]:
    """Return those of SCORES that mean something where a text has one label, or several."""
    meaningless = SINGLE_LABEL if multi_label else MULTI_LABEL
    return {name: score for name, score in SCORES.items() if name not in meaningless}


def bound_labels(tally: Tally) -> tuple[Floats, Floats]:
    """Return the ends of each label's F1 over other texts, with 95 % confidence. # (labels,) each

    Of the texts whose label or answer it is, a share j has both; F1 is 2 j / (1 + j), so the ends of Wilson's
    interval for j are those of F1. A label without such texts may have any F1.
    """
    either = tally.true + tally.answered - tally.right
    square = ndtri((1 - _LEVEL) / 2) ** 2 / np.maximum(either, 1)
    share = tally.right / np.maximum(either, 1)
    centre = (share + square / 2) / (1 + square)
    half = np.sqrt(square * share * (1 - share) + square**2 / 4) / (1 + square)
    known = either > 0
    low, high = np.where(known, centre - half, 0.0).clip(0), np.where(known, centre + half, 1.0).clip(max=1)
    return 2 * low / (1 + low), 2 * high / (1 + high)


def score_predictions(
    rows: pd.DataFrame, labels: Sequence[str], separator: str | None = None
) -> dict[str, float]:
    """Return SCORES of a split's rows of predictions.csv; none where they hold another label.

    Args:
        labels: all of them, in the declared order.
        separator: as of marks.find_separator
    """
    truth, answers = (read_marks(rows[name], labels, separator) for name in ("label", "prediction"))
    if truth is None or answers is None or rows.empty:
        return {}
    counted = count(truth, answers)
    found = {
        name: float(score(counted)) for name, score in list_scores(multi_label=separator is not None).items()
    }
    return {name: value for name, value in found.items() if math.isfinite(value)}
