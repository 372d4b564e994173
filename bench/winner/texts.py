"""Texts to classify, from a file or line by line, and what they are taken for, written beside them."""

import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from bench.config.template import fill, list_columns
from bench.csv_text import to_exact_csv
from bench.data.reading import tables
from bench.data.sources import Text
from bench.errors import ConfigError, DataError, MissingError, StoreError
from bench.redaction import show

if TYPE_CHECKING:
    from bench.run.manifest import Manifest
    from bench.winner.classifier import LabelPrediction

_logger = logging.getLogger(__name__)
_KINDS = (".csv", ".jsonl")


def require_kind(path: Path, option: str) -> None:
    """Raise a ConfigError unless the file's name says that it is CSV or JSONL."""
    if path.suffix not in _KINDS:
        raise ConfigError(f"{option} {path}: must end in {' or '.join(_KINDS)}")


def read_file(path: Path, *columns: str) -> pd.DataFrame:
    """Return the file's rows, with every column that it has; the named ones tell what separates them.

    Raises:
        MissingError: there is no such file.
        DataError: its name does not say what it is, or it cannot be read.
    """
    if not path.is_file():
        raise MissingError(f"--file {path}: there is no such file")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"--file {path}: cannot be read ({error.strerror})") from None
    table = tables.read(content, path.name, where=f"--file {path}", encoding="auto", wanted=columns)
    for note in table.notes:
        _logger.warning("--file %s: %s", show(path), note)
    return table.frame


def take_column(frame: pd.DataFrame, column: str, path: Path, *, option: str = "--column") -> list[str]:
    """Return the texts in a column of the file.

    Raises:
        ConfigError: it has no such column.
        DataError: a row has no text.
    """
    if column not in frame:
        there = ", ".join(map(str, frame.columns)) or "none"
        raise ConfigError(f"{option} {column}: {path} has no such column; there are {there}")
    texts: list[str] = frame[column].tolist()
    for number, text in enumerate(texts, start=1):
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"--file {path}: row {number} has no text in {column}; remove it")
    return texts


def take_texts(
    frame: pd.DataFrame, manifest: "Manifest", path: Path, *, column: str, pair_column: str | None
) -> list[Text]:
    """Return the rows' texts as the run reads them: filled into its template, with a second one in pairs.

    Raises:
        ConfigError: the file lacks a column, or a second text is named that the run does not read.
        DataError: a row has no text.
    """
    template = manifest.text_template
    if template is None or column in frame:
        first = take_column(frame, column, path)
    else:
        first = fill(template, {name: take_column(frame, name, path) for name in list_columns(template)})
    if not manifest.pairs:
        if pair_column is not None:
            raise ConfigError(f"--pair-column {pair_column}: {manifest.run_id} reads one text; leave it out")
        return [*first]
    second = take_column(frame, pair_column or "pair", path, option="--pair-column")
    return list(zip(first, second, strict=True))


def read_lines(lines: Iterable[str]) -> list[str]:
    """Return a text a line.

    Raises:
        DataError: there is none, or a line is empty.
    """
    texts = [line.rstrip("\r\n") for line in lines]
    if not texts:
        raise DataError("no text: give texts as arguments, with --file, or one a line on standard input")
    if empty := [number for number, text in enumerate(texts, start=1) if not text.strip()]:
        raise DataError(f"line {empty[0]} is empty; remove it")
    return texts


def read_pairs(texts: Sequence[str], *, from_lines: bool) -> pd.DataFrame:
    """Return pairs: of lines, each with a tab between its two texts, or of arguments, two at a time.

    Raises:
        DataError: a second text is lacking.
    """
    if not from_lines:
        if len(texts) % 2:
            raise DataError(f"{len(texts)} texts: two make a pair; give the second text after each first one")
        return pd.DataFrame({"text": texts[::2], "pair": texts[1::2]})
    parts = [line.split("\t") for line in texts]
    if wrong := [number for number, part in enumerate(parts, start=1) if len(part) != 2]:
        raise DataError(
            f"line {wrong[0]}: must hold two texts with a tab between them, as the run reads pairs"
        )
    return pd.DataFrame(parts, columns=["text", "pair"])


def add_predictions(
    frame: pd.DataFrame, predictions: "Sequence[LabelPrediction]", *, has_reasons: bool = False
) -> pd.DataFrame:
    """Add ``prediction``, a list where texts may have several, and ``probability_<label>`` for each label.

    With ``has_reasons`` a column ``reason`` says why a text has no label, where it has none.

    Raises:
        ConfigError: the rows have one of these columns already.
    """
    values: dict[str, list[Any]] = {"prediction": [prediction.label for prediction in predictions]}
    if has_reasons:
        values["reason"] = [prediction.reason for prediction in predictions]
    for label in predictions[0].probabilities if predictions else ():
        values[f"probability_{label}"] = [
            round(prediction.probabilities[label], 6) for prediction in predictions
        ]
    if taken := [name for name in values if name in frame]:
        raise ConfigError(f"the file has a column {taken[0]} already; rename it")
    return frame.assign(**values)


def join_labels(label: str | list[str], separator: str) -> str:
    """Write the label of a text in one cell, or all that it has; no label stays as it is."""
    return separator.join(label) if isinstance(label, list) else label


def write_file(frame: pd.DataFrame, path: Path, *, separator: str = "|") -> None:
    """Write the rows as the file's name says, in CSV with the separator between several labels of a text.

    Raises:
        StoreError: the disk refused it.
    """
    try:
        if path.suffix == ".csv":
            joined = [join_labels(label, separator) for label in frame["prediction"]]
            text = to_exact_csv(frame.assign(prediction=joined))
        else:
            text = "".join(f"{line}\n" for line in to_json(frame))
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StoreError(f"--out {path}: {error.strerror or error}") from None


def to_json(frame: pd.DataFrame) -> list[str]:
    """Write each row as a line of JSON; what is missing is null."""
    rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return [json.dumps(row, ensure_ascii=False) for row in rows]
