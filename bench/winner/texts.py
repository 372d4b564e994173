"""Texts to classify, from a file or line by line, and what they are taken for, written beside them."""

import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from bench.csv_text import to_exact_csv
from bench.data import tables
from bench.errors import ConfigError, DataError, MissingError, StoreError
from bench.redaction import show

if TYPE_CHECKING:
    from bench.winner.classifier import LabelPrediction

_logger = logging.getLogger(__name__)
_KINDS = (".csv", ".jsonl")


def require_kind(path: Path, option: str) -> None:
    """Raise a ConfigError unless the file's name says that it is CSV or JSONL."""
    if path.suffix not in _KINDS:
        raise ConfigError(f"{option} {path}: must end in {' or '.join(_KINDS)}")


def read_file(path: Path, column: str) -> pd.DataFrame:
    """Return the file's rows, with every column that it has; texts are in the named one.

    Raises:
        MissingError: there is no such file.
        ConfigError: it has no such column.
        DataError: its name does not say what it is, it cannot be read, or a row has no text.
    """
    if not path.is_file():
        raise MissingError(f"--file {path}: there is no such file")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"--file {path}: cannot be read ({error.strerror})") from None
    table = tables.read(content, path.name, where=f"--file {path}", encoding="auto", wanted=[column])
    for note in table.notes:
        _logger.warning("--file %s: %s", show(path), note)
    frame = table.frame
    if column not in frame:
        there = ", ".join(map(str, frame.columns)) or "none"
        raise ConfigError(f"--column {column}: {path} has no such column; there are {there}")
    for number, text in enumerate(frame[column], start=1):
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"--file {path}: row {number} has no text in {column}; remove it")
    return frame


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


def add_predictions(
    frame: pd.DataFrame, predictions: "Sequence[LabelPrediction]", *, has_reasons: bool = False
) -> pd.DataFrame:
    """Add ``prediction`` and ``probability_<label>`` for each label to the rows.

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


def write_file(frame: pd.DataFrame, path: Path) -> None:
    """Write the rows as the file's name says.

    Raises:
        StoreError: the disk refused it.
    """
    try:
        lines = "".join(f"{line}\n" for line in to_json(frame))
        path.write_text(to_exact_csv(frame) if path.suffix == ".csv" else lines, encoding="utf-8")
    except OSError as error:
        raise StoreError(f"--out {path}: {error.strerror or error}") from None


def to_json(frame: pd.DataFrame) -> list[str]:
    """Write each row as a line of JSON; what is missing is null."""
    rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return [json.dumps(row, ensure_ascii=False) for row in rows]
