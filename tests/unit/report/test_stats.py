import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bench.report.stats import summarise

shares = st.lists(st.floats(0, 1), min_size=2, max_size=8)


@given(shares, st.sampled_from([0.5, 0.95, 0.99]))
def test_the_interval_is_scipys(values: list[float], level: float):
    found = summarise(values, level=level)
    assert found.n == len(values)
    assert found.mean == pytest.approx(np.mean(values))
    assert found.sd == pytest.approx(statistics.stdev(values))
    if found.sd > 1e-9:
        expected = stats.t.interval(level, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
        assert (found.low, found.high) == pytest.approx(expected)


def test_a_worked_example():
    found = summarise([0.88, 0.89, 0.90])
    # t(0.975, 2) = 4.302653; sd = 0.01; half width = 4.302653 x 0.01 / sqrt(3) = 0.0248414
    assert (found.mean, found.sd) == pytest.approx((0.89, 0.01))
    assert (found.low, found.high) == pytest.approx((0.8651586, 0.9148414), abs=1e-7)


@given(st.permutations([0.1, 0.2, 0.3, 0.7, 1e-17]))
def test_the_order_of_the_values_does_not_show(values: list[float]):
    assert summarise(values) == summarise(sorted(values))


def test_one_value_has_no_spread():
    found = summarise([0.5])
    assert (found.n, found.mean, found.sd, found.low, found.high) == (1, 0.5, None, None, None)


def test_no_values_are_refused():
    with pytest.raises(ValueError, match="at least one value"):
        summarise([])


def test_95_percent_of_intervals_over_three_seeds_hold_the_true_mean():
    draws = np.random.default_rng(0).normal(0.9, 0.02, size=(4000, 3))  # (experiments, seeds)
    held = [found.low <= 0.9 <= found.high for found in map(summarise, draws.tolist())]
    # the standard error of the share is 0.0034; a normal interval would hold 0.81 of the time
    assert np.mean(held) == pytest.approx(0.95, abs=0.012)
