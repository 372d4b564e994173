"""What each value of a setting brings that has no order, such as the loss: a row for each, of one method."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.config.fields import Off, read_marks
from bench.config.schema import Config
from bench.errors import StoreError
from bench.report.numbers.columns import add_columns
from bench.report.numbers.rows import Row, build_row, list_groups
from bench.report.numbers.scores import Read, Scored, bound_rows, score_method
from bench.results.selection import read_criterion, read_value
from bench.results.store import Result

AXES = ("train.loss", "data.long_texts")
SCORES = ("balanced_accuracy", "mcc")  # shown beside accuracy and F1


@dataclass(frozen=True)
class Alternatives:
    """One method's runs of several values of a setting: for each value its best configuration."""

    axis: str  # one of AXES
    title: str  # of the method
    values: Sequence[str]
    rows: Sequence[Row]  # of each value, as the main table would have it


def list_choices(results: Iterable[Result], names: Sequence[str], read: Read) -> list[Alternatives]:
    """List each setting of AXES that runs of one method on one task differ in.

    Args:
        names: further scores, as for add_columns.
    """
    results = list(results)
    select_by, choices = read_criterion(results), list[Alternatives]()
    for task, key, kind, members in list_groups(results):
        for axis in AXES:
            by_value: dict[str, list[Result]] = {}
            for one in members:
                by_value.setdefault(_read_setting(one, axis), []).append(one)
            if len(by_value) > 1:
                values = sorted(by_value, key=lambda value: (value != _find_off(axis), value))
                rows = [build_row(task, key, kind, by_value[value], select_by) for value in values]
                rows = add_columns(rows, list(dict.fromkeys([*SCORES, *names])), read)
                rows = bound_rows(rows, [_score(row, read) for row in rows])
                choices.append(Alternatives(axis, rows[0].title, values, rows))
    return choices


def _score(row: Row, read: Read) -> Scored | None:
    try:
        return score_method(row, read) if row.selection else None
    except StoreError:
        return None


def _find_off(axis: str) -> str:
    """Return the value of runs from before the setting was there."""
    return next(str(mark.value) for mark in read_marks(Config)[axis] if isinstance(mark, Off))


def _read_setting(result: Result, axis: str) -> str:
    """Return the value that counts for the run."""
    return str(read_value(result, f"canonical_config.{axis}") or _find_off(axis))
