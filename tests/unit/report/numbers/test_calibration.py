"""Reliability error and Brier score of stored predictions: against scikit-learn and closed forms."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from bench.report.numbers.calibration import (
    ACCURACIES,
    BINS,
    _score_ece,
    _sum_bins,
    calibrate,
    estimate_ece,
    find_plain_ece,
    score_brier,
)
from bench.report.numbers.statistics import find_margin
from bench.results.confidence import Predicted, measure_confidence, temper


def draw(seed: int, texts: int, *, sureness: float) -> Predicted:
    """Texts of three labels whose true logits are known, and a model that is so many times as sure."""
    random = np.random.default_rng(seed)
    true = 2 * random.normal(size=(texts, 3))
    labels = (softmax(true, axis=1).cumsum(axis=1) < random.random((texts, 1))).sum(axis=1).clip(0, 2)
    values = softmax(sureness * true, axis=1)
    return Predicted(tuple(range(texts)), labels, values.argmax(axis=1), values)


def test_the_plain_error_is_that_of_scikit_learns_bins() -> None:
    predicted = draw(0, 700, sureness=2.0)
    rates, means = calibration_curve(predicted.right, predicted.surest, n_bins=BINS, strategy="uniform")
    counts = np.histogram(predicted.surest, bins=np.linspace(0, 1, BINS + 1))[0]
    expected = (np.abs(rates - means) * counts[counts > 0]).sum() / 700
    assert find_plain_ece(_sum_bins(predicted)[0]) == pytest.approx(expected)


def test_a_probability_between_two_bins_is_in_the_lower() -> None:
    values = np.array([[0.6, 0.4], [1.0, 0.0]])
    texts = _sum_bins(Predicted((0, 1), np.array([0, 0]), np.array([0, 0]), values))[0, 0]
    assert np.flatnonzero(texts).tolist() == [8, 14]  # (8/15, 9/15], (14/15, 1]


def test_brier_is_scikit_learns() -> None:
    predicted = draw(1, 300, sureness=1.5)
    expected = brier_score_loss(predicted.labels, predicted.probabilities, scale_by_half=False)
    assert score_brier(predicted).mean() == pytest.approx(expected)
    certain = Predicted((0, 1), np.array([0, 1]), np.array([0, 0]), np.array([[1.0, 0.0], [1.0, 0.0]]))
    assert score_brier(certain).tolist() == [0, 2]


def test_an_error_of_chance_alone_is_taken_off() -> None:
    """Perfect probabilities of 400 texts have a plain error of 3 points and more, on average."""
    perfect = [draw(seed, 400, sureness=1.0) for seed in range(100)]
    plain = np.mean([find_plain_ece(_sum_bins(one)[0]) for one in perfect])
    estimate = np.mean([estimate_ece(_sum_bins(one))[0] for one in perfect])
    assert plain > 0.03
    assert estimate < 0.015


@pytest.mark.parametrize("sureness", [1.5, 2.5])
def test_a_true_error_is_estimated_without_bias(sureness: float) -> None:
    truth = find_plain_ece(_sum_bins(draw(0, 200_000, sureness=sureness))[0])
    few = [estimate_ece(_sum_bins(draw(seed, 400, sureness=sureness)))[0] for seed in range(1, 100)]
    assert np.mean(few) == pytest.approx(truth, abs=0.006)
    assert truth > 0.04


def test_the_interval_holds_the_true_error() -> None:
    truth = find_plain_ece(_sum_bins(draw(0, 200_000, sureness=1.5))[0])
    held = []
    for seed in range(1, 41):
        score = _score_ece([draw(seed, 400, sureness=1.5)])
        held.append(abs(score.mean - truth) <= find_margin(score.error, (), rows=None))
    assert np.mean(held) >= 0.9


def test_a_measure_is_the_mean_over_the_seeds_and_counts_both() -> None:
    tests = [draw(seed, 400, sureness=2.0) for seed in (0, 1)]
    # the same texts, so that what is paired in them is
    tests = [Predicted(tests[0].ids, tests[0].labels, one.answers, one.probabilities) for one in tests]
    runs = [(draw(seed, 400, sureness=2.0), one) for seed, one in enumerate(tests, 10)]
    found, scores = calibrate(runs)
    assert set(scores) == {"ece", "brier", "tempered_ece", "tempered_brier"}
    briers = [score_brier(one) for one in tests]
    assert scores["brier"].mean == pytest.approx(np.mean(briers))
    assert scores["brier"].error == pytest.approx(np.mean(briers, axis=0).var(ddof=1) / 400)
    [seeds] = scores["brier"].seeds
    assert seeds.error == pytest.approx(np.var([one.mean() for one in briers], ddof=1) / 2)
    temperatures = tuple(measure_confidence(validation).temperature for validation, _ in runs)
    after = [score_brier(temper(one, by)).mean() for one, by in zip(tests, temperatures, strict=True)]
    assert scores["tempered_brier"].mean == pytest.approx(np.mean(after))
    assert found.temperatures == temperatures
    assert sum(one.answers for one in found.bins) == 800


def test_what_is_answered_is_of_the_test_texts_and_by_validation_alone() -> None:
    """A model whose validation answers are right and whose test answers are wrong is not found out."""
    validation = draw(0, 400, sureness=1.0)
    sure = Predicted(validation.ids, validation.answers, validation.answers, validation.probabilities)
    wrong = Predicted(sure.ids, (sure.answers + 1) % 3, sure.answers, sure.probabilities)
    found, _ = calibrate([(sure, wrong)])
    assert [one.wished for one in found.coverages] == list(ACCURACIES)
    assert [(one.seeds, one.share, one.accuracy) for one in found.coverages[:2]] == [(1, 1.0, 0.0)] * 2
    found, _ = calibrate([(wrong, sure)])
    assert [(one.seeds, one.share, one.accuracy) for one in found.coverages] == [(0, 0.0, None)] * 3
