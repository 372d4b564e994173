"""Intervals of scores, and tests of the difference of two methods; pure: arrays in, numbers out.

A score comes from a few seeds on some texts; other seeds and other texts would give another score. Every
interval and every test counts both. Everything is a closed form except the spread of macro F1, which is
resampled from a fixed seed: the same input gives the same bytes in every report.
"""

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import gammaincinv, ndtr, ndtri, stdtrit

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

LEVEL = 0.95
_LEAST_P = 1e-12  # a smaller p says no more
_NODES = 24  # of the integral over one method's error
_HALVINGS = 40  # of the interval that a p value lies in
_RESAMPLES = 1000  # a standard error from so many is 2 % exact
_LARGEST_CHUNK = 4_000_000  # weights in memory at once


@dataclass(frozen=True)
class Summary:
    """The mean of one number over seeds, and its spread; one seed shows no spread."""

    n: int
    mean: float
    sd: float | None  # of the sample, n - 1 in the denominator; None for n = 1


@dataclass(frozen=True)
class Seeds:
    """The error of a method's mean over its seeds: variances of the mean, as other seeds may be drawn."""

    error: float  # the variance between the scores of the seeds, over their number
    residual: float  # the part of it that is chance on these texts, and less on more of them
    freedom: float  # degrees of freedom of the error


@dataclass(frozen=True)
class Score:
    """A method's score on the texts, and how far other texts or other seeds would change it."""

    mean: float  # over the seeds
    spread: Floats  # of each text or each resample of them; what is paired in it cancels in a difference
    scale: float  # the mean's variance over texts is that of the spread, times this
    seeds: tuple[Seeds, ...]  # empty: one trained model alone

    @property
    def error(self) -> float:
        """The variance of the mean over texts, for these trained models."""
        return _vary(self.spread) * self.scale


@dataclass(frozen=True)
class Difference:
    """One method's score less another's on the same texts, and its 95 % interval over texts and seeds."""

    estimate: float
    low: float | None  # None: too few texts tell the two apart
    high: float | None


_find_nodes = cache(np.polynomial.legendre.leggauss)  # of a Gauss-Legendre quadrature


def summarise(values: Sequence[float]) -> Summary:
    """Return mean and sample standard deviation; sums are exact, so that the order cannot show.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("values=[]: a mean needs at least one value")
    n = len(values)
    return Summary(n, statistics.fmean(values), sd=statistics.stdev(values) if n > 1 else None)


def score_answers(right: npt.NDArray[np.bool_]) -> Score:
    """Score the accuracy: the share of the seeds' answers that are right.

    Args:
        right: whether a seed's answer to a text is right. # (seeds, rows)
    """
    scores = right.mean(axis=1)
    return _score_texts(right, scores * (1 - scores) / (right.shape[1] - 1))


def score_texts(values: Floats) -> Score:
    """Score the mean of a number that each seed has of each text. # values: (seeds, rows)"""
    return _score_texts(values, values.var(axis=1, ddof=1) / values.shape[1])


def _score_texts(values: npt.NDArray[Any], errors: Floats) -> Score:
    """Score the mean over seeds and texts; ``errors``: the variance of each seed's. # (seeds,)"""
    rows, shares, scores = values.shape[1], values.mean(axis=0), values.mean(axis=1)
    seeds = measure_seeds(scores, errors, error=_vary(shares) / rows)
    return Score(float(scores.mean()), shares, 1 / rows, seeds)


def score_resamples(scores: Floats, resampled: Floats, *, rows: int) -> Score:
    """Build any other score from its values on resampled texts.

    Args:
        scores: of each seed. # (seeds,)
        resampled: of each seed on each resample of the texts. # (seeds, samples)

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 6.
    """
    scale, spread = rows / max(1, rows - 1), resampled.mean(axis=0)
    errors = resampled.var(axis=1, ddof=1) * scale
    return Score(
        float(scores.mean()), spread, scale, measure_seeds(scores, errors, error=_vary(spread) * scale)
    )


