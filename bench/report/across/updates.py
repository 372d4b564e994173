"""What each way to update knows of a stream's new and old texts after each piece, and which ways differ."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, groupby
from typing import Any

from bench.errors import StoreError
from bench.report.numbers.comparison import FEWEST_DISCORDANT, count_apart, count_looks
from bench.report.numbers.rows import Row, stands_alone
from bench.report.numbers.scores import Read, read_answers
from bench.report.numbers.statistics import (
    LEVEL,
    Difference,
    Score,
    Summary,
    adjust_holm,
    bound_difference,
    find_p,
    score_answers,
    subtract,
    summarise,
)
from bench.results.forgetting import (
    count_seconds,
    find_backward_transfer,
    find_forgetting,
    read_new,
    read_old,
)
from bench.results.store import Result

PARTS = ("new", "old")  # test texts: of the last piece, and of all before


@dataclass(frozen=True)
class UpdatedRow:
    """A method on a stream; accuracies are means over its seeds."""

    row: Row
    new: tuple[float, ...]  # after each update, on the texts of its piece
    old: tuple[float, ...]  # after each update, on those of all pieces before
    forgetting: Summary
    backward_transfer: Summary
    seconds: float | None  # of training, all updates after the first piece; None: not measured alone
    texts: float  # that these updates trained on, each as often as it is among them


@dataclass(frozen=True)
class PartDifference:
    """Two methods' difference in accuracy on new or on old texts, after the last update."""

    accuracy: Difference  # one less other
    adjusted_p: float  # Holm, over all pairs and both parts of the table
    has_one_seed: bool

    @property
    def is_told(self) -> bool:
        """Whether the two differ."""
        return self.adjusted_p < 1 - LEVEL


@dataclass(frozen=True)
class UpdatedPair:
    """Two methods on the same test texts of a stream."""

    one: Row
    other: Row
    new: PartDifference
    old: PartDifference


@dataclass(frozen=True)
class StreamTable:
    """The methods of one table of a stream, and how they differ."""

    rows: tuple[UpdatedRow, ...]
    pairs: tuple[UpdatedPair, ...]
    tests: tuple[int, ...]  # test texts of each piece
    new_labels: tuple[tuple[str, ...], ...]  # that come with each piece


def gather_updates(rows: Sequence[Row], read: Read) -> list[StreamTable]:
    """Return a table for each task and kind of memory whose runs were on a stream."""
    tables = []
    for _, same in groupby(rows, key=lambda row: (row.task, row.memory_kind)):
        known = [(row, some) for row in same if (some := _list_streamed(row))]
        if known:
            first = known[0][1][0].updates or {}
            tables.append(
                StreamTable(
                    rows=tuple(_describe(row, results) for row, results in known),
                    pairs=tuple(_compare([row for row, _ in known], first["tests"][-1], read)),
                    tests=tuple(first["tests"]),
                    new_labels=tuple(map(tuple, first["new_labels"])),
                )
            )
    return tables


def _list_streamed(row: Row) -> list[Result]:
    """List the method's chosen runs if they were on a stream, and it trained."""
    results = row.selection.results if row.selection and not row.has_random_weights else ()
    return [one for one in results if one.updates]


def _describe(row: Row, results: Sequence[Result]) -> UpdatedRow:
    blocks = [one.updates or {} for one in results]

    def average(read: Callable[[Mapping[str, Any]], list[float]]) -> tuple[float, ...]:
        return tuple(summarise(same).mean for same in zip(*map(read, blocks), strict=True))

    seconds = [count_seconds(one.updates or {}) for one in results if stands_alone(one)]
    return UpdatedRow(
        row=row,
        new=average(read_new),
        old=average(read_old),
        forgetting=summarise([find_forgetting(block["accuracy"]) for block in blocks]),
        backward_transfer=summarise([find_backward_transfer(block["accuracy"]) for block in blocks]),
        seconds=summarise(seconds).mean if seconds else None,
        texts=summarise([float(sum(block["train_texts"][1:])) for block in blocks]).mean,
    )


def _compare(rows: Sequence[Row], new_tests: int, read: Read) -> list[UpdatedPair]:
    """Compare every two methods that train and whose predictions are there, paired over test texts."""
    scored = []
    for row in (one for one in rows if not one.baseline):
        try:
            right = read_answers(row, read).is_right  # (seeds, texts), the last piece's at the end
        except StoreError:  # which the table of all texts names
            continue
        parts = {"new": right[:, -new_tests:], "old": right[:, :-new_tests]}
        scored.append((row, {name: score_answers(part) for name, part in parts.items()}))
    pairs = [(later, earlier) for earlier, later in combinations(scored, 2)]
    tests = [[_test(one[part], other[part])] for (_, one), (_, other) in pairs for part in PARTS]
    looks = count_looks(rows)
    adjusted = iter(adjust_holm([[min(1.0, looks * p_value) for p_value in same] for same in tests]))
    compared = []
    for (row, one), (other_row, other) in pairs:
        has_one_seed = 1 in (len(row.seeds), len(other_row.seeds))
        found = {
            part: PartDifference(_bound(one[part], other[part]), next(adjusted)[0], has_one_seed)
            for part in PARTS
        }
        compared.append(UpdatedPair(row, other_row, **found))
    return compared


def _test(score: Score, other: Score) -> float:
    """Return p for no difference, 1 where too few texts tell the two apart."""
    if count_apart(score, other) < FEWEST_DISCORDANT:
        return 1.0
    return find_p(*subtract(score, other), rows=len(score.spread))


def _bound(score: Score, other: Score) -> Difference:
    found = bound_difference(score, other, rows=len(score.spread))
    is_testable = count_apart(score, other) >= FEWEST_DISCORDANT
    return found if is_testable else replace(found, low=None, high=None)
