"""Texts with several labels: every way to write them is read alike, drawn in proportion, and doubted."""

import dataclasses
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.config.overrides import load_file
from bench.config.schema import DataConfig
from bench.data import dataset as datasets
from bench.data.dataset import Dataset
from bench.errors import DataError

FILES = DataConfig(**load_file("data", "files"))
SEVERAL = dataclasses.replace(FILES, multi_label=True)
LABELS = ("a", "b", "c")
# 40 texts of each of a and a, c; 20 without any label, and three combinations too rare to be a stratum
SETS = [("a",), ("a", "c")] * 40 + [()] * 20 + [("b",)] * 9 + [("a", "b")] * 8 + [("b", "c")] * 3


def write(path: Path, rows: list[tuple[str, ...]], way: str) -> dict[str, object]:
    """Write texts with these labels in one of the ways, and return the settings that read it."""
    texts = [f"text {number}" for number in range(len(rows))]
    if way == "list":
        lines = [{"text": text, "label": [*row]} for text, row in zip(texts, rows, strict=True)]
        path = path.with_suffix(".jsonl")
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return {"train": str(path)}
    if way == "parquet":
        path = path.with_suffix(".parquet")
        pd.DataFrame({"text": texts, "label": [[*row] for row in rows]}).to_parquet(path)
        return {"train": str(path)}
    frame = pd.DataFrame({"text": texts})
    path = path.with_suffix(".csv")
    if way == "columns":
        flags = {label: [int(label in row) for row in rows] for label in LABELS}
        frame.assign(**flags).to_csv(path, index=False)
        return {"train": str(path), "label_columns": [*LABELS]}
    frame.assign(label=[f" {way} ".join(row) for row in rows]).to_csv(path, index=False)
    return {"train": str(path), "label_separator": way}


def load(path: Path, rows: list[tuple[str, ...]], way: str = "list", **more: object) -> Dataset:
    return datasets.load(dataclasses.replace(SEVERAL, **{**write(path, rows, way), **more}))


def read_sets(dataset: Dataset, split: str) -> list[tuple[str, ...]]:
    names = np.array(dataset.labels)
    return [tuple(names[row]) for row in dataset.read_truth(split)]


@pytest.mark.parametrize("way", ["list", "parquet", "columns", "|", ",", ";"])
def test_every_way_to_write_several_labels_is_read_alike(tmp_path: Path, way: str) -> None:
    dataset = load(tmp_path / "a", SETS, way)
    assert dataset.labels == LABELS
    texts = {text: row for split in dataset.splits for text, row in zip_texts(dataset, split)}
    assert texts == {f"text {number}": row for number, row in enumerate(SETS)}


def zip_texts(dataset: Dataset, split: str) -> list[tuple[str, tuple[str, ...]]]:
    return list(zip(dataset.splits[split]["text"], read_sets(dataset, split), strict=True))


def test_combinations_are_drawn_in_proportion_and_rare_ones_together(tmp_path: Path) -> None:
    dataset = load(tmp_path / "a", SETS, test_size=30, validation_size=15)
    counts = {split: Counter(read_sets(dataset, split)) for split in dataset.splits}
    assert {split: len(frame) for split, frame in dataset.splits.items()} == {
        "train": 75,
        "validation": 15,
        "test": 30,
    }
    # of 120 texts, and of the 90 that are left
    assert [counts["test"][one] for one in [("a",), ("a", "c"), ()]] == [10, 10, 5]
    assert sum(counts["test"][one] for one in [("b",), ("a", "b"), ("b", "c")]) == 5
    assert [counts["validation"][one] for one in [("a",), ("a", "c")]] == [5, 5]


def test_test_texts_stay_where_fewer_are_trained_on(tmp_path: Path) -> None:
    whole = load(tmp_path / "a", SETS)
    sizes = [load(tmp_path / "a", SETS, train_size=size) for size in (40, 20)]
    for fewer in sizes:
        assert fewer.splits["test"].equals(whole.splits["test"])
        assert set(fewer.splits["train"]["text"]) < set(whole.splits["train"]["text"])
    assert (whole.sets == sizes[0].sets).all()  # type: ignore[union-attr]


