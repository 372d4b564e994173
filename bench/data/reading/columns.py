"""The columns of texts and labels in a table: found by name, checked row by row, and doubted."""

import re
import shlex
import unicodedata
from collections.abc import Iterator, Mapping, Sequence, Set
from difflib import get_close_matches
from itertools import compress
from typing import Any

import numpy as np
import pandas as pd

from bench.config.overrides import override_line
from bench.config.schema import DataConfig
from bench.config.template import fill, list_columns
from bench.errors import DataError

_FIELDS = ("text_column", "text_pair_column", "label_column", "date_column")
_FLAGS = {"0": False, "1": True, "False": False, "True": True, "false": False, "true": True}
_PLAIN = re.compile(r"[A-Za-z_][\w./-]*", re.ASCII)  # what an override may hold without quotes
_SHORT = 3  # characters: a text with fewer hardly is one
_LOOKED_AT = 1000  # rows, for what a column holds


def to_texts(frame: pd.DataFrame, *, where: str, config: DataConfig, labelled: bool = True) -> pd.DataFrame:
    """Return the text, the second text, if there is one, and the label of each row as text.

    With data.multi_label the label is a tuple of all that the row has; with data.date_column there is the
    date too, in UTC. Unless ``labelled`` there is neither.

    Raises:
        DataError: a column that is not there, no rows, or a row without a text, a label or a date.
    """
    picked = _pick_columns(frame, where, config, labelled=labelled)
    if frame.empty:
        raise DataError(f"{where}: there are no rows; give some")
    read = {column: _convert(picked[column], where, "text") for column in list_read(config)}
    labels: Sequence[Any] = ()
    if not labelled:
        _require_content(read, where)
    elif config.multi_label:
        labels = _read_label_sets(picked, where, config)
        _require_content(read, where)
    else:
        labels = [label.strip() for label in _convert(picked[config.label_column], where, "label")]
        _require_content({**read, config.label_column: labels}, where)
    template = config.text_template
    columns = {"text": read[config.text_column] if template is None else fill(template, read)}
    if config.text_pair_column is not None:
        columns["pair"] = read[config.text_pair_column]
    kind = object if config.multi_label else str
    rows = pd.DataFrame(columns, dtype=str)
    if labelled:
        rows = rows.assign(label=pd.Series(labels, dtype=kind))
    if config.date_column is None or not labelled:
        return rows
    return rows.assign(date=_read_dates(picked[config.date_column], where, config.date_column))


def list_read(config: DataConfig) -> list[str]:
    """List the columns that texts are made of, the second text's last."""
    template, pair = config.text_template, config.text_pair_column
    columns = [config.text_column] if template is None else list_columns(template)
    return list(dict.fromkeys([*columns, *([] if pair is None else [pair])]))


def list_labelled(config: DataConfig) -> list[str]:
    """List the columns that labels are read from."""
    return config.label_columns or [config.label_column]


def find_doubts(frame: pd.DataFrame, texts: Sequence[str], config: DataConfig) -> list[str]:
    """Say what looks as if the texts were in another column of their table, a sentence each."""
    return [*_doubt_texts(texts, config), *_doubt_others(frame, texts, config)]


def fold_look(label: str) -> str:
    """Return what is left of a label without case, blanks and characters that nobody sees."""
    visible = (
        one for one in unicodedata.normalize("NFKC", label) if unicodedata.category(one)[0] not in "CZ"
    )
    return "".join(visible).casefold()


