"""Texts that come in pieces: which are in which, and what a training after one of them sees."""

import logging
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from bench.config.overrides import load_file
from bench.config.schema import DataConfig, MethodConfig
from bench.data import dataset as datasets
from bench.data.stream import count_trained
from bench.errors import ConfigError, DataError

FILES = load_file("data", "files")
Write = Callable[..., str]


def read_method(name: str) -> MethodConfig:
    return MethodConfig(**load_file("method", name))


def configure(**changed: object) -> DataConfig:
    return DataConfig(**{**FILES, "validation_size": 0.2, "test_size": 0.2, **changed})


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a CSV of so many texts of each label, named by their first number; returns its path."""

    def write(name: str, first: int = 0, **counts: int) -> str:
        rows = [
            {"text": f"{label} number {first + number}", "label": label}
            for label, count in counts.items()
            for number in range(count)
        ]
        path = tmp_path / name
        pd.DataFrame(rows).to_csv(path, index=False)
        return str(path)

    return write


@pytest.fixture
def stream(write: Write) -> datasets.Dataset:
    """Three pieces; the label c comes with the second, and sorts between the others in the declared order."""
    files = [write("1.csv", b=20, d=20), write("2.csv", first=20, b=10, c=30), write("3.csv", first=50, d=20)]
    return datasets.load(configure(stream=files))


def test_each_piece_is_split_by_itself_and_its_labels_are_those_that_it_has(stream: datasets.Dataset) -> None:
    assert stream.labels == ("b", "c", "d")
    assert stream.pieces == 3
    assert {split: stream.count_pieces(split) for split in stream.splits} == {
        "train": [24, 24, 12],
        "validation": [8, 8, 4],
        "test": [8, 8, 4],
    }
    train = stream.splits["train"]
    assert train.groupby("piece")["label"].unique().map(set).tolist() == [{0, 2}, {0, 1}, {2}]


def test_a_training_sees_the_texts_and_labels_that_have_come(stream: datasets.Dataset) -> None:
    first = datasets.take_piece(stream, 0, read_method("lora"), seed=0)
    assert first.labels == ("b", "d")
    assert set(first.splits["train"]["label"]) == {0, 1}
    assert len(first.splits["validation"]) == 8
    test = first.splits["test"]
    assert len(test) == 20
    assert set(test["label"][test["text"].str.startswith("c")]) == {datasets.UNKNOWN}
    assert set(test["label"][test["text"].str.startswith("d")]) == {1}
    again = datasets.take_piece(stream, 2, read_method("lora"), seed=0)
    assert (len(again.splits["train"]), len(again.splits["validation"])) == (60, 20)
    assert again.labels == stream.labels
    new = datasets.take_piece(stream, 2, read_method("lora_continued"), seed=0)
    assert set(new.splits["train"]["piece"]) == {2}
    assert new.labels == stream.labels
    assert len({part.fingerprint for part in (stream, first, again, new)}) == 4  # tokens are kept by it


def test_replay_shows_its_share_of_old_texts_again_by_label_and_by_seed(stream: datasets.Dataset) -> None:
    method = read_method("lora_replay20")
    train, other = (datasets.take_piece(stream, 2, method, seed=seed).splits["train"] for seed in (0, 1))
    old = train[train["piece"] < 2]
    assert len(old) == round(0.2 * 48)
    assert old["label"].value_counts().to_dict() == {0: 4, 1: 4, 2: 2}  # of 18, 18 and 12
    assert len(train) - len(old) == 12
    assert set(old["text"]) <= set(stream.splits["train"]["text"])
    assert set(old["text"]) != set(other[other["piece"] < 2]["text"])
    fewest = datasets.take_piece(stream, 2, read_method("lora_replay5"), seed=0).splits["train"]
    assert fewest[fewest["piece"] < 2]["label"].nunique() == 3  # none is left out


def test_a_plan_counts_the_texts_of_each_training() -> None:
    assert count_trained([24, 24, 12], read_method("lora")) == [24, 48, 60]
    assert count_trained([24, 24, 12], read_method("lora_merged")) == [24, 24, 12]
    assert count_trained([24, 24, 12], read_method("lora_replay20")) == [24, 29, 22]
    assert count_trained([100], read_method("lora")) == [100]


def test_a_text_of_an_earlier_piece_is_left_out_of_a_later_one(
    write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    files = [write("1.csv", a=20, b=20), write("2.csv", first=10, a=30, b=20)]  # 10 of each are old
    with caplog.at_level(logging.WARNING):
        stream = datasets.load(configure(stream=files))
    assert "20 texts are in an earlier piece of the stream too" in caplog.text
    assert sum(len(frame) for frame in stream.splits.values()) == 70
    earlier = stream.splits["train"]["text"][stream.splits["train"]["piece"] == 0]
    later = stream.splits["test"]["text"][stream.splits["test"]["piece"] == 1]
    assert not set(earlier) & set(later)


def test_pieces_by_date_hold_whole_dates_in_their_order(tmp_path: Path) -> None:
    days = ["2024-03-01"] * 40 + ["2023-01-05T10:00:00+02:00"] * 25 + ["2023-06-30"] * 35
    rows = [
        {"text": f"{day} text {number}", "label": "ab"[number % 2], "date": day}
        for number, day in enumerate(days)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "dated.csv", index=False)
    dated = configure(train=str(tmp_path / "dated.csv"), date_column="date", pieces=2)
    stream = datasets.load(dated)
    frames = pd.concat(stream.splits.values())
    assert frames.groupby("piece")["text"].apply(
        lambda texts: sorted({one[:7] for one in texts})
    ).tolist() == [
        ["2023-01", "2023-06"],
        ["2024-03"],
    ]
    other = datasets.fingerprint(configure(train=str(tmp_path / "dated.csv")))
    assert stream.fingerprint == datasets.fingerprint(dated) != other
    (tmp_path / "dated.csv").write_text("text,label,date\nx,a,2024-01-01\ny,b,31/03/2024\n")
    with pytest.raises(DataError, match=r"row 2 has '31/03/2024' in data.date_column=date .* as 2024-03-31"):
        datasets.load(dated)


def test_drawn_pieces_have_a_late_label_in_the_last_alone(write: Write) -> None:
    path = write("all.csv", a=40, b=40, c=20)
    stream = datasets.load(configure(train=path, pieces=2, late_labels=["c"]))
    frames = pd.concat(stream.splits.values())
    assert frames.groupby("piece").size().tolist() == [40, 60]
    assert set(frames["piece"][frames["label"] == 2]) == {1}
    other = configure(train=path, pieces=2)
    assert datasets.fingerprint(other) != stream.fingerprint
    with pytest.raises(ConfigError, match=r"data\.late_labels: there is no label 'x'"):
        datasets.load(configure(train=path, pieces=2, late_labels=["x"]))


def test_a_piece_that_cannot_be_used_is_named(write: Write) -> None:
    one = write("1.csv", a=20, b=20)
    with pytest.raises(DataError, match="piece 2 of 2 has no text that an earlier one has not"):
        datasets.load(configure(stream=[one, one]))
    with pytest.raises(DataError, match=r"piece 2 of the stream: too few rows of 'c' \(2 rows\)"):
        datasets.load(configure(stream=[one, write("2.csv", first=20, a=20, c=2)]))
    with pytest.raises(DataError, match="first piece of the stream has the one label 'a'"):
        datasets.load(configure(stream=[write("3.csv", a=20), write("4.csv", first=20, b=20)]))
