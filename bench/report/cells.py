"""Numbers and other people's texts as cells: readable, and unable to break the file they stand in."""

import csv
import io
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from bench.config.cards import GIB

UNKNOWN = "–"
_ESCAPE_SEQUENCES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\].*?(?:\x07|\x1b\\)|[@-Z\\^_])", re.DOTALL)
_TURNS_TEXT = set("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_FORMULA_STARTS = tuple("=+-@＝＋－＠")  # spreadsheets read the wide ones too
_SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def format_known(value: float | None, write: Callable[[float], str]) -> str:
    """Write a number, or the sign for one that is unknown."""
    return UNKNOWN if value is None else write(value)


def round_six(value: float | None) -> float | None:
    """Round the number to six decimals, so that a table stays readable; unknown stays unknown."""
    return None if value is None else round(value, 6)


def format_gib(count: float) -> str:
    """Write bytes as GiB, to two decimals, without the unit."""
    return f"{count / GIB:.2f}"


def format_count(count: float) -> str:
    """Write a count as people do: 512, 73.7K, 22.7M, 6.2B."""
    if count < 1000:
        return f"{count:g}"
    for unit, letter in ((1e3, "K"), (1e6, "M"), (1e9, "B")):
        if round(count / unit, 1) < 1000:
            return f"{count / unit:.1f}{letter}"
    return f"{count / 1e12:.1f}T"


def format_number(value: Any) -> str:
    """Write a hyperparameter as in YAML: 8, 0.05, 5e-5; a list by its items."""
    if isinstance(value, list | tuple):
        return "[" + ",".join(format_number(one) for one in value) + "]"
    if isinstance(value, float):
        return re.sub(r"e([-+])0+", r"e\1", f"{value:g}")
    return str(value)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested mappings by dotted key."""
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            leaves |= flatten(value, f"{prefix}{name}.")
        else:
            leaves[prefix + name] = value
    return leaves


def superscript(number: int) -> str:
    """Return the number as the mark of a note."""
    return str(number).translate(_SUPERSCRIPTS)


def clean(text: str) -> str:
    """Put the text on one line, without terminal escapes, control characters and direction marks."""
    if text.isprintable():  # nearly all; what is taken out below is not printable
        return " ".join(text.split())
    text = _ESCAPE_SEQUENCES.sub("", text)
    kept = (
        " " if one.isspace() else one
        for one in text
        if one.isspace() or (unicodedata.category(one) not in ("Cc", "Cs") and one not in _TURNS_TEXT)
    )
    return " ".join("".join(kept).split())


def escape_markdown(text: str) -> str:
    """Write the text as Markdown that shows it, in a table's cell or in a sentence, and does nothing else.

    Angle brackets become entities: some renderers pass ``\\<script>`` on as HTML.
    """
    text = re.sub(r"\\(?=[!-/:-@\[-`{-~]|$)", r"\\\\", clean(text))  # before others it is only itself
    text = re.sub(r"([`*|\[\]~])", r"\\\1", text)
    text = re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)  # snake_case needs no escape
    text = re.sub(r"&(?=#?\w+;)", "&amp;", text)
    return text.replace("<", "&lt;").replace(">", "&gt;")


def escape_csv(value: Any) -> str:
    """Write the value as a CSV cell that no spreadsheet takes for a formula; leave it empty if unknown.

    Text gets an apostrophe before a leading = + - @. Numbers are left exact.
    Source: OWASP, "CSV Injection".
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list | tuple):
        value = " ".join(str(one) for one in value)
    if isinstance(value, Mapping):
        value = json.dumps(value, sort_keys=True, ensure_ascii=False)
    text = clean(str(value))
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


def to_csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Write a CSV file; the header is bench's own, the cells are anybody's."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([escape_csv(value) for value in row] for row in rows)
    return out.getvalue()


def to_markdown(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: Iterable[int]) -> str:
    """Write a Markdown table of escaped cells that also lines up in a terminal; columns not in left go right.

    Not tabulate's: it pads wide characters only where another package is installed, and the same results must
    give the same bytes on every machine.
    """
    left = set(left)
    widths = [max(3, *map(_width, column)) for column in zip(header, *rows, strict=True)]

    def lay_out(cells: Sequence[str]) -> str:
        padded = [
            cell + space if index in left else space + cell
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
            for space in [" " * (width - _width(cell))]
        ]
        return "| " + " | ".join(padded) + " |"

    rule = ["-" * width if index in left else "-" * (width - 1) + ":" for index, width in enumerate(widths)]
    return "\n".join([lay_out(header), lay_out(rule), *map(lay_out, rows)]) + "\n"


def _width(text: str) -> int:
    """Count the columns of a terminal that the text takes: two for a Chinese character."""
    return sum(
        0 if unicodedata.combining(one) else 2 if unicodedata.east_asian_width(one) in "WF" else 1
        for one in text
    )
