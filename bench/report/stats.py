"""How sure a number over seeds is; pure."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import stdtrit


@dataclass(frozen=True)
class Summary:
    """The mean of one number over seeds, and its spread, which one seed cannot show."""

    n: int
    mean: float
    sd: float | None  # of the sample, n - 1 in the denominator; None for n = 1
    low: float | None  # of the interval for the mean; None for n = 1
    high: float | None


def summarise(values: Sequence[float], *, level: float = 0.95) -> Summary:
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
