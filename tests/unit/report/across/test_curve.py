"""From how many labels on a method is ahead: planted crossings, and how they read."""

import math
import re

import numpy as np
import pytest
from records import make_evidence, make_sized_run, render_markdown

from bench.report.across.curve import bound_crossing, find_crossings
from bench.report.language.text import LANGUAGES

SIZES = np.array([50.0, 100.0, 200.0, 400.0])
ENGLISH, CHINESE = LANGUAGES["en"], LANGUAGES["zh"]


@pytest.mark.parametrize(
    ("ahead", "labels"),
    [
        ([0.1, 0.1, 0.1, 0.1], 50.0),
        ([-0.1, 0.1, 0.1, 0.1], math.sqrt(50 * 100)),
        ([-0.1, -0.3, 0.1, 0.1], 100 * 2**0.75),
        ([0.1, -0.1, 0.1, 0.1], math.sqrt(100 * 200)),
        ([0.1, 0.1, 0.1, 0.0], math.inf),
        ([-0.1, -0.1, -0.1, -0.1], math.inf),
    ],
)
def test_a_method_is_ahead_from_where_it_stays_ahead(ahead: list[float], labels: float) -> None:
    assert find_crossings(SIZES, np.array([ahead]))[0] == pytest.approx(labels)


def test_the_interval_holds_the_planted_crossing() -> None:
    random, true, held, studies = np.random.RandomState(0), 150.0, 0, 200
    expected = 0.06 * np.log(SIZES / true)  # linear in the logarithm: the crossing between sizes is exact
    covariance = np.full((4, 4), 0.01**2) + np.diag([0.015**2] * 4)
    for _ in range(studies):
        seen = random.multivariate_normal(expected, covariance)
        _, low, high = bound_crossing(SIZES, seen, covariance)
        held += low <= true <= high
    assert held / studies >= 0.9


def test_break_even_and_forecast_are_said() -> None:
    better = {50: 0.5, 100: 0.7, 200: 0.85, 400: 0.9}
    runs = [
        make_sized_run(size, "lora", test=accuracy, seed=seed)
        for size, accuracy in better.items()
        for seed in range(3)
    ]
    runs += [make_sized_run(size, "tfidf", test=0.77) for size in better]
    shown = render_markdown(make_evidence(runs), text=ENGLISH)
    row = re.search(
        r"\| Ahead from so many labels on \| +TF-IDF.*\n.*\n\| LoRA +\| +(\d+) \((\S+) to (\S+)\)", shown
    )
    assert row is not None
    assert 100 < float(row[1]) < 200
    assert re.search(r"800 \(2 times\), forecast \| 4000 \(10 times\), forecast", shown)
    assert re.search(r"\| LoRA +\| 90\.0 % \(.*\) \| +9\d\.\d % \(", shown)
    assert "从多少标注起领先" in render_markdown(make_evidence(runs), text=CHINESE)


def test_a_method_that_never_gets_ahead_has_no_number() -> None:
    runs = [make_sized_run(size, "lora", test=0.6) for size in (50, 100, 200)]
    runs += [make_sized_run(size, "tfidf", test=0.9) for size in (50, 100, 200)]
    shown = render_markdown(make_evidence(runs), text=ENGLISH)
    assert re.search(r"\| LoRA +\| +over 200 +\|", shown)


def test_setfit_is_held_against_simpler_methods_and_is_none_of_them() -> None:
    runs = [
        make_sized_run(size, method, test=accuracy, seed=seed)
        for method, accuracy in (("head", 0.7), ("setfit", 0.8), ("lora", 0.9))
        for size in (50, 100, 200)
        for seed in range(3)
    ]
    shown = render_markdown(make_evidence(runs), text=ENGLISH)
    assert re.search(
        r"\| Ahead from so many labels on \| +Frozen encoder \|\n.*\n\| SetFit +\| +≤ 50 \|", shown
    )
