"""Temperatures and thresholds: against scipy, closed forms, and simulated texts whose truth is known."""

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from scipy.stats import binomtest

from bench.errors import StoreError
from bench.results.confidence import (
    THRESHOLDS,
    Confidence,
    Predicted,
    bound_accuracy,
    choose_threshold,
    fit_temperature,
    measure_confidence,
    read_split,
    temper,
)

Floats = npt.NDArray[np.float64]


def predict(logits: Floats, labels: npt.NDArray[np.int64]) -> Predicted:
    values = softmax(logits, axis=1)
    return Predicted(tuple(range(len(labels))), labels, values.argmax(axis=1), values)


def draw(random: np.random.Generator, texts: int, *, sureness: float, noise: float = 0.0) -> Predicted:
    """Texts of four labels whose true logits are known, and a model that is so many times as sure."""
    return draw_several(random, texts, models=1, sureness=sureness, noise=noise)[0]


def draw_several(
    random: np.random.Generator, texts: int, *, models: int, sureness: float, noise: float
) -> list[Predicted]:
    """The same texts, as several equal models predict them."""
    true = 6 * random.normal(size=(texts, 4))
    labels = (softmax(true, axis=1).cumsum(axis=1) < random.random((texts, 1))).sum(axis=1).clip(0, 3)
    return [
        predict(sureness * (true + noise * random.normal(size=true.shape)), labels) for _ in range(models)
    ]


def count(answered: list[int], right: list[int]) -> Confidence:
    """Counts at thresholds that do not matter."""
    thresholds = [1 - place / 100 for place in range(len(answered))]
    return Confidence(None, None, answered[-1], thresholds, answered, right)


@pytest.mark.parametrize("sureness", [0.5, 1.0, 1.7, 4.0])
def test_the_temperature_is_that_of_the_greatest_likelihood(sureness: float) -> None:
    predicted = draw(np.random.default_rng(0), 500, sureness=sureness, noise=0.3)
    logits = np.log(predicted.probabilities)

    def lose(temperature: float) -> float:
        return float(-log_softmax(logits / temperature, axis=1)[np.arange(500), predicted.labels].mean())

    expected = minimize_scalar(lose, bounds=(0.05, 20), method="bounded", options={"xatol": 1e-9})
    assert fit_temperature(predicted) == pytest.approx(expected.x, rel=1e-5)


def test_a_model_that_is_twice_as_sure_has_a_temperature_of_two() -> None:
    assert fit_temperature(draw(np.random.default_rng(1), 50_000, sureness=2.0)) == pytest.approx(2, rel=0.03)


def test_a_temperature_divides_logits_and_changes_no_label() -> None:
    logits = np.random.default_rng(2).normal(size=(200, 5)) * 20
    predicted = predict(logits, np.zeros(200, dtype=np.int64))
    tempered = temper(predicted, 3.0)
    assert tempered.probabilities == pytest.approx(softmax(logits / 3, axis=1))
    assert (tempered.probabilities.argmax(axis=1) == predicted.answers).all()
    assert temper(predicted, None) is predicted


def test_a_probability_of_nought_stays_finite() -> None:
    sure = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    predicted = Predicted((0, 1, 2, 3), np.array([0, 1, 0, 1]), sure.argmax(axis=1), sure)
    assert 1 < (fit_temperature(predicted) or 0) <= 20 or fit_temperature(predicted) is None
    assert np.isfinite(temper(predicted, 2.0).probabilities).all()


@pytest.mark.parametrize(
    "labels",
    [
        pytest.param([0, 1, 0, 1], id="all right, so the surest probabilities are the likeliest"),
        pytest.param([1, 0, 1, 0], id="all wrong"),
    ],
)
def test_where_no_temperature_is_the_likeliest_there_is_none(labels: list[int]) -> None:
    logits = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0], [0.0, 2.0]])
    found = measure_confidence(predict(logits, np.array(labels)))
    assert found.temperature is None
    assert found.reason == "no temperature from 1/20 to 20 makes the validation texts the likeliest"


def test_bounds_are_those_of_clopper_and_pearson() -> None:
    right, answered = np.array([0, 1, 57, 100]), np.array([10, 10, 60, 100])
    expected = [
        binomtest(hits, texts, alternative="greater").proportion_ci(0.95, method="exact").low
        for hits, texts in zip(right, answered, strict=True)
    ]
    assert bound_accuracy(right, answered, error=0.05) == pytest.approx(expected)