def measure_seeds(scores: Floats, errors: Floats, *, error: float) -> tuple[Seeds, ...]:
    """Return what the seeds add to the error of their mean; nothing for one seed.

    The scores of the seeds differ by the effect of the seed and by chance on these texts. The variance of one
    seed's score over texts exceeds that of the mean by this chance, the residual.

    Args:
        scores: of each seed. # (seeds,)
        errors: variance, over texts, of each seed's score. # (seeds,)
        error: variance, over texts, of their mean.

    Source: the two-way crossed design without replication; Searle, Casella and McCulloch, Variance Components
    (1992), chapter 4.
    """
    count = len(scores)
    if count < 2:
        return ()
    residual = max(0.0, float(errors.mean()) - error) / (count - 1)
    return (Seeds(_vary(scores) / count, residual, freedom=count - 1),)


def pool_seeds(members: Sequence[tuple[Seeds, int]], *, count: int) -> Seeds:
    """Return what ``count`` seeds add to the error of their mean, if they vary as those of other methods do.

    Args:
        members: the seeds of each method, and how many they are.
    """
    freedom = sum(one.freedom for one, _ in members)
    error, residual = (
        sum(getattr(one, name) * seeds * one.freedom for one, seeds in members) / freedom / count
        for name in ("error", "residual")
    )
    return Seeds(error, residual, freedom)


def subtract(score: Score, other: Score) -> tuple[float, float, tuple[Seeds, ...]]:
    """Return the difference of two scores on the same texts, its variance over texts, and both seeds."""
    return (
        score.mean - other.mean,
        _vary(score.spread - other.spread) * score.scale,
        (*score.seeds, *other.seeds),
    )


def _vary(values: Floats) -> float:
    return float(values.var(ddof=1)) if len(values) > 1 else 0.0


def find_margin(texts: float, seeds: Sequence[Seeds], *, rows: int | None, level: float = LEVEL) -> float:
    """Return half the width of the interval for a mean, or a difference of two, over all seeds and texts.

    The squared margin is the sum over both sources: z^2 times the variance over texts, and t^2 times the
    variance over seeds, which are few. Both variances contain the residual, so half of it is subtracted from
    each. The margin is at least that of texts alone. With two methods, the degrees of freedom of each are
    multiplied by the number of methods that contribute, from 1 to 2: (w1 + w2)^2 / (w1^2 + w2^2) with
    w = error / freedom.

    One t for the sum, with Satterthwaite's degrees of freedom, is too narrow: if three seeds agree by chance,
    it treats their variance as small and well known.

    Args:
        texts: variance over texts of the mean over seeds, or of the difference.
        seeds: of each method that has several; none for one trained model.
        rows: how many texts, for Student's t; None: the normal quantile.

    Source: quantiles weighted by the variances, Cochran and Cox, Experimental Designs (1957), section 4.14;
    that it holds here is by simulation, docs/statistics.md.
    """
    return float(find_margins((1 - level) / 2, texts, *stack_seeds(seeds), rows=rows)[0])


def stack_seeds(seeds: Sequence[Seeds]) -> tuple[Floats, Floats, Floats]:
    """Return the errors, residuals and degrees of freedom of one case. # (1, methods) each"""
    numbers = [[one.error, one.residual, one.freedom] for one in seeds]
    errors, residuals, freedom = np.array(numbers, dtype=np.float64).reshape(-1, 3).T[:, None, :]
    return errors, residuals, freedom


