"""The test scores of the chosen runs, from their predictions, and the intervals of these scores."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from bench.errors import StoreError
from bench.report.numbers.calibration import Estimate, Reliability, Run, calibrate, read_run
from bench.report.numbers.rows import Interval, Row, Together
from bench.report.numbers.statistics import (
    Score,
    Seeds,
    bound_difference,
    bound_share,
    find_margin,
    pool_seeds,
    resample,
    score_answers,
    score_resamples,
)
from bench.results import several, tally
from bench.results.confidence import Predicted, average
from bench.results.marks import Marks, find_separator, mark, read_marks
from bench.results.selection import read_number

Read = Callable[[str], pd.DataFrame]  # run_id -> its predictions; a StoreError if they cannot be read
FEWEST_SEEDS = 3  # of which a method's own spread is taken: Student's t of two is 4 times as wide as of three
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Scored:
    """One method's test scores, from what its chosen runs predicted."""

    row: Row
    texts: tuple[Any, ...]  # ids, true labels, all classes; equal for methods that can be compared
    accuracy: Score
    f1_macro: Score
    probabilities: Mapping[str, Score]  # by one of MEASURES; empty: unknown, as calibration says
    calibration: Reliability | str  # without intervals; or why it is unknown
    together: Together | None  # of several seeds

    @property
    def rows(self) -> int:
        """How many texts."""
        return len(self.accuracy.spread)


@dataclass(frozen=True)
class Answers:
    """What a method's chosen runs answered to the test texts."""

    texts: tuple[Any, ...]  # ids, true labels, all classes; equal for methods that can be compared
    predicted: npt.NDArray[np.bool_]  # whether a text got a label: (seeds, rows, labels)
    truth: Marks  # whether it has it: (rows, labels)
    separator: str | None  # as of marks.find_separator
    frames: tuple[pd.DataFrame, ...]  # all predictions of each seed's run

    @property
    def multi_label(self) -> bool:
        """Whether a text may have several labels."""
        return self.separator is not None

    @property
    def is_right(self) -> npt.NDArray[np.bool_]:
        """Whether a text got all its labels and no other. # (seeds, rows)"""
        return np.asarray((self.predicted == self.truth).all(axis=-1))


def read_answers(row: Row, read: Read) -> Answers:
    """Read what the method's chosen runs predicted.

    Raises:
        StoreError: their predictions cannot be read, are not of one test split, or are not those that were
            scored.
    """
    results = row.selection.results if row.selection else ()
    classes, separator = results[0].labels, find_separator(results[0].config)
    texts, predictions = dict[tuple[Any, ...], Marks](), []
    frames = tuple(read(result.run_id) for result in results)
    for result, frame in zip(results, frames, strict=True):
        test = frame.query("split == 'test'").sort_values("id", kind="stable")
        truth, predicted = (read_marks(test[name], classes, separator) for name in ("label", "prediction"))
        if truth is None or predicted is None:
            raise StoreError(f"run {result.run_id}: its predictions hold a label that its record does not")
        share = float((truth == predicted).all(axis=1).mean())
        recorded = read_number(result, "metrics.test.accuracy")
        if recorded is None or not abs(share - recorded) < _ROUNDING:
            raise StoreError(
                f"run {result.run_id}: its predictions have an accuracy of {share:.6g}, "
                f"its record says {recorded}"
            )
        texts[tuple(test["id"]), tuple(test["label"]), tuple(classes)] = truth
        predictions.append(predicted)
    if len(texts) > 1:
        raise StoreError("its seeds have other test texts")
    [(same, truth)] = texts.items()
    return Answers(same, np.stack(predictions), truth, separator, frames)


def _join_seeds(runs: Sequence[Run], accuracy: Score) -> Together | None:
    """Score the mean of the seeds' probabilities beside the seeds alone; None: they saw other texts.

    Of several labels each has a threshold that is chosen on the mean's probabilities of validation.
    """
    validations, tests = zip(*runs, strict=True)
    try:
        validation = average(validations)
        is_several = validation.labels.ndim > 1
        chosen = (
            several.choose_thresholds(validation.probabilities, validation.labels) if is_several else None
        )
        test = average(tests, chosen)
    except StoreError:
        return None
    rows, classes = test.probabilities.shape
    own = score_answers(test.right[None])
    counted = tally.count(*(mark(one, classes) for one in (test.labels, test.answers)))
    calibration = None
    if not is_several:
        plain, scores = calibrate([(validation, test)])
        calibration = _estimate(plain, {name: (score, ()) for name, score in scores.items()})
    return Together(
        seeds=len(runs),
        accuracy=own.mean,
        interval=_bound(own.mean, rows, None, (), "texts"),
        f1_macro=float(tally.score_f1(counted)),
        gain=bound_difference(own, replace(accuracy, seeds=()), rows=rows),
        calibration=calibration,
        several=_score_several(test, counted) if is_several else {},
    )


def _score_several(test: Predicted, counted: tally.Tally) -> dict[str, float]:
    """Compute MULTI_LABEL of answers that are labels by thresholds."""
    once = np.ones((1, len(test.ids)), dtype=np.float32)
    return {
        "f1_micro": float(tally.score_f1_micro(counted)),
        "f1_samples": float(several.score_each_text(test.labels, test.answers[None]).mean()),
        "mean_average_precision": float(
            several.score_precision(test.labels, test.probabilities[None], once).item()
        ),
    }


