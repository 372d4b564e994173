import math
import statistics
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import f1_score

from bench.report.statistics import (
    adjust_holm,
    bound_difference,
    bound_share,
    compare_seeds,
    expect_best,
    find_detectable,
    flip_signs,
    mcnemar,
    resample,
    score_f1,
    summarise,
)

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


@pytest.mark.parametrize("rows", [20, 200, 2000])
@pytest.mark.parametrize("seeds", [3, 5])
def test_the_interval_over_seeds_covers_whatever_the_number_of_texts(rows: int, seeds: int):
    random = np.random.default_rng(1)
    chances = random.normal(0.85, 0.02, size=(4000, seeds)).clip(0, 1)  # of a right answer, by seed
    shares = random.binomial(rows, chances) / rows
    found = [summarise(values) for values in shares.tolist()]
    assert 0.93 <= np.mean([one.low <= 0.85 <= one.high for one in found]) <= 0.97


@given(st.integers(0, 300), st.integers(1, 300))
def test_the_interval_over_texts_is_scipys(right: int, more: int):
    rows = right + more
    expected = stats.binomtest(right, rows).proportion_ci(method="wilson")
    assert bound_share(right / rows, rows=rows) == pytest.approx(tuple(expected))


@pytest.mark.parametrize("rows", [20, 200, 2000])
def test_the_interval_over_texts_covers(rows: int):
    random = np.random.default_rng(0)
    chances = random.uniform(0.5, 0.97, 20_000)
    counts = random.binomial(rows, chances)
    ends = np.array([bound_share(right / rows, rows=rows) for right in range(rows + 1)])[counts]
    assert 0.93 <= np.mean((ends[:, 0] <= chances) & (chances <= ends[:, 1])) <= 0.97


@pytest.mark.parametrize("rows", [20, 200, 2000])
@pytest.mark.parametrize(("accurate", "shared"), [((0.8, 0.7), 0.0), ((0.7, 0.6), 0.3), ((0.65, 0.65), 0.2)])
def test_the_intervals_of_differences_cover(rows: int, accurate: tuple[float, float], shared: float):
    """Two models that find the same texts hard, as far as ``shared``; accuracy and macro F1 of both."""
    classes, experiments = 3, 500
    random = np.random.default_rng(0)

    def draw(size: int) -> tuple[np.ndarray, list[np.ndarray]]:
        labels, ease = random.integers(classes, size=size), random.standard_normal(size)
        models = []
        for chance in accurate:
            skill = math.sqrt(shared) * ease + math.sqrt(1 - shared) * random.standard_normal(size)
            wrong = (labels + random.integers(1, classes, size=size)) % classes
            models.append(np.where(skill < stats.norm.ppf(chance), labels, wrong))
        return labels, models

    everything = np.ones((1, 400_000), dtype=np.float32)
    labels, models = draw(400_000)
    true_f1 = np.subtract(*(score_f1(everything, labels, one, classes=classes)[0] for one in models))
    weights = np.concatenate(list(resample(rows)))[:: 1 if rows < 2000 else 4]  # (samples, rows)
    whole, scale = np.ones((1, rows), dtype=np.float32), math.sqrt(rows / (rows - 1))
    held, held_f1 = [], []
    for _ in range(experiments if rows < 2000 else 250):
        labels, models = draw(rows)
        right = np.subtract(*((one == labels).astype(float) for one in models))
        if np.count_nonzero(right) < 6:
            continue
        error = right.std(ddof=1) / math.sqrt(rows)
        found = bound_difference(right.mean(), error=error, rows=rows)
        held.append(found.low <= accurate[0] - accurate[1] <= found.high)
        scores = np.subtract(*(score_f1(weights, labels, one, classes=classes) for one in models))
        estimate = np.subtract(*(score_f1(whole, labels, one, classes=classes)[0] for one in models))
        found = bound_difference(estimate, error=scores.std(ddof=1) * scale, rows=rows)
        held_f1.append(found.low <= true_f1 <= found.high)
    assert 0.93 <= np.mean(held) <= 0.97
    assert 0.93 <= np.mean(held_f1) <= 0.97


def test_what_the_bootstrap_would_give_for_an_accuracy_has_a_closed_form():
    right = np.random.default_rng(0).choice([-1.0, 0.0, 1.0], size=200, p=[0.1, 0.8, 0.1])
    means = np.concatenate([weights @ right / 200 for weights in resample(200)])
    assert means.std(ddof=1) * math.sqrt(200 / 199) == pytest.approx(
        right.std(ddof=1) / math.sqrt(200), rel=0.05
    )


def test_resampled_rows_are_always_the_same_and_as_many():
    chunks = list(resample(30_000))
    assert len(chunks) > 1
    assert {float(counts.sum()) for one in chunks for counts in one} == {30_000.0}
    assert sum(map(len, chunks)) == 1000
    again = next(iter(resample(30_000)))
    assert np.array_equal(again, chunks[0])
    assert not np.array_equal(chunks[0][0], chunks[0][1])


