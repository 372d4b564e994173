"""Which methods differ: verdicts on planted differences, and what may not be compared."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from records import NO_PRICES, make_evidence, make_predictions, make_run
from scipy import stats
from sklearn.metrics import f1_score

from bench.config.schema import LOOKS
from bench.report.numbers.comparison import Comparison
from bench.report.numbers.equivalence import Needs
from bench.report.numbers.rows import build_rows
from bench.results.store import Result

ROWS = 2000
LABELS = ["a", "b", "c"]


def plant(
    accuracies: dict[str, Sequence[float]], *, rows: int = ROWS
) -> tuple[list[Result], dict[str, pd.DataFrame]]:
    """Runs of each method, a seed for each accuracy, and their predictions: all find the same texts hard."""
    random = np.random.default_rng(0)
    labels, ease = random.integers(len(LABELS), size=rows), random.standard_normal(rows)
    names = np.array(LABELS, dtype=object)
    results, predictions = [], {}
    for method, seeds in accuracies.items():
        for seed, accuracy in enumerate(seeds):
            skill = 0.8 * ease + 0.6 * random.standard_normal(rows)
            right = skill < np.quantile(skill, accuracy)
            predicted = np.where(right, labels, (labels + random.integers(1, 3, size=rows)) % 3)
            run = make_run(method, seed=seed, test=float((predicted == labels).mean()))
            results.append(replace(run, data={"sizes": {"test": rows}}))
            predictions[run.run_id] = pd.DataFrame(
                {"split": "test", "id": range(rows), "label": names[labels], "prediction": names[predicted]}
            )
    return results, predictions


def compare(accuracies: dict[str, Sequence[float]], *, rows: int = ROWS) -> list[Comparison]:
    results, predictions = plant(accuracies, rows=rows)
    return list(make_evidence(results, predictions=predictions).comparisons)


def test_a_real_difference_is_found() -> None:
    (found,) = compare({"full": [0.85, 0.851, 0.849], "lora": [0.90, 0.899, 0.901]})
    assert found.verdict == "difference"
    assert (found.one.method, found.other.method, found.rows) == ("lora", "full", ROWS)
    assert found.accuracy.estimate == pytest.approx(0.05, abs=1e-9)
    assert found.accuracy.low is not None
    assert found.accuracy.low > 0


def test_where_there_is_no_difference_none_is_found() -> None:
    (found,) = compare({"full": [0.88, 0.881, 0.879], "lora": [0.88, 0.879, 0.881]})
    assert found.verdict == "equal"
    assert found.accuracy.low is not None
    assert found.accuracy.high is not None
    assert found.accuracy.low < 0 < found.accuracy.high
    assert found.f1_macro.low is not None
    assert found.f1_macro.high is not None
    assert found.f1_macro.low < 0 < found.f1_macro.high


def test_a_difference_no_larger_than_seeds_make_is_none() -> None:
    (found,) = compare({"full": [0.80, 0.88, 0.84], "lora": [0.84, 0.92, 0.88]})
    alone = found.accuracy.estimate / found.error_texts
    assert alone > 5  # other texts would say the same of these models
    assert found.verdict == "undecided"
    assert found.needs is not None
    assert (found.needs.kind, found.needs.texts) == ("seeds", None)
    assert found.accuracy.low is not None
    assert found.accuracy.low < 0


def test_of_one_seed_each_only_the_trained_models_are_judged() -> None:
    (found,) = compare({"full": [0.80], "lora": [0.88]})
    assert (found.verdict, found.error_seeds) == ("one_seed", None)
    (mixed,) = compare({"full": [0.80], "lora": [0.88, 0.879, 0.881]})
    assert mixed.verdict == "one_seed"
    (small,) = compare({"full": [0.876], "lora": [0.88]})
    assert small.verdict == "undecided"


def test_a_method_without_randomness_adds_no_seeds() -> None:
    (found,) = compare({"tfidf": [0.80], "lora": [0.88, 0.879, 0.881]})
    assert found.verdict == "difference"
    assert found.error_seeds == pytest.approx(0.001 / math.sqrt(3), rel=1e-3)


def test_of_more_comparisons_each_has_to_be_clearer() -> None:
    (alone,) = compare({"full": [0.88, 0.86, 0.87], "lora": [0.90, 0.89, 0.91]})
    last = compare({"full": [0.88, 0.86, 0.87], "lora": [0.90, 0.89, 0.91], "qlora": [0.88, 0.86, 0.87]})[0]
    assert last.accuracy == alone.accuracy
    assert last.adjusted_p > alone.adjusted_p
    assert alone.detectable is not None
    assert last.detectable is not None
    assert last.detectable > alone.detectable


def test_numbers_are_those_of_scipy_and_scikit_learn() -> None:
    results, predictions = plant({"full": [0.80, 0.83], "lora": [0.84, 0.88]}, rows=300)
    (found,) = make_evidence(results, predictions=predictions).comparisons
    by_method = {
        method: [predictions[one.run_id] for one in results if one.config["method"]["name"] == method]
        for method in ("full", "lora")
    }
    f1 = {
        method: np.mean(
            [f1_score(one["label"], one["prediction"], labels=LABELS, average="macro") for one in frames]
        )
        for method, frames in by_method.items()
    }
    assert found.f1_macro.estimate == pytest.approx(f1["lora"] - f1["full"])
    shares = [
        np.mean([one["label"] == one["prediction"] for one in frames], axis=0)
        for frames in by_method.values()
    ]
    difference = shares[1] - shares[0]
    assert found.accuracy.estimate == pytest.approx(difference.mean())
    assert found.error_texts == pytest.approx(stats.sem(difference))
    assert found.error_seeds == pytest.approx(math.sqrt((0.03**2 + 0.04**2) / 4), rel=0.01)  # 2 seeds each
    assert found.told_apart == np.count_nonzero(difference.round(9))


def test_of_one_seed_the_interval_and_the_p_are_those_of_a_paired_t_test() -> None:
    results, predictions = plant({"full": [0.80], "lora": [0.88]}, rows=300)
    (found,) = make_evidence(results, predictions=predictions).comparisons
    right = [(one["label"] == one["prediction"]).astype(float) for one in predictions.values()]
    expected = stats.ttest_rel(right[1], right[0])
    interval = expected.confidence_interval(0.95)
    assert (found.accuracy.low, found.accuracy.high) == pytest.approx((interval.low, interval.high))
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-6)


def test_shared_resamples_make_the_interval_of_f1_as_narrow_as_that_of_accuracy() -> None:
    (found,) = compare({"full": [0.88], "lora": [0.88]})
    widths = [one.high - one.low for one in (found.accuracy, found.f1_macro) if one.low is not None]
    assert widths[1] == pytest.approx(widths[0], rel=0.1)


def test_baselines_take_part_through_the_best_of_them_on_validation() -> None:
    results = [
        make_run("majority", validation=0.3, test=0.9),
        make_run("tfidf", validation=0.7, test=0.5),
        make_run("full"),
        make_run("lora"),
    ]
    pairs = [(one.one.method, one.other.method) for one in make_evidence(results).comparisons]
    assert pairs == [("full", "tfidf"), ("lora", "tfidf"), ("lora", "full")]


def test_the_base_as_it_is_is_compared_beside_the_best_baseline() -> None:
    results = [
        make_run("zero_shot", validation=0.5, test=0.5),
        *(make_run("few_shot", seed=seed, validation=0.6, test=0.6) for seed in range(3)),
        make_run("majority", validation=0.3),
        make_run("tfidf", validation=0.7),
        make_run("full"),
    ]
    pairs = {(one.one.method, one.other.method): one for one in make_evidence(results).comparisons}
    assert set(pairs) == {
        *(("full", other) for other in ("tfidf", "few_shot", "zero_shot")),
        *(("tfidf", other) for other in ("few_shot", "zero_shot")),
        ("few_shot", "zero_shot"),
    }
    assert len(pairs["few_shot", "zero_shot"].one.seeds) == 3
    assert pairs["few_shot", "zero_shot"].verdict == "difference"


def test_different_test_sets_are_never_compared() -> None:
    results = [make_run("full", data="d1"), make_run("lora", data="d2")]
    assert make_evidence(results).comparisons == []


def test_memory_kinds_have_comparisons_of_their_own() -> None:
    results = [make_run("full", kind="cuda"), make_run("lora", kind="cpu_resident")]
    assert make_evidence(results).comparisons == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"id": 1}, "its test texts are not those of the other methods"),
        ({"label": "b"}, "its predictions have an accuracy of"),
        ({"prediction": "z"}, "hold a label that its record does not"),
    ],
)
def test_what_is_not_of_the_same_texts_is_left_out(change: dict[str, object], reason: str) -> None:
    results = [make_run("full"), make_run("lora"), make_run("qlora")]
    predictions = {one.run_id: make_predictions(one) for one in results}
    changed = predictions[results[0].run_id]
    for name, value in change.items():
        changed.loc[0, name] = value if name != "id" else 100_000
    evidence = make_evidence(results, predictions=predictions)
    assert [(one.row.method, reason in one.reason) for one in evidence.left_out] == [("full", True)]
    assert [(one.one.method, one.other.method) for one in evidence.comparisons] == [("qlora", "lora")]


def test_the_order_of_predictions_does_not_matter() -> None:
    results = [make_run("full"), make_run("lora")]
    predictions = {one.run_id: make_predictions(one) for one in results}
    last = results[-1].run_id
    shuffled = {**predictions, last: predictions[last].sample(frac=1, random_state=0)}
    found, again = (make_evidence(results, predictions=some).comparisons for some in (predictions, shuffled))
    assert found[0].accuracy == again[0].accuracy
    assert found[0].f1_macro.estimate == again[0].f1_macro.estimate


def test_predictions_that_are_gone_leave_a_method_out_and_nothing_else() -> None:
    results = [make_run("full"), make_run("lora"), make_run("qlora")]
    predictions = {one.run_id: make_predictions(one) for one in results[1:]}
    evidence = make_evidence(results, predictions=predictions)
    assert [(one.row.method, "No such file" in one.reason) for one in evidence.left_out] == [("full", True)]
    assert len(evidence.comparisons) == 1
    assert len(build_rows(results)) == 3


def test_too_few_texts_that_tell_two_apart_give_no_interval() -> None:
    results = [make_run("full", test=1.0), make_run("lora", test=0.99)]
    (found,) = make_evidence(results).comparisons
    assert (found.told_apart, found.accuracy.low, found.p_value, found.verdict) == (4, None, 1.0, "undecided")
    assert found.accuracy.estimate == pytest.approx(-0.01)


def test_with_enough_texts_methods_are_equal_within_the_margin_and_no_further() -> None:
    seeds = {"full": [0.9, 0.9005, 0.8995], "lora": [0.9, 0.8995, 0.9005]}
    (found,) = compare(seeds, rows=6000)
    assert (found.verdict, found.needs, found.delta) == ("equal", None, 0.01)
    assert found.adjusted_equal_p < 0.05 < found.adjusted_p
    results, predictions = plant(seeds, rows=6000)
    strict = replace(NO_PRICES, equivalence_points=0.1)
    (found,) = make_evidence(results, predictions=predictions, report=strict).comparisons
    assert found.verdict == "undecided"
    (found,) = compare({"full": [0.9, 0.9005, 0.8995], "lora": [0.894, 0.8935, 0.8945]}, rows=16_000)
    assert (found.verdict, found.is_slight) == ("difference", True)


def test_one_seed_cannot_show_that_methods_are_equal() -> None:
    (found,) = compare({"full": [0.9], "lora": [0.9]}, rows=6000)
    assert found.adjusted_equal_p < 0.05
    assert found.verdict == "undecided"
    assert found.needs == Needs("first_seeds", seeds=3)
    alike = [make_run("full"), make_run("lora")]
    answers = {one.run_id: make_predictions(alike[0]) for one in alike}
    (found,) = make_evidence(alike, predictions=answers).comparisons
    assert (found.is_alike, found.verdict, found.needs) == (True, "equal", None)


def test_of_more_comparisons_equality_has_to_be_clearer_too() -> None:
    pair = {"full": [0.9, 0.9005, 0.8995], "lora": [0.9, 0.8995, 0.9005]}
    (alone,) = compare(pair, rows=4000)
    last = compare({**pair, "qlora": [0.7, 0.7005, 0.6995]}, rows=4000)[0]
    assert (last.equal_p, last.verdict) == (alone.equal_p, alone.verdict)
    assert last.adjusted_equal_p == pytest.approx(3 * alone.adjusted_equal_p)


def test_seeds_that_came_in_rounds_make_the_verdicts_stricter() -> None:
    accuracies = {"full": [0.88, 0.87, 0.875], "lora": [0.89, 0.892, 0.888], "tfidf": [0.8]}
    results, predictions = plant(accuracies)
    rounds = [
        replace(one, config=one.config | {"sweep": {"final_seeds": "auto"}})
        if one.config["method"]["name"] == "lora"
        else one
        for one in results
    ]
    alone, looked = (make_evidence(some, predictions=predictions).comparisons for some in (results, rounds))
    for one, other in zip(alone, looked, strict=True):
        assert other.p_value == one.p_value
        assert other.adjusted_p == pytest.approx(min(1.0, len(LOOKS) * one.adjusted_p))
        assert other.adjusted_equal_p == pytest.approx(min(1.0, len(LOOKS) * one.adjusted_equal_p))
        assert one.detectable is not None
        assert other.detectable is not None
        assert other.detectable > one.detectable
    [(first, later)] = [
        (one, other)
        for one, other in zip(alone, looked, strict=True)
        if one.one.method == "lora" and one.other.method == "full"
    ]
    assert first.adjusted_p < 0.05 < later.adjusted_p
    assert (first.verdict, later.verdict) == ("difference", "undecided")
