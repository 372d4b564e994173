"""The answers of each method's best run: confusion, F1 of each label, texts on which two methods differ."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from bench.config.overrides import load_file
from bench.config.schema import DataConfig
from bench.config.tasks import read_tasks
from bench.data import dataset
from bench.errors import BenchError, StoreError
from bench.report.numbers.rows import Row
from bench.results import tally
from bench.results.marks import find_separator, read_marks, split
from bench.results.selection import read_number, read_value
from bench.results.store import Result

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class MethodAnswers:
    """One method's answers to the test texts."""

    row: Row
    run_id: str
    labels: tuple[str, ...]  # in the declared order
    test: pd.DataFrame  # label and prediction, by id
    separator: str | None = None  # between the labels of a text that has several; None: each has one


@dataclass(frozen=True)
class OnlyRight:
    """The test texts that one method has right and another wrong."""

    one: MethodAnswers
    other: MethodAnswers
    ids: tuple[Any, ...]


def choose_run(row: Row) -> Result | None:
    """Choose the run that is best on validation; of equals, that of the smallest seed."""
    if row.selection is None:
        return None
    path = f"metrics.validation.{row.selection.select_by}"
    return max(row.selection.results, key=lambda result: read_number(result, path) or 0.0)


def read_answers(
    rows: Sequence[Row], read: Callable[[str], pd.DataFrame]
) -> tuple[list[MethodAnswers], list[tuple[Row, str]]]:
    """Read the answers of each method with a success, and why those of others cannot be read."""
    found, unread = [], []
    for row in rows:
        run = choose_run(row)
        if run is None or row.has_random_weights:  # whose answers say nothing
            continue
        try:
            test = read(run.run_id).query("split == 'test'").set_index("id").sort_index()
            separator = find_separator(run.config)
            written = set(test["label"]) | set(test["prediction"])
            labels = {label for one in written for label in split(one, separator)}
            if unknown := sorted(labels - set(run.labels)):
                raise StoreError(f"runs/{run.run_id}/predictions.csv: its record has no label {unknown[0]!r}")
        except StoreError as error:
            unread.append((row, str(error)))
        else:
            answers = test[["label", "prediction"]]
            found.append(MethodAnswers(row, run.run_id, tuple(run.labels), answers, separator))
    return found, unread


def count_confusion(answers: MethodAnswers) -> Counts:
    """Count the test texts of each label, of which a text has one, by prediction. # (labels, labels)"""
    places = {label: place for place, label in enumerate(answers.labels)}
    counts = np.zeros((len(places), len(places)), dtype=np.int64)
    pairs = (answers.test[name].map(places).to_numpy(dtype=np.int64) for name in ("label", "prediction"))
    np.add.at(counts, tuple(pairs), 1)
    return counts


def score_labels(answers: MethodAnswers) -> list[float | None]:
    """Return F1 of each label; None for a label that is neither true nor predicted."""
    marks = (
        read_marks(answers.test[name], answers.labels, answers.separator) for name in ("label", "prediction")
    )
    truth, predicted = (np.zeros((0, len(answers.labels)), bool) if one is None else one for one in marks)
    counted = tally.count(truth, predicted)
    occurs = counted.true + counted.answered > 0
    scores = tally.score_labels(counted)
    return [float(score) if known else None for score, known in zip(scores, occurs, strict=True)]


def compare_answers(method_answers: MethodAnswers, other: MethodAnswers) -> OnlyRight | None:
    """Return what one method has right and the other wrong, or None if they answered other texts."""
    if not method_answers.test["label"].equals(other.test["label"]):
        return None
    right = [side.test["label"] == side.test["prediction"] for side in (method_answers, other)]
    return OnlyRight(method_answers, other, tuple(method_answers.test.index[right[0] & ~right[1]].tolist()))


def read_texts(answers: MethodAnswers) -> Mapping[Any, str] | str:
    """Read the test texts again from where the run had them, by id, or say why not.

    Nothing is fetched. The data's fingerprint tells whether these are the texts that the run saw.
    """
    run = choose_run(answers.row)
    values = read_value(run, "config.data") if run else None
    newer = load_file("data", "files")  # has settings that earlier records do not
    del newer["source"]
    try:
        config = DataConfig(**{**newer, **values}) if isinstance(values, dict) else None
    except TypeError:
        config = None
    if config is None:
        return "the record does not say where they come from"
    try:
        if "hub" in {config.source, *(one.source for one in read_tasks(config).values())}:
            return "they are on a hub, and a report fetches nothing"
        if dataset.fingerprint(config) != answers.row.task.fingerprint:
            return "the texts there are others by now"
        test = dataset.load(config).splits["test"]
    except (BenchError, TypeError, ValueError, KeyError, OSError) as error:
        return str(error)
    return dict(zip(test["id"].tolist(), test["text"].tolist(), strict=True))
