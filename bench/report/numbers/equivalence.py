"""Whether two scores are equal within a margin, and how many texts or seeds would decide; pure numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import ndtr

from bench.report.numbers.statistics import (
    Floats,
    Seeds,
    bisect,
    find_margins,
    find_p_values,
    spread_errors,
    stack_seeds,
)

_POWER = 0.8
_NODES = 8  # of the integral over each method's error: enough for two digits
_MOST = math.log(1e9)  # times the texts or seeds that there are
_MOST_SEEDS = 100  # of a method; nobody trains more of them


@dataclass(frozen=True)
class Needs:
    """What would decide between two methods: all texts and all seeds that a study has, not what it lacks."""

    kind: str  # texts | seeds | either | both, which are needed together | first_seeds, as there is one seed
    texts: int | None = None
    seeds: int | None = None  # of each method that has several


def find_equivalence_p(
    estimate: float, texts: float, seeds: Sequence[Seeds], *, rows: int, delta: float
) -> float:
    """Return p for a true difference of ``delta`` or more: the larger p of two one-sided tests.

    At p the interval of find_margin, with level 1 - 2 p, ends at delta or -delta.

    Args:
        estimate, texts, seeds: from statistics.subtract.
        delta: the difference within which two methods count as equal, a share.

    Source: Schuirmann, "A comparison of the two one-sided tests procedure and the power approach", Journal of
    Pharmacokinetics and Biopharmaceutics 15 (1987).
    """
    numbers = np.array([estimate]), np.array([texts]), *stack_seeds(seeds)
    return float(find_equivalence_p_values(*numbers, rows=max(rows, 2), delta=delta)[0])


def find_equivalence_p_values(
    estimates: Floats,
    texts: Floats,
    errors: Floats,
    residuals: Floats,
    freedom: Floats,
    *,
    rows: int,
    delta: float,
) -> Floats:
    """Return find_equivalence_p of each of many cases; the arguments are those of find_margins. # (cases,)

    No p is less than the chance that methods that differ by delta agree on every text, which is the strongest
    evidence that there can be.
    """
    room = delta - np.abs(estimates)
    texts = np.maximum(texts, bound_texts(delta, rows))
    halves = find_p_values(room, texts, errors, residuals, freedom, rows=rows) / 2
    p_values: Floats = np.maximum(np.where(room > 0, halves, 1 - halves), (1 - delta) ** rows)
    return p_values


def bound_texts(delta: float, rows: float) -> float:
    """Return the least variance over texts that a test of ``delta`` counts.

    Two methods whose accuracies differ by delta differ on at least that share of all texts, so the variance
    is at least delta (1 - delta) / rows, even where they happen to agree on all of these. That the variance
    of such a test is the one under its hypothesis is from Tango, Statistics in Medicine 17 (1998).
    """
    return delta * (1 - delta) / rows


def find_needs(
    estimate: float, texts: float, seeds: Sequence[Seeds], *, rows: int, delta: float, level: float
) -> Needs:
    """Find the least texts, or the least seeds of each method, that decide in four of five studies.

    A new study decides if it tests a difference or tests equality within delta, each at ``level``. Its
    difference is normal around the estimate, with the variance of both studies: the true difference is known
    only as well as it was measured. The variances and their residuals are taken as true.

    Source: O'Hagan, Stevens and Campbell, "Assurance in clinical trial design", Pharmaceutical Statistics 4
    (2005).
    """
    rows = max(rows, 2)
    study = _Study(estimate, max(texts, bound_texts(delta, rows)), seeds, rows, delta, level)

    def find_factor(most: float, *, of_texts: int, of_seeds: int) -> float | None:
        """Return how many times the texts, the seeds or both decide; None if not even the most do."""

        def decides(log: float) -> bool:
            return study.decide(math.exp(of_texts * log), math.exp(of_seeds * log)) >= _POWER

        return math.exp(bisect(decides, 0.0, most, halvings=16)) if decides(most) else None

    most_seeds = math.log(max(1.0, _MOST_SEEDS / study.fewest)) if seeds else 0.0
    more_texts = find_factor(_MOST, of_texts=1, of_seeds=0)
    more_seeds = find_factor(most_seeds, of_texts=0, of_seeds=1) if seeds else None
    kind = "either" if more_texts and more_seeds else "texts" if more_texts else "seeds"
    if more_texts is None and more_seeds is None:
        kind = "both"
        more_texts = more_seeds = find_factor(_MOST, of_texts=1, of_seeds=1) or math.exp(_MOST)
    return Needs(
        kind,
        texts=_round_up(rows * more_texts) if more_texts else None,
        seeds=math.ceil(study.fewest * more_seeds) if more_seeds else None,
    )


@dataclass(frozen=True)
class _Study:
    """What one study measured of two methods, and how likely a larger one decides between them."""

    estimate: float
    texts: float
    seeds: Sequence[Seeds]
    rows: int
    delta: float
    level: float

    @property
    def fewest(self) -> float:
        """How many seeds the method has that has the fewest of several."""
        return min((seed.freedom + 1 for seed in self.seeds), default=0.0)

    def decide(self, more_texts: float, more_seeds: float) -> float:
        """Return how likely a study decides that has so many times the texts and each method's seeds."""
        residual = sum(seed.residual for seed in self.seeds)
        seeds = [_add_seeds(seed, more_texts, count=self.fewest * more_seeds) for seed in self.seeds]
        texts = max(0.0, self.texts - residual) / more_texts + sum(seed.residual for seed in seeds)
        rows = self.rows * more_texts
        errors, weights = spread_errors(seeds, nodes=_NODES)
        _, residuals, freedom = stack_seeds(seeds)
        tail = 1 - self.level
        apart = find_margins(tail / 2, texts, errors, residuals, freedom, rows=rows)  # (cases,)
        floor = max(texts, bound_texts(self.delta, rows))
        within = self.delta - find_margins(tail, floor, errors, residuals, freedom, rows=rows)
        within = np.clip(within, 0, apart)  # (cases,)
        spread = math.sqrt(
            self.texts + texts + sum(max(0.0, seed.error - seed.residual) for seed in (*self.seeds, *seeds))
        )
        undecided = sum(
            sign
            * (ndtr((sign * apart - self.estimate) / spread) - ndtr((sign * within - self.estimate) / spread))
            for sign in (-1, 1)
        )
        return 1 - float(weights @ undecided)


