"""Scores of a tally are scikit-learn's, of rows and of resamples, and a label's interval is Wilson's."""

import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn import metrics

from bench.results import tally
from bench.results.marks import mark

INDEPENDENT = {
    "f1_macro": lambda true, answers, classes: metrics.f1_score(
        true, answers, labels=range(classes), average="macro", zero_division=0
    ),
    "balanced_accuracy": lambda true, answers, _: metrics.balanced_accuracy_score(true, answers),
    "mcc": lambda true, answers, _: metrics.matthews_corrcoef(true, answers),
    "f1_micro": lambda true, answers, classes: metrics.f1_score(
        true, answers, labels=range(classes), average="micro", zero_division=0
    ),
}


@pytest.mark.parametrize("name", tally.SCORES)
@given(seed=st.integers(0, 10_000), classes=st.integers(2, 5))
def test_scores_of_rows_and_of_resampled_rows_are_scikit_learns(name: str, seed: int, classes: int) -> None:
    random = np.random.default_rng(seed)
    labels, answers = random.integers(classes, size=(2, 12))
    weights = np.bincount(random.integers(12, size=12), minlength=12)
    drawn = np.repeat(np.arange(12), weights)
    score, independent = tally.SCORES[name], INDEPENDENT[name]
    with warnings.catch_warnings(action="ignore"):  # of answers that no row has for a label
        expected = independent(labels, answers, classes), independent(labels[drawn], answers[drawn], classes)
    marks = [mark(numbers, classes) for numbers in (labels, answers)]
    whole = score(tally.count(*marks))
    resampled = score(tally.count(*marks, weights=weights[None].astype(np.float32)))
    assert [float(whole), *resampled] == pytest.approx(expected)


@given(seed=st.integers(0, 10_000))
def test_a_labels_interval_is_wilsons_of_the_texts_that_have_it_or_got_it(seed: int) -> None:
    random = np.random.default_rng(seed)
    labels, answers = random.integers(3, size=(2, 15))
    counted = tally.count(mark(labels, 3), mark(answers, 3))
    found = zip(tally.score_labels(counted), *tally.bound_labels(counted), strict=True)
    for label, (f1, low, high) in enumerate(found):
        has, got = labels == label, answers == label
        if not (has | got).any():
            assert (f1, low, high) == (0, 0, 1)
            continue
        ends = binomtest(int((has & got).sum()), int((has | got).sum())).proportion_ci(method="wilson")
        assert (low, high) == pytest.approx([2 * end / (1 + end) for end in ends], abs=1e-9)
        assert low <= f1 + 1e-12
        assert f1 <= high + 1e-12


def test_the_interval_of_a_labels_f1_holds_as_often_as_it_says() -> None:
    """Of a label of a tenth of 200 texts, on 4,000 draws of other texts of the same kind."""
    random, held = np.random.default_rng(0), 0
    for _ in range(4000):
        labels = (random.random(200) < 0.1).astype(int)
        answers = np.where(random.random(200) < np.where(labels == 1, 0.8, 0.02), 1, 0)
        low, high = tally.bound_labels(tally.count(mark(labels, 2), mark(answers, 2)))
        held += low[1] <= 2 * 0.08 / (0.08 + 0.018 + 0.1) <= high[1]
    assert held / 4000 == pytest.approx(0.95, abs=0.012)


def test_predictions_are_scored_by_the_declared_labels() -> None:
    rows = pd.DataFrame({"label": ["b", "a", "a"], "prediction": ["b", "a", "b"]})
    assert tally.score_predictions(rows, ["a", "b"])["balanced_accuracy"] == pytest.approx(0.75)
    assert tally.score_predictions(rows, ["a", "b", "c"])["f1_macro"] == pytest.approx((2 / 3 + 2 / 3) / 3)
    assert tally.score_predictions(rows, ["a", "c"]) == {}


@given(seed=st.integers(0, 10_000))
def test_scores_of_several_labels_and_of_resamples_are_scikit_learns(seed: int) -> None:
    random = np.random.default_rng(seed)
    truth, answers = random.random((2, 12, 4)) < 0.4
    weights = np.bincount(random.integers(12, size=12), minlength=12)
    drawn = np.repeat(np.arange(12), weights)
    for average, score in (("macro", tally.score_f1), ("micro", tally.score_f1_micro)):
        expected = [
            metrics.f1_score(truth[rows], answers[rows], average=average, zero_division=0)
            for rows in (np.arange(12), drawn)
        ]
        resampled = score(tally.count(truth, answers, weights=weights[None].astype(np.float32)))
        assert [float(score(tally.count(truth, answers))), *resampled] == pytest.approx(expected)


def test_predictions_of_several_labels_are_scored_by_what_means_something_there() -> None:
    rows = pd.DataFrame({"label": ["a;b", "", "b"], "prediction": ["a;b", "a", ""]})
    found = tally.score_predictions(rows, ["a", "b"], ";")
    assert found == {"f1_macro": pytest.approx(2 / 3), "f1_micro": pytest.approx(4 / 6)}
    assert set(tally.score_predictions(rows.head(1).replace("a;b", "a"), ["a", "b"])) == {
        *("f1_macro", "balanced_accuracy", "mcc")
    }
    assert tally.score_predictions(rows, ["a", "c"], ";") == {}
