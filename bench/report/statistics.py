"""How sure a number is, and a difference between two methods; pure: arrays in, numbers out.

Everything is a closed form but the spread of macro F1, which is resampled from a fixed seed: the same input
gives the same bytes in every report.
"""

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import bdtr, ndtri, stdtr, stdtrit

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

LEVEL = 0.95
_RESAMPLES = 1000  # a standard error from so many is 2 % exact
_LARGEST_CHUNK = 4_000_000  # weights in memory at once


@dataclass(frozen=True)
class Summary:
    """The mean of one number over seeds, and its spread, which one seed cannot show."""

    n: int
    mean: float
    sd: float | None  # of the sample, n - 1 in the denominator; None for n = 1
    low: float | None  # of the interval for the mean; None for n = 1
    high: float | None


@dataclass(frozen=True)
class Difference:
    """One number less another of the same rows, and its 95 % interval over rows."""

    estimate: float
    low: float | None  # None: too few rows tell the two apart
    high: float | None


def summarise(values: Sequence[float], *, level: float = LEVEL) -> Summary:
    """Mean, sample standard deviation and Student's t interval: mean -+ t(n - 1) sd / sqrt(n).

    The interval is for the mean over all seeds that could have been drawn; it holds at its level if the
    numbers are about normal. It says nothing of other texts: every seed shares one test split. Sums are
    exact, so that the order of the values cannot show.

    Raises:
        ValueError: no values.

    Source: Student, "The probable error of a mean", Biometrika 6 (1908).
    """
    if not values:
        raise ValueError("values=[]: a mean needs at least one value")
    n, mean = len(values), statistics.fmean(values)
    if n == 1:
        return Summary(n, mean, sd=None, low=None, high=None)
    sd = statistics.stdev(values)
    half = float(stdtrit(n - 1, (1 + level) / 2)) * sd / math.sqrt(n)
    return Summary(n, mean, sd=sd, low=mean - half, high=mean + half)


def bound_share(share: float, *, rows: int, level: float = LEVEL) -> tuple[float, float]:
    """Wilson's interval for the share of all texts that would be right, given the share of ``rows`` texts.

    It stays within 0 to 1 and holds near both ends. A mean over seeds varies less than one seed's share, so
    that the interval is then too wide rather than too narrow.

    Source: Wilson, "Probable inference", JASA 22 (1927); its coverage: Brown, Cai and DasGupta (2001).
    """
    z = float(ndtri((1 + level) / 2))
    centre = (share + z * z / (2 * rows)) / (1 + z * z / rows)
    half = z / (1 + z * z / rows) * math.sqrt(share * (1 - share) / rows + z * z / (4 * rows * rows))
    return max(0.0, centre - half), min(1.0, centre + half)


def mcnemar(only_one: int, only_other: int) -> float:
    """Exact two-sided p of McNemar's test: texts that only one and only the other of two models has right.

    Source: McNemar, Psychometrika 12 (1947); exact as a binomial test at 1/2.
    """
    discordant = only_one + only_other
    return min(1.0, 2 * float(bdtr(min(only_one, only_other), discordant, 0.5)))


