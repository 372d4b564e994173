"""CSV as bench writes it: UTF-8, a newline after each row, and safe or exact by who reads it.

Tables are for people, who open them in a spreadsheet: their cells are cleaned and never formulas. Texts and
labels are for programs, which need them as they are: nothing is changed, and all text is quoted.
"""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from bench.redaction import clean

if TYPE_CHECKING:
    import pandas as pd

_FORMULA_STARTS = tuple("=+-@＝＋－＠")  # spreadsheets read the wide ones too


def escape_csv(value: Any) -> str:
    """Write the value as a cell that no spreadsheet takes for a formula; unknown is an empty cell.

    Text gets an apostrophe before a leading = + - @. Numbers are left exact.
    Source: OWASP, "CSV Injection".
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, (list, tuple)):
        value = " ".join(str(item) for item in value)
    if isinstance(value, Mapping):
        value = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return _escape_text(str(value))


@lru_cache(maxsize=4096)  # of thousands of runs most texts are the same
def _escape_text(text: str) -> str:
    text = clean(text)
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


def to_csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Write a table for people; the header is bench's own, the cells are anybody's."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([escape_csv(value) for value in row] for row in rows)
    return out.getvalue()


def to_exact_csv(frame: "pd.DataFrame", *, float_format: str | None = None) -> str:
    """Write rows for programs: all text in quotes and exactly as it is."""
    return frame.to_csv(
        index=False, float_format=float_format, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n"
    )
