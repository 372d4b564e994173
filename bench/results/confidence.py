"""How sure a run's answers are: what its predictions of the validation split say, and never those of test.

A temperature makes probabilities as sure as the validation texts show them to be, and a threshold leaves
texts unanswered so that those answered are as accurate as wished.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import betaincinv

from bench.errors import StoreError
from bench.results.marks import read_marks
from bench.results.several import choose_thresholds, decide

Floats = npt.NDArray[np.float64]

LEVEL = 0.95  # with which a bound on the accuracy of answered texts holds
LARGEST_TEMPERATURE = 20.0  # and 1 / 20 the smallest: beyond them nothing is learnt of the texts
# Of a text's highest probability; fixed beforehand, as the test of each must not depend on the answers.
THRESHOLDS = (
    *(step / 100 for step in range(99)),
    *(step / 1000 for step in range(990, 999)),
    *(step / 10_000 for step in range(9990, 10_000)),
)
STARTS = 4  # of the sequences of tests
SMALLEST = float(np.finfo(np.float32).smallest_subnormal)  # a probability that softmax made 0
_HALVINGS = 50
_NO_TEMPERATURE = "no temperature from 1/20 to 20 makes the validation texts the likeliest"


@dataclass(frozen=True)
class Predicted:
    """What a run predicted of one split."""

    ids: tuple[Any, ...]  # sorted
    # true label numbers, and those of the likeliest ones; of several labels which a text has, and got
    labels: npt.NDArray[Any]  # (rows,), or (rows, labels)
    answers: npt.NDArray[Any]  # the same
    probabilities: Floats  # (rows, labels)

    @property
    def surest(self) -> Floats:
        """Each text's highest probability. # (rows,)"""
        highest: Floats = self.probabilities.max(axis=1)
        return highest

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """Whether each text's likeliest label is true, or of several it got all and no other. # (rows,)"""
        right = np.asarray(self.answers == self.labels)
        return right if right.ndim == 1 else np.asarray(right.all(axis=1))


@dataclass(frozen=True)
class Confidence:
    """How sure a run's answers are, by its validation texts."""

    temperature: float | None  # that the logits are divided by; None: there is none, they stay as they are
    reason: str | None  # why there is no temperature
    texts: int
    thresholds: Sequence[float]  # of the highest probability, from the strictest to 0
    answered: Sequence[int]  # texts that reach each threshold
    right: Sequence[int]  # of them, the texts whose likeliest label is true


@dataclass(frozen=True)
class Threshold:
    """From which probability on texts are answered, and how accurate those are."""

    probability: float
    coverage: float  # the share of the validation texts that are answered
    accuracy: float  # of the answered validation texts
    wished: float  # the least accuracy of all texts that are answered, with the confidence LEVEL


def read_split(
    predictions: pd.DataFrame, labels: Sequence[str], *, split: str, separator: str | None = None
) -> Predicted:
    """Return the true labels and the probabilities of a split, in the order of its ids.

    Args:
        separator: as of marks.find_separator

    Raises:
        StoreError: the split, a label or its probabilities are not there.
    """
    rows = predictions[predictions["split"] == split].sort_values("id", kind="stable")
    names = [f"probability_{label}" for label in labels]
    if missing := [name for name in names if name not in rows]:
        raise StoreError(f"its predictions have no column {missing[0]}")
    true, answers = (read_marks(rows[name], labels, separator) for name in ("label", "prediction"))
    values = rows[names].to_numpy(dtype=np.float64)
    if rows.empty or true is None or answers is None or not np.isfinite(values).all():
        raise StoreError(f"its predictions of {split} are not whole")
    if separator is None:
        return Predicted(tuple(rows["id"]), true.argmax(axis=1), answers.argmax(axis=1), values)
    return Predicted(tuple(rows["id"]), true, answers, values)


def average(predicted: Sequence[Predicted], thresholds: Floats | None = None) -> Predicted:
    """Return the mean of several runs' probabilities, and the labels that are the likeliest by it.

    Args:
        thresholds: of several labels each one's; None: those that choose_thresholds finds here. # (labels,)

    Raises:
        StoreError: they are of other texts.
    """
    first, *others = predicted
    if any(one.ids != first.ids or not np.array_equal(one.labels, first.labels) for one in others):
        raise StoreError("their predictions are of other texts")
    mean = np.mean([one.probabilities for one in predicted], axis=0)
    if first.labels.ndim == 1:
        return replace(first, answers=mean.argmax(axis=1), probabilities=mean)
    if thresholds is None:
        thresholds = choose_thresholds(mean, first.labels)
    return replace(first, answers=decide(mean, thresholds), probabilities=mean)


