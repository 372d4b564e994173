"""Methods over several data sets: mean ranks, wins, and what so many data sets can show."""

import math
import re
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from records import make_evidence, make_run, render_markdown
from scipy import stats

from bench.report.across.ranks import (
    FEWEST,
    Ranking,
    compare_ranks,
    find_least_p,
    find_wilcoxon_p,
    rank_methods,
)
from bench.report.language.text import LANGUAGES
from bench.results.store import Result

ENGLISH, CHINESE = LANGUAGES["en"], LANGUAGES["zh"]


def make_sets(accuracies: Mapping[str, Sequence[float | None]]) -> list[Result]:
    """Runs of each method on each data set; None: it has none there."""
    return [
        make_run(method, data=f"d{place}", names={"data": f"set{place}"}, test=test)
        for method, tests in accuracies.items()
        for place, test in enumerate(tests)
        if test is not None
    ]


def rank_all(accuracies: Mapping[str, Sequence[float | None]]) -> Ranking:
    ranking = rank_methods(make_evidence(make_sets(accuracies)).rows)
    assert ranking is not None
    return ranking


def test_ranks_are_means_over_data_sets_and_equals_share_theirs() -> None:
    ranking = rank_all({"full": [0.8, 0.9], "lora": [0.8, 0.7], "qlora": [0.7, 0.8]})
    found = {one.rows[0].title: (one.mean_rank, one.wins) for one in ranking.contenders}
    assert found == {"Full fine-tuning": (1.25, 2), "LoRA": (2.25, 1), "QLoRA": (2.5, 0)}
    assert next(iter(found)) == "Full fine-tuning"


def test_few_data_sets_have_no_verdict_and_the_reason_in_words() -> None:
    runs = make_sets({"full": [0.9, 0.9, 0.9], "lora": [0.5, 0.5, 0.5]})
    shown = render_markdown(make_evidence(runs), text=ENGLISH)
    assert "## Over all data sets" in shown
    assert re.search(r"\| Method +\| Mean rank \| Wins \| +set0 \| +set1 \| +set2 \|", shown)
    assert "3 data sets say little" in shown
    assert "p is no less than 0.25 (2^-(n-1)" in shown
    assert f"It takes at least {FEWEST}" in shown
    assert find_least_p(FEWEST) < 0.05 < find_least_p(FEWEST - 1)
    assert "0.25" in render_markdown(make_evidence(runs), text=CHINESE)


def test_two_methods_are_compared_by_wilcoxon() -> None:
    full = [0.80, 0.81, 0.82, 0.83, 0.84, 0.85]
    better = rank_all({"full": full, "lora": [one + 0.01 + place / 100 for place, one in enumerate(full)]})
    assert better.test is not None
    assert (better.test.name, better.test.p_value) == ("wilcoxon", pytest.approx(2**-5))
    mixed = [0.82, 0.79, 0.85, 0.80, 0.84, 0.86]
    other = rank_all({"full": full, "lora": mixed})
    assert other.test is not None
    assert other.test.p_value > 0.2


def test_wilcoxon_is_exact_for_few_data_sets_also_with_equals() -> None:
    assert find_wilcoxon_p(np.zeros(7)) == 1
    assert find_wilcoxon_p(np.array([0.01] * 7)) == pytest.approx(
        2**-6
    )  # by ties alone scipy would approximate
    distinct = np.array([0.03, -0.01, 0.05, 0.02, 0.07, -0.04, 0.06])
    assert find_wilcoxon_p(distinct) == pytest.approx(stats.wilcoxon(distinct, method="exact").pvalue)
    many = np.random.default_rng(0).normal(0.01, 0.01, 30)
    assert find_wilcoxon_p(many) == pytest.approx(stats.wilcoxon(many).pvalue)


