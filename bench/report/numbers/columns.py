"""The scores that report.columns adds to the main table, with intervals where predictions can be read."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.config.schema import MULTI_LABEL, SINGLE_LABEL
from bench.errors import StoreError
from bench.report.numbers.rows import BoundedScore, Interval, Row
from bench.report.numbers.scores import Answers, Read, choose_seeds, measure, measure_weighted, read_answers
from bench.report.numbers.statistics import Score, bound_share, score_texts, summarise
from bench.results import several, tally
from bench.results.selection import read_number, read_value
from bench.results.tally import Tally

BY_LABEL = "f1_by_label"

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Share:
    """A score as the share that its interval is made of."""

    score: Score
    texts: float  # of how many it is a share; their number counts where no text varies
    read: Callable[[float], float]  # turns the share into the score again
    is_count: bool = False  # of one trained model it is a share of texts, as an accuracy is


def add_columns(rows: Sequence[Row], names: Sequence[str], read: Read) -> list[Row]:
    """Return the rows with further scores: those of ``names``, and under BY_LABEL the F1 of each label.

    They come from the predictions of the chosen runs, so that records from before a score was kept have it
    too, and where these cannot be read from the records, without an interval.
    """
    if not names:
        return list(rows)
    tables = groupby(rows, key=lambda row: (row.task, row.memory_kind))
    return [row for _, members in tables for row in _add_to_table(list(members), names, read)]


def list_scores(rows: Sequence[Row], names: Sequence[str]) -> list[str]:
    """List the further columns of a table; each label's F1 has one of its own, in the declared order."""
    found = [
        list(dict.fromkeys(key for row in rows for key in row.columns if key.partition(".")[0] == name))
        for name in names
    ]
    return [
        key for name, keys in zip(names, found, strict=True) for key in keys or [name] * (name != BY_LABEL)
    ]


def _add_to_table(rows: Sequence[Row], names: Sequence[str], read: Read) -> Iterator[Row]:
    shares = [dict(_share_scores(row, names, read)) for row in rows]
    for place, row in enumerate(rows):
        known = dict(_read_records(row, names))
        for key, share in shares[place].items():
            seeds = [one[key].score.seeds if key in one else () for one in shares]
            known[key] = _bound(share, *choose_seeds(place, rows, seeds))
        yield replace(row, columns=known)


def _bound(share: _Share, seeds: Any, over: str) -> BoundedScore:
    """Bound a score as an accuracy is bounded, over texts and seeds."""
    several = len(share.score.seeds) > 0
    error = share.score.error if several or not share.is_count else None
    ends = bound_share(share.score.mean, rows=share.texts, texts=error, seeds=seeds)
    low, high = map(share.read, ends)
    return BoundedScore(share.read(share.score.mean), Interval(low, high, over))


def _share_scores(row: Row, names: Sequence[str], read: Read) -> Iterator[tuple[str, _Share]]:
    """Yield each score that follows from the answers to the test texts, by its column."""
    if row.selection is None or not {*names} & {BY_LABEL, *tally.SCORES, *MULTI_LABEL}:
        return
    try:
        answers = read_answers(row, read)
    except StoreError:  # the comparisons say that they cannot be read
        return
    counts = answers.truth.sum(axis=0)
    texts = np.count_nonzero(counts) ** 2 / (1 / counts[counts > 0]).sum()  # as if labels were as frequent
    names = [name for name in names if name not in (SINGLE_LABEL if answers.multi_label else MULTI_LABEL)]
    if "f1_micro" in names:
        yield "f1_micro", _Share(measure(answers, tally.score_f1_micro), len(answers.truth), float)
    if "f1_samples" in names:
        of_texts = several.score_each_text(answers.truth, answers.predicted)
        yield "f1_samples", _Share(score_texts(of_texts), len(answers.truth), float)
    if "mean_average_precision" in names and (likely := _read_probabilities(answers)) is not None:
        of_weights = partial(several.score_precision, answers.truth, likely)
        score = measure_weighted(of_weights, rows=len(answers.truth))
        yield "mean_average_precision", _Share(score, texts, float)
    if "balanced_accuracy" in names:
        yield "balanced_accuracy", _Share(measure(answers, tally.score_balanced_accuracy), texts, float)
    if "mcc" in names:
        score = measure(answers, lambda one: (1 + tally.score_mcc(one)) / 2)  # from 0 to 1
        yield "mcc", _Share(score, texts, lambda share: 2 * share - 1)
    if BY_LABEL in names:
        for number, label in enumerate(answers.texts[2]):
            yield f"{BY_LABEL}.{label}", _share_label(answers, number)


def _read_probabilities(answers: Answers) -> Floats | None:
    """Return each label's probability by seed, text and label, if predictions have them all."""
    names = [f"probability_{label}" for label in answers.texts[2]]
    if any(name not in frame for frame in answers.frames for name in names):
        return None
    tests = (frame.query("split == 'test'").sort_values("id", kind="stable") for frame in answers.frames)
    return np.stack([test[names].to_numpy(dtype=np.float64) for test in tests])


def _share_label(answers: Answers, label: int) -> _Share:
    """Return the share of both among the texts that have the label or got it; F1 rises with it."""

    def count(of: Tally) -> Floats:
        return np.asarray((of.true + of.answered - of.right)[..., label])

    def score(of: Tally) -> Floats:
        either = count(of)
        return np.divide(of.right[..., label], either, out=np.zeros_like(either), where=either > 0)

    wholes = [tally.count(answers.truth, one) for one in answers.predicted]
    texts = max(1.0, float(np.mean([count(one) for one in wholes])))
    return _Share(measure(answers, score), texts, lambda share: 2 * share / (1 + share), is_count=True)


def _read_records(row: Row, names: Sequence[str]) -> Iterator[tuple[str, BoundedScore]]:
    """Yield the means of scores that every chosen run's record has."""
    results = row.selection.results if row.selection else ()
    for name in names:
        if name == BY_LABEL:
            found = [read_value(one, f"metrics.test.{BY_LABEL}") or {} for one in results]
            values = {
                f"{BY_LABEL}.{label}": [(one.get(label) or {}).get("f1") for one in found]
                for label in (results[0].labels if results else ())
            }
        else:
            values = {name: [read_number(one, f"metrics.test.{name}") for one in results]}
        for key, of_runs in values.items():
            known = [value for value in of_runs if value is not None]
            if known and len(known) == len(of_runs):
                yield key, BoundedScore(summarise(known).mean, None)
