"""Files as tables: CSV, TSV, JSON, JSONL, Parquet and Excel, gzipped or not, as they were written.

What has to be guessed is a note for the user, and what cannot be read is an error that says what to do.
"""

import csv
import gzip
import importlib.util
import io
import json
import re
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from bench.data.reading.encoding import decode, show_example
from bench.errors import DataError, MissingError, first_line

_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_HEAD = 2**16  # characters that are looked at for the header
_BLANK = re.compile(r"[ \t\r\n]*")


@dataclass(frozen=True)
class ReadFile:
    """The rows of a file, and what a person should know of how they were read."""

    frame: pd.DataFrame
    notes: tuple[str, ...] = ()


def name_kind(name: str) -> str:
    """Return what the file's name says it is: its suffix, or both of ``.csv.gz``."""
    suffixes = [suffix.lower() for suffix in Path(name).suffixes]
    return "".join(suffixes[-2:] if suffixes[-1:] == [".gz"] else suffixes[-1:])


def read(content: bytes, name: str, *, where: str, encoding: str, wanted: Sequence[str]) -> ReadFile:
    """Return the table in the file's bytes, read by what its name ends in.

    Args:
        where: what an error begins with, for example ``data.train=my.csv``.
        wanted: the columns of texts and, as the last, of labels, if there are any.

    Raises:
        DataError: it cannot be read.
        MissingError: a package that reads its kind is not installed.
    """
    kind = name_kind(name).removesuffix(".gz")
    if kind not in KINDS:
        raise DataError(f"{where}: its name must end in {', '.join(KINDS)}, with or without .gz")
    try:
        content = gzip.decompress(content) if name.lower().endswith(".gz") else content
        if kind in _BINARY:
            return _BINARY[kind](content)
        text, guessed = decode(content, encoding)
        table = _TEXTUAL[kind](text, wanted)
    except pd.errors.EmptyDataError:
        raise DataError(f"{where}: the file is empty; give one with rows") from None
    except MissingError as error:
        raise MissingError(f"{where}: {error}") from None
    except (ValueError, pd.errors.ParserWarning, OSError, EOFError, zlib.error, csv.Error) as error:
        raise DataError(f"{where}: cannot be read: {first_line(error)}") from None  # pyarrow's are among them
    if encoding == "auto" and guessed != "utf-8":
        note = (
            f"is not UTF-8 and is read as {guessed}, for example {show_example(text)}; "
            "data.encoding names another"
        )
        return ReadFile(table.frame, (note, *table.notes))
    return table


def find_encoding(content: bytes, name: str, encoding: str) -> str | None:
    """Return the encoding the file's text is read in, or None where it holds none or cannot be read."""
    try:
        content = gzip.decompress(content) if name.lower().endswith(".gz") else content
        return None if name_kind(name).removesuffix(".gz") in _BINARY else decode(content, encoding)[1]
    except (ValueError, OSError, EOFError, zlib.error):
        return None


# CSV


def _parse_csv(text: str, wanted: Sequence[str], usual: str = ",") -> ReadFile:
    """Read every cell as the text it is: nothing becomes a number or a missing value."""
    delimiter = _find_delimiter(text, wanted, usual)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header
            frame = pd.read_csv(
                io.BytesIO(text.encode()), sep=delimiter, dtype=str, keep_default_na=False, index_col=False
            )
    except (pd.errors.ParserWarning, pd.errors.ParserError) as error:
        raise ValueError(_explain_csv(str(error), text, wanted, delimiter)) from None
    notes = () if delimiter == usual else (f"has columns separated by {_DELIMITERS[delimiter]}",)
    return ReadFile(_drop_blank_end(frame), (*notes, *_find_joined(frame, wanted, delimiter)))


def _parse_tsv(text: str, wanted: Sequence[str]) -> ReadFile:
    return _parse_csv(text, wanted, usual="\t")


def _find_delimiter(text: str, wanted: Sequence[str], usual: str) -> str:
    """Return the usual delimiter unless the header has the wanted, or at least more, columns by another."""
    head = {
        one: next(csv.reader(io.StringIO(text[:_HEAD], newline=""), delimiter=one), [])
        for one in (usual, *(other for other in _DELIMITERS if other != usual))
    }
    return max(head, key=lambda one: (set(wanted) <= set(head[one]), len(head[one])))


