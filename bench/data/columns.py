"""The columns of texts and labels in a table: found by name, checked row by row, and doubted."""

import re
import shlex
import unicodedata
from collections.abc import Iterator, Mapping, Sequence, Set
from difflib import get_close_matches
from typing import Any

import numpy as np
import pandas as pd

from bench.config.schema import DataConfig
from bench.errors import DataError

_FIELDS = ("text_column", "label_column")
_PLAIN = re.compile(r"[A-Za-z_][\w./-]*", re.ASCII)  # what an override may hold without quotes
_SHORT = 3  # characters: a text with fewer hardly is one
_LOOKED_AT = 1000  # rows, for what a column holds


def to_texts(frame: pd.DataFrame, *, where: str, config: DataConfig) -> pd.DataFrame:
    """Return the text and the label of each row as text.

    Raises:
        DataError: a column that is not there, no rows, or a row without a text or a label.
    """
    columns = _pick_columns(frame, where, config)
    if frame.empty:
        raise DataError(f"{where}: there are no rows; give some")
    texts = _convert(columns["text_column"], where, "text")
    labels = [label.strip() for label in _convert(columns["label_column"], where, "label")]
    _require_content(texts, labels, where, config)
    return pd.DataFrame({"text": texts, "label": labels}, dtype=str)


def find_doubts(frame: pd.DataFrame, texts: Sequence[str], config: DataConfig) -> list[str]:
    """Say what looks as if the texts were in another column of their table, a sentence each."""
    return [*_doubt_texts(texts, config), *_doubt_others(frame, texts, config)]


def fold_look(label: str) -> str:
    """Return what is left of a label without case, blanks and characters that nobody sees."""
    visible = (
        one for one in unicodedata.normalize("NFKC", label) if unicodedata.category(one)[0] not in "CZ"
    )
    return "".join(visible).casefold()


def _pick_columns(frame: pd.DataFrame, where: str, config: DataConfig) -> dict[str, Sequence[Any]]:
    """Return the values of both columns.

    Raises:
        DataError: one or both are not there; the message guesses which were meant.
    """
    wanted = {field: str(getattr(config, field)) for field in _FIELDS}
    picked = {field: _pick(frame, column) for field, column in wanted.items()}
    missing = {field: column for field, column in wanted.items() if picked[field] is None}
    if missing:
        given = " ".join(f"data.{field}={column}" for field, column in missing.items())
        names = list(_name_all(frame))
        raise DataError(
            f"{given}: {where} has no such column; it has {', '.join(names) or 'none'}"
            f"{_guess_columns(missing, names) or _explain_missing(missing, frame)}"
        )
    return {field: values for field, values in picked.items() if values is not None}


def _pick(frame: pd.DataFrame, path: str) -> Sequence[Any] | None:
    """Return the column of that name or, of ``data.text``, the values at text in the column data."""
    if path in frame:
        return list(frame[path])
    column, _, rest = path.partition(".")
    if not rest or column not in frame or not any(isinstance(one, Mapping) for one in frame[column]):
        return None
    values = [_follow(one, rest.split(".")) for one in frame[column]]
    return None if all(value is None for value in values) else values


def _follow(value: Any, names: Sequence[str]) -> Any:
    """Return what is inside nested objects under these names, or None."""
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _name_all(frame: pd.DataFrame) -> Iterator[str]:
    """Name each column, and what is inside one of objects by its path."""
    for column in frame.columns:
        first = frame[column].iloc[0] if len(frame) else None
        yield from _name_inner(str(column), first)


def _name_inner(path: str, value: Any) -> Iterator[str]:
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _name_inner(f"{path}.{name}", inner)
    else:
        yield path


def _guess_columns(missing: Mapping[str, str], names: Sequence[str]) -> str:
    """Return ``; did you mean ...?`` with settings to paste, or nothing where no column is near."""
    near = []
    for field, column in missing.items():
        alike = [name for name in names if fold_look(name) == fold_look(column)]
        inner = [name for name in names if name.endswith(f".{column}")]
        alike_names = alike or inner or get_close_matches(column, names, n=1, cutoff=0.7)
        near += [_write_override(field, name) for name in alike_names[:1]]
    return f"; did you mean {' '.join(near)}?" if near else ""