def test_thresholds_are_counted_by_what_reaches_them() -> None:
    values = np.array([[0.5, 0.5], [0.96, 0.04], [0.3, 0.7], [0.001, 0.999]])
    predicted = Predicted((0, 1, 2, 3), np.array([1, 0, 1, 1]), np.array([0, 0, 1, 1]), values)
    found = measure_confidence(predicted)
    tempered = temper(predicted, found.temperature)
    assert list(found.thresholds) == sorted(THRESHOLDS, reverse=True)
    for threshold, answered, right in zip(found.thresholds, found.answered, found.right, strict=True):
        reached = tempered.surest >= threshold
        assert (answered, right) == (reached.sum(), (reached & tempered.right).sum())
    assert (found.texts, found.answered[-1], found.right[-1]) == (4, 4, 3)


def test_the_lowest_threshold_that_passes_is_chosen() -> None:
    answered = list(range(10, 1010, 10))
    right = [min(texts, 500) for texts in answered]  # all are right up to 500 texts, and wrong beyond
    found = choose_threshold(count(answered, right), 0.9)
    assert found is not None
    place = round(100 * (1 - found.probability))
    assert (found.coverage, found.accuracy) == (answered[place] / 1000, right[place] / answered[place])
    starts = 4
    lower = [
        bound_accuracy(np.array([right[at]]), np.array([answered[at]]), error=0.05 / starts)[0]
        for at in (place, place + 1)
    ]
    assert lower[0] >= 0.9 > lower[1]


def test_a_wish_that_no_threshold_shows_is_refused() -> None:
    few = list(range(1, 41))  # 40 right answers show no accuracy above 90 % with so many tests
    assert choose_threshold(count(few, few), 0.95) is None
    assert choose_threshold(count(few, few), 0.8) is not None
    wrong = list(range(10, 1010, 10))
    assert choose_threshold(count(wrong, [texts // 2 for texts in wrong]), 0.9) is None


def test_one_early_mistake_ends_no_later_test() -> None:
    """The surest text is wrong, and 999 others are right."""
    answered = list(range(10, 1010, 10))
    found = choose_threshold(count(answered, [texts - 1 for texts in answered]), 0.95)
    assert found is not None
    assert found.coverage == 1


@pytest.mark.parametrize(
    ("texts", "wished", "least", "models"),
    [
        (400, 0.9, 0.6, 1),
        (400, 0.95, 0.3, 8),
        pytest.param(1000, 0.98, 0.1, 8, marks=pytest.mark.slow),
        pytest.param(400, 0.9, 0.6, 8, marks=pytest.mark.slow),
    ],
)
def test_the_accuracy_of_what_is_answered_is_as_wished_in_95_of_100_cases(
    texts: int, wished: float, least: float, models: int
) -> None:
    """Of 200 draws of validation texts, which fit the temperature and choose the best of the models too."""
    random = np.random.default_rng(3)
    truth = draw(random, 10_000, sureness=1.6, noise=0.3)
    broken, coverages = 0, []
    for _ in range(200):
        drawn = draw_several(random, texts, models=models, sureness=1.6, noise=0.3)
        confidence = measure_confidence(max(drawn, key=lambda one: one.right.mean()))
        threshold = choose_threshold(confidence, wished)
        coverages.append(threshold.coverage if threshold else 0.0)
        if threshold:
            answered = temper(truth, confidence.temperature)
            reached = answered.surest >= threshold.probability
            broken += answered.right[reached].mean() < wished
    assert broken / 200 <= 0.05
    assert np.mean(coverages) > least


def test_predictions_are_read_in_the_order_of_their_ids() -> None:
    frame = pd.DataFrame(
        {
            "split": ["test", "validation", "validation"],
            "id": [0, 7, 3],
            "label": ["a", "b", "a"],
            "prediction": ["a", "a", "a"],
            "probability_b": [0.1, 0.4, 0.2],
            "probability_a": [0.9, 0.6, 0.8],
        }
    )
    found = read_split(frame, ["a", "b"], split="validation")
    assert (found.ids, found.labels.tolist(), found.right.tolist()) == ((3, 7), [0, 1], [True, False])
    assert found.probabilities.tolist() == [[0.8, 0.2], [0.6, 0.4]]
    with pytest.raises(StoreError, match="no column probability_c"):
        read_split(frame, ["a", "b", "c"], split="test")
    with pytest.raises(StoreError, match="its predictions of train are not whole"):
        read_split(frame, ["a", "b"], split="train")
