"""Which methods differ, from the predictions of their chosen runs: paired, as all saw the same texts."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from bench.errors import StoreError
from bench.report.rows import Row, Task
from bench.report.statistics import (
    LEVEL,
    Difference,
    Floats,
    Integers,
    adjust_holm,
    bound_difference,
    compare_seeds,
    find_detectable,
    flip_signs,
    mcnemar,
    resample,
    score_f1,
)
from bench.results.selection import read_number, read_seed

Read = Callable[[str], pd.DataFrame]  # run_id -> its predictions; a StoreError if they cannot be read
FEWEST_DISCORDANT = 6  # with five, McNemar's exact p is 0.06 at the least: no test can find a difference
_ROUNDING = 1e-9
VERDICTS = ("difference", "seeds", "one_seed", "none")


@dataclass(frozen=True)
class Comparison:
    """Two methods on the same texts; differences are ``one`` less ``other``, and of means over seeds."""

    one: Row
    other: Row
    rows: int  # texts of the test split
    accuracy: Difference  # the interval is over texts, for these trained models
    f1_macro: Difference
    told_apart: int  # texts that a larger share of one's seeds has right than of the other's, or a smaller
    discordant: float  # mean square of a text's difference; for one seed each, the share of texts told apart
    mcnemar: Mapping[int | None, float]  # seed that both have -> exact p; None: neither has randomness
    p_texts: float  # exact: would other texts say the same of these models?
    p_seeds: float | None  # would other seeds? None: one has a single seed, or neither has randomness
    adjusted_p_texts: float  # Holm, over all comparisons of the report
    adjusted_p_seeds: float | None
    detectable: float | None  # in accuracy, with power 80 %; None: none could be
    verdict: str  # one of VERDICTS


@dataclass(frozen=True)
class LeftOut:
    """A method that could not be compared, and why."""

    row: Row
    reason: str


@dataclass(frozen=True)
class _Predicted:
    """What one method's chosen runs said of the test texts, by id."""

    row: Row
    seeds: tuple[int | None, ...]
    texts: tuple[
        Any, ...
    ]  # what they are: ids, true labels, all classes; equal for methods that can be compared
    labels: Integers  # (rows,)
    predictions: Integers  # (seeds, rows)
    classes: int

    @property
    def right(self) -> Integers:
        """1 where a seed's prediction is the label."""
        right: Integers = (self.predictions == self.labels).astype(np.int64)  # (seeds, rows)
        return right


def compare_methods(rows: Sequence[Row], read: Read) -> tuple[list[Comparison], list[LeftOut]]:
    """Every two methods of a table, and each against the best baseline, in the table's order.

    Methods of different tasks saw other texts, or started from other weights, and are never compared. The
    best baseline is so by validation. p values are adjusted over all comparisons that come out.
    """
    found: list[Comparison] = []
    left_out: list[LeftOut] = []
    tables: dict[tuple[Task, str | None], list[Row]] = defaultdict(list)
    for row in rows:
        if row.selection and not row.has_random_weights:  # whose answers say nothing
            tables[row.task, row.memory_kind].append(row)
    for members in map(_keep_best_baseline, tables.values()):
        predicted = []
        for row in members if len(members) > 1 else ():
            try:
                predicted.append(_read_method(row, read))
            except StoreError as error:
                left_out.append(LeftOut(row, str(error)))
        same, other = _split_by_texts(predicted)
        left_out += [LeftOut(one.row, "its test texts are not those of the other methods") for one in other]
        found += _compare_all(same)
    return _adjust(found), left_out


def _keep_best_baseline(rows: Sequence[Row]) -> list[Row]:
    baselines = [row for row in rows if row.baseline]
    best = max(baselines, key=lambda row: row.validation or 0.0, default=None)
    return [row for row in rows if not row.baseline or row is best]


def _read_method(row: Row, read: Read) -> _Predicted:
    """The test predictions of the method's chosen runs.

    Raises:
        StoreError: they cannot be read, are not of one test split, or are not those that were scored.
    """
    results = row.selection.results if row.selection else ()
    classes = {label: index for index, label in enumerate(results[0].labels)}
    texts, predictions = set(), []
    for result in results:
        test = read(result.run_id).query("split == 'test'").sort_values("id", kind="stable")
        labels, predicted = (test[name].map(classes) for name in ("label", "prediction"))
        if labels.isna().any() or predicted.isna().any():
            raise StoreError(f"run {result.run_id}: its predictions hold a label that its record does not")
        share, recorded = float((labels == predicted).mean()), read_number(result, "metrics.test.accuracy")
        if recorded is None or not abs(share - recorded) < _ROUNDING:
            raise StoreError(
                f"run {result.run_id}: its predictions have an accuracy of {share:.6g}, "
                f"its record says {recorded}"
            )
        texts.add((tuple(test["id"]), tuple(labels), tuple(classes)))
        predictions.append(predicted.to_numpy(dtype=np.int64))
    if len(texts) > 1:
        raise StoreError("its seeds have other test texts")
    same = texts.pop()
    return _Predicted(
        row=row,
        seeds=tuple(read_seed(one) for one in results),
        texts=same,
        labels=np.array(same[1], dtype=np.int64),
        predictions=np.stack(predictions),
        classes=len(classes),
    )