def temper(predicted: Predicted, temperature: float | None) -> Predicted:
    """Return the predictions after their logits are divided by the temperature; labels never change.

    Source: Guo et al., "On Calibration of Modern Neural Networks" (arXiv:1706.04599), section 4.2.
    """
    if temperature is None:
        return predicted
    logits = np.log(np.maximum(predicted.probabilities, SMALLEST)) / temperature
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return replace(predicted, probabilities=powers / powers.sum(axis=1, keepdims=True))


def fit_temperature(predicted: Predicted) -> float | None:
    """Return the temperature at which the true labels are the likeliest.

    The loss is convex in 1 / temperature, so its slope is 0 once. None: there is no such temperature between
    1 / 20 and 20, as where every text is right and the surest probabilities would be the likeliest.
    """
    logits = np.log(np.maximum(predicted.probabilities, SMALLEST))  # (rows, labels)
    true = np.take_along_axis(logits, predicted.labels[:, None], axis=1).mean()

    def slope(temperature: float) -> float:
        """Return the derivative of the mean loss by 1 / temperature."""
        expected = (temper(predicted, temperature).probabilities * logits).sum(axis=1).mean()
        return float(expected - true)

    low, high = 1 / LARGEST_TEMPERATURE, LARGEST_TEMPERATURE
    if not slope(high) < 0 < slope(low):
        return None
    for _ in range(_HALVINGS):
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if slope(middle) > 0 else (low, middle)
    return high


def measure_confidence(validation: Predicted) -> Confidence:
    """Fit the temperature, and count what would be answered from each threshold on."""
    temperature = fit_temperature(validation)
    tempered, thresholds = temper(validation, temperature), THRESHOLDS[::-1]
    reached = tempered.surest >= np.array(thresholds)[:, None]  # (thresholds, rows)
    return Confidence(
        temperature=temperature,
        reason=_NO_TEMPERATURE if temperature is None else None,
        texts=len(tempered.ids),
        thresholds=thresholds,
        answered=reached.sum(axis=1).tolist(),
        right=(reached & tempered.right).sum(axis=1).tolist(),
    )


def choose_threshold(confidence: Confidence, accuracy: float) -> Threshold | None:
    """Choose the lowest threshold from which answers are at least as accurate as wished.

    Each threshold is tested on the validation texts: is the accuracy of all texts that reach it too low? The
    tests are exact (Clopper and Pearson), and go from strict thresholds to lower ones until the first that is
    not passed. They begin in several places, each with its share of the error, so that one early mistake does
    not end them. So a threshold is returned whose accuracy is too low in at most 1 - LEVEL of the draws of
    validation texts. None: no threshold passes.

    Source: fixed sequences with several starts in "Learn then Test", Angelopoulos et al. (arXiv:2110.01052);
    the guarantee is that of Geifman and El-Yaniv (arXiv:1705.08500).
    """
    answered, right = np.array(confidence.answered), np.array(confidence.right)  # (thresholds,)
    starts = _find_starts(answered, accuracy)
    error = (1 - LEVEL) / max(1, len(starts))
    bounds = bound_accuracy(right, answered, error=error)
    passed = [
        start + steps - 1
        for start in starts
        if (steps := int(np.argmax([*(bounds[start:] < accuracy), True])))  # to the first that is not passed
    ]
    if not passed:
        return None
    chosen = max(passed)
    return Threshold(
        probability=confidence.thresholds[chosen],
        coverage=float(answered[chosen] / confidence.texts),
        accuracy=float(right[chosen] / answered[chosen]),
        wished=accuracy,
    )


def bound_accuracy(right: npt.NDArray[Any], answered: npt.NDArray[Any], *, error: float) -> Floats:
    """Return the accuracies that are exceeded with a confidence of 1 - error; 0 without a right answer.

    Source: Clopper and Pearson, Biometrika 26 (1934).
    """
    bounds: Floats = betaincinv(np.maximum(right, 1), answered - right + 1, error)
    return np.where(right > 0, bounds, 0.0)


def _find_starts(answered: npt.NDArray[Any], accuracy: float) -> list[int]:
    """Return the places of the thresholds at which the tests begin, by how many texts reach them alone."""
    fewest = np.log((1 - LEVEL) / STARTS) / np.log(accuracy)  # texts, all right, that pass a test
    counts = fewest * (answered[-1] / fewest) ** (np.arange(STARTS) / STARTS)
    if answered[-1] < fewest:
        return []
    return sorted({int(np.argmax(answered >= count)) for count in counts})
