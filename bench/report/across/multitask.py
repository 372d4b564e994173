"""Several tasks: a model for each, an adapter for each on one base, or one model of all with a head for each.

Each task has the same train and test texts whichever way it is learned, so its accuracies are paired.
"""

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from bench.data.tasks import name_labels
from bench.errors import StoreError
from bench.report.numbers.comparison import Comparison, Pair, compare_pairs, count_looks
from bench.report.numbers.rows import Row
from bench.report.numbers.scores import Answers, Read, Scored, measure, read_answers
from bench.report.numbers.statistics import score_answers
from bench.results import tally
from bench.results.selection import read_value

KINDS = ("models", "adapters", "joint")
_WEIGHT_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}


@dataclass(frozen=True)
class Strategy:
    """One way to learn and to serve all tasks."""

    kind: str  # one of KINDS
    rows: tuple[Row, ...]  # of each task, or the one of all
    accuracies: tuple[float | None, ...]  # of each task on its test texts, the mean over seeds
    weight_bytes: float | None  # of all that has to be held to serve all tasks; None: quantised, or not known
    train_seconds: float | None  # of all trainings that it takes
    comparisons: tuple[Comparison | None, ...] = ()  # of each task with the reference; empty: it is that


@dataclass(frozen=True)
class Multitask:
    """The strategies over the same tasks, with one base model."""

    tasks: tuple[str, ...]
    strategies: tuple[Strategy, ...]
    reference: Strategy | None  # an adapter for each task, the best on validation; None: no run has them


def read_parts(row: Row) -> Mapping[str, Mapping[str, Any]]:
    """Return the tasks of a row's runs as their records describe them, empty where there is one."""
    parts = read_value(row.selection.results[0], "data.tasks") if row.selection else None
    return parts or {}


def compare_strategies(rows: Sequence[Row], read: Read, *, delta: float) -> list[Multitask]:
    """Compare the strategies wherever a run has several tasks, for each base model and kind of memory."""
    joint: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        if read_parts(row) and not row.has_random_weights:
            joint[row.task, row.memory_kind].append(row)
    return [_compare_group(group, rows, read, delta=delta) for group in joint.values()]


def _compare_group(joint: Sequence[Row], rows: Sequence[Row], read: Read, *, delta: float) -> Multitask:
    parts = read_parts(joint[0])
    found = [
        *((row.method, "joint", (row,)) for row in joint),
        *((alone[0].method, _name_kind(alone[0]), alone) for alone in _list_alone(joint[0], rows)),
    ]
    found.sort(key=lambda one: (KINDS.index(one[1]), one[2][0].rank, one[0]))
    scored = [_score_tasks(same, parts, read) for _, _, same in found]
    strategies = [
        _describe(kind, same, own, parts) for (_, kind, same), own in zip(found, scored, strict=True)
    ]
    adapters = [one for one in strategies if one.kind == "adapters"]
    reference = max(adapters, key=lambda one: sum(row.validation or 0.0 for row in one.rows), default=None)
    if reference is not None:
        compare = partial(compare_pairs, delta=delta, looks=count_looks(rows))
        strategies = _compare_with(strategies.index(reference), strategies, scored, compare)
    return Multitask(tuple(parts), tuple(strategies), reference)


def _compare_with(
    reference: int,
    strategies: Sequence[Strategy],
    scored: Sequence[Sequence[Scored | None]],
    compare: Callable[[Sequence[Pair]], Sequence[Comparison]],
) -> list[Strategy]:
    """Add the comparisons of each task with the strategy at this place; all are one family of tests."""
    base = scored[reference]
    pairs: dict[tuple[int, int], Pair] = {}
    for number, own in enumerate(scored):
        for task, (one, other) in enumerate(zip(own, base, strict=True)):
            if number != reference and one and other and one.texts == other.texts:
                pairs[number, task] = (one, other)
    compared = dict(zip(pairs, compare([*pairs.values()]), strict=True))
    return [
        one
        if number == reference
        else replace(one, comparisons=tuple(compared.get((number, task)) for task in range(len(base))))
        for number, one in enumerate(strategies)
    ]


def _list_alone(joint: Row, rows: Sequence[Row]) -> Iterator[tuple[Row, ...]]:
    """Yield the rows of each method that was trained on each of the tasks by itself."""
    fingerprints = [part["fingerprint"] for part in read_parts(joint).values()]
    by_method: dict[str, dict[str, Row]] = defaultdict(dict)
    for row in rows:
        is_same = (row.task.revision, row.memory_kind) == (joint.task.revision, joint.memory_kind)
        if is_same and row.selection and not row.baseline:
            by_method[row.method][row.task.fingerprint] = row
    for found in by_method.values():
        if all(one in found for one in fingerprints):
            yield tuple(found[one] for one in fingerprints)