def test_a_record_says_how_many_labels_texts_have(tmp_path: Path) -> None:
    dataset = load(tmp_path / "a", SETS)
    block = datasets.describe(dataset)
    sets = read_sets(dataset, "test")
    assert block["label_counts"]["test"] == {one: sum(one in row for row in sets) for one in LABELS}
    assert block["label_sets"]["test"] == {
        "most_frequent": Counter(sets).most_common(1)[0][1],
        "without_label": sets.count(()),
        "labels_per_text": pytest.approx(sum(map(len, sets)) / len(sets)),
    }
    assert block["conflicting_labels"] == 0


def test_raw_labels_are_folded_each_by_itself(tmp_path: Path) -> None:
    folded = load(tmp_path / "a", SETS, label_map={"a": "x", "b": "y", "c": "x"})
    assert folded.labels == ("x", "y")
    assert set(read_sets(folded, "train")) <= {("x",), (), ("y",), ("x", "y")}
    with pytest.raises(DataError, match=r"does not map 'b' \(20 rows\)"):
        load(tmp_path / "a", SETS, label_map={"a": "x", "c": "y"})


def test_how_labels_are_written_is_part_of_what_the_data_are(tmp_path: Path) -> None:
    rows = [("a",), ("b",)] * 40
    one = dataclasses.replace(FILES, **write(tmp_path / "a", rows, "|"))
    several = dataclasses.replace(one, multi_label=True)
    assert datasets.fingerprint(one) == datasets.fingerprint(dataclasses.replace(one, label_separator=";"))
    different = [one, several, dataclasses.replace(several, label_separator=";")]
    assert len({datasets.fingerprint(config) for config in different}) == 3


@pytest.mark.parametrize(
    ("rows", "more", "message"),
    [
        (SETS, {"label_columns": ["a", "B"]}, r"data.label_columns=\[a,B\]: .* has no column 'B'; it has "),
        (SETS, {"label_columns": ["a", "B"]}, r"did you mean 'data.label_columns=\[a,b\]'\?"),
        (
            SETS,
            {"label_columns": ["a", "text"]},
            "row 1 has 'text 0' in text, which data.label_columns names",
        ),
        ([("a",), ("a", "c")] * 40, {}, "data.label_columns: train has no row of 'b'; a model cannot learn"),
    ],
)
def test_columns_that_hold_no_labels_are_named(
    tmp_path: Path, rows: list[tuple[str, ...]], more: dict[str, object], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load(tmp_path / "a", rows, "columns", **more)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (["a", {"x": 1}], "row 1 has \"{'x': 1}\", which is not text"),
        (["a", "d|e"], r"data.label_separator=\|: the label 'd\|e' holds it"),
    ],
)
def test_a_list_that_cannot_be_read_is_refused(tmp_path: Path, cell: list[object], message: str) -> None:
    lines = [{"text": "first", "label": cell}, *({"text": f"t {n}", "label": ["a", "b"]} for n in range(40))]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(DataError, match=message):
        datasets.load(dataclasses.replace(SEVERAL, train=str(tmp_path / "a.jsonl")))


def test_a_label_that_train_lacks_is_named(tmp_path: Path) -> None:
    files = {split: write(tmp_path / split, SETS, "list")["train"] for split in ("train", "validation")}
    extra = write(tmp_path / "test", [*SETS, ("a", "d")], "list")["train"]
    with pytest.raises(DataError, match=r"unseen label 'd' in test \(1 rows\)"):
        datasets.load(dataclasses.replace(SEVERAL, **files, test=extra))  # type: ignore[arg-type]
    rare = [*SETS[:80], *[("b",)]]
    with pytest.raises(DataError, match="train has no row of 'b', as all that have it are in other splits"):
        datasets.load(dataclasses.replace(SEVERAL, **write(tmp_path / "rare", rare, "list"), train_size=3))
    empty = write(tmp_path / "empty", [()] * 5, "list")["train"]
    with pytest.raises(DataError, match="no row of test has a label"):
        datasets.load(dataclasses.replace(SEVERAL, **files, test=empty))  # type: ignore[arg-type]


def test_one_label_a_text_points_to_several_where_the_file_looks_like_them(tmp_path: Path) -> None:
    write(tmp_path / "lists", SETS, "list")
    with pytest.raises(DataError, match=r"for texts with several labels set data\.multi_label=true"):
        datasets.load(dataclasses.replace(FILES, train=str(tmp_path / "lists.jsonl")))
    write(tmp_path / "flags", SETS, "columns")
    with pytest.raises(DataError, match=r"set data.multi_label=true 'data.label_columns=\[a,b,c\]', for one"):
        datasets.load(dataclasses.replace(FILES, train=str(tmp_path / "flags.csv")))
