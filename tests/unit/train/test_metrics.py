"""Scores equal an independent count, and predictions.csv gives each row its own probabilities."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from bench.data.dataset import Dataset
from bench.errors import RunError
from bench.train import metrics


def count_scores(predicted: list[int], labels: list[int], declared: int) -> tuple[float, float]:
    """Accuracy and macro F1 from their definitions."""
    pairs = list(zip(predicted, labels, strict=True))
    f1 = []
    for label in range(declared):
        right = pairs.count((label, label))
        f1.append(2 * right / max(predicted.count(label) + labels.count(label), 1))
    return sum(one == other for one, other in pairs) / len(pairs), sum(f1) / declared


def test_scores_of_a_split_counted_by_hand() -> None:
    probabilities = np.array([[0.7, 0.2, 0.1], [0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.2, 0.6, 0.2]])
    scores = metrics.score(probabilities, np.array([0, 1, 1, 1]))
    assert scores == {
        "accuracy": 0.75,
        "f1_macro": pytest.approx((2 / 3 + 4 / 5 + 0) / 3),  # the third label counts, with 0
        "balanced_accuracy": pytest.approx((1 + 2 / 3) / 2),  # and here does not, as no text has it
        "mcc": pytest.approx((3 * 4 - (1 * 2 + 3 * 2)) / math.sqrt((16 - 8) * (16 - 10))),
        "loss": pytest.approx(-(math.log(0.7) + math.log(0.3) + math.log(0.8) + math.log(0.6)) / 4),
    }
    assert {type(value) for value in scores.values()} == {float}


@given(
    arrays.arrays(np.float64, (17, 4), elements=st.floats(0.001, 1)),
    st.lists(st.integers(0, 3), min_size=17, max_size=17),
)
def test_scores_follow_their_definitions(weights: np.ndarray, labels: list[int]) -> None:
    probabilities = weights / weights.sum(axis=1, keepdims=True)
    scores = metrics.score(probabilities, np.array(labels))
    accuracy, f1_macro = count_scores(probabilities.argmax(axis=1).tolist(), labels, 4)
    assert scores["accuracy"] == pytest.approx(accuracy)
    assert scores["f1_macro"] == pytest.approx(f1_macro)
    assert scores["loss"] == pytest.approx(-np.log(probabilities[range(17), labels]).mean())


def test_a_certain_wrong_answer_has_a_finite_loss() -> None:
    scores = metrics.score(np.array([[1.0, 0.0]], dtype=np.float16), np.array([1]))
    nothing = dict.fromkeys(("accuracy", "f1_macro", "balanced_accuracy", "mcc"), 0.0)
    assert scores == {**nothing, "loss": pytest.approx(34.5, abs=0.1)}


def test_each_label_has_its_f1_between_the_ends_of_its_interval() -> None:
    probabilities = np.eye(3)[[0] * 7 + [1] * 3]
    found = metrics.score_each_label(probabilities, np.array([0] * 6 + [1] * 4), ["x", "y", "z"])
    assert [one["f1"] for one in found.values()] == pytest.approx([12 / 13, 6 / 7, 0.0])
    assert found["x"]["low"] < 12 / 13 < found["x"]["high"] < 1
    assert found["z"] == {"f1": 0.0, "low": 0.0, "high": 1.0}  # of a label that no text has nothing is known


@pytest.mark.parametrize(
    ("probabilities", "labels"),
    [
        (np.zeros((0, 2)), np.zeros(0, dtype=int)),
        (np.full((2, 2), 0.5), np.array([0])),
        (np.full(2, 0.5), np.array([0, 1])),
    ],
)
def test_what_cannot_be_scored_is_refused(probabilities: np.ndarray, labels: np.ndarray) -> None:
    with pytest.raises(ValueError, match="cannot score"):
        metrics.score(probabilities, labels)


def test_probabilities_that_are_no_numbers_are_not_scored() -> None:
    with pytest.raises(RunError, match="the model diverged"):
        metrics.score(np.array([[np.nan, np.nan]]), np.array([0]))


def make_dataset() -> Dataset:
    frame = pd.DataFrame({"id": [0, 1], "text": ["x", "y"], "label": [1, 0]})
    return Dataset({"train": frame, "validation": frame, "test": frame}, ("宏观", "=1"), "f", 0)


def test_predictions_name_labels_and_keep_rows_in_order(tmp_path: Path) -> None:
    probabilities = {
        "validation": np.array([[0.25, 0.75], [0.5, 0.5]]),
        "test": np.array([[1, 0], [0.125, 0.875]]),
    }
    frame = metrics.predictions_frame(probabilities, make_dataset())
    path = tmp_path / "predictions.csv"
    frame.to_csv(path, index=False)
    assert path.read_text(encoding="utf-8").splitlines() == [
        "split,id,label,prediction,probability_宏观,probability_=1",
        "validation,0,=1,=1,0.25,0.75",
        "validation,1,宏观,宏观,0.5,0.5",
        "test,0,=1,宏观,1.0,0.0",
        "test,1,宏观,=1,0.125,0.875",
    ]


def test_predictions_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="test: probabilities of shape"):
        metrics.predictions_frame({"test": np.full((3, 2), 0.5)}, make_dataset())


def make_several(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of four labels that know something of the truth, with equal ones among them."""
    random = np.random.default_rng(seed)
    truth = random.random((40, 4)) < [0.1, 0.3, 0.5, 0.8]
    return np.round((random.random((40, 4)) + truth) / 2, 1), truth