def test_the_critical_difference_is_that_of_demsar() -> None:
    """His table 5 (a): q of 4 methods is 2.569; of his 14 data sets the critical difference is 1.25."""
    scores = np.tile(np.array([[0.9], [0.8], [0.7], [0.6]]), 14)
    test = compare_ranks(scores)
    assert test is not None
    assert test.critical == pytest.approx(2.569 * math.sqrt(4 * 5 / (6 * 14)), abs=2e-3)
    assert test.critical == pytest.approx(1.25, abs=0.01)


def test_methods_further_apart_than_the_critical_difference_are_said() -> None:
    places = range(8)
    runs = make_sets(
        {
            "full": [0.9 + place / 1000 for place in places],
            "lora": [0.8 + place / 1000 for place in places],
            "qlora": [0.7 + place / 1000 for place in places],
        }
    )
    shown = render_markdown(make_evidence(runs), text=ENGLISH)
    assert (
        "Friedman's test of 3 methods over 8 data sets: chi squared 16.0, p &lt; 0.001; the methods differ."
        in shown
    )
    assert "(Nemenyi, 5 %): 1.17. Further apart: Full fine-tuning before QLoRA." in shown


def test_methods_that_take_turns_are_not_said_to_differ_nor_to_be_equal() -> None:
    turns = [[0.9, 0.8, 0.7], [0.8, 0.7, 0.9], [0.7, 0.9, 0.8]]
    runs = make_sets(dict(zip(("full", "lora", "qlora"), [row * 2 for row in turns], strict=True)))
    shown = render_markdown(make_evidence(runs), text=ENGLISH)
    assert "no difference is shown, which does not make them equal" in shown
    assert "Critical difference" not in shown


def test_a_method_that_lacks_a_data_set_is_named_and_a_baseline_may_lack_one() -> None:
    runs = make_sets({"full": [0.8, 0.8], "lora": [0.7, 0.7], "qlora": [0.9, None], "tfidf": [0.5, None]})
    shown = render_markdown(make_evidence(runs), text=ENGLISH)
    assert re.search(r"Left out, as they lack a result on some data set, .*: QLoRA\.", shown)
    ranking = rank_all({"full": [0.8, 0.8], "qlora": [0.9, None], "lora": [None, 0.7]})
    assert [one.rows[0].method for one in ranking.contenders] == ["full"]
    nothing = make_sets({"qlora": [0.9, None], "lora": [None, 0.7]})
    assert "No method has a result on all data sets." in render_markdown(make_evidence(nothing), text=ENGLISH)


def test_another_split_of_the_same_texts_is_no_other_data_set() -> None:
    runs = [make_run(data=f"d{seed}") for seed in (0, 1)]
    for seed, run in enumerate(runs):
        run.config["data"] |= {"split_seed": seed, "train": "my.csv"}
    assert rank_methods(make_evidence(runs).rows) is None
    runs[1].config["data"]["train"] = "other.csv"
    assert rank_methods(make_evidence(runs).rows) is not None


def test_methods_of_several_models_are_ranked_together() -> None:
    runs = [
        make_run(data=data, revision=model, names={"data": data, "model": model}, test=test)
        for data in ("d1", "d2")
        for model, test in (("m1", 0.8), ("m2", 0.9))
    ]
    shown = render_markdown(make_evidence(runs), text=ENGLISH)
    assert re.search(r"\| LoRA on m2 +\| +1\.00 \| +2 \|", shown)


@pytest.mark.parametrize(("methods", "sets"), [(3, 6), (5, 10)])
def test_equal_methods_are_seldom_said_to_differ(methods: int, sets: int) -> None:
    random, wrong, studies = np.random.default_rng(0), 0, 300
    for _ in range(studies):
        scores = random.normal(0.8, 0.05, sets) + random.normal(0, 0.01, (methods, sets))
        test = compare_ranks(scores)
        assert test is not None
        ranks = stats.rankdata(-scores, axis=0).mean(axis=1)
        wrong += test.critical is not None and bool(np.ptp(ranks) > test.critical)
    assert wrong / studies <= 0.08  # 5 %, and two standard errors
