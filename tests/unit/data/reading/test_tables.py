"""Files as people have them: in any encoding and shape they arrive as written, and a guess is said."""

import dataclasses
import gzip
import json
import logging
import shlex
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from bench.config.overrides import load_file
from bench.config.schema import DataConfig
from bench.data import dataset as datasets
from bench.data import sources
from bench.errors import DataError

ASSETS = Path(__file__).parents[3] / "assets" / "data"
FILES = DataConfig(**load_file("data", "files"))
ROWS = [("match song price", "art"), ("team price goal", "sport"), ("bank share", "money")]
COMMAS = "text,label\nmatch song price,art\nteam price goal,sport\nbank share,money\n"
CHINESE = "text,label\n央行下调利率,宏观\n股市上涨,股票\n"
Read = Callable[..., list[tuple[str, str]]]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """The rows of a file with this content, and the settings that were changed."""

    def read(name: str, content: str | bytes, **changed: object) -> list[tuple[str, str]]:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        frame = sources.read(dataclasses.replace(FILES, train=str(path), **changed))["train"]
        return list(zip(frame["text"], frame["label"], strict=True))

    return read


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.tsv", COMMAS.replace(",", "\t"), None),
        ("a.tsv", COMMAS, "separated by commas"),
        ("a.csv", COMMAS.replace(",", ";"), "separated by semicolons"),
        ("a.csv", COMMAS.replace(",", "\t"), "separated by tabs"),
        ("a.csv", COMMAS.replace("\n", "\r\n") + ",\r\n\r\n,\r\n", None),
        ("a.json", json.dumps([{"text": text, "label": label} for text, label in ROWS]), None),
        ("a.json", "\n".join(json.dumps({"text": text, "label": label}) for text, label in ROWS), None),
        ("a.jsonl", "\n".join(json.dumps({"text": one, "label": two}, indent=2) for one, two in ROWS), None),
        ("a.csv.gz", gzip.compress(COMMAS.encode(), mtime=0), None),
        ("a.JSONL.GZ", gzip.compress(b'{"text": "match song price", "label": "art"}', mtime=0), None),
        ("a.csv", COMMAS.encode("utf-16"), "read as utf-16, for example 'text,label'"),
        ("a.csv", COMMAS.encode("utf-16-be"), "read as utf-16"),
        ("a.csv", COMMAS.replace(",", "\t").encode("utf-16-le"), "separated by tabs"),
    ],
)
def test_every_shape_of_a_table_is_read_and_what_is_guessed_is_said(
    name: str, content: str | bytes, said: str | None, read: Read, caplog: pytest.LogCaptureFixture
) -> None:
    found = read(name, content)
    assert found == ROWS[: len(found)]
    assert len(found) == (1 if "JSONL" in name else 3)
    assert (said or "") in caplog.text
    assert said is not None or caplog.text == ""


