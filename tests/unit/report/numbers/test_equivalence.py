"""Two one-sided tests against scipy, and what would decide against studies that are drawn."""

import numpy as np
import pytest
from scipy import stats

from bench.report.numbers.equivalence import Needs, find_equivalence_p, find_needs, merge_needs
from bench.report.numbers.statistics import Seeds, find_margin

SEEDS = (Seeds(1e-6, 2e-7, 2.0), Seeds(2e-6, 2e-7, 2.0))


def test_of_one_seed_each_it_is_the_larger_p_of_two_paired_t_tests() -> None:
    random = np.random.default_rng(0)
    for mean, delta in ((0.0, 0.02), (0.01, 0.02), (-0.015, 0.02), (0.03, 0.02)):
        differences = random.choice([-1.0, 0.0, 1.0], p=[0.05 - mean / 2, 0.9, 0.05 + mean / 2], size=4000)
        tests = [
            stats.ttest_1samp(differences, popmean=end, alternative=side).pvalue
            for end, side in ((delta, "less"), (-delta, "greater"))
        ]
        variance = float(differences.var(ddof=1)) / 4000
        found = find_equivalence_p(float(differences.mean()), variance, (), rows=4000, delta=delta)
        assert found == pytest.approx(max(tests), rel=1e-6)


def test_at_its_p_the_interval_over_texts_and_seeds_ends_at_the_margin() -> None:
    found = find_equivalence_p(0.003, 1e-5, SEEDS, rows=2000, delta=0.01)
    assert 0.003 + find_margin(1e-5, SEEDS, rows=2000, level=1 - 2 * found) == pytest.approx(0.01)
    assert found > find_equivalence_p(0.003, 1e-5, (), rows=2000, delta=0.01)  # seeds count


@pytest.mark.parametrize("rows", [50, 100, 200, 300, 400, 1000])
def test_methods_that_agree_on_a_few_texts_are_not_thereby_equal(rows: int) -> None:
    """Those of which one is right on 1 % more of all texts agree on so many with this chance."""
    found = find_equivalence_p(0.0, 0.0, (), rows=rows, delta=0.01)
    assert found >= 0.99**rows
    assert (found < 0.05) == (rows >= 300)


def test_one_text_of_400_does_not_show_that_methods_differ_on_few() -> None:
    """With 1 % more of all texts on one side, at most one of 400 is seen with a chance of 9 %."""
    share = 1 / 400
    found = find_equivalence_p(share, share * (1 - share) / 399, (), rows=400, delta=0.01)
    assert found > 0.05
    assert found == pytest.approx(stats.binom.cdf(1, 400, 0.01), abs=0.03)


@pytest.mark.parametrize(
    ("estimate", "seeds"), [(0.004, ()), (0.012, ()), (0.0, SEEDS), (0.012, SEEDS), (0.03, SEEDS)]
)
def test_so_many_texts_decide_in_four_of_five_studies(estimate: float, seeds: tuple[Seeds, ...]) -> None:
    """Each study has a true difference that the measurement allows, and seeds with errors of their own."""
    rows, texts, delta, level = 400, 1.5e-4, 0.01, 0.95
    found = find_needs(estimate, texts, seeds, rows=rows, delta=delta, level=level)
    assert found.texts is not None
    more, random, studies = found.texts / rows, np.random.default_rng(0), 4000
    chance = sum(one.residual for one in seeds)
    between = [one.error - one.residual for one in seeds]
    variance = (texts - chance) / more + chance / more
    true = estimate + random.standard_normal(studies) * np.sqrt(texts + sum(between))
    measured = true + random.standard_normal(studies) * np.sqrt(variance + sum(between))
    decided = 0
    for difference in measured:
        shown = [
            Seeds((part + one.residual / more) * random.chisquare(2) / 2, one.residual / more, 2.0)
            for part, one in zip(between, seeds, strict=True)
        ]
        apart = find_margin(variance, shown, rows=found.texts, level=level)
        within = find_margin(variance, shown, rows=found.texts, level=2 * level - 1)
        decided += abs(difference) > apart or abs(difference) + within < delta
    assert decided / studies == pytest.approx(0.8, abs=0.03)


def test_what_decides_depends_on_what_varies() -> None:
    def find(texts: float, seeds: tuple[Seeds, ...], rows: int = 400) -> Needs:
        return find_needs(0.005, texts, seeds, rows=rows, delta=0.01, level=0.95)

    assert find(1e-4, ()).kind == "texts"
    assert find(1e-4, ()).seeds is None
    noisy = Seeds(1.2e-4, 1e-6, 2.0)
    by_seeds = find(1e-7, (noisy, noisy), rows=100_000)
    assert (by_seeds.kind, by_seeds.texts) == ("seeds", None)
    assert by_seeds.seeds is not None
    assert 3 < by_seeds.seeds <= 100
    both = find(2e-4, (noisy, noisy))
    assert both.kind == "both"
    assert both.texts is not None
    assert both.seeds is not None
    more, fewer = find(2e-4, ()).texts, find(1e-4, ()).texts
    assert more is not None
    assert fewer is not None
    assert more > fewer > 400


def test_several_comparisons_need_the_most_of_each() -> None:
    texts, more = Needs("texts", texts=2300), Needs("either", texts=4000, seeds=9)
    assert merge_needs([texts, more]) == Needs("texts", texts=4000)
    assert merge_needs([more, Needs("seeds", seeds=12)]) == Needs("seeds", seeds=12)
    assert merge_needs([texts, Needs("seeds", seeds=12)]) == Needs("both", texts=2300, seeds=12)
    assert merge_needs([more]) == more
    first = Needs("first_seeds", seeds=3)
    assert merge_needs([texts, first]).kind == "first_seeds"