def _name_kind(row: Row) -> str:
    """Name the strategy of a method that is trained on each task by itself."""
    trainable = read_value(row.selection.results[0], "config.method.trainable") if row.selection else None
    return "models" if trainable == "all" else "adapters"


def _describe(
    kind: str, rows: tuple[Row, ...], scored: Sequence[Scored | None], parts: Mapping[str, Any]
) -> Strategy:
    recorded = [row.accuracy.mean if row.accuracy else None for row in rows]
    if kind == "joint":
        recorded = [_read_accuracy(rows[0], task) for task in parts]
    seconds = [row.train_seconds for row in rows]
    known = [one for one in seconds if one is not None]
    return Strategy(
        kind,
        rows,
        tuple(one.accuracy.mean if one else other for one, other in zip(scored, recorded, strict=True)),
        _count_bytes(kind, rows),
        sum(known) if len(known) == len(seconds) else None,
    )


def _read_accuracy(row: Row, task: str) -> float | None:
    """Return the mean of the accuracy that the records of a row's chosen runs have of a task."""
    results = row.selection.results if row.selection else ()
    values = [(read_value(one, "metrics.test.accuracy_by_task") or {}).get(task) for one in results]
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known and len(known) == len(values) else None


def _count_bytes(kind: str, rows: Sequence[Row]) -> float | None:
    """Count the bytes of the weights that serve all tasks: k models, or one base and what is added to it."""
    results = [row.selection.results[0] for row in rows if row.selection]
    sizes = {_WEIGHT_BYTES.get(str(read_value(one, "model.precision"))) for one in results}
    kept = {read_value(one, "config.method.quantization") for one in results}
    totals, trained = [row.total_parameters for row in rows], [row.trainable_parameters for row in rows]
    size = sizes.pop() if len(sizes) == 1 else None
    if size is None or kept != {"none"} or None in totals or None in trained:
        return None
    pairs = [(total or 0.0, own or 0.0) for total, own in zip(totals, trained, strict=True)]
    if kind == "adapters":
        return size * (max(total - own for total, own in pairs) + sum(own for _, own in pairs))
    return size * sum(total for total, _ in pairs)


def _score_tasks(
    rows: tuple[Row, ...], parts: Mapping[str, Mapping[str, Any]], read: Read
) -> list[Scored | None]:
    """Score each task's test texts; None where the predictions cannot be read."""
    try:
        if read_parts(rows[0]):
            answers = _split_answers(read_answers(rows[0], read), parts)
            return [_score(rows[0], one) for one in answers]
        return [
            _score(row, _name_task(read_answers(row, read), task))
            for row, task in zip(rows, parts, strict=True)
        ]
    except StoreError:
        return [None] * len(parts)


def _split_answers(answers: Answers, parts: Mapping[str, Mapping[str, Any]]) -> Iterator[Answers]:
    """Yield each task's part of the answers of a run on all: its rows follow those of the task before.

    Raises:
        StoreError: there are other rows than the record says.
    """
    ids, labels, _ = answers.texts
    if len(ids) != (said := sum(part["sizes"]["test"] for part in parts.values())):
        raise StoreError(f"its predictions have {len(ids)} test texts, its record {said}")
    row = column = 0
    for task, part in parts.items():
        texts = slice(row, row := row + part["sizes"]["test"])
        own = slice(column, column := column + len(part["labels"]))
        yield replace(
            answers,
            texts=(tuple(range(len(ids[texts]))), labels[texts], name_labels({task: part["labels"]})),
            predicted=answers.predicted[:, texts, own],
            truth=answers.truth[texts, own],
        )


def _name_task(answers: Answers, task: str) -> Answers:
    """Return a task's own answers with labels as runs on several tasks have them."""
    ids, labels, classes = answers.texts
    named = dict(zip(classes, name_labels({task: classes}), strict=True))
    return replace(answers, texts=(ids, tuple(named[label] for label in labels), tuple(named.values())))


def _score(row: Row, answers: Answers) -> Scored:
    return Scored(
        row=row,
        texts=answers.texts,
        accuracy=score_answers(answers.is_right),
        f1_macro=measure(answers, tally.score_f1),
        probabilities={},
        calibration="",
        together=None,
    )