@pytest.mark.parametrize(
    ("text", "encoding", "guessed"),
    [
        (CHINESE, "gb18030", "gb18030"),
        (CHINESE.replace("股", "㐀"), "gb18030", "gb18030"),  # of four bytes
        ("text,label\nLe café était fermé,lieu\nDéjà vu à Orléans,idée\n", "latin-1", "latin-1"),
        ("text,label\n“Smart quotes” – and a dash,typo\nplain,typo\n", "cp1252", "latin-1"),
        ("text,label\nStraße für Äpfel,öl\nGrüße aus Köln,öl\n", "latin-1", "latin-1"),
    ],
)
def test_the_encoding_is_guessed_and_shown_by_an_example(
    text: str, encoding: str, guessed: str, read: Read, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [tuple(line.split(",")) for line in text.splitlines()[1:]]
    assert read("a.csv", text.encode(encoding)) == rows
    assert f"is not UTF-8 and is read as {guessed}, for example " in caplog.text
    example = caplog.text.partition("for example '")[2].partition("'")[0]
    assert example
    assert example in text
    caplog.clear()
    assert read("a.csv", text.encode(encoding), encoding=guessed) == rows  # named, it is no guess
    assert caplog.text == ""


def test_an_encoding_that_is_named_and_wrong_is_refused(read: Read) -> None:
    with pytest.raises(DataError, match=r"byte 11 is not utf-8; .* or leave data.encoding=auto"):
        read("a.csv", CHINESE.encode("gb18030"), encoding="utf-8")


def test_a_file_that_is_read_otherwise_is_other_data_and_utf_8_is_what_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("text,label\nÜ1,x\nÜ2,y\n".encode())
    config = dataclasses.replace(FILES, train=str(path))
    content = sources.read_content(config)
    assert content["files"]["train"][0] == ".csv"
    assert len(content["files"]["train"]) == 2  # as before there were encodings, so that ids stay
    assert sources.read_content(dataclasses.replace(config, encoding="utf-8")) == content
    assert sources.read_content(dataclasses.replace(config, encoding="latin-1")) != content


def test_lines_that_a_quote_swallows_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    path = ASSETS / "two_unclosed_quotes.csv"
    frame = sources.read(dataclasses.replace(FILES, train=str(path)))["train"]
    lost = path.read_text().count("\n") - 1 - len(frame)
    assert lost == 15
    assert f"{lost} lines that look like rows were joined to 1 other rows, the first is row 6" in caplog.text


def test_a_text_of_several_lines_is_a_text(read: Read, caplog: pytest.LogCaptureFixture) -> None:
    content = 'text,label\n"one\ntwo, three",art\n"a\r\nb",sport\nplain,art\n'
    assert [text for text, _ in read("a.csv", content)] == ["one\ntwo, three", "a\r\nb", "plain"]
    assert caplog.text == ""


@pytest.mark.parametrize("name", ["gb18030.csv", "utf16_excel.csv", "gz.csv.gz", "label_is_index.parquet"])
def test_files_as_other_programs_write_them_are_read(name: str) -> None:
    dataset = datasets.load(dataclasses.replace(FILES, train=str(ASSETS / name)))
    assert sum(len(frame) for frame in dataset.splits.values()) == 36
    assert len(dataset.labels) == (2 if name == "gb18030.csv" else 3)


def test_a_workbook_is_read_from_its_first_sheet(
    tmp_path: Path, read: Read, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("openpyxl", reason="the extra bench[excel] is not installed")
    with pd.ExcelWriter(tmp_path / "two.xlsx") as book:
        pd.DataFrame({"text": ["央行, NA", "b", None], "label": [1, 2, None]}).to_excel(book, index=False)
        pd.DataFrame({"text": ["other"]}).to_excel(book, sheet_name="notes", index=False)
    content = (tmp_path / "two.xlsx").read_bytes()
    assert read("a.xlsx", content) == [("央行, NA", "1"), ("b", "2")]
    assert "has 2 sheets, of which the first, 'Sheet1', is read" in caplog.text
    with pytest.raises(DataError, match="is not an Excel workbook"):
        read("b.xlsx", b"not really a workbook")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"text,label\na,b\n", "cannot be read: .*[Gg]zip"),
        (gzip.compress(COMMAS.encode(), mtime=0)[:-9], "cannot be read: "),
    ],
)
def test_a_damaged_archive_is_refused(content: bytes, message: str, read: Read) -> None:
    with pytest.raises(DataError, match=message):
        read("a.csv.gz", content)


def test_what_stands_above_the_header_is_named_with_a_way_to_remove_it(read: Read) -> None:
    with pytest.raises(
        DataError, match=r"line 2 names the columns, and '# of 2024' is above it.*tail -n \+2$"
    ):
        read("a.csv", "# of 2024\n" + COMMAS)


NESTED = (
    '{"data": {"text": "a b", "meta": {"topic": 1}}, "label": "x"}\n{"data": {"text": "c"}, "label": "y"}'
)