def _split_by_texts(predicted: Sequence[_Predicted]) -> tuple[list[_Predicted], list[_Predicted]]:
    """Those of the test texts that the most methods have, and the others."""
    counts = Counter(one.texts for one in predicted)
    usual = max(counts, key=lambda texts: counts[texts], default=None)
    return [one for one in predicted if one.texts == usual], [one for one in predicted if one.texts != usual]


def _compare_all(predicted: Sequence[_Predicted]) -> list[Comparison]:
    """All pairs, not adjusted yet; all methods are scored on the same resampled texts."""
    if len(predicted) < 2:
        return []
    rows = len(predicted[0].labels)
    samples = [[_score(one, weights) for one in predicted] for weights in resample(rows)]
    resampled = [np.concatenate(scores) for scores in zip(*samples, strict=True)]  # (samples,) of each method
    whole = [_score(one, np.ones((1, rows), dtype=np.float32))[0] for one in predicted]
    found = []
    for other, one in combinations(range(len(predicted)), 2):  # the later of the table less the earlier
        f1_error = float((resampled[one] - resampled[other]).std(ddof=1)) * math.sqrt(rows / max(1, rows - 1))
        f1_macro = float(whole[one] - whole[other])
        found.append(_compare(predicted[one], predicted[other], f1_macro=f1_macro, f1_error=f1_error))
    return found


def _score(one: _Predicted, weights: npt.NDArray[np.float32]) -> Floats:
    """The method's macro F1, mean over its seeds, for each set of weights of the texts. # (samples, rows)"""
    scores = [score_f1(weights, one.labels, predicted, classes=one.classes) for predicted in one.predictions]
    mean: Floats = np.mean(scores, axis=0)  # (samples,)
    return mean


def _compare(one: _Predicted, other: _Predicted, *, f1_macro: float, f1_error: float) -> Comparison:
    rows = len(one.labels)
    # by how many of seeds x seeds pairs one is right more often, so that the numbers are whole
    whole = one.right.sum(axis=0) * len(other.seeds) - other.right.sum(axis=0) * len(one.seeds)  # (rows,)
    shares = whole / (len(one.seeds) * len(other.seeds))
    told_apart = int(np.count_nonzero(whole))
    accuracy = float(shares.mean())
    differences = Difference(accuracy, None, None), Difference(f1_macro, None, None)
    if told_apart >= FEWEST_DISCORDANT:
        # what the bootstrap's standard error of a mean tends to, without drawing
        error = float(shares.std(ddof=1)) / math.sqrt(rows)
        differences = (
            bound_difference(accuracy, error=error, rows=rows),
            bound_difference(f1_macro, error=f1_error, rows=rows),
        )
    p_texts = flip_signs(whole)
    p_seeds = compare_seeds(_list_accuracies(one), _list_accuracies(other))
    return Comparison(
        one=one.row,
        other=other.row,
        rows=rows,
        accuracy=differences[0],
        f1_macro=differences[1],
        told_apart=told_apart,
        discordant=float(np.square(shares).mean()),
        mcnemar=_test_seed_pairs(one, other),
        p_texts=p_texts,
        p_seeds=p_seeds,
        adjusted_p_texts=p_texts,
        adjusted_p_seeds=p_seeds,
        detectable=None,
        verdict="none",
    )


def _list_accuracies(one: _Predicted) -> list[float] | float:
    """Of each seed; one number for a method without randomness."""
    shares: list[float] = one.right.mean(axis=1).tolist()
    return shares if one.row.seeds else shares[0]


def _test_seed_pairs(one: _Predicted, other: _Predicted) -> dict[int | None, float]:
    """McNemar's p for each seed that both methods have; a method without randomness is the same at each."""
    right = [dict(zip(side.seeds, side.right, strict=True)) for side in (one, other)]
    seeds = [set(side) - {None} for side in right]
    common = seeds[0] & seeds[1] if all(seeds) else (seeds[0] | seeds[1] or {None})
    p_values = {}
    for seed in sorted(common, key=lambda seed: -1 if seed is None else seed):
        first, second = (side[seed] if seed in side else side[None] for side in right)
        p_values[seed] = mcnemar(int(np.sum(first > second)), int(np.sum(first < second)))
    return p_values


def _adjust(found: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons with what depends on how many there are: adjusted p values, and so the verdicts."""
    texts = adjust_holm([one.p_texts for one in found])
    tested = [one.p_seeds for one in found if one.p_seeds is not None]
    seeds = iter(adjust_holm(tested))
    adjusted = []
    for one, p_texts in zip(found, texts, strict=True):
        p_seeds = None if one.p_seeds is None else next(seeds)
        level = (1 - LEVEL) / len(found)
        adjusted.append(
            replace(
                one,
                adjusted_p_texts=p_texts,
                adjusted_p_seeds=p_seeds,
                detectable=find_detectable(rows=one.rows, discordant=one.discordant, level=level),
                verdict=_judge(p_texts, p_seeds),
            )
        )
    return adjusted


def _judge(p_texts: float, p_seeds: float | None) -> str:
    """One of VERDICTS: a difference must hold for other texts and for other seeds."""
    if p_texts >= 1 - LEVEL:
        return "none"
    if p_seeds is None:
        return "one_seed"
    return "difference" if p_seeds < 1 - LEVEL else "seeds"
