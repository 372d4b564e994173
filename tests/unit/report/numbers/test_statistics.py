import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bench.report.numbers.statistics import (
    Score,
    Seeds,
    adjust_holm,
    bound_difference,
    bound_share,
    expect_best,
    find_detectable,
    find_margin,
    find_p,
    pool_seeds,
    resample,
    score_answers,
    score_resamples,
    summarise,
)

shares = st.lists(st.floats(0, 1), min_size=2, max_size=8)


@given(shares)
def test_mean_and_deviation_are_numpys(values: list[float]):
    found = summarise(values)
    assert found.n == len(values)
    assert found.mean == pytest.approx(np.mean(values))
    assert found.sd == pytest.approx(np.std(values, ddof=1))


@given(st.permutations([0.1, 0.2, 0.3, 0.7, 1e-17]))
def test_the_order_of_the_values_does_not_show(values: list[float]):
    assert summarise(values) == summarise(sorted(values))


def test_one_value_has_no_spread():
    found = summarise([0.5])
    assert (found.n, found.mean, found.sd) == (1, 0.5, None)


def test_no_values_are_refused():
    with pytest.raises(ValueError, match="at least one value"):
        summarise([])


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


@pytest.mark.parametrize("seeds", [2, 5])
def test_the_parts_of_an_accuracys_error_are_those_of_an_analysis_of_variance(seeds: int):
    right = np.random.default_rng(0).random((seeds, 60)) < np.linspace(0.5, 1, 60)
    found = score_answers(right)
    means = [right.mean(axis=axis, keepdims=True) for axis in (0, 1)]  # of each text, of each seed
    rest = right - means[0] - means[1] + right.mean()
    residual = np.square(rest).sum() / ((seeds - 1) * 59)  # mean square
    assert found.mean == right.mean()
    assert found.error == pytest.approx(np.var(means[0], ddof=1) / 60)
    (part,) = found.seeds
    assert part.error == pytest.approx(np.var(means[1], ddof=1) / seeds)
    assert part.residual == pytest.approx(residual / (seeds * 60))
    assert part.freedom == seeds - 1


def test_one_seed_shows_nothing_of_others():
    assert score_answers(np.array([[True, False, True]])).seeds == ()


def test_resampled_texts_show_what_an_accuracy_has_as_a_closed_form():
    right = np.random.default_rng(0).random((3, 200)) < np.linspace(0.5, 1, 200)
    exact = score_answers(right)
    weights = np.concatenate(list(resample(200)))  # (samples, rows)
    found = score_resamples(right.mean(axis=1), right @ weights.T / 200, rows=200)
    assert (found.mean, found.seeds[0].error) == (exact.mean, exact.seeds[0].error)
    assert found.error == pytest.approx(exact.error, rel=0.1)
    assert found.seeds[0].residual == pytest.approx(exact.seeds[0].residual, rel=0.2)


def test_without_seeds_the_interval_and_the_p_of_a_difference_are_those_of_a_paired_t_test():
    one, other = np.random.default_rng(0).random((2, 80)) < [[0.9], [0.7]]
    scores = [score_answers(side[None]) for side in (one, other)]
    expected = stats.ttest_rel(one.astype(float), other.astype(float))
    found = bound_difference(*scores, rows=80)
    interval = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    error = scores[0].spread - scores[1].spread
    p_value = find_p(found.estimate, error.var(ddof=1) / 80, (), rows=80)
    assert p_value == pytest.approx(expected.pvalue, rel=1e-6)


def test_a_difference_stays_within_what_shares_can_differ_by():
    sides = [Score(mean, np.array([mean, 1 - mean]), 1.0, ()) for mean in (0.99, 0.02)]
    assert bound_difference(*sides, rows=2).high == 1.0


@given(st.lists(st.floats(0, 1), min_size=3, max_size=8).filter(lambda values: np.std(values) > 1e-3))
def test_without_chance_on_texts_the_interval_is_students_over_the_seeds(values: list[float]):
    error = np.var(values, ddof=1) / len(values)
    found = find_margin(0.0, [Seeds(error, 0.0, len(values) - 1)], rows=400)
    low, high = stats.t.interval(0.95, len(values) - 1, loc=0, scale=math.sqrt(error))
    assert (-found, found) == pytest.approx((low, high))
    expected = stats.ttest_1samp(values, 0.0).pvalue
    p_value = find_p(float(np.mean(values)), 0.0, [Seeds(error, 0.0, len(values) - 1)], rows=400)
    assert p_value == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_seeds_and_texts_are_margins_at_a_right_angle_and_share_the_residual():
    texts, seeds = 4e-5, Seeds(3e-5, 1e-5, 2)
    t, z = stats.t.ppf(0.975, 2), stats.norm.ppf(0.975)
    assert find_margin(texts, [seeds], rows=None) == pytest.approx(math.sqrt(z**2 * 3.5e-5 + t**2 * 2.5e-5))
    lucky = Seeds(2e-6, 1e-5, 2)  # that vary less than chance on the texts alone would make them
    assert find_margin(texts, [lucky], rows=None) == pytest.approx(math.sqrt(z**2 * texts))


