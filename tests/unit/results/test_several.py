"""Thresholds of several labels, against scikit-learn's F1, and the mean of several runs' probabilities."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from bench.errors import StoreError
from bench.results.confidence import Predicted, average, read_split
from bench.results.marks import write_marks
from bench.results.several import choose_thresholds


@given(st.integers(0, 10_000))
def test_a_threshold_has_the_best_f1_and_of_equals_is_nearest_to_a_half(seed: int) -> None:
    random = np.random.default_rng(seed)
    truth = random.random((12, 4)) < [0.1, 0.3, 0.5, 0.8]
    probabilities = np.round((random.random((12, 4)) + truth) / 2, 1)  # with equal ones among them
    thresholds = choose_thresholds(probabilities, truth)
    for found, likely, has in zip(thresholds, probabilities.T, truth.T, strict=True):
        distinct = np.unique(likely)
        tried = [0.5, *((distinct[1:] + distinct[:-1]) / 2)]
        scores = [f1_score(has, likely >= one, zero_division=0) for one in tried]
        nearest = min(abs(one - 0.5) for one, f1 in zip(tried, scores, strict=True) if f1 == max(scores))
        assert abs(found - 0.5) == pytest.approx(nearest)
        reached = f1_score(has, likely >= found, zero_division=0)
        assert reached == pytest.approx(max(scores))


def test_a_threshold_stays_a_half_where_nothing_tells_texts_apart() -> None:
    """Else the majority would answer every label, whose F1 is better than none's."""
    truth = np.array([[True, True], [False, True], [False, False]])
    assert choose_thresholds(np.full((3, 2), 1 / 3), truth).tolist() == [0.5, 0.5]


def predict(seed: int, truth: np.ndarray) -> Predicted:
    """What a run says of three labels of texts, which knows something of the truth."""
    likely = (np.random.default_rng(seed).random(truth.shape) + truth) / 2
    frame = pd.DataFrame({"split": "test", "id": range(len(truth))[::-1]})
    for name, marks in (("label", truth), ("prediction", likely >= 0.5)):
        frame[name] = write_marks(marks[::-1], ["a", "b", "c"], ";")
    named = [f"probability_{one}" for one in "abc"]
    frame = frame.join(pd.DataFrame(likely[::-1], columns=named))
    return read_split(frame, ["a", "b", "c"], split="test", separator=";")


def test_the_mean_of_several_runs_is_answered_by_the_thresholds_given_or_by_its_own() -> None:
    truth = np.random.default_rng(0).random((60, 3)) < [0.6, 0.3, 0.1]
    runs = [predict(seed, truth) for seed in (1, 2)]
    assert (runs[0].labels == truth).all()
    assert (runs[0].right == (runs[0].answers == truth).all(axis=1)).all()
    mean = np.mean([one.probabilities for one in runs], axis=0)
    own = average(runs)
    assert own.probabilities == pytest.approx(mean)
    assert (own.answers == (mean >= choose_thresholds(mean, truth))).all()
    given_some = average(runs, np.array([0.2, 0.6, 0.9]))
    assert (given_some.answers == (mean >= [0.2, 0.6, 0.9])).all()
    with pytest.raises(StoreError, match="their predictions are of other texts"):
        average([runs[0], predict(1, ~truth)])