def score_method(row: Row, read: Read) -> Scored:
    """Score the method's chosen runs, from their predictions.

    Raises:
        StoreError: as read_answers.
    """
    answers = read_answers(row, read)
    accuracy = score_answers(answers.is_right)
    calibration: Reliability | str = "a text may have several labels, so none is the most probable one"
    runs, probabilities = list[Run](), dict[str, Score]()
    try:
        runs = [read_run(frame, answers.texts[2], answers.separator) for frame in answers.frames]
        if not answers.multi_label:
            calibration, probabilities = calibrate(runs)
    except StoreError as error:
        calibration = calibration if answers.multi_label else str(error)
    return Scored(
        row=row,
        texts=answers.texts,
        accuracy=accuracy,
        f1_macro=measure(answers, tally.score_f1),
        probabilities=probabilities,
        calibration=calibration,
        together=_join_seeds(runs, accuracy) if len(runs) > 1 and not row.folds else None,
    )


def measure(answers: Answers, score: Callable[[tally.Tally], npt.NDArray[np.float64]]) -> Score:
    """Measure a score by seed, on the texts and on resamples of them."""

    def measure_each(weights: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        counted = (tally.count(answers.truth, one, weights=weights) for one in answers.predicted)
        return np.stack([score(one) for one in counted])  # (seeds, samples)

    return measure_weighted(measure_each, rows=len(answers.truth))


def measure_weighted(
    measure_each: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float64]], *, rows: int
) -> Score:
    """Measure a score by seed, on the texts and on resamples of them.

    Args:
        measure_each: the scores of texts that count so often. # (samples, rows) -> (seeds, samples)
    """
    resampled = np.concatenate([measure_each(weights) for weights in resample(rows)], axis=1)
    whole = measure_each(np.ones((1, rows), dtype=np.float32))[:, 0]  # (seeds,)
    return score_resamples(whole, resampled, rows=rows)


def bound_rows(rows: Sequence[Row], scored: Sequence[Scored | None]) -> list[Row]:
    """Add the intervals to the rows of one table; ``scored`` is None where predictions cannot be read.

    Without predictions the interval of the accuracy is as wide as texts can make it, given the recorded
    accuracies of the seeds; macro F1 then has no interval.
    """
    accuracies = [
        one.accuracy.seeds if one else _read_seeds(row) for row, one in zip(rows, scored, strict=True)
    ]
    f1_macros = [one.f1_macro.seeds if one else () for one in scored]
    bounded = []
    for place, (row, one) in enumerate(zip(rows, scored, strict=True)):
        size, several = one.rows if one else row.task.test_size, len(row.run_ids) > 1
        interval = texts_interval = f1_interval = None
        if row.accuracy and size and 0 <= row.accuracy.mean <= 1:
            share, error = row.accuracy.mean, one.accuracy.error if one and several else None
            interval = _bound(share, size, error, *choose_seeds(place, rows, accuracies))
            texts_interval = _bound(share, size, error, (), "texts")
        unknown = row.unknown
        if one and isinstance(one.calibration, str):
            unknown = {**unknown, "calibration": one.calibration}
        if one:
            f1_macro, chosen = one.f1_macro, choose_seeds(place, rows, f1_macros)
            f1_interval = _bound(f1_macro.mean, one.rows, f1_macro.error, *chosen)
        bounded.append(
            replace(
                row,
                interval=interval,
                texts_interval=texts_interval,
                f1_interval=f1_interval,
                calibration=_bound_calibration(place, rows, scored),
                together=one.together if one else None,
                unknown=unknown,
            )
        )
    return bounded


def _bound_calibration(
    place: int, rows: Sequence[Row], scored: Sequence[Scored | None]
) -> Reliability | None:
    """Return what the probabilities of the row at this place are worth, with intervals."""
    one = scored[place]
    if one is None or isinstance(one.calibration, str):
        return None
    counted = {}
    for name, score in one.probabilities.items():
        spreads = [
            other.probabilities[name].seeds if other and other.probabilities else () for other in scored
        ]
        counted[name] = score, choose_seeds(place, rows, spreads)[0]
    return _estimate(one.calibration, counted)


def _estimate(calibration: Reliability, scores: Mapping[str, tuple[Score, tuple[Seeds, ...]]]) -> Reliability:
    """Add each measure with its interval, which counts these seeds."""
    estimates = {}
    for name, (score, seeds) in scores.items():
        margin = find_margin(score.error, seeds, rows=None)
        estimates[name] = Estimate(score.mean, max(0.0, score.mean - margin), score.mean + margin)
    return replace(calibration, estimates=estimates)


def _bound(share: float, rows: int, error: float | None, seeds: tuple[Seeds, ...], over: str) -> Interval:
    return Interval(*bound_share(share, rows=rows, texts=error, seeds=seeds), over=over)


def choose_seeds(
    place: int, rows: Sequence[Row], seeds: Sequence[tuple[Seeds, ...]]
) -> tuple[tuple[Seeds, ...], str]:
    """Return the seeds that the interval of the row at this place counts, and what it then covers."""
    count = len(rows[place].seeds)
    members = [(one, len(row.seeds)) for row, some in zip(rows, seeds, strict=True) for one in some]
    if count == 0:
        return (), "texts"
    if count >= FEWEST_SEEDS:
        return seeds[place], "seeds_and_texts"
    if sum(one.freedom for one, _ in members) < FEWEST_SEEDS - 1:
        return (), "texts_alone"
    return (pool_seeds(members, count=count),), "other_seeds_and_texts"


def _read_seeds(row: Row) -> tuple[Seeds, ...]:
    """Estimate the seeds' variance from their recorded accuracies; the share of chance in it is unknown."""
    if row.accuracy is None or row.accuracy.sd is None:
        return ()
    return (Seeds(row.accuracy.sd**2 / row.accuracy.n, 0.0, freedom=row.accuracy.n - 1),)
