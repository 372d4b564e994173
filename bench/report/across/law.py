"""What more labels would bring: a power law through the accuracies at several sizes of the train split. Pure.

The error is modelled as c + b n^-a, n the labelled texts (Hestness et al., arXiv:1712.00409; Rosenfeld et
al., arXiv:1909.12673). All that the measurements leave open is averaged over, not the best fit taken: a grid
of a and c with b integrated out, so that a forecast has an interval.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import stdtr

LEVEL = 0.9  # of a forecast's interval
FEWEST = 4  # sizes: a law of three parameters goes through any three
FARTHEST = 10  # times the largest size, beyond which nothing is said
_EXPONENTS = np.linspace(0.02, 2.0, 100)
_FLOORS = np.linspace(0.0, 0.99, 34)  # of the least error that was measured
_PRIOR_FREEDOM = 4.0  # how many measurements the expected noise counts as
_ERRORS = np.linspace(0.0, 1.0, 2001)

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """A method's test accuracy at one size of the train split."""

    size: int  # labelled texts
    accuracy: float  # mean over the seeds
    seeds: int

    @property
    def error(self) -> float:
        """The share of wrong answers."""
        return 1.0 - self.accuracy


@dataclass(frozen=True)
class Forecast:
    """The accuracy that would be measured with so many labels, by as many seeds, on the same test texts."""

    size: int
    estimate: float
    low: float  # of the interval of LEVEL
    high: float


@dataclass(frozen=True)
class Law:
    """The weighted laws that fit the measurements. Each array has an entry for each law."""

    largest: int  # size
    scale: float  # size to which sizes are taken relative
    weights: Floats  # sum to 1
    exponents: Floats
    floors: Floats
    slopes: Floats
    spreads: Floats  # of the slope: its standard error, where the noise is 1
    noises: Floats  # standard deviation of a measurement
    freedom: float  # degrees of freedom of the noises

    def forecast(self, size: int) -> Forecast:
        """Say what so many labels would bring.

        Raises:
            ValueError: more than FARTHEST times the largest size.
        """
        if size > FARTHEST * self.largest:
            raise ValueError(
                f"size={size}: at most {FARTHEST * self.largest}, {FARTHEST} times what was measured"
            )
        ratio = (size / self.scale) ** -self.exponents
        means = self.floors + self.slopes * ratio
        deviations = self.noises * np.sqrt(1.0 + (ratio * self.spreads) ** 2)
        below = self.weights @ stdtr(self.freedom, (_ERRORS - means[:, None]) / deviations[:, None])
        low, middle, high = (
            float(np.interp(share, below, _ERRORS)) for share in ((1 - LEVEL) / 2, 0.5, (1 + LEVEL) / 2)
        )
        return Forecast(size, 1.0 - middle, 1.0 - high, 1.0 - low)


def fit(measured: Sequence[Measured], *, texts: int) -> Law | None:
    """Fit the law to a method's measurements, or return None where none can be defended.

    Args:
        texts: in the test split
    """
    if len({one.size for one in measured}) < FEWEST:
        return None
    sizes = np.array([one.size for one in measured], dtype=np.float64)
    errors = np.array([one.error for one in measured])
    variances = _expect_variances(measured, texts)
    scale = math.exp(float(np.log(sizes).mean()))
    exponents, floors = (
        grid.ravel() for grid in np.meshgrid(_EXPONENTS, _FLOORS * errors.min(), indexing="ij")
    )
    ratios = (sizes / scale) ** -exponents[:, None]  # (laws, sizes)
    precision = (ratios**2 / variances).sum(axis=1)
    rest = errors - floors[:, None]
    slopes = np.maximum(0.0, (ratios * rest / variances).sum(axis=1) / precision)
    squares = ((rest - slopes[:, None] * ratios) ** 2 / variances).sum(axis=1)
    freedom = _PRIOR_FREEDOM + len(sizes) - 1
    logs = -0.5 * np.log(precision) - 0.5 * freedom * np.log(_PRIOR_FREEDOM + squares) + _weigh(exponents)
    weights = np.exp(logs - logs.max())
    inflation = np.sqrt((_PRIOR_FREEDOM + squares) / freedom)
    return Law(
        largest=int(sizes.max()),
        scale=scale,
        weights=weights / weights.sum(),
        exponents=exponents,
        floors=floors,
        slopes=slopes,
        spreads=1.0 / np.sqrt(precision * variances[-1]),
        noises=inflation * math.sqrt(variances[-1]),
        freedom=freedom,
    )


def _expect_variances(measured: Sequence[Measured], texts: int) -> Floats:
    """Return the expected variance of each measurement about the law. # (sizes,)

    Half of a text's own variance is common to all sizes, as the texts are; the rest is noise, of which seeds
    are means.
    """
    return np.array(
        [max(one.error * (1 - one.error), 1 / texts) / texts / 2 / one.seeds**0.5 for one in measured]
    )


def _weigh(exponents: Floats) -> Floats:
    """Return the logarithm of what is believed of the exponents: about 0.5, within a factor of 2."""
    return -0.5 * (np.log(exponents / 0.5) / math.log(2.0)) ** 2 - np.log(exponents)
