"""Simulate studies whose truth is known: `make benchmark ARGS=statistics` in short."""

import numpy as np
import pytest

from bench.report.numbers.statistics import subtract
from benchmarks.studies import METHODS, Setting, _measure, draw, fill, find, hold, judge, judge_rounds

STUDIES = 400  # the standard error of a share of 5 % is 1.1 points


@pytest.mark.parametrize(
    "setting",
    [
        Setting(400, [3] * 8, [0.01] * 8),
        Setting(400, [10] * 8, [0.01] * 8),
        Setting(2000, [5] * 8, [0.04] * 8),
        Setting(400, [0, *[3] * 7], [0.04] * 8),  # against a baseline without randomness
        Setting(2000, [20, 3] * 4, [0.01] * 8),
    ],
    ids=lambda setting: (
        f"{setting.texts} texts, seeds {setting.seeds[:2]}, deviation {setting.deviations[0]}"
    ),
)
def test_intervals_hold_the_truth_and_equal_methods_are_not_said_to_differ(setting: Setting) -> None:
    accuracy, difference, *wrong = hold(setting, STUDIES)
    assert accuracy >= 0.93
    assert difference >= 0.93
    assert len(wrong) == len(METHODS)
    assert max(wrong) <= 0.07


def test_intervals_are_not_wider_than_they_have_to_be() -> None:
    accuracy, difference, *_ = hold(Setting(400, [10] * 8, [0.01] * 8), STUDIES)
    assert max(accuracy, difference) <= 0.975


# Student's t finds 0.7 of it with the 4 degrees of freedom of two methods of 3 seeds, 0.95 with 18.
@pytest.mark.parametrize(("seeds", "least"), [(3, 0.6), (10, 0.9)])
def test_a_difference_is_found_nearly_as_often_as_if_the_variances_were_known(
    seeds: int, least: float
) -> None:
    _, found, known, promised, kept = find(Setting(1000, [seeds] * 2, [0.01] * 2), 2, STUDIES)
    assert found >= least * known
    assert 0.01 < promised < 0.06
    assert kept == pytest.approx(0.8, abs=0.07)


def test_tables_stand_between_their_comments() -> None:
    page = "a\n<!-- one -->\nold\n<!-- end of one -->\nb\n"
    assert fill(page, "one", "new") == "a\n<!-- one -->\nnew\n<!-- end of one -->\nb\n"
    with pytest.raises(SystemExit, match=r"has no <!-- two --> \.\.\. <!-- end of two --> to write between"):
        fill(page, "two", "new")


@pytest.mark.parametrize(
    "setting",
    [
        Setting(2000, [3] * 3, [0.002] * 3, worse=0.01),
        Setting(400, [3] * 5, [0.01] * 5, worse=0.0),
        Setting(20_000, [3] * 3, [0.001] * 3, worse=0.01),
        Setting(2000, [1] * 5, [0.0] * 5, worse=0.03),
    ],
    ids=lambda setting: f"{setting.texts} texts, {len(setting.seeds)} methods, worse by {setting.worse}",
)
def test_few_reports_say_anything_wrong_of_planted_methods(setting: Setting) -> None:
    better, equal, wrong, *_ = judge(setting, 100 if setting.texts > 2000 else STUDIES)
    assert max(better, equal) <= wrong <= 0.09


def test_methods_are_shown_to_be_equal_where_texts_are_many() -> None:
    *_, among_equals, with_last = judge(Setting(20_000, [3] * 3, [0.001] * 3, worse=0.05), 50)
    assert among_equals > 0.5
    assert with_last == 1


def test_many_studies_at_once_are_measured_as_each_alone() -> None:
    """The variances of a difference, over texts and over seeds, agree on average."""
    setting = Setting(1000, [3] * 2, [0.01] * 2)
    estimates, variances, (errors, residuals, freedom) = _measure(setting, 400, np.random.default_rng(0))
    random = np.random.default_rng(1)
    alone = [subtract(*draw(setting, random)) for _ in range(400)]
    seeds = [one for *_, both in alone for one in both]
    assert variances.mean() == pytest.approx(np.mean([texts for _, texts, _ in alone]), rel=0.03)
    assert errors.mean() == pytest.approx(np.mean([one.error for one in seeds]), rel=0.1)
    assert residuals.mean() == pytest.approx(np.mean([one.residual for one in seeds]), rel=0.03)
    assert estimates.std() == pytest.approx(np.std([estimate for estimate, *_ in alone]), rel=0.1)
    assert set(freedom.ravel()) == {one.freedom for one in seeds}


@pytest.mark.parametrize(
    "setting",
    [
        Setting(400, [10] * 3, [0.01] * 3),
        Setting(2000, [10] * 3, [0.002] * 3, worse=0.01),
    ],
    ids=lambda setting: f"{setting.texts} texts, worse by {setting.worse}",
)
def test_few_reports_say_anything_wrong_where_seeds_came_in_rounds(setting: Setting) -> None:
    better, equal, wrong, *_, seeds = judge_rounds(setting, 200)
    assert max(better, equal) <= wrong <= 0.09
    assert 0.3 <= seeds <= 1


def test_seeds_in_rounds_decide_with_fewer_than_all() -> None:
    setting = Setting(2000, [10] * 3, [0.01] * 3, worse=0.1)
    *_, with_last, seeds = judge_rounds(setting, 50)
    assert with_last > 0.9
    assert seeds < 1