@given(st.integers(0, 10_000), st.integers(2, 5))
def test_macro_f1_of_resampled_rows_is_scikit_learns(seed: int, classes: int):
    random = np.random.default_rng(seed)
    labels, predicted = random.integers(classes, size=(2, 12))
    weights = np.bincount(random.integers(12, size=12), minlength=12)
    drawn = np.repeat(np.arange(12), weights)
    expected = f1_score(
        labels[drawn], predicted[drawn], labels=range(classes), average="macro", zero_division=0
    )
    found = score_f1(weights[None].astype(np.float32), labels, predicted, classes=classes)
    assert found == pytest.approx([expected])


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 50), st.sampled_from([1, 2, 6]))
def test_mcnemar_is_the_exact_binomial_test(one: int, other: int, same: int, size: int):
    expected = stats.binomtest(one, one + other).pvalue if one + other else 1.0
    assert mcnemar(one, other) == pytest.approx(expected)
    rows = np.array([size] * one + [-size] * other + [0] * same, dtype=np.int64)
    assert flip_signs(rows) == pytest.approx(expected, abs=1e-9)  # one seed each: the same test


@given(st.lists(st.integers(-9, 9), min_size=1, max_size=8))
def test_the_sign_flip_test_counts_all_signs(differences: list[int]):
    sums = [abs(np.dot(signs, differences)) for signs in product((1, -1), repeat=len(differences))]
    expected = np.mean(np.array(sums) >= abs(sum(differences)))
    assert flip_signs(np.array(differences, dtype=np.int64)) == pytest.approx(expected, abs=1e-9)


varied = shares.filter(lambda values: statistics.stdev(values) > 1e-3)


@given(varied, varied)
def test_seeds_are_compared_as_by_scipys_welch(one: list[float], other: list[float]):
    found = compare_seeds(one, other)
    assert found == pytest.approx(stats.ttest_ind(one, other, equal_var=False).pvalue, abs=1e-9)


def test_a_method_without_randomness_is_a_number_that_seeds_are_held_against():
    seeds = [0.86, 0.88, 0.9]
    expected = stats.ttest_1samp(seeds, 0.8).pvalue
    assert compare_seeds(seeds, 0.8) == pytest.approx(expected)
    assert compare_seeds(0.8, seeds) == pytest.approx(expected)
    assert compare_seeds([0.8], seeds) is None
    assert (compare_seeds(0.8, 0.8), compare_seeds(0.8, 0.7)) == (1.0, 0.0)


def test_holm_by_hand():
    # in order of size: 0.01 x 4, 0.02 x 3 = 0.06, 0.03 x 2 = 0.06, 0.5 x 1
    assert adjust_holm([0.5, 0.01, 0.03, 0.02]) == pytest.approx([0.5, 0.04, 0.06, 0.06])
    assert adjust_holm([0.4, 0.6]) == pytest.approx([0.8, 0.8])
    assert adjust_holm([]) == []


def test_holm_keeps_false_alarms_of_a_whole_report_to_5_percent():
    p_values = np.random.default_rng(0).random((4000, 6))
    alarms = [min(adjust_holm(some)) < 0.05 for some in p_values.tolist()]
    assert np.mean(alarms) == pytest.approx(0.05, abs=0.012)


@pytest.mark.parametrize(("rows", "discordant"), [(400, 0.1), (2000, 0.05), (2000, 0.2), (400, 0.01)])
def test_the_detectable_difference_is_detected_four_times_of_five(rows: int, discordant: float):
    difference = find_detectable(rows=rows, discordant=discordant, level=0.05)
    assert difference is not None
    share = max(discordant, difference)
    random = np.random.default_rng(0)
    cells = [(share + difference) / 2, (share - difference) / 2, 1 - share]
    counts = random.multinomial(rows, np.clip(cells, 0, 1), size=4000)
    power = np.mean([mcnemar(one, other) < 0.05 for one, other, _ in counts.tolist()])
    assert 0.7 <= power <= 0.85  # the exact test is a little more careful than the formula's


def test_the_detectable_difference_solves_connors_equation():
    found = find_detectable(rows=2000, discordant=0.1, level=0.05)
    a, b = stats.norm.ppf([0.975, 0.8])
    needed = ((a * math.sqrt(0.1) + b * math.sqrt(0.1 - found**2)) / found) ** 2
    assert needed == pytest.approx(2000)
    assert find_detectable(rows=2, discordant=0.5, level=0.05) is None


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.integers(1, 7))
def test_the_expected_best_is_the_mean_over_all_subsets(scores: list[float], draws: int):
    found = expect_best(scores, draws)
    if draws > len(scores):
        assert found is None
    else:
        assert found == pytest.approx(np.mean([max(some) for some in combinations(scores, draws)]))


def test_108_draws_are_no_advantage_at_the_same_number_of_draws():
    random = np.random.default_rng(0)
    few, many = random.normal(0.8, 0.02, size=(2000, 3)), random.normal(0.8, 0.02, size=(2000, 108))
    of_few = np.mean([expect_best(scores, 3) for scores in few.tolist()])
    of_many = np.mean([expect_best(scores, 3) for scores in many.tolist()])
    assert of_few == pytest.approx(of_many, abs=0.001)
    assert many.max(axis=1).mean() > few.max(axis=1).mean() + 0.02  # what the naive comparison would say
