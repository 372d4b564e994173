"""What more labels would bring: power laws through the accuracies at several sizes of the train split. Pure.

The error is modelled as c + b (n + d)^-a, n the labelled texts (Hestness et al., arXiv:1712.00409; Rosenfeld
et al., arXiv:1909.12673). All that the measurements leave open is averaged over, not the best fit taken: a
grid of a, c and d with b integrated out, so that a forecast has an interval. That no law holds exactly widens
it with the distance, however many texts are tested on.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import stdtr

LEVEL = 0.9  # of a forecast's interval
FEWEST = 4  # sizes: a law of three parameters goes through any three
DISTANCE = 1.0  # no law holds over all sizes: a size n times as far counts n to this power times less
# No real curve follows a law exactly. With each doubling away from the largest size it strays as far as an
# accuracy on so few texts lies from the true one. Of 700, 1,000, 1,400, 2,000 ... 8,000 texts 2,000 and
# 2,800 made what was then measured about equally likely, and the likeliest (docs/labels.md).
_MISFIT_TEXTS = 2_500
_EXPONENTS = np.geomspace(0.05, 2.0, 24)
_FLOORS = np.linspace(0.0, 0.96, 13)  # of the least error that was measured
_OFFSETS = np.array([0.0, 0.1, 0.3, 1.0, 3.0])  # of the largest size: below it the error hardly falls
_PRIOR_FREEDOM = 4.0  # how many measurements the expected noise counts as
_PLACES = 301  # at which the distribution of a forecast is computed
_NEGLIGIBLE = 7.0  # by how much the logarithm of a law's weight may lie below the greatest

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Reading:
    """A method's test accuracy at one size of the train split."""

    size: int  # labelled texts
    accuracy: float  # mean over the seeds
    seeds: int

    @property
    def error(self) -> float:
        """The share of wrong answers."""
        return 1.0 - self.accuracy


@dataclass(frozen=True)
class Projection:
    """The accuracy that would be measured with so many labels, by as many seeds, on the same test texts."""

    size: int
    estimate: float
    low: float  # of the interval of LEVEL
    high: float


@dataclass(frozen=True)
class Gain:
    """By how much more labels raise the accuracy that would be measured."""

    estimate: float
    low: float  # of the interval of LEVEL
    high: float


@dataclass(frozen=True)
class Law:
    """The weighted laws that fit the measurements. Each array has an entry for each law."""

    largest: int  # size
    weights: Floats  # sum to 1
    exponents: Floats
    floors: Floats
    offsets: Floats  # of the largest size
    slopes: Floats
    spreads: Floats  # of the slope: its standard error, where the noise is 1
    noises: Floats  # standard deviation of a measurement at the largest size
    freedom: float  # degrees of freedom of the noises
    misfit: float  # variance of the truth about its law, with each doubling

    def forecast(self, size: int) -> Projection:
        """Say what so many labels would bring."""
        ratios = _find_ratios(np.array([size / self.largest]), self.exponents, self.offsets)[:, 0]
        means = self.floors + self.slopes * ratios
        deviations = self._deviate(size, ratios)
        low, middle, high = self._find_quantiles(means, deviations, least=0.0)
        return Projection(size, 1.0 - middle, 1.0 - high, 1.0 - low)

    def find_gain(self, start: int, size: int) -> Gain:
        """Say what so many labels would bring beyond those at the start, whose accuracy is the law's."""
        ratios = _find_ratios(np.array([start, size]) / self.largest, self.exponents, self.offsets)
        fall = ratios[:, 0] - ratios[:, 1]
        deviations = self._deviate(size, fall)
        low, middle, high = self._find_quantiles(self.slopes * fall, deviations, least=-1.0)
        return Gain(middle, low, high)

    def _deviate(self, size: int, ratios: Floats) -> Floats:
        """Return the standard deviation of a measurement at this size. # (laws,)

        Args:
            ratios: by which each law's slope is multiplied in what is forecast. # (laws,)
        """
        doublings = abs(math.log2(size / self.largest))
        noise = self.noises**2 * (1 + (ratios * self.spreads) ** 2)
        return np.asarray(np.sqrt(noise + self.misfit * doublings))

    def expect(self, size: int) -> float:
        """Return the laws' own mean accuracy with so many labels."""
        ratios = _find_ratios(np.array([size / self.largest]), self.exponents, self.offsets)[:, 0]
        return float(1.0 - self.weights @ (self.floors + self.slopes * ratios))

    def _find_quantiles(self, means: Floats, deviations: Floats, *, least: float) -> list[float]:
        """Return the ends of the interval of LEVEL and the median between them, over all laws.

        Args:
            least: the smallest value that there can be; the largest is 1.
        """
        far = 9 * deviations
        grid = np.linspace(max(least, (means - far).min()), min(1.0, (means + far).max()), _PLACES)
        below = self.weights @ stdtr(self.freedom, (grid - means[:, None]) / deviations[:, None])
        return [float(np.interp(share, below, grid)) for share in ((1 - LEVEL) / 2, 0.5, (1 + LEVEL) / 2)]