def flip_signs(differences: Integers) -> float:
    """Exact two-sided p that rows' differences sum to so much or more when each could have either sign.

    The test for means over several seeds: a row's difference is that of the seeds that have it right, in
    whole numbers. For one seed each it is McNemar's. The sum's distribution is a product of binomial
    generating functions, one for each size of difference, multiplied as Fourier transforms.

    Args:
        differences: one method less the other. # (rows,)

    Source: Fisher's randomisation test for pairs, The Design of Experiments (1935), section 21.
    """
    sizes = np.abs(differences[differences != 0])
    if not len(sizes):
        return 1.0
    step = int(np.gcd.reduce(sizes))
    sizes //= step
    total = int(sizes.sum())
    length = 2 * total + 1  # sums from -total to total
    angles = 2 * np.pi * np.arange(length) / length
    spectrum = np.ones(length)
    for size, count in zip(*np.unique(sizes, return_counts=True), strict=True):
        spectrum *= np.cos(size * angles) ** count
    masses = np.fft.ifft(spectrum).real  # of each sum, cyclically: 0, 1, ..., total, -total, ..., -1
    sums = np.concatenate([np.arange(total + 1), np.arange(-total, 0)])
    observed = abs(int(differences.sum()) // step)
    return float(np.clip(masses[np.abs(sums) >= observed].sum(), 0.0, 1.0))


def compare_seeds(one: Sequence[float] | float, other: Sequence[float] | float) -> float | None:
    """Welch's two-sided p that two methods have the same mean over all seeds that could have been drawn.

    A method without randomness is one number. None if one with randomness has but one seed: then nothing is
    known of its others.

    Source: Welch, "The generalization of 'Student's' problem", Biometrika 34 (1947).
    """
    sides: list[tuple[float, float, int]] = []  # mean, its squared error, degrees of freedom
    for values in (one, other):
        if isinstance(values, float | int):
            mean, error, freedom = float(values), 0.0, 1
        elif len(values) < 2:
            return None
        else:
            mean, freedom = statistics.fmean(values), len(values) - 1
            error = statistics.variance(values) / len(values)
        sides.append((mean, error, freedom))
    gap, total = abs(sides[0][0] - sides[1][0]), sum(error for _, error, _ in sides)
    if total == 0:
        return 1.0 if gap == 0 else 0.0
    welch = total**2 / sum(error**2 / free for _, error, free in sides)
    return 2 * float(stdtr(welch, -gap / math.sqrt(total)))


def adjust_holm(p_values: Sequence[float]) -> list[float]:
    """p values that hold for all tests at once, in the order given.

    Source: Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statist. 6 (1979).
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda one: p_values[one])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def find_detectable(*, rows: int, discordant: float, level: float, power: float = 0.8) -> float | None:
    """The smallest true difference in accuracy that a test of so many texts would detect with that power.

    With a share ``discordant`` of the rows told apart, McNemar's test needs a difference d with
    sqrt(rows) d = a sqrt(discordant) + b sqrt(discordant - d^2), a and b being the normal quantiles of
    1 - level / 2 and of the power; solved for d. A difference of d needs at least the share d, so that
    discordant is d where it would be less. None: not even a difference of all rows.

    Source: Connor, "Sample size for testing differences in proportions for the paired-sample design",
    Biometrics 43 (1987).
    """
    a, b = float(ndtri(1 - level / 2)), float(ndtri(power))
    root = math.sqrt(max(0.0, rows + b * b - a * a))
    found = math.sqrt(discordant) * (a * math.sqrt(rows) + b * root) / (rows + b * b)
    if found > discordant:
        for _ in range(100):  # rows d = (a + b sqrt(1 - d))^2; each step is nearer
            found = (a + b * math.sqrt(max(0.0, 1 - found))) ** 2 / rows
    return found if found <= 1 else None


def bound_difference(estimate: float, *, error: float, rows: int, level: float = LEVEL) -> Difference:
    """The difference with its interval: estimate -+ t(rows - 1) times the bootstrap's standard error.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 12.
    """
    half = float(stdtrit(rows - 1, (1 + level) / 2)) * error
    return Difference(estimate, max(-1.0, estimate - half), min(1.0, estimate + half))


def resample(rows: int) -> Iterator[npt.NDArray[np.float32]]:
    """How often each row is drawn in each of 1,000 bootstrap samples, chunk by chunk; always the same.

    RandomState, as its stream is frozen for good: other generators may change with numpy's version.
    """
    random = np.random.RandomState(0)
    chunk = max(1, min(_RESAMPLES, _LARGEST_CHUNK // rows))
    for start in range(0, _RESAMPLES, chunk):
        size = min(chunk, _RESAMPLES - start)
        drawn = random.randint(rows, size=(size, rows)) + rows * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * rows)
        yield counts.reshape(size, rows).astype(np.float32)  # (samples, rows)


def score_f1(
    weights: npt.NDArray[np.float32], labels: Integers, predicted: Integers, *, classes: int
) -> Floats:
    """Macro F1 of weighted rows, once for each set of weights; a class that is nowhere counts as 0.

    Args:
        weights: whole numbers, exact in 32 bits. # (samples, rows)
        labels, predicted: class numbers. # (rows,)
    """
    one_hot = np.eye(classes, dtype=np.float32)
    hits = np.where((labels == predicted)[:, None], one_hot[labels], 0)  # (rows, classes)
    right = (weights @ hits).astype(np.float64)  # (samples, classes)
    either = (weights @ (one_hot[labels] + one_hot[predicted])).astype(np.float64)
    each: Floats = np.divide(2 * right, either, out=np.zeros_like(right), where=either > 0)
    mean: Floats = each.mean(axis=1)
    return mean


def expect_best(scores: Sequence[float], draws: int) -> float | None:
    """The expected best score of so many configurations drawn from those tried; None if fewer were tried.

    The mean of the best over all subsets of that size. The estimate of Dodge et al. draws with replacement
    and so puts down a method with few configurations: its best of 3 tried, of 3 drawn, would be less than
    its best.

    Source: Tang et al., "Showing Your Work Doesn't Always Work" (arXiv:2004.13705), equation 5, for the curve
    of Dodge et al., "Show Your Work" (arXiv:1909.03004).
    """
    if not 1 <= draws <= len(scores):
        return None
    subsets = math.comb(len(scores), draws)
    ranked = enumerate(sorted(scores))
    return math.fsum(score * (math.comb(rank, draws - 1) / subsets) for rank, score in ranked)