def _add_seeds(seeds: Seeds, more_texts: float, *, count: float) -> Seeds:
    """Return the error of a method with so many times the texts, and at least so many seeds."""
    more_seeds = max(1.0, count / (seeds.freedom + 1))
    residual = seeds.residual / more_texts / more_seeds
    between = max(0.0, seeds.error - seeds.residual) / more_seeds
    freedom = (seeds.freedom + 1) * more_seeds - 1
    return replace(seeds, error=between + residual, residual=residual, freedom=freedom)


def merge_needs(needs: Sequence[Needs]) -> Needs:
    """Return what decides all of several comparisons."""
    kinds = {one.kind for one in needs}
    by_texts, by_seeds = kinds <= {"texts", "either"}, kinds <= {"seeds", "either"}
    kind = "either" if by_texts and by_seeds else "texts" if by_texts else "seeds" if by_seeds else "both"
    return Needs(
        "first_seeds" if "first_seeds" in kinds else kind,
        texts=None if kind == "seeds" else max((one.texts for one in needs if one.texts), default=None),
        seeds=None if kind == "texts" else max((one.seeds for one in needs if one.seeds), default=None),
    )


def _round_up(count: float) -> int:
    """Round up to two digits, which is all that an estimate of this kind is worth."""
    unit = int(10 ** max(0, math.floor(math.log10(count)) - 1))
    return math.ceil(count / unit) * unit