def fit(measured: Sequence[Reading], *, texts: int) -> Law | None:
    """Fit the laws to a method's measurements, or return None if there are fewer than FEWEST sizes.

    Args:
        texts: in the test split
    """
    if len({one.size for one in measured}) < FEWEST:
        return None
    errors, largest = np.array([one.error for one in measured]), max(one.size for one in measured)
    sizes = np.array([one.size for one in measured]) / largest
    variances = _expect_variances(measured, texts)
    exponents, floors, offsets = (
        grid.ravel() for grid in np.meshgrid(_EXPONENTS, _FLOORS * errors.min(), _OFFSETS, indexing="ij")
    )
    ratios = _find_ratios(sizes, exponents, offsets)
    precision = (ratios**2 / variances).sum(axis=1)
    rest = errors - floors[:, None]
    slopes = np.maximum(0.0, (ratios * rest / variances).sum(axis=1) / precision)
    squares = ((rest - slopes[:, None] * ratios) ** 2 / variances).sum(axis=1)
    freedom = _PRIOR_FREEDOM + len(sizes) - 1
    logs = -0.5 * np.log(precision) - 0.5 * freedom * np.log(_PRIOR_FREEDOM + squares)
    kept = logs > logs.max() - _NEGLIGIBLE
    weights = np.exp(logs[kept] - logs.max())
    last, final = variances[sizes == 1.0][0], float(errors[sizes == 1.0][0])
    return Law(
        largest=largest,
        weights=weights / weights.sum(),
        exponents=exponents[kept],
        floors=floors[kept],
        offsets=offsets[kept],
        slopes=slopes[kept],
        spreads=1.0 / np.sqrt(precision[kept] * last),
        noises=np.sqrt((_PRIOR_FREEDOM + squares[kept]) / freedom * last),
        freedom=freedom,
        misfit=_find_chance(final, texts) / _MISFIT_TEXTS,
    )


def _find_ratios(sizes: Floats, exponents: Floats, offsets: Floats) -> Floats:
    """Return the power of each size, 1 at the largest. # (laws, sizes)"""
    ratios: Floats = ((sizes + offsets[:, None]) / (1.0 + offsets[:, None])) ** -exponents[:, None]
    return ratios


def _expect_variances(measured: Sequence[Reading], texts: int) -> Floats:
    """Return the expected variance of each measurement about the law. # (sizes,)

    Half of a text's own variance is common to all sizes, as the texts are; the rest is noise, of which seeds
    are means.
    """
    largest = max(one.size for one in measured)

    def expect(one: Reading) -> float:
        chance = _find_chance(one.error, texts) / texts
        return float(chance / 2 / math.sqrt(one.seeds) * (largest / one.size) ** DISTANCE)

    return np.array([expect(one) for one in measured])


def _find_chance(error: float, texts: int) -> float:
    """Return the variance of a single answer, never 0: where no error was seen, there may be one."""
    return max(error * (1 - error), 1 / texts)