def _explain_csv(reason: str, text: str, wanted: Sequence[str], delimiter: str) -> str:
    """Return pandas' reason in words that say what to do."""
    if match := re.search(r"EOF inside string starting at row (\d+)", reason):
        return (
            f"the quote that opens in row {match[1]} (the first after the header is row 1) is never closed; "
            'close it, or double it ("") where it belongs to the text'
        )
    lines = text[:_HEAD].splitlines()
    for number, line in enumerate(lines[1:10], start=2):
        if set(wanted) <= set(next(csv.reader([line], delimiter=delimiter), [])):
            return (
                f"line {number} names the columns, and {lines[0][:40]!r} is above it; remove what is above, "
                f"for example with tail -n +{number}"
            )
    if "Length of header" in reason:
        return f"line 1, which names the columns, has fewer of them than the rows: {lines[0][:80]!r}"
    return reason


def _drop_blank_end(frame: pd.DataFrame) -> pd.DataFrame:
    """Leave out rows without any content at the end of the table, as spreadsheets write them."""
    end = len(frame)
    while end and not any(str(one).strip() for one in frame.iloc[end - 1] if not pd.isna(one)):
        end -= 1
    return frame.iloc[:end]


def _find_joined(frame: pd.DataFrame, wanted: Sequence[str], delimiter: str) -> list[str]:
    """Note lines that look like rows and are inside the quotes of another: its quote is not closed."""
    label = wanted[-1]
    if len(wanted) < 2 or label not in frame:
        return []
    cells = [column for column in frame if frame[column].str.contains("[\r\n]", regex=True).any()]
    if not cells:
        return []
    broken = frame[cells].apply(lambda column: column.str.contains("[\r\n]", regex=True)).any(axis=1)
    labels = set(frame.loc[~broken, label])
    place, joined = list(frame).index(label), {}
    for row in frame.index[broken]:
        lines = [line for column in cells for line in str(frame.at[row, column]).splitlines()]
        fields = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)
        joined[row] = sum(len(field) == frame.shape[1] and field[place] in labels for field in fields)
    if not (first := [row for row, count in joined.items() if count]):
        return []
    return [
        f"{sum(joined.values())} lines that look like rows were joined to {len(first)} other rows, the first "
        f"is row {first[0] + 1} (the first after the header is row 1), as a quote there is not closed; close "
        'it, or double it ("") where it belongs to the text'
    ]


# JSON


def _parse_json(text: str, _: Sequence[str]) -> ReadFile:
    """Read objects one after another, a line each or not, or all in one array."""
    rows = list(_read_objects(text))
    if not rows:
        raise pd.errors.EmptyDataError
    return ReadFile(pd.DataFrame(rows, dtype=object))


def _read_objects(text: str) -> Iterator[dict[str, Any]]:
    decoder, place = json.JSONDecoder(), 0
    while (place := _skip_blank(text, place)) < len(text):
        start = place
        try:
            value, place = decoder.raw_decode(text, place)
        except ValueError as error:
            raise ValueError(f"{_name_line(text, start)} is not JSON: {error}") from None
        for one in value if isinstance(value, list) else [value]:
            if not isinstance(one, dict):
                raise ValueError(f"{_name_line(text, start)} is not an object with a text and a label")
            yield one


def _name_line(text: str, place: int) -> str:
    return f"line {text.count(chr(10), 0, place) + 1}"


def _skip_blank(text: str, place: int) -> int:
    match = _BLANK.match(text, place)
    return place if match is None else match.end()


# Binary files


def _parse_parquet(content: bytes) -> ReadFile:
    """Read the columns, and those that pandas keeps as its index."""
    frame = pd.read_parquet(io.BytesIO(content))
    named = [name for name in frame.index.names if name is not None and name not in frame]
    return ReadFile(frame.reset_index(level=named) if named else frame)


def _parse_excel(content: bytes) -> ReadFile:
    """Read the first sheet."""
    if importlib.util.find_spec("openpyxl") is None:
        raise MissingError("openpyxl, which reads Excel files, is not installed; pip install 'bench[excel]'")
    try:
        sheets = pd.read_excel(
            io.BytesIO(content), engine="openpyxl", sheet_name=None, dtype=object, keep_default_na=False
        )
    except (zipfile.BadZipFile, KeyError):
        raise ValueError("is not an Excel workbook (.xlsx); save it as one, or as CSV") from None
    name, frame = next(iter(sheets.items()))
    frame.columns = [str(column) for column in frame.columns]
    more = (f"has {len(sheets)} sheets, of which the first, {str(name)!r}, is read",)
    return ReadFile(_drop_blank_end(frame), more if len(sheets) > 1 else ())


_TEXTUAL: dict[str, Callable[[str, Sequence[str]], ReadFile]] = {
    ".csv": _parse_csv,
    ".tsv": _parse_tsv,
    ".json": _parse_json,
    ".jsonl": _parse_json,
}
_BINARY: dict[str, Callable[[bytes], ReadFile]] = {".parquet": _parse_parquet, ".xlsx": _parse_excel}
KINDS = (*_TEXTUAL, *_BINARY)
