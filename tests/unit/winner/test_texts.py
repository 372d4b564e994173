"""Texts from files and lines, and what is written beside them."""

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from bench.errors import ConfigError, DataError, MissingError
from bench.winner import texts


@dataclass(frozen=True)
class LabelPrediction:
    label: str
    probabilities: dict[str, float]


SURE: Any = [
    LabelPrediction("a", {"a": 0.75, "b": 0.25}),
    LabelPrediction("b", {"a": 0.1234567, "b": 0.8765433}),
]


def test_a_file_keeps_its_columns_as_text(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text('id,text\n007,"one, two"\nNA,null\n', encoding="utf-8-sig")
    frame = texts.read_file(tmp_path / "in.csv", "text")
    assert frame.to_dict("list") == {"id": ["007", "NA"], "text": ["one, two", "null"]}
    (tmp_path / "in.jsonl").write_text('{"id": 7, "text": "é"}\n\n{"id": null, "text": "x", "more": [1]}\n')
    rows = texts.read_file(tmp_path / "in.jsonl", "text")
    assert rows["text"].tolist() == ["é", "x"]
    assert rows["id"].tolist()[0] == 7


def test_a_file_of_another_kind_and_encoding_is_read_as_for_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "in.csv").write_bytes("id;text\n7;央行下调利率\n".encode("gb18030"))
    assert texts.read_file(tmp_path / "in.csv", "text")["text"].tolist() == ["央行下调利率"]
    assert "is read as gb18030" in caplog.text
    (tmp_path / "in.json").write_text('[{"text": "a"}, {"text": "b"}]')
    assert texts.read_file(tmp_path / "in.json", "text")["text"].tolist() == ["a", "b"]


def test_what_was_read_is_written_with_the_predictions(tmp_path: Path) -> None:
    frame = texts.add_predictions(pd.DataFrame({"id": ["007", "8"]}), SURE)
    assert list(frame) == ["id", "prediction", "probability_a", "probability_b"]
    texts.write_file(frame, tmp_path / "out.csv")
    header, *lines = (tmp_path / "out.csv").read_text().splitlines()
    assert header == '"id","prediction","probability_a","probability_b"'
    assert lines == ['"007","a",0.75,0.25', '"8","b",0.123457,0.876543']
    texts.write_file(frame, tmp_path / "out.jsonl")
    assert [json.loads(one)["prediction"] for one in (tmp_path / "out.jsonl").read_text().splitlines()] == [
        "a",
        "b",
    ]
    with pytest.raises(ConfigError, match="has a column prediction already; rename it"):
        texts.add_predictions(frame, SURE)


def test_a_text_without_a_label_has_a_reason_and_null_or_an_empty_cell(tmp_path: Path) -> None:
    unsure: Any = SimpleNamespace(label=None, probabilities={"a": 0.5, "b": 0.5}, reason="too low")
    sure: Any = SimpleNamespace(label="a", probabilities={"a": 1.0, "b": 0.0}, reason=None)
    frame = texts.add_predictions(pd.DataFrame({"text": ["x", "y"]}), [unsure, sure], has_reasons=True)
    texts.write_file(frame, tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text().splitlines()[1:] == [
        '"x","","too low",0.5,0.5',
        '"y","a","",1.0,0.0',
    ]
    rows = [json.loads(line) for line in texts.to_json(frame)]
    assert [(row["prediction"], row["reason"]) for row in rows] == [(None, "too low"), ("a", None)]


def test_a_text_is_written_as_it_is(tmp_path: Path) -> None:
    written = {
        "text": ["=1+1", ' "a", \nb ', "NA"],
        "prediction": [*"abc"],
        "value": [1 / 3, 2.0, 123456.789],
    }
    rows = pd.DataFrame(written)
    texts.write_file(rows, tmp_path / "out.csv")
    read = pd.read_csv(tmp_path / "out.csv", keep_default_na=False)
    assert read["text"].tolist() == rows["text"].tolist()
    assert read["value"].tolist() == rows["value"].tolist()


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("in.csv", "id\n1\n", ConfigError, "--column text: .* has no such column; there are id"),
        ("in.csv", "", DataError, "the file is empty"),
        ("in.csv", "text,id\nx,1\n ,2\n", DataError, "row 2 has no text in text"),
        ("in.jsonl", "[1", DataError, "cannot be read"),
        ("in.jsonl", '{"text": 3}\n', DataError, "row 1 has no text in text"),
        ("in.txt", "", DataError, r"--file .*in.txt: its name must end in \.csv"),
        ("in.csv", "Text;id\nx;1\n", ConfigError, "there are Text, id"),
    ],
)
def test_a_file_that_cannot_be_used_is_explained(
    tmp_path: Path, name: str, content: str, error: type[Exception], message: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(error, match=message):
        texts.take_column(texts.read_file(tmp_path / name, "text"), "text", tmp_path / name)
    with pytest.raises(MissingError, match="there is no such file"):
        texts.read_file(tmp_path / "other.csv", "text")


def test_lines_are_texts_and_none_is_empty() -> None:
    assert texts.read_lines(["a b\r\n", "c"]) == ["a b", "c"]
    for lines, message in (([], "no text"), (["a\n", " \n"], "line 2 is empty")):
        with pytest.raises(DataError, match=message):
            texts.read_lines(lines)