def _pick_columns(
    frame: pd.DataFrame, where: str, config: DataConfig, *, labelled: bool
) -> dict[str, Sequence[Any]]:
    """Return the values of each column that is read, by its name.

    Raises:
        DataError: one or several are not there; the message guesses which were meant.
    """
    template = config.text_template
    wanted = {field: str(name) for field in _FIELDS if (name := getattr(config, field)) is not None}
    if config.label_columns or not labelled:
        wanted.pop("label_column")
    if config.label_columns and labelled:
        _require_label_columns(frame, where, config.label_columns)
    if template is not None:
        wanted.pop("text_column")
        absent = [name for name in list_columns(template) if _pick(frame, name) is None]
        if absent:
            raise DataError(
                f"data.text_template={template}: {where} has no column {', '.join(map(repr, absent))}; "
                f"it has {', '.join(_name_all(frame)) or 'none'}{_guess_template(template, absent, frame)}"
            )
    missing = {field: column for field, column in wanted.items() if _pick(frame, column) is None}
    if missing:
        given = " ".join(f"data.{field}={column}" for field, column in missing.items())
        names = list(_name_all(frame))
        fault = f"{given}: {where} has no such column; it has {', '.join(names) or 'none'}"
        if not labelled:  # another name would no longer be that of the labelled texts
            raise DataError(f"{fault}; give it the columns of the labelled texts, so rename its own")
        raise DataError(f"{fault}{_guess_columns(missing, names) or _explain_missing(missing, frame)}")
    dated = [] if config.date_column is None else [config.date_column]
    names = [*list_read(config), *([*list_labelled(config), *dated] if labelled else [])]
    return {name: _pick(frame, name) or [] for name in names}


def _require_label_columns(frame: pd.DataFrame, where: str, columns: Sequence[str]) -> None:
    """Raise a DataError that names the columns of labels that are not there, and those that were meant."""
    if not (absent := [name for name in columns if _pick(frame, name) is None]):
        return
    names = list(_name_all(frame))
    near = [(_find_near(name, names) or [name])[0] if name in absent else name for name in columns]
    given, mended = (override_line("data.label_columns", [*some]) for some in (columns, near))
    guess = f"; did you mean {shlex.quote(mended)}?" if near != [*columns] else ""
    raise DataError(
        f"{given}: {where} has no column {', '.join(map(repr, absent))}; it has "
        f"{', '.join(names) or 'none'}{guess}"
    )


def _guess_template(template: str, absent: Sequence[str], frame: pd.DataFrame) -> str:
    """Return ``; did you mean ...?`` with the template to paste, or what braces mean."""
    names, mended = list(_name_all(frame)), template
    for column in absent:
        for near in _find_near(column, names)[:1]:
            mended = mended.replace(f"{{{column}}}", f"{{{near}}}")
    if mended != template:
        return f"; did you mean {_write_override('text_template', mended)}?"
    return "; a brace that belongs to the text is written twice, {{ or }}"


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
    near = [
        _write_override(field, name)
        for field, column in missing.items()
        for name in _find_near(column, names)[:1]
    ]
    return f"; did you mean {' '.join(near)}?" if near else ""


def _find_near(column: str, names: Sequence[str]) -> list[str]:
    """Find the columns that may have been meant, the likeliest first."""
    alike = [name for name in names if fold_look(name) == fold_look(column)]
    inner = [name for name in names if name.endswith(f".{column}")]
    return alike or inner or get_close_matches(column, names, n=1, cutoff=0.7)


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
            f"; {', '.join(flags)} hold 0 and 1: for texts with several labels set data.multi_label=true "
            f"{shlex.quote(override_line('data.label_columns', flags))}, for one of them "
            f"{_write_override('label_column', flags[0])}"
        )
    if {"text_column", "label_column"} <= set(missing):
        return (
            "; name them with data.text_column=NAME data.label_column=NAME, or put the line text,label above "
            "the rows of a file without a header"
        )
    return f"; name it with data.{next(iter(missing))}=NAME"


def _read_dates(values: Sequence[Any], where: str, column: str) -> pd.Series:
    """Return dates in UTC.

    Raises:
        DataError: a row has none, or one that is not written as ISO 8601 has it.
    """
    dates = pd.to_datetime(pd.Series([*values]).astype(str), format="ISO8601", errors="coerce", utc=True)
    if wrong := np.flatnonzero(dates.isna()).tolist():
        raise DataError(
            f"{where}: row {wrong[0] + 1} has {str(values[wrong[0]])[:40]!r} in data.date_column={column} "
            f"({len(wrong)} such rows); write dates as 2024-03-31, with or without a time"
        )
    return dates.dt.tz_localize(None)


