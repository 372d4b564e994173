"""Baselines are as strong as they should be, the same each time, and read Chinese."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from bench.config.overrides import load_file
from bench.config.schema import DataConfig
from bench.data import dataset as datasets
from bench.data.dataset import Dataset
from bench.train import baselines, metrics

FILES = DataConfig(**load_file("data", "files"))
HEADLINES = dataclasses.replace(FILES, source="bbc_headlines", validation_size=400, test_size=400)
FINANCE = dataclasses.replace(
    HEADLINES, source="finance8_synthetic", train_size=400, validation_size=80, test_size=400, noise=0.0
)


def make_dataset(texts: list[str], labels: list[int]) -> Dataset:
    frame = pd.DataFrame({"id": range(len(texts)), "text": texts, "label": labels})
    names = tuple("abcdefgh"[: max(labels) + 1])
    return Dataset(dict.fromkeys(("train", "validation", "test"), frame), names, "f", 0)


def score(fitted: baselines.FittedBaseline, dataset: Dataset) -> dict[str, float]:
    return metrics.score(fitted.probabilities["test"], dataset.splits["test"]["label"].to_numpy())


def test_majority_is_the_most_frequent_label_with_trains_shares() -> None:
    dataset = make_dataset(["w", "x", "y", "z"], [2, 1, 1, 0])
    fitted = baselines.fit_majority(dataset)
    assert fitted.parameters == 0
    assert set(fitted.probabilities) == {"validation", "test"}
    assert fitted.probabilities["test"].tolist() == [[0.25, 0.5, 0.25]] * 4
    assert score(fitted, dataset)["accuracy"] == 0.5


def test_tfidf_on_headlines_is_a_real_opponent() -> None:
    dataset = datasets.load(HEADLINES)
    fitted = baselines.fit_tfidf(dataset)
    assert 0.72 < score(fitted, dataset)["accuracy"] < 0.78
    assert fitted.probabilities["validation"].shape == (400, 5)
    assert fitted.parameters % 5 == 0


def test_tfidf_reads_chinese() -> None:
    dataset = datasets.load(FINANCE)
    fitted, again = baselines.fit_tfidf(dataset), baselines.fit_tfidf(dataset)
    assert score(fitted, dataset)["accuracy"] > 0.6  # whole sentences as words: about 1 in 8
    for split, values in fitted.probabilities.items():
        np.testing.assert_array_equal(values, again.probabilities[split])


@pytest.mark.parametrize(
    ("texts", "characters"),
    [
        (["央行下调利率", "股市上涨"], True),
        (["苹果发布 iPhone 15 Pro", "A股 CSI300 指数上涨"], True),
        (["トヨタの利益", "ราคาน้ำมัน"], True),
        (["Shares rise in London", "the 上海 index of Chinese shares falls again"], False),
        (["주가가 크게 올랐다", "환율이 내렸다"], False),
        (["Акции растут", "рубль падает"], False),
        (["!!", "a", "?"], True),
        (["12 34", "56"], False),
    ],
)
def test_characters_are_read_where_words_have_no_spaces(texts: list[str], characters: bool) -> None:
    assert baselines.uses_characters(texts) is characters


def test_tfidf_tells_texts_apart_that_have_no_words() -> None:
    dataset = make_dataset(["!!", "!", "?", "??"] * 5, [0, 0, 1, 1] * 5)
    assert score(baselines.fit_tfidf(dataset), dataset)["accuracy"] == 1.0


WAYS = [np.array([[2.0, 0.0], [0.0, 0.1]]), np.array([[0.0, 1.0], [1.0, 0.0]])]  # of two labels' words


def test_a_text_gets_the_label_whose_words_point_its_way() -> None:
    """Cosines of 0.6 and 0.8, whatever the lengths, 20 times which are scores."""
    features = {"validation": np.eye(2), "test": np.array([[3.0, 4.0], [60.0, 80.0], [1.0, 0.0]])}
    fitted = baselines.compare_words(features, WAYS[:1], make_dataset(["x", "y"], [0, 1]))
    likely = 1 / (1 + np.exp(-20 * 0.2))
    expected = [[1 - likely, likely]] * 2 + [[1.0, np.exp(-20.0)]]
    np.testing.assert_allclose(fitted.probabilities["test"], expected, atol=1e-8)
    assert fitted.parameters == 0


@pytest.mark.parametrize(("labels", "answers"), [([0, 1], [0, 1]), ([1, 0], [1, 0]), ([0, 0], [0, 1])])
def test_validation_chooses_how_the_words_are_put(labels: list[int], answers: list[int]) -> None:
    """Of equally good ways the first."""
    fitted = baselines.compare_words(
        dict.fromkeys(("validation", "test"), np.eye(2)), WAYS, make_dataset(["x", "y"], labels)
    )
    assert fitted.probabilities["test"].argmax(axis=1).tolist() == answers


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_frozen_features_are_separated_whatever_their_scale(scale: float) -> None:
    random = np.random.default_rng(0)
    labels = np.arange(90) % 3
    dataset = make_dataset(["x"] * 90, labels.tolist())
    features = np.eye(3, 40)[labels] * 4 + random.normal(size=(90, 40)) + 7
    given = dict.fromkeys(("train", "validation", "test"), (scale * features).astype(np.float32))
    fitted = baselines.fit_frozen(given, dataset)
    assert score(fitted, dataset)["accuracy"] == 1.0
    assert fitted.parameters == 3 * 40 + 3
    assert set(fitted.probabilities) == {"validation", "test"}


def test_a_weighted_regression_is_scikit_learns_of_balanced_classes() -> None:
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [100, 15, 5])
    features = dict.fromkeys(("train", "validation", "test"), random.normal(size=(120, 4)) + labels[:, None])
    dataset = make_dataset(["x"] * 120, labels.tolist())
    fitted = baselines.fit_frozen(features, dataset, class_weight="balanced")
    scaled = StandardScaler().fit_transform(features["train"])
    rivals = [
        LogisticRegression(C=inverse, max_iter=10_000, class_weight="balanced").fit(scaled, labels)
        for inverse in baselines.INVERSE_PENALTIES
    ]
    expected = max(rivals, key=lambda one: one.score(scaled, labels)).predict_proba(scaled)
    np.testing.assert_allclose(fitted.probabilities["test"], expected, atol=1e-6)
    plain = baselines.fit_frozen(features, dataset).probabilities["test"]
    assert (fitted.probabilities["test"].argmax(1) == 2).sum() > (plain.argmax(1) == 2).sum()


def test_the_penalty_is_chosen_by_the_score_that_the_sweep_selects_by() -> None:
    """Where one label is rare the most accurate of the regressions is not that with the best recalls."""
    random = np.random.default_rng(3)
    labels = np.repeat([0, 1], [190, 10])
    dataset = make_dataset(["x"] * 200, labels.tolist())
    train, fresh = (random.normal(size=(200, 40)) + 0.5 * labels[:, None] for _ in range(2))
    features = {"train": train, "validation": fresh, "test": fresh}
    found = {
        name: score(baselines.fit_frozen(features, dataset, select_by=name), dataset)
        for name in ("accuracy", "balanced_accuracy")
    }
    assert found["accuracy"]["accuracy"] > found["balanced_accuracy"]["accuracy"]
    assert found["accuracy"]["balanced_accuracy"] < found["balanced_accuracy"]["balanced_accuracy"]


def test_train_is_learnt_from_and_validation_only_chooses_the_penalty() -> None:
    random = np.random.default_rng(0)
    labels = np.array([0, 1] * 20)
    noise = random.normal(size=(40, 30))
    train = noise + labels[:, None] * np.eye(1, 30)
    dataset = make_dataset(["x"] * 40, labels.tolist())
    fresh = random.normal(size=(40, 30)) + labels[:, None] * np.eye(1, 30)
    strict = baselines.fit_frozen({"train": train, "validation": fresh, "test": fresh}, dataset)
    loose = baselines.fit_frozen({"train": train, "validation": train, "test": fresh}, dataset)
    strict_margin, loose_margin = (np.abs(one.probabilities["test"] - 0.5).mean() for one in (strict, loose))
    assert strict_margin < loose_margin
    other = {"train": train, "validation": fresh, "test": -fresh}
    same = baselines.fit_frozen(other, dataset).probabilities["validation"]
    np.testing.assert_array_equal(same, strict.probabilities["validation"])
    assert strict.parameters == 31  # two labels need one set of coefficients


def test_tfidf_reads_both_texts_and_tells_them_apart() -> None:
    """The same words with the other one first have another label."""
    firsts, seconds = ["rain", "sun"] * 20, ["sun", "rain"] * 20
    dataset = make_dataset(firsts, [0, 1] * 20)
    for frame in dataset.splits.values():
        frame["pair"] = seconds
    fitted = baselines.fit_tfidf(dataset)
    assert score(fitted, dataset)["accuracy"] == 1.0
    assert fitted.parameters == 2 * 2 + 1


def make_several(texts: list[str], sets: list[list[int]], numbers: list[int]) -> Dataset:
    frame = pd.DataFrame({"id": range(len(texts)), "text": texts, "label": numbers})
    names = tuple("abcdefgh"[: len(sets[0])])
    splits = dict.fromkeys(("train", "validation", "test"), frame)
    return Dataset(splits, names, "f", 0, sets=np.array(sets, dtype=bool))


def test_majority_of_several_labels_is_each_ones_share() -> None:
    dataset = make_several(["w", "x", "y", "z"], [[0, 0, 1], [1, 1, 1], [0, 0, 0]], [0, 0, 1, 2])
    fitted = baselines.fit_majority(dataset)
    assert fitted.probabilities["test"].tolist() == [[0.25, 0.25, 0.75]] * 4


def test_several_labels_have_a_regression_each() -> None:
    """And a label that all train texts have is always answered."""
    random = np.random.default_rng(0)
    features = random.normal(size=(90, 5))
    truth = np.column_stack([features[:, 0] > 0, features[:, 1] + features[:, 2] > 0.5, np.ones(90)]).astype(
        bool
    )
    sets, numbers = np.unique(truth, axis=0, return_inverse=True)
    dataset = make_several(["x"] * 90, sets.tolist(), numbers.ravel().tolist())
    fitted = baselines.fit_frozen(dict.fromkeys(dataset.splits, features), dataset)
    scaled = StandardScaler().fit_transform(features)
    alone = [
        np.column_stack(
            [
                LogisticRegression(C=c, max_iter=10_000).fit(scaled, has).predict_proba(scaled)[:, 1]
                for has in truth.T[:2]
            ]
            + [np.ones(90)]
        )
        for c in baselines.INVERSE_PENALTIES
    ]
    best = max(alone, key=lambda one: metrics.score(one, truth)["accuracy"])
    np.testing.assert_allclose(fitted.probabilities["test"], best)
    assert fitted.parameters == 2 * (5 + 1)
