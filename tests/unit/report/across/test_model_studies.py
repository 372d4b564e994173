"""Simulated studies of several base models: the leader, chosen on validation, is compared with all others.

The leader's seed was lucky more often than not, on validation and on test alike: the correction has to hold
although the same seeds choose it and score it.
"""

import math
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pytest
from scipy.special import ndtri

from bench.report.numbers.statistics import Floats, Score, adjust_holm, score_answers, subtract
from benchmarks.studies import ACCURACY, DELTA, PARTS, Setting, _test

VALIDATION = 400  # texts
Kind = tuple[int, int, Setting]  # models, methods of each; the last of the last model is the worse one
Case = tuple[float, float, list[float], list[float]]  # a difference and its variances, over texts and seeds


def draw_rows(setting: Setting, random: np.random.Generator) -> tuple[Floats, list[Score], Floats]:
    """One study: each row's validation score at the first seed, its test score, and the truth."""
    rows, seeds = len(setting.seeds), setting.seeds[0]
    truth = np.full(rows, ACCURACY)
    truth[-1] -= setting.worse
    shifts = random.standard_normal((rows, seeds)).clip(-3, 3) * np.array(setting.deviations)[:, None]
    accuracies = truth[:, None] + shifts
    common, own, single = (math.sqrt(part) for part in PARTS)

    def answer(texts: int, shares: Floats) -> npt.NDArray[np.bool_]:
        skill = common * random.standard_normal(texts) + own * random.standard_normal((rows, 1, texts))
        skill = skill + single * random.standard_normal((rows, shares.shape[1], texts))
        right: npt.NDArray[np.bool_] = skill < ndtri(shares)[..., None]
        return right

    validation = answer(VALIDATION, accuracies[:, :1]).mean(axis=(1, 2))
    scores = [score_answers(right) for right in answer(setting.texts, accuracies)]
    return validation, scores, truth if seeds > 1 else accuracies[:, 0]


def count_wrong(kind: Kind, studies: int) -> float:
    """The share of studies whose report has any wrong verdict, within a model or across."""
    models, methods, setting = kind
    random, several = np.random.default_rng(4), setting.seeds[0] > 1
    numbers, truths, counts = (
        list[tuple[float, float, list[float], list[float]]](),
        list[float](),
        list[int](),
    )
    for _ in range(studies):
        validation, scores, truth = draw_rows(setting, random)
        leader = int(validation.argmax())
        tables = [range(first, first + methods) for first in range(0, models * methods, methods)]
        pairs = [pair for table in tables for pair in combinations(table, 2)]
        pairs += [(row, leader) for table in tables if leader not in table for row in table]
        for one, other in pairs:
            estimate, texts, seeds = subtract(scores[one], scores[other])
            numbers.append((estimate, texts, [s.error for s in seeds], [s.residual for s in seeds]))
            truths.append(truth[one] - truth[other])
        counts.append(len(pairs))
    estimates, texts, errors, residuals = (np.array(part) for part in zip(*numbers, strict=True))
    freedom = np.full((1, errors.shape[1]), setting.seeds[0] - 1.0)
    tested = _test(estimates, texts, (errors, residuals, freedom), setting.texts)
    true, ends = np.round(truths, 12), np.cumsum(counts)
    wrong = 0
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        differ, equal = (np.array(adjust_holm(tested[start:end].tolist())) < 0.05).T
        false = differ & (np.sign(estimates[start:end]) != np.sign(true[start:end]))
        wrong += bool((false | (equal & several & (np.abs(true[start:end]) >= DELTA))).any())
    return wrong / studies


def make_kind(
    models: int, methods: int, seeds: int, deviation: float, texts: int, worse: float = 0.0
) -> Kind:
    rows = models * methods
    return models, methods, Setting(texts, [seeds] * rows, [deviation] * rows, worse=worse)


@pytest.mark.parametrize("kind", [make_kind(2, 3, 3, 0.01, 400), make_kind(3, 2, 10, 0.04, 400)])
def test_few_reports_on_several_models_say_anything_wrong(kind: Kind) -> None:
    assert count_wrong(kind, 150) <= 0.09  # 5 %, and two standard errors


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [
        make_kind(2, 4, 3, 0.01, 400),
        make_kind(2, 4, 10, 0.04, 400),
        make_kind(6, 4, 3, 0.04, 400),
        make_kind(6, 4, 10, 0.04, 400),
        make_kind(12, 2, 20, 0.01, 400),
        make_kind(6, 4, 1, 0.0, 400),
        make_kind(2, 4, 3, 0.01, 2000, worse=0.02),
    ],
)
def test_in_two_thousand_studies_of_a_kind_few_reports_say_anything_wrong(kind: Kind) -> None:
    assert count_wrong(kind, 2000) <= 0.06  # 5 %, and two standard errors
