"""Confusion, F1 of each label and the texts that two methods differ in, against scikit-learn and by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from records import make_run
from sklearn.metrics import confusion_matrix, f1_score

from bench.config.schema import Config, to_dict
from bench.data import dataset
from bench.errors import StoreError
from bench.report.numbers.rows import build_rows
from bench.report.page.answers import (
    MethodAnswers,
    compare_answers,
    count_confusion,
    read_answers,
    read_texts,
    score_labels,
)
from bench.results.store import Result

LABELS = ["a", "b", "c"]


def answer(run: Result, labels: list[str], predictions: list[str]) -> MethodAnswers:
    """What the run's method answered; the rows come in another order than their ids."""
    frame = pd.DataFrame(
        {"split": "test", "id": range(len(labels)), "label": labels, "prediction": predictions}
    )
    other = frame.assign(split="validation", prediction="a")
    found, unread = read_answers(build_rows([run]), lambda _: pd.concat([other, frame[::-1]]))
    assert unread == []
    return found[0]


def test_confusion_and_f1_are_those_of_scikit_learn():
    random = np.random.default_rng(0)
    labels, predictions = (random.choice(LABELS, 50).tolist() for _ in range(2))
    answers = answer(make_run(), labels, predictions)
    assert count_confusion(answers).tolist() == confusion_matrix(labels, predictions, labels=LABELS).tolist()
    assert score_labels(answers) == pytest.approx(f1_score(labels, predictions, labels=LABELS, average=None))


def test_a_label_that_nobody_asked_or_answered_has_no_f1():
    assert score_labels(answer(make_run(), ["a", "b"], ["a", "a"])) == [
        pytest.approx(2 / 3),
        0.0,
        None,
    ]


def test_the_texts_that_only_one_method_has_right():
    one = answer(make_run("full"), ["a", "b", "c", "a"], ["a", "b", "a", "b"])
    other = answer(make_run("qlora"), ["a", "b", "c", "a"], ["a", "c", "c", "c"])
    only_one, only_other = compare_answers(one, other), compare_answers(other, one)
    assert only_one is not None
    assert only_other is not None
    assert (only_one.ids, only_other.ids) == ((1,), (2,))
    assert compare_answers(one, answer(make_run("lora"), ["a", "b"], ["a", "b"])) is None


def test_answers_that_cannot_be_read_are_named():
    def read(_: str) -> pd.DataFrame:
        raise StoreError("runs/x/predictions.csv: gone")

    assert [reason for _, reason in read_answers(build_rows([make_run()]), read)[1]] == [
        "runs/x/predictions.csv: gone"
    ]
    frame = pd.DataFrame({"split": ["test"], "id": [0], "label": ["a"], "prediction": ["z"]})
    (_, reason), *_ = read_answers(build_rows([make_run()]), lambda _: frame)[1]
    assert reason.endswith("its record has no label 'z'")


def test_the_texts_are_read_again_only_if_they_are_the_same(tmp_path: Path, compose: Any):
    path = tmp_path / "texts.csv"
    rows = [{"text": f"text {place}", "label": LABELS[place % 3]} for place in range(90)]
    pd.DataFrame(rows).to_csv(path, index=False)
    sizes = ("data.validation_size=15", "data.test_size=15")
    config: Config = compose("data=files", f"data.train={path}", *sizes)
    run = make_run(data=dataset.fingerprint(config.data))
    run.config["data"] = to_dict(config)["data"]
    one = answer(run, ["a"], ["a"])
    test = dataset.load(config.data).splits["test"]
    assert read_texts(one) == dict(zip(test["id"], test["text"], strict=True))
    pd.DataFrame(rows[:-1]).to_csv(path, index=False)
    assert read_texts(one) == "the texts there are others by now"
    path.unlink()
    assert "texts.csv" in str(read_texts(one))
    run.config["data"]["source"] = "hub"
    assert read_texts(one) == "they are on a hub, and a report fetches nothing"
    del run.config["data"]["source"]
    assert read_texts(one) == "the record does not say where they come from"