def find_margins(
    tail: float | Floats,
    texts: float | Floats,
    errors: Floats,
    residuals: Floats,
    freedom: Floats,
    *,
    rows: float | None,
) -> Floats:
    """Return find_margin's margin for each of many cases.

    Args:
        tail: chance beyond the margin, on one side. # (cases,) or one for all
        texts: variance over texts. # (cases,) or one for all
        errors, residuals, freedom: of each method that has several seeds. # (cases or 1, methods)

    Returns:
        # (cases,)
    """
    halves, weights = residuals / 2, errors / freedom
    squares = np.square(weights).sum(axis=-1)
    counting = np.divide(weights.sum(axis=-1) ** 2, squares, out=np.ones_like(squares), where=squares > 0)
    student = stdtrit(freedom * counting[:, None], np.asarray(tail)[..., None])  # (cases, methods)
    normal = ndtri(tail) if rows is None else stdtrit(rows - 1, tail)
    over_seeds = (np.square(student) * np.maximum(errors - halves, 0)).sum(axis=-1)
    over_both = normal**2 * (texts - halves.sum(axis=-1)) + over_seeds
    margins: Floats = np.sqrt(np.maximum(over_both, normal**2 * texts))
    return margins


def find_p(estimate: float, texts: float, seeds: Sequence[Seeds], *, rows: int) -> float:
    """Return the two-sided p of no difference: at 1 - p the interval of find_margin begins at 0."""
    return float(find_p_values(np.array([estimate]), np.array([texts]), *stack_seeds(seeds), rows=rows)[0])


def find_p_values(
    estimates: Floats, texts: Floats, errors: Floats, residuals: Floats, freedom: Floats, *, rows: int
) -> Floats:
    """Return find_p of each of many cases; the arguments are those of find_margins. # (cases,)"""
    low, high = np.full_like(estimates, math.log(_LEAST_P)), np.zeros_like(estimates)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        margins = find_margins(np.exp(middle) / 2, texts, errors, residuals, freedom, rows=rows)
        excludes_zero = margins < np.abs(estimates)
        low, high = np.where(excludes_zero, low, middle), np.where(excludes_zero, middle, high)
    p_values: Floats = np.exp(high)
    return p_values


def bisect(holds: Callable[[float], bool], low: float, high: float, *, halvings: int = 40) -> float:
    """Return the least value for which the statement holds, which then holds for all above.

    Not scipy.optimize, which takes longer to import than a report to write.
    """
    for _ in range(halvings):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def bound_difference(score: Score, other: Score, *, rows: int) -> Difference:
    """Return the difference with its interval, within -1 to 1."""
    estimate, texts, seeds = subtract(score, other)
    margin = find_margin(texts, seeds, rows=rows)
    return Difference(estimate, max(-1.0, estimate - margin), min(1.0, estimate + margin))


def bound_share(
    share: float, *, rows: float, texts: float | None = None, seeds: Sequence[Seeds] = ()
) -> tuple[float, float]:
    """Return the interval for the share of all texts that all seeds would have right, within 0 to 1.

    Wilson's interval, with margin^2 / (share (1 - share)) in place of z^2 / rows. For one trained model the
    two are equal; they are also taken as equal if all answers are right, or all are wrong, as nothing varies.
    scipy's Wilson interval takes whole counts and no margin.

    Args:
        texts: variance of the share over texts; None: that of one trained model, the most that it can be.

    Source: Wilson, "Probable inference", JASA 22 (1927); its coverage: Brown, Cai and DasGupta (2001).
    """
    spread = share * (1 - share)
    margin = find_margin(spread / rows if texts is None else texts, seeds, rows=None)
    square = margin**2 / spread if margin > 0 < spread else float(ndtri((1 - LEVEL) / 2)) ** 2 / rows
    centre = (share + square / 2) / (1 + square)
    half = math.sqrt(square * spread + square**2 / 4) / (1 + square)
    return max(0.0, centre - half), min(1.0, centre + half)