def _read_label_sets(
    picked: Mapping[str, Sequence[Any]], where: str, config: DataConfig
) -> list[tuple[str, ...]]:
    """Return the labels of each row, each once: of a list, between separators, or of columns of 0 and 1."""
    if config.label_columns:
        flags = [_read_flags(picked[name], where, name) for name in config.label_columns]
        rows = zip(*flags, strict=True)
        return [tuple(compress(config.label_columns, row)) for row in rows]
    cells = picked[config.label_column]
    split = [
        _convert(_to_parts(cell, config.label_separator), where, "label", row)
        for row, cell in enumerate(cells, 1)
    ]
    return [tuple(dict.fromkeys(part for one in parts if (part := one.strip()))) for parts in split]


def _to_parts(cell: Any, separator: str) -> Sequence[Any]:
    """Return the labels in a cell, which is a list of them or a text."""
    if isinstance(cell, list | tuple | np.ndarray):
        return list(cell)
    return cell.split(separator) if isinstance(cell, str) else [cell]


def _read_flags(column: Sequence[Any], where: str, name: str) -> list[bool]:
    """Return whether each row has the label, of which the column says 0 or 1."""
    values = [value.strip() for value in _convert(column, where, "label")]
    for row, value in enumerate(values, start=1):
        if value not in _FLAGS:
            raise DataError(
                f"{where}: row {row} has {value[:40]!r} in {name}, which data.label_columns names; it must "
                "hold 0 or 1"
            )
    return [_FLAGS[value] for value in values]


def _convert(column: Sequence[Any], where: str, what: str, first: int | None = None) -> list[str]:
    """Return the values as texts; whole numbers without a point, so that 1 and 1.0 are one label.

    Args:
        first: the row that all values are of; None: each is of the next.
    """
    texts = []
    for row, value in enumerate(column, start=1):
        try:
            text = _to_text(value)
            text.encode()
        except (TypeError, UnicodeEncodeError):
            is_list = what == "label" and isinstance(value, list | tuple | np.ndarray)
            remedy = "; for texts with several labels set data.multi_label=true" if is_list else ""
            raise DataError(
                f"{where}: row {first or row} has {str(value)[:40]!r}, which is not text{remedy}"
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


def _require_content(columns: Mapping[str, Sequence[str]], where: str) -> None:
    """Raise a DataError that counts the rows without a text or a label, and says which column lacks most."""
    empty = {name: [not value.strip() for value in values] for name, values in columns.items()}
    rows = len(next(iter(columns.values())))
    bad = [row for row, gaps in enumerate(zip(*empty.values(), strict=True), start=1) if any(gaps)]
    if not bad:
        return
    nearly = [
        f"; the column {name} is empty in {sum(gaps)} of them, so choose another"
        for name, gaps in empty.items()
        if sum(gaps) > rows / 2
    ]
    raise DataError(
        f"{where}: {len(bad)} of {rows} rows have no text or no label, the first is row {bad[0]} "
        f"(the first after the header is row 1){_name_gaps(empty, bad[0])}"
        f"{''.join(nearly) or '; fill them in or remove them'}"
    )


def _name_gaps(empty: Mapping[str, Sequence[bool]], row: int) -> str:
    """Name the columns that are empty in the row, where texts are made of several."""
    gaps = [repr(name) for name, values in empty.items() if values[row - 1]]
    return f", where {', '.join(gaps)} is empty" if len(empty) > 2 else ""


def _doubt_texts(texts: Sequence[str], config: DataConfig) -> Iterator[str]:
    """Say where a column of texts is nearly empty of content, or nearly always the same."""
    where = (
        "texts of data.text_template"
        if config.text_template
        else f"texts in the column {config.text_column!r}"
    )
    short = sum(len(text.strip()) < _SHORT for text in texts)
    if short > len(texts) / 2:
        yield (
            f"{short} of {len(texts)} {where} have fewer than {_SHORT} "
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
    read = list_read(config)
    for column in frame.columns:
        values = [one for one in frame[column].head(_LOOKED_AT) if isinstance(one, str)]
        if str(column) in (*read, *list_labelled(config)) or len(values) < 2:
            continue
        words = np.mean([len(value.split()) > 2 or not value.isascii() for value in values])
        is_text = words > 0.5 and len(set(values)) > len(values) / 2
        if is_text and np.mean([len(value) for value in values]) >= used / 2:
            yield (
                f"the column {str(column)!r} holds texts too and is not used, as a model reads "
                f"{', '.join(map(repr, read))} alone; if both count, join them with data.text_template, or "
                "name it as a second text in data.text_pair_column"
            )
