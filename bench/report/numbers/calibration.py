"""How far a method's probabilities can be trusted: calibration error, Brier score, answers at an accuracy.

All of it is measured on the test texts, with temperatures and thresholds of the validation texts alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import ndtr

from bench.report.numbers.statistics import Floats, Score, resample, score_resamples, score_texts
from bench.results.confidence import (
    Confidence,
    Predicted,
    choose_threshold,
    measure_confidence,
    read_split,
    temper,
)

BINS = 15  # of equal width, by the highest probability
MEASURES = ("ece", "brier", "tempered_ece", "tempered_brier")
_HALVINGS = 20
ACCURACIES = (0.9, 0.95, 0.99)  # wished of the texts that are answered


@dataclass(frozen=True)
class Estimate:
    """A number, and where it lies with 95 % confidence."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Bin:
    """The answers of all seeds whose highest probability lies in one of BINS."""

    answers: int
    confidence: float  # mean of their highest probabilities
    accuracy: float


@dataclass(frozen=True)
class Coverage:
    """What is answered of the test texts where answers are to have a wished accuracy, over the seeds."""

    wished: float
    seeds: int  # that have a threshold
    share: float  # of the texts, mean over all seeds: a seed without a threshold answers none
    accuracy: float | None  # of what is answered; None: nothing


@dataclass(frozen=True)
class Reliability:
    """What a method's probabilities are worth on the test texts, the mean over its seeds."""

    texts: int
    temperatures: tuple[float | None, ...]  # of each seed, from its validation texts
    plain_ece: float  # as Guo et al. compute it, which chance raises where texts are few
    bins: tuple[Bin, ...]  # those that are not empty, as predicted
    tempered_bins: tuple[Bin, ...]
    coverages: tuple[Coverage, ...]  # of each of ACCURACIES
    estimates: Mapping[str, Estimate] = field(default_factory=dict)  # by one of MEASURES


Run = tuple[Predicted, Predicted]  # of validation, and of test


def read_run(predictions: pd.DataFrame, labels: Sequence[str], separator: str | None = None) -> Run:
    """Return what a run predicted of validation, and of test.

    Args:
        separator: as of marks.find_separator

    Raises:
        StoreError: they hold no probabilities, or not of both splits.
    """
    validation, test = (
        read_split(predictions, labels, split=split, separator=separator) for split in ("validation", "test")
    )
    return validation, test


def calibrate(runs: Sequence[Run]) -> tuple[Reliability, dict[str, Score]]:
    """Return what the probabilities of a method's runs are worth, and each of MEASURES as a score."""
    known, predicted = [measure_confidence(validation) for validation, _ in runs], [test for _, test in runs]
    tempered = [temper(test, one.temperature) for one, test in zip(known, predicted, strict=True)]
    scores = {}
    for prefix, same in (("", predicted), ("tempered_", tempered)):
        scores[f"{prefix}ece"] = _score_ece(same)
        scores[f"{prefix}brier"] = score_texts(np.stack([score_brier(one) for one in same]))
    described = Reliability(
        texts=len(predicted[0].labels),
        temperatures=tuple(one.temperature for one in known),
        plain_ece=float(np.mean([find_plain_ece(_sum_bins(one)[0]) for one in predicted])),
        bins=_list_bins(predicted),
        tempered_bins=_list_bins(tempered),
        coverages=tuple(_cover(known, tempered, wished) for wished in ACCURACIES),
    )
    return described, scores


def score_brier(predicted: Predicted) -> Floats:
    """Return each text's squared distance from certainty of its label, summed over the labels. # (rows,)

    Source: Brier, "Verification of forecasts expressed in terms of probability" (1950), for several labels.
    """
    certain = np.eye(predicted.probabilities.shape[1])[predicted.labels]  # (rows, labels)
    distances: Floats = np.square(predicted.probabilities - certain).sum(axis=1)
    return distances


def _score_ece(predicted: Sequence[Predicted]) -> Score:
    """Score the calibration error by seed, on the texts and on resamples of them."""
    rows = len(predicted[0].labels)

    def score(weights: npt.NDArray[np.float32]) -> Floats:
        return np.stack([estimate_ece(_sum_bins(one, weights)) for one in predicted])

    resampled = np.concatenate([score(weights) for weights in resample(rows)], axis=1)  # (seeds, samples)
    whole = score(np.ones((1, rows), dtype=np.float32))[:, 0]  # (seeds,)
    return score_resamples(whole, resampled, rows=rows)