def adjust_holm(p_values: Sequence[Sequence[float]]) -> list[list[float]]:
    """Return p values that hold for all tests of a report at once, in the order given.

    Each comparison has one or several hypotheses of which at most one is true, such as no difference and one
    of delta or more. So at most as many are true as there are comparisons with one that is not yet rejected,
    and by that the next p is multiplied.

    scipy has no such correction.

    Source: Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statist. 6 (1979);
    Shaffer, "Modified sequentially rejective multiple test procedures", JASA 81 (1986), for several of them.
    """
    adjusted, left = [[1.0] * len(same) for same in p_values], [len(same) for same in p_values]
    ordered = sorted(
        (p_value, pair, place) for pair, same in enumerate(p_values) for place, p_value in enumerate(same)
    )
    highest, still_open = 0.0, len(p_values)
    for p_value, pair, place in ordered:
        highest = max(highest, min(1.0, still_open * p_value))
        adjusted[pair][place] = highest
        left[pair] -= 1
        still_open -= left[pair] == 0
    return adjusted


def find_detectable(
    texts: float, seeds: Sequence[Seeds], *, rows: int, level: float, power: float = 0.8
) -> float | None:
    """Return the smallest true difference that find_p puts below 1 - level with that power.

    The estimate is normal around the true difference, and the error that a method's seeds show is the true
    error times chi squared over its degrees of freedom; the power is the mean over these errors. Estimated
    variances are taken as true. None: nothing varies, or even a difference of 1 has less power.
    """
    variance = texts + sum(max(0.0, seed.error - seed.residual) for seed in seeds)
    if not variance:
        return None
    errors, weights = spread_errors(seeds)
    _, residuals, freedom = stack_seeds(seeds)
    margins = find_margins((1 - level) / 2, texts, errors, residuals, freedom, rows=rows)  # (cases,)

    def detect(difference: float) -> float:
        ends = (difference - margins) / math.sqrt(variance), (-difference - margins) / math.sqrt(variance)
        return float(weights @ (ndtr(ends[0]) + ndtr(ends[1])))

    if detect(1.0) < power:
        return None
    return bisect(lambda difference: detect(difference) >= power, 0.0, 1.0)


def spread_errors(seeds: Sequence[Seeds], *, nodes: int = _NODES) -> tuple[Floats, Floats]:
    """Return the errors that such seeds of several methods may show, and their weights in a quadrature.

    Returns:
        # (cases, methods), (cases,)
    """
    errors, weights = np.zeros((1, 0)), np.ones(1)
    places, shares = _find_nodes(nodes)
    for seed in seeds:
        chi_squared = 2 * gammaincinv(seed.freedom / 2, (places + 1) / 2)
        shown = max(seed.error, seed.residual) * chi_squared / seed.freedom  # (nodes,)
        errors = np.hstack([np.repeat(errors, nodes, axis=0), np.tile(shown, len(errors))[:, None]])
        weights = np.outer(weights, shares / 2).ravel()
    return errors, weights


def resample(rows: int) -> Iterator[npt.NDArray[np.float32]]:
    """Count how often each row is drawn in each of 1,000 bootstrap samples, chunk by chunk; always the same.

    RandomState's stream is frozen for good; other generators may change with numpy's version.
    """
    random = np.random.RandomState(0)
    chunk = max(1, min(_RESAMPLES, _LARGEST_CHUNK // rows))
    for start in range(0, _RESAMPLES, chunk):
        size = min(chunk, _RESAMPLES - start)
        drawn = random.randint(rows, size=(size, rows)) + rows * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * rows)
        yield counts.reshape(size, rows).astype(np.float32)  # (samples, rows)


def expect_best(scores: Sequence[float], draws: int) -> float | None:
    """Return the expected best score of ``draws`` of the configurations tried; None if fewer were tried.

    It is the mean of the best over all subsets of that size. The estimate of Dodge et al. draws with
    replacement, which is unfair to a method with few configurations: the best of 3 draws from 3 would be
    below the best of the 3.

    Source: Tang et al., "Showing Your Work Doesn't Always Work" (arXiv:2004.13705), equation 5, for the curve
    of Dodge et al., "Show Your Work" (arXiv:1909.03004).
    """
    if not 1 <= draws <= len(scores):
        return None
    subsets = math.comb(len(scores), draws)
    ranked = enumerate(sorted(scores))
    return math.fsum(score * (math.comb(rank, draws - 1) / subsets) for rank, score in ranked)
