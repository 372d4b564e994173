"""Simulate studies whose truth is known: `make benchmark ARGS=statistics` in short."""

import pytest

from benchmarks.studies import METHODS, Setting, fill, find, hold

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