def test_a_text_may_lie_inside_an_object(read: Read) -> None:
    assert read("a.jsonl", NESTED, text_column="data.text") == [("a b", "x"), ("c", "y")]
    with pytest.raises(DataError, match="1 of 2 rows have no text or no label, the first is row 2"):
        read("a.jsonl", NESTED, text_column="data.text", label_column="data.meta.topic")
    dotted = "data.text,label\na,x\nb,y\n"
    assert read("a.csv", dotted, text_column="data.text") == [("a", "x"), ("b", "y")]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "Text,LABEL\na,x\n"),
        ("a.csv", "text, label\na,x\n"),
        ("a.csv", "text,label's \\\na,x\n"),
        ("a.csv", "texts,labels\na,x\n"),
        ("a.csv", "text,\u200blabel\na,x\n"),
        ("a.csv", "Text;Label\na;x\n"),
        ("a.jsonl", '{"data": {"text": "a"}, "label": "x"}'),
    ],
)
def test_a_column_that_was_meant_is_named_as_settings_that_can_be_pasted(
    name: str, content: str, read: Read
) -> None:
    with pytest.raises(DataError, match=r"no such column; it has .*did you mean (.+)") as caught:
        read(name, content)
    given = shlex.split(str(caught.value).partition("did you mean ")[2].removesuffix("?"))
    settings = {one.key_or_group: one.value() for one in OverridesParser.create().parse_overrides(given)}
    columns = {key.removeprefix("data."): value for key, value in settings.items()}
    assert read(name, content, **columns) == [("a", "x")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("first text,art\nsecond text,sport\n", "put the line text,label above"),
        (
            "text,toxic,insult\na,0,1\nb,1,1\n",
            "toxic, insult hold 0 and 1.*several labels.*label_column=toxic",
        ),
        (
            "premise,hypothesis,label\na,b,x\n",
            "it has premise, hypothesis, label; name it with data.text_col",
        ),
        ("text,label\n" + "a,\n" * 9 + "b,x\n", "9 of 10 rows .*; the column label is empty in 9 of them"),
    ],
)
def test_a_column_that_is_not_there_or_holds_little_is_explained(
    content: str, message: str, read: Read
) -> None:
    with pytest.raises(DataError, match=message):
        read("a.csv", content)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            "text,body,label\na title,some words of it,x\nb title,other words of it,y\n",
            "'body' holds texts too",
        ),
        (
            "text,label\n" + "a,x\nb,y\n" * 2 + "a long one,x\n",
            "4 of 5 texts in the column 'text' have fewer",
        ),
        ("text,label\n" + "some text,x\nother text,y\n" * 60, "'text' holds 2 different texts in 120 rows"),
        ("text,id,label\na title,4711,x\nb title,4712,y\n", None),
        ("text,kind,label\na title,one of two,x\n" * 5, None),
    ],
)
def test_texts_that_may_be_elsewhere_are_doubted(
    content: str, said: str | None, read: Read, caplog: pytest.LogCaptureFixture
) -> None:
    read("a.csv", content)
    assert (said or "") in caplog.text
    assert said is not None or caplog.text == ""


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["Art", "art", "money"], "'Art' (4 rows) and 'art' (4 rows)"),
        (["pos", "pos\u200b", "neg"], r"'pos' (4 rows) and 'pos\u200b' (4 rows)"),
        (["new york", "new  york", "x"], "'new  york' (4 rows) and 'new york' (4 rows)"),
        (["ＡＢ", "ab", "x"], "'ab' (4 rows) and 'ＡＢ' (4 rows)"),
        (["art", "arts", "money"], None),
    ],
)
def test_labels_that_look_alike_are_named(
    labels: list[str], said: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.csv"
    rows = [(f"text {number} of {label}", label) for number in range(4) for label in labels]
    pd.DataFrame(rows, columns=["text", "label"]).to_csv(path, index=False)
    config = dataclasses.replace(FILES, train=str(path), validation_size=3, test_size=3)
    with caplog.at_level(logging.WARNING):
        assert len(datasets.load(config).labels) == 3
    assert (said or "labels with few rows") in caplog.text
    assert said is not None or len(caplog.records) == 1


@pytest.mark.parametrize(
    ("label", "kind"), [("{}.5", "numbers of a scale"), ("c{}", "may hold texts"), ("-{}", "numbers")]
)
def test_more_labels_than_the_rows_can_hold_are_refused(label: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    rows = [f"text {number},{label.format(number)}\n" for number in range(36)]
    path.write_text("text,label\n" + "".join(rows))
    with pytest.raises(DataError, match=f"data.label_column=label: 36 rows have 36 labels, .*{kind}"):
        datasets.load(dataclasses.replace(FILES, train=str(path)))