def _sum_bins(predicted: Predicted, weights: npt.NDArray[np.float32] | None = None) -> Floats:
    """Sum texts, their highest probabilities and right answers in each bin. # (samples, 3, bins)

    Args:
        weights: of each text in each sample; None: all texts once. # (samples, rows)
    """
    surest, right = predicted.surest, predicted.right
    inside = np.eye(BINS)[np.clip(np.ceil(surest * BINS).astype(int) - 1, 0, BINS - 1)]  # (rows, bins)
    columns = np.concatenate([inside, inside * surest[:, None], inside * right[:, None]], axis=1)
    samples = np.ones((1, len(surest))) if weights is None else weights.astype(np.float64)
    sums: Floats = (samples @ columns).reshape(-1, 3, BINS)
    return sums


def find_plain_ece(sums: Floats) -> float:
    """Return the expected calibration error: the mean distance of accuracy and probability over the bins.

    Source: Guo et al., "On Reliability of Modern Neural Networks" (arXiv:1706.04599), equation 3.
    """
    texts, surest, right = sums
    return float(np.abs(right - surest).sum() / texts.sum())


def estimate_ece(sums: Floats) -> Floats:
    """Estimate the expected calibration error less what chance adds to it. # (samples,)

    On few texts a bin is never exactly as right as it is sure, so the plain error is too high: by 4 points
    for 400 texts and perfect probabilities. The estimate is the error with which so many texts would show, on
    average, the plain error that they show: the distances of all bins are multiplied by the same number from
    0 to 1. The method of moments; how far it holds is simulated, docs/statistics.md.
    """
    texts, surest, right = np.moveaxis(sums, 1, 0)  # (samples, bins)
    gaps = right - surest
    shown = np.abs(gaps).sum(axis=1)  # (samples,)
    low, high = np.zeros(len(shown)), np.ones(len(shown))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        is_less = _expect_distances(texts, surest, middle[:, None] * gaps).sum(axis=1) < shown
        low, high = np.where(is_less, middle, low), np.where(is_less, high, middle)
    estimates: Floats = low * shown / texts.sum(axis=1)
    return estimates


def _expect_distances(texts: Floats, surest: Floats, gaps: Floats) -> Floats:
    """Return how far from its sum of probabilities each bin's right answers are expected to be.

    They are normal around it and the true gap, so the distance is folded normal.

    Args:
        gaps: true right answers less ``surest``. # (samples, bins)
    """
    shares = np.divide(surest + gaps, texts, out=np.zeros_like(gaps), where=texts > 0).clip(0, 1)
    spreads = np.sqrt(texts * shares * (1 - shares))
    scaled = np.divide(gaps, spreads, out=np.zeros_like(gaps), where=spreads > 0)
    folded = spreads * np.sqrt(2 / np.pi) * np.exp(-np.square(scaled) / 2) + gaps * (1 - 2 * ndtr(-scaled))
    distances: Floats = np.where(spreads > 0, folded, np.abs(gaps))
    return distances


def _list_bins(predicted: Sequence[Predicted]) -> tuple[Bin, ...]:
    """Return the bins of all seeds' answers, without empty ones."""
    texts, surest, right = sum(_sum_bins(one)[0] for one in predicted)
    return tuple(
        Bin(round(count), float(sure / count), float(hits / count))
        for count, sure, hits in zip(texts, surest, right, strict=True)
        if count
    )


def _cover(known: Sequence[Confidence], tempered: Sequence[Predicted], wished: float) -> Coverage:
    """Answer the test texts from each seed's threshold on, which its validation texts have."""
    reached, answered, right = 0, 0, 0
    for confidence, test in zip(known, tempered, strict=True):
        threshold = choose_threshold(confidence, wished)
        if threshold is None:
            continue
        is_answered = test.surest >= threshold.probability
        reached += 1
        answered += int(is_answered.sum())
        right += int((is_answered & test.right).sum())
    texts = len(tempered[0].labels) * len(tempered)
    return Coverage(wished, reached, answered / texts, right / answered if answered else None)
