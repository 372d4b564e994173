"""Texts with several labels: the threshold from which on each is answered, and how good answers are."""

from typing import Any

import numpy as np
import numpy.typing as npt

from bench.results.marks import Marks, mark

Floats = npt.NDArray[np.float64]


def choose_thresholds(probabilities: npt.NDArray[Any], truth: Marks) -> Floats:
    """Choose from which probability on each label is answered, by its F1 on these rows. # (labels,)

    Candidates are 0.5 and the middles between neighbouring probabilities; of equally good ones the nearest to
    0.5. So a threshold is another only where that helps, and a method that says the same of every text keeps
    it: F1 alone would let it answer every label (Lipton et al., arXiv:1402.1892, section 3.3).
    """
    return np.array([_choose_threshold(*one) for one in zip(probabilities.T, truth.T, strict=True)])


def _choose_threshold(probabilities: npt.NDArray[Any], truth: npt.NDArray[np.bool_]) -> float:
    """Choose the threshold of one label. # probabilities, truth: (rows,)"""
    order = np.argsort(-probabilities.astype(np.float64), kind="stable")
    falling = probabilities[order].astype(np.float64)
    ends = np.flatnonzero(falling[:-1] > falling[1:])  # the last row above each middle
    candidates = np.append((falling[ends] + falling[ends + 1]) / 2, 0.5)
    answered = np.append(ends + 1, np.count_nonzero(falling >= 0.5))
    right = np.append(0, np.cumsum(truth[order]))[answered]
    f1 = 2 * right / np.maximum(1, answered + truth.sum())
    best = candidates[f1 == f1.max()]
    return float(best[np.argmin(np.abs(best - 0.5))])


def decide(probabilities: npt.NDArray[Any], thresholds: npt.ArrayLike | None) -> Marks:
    """Mark the likeliest label of each row, or all that reach their thresholds. # (rows, labels)"""
    if thresholds is None:
        return mark(probabilities.argmax(axis=1), probabilities.shape[1])
    return np.asarray(probabilities >= np.asarray(thresholds))


def score_each_text(truth: Marks, answers: npt.NDArray[np.bool_]) -> Floats:
    """Return the F1 of each text's labels; 1 where it has none and gets none. # (seeds, rows)

    Args:
        truth: # (rows, labels)
        answers: # (seeds, rows, labels)
    """
    right = (answers & truth).sum(axis=-1)
    either = answers.sum(axis=-1) + truth.sum(axis=-1)
    return np.asarray(np.divide(2 * right, either, out=np.ones(right.shape), where=either > 0))


def score_precision(truth: Marks, probabilities: Floats, weights: npt.NDArray[np.float32]) -> Floats:
    """Return the mean over labels of the average precision, without those that no counted text has.

    Args:
        truth: # (rows, labels)
        probabilities: # (seeds, rows, labels)
        weights: how often a text counts. # (samples, rows)

    Returns: # (seeds, samples)
    """
    with_texts = truth.any(axis=0)
    return np.stack(
        [
            np.nanmean(
                [
                    _average_precision(has, likely, weights)
                    for has, likely in zip(truth.T[with_texts], one.T[with_texts], strict=True)
                ],
                axis=0,
            )
            for one in probabilities
        ]
    )


def _average_precision(
    has: npt.NDArray[np.bool_], likely: Floats, weights: npt.NDArray[np.float32]
) -> Floats:
    """Return the sum over thresholds of precision times the gain in recall, as scikit-learn does.

    NaN where no counted text has the label. # (samples,)
    """
    order = np.argsort(-likely, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(likely[order])), len(order) - 1)  # equal ones share a threshold
    counted = weights[:, order].astype(np.float64)
    right, answered = (np.cumsum(one, axis=1)[:, ends] for one in (counted * has[order], counted))
    precision = np.divide(right, answered, out=np.zeros_like(right), where=answered > 0)
    total = right[:, -1]
    gained = (precision * np.diff(right, axis=1, prepend=0.0)).sum(axis=1)
    return np.asarray(np.divide(gained, total, out=np.full_like(total, np.nan), where=total > 0))