@pytest.mark.parametrize("seed", range(5))
def test_scores_of_several_labels_are_scikit_learns(seed: int) -> None:
    probabilities, truth = make_several(seed)
    truth[:3], probabilities[:2] = False, 0.0  # texts without a label, one of which gets some
    truth[:, 3] &= seed > 0  # a label that no text has
    thresholds = np.array([0.3, 0.5, 0.6, 0.4])
    answers = probabilities >= thresholds
    occur = truth.any(axis=0)
    scores = metrics.score(probabilities, truth, thresholds)
    f1 = {
        f"f1_{average}": sklearn.metrics.f1_score(truth, answers, average=average, zero_division=nothing)
        for average, nothing in (("macro", 0), ("micro", 0), ("samples", 1))
    }
    precision = sklearn.metrics.average_precision_score(truth[:, occur], probabilities[:, occur])
    right = np.where(truth, probabilities, 1 - probabilities).clip(1e-15)
    assert scores == pytest.approx(
        {
            "accuracy": sklearn.metrics.accuracy_score(truth, answers),
            **f1,
            "mean_average_precision": precision,
            "loss": -np.log(right).mean(),
        }
    )
    by_label = metrics.score_each_label(probabilities, truth, "abcd", thresholds)
    expected = sklearn.metrics.f1_score(truth, answers, average=None, zero_division=0)
    assert [one["f1"] for one in by_label.values()] == pytest.approx(expected)


def test_samples_f1_of_a_text_without_labels_is_1_only_where_none_is_answered() -> None:
    truth = np.array([[True, False], [False, False], [False, False]])
    probabilities = np.array([[0.9, 0.1], [0.1, 0.1], [0.9, 0.1]])
    scores = metrics.score(probabilities, truth, np.array([0.5, 0.5]))
    assert scores["f1_samples"] == pytest.approx((1 + 1 + 0) / 3)
    assert scores["accuracy"] == pytest.approx(2 / 3)


def test_several_labels_of_a_text_stand_in_one_cell_of_its_predictions() -> None:
    frame = pd.DataFrame({"id": [4, 7], "text": ["x", "y"], "label": [0, 2]})
    sets = np.array([[False, False], [False, True], [True, True]])
    dataset = Dataset({"validation": frame, "test": frame}, ("a", "b"), "f", 0, sets=sets)
    values = np.array([[0.2, 0.3], [0.4, 0.9]])
    found = metrics.predictions_frame({"validation": values, "test": values[::-1]}, dataset, ";")
    # thresholds of validation: the middles of 0.2 and 0.4, and a half, with which b is right already
    assert found["label"].tolist() == ["", "a;b", "", "a;b"]
    assert found["prediction"].tolist() == ["", "a;b", "a;b", ""]
    assert found["probability_b"].tolist() == [0.3, 0.9, 0.9, 0.3]