@pytest.mark.parametrize(
    ("other", "freedom"),
    [
        (Seeds(1e-4, 0, 2), (4, 4)),  # as Welch has it for equals
        (Seeds(1e-12, 0, 2), (2, 2)),
        (Seeds(1e-3, 0, 20), (4, 40)),  # few seeds that vary little may vary much: they are not drowned
    ],
)
def test_two_methods_seeds_count_together_as_far_as_both_vary(other: Seeds, freedom: tuple[int, int]):
    one = Seeds(1e-4, 0, 2)
    quantiles = stats.t.ppf(0.975, freedom)
    expected = math.sqrt(quantiles[0] ** 2 * one.error + quantiles[1] ** 2 * other.error)
    assert find_margin(0.0, [one, other], rows=400) == pytest.approx(expected, rel=1e-5)


@given(st.floats(0.001, 0.2), st.floats(1e-6, 1e-3), st.floats(0, 1e-3), st.floats(0, 1e-4))
def test_p_is_the_level_at_which_the_interval_begins_at_no_difference(
    estimate: float, texts: float, error: float, residual: float
):
    seeds = [Seeds(error, residual, 2), Seeds(error / 2, residual, 4)]
    p_value = find_p(estimate, texts, seeds, rows=400)
    if p_value > 1e-9:
        assert find_margin(texts, seeds, rows=400, level=1 - p_value) == pytest.approx(estimate, rel=1e-4)


def test_no_difference_has_no_small_p():
    assert find_p(0.0, 1e-4, [], rows=400) == pytest.approx(1.0)
    assert find_p(0.0, 0.0, [], rows=400) == pytest.approx(1.0)


def test_pooled_seeds_are_those_of_all_methods_for_as_many_as_a_method_has():
    # of one seed: 3 x 1e-4 with 2 degrees of freedom, 5 x 4e-4 with 4
    found = pool_seeds([(Seeds(1e-4, 3e-5, 2), 3), (Seeds(4e-4, 0.0, 4), 5)], count=2)
    assert found.error == pytest.approx((2 * 3e-4 + 4 * 20e-4) / 6 / 2)
    assert found.residual == pytest.approx(2 * 9e-5 / 6 / 2)
    assert found.freedom == 6


def test_resampled_rows_are_always_the_same_and_as_many():
    chunks = list(resample(30_000))
    assert len(chunks) > 1
    assert {float(counts.sum()) for one in chunks for counts in one} == {30_000.0}
    assert sum(map(len, chunks)) == 1000
    again = next(iter(resample(30_000)))
    assert np.array_equal(again, chunks[0])
    assert not np.array_equal(chunks[0][0], chunks[0][1])


def test_holm_by_hand():
    # in order of size: 0.01 x 4, 0.02 x 3 = 0.06, 0.03 x 2 = 0.06, 0.5 x 1
    assert adjust_holm([[0.5], [0.01], [0.03], [0.02]]) == [
        pytest.approx([one]) for one in (0.5, 0.04, 0.06, 0.06)
    ]
    assert adjust_holm([[0.4], [0.6]]) == [pytest.approx([0.8]), pytest.approx([0.8])]
    assert adjust_holm([]) == []


def test_holm_counts_comparisons_of_which_one_hypothesis_is_left():
    # in order of size: 0.001 x 3, 0.004 x 3, after which the first comparison is done, 0.01 x 2, 0.02 x 2
    found = adjust_holm([[0.001, 0.004], [0.01, 0.9], [0.5, 0.02]])
    assert found == [pytest.approx([0.003, 0.012]), pytest.approx([0.02, 1.0]), pytest.approx([1.0, 0.04])]


def test_holm_keeps_false_alarms_of_a_whole_report_to_5_percent():
    p_values = np.random.default_rng(0).random((4000, 6))
    alarms = [min(adjust_holm([[one] for one in some]))[0] < 0.05 for some in p_values.tolist()]
    assert np.mean(alarms) == pytest.approx(0.05, abs=0.012)


@pytest.mark.parametrize(
    "seeds",
    [
        [],
        [Seeds(1e-5, 1e-5, 9)],
        [Seeds(9e-5, 2e-5, 2), Seeds(9e-5, 2e-5, 2)],
        [Seeds(3e-4, 1e-5, 2), Seeds(1e-5, 1e-5, 4)],
    ],
)
def test_the_detectable_difference_is_detected_four_times_of_five(seeds: list[Seeds]):
    texts, level, studies = 1e-4, 1 - 0.05 / 3, 4000
    difference = find_detectable(texts, seeds, rows=400, level=level)
    assert difference is not None
    random = np.random.default_rng(0)
    error = texts + sum(one.error - one.residual for one in seeds)
    estimates = random.normal(difference, math.sqrt(error), size=studies)
    shown = [one.error * random.chisquare(one.freedom, size=studies) / one.freedom for one in seeds]
    margins = [
        find_margin(
            texts,
            [Seeds(some[study], one.residual, one.freedom) for one, some in zip(seeds, shown, strict=True)],
            rows=400,
            level=level,
        )
        for study in range(studies)
    ]
    assert np.mean(np.abs(estimates) > margins) == pytest.approx(0.8, abs=0.02)


def test_without_seeds_the_detectable_difference_is_the_textbooks():
    found = find_detectable(1e-4, [], rows=10**6, level=0.95)
    assert found == pytest.approx(0.01 * (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)), rel=1e-4)


def test_where_nothing_varies_or_nothing_could_be_found_no_difference_is_detectable():
    assert find_detectable(0.0, [], rows=400, level=0.95) is None
    assert find_detectable(1.0, [], rows=400, level=0.95) is None


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