def _write_override(field: str, column: str) -> str:
    """Write the setting as a shell takes it."""
    if _PLAIN.fullmatch(column):
        return f"data.{field}={column}"
    doubled = re.sub(r"(\\*)('|\Z)", r"\1\1\2", column).replace("'", r"\'")  # Hydra's quotes
    setting = f"data.{field}='{doubled}'"
    return shlex.quote(setting) if re.search(r'[$`"\\!]', setting) else f'"{setting}"'


def _explain_missing(missing: Mapping[str, str], frame: pd.DataFrame) -> str:
    """Return what a person may have to do where no column is near."""
    head = frame.head(_LOOKED_AT)
    flags = [
        str(column) for column in frame.columns if len(head) and set(map(str, head[column])) <= {"0", "1"}
    ]
    if "label_column" in missing and len(flags) > 1:
        return (
            f"; {', '.join(flags)} hold 0 and 1, as where a text has several labels, and bench gives it one: "
            f"choose one with {_write_override('label_column', flags[0])}"
        )
    if len(missing) == len(_FIELDS):
        return (
            "; name them with data.text_column=NAME data.label_column=NAME, or put the line text,label above "
            "the rows of a file without a header"
        )
    return f"; name it with data.{next(iter(missing))}=NAME"


def _convert(column: Sequence[Any], where: str, what: str) -> list[str]:
    """Return the values as texts; whole numbers without a point, so that 1 and 1.0 are one label."""
    texts = []
    for row, value in enumerate(column, start=1):
        try:
            text = _to_text(value)
            text.encode()
        except (TypeError, UnicodeEncodeError):
            is_list = what == "label" and isinstance(value, list | tuple | np.ndarray)
            remedy = "; bench gives a text one label, so write one there" if is_list else ""
            raise DataError(
                f"{where}: row {row} has {str(value)[:40]!r}, which is not text{remedy}"
            ) from None
        texts.append(text)
    return texts


def _to_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bytes | Sequence | Mapping | Set | np.ndarray):
        raise TypeError
    if pd.isna(value):
        return ""
    if isinstance(value, float | np.floating) and value.is_integer():
        return str(int(value))
    return str(value)


def _require_content(texts: Sequence[str], labels: Sequence[str], where: str, config: DataConfig) -> None:
    """Raise a DataError that counts the rows without a text or a label, and says which column lacks most."""
    empty = {
        config.text_column: [not text.strip() for text in texts],
        config.label_column: [not label for label in labels],
    }
    bad = [row for row, gaps in enumerate(zip(*empty.values(), strict=True), start=1) if any(gaps)]
    if not bad:
        return
    nearly = [
        f"; the column {name} is empty in {sum(gaps)} of them, so choose another"
        for name, gaps in empty.items()
        if sum(gaps) > len(texts) / 2
    ]
    raise DataError(
        f"{where}: {len(bad)} of {len(texts)} rows have no text or no label, the first is row {bad[0]} "
        f"(the first after the header is row 1){''.join(nearly) or '; fill them in or remove them'}"
    )


def _doubt_texts(texts: Sequence[str], config: DataConfig) -> Iterator[str]:
    """Say where a column of texts is nearly empty of content, or nearly always the same."""
    short = sum(len(text.strip()) < _SHORT for text in texts)
    if short > len(texts) / 2:
        yield (
            f"{short} of {len(texts)} texts in the column {config.text_column!r} have fewer than {_SHORT} "
            "characters; data.text_column names another"
        )
    distinct = len(set(texts))
    if len(texts) >= 100 and distinct < len(texts) / 20:
        yield (
            f"the column {config.text_column!r} holds {distinct} different texts in {len(texts)} rows; "
            "data.text_column names another"
        )


def _doubt_others(frame: pd.DataFrame, texts: Sequence[str], config: DataConfig) -> Iterator[str]:
    """Say which other column holds texts as long as those that are used, mostly different ones."""
    used = np.mean([len(text) for text in texts[:_LOOKED_AT]])
    for column in frame.columns:
        values = [one for one in frame[column].head(_LOOKED_AT) if isinstance(one, str)]
        if str(column) in (config.text_column, config.label_column) or len(values) < 2:
            continue
        words = np.mean([len(value.split()) > 2 or not value.isascii() for value in values])
        is_text = words > 0.5 and len(set(values)) > len(values) / 2
        if is_text and np.mean([len(value) for value in values]) >= used / 2:
            yield (
                f"the column {str(column)!r} holds texts too and is not used, as a model reads "
                f"{config.text_column!r} alone; join them in one column if both count"
            )
