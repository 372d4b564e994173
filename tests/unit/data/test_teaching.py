"""Texts that a teacher is asked about: parts of train that it lacks, and texts without labels of no split."""

import dataclasses
import logging
from pathlib import Path

import pandas as pd
import pytest

from bench.config.overrides import load_file
from bench.config.schema import DataConfig
from bench.data import dataset
from bench.data.dataset import Dataset
from bench.errors import DataError, MissingError

FILES = DataConfig(**load_file("data", "files"))


@pytest.fixture
def config(texts: Path) -> DataConfig:
    return dataclasses.replace(FILES, train=str(texts))


def load(config: DataConfig, **changed: object) -> Dataset:
    return dataset.load(dataclasses.replace(config, **changed))  # type: ignore[arg-type]


def test_parts_share_train_out_and_leave_validation_and_test_alone(config: DataConfig) -> None:
    whole = load(config)
    parts = [load(config, cross_fit=4, held_out=part) for part in range(4)]
    held = pd.concat([one.asked["held_out"] for one in parts])
    assert sorted(held["id"]) == sorted(whole.splits["train"]["id"])
    by_id = whole.splits["train"].set_index("id")["text"]
    assert (held.set_index("id")["text"] == by_id.loc[held["id"]]).all()
    for one in parts:
        assert not set(one.splits["train"]["text"]) & set(one.asked["held_out"]["text"])
        assert len(one.splits["train"]) + len(one.asked["held_out"]) == len(by_id)
        assert one.fingerprint == whole.fingerprint
        for split in ("validation", "test"):
            pd.testing.assert_frame_equal(one.splits[split], whole.splits[split])
            assert not set(one.splits[split]["text"]) & set(one.asked["held_out"]["text"])


def test_equal_train_texts_are_in_one_part(config: DataConfig, tmp_path: Path) -> None:
    path = tmp_path / "twice.csv"
    pd.concat([pd.read_csv(str(config.train))] * 2).to_csv(path, index=False)
    one = load(config, train=str(path), cross_fit=3, held_out=0)
    assert not set(one.splits["train"]["text"]) & set(one.asked["held_out"]["text"])


def test_a_label_with_one_text_cannot_be_held_out(config: DataConfig) -> None:
    with pytest.raises(DataError, match="a label has one train text alone"):
        load(config, train_size=3, cross_fit=2, held_out=0)


def test_unlabelled_texts_of_any_split_and_duplicates_are_left_out_and_counted(
    config: DataConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    splits = load(config).splits
    test, validation, train = (splits[name]["text"].tolist() for name in ("test", "validation", "train"))
    path = tmp_path / "more.csv"
    texts = [test[0], f"  {test[1]} ", validation[0], *train[:4], "ABC new", "abc  new", "another"]
    pd.DataFrame({"text": texts}).to_csv(path, index=False)
    with caplog.at_level(logging.WARNING):
        found = load(config, unlabelled=str(path))
    assert found.asked["unlabelled"]["text"].tolist() == ["ABC new", "another"]
    assert dataset.describe(found)["unlabelled"] == {
        "given": 10,
        "used": 2,
        "test": 2,
        "validation": 1,
        "train": 4,
        "duplicates": 1,
    }
    assert (
        "2 of 10 texts are used; left out: 2 in test, 1 in validation, 4 in train, 1 duplicates"
        in caplog.text
    )
    held = load(config, unlabelled=str(path), cross_fit=2, held_out=0)
    assert held.asked["unlabelled"].equals(found.asked["unlabelled"])  # also without texts of the other part
    assert held.unlabelled_fingerprint == found.unlabelled_fingerprint


def test_unlabelled_texts_need_no_labels_but_a_column_of_texts_and_one_that_is_new(
    config: DataConfig, tmp_path: Path
) -> None:
    path = tmp_path / "more.csv"
    pd.DataFrame({"title": ["a new text"]}).to_csv(path, index=False)
    with pytest.raises(DataError, match=r"data.text_column=text: .*more.csv has no such column") as caught:
        load(config, unlabelled=str(path))
    assert str(caught.value).endswith(
        "it has title; give it the columns of the labelled texts, so rename its own"
    )
    load(config).splits["test"][["text"]].to_csv(path, index=False)
    with pytest.raises(DataError, match="no text is left to learn from; left out: 18 in test"):
        load(config, unlabelled=str(path))
    with pytest.raises(MissingError, match=r"data.unlabelled=.*gone.csv: cannot be read"):
        load(config, unlabelled=str(tmp_path / "gone.csv"))
