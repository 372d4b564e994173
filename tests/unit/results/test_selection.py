import copy
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.config.identity import hash_canonical
from bench.results.selection import (
    configuration_key,
    fill_scores,
    group_by_method,
    method_key,
    read_criterion,
    select_best,
)
from bench.results.store import Result, Store

FIELDS = {"phase": "save", "attempt": 1, "started_at": "2026-01-01T00:00:00.000+00:00", "ended_at": None}


def make_run(
    *,
    lr: float,
    seed: int | None = 0,
    validation: float | None = 0.8,
    loss: float | None = 0.5,
    f1: float = 0.7,
    test: float = 0.6,
    status: str = "success",
    method: str = "lora",
    data: str = "d1",
    revision: str | None = "m1",
    select_by: str = "accuracy",
    fold: int | None = None,
) -> Result:
    canonical: dict[str, Any] = {
        "data": {"fingerprint": data} | ({} if fold is None else {"fold": fold}),
        "method": {"estimator": method},
        "train": {"lr": lr},
    }
    if seed is not None:
        canonical["seed"] = seed
    if revision is not None:
        canonical["model"] = {"revision": revision}
    scores = {"accuracy": validation, "f1_macro": f1, "loss": loss}
    return Result(
        run_id=hash_canonical(canonical),
        status=status,
        config={"method": {"name": method}, "seed": seed or 0, "sweep": {"select_by": select_by}},
        canonical_config=canonical,
        metrics={
            "validation": scores,
            "test": {"accuracy": test, "f1_macro": test, "loss": 1.0},
        }
        if status == "success"
        else {},
        **FIELDS,
    )


def learning_rate(results: tuple[Result, ...]) -> float:
    return results[0].canonical_config["train"]["lr"]


def test_a_configuration_is_what_remains_without_the_seed():
    same = {configuration_key(make_run(lr=1e-3, seed=seed)) for seed in (0, 1, 2)}
    other = configuration_key(make_run(lr=2e-3))
    assert len(same) == 1
    assert other not in same


def test_the_highest_validation_accuracy_wins_and_brings_all_its_seeds_in_order():
    runs = [
        make_run(lr=1e-3, validation=0.80),
        make_run(lr=3e-3, seed=2, validation=0.70),
        make_run(lr=3e-3, seed=0, validation=0.90),
        make_run(lr=3e-3, seed=1, status="oom"),
        make_run(lr=5e-3, status="failed"),
    ]
    best = select_best(runs)
    assert best is not None
    assert learning_rate(best.results) == 3e-3
    assert [one.canonical_config["seed"] for one in best.results] == [0, 2]
    assert (best.seed, best.configurations, best.failed_runs) == (0, 3, 2)


def test_one_configuration_with_a_lucky_extra_seed_does_not_win_by_it():
    runs = [
        make_run(lr=1e-3, seed=0, validation=0.80),
        make_run(lr=1e-3, seed=1, validation=0.99),
        make_run(lr=3e-3, seed=0, validation=0.85),
    ]
    best = select_best(runs)
    assert best is not None
    assert learning_rate(best.results) == 3e-3


def test_the_common_seed_is_the_most_shared_one_and_the_smallest_of_equals():
    shared = [
        make_run(lr=1e-3, seed=0, validation=0.99),
        *(make_run(lr=lr, seed=7, validation=score) for lr, score in ((2e-3, 0.6), (3e-3, 0.7))),
    ]
    best = select_best(shared)
    assert best is not None
    assert (best.seed, learning_rate(best.results)) == (7, 3e-3)
    equal = [make_run(lr=1e-3, seed=5, validation=0.9), make_run(lr=2e-3, seed=3, validation=0.1)]
    smallest = select_best(equal)
    assert smallest is not None
    assert (smallest.seed, learning_rate(smallest.results)) == (3, 2e-3)


def test_a_failed_seed_is_not_shared():
    runs = [
        make_run(lr=1e-3, seed=0, status="oom"),
        make_run(lr=2e-3, seed=0, status="oom"),
        make_run(lr=2e-3, seed=1),
    ]
    best = select_best(runs)
    assert best is not None
    assert best.seed == 1


@pytest.mark.parametrize("losses", [(0.4, 0.5), (0.4, None)])
def test_ties_go_to_the_lower_validation_loss(losses: tuple[float, float | None]):
    for low, high in ((1e-3, 2e-3), (2e-3, 1e-3)):
        best = select_best([make_run(lr=low, loss=losses[0]), make_run(lr=high, loss=losses[1])])
        assert best is not None
        assert learning_rate(best.results) == low


def test_full_ties_are_broken_the_same_way_in_any_order():
    runs = [make_run(lr=lr) for lr in (1e-3, 2e-3, 3e-3)]
    chosen = {learning_rate(found.results) for order in (runs, runs[::-1]) if (found := select_best(order))}
    assert len(chosen) == 1


def test_select_by_f1_looks_at_f1():
    runs = [make_run(lr=1e-3, validation=0.9, f1=0.1), make_run(lr=2e-3, validation=0.1, f1=0.9)]
    by_accuracy, by_f1 = select_best(runs), select_best(runs, select_by="f1_macro")
    assert by_accuracy is not None
    assert by_f1 is not None
    assert learning_rate(by_accuracy.results) == 1e-3
    assert learning_rate(by_f1.results) == 2e-3
    assert by_f1.select_by == "f1_macro"


@pytest.mark.parametrize("validation", [None, float("nan")])
def test_without_a_comparable_success_there_is_no_selection(validation: float | None):
    assert select_best([]) is None
    assert select_best([make_run(lr=1e-3, status="crashed")]) is None
    assert select_best([make_run(lr=1e-3, validation=validation)]) is None


def test_a_method_without_randomness_needs_no_seed():
    best = select_best([make_run(lr=1e-3, seed=None, revision=None)])
    assert best is not None
    assert best.seed is None


def test_baselines_without_a_model_belong_to_each_task_with_the_same_data():
    baseline = make_run(lr=1.0, seed=None, revision=None, method="tfidf")
    alone = make_run(lr=1.0, seed=None, revision=None, method="tfidf", data="d2")
    runs = [baseline, alone, make_run(lr=1e-3), make_run(lr=1e-3, revision="m2")]
    groups = group_by_method(runs)
    assert set(groups) == {
        ("d1", "m1", "tfidf"),
        ("d1", "m1", "lora"),
        ("d1", "m2", "tfidf"),
        ("d1", "m2", "lora"),
        ("d2", None, "tfidf"),
    }
    assert groups[method_key(runs[2])] == [runs[2]]


def test_groups_come_in_one_order_whatever_the_order_of_the_runs():
    runs = [make_run(lr=lr, method=method) for lr in (1e-3, 2e-3, 3e-3) for method in ("lora", "full")]
    shuffled = random.Random(0).sample(runs, len(runs))
    assert list(group_by_method(shuffled).items()) == list(group_by_method(runs).items())


def test_the_criterion_is_what_most_runs_were_selected_by():
    assert read_criterion([]) == "accuracy"
    runs = [make_run(lr=lr, select_by="f1_macro") for lr in (1e-3, 2e-3)]
    assert read_criterion([*runs, make_run(lr=3e-3)]) == "f1_macro"
    assert read_criterion([runs[0], make_run(lr=3e-3)]) == "accuracy"


def make_folds(lr: float, scores: dict[int, float], *, seed: int | None = 0) -> list[Result]:
    return [make_run(lr=lr, seed=seed, fold=fold, validation=score) for fold, score in scores.items()]


def test_configurations_compete_by_their_means_over_folds() -> None:
    lucky = make_folds(1e-3, {0: 0.99, 1: 0.6, 2: 0.6})
    steady = make_folds(2e-3, {0: 0.8, 1: 0.8, 2: 0.8})
    best = select_best([*lucky, *steady])
    assert best is not None
    assert best.results == tuple(steady)
    assert best.candidates == (steady[0], lucky[0])
    assert best.scores == pytest.approx((0.8, 0.73))
    assert best.configurations == 2
    assert len(group_by_method([*lucky, *steady])) == 1


def test_a_tie_of_means_goes_to_the_lower_mean_loss() -> None:
    runs = [
        make_run(lr=lr, fold=fold, validation=0.8, loss=loss)
        for lr, losses in ((1e-3, (0.1, 0.9)), (2e-3, (0.4, 0.5)))
        for fold, loss in enumerate(losses)
    ]
    best = select_best(runs)
    assert best is not None
    assert learning_rate(best.results) == 2e-3


@pytest.mark.parametrize(
    ("folds", "rates", "scores"),
    [
        # the mean over the folds that both have
        ({1e-3: {0: 0.9, 1: 0.9, 2: 0.1}, 2e-3: {0: 0.8, 1: 0.8}}, [1e-3, 2e-3], [0.9, 0.8]),
        ({1e-3: {0: 0.9, 1: 0.6}, 2e-3: {1: 0.7, 2: 0.1}}, [2e-3, 1e-3], [0.7, 0.6]),
        # one that has a single fold would leave the others with that alone
        (
            {1e-3: {0: 0.99}, 2e-3: {0: 0.5, 1: 0.8, 2: 0.8}, 3e-3: {0: 0.6, 1: 0.7, 2: 0.7}},
            [2e-3, 3e-3],
            [0.7, 0.667],
        ),
        # nothing in common: the more folds, then the earlier ones
        ({1e-3: {2: 0.9}, 2e-3: {0: 0.1, 1: 0.2}}, [2e-3], [0.15]),
        ({1e-3: {1: 0.9}, 2e-3: {0: 0.1}}, [2e-3], [0.1]),
    ],
)
def test_the_folds_of_the_most_runs_that_can_be_compared_decide(
    folds: dict[float, dict[int, float]], rates: list[float], scores: list[float]
) -> None:
    runs = [run for rate, some in folds.items() for run in make_folds(rate, some)]
    for order in (runs, runs[::-1]):
        best = select_best(order)
        assert best is not None
        assert [learning_rate((one,)) for one in best.candidates] == rates
        assert best.scores == pytest.approx(scores, abs=1e-3)


def test_folds_are_compared_at_one_seed_and_stand_in_order() -> None:
    chosen = [*make_folds(1e-3, {1: 0.8, 0: 0.8}, seed=1), *make_folds(1e-3, {1: 0.7, 0: 0.7}, seed=0)]
    other = make_folds(2e-3, {0: 0.75, 1: 0.75}, seed=1)
    best = select_best([*chosen, *other])
    assert best is not None
    assert best.seed == 1
    assert best.scores == pytest.approx((0.8, 0.75))
    places = [(one.canonical_config["seed"], one.canonical_config["data"]["fold"]) for one in best.results]
    assert places == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert best.first_of_folds == list(best.results[:2])


runs_of_one_method = st.lists(
    st.builds(
        make_run,
        lr=st.sampled_from([1e-3, 2e-3, 3e-3]),
        seed=st.integers(0, 2),
        validation=st.sampled_from([0.5, 0.6, 0.7]),
        loss=st.sampled_from([0.3, 0.4]),
        status=st.sampled_from(["success", "success", "oom", "started"]),
    ),
    min_size=1,
    max_size=9,
    unique_by=lambda run: run.run_id,
)


@given(runs_of_one_method, st.randoms(use_true_random=False))
def test_test_metrics_and_order_never_change_the_selection(runs: list[Result], rng: random.Random):
    def choose(some: list[Result]) -> tuple[list[str], int | None] | None:
        best = select_best(some)
        return best and ([one.run_id for one in best.results], best.seed)

    changed = []
    for run in runs:
        metrics = copy.deepcopy(run.metrics)
        if metrics:
            metrics["test"] = rng.choice([{}, None, {"accuracy": rng.random(), "loss": rng.random()}])
        changed.append(replace(run, metrics=metrics))
    rng.shuffle(changed)
    assert choose(changed) == choose(runs)


def test_a_run_measured_alone_competes_with_its_scores_of_the_pack() -> None:
    fell = make_run(lr=1e-4, validation=0.7)
    earlier = {"status": "success", "validation": {"accuracy": 0.9, "loss": 0.5}}
    fell = replace(fell, attempts=[{"status": "crashed", "validation": None}, earlier])
    found = select_best([fell, make_run(lr=2e-4, validation=0.8)])
    assert found is not None
    assert found.results == (fell,)
    assert found.scores == (0.9, 0.8)


def test_records_from_before_a_score_was_kept_are_selected_by_their_predictions(tmp_path: Path):
    """The more accurate run always answers the frequent label; the other one knows the rare one too."""
    store, labels = Store(tmp_path), ["a"] * 90 + ["b"] * 10
    answers = {1e-3: ["a"] * 100, 3e-3: ["a"] * 75 + ["b"] * 25}
    runs = [make_run(lr=1e-3, validation=0.90), make_run(lr=3e-3, validation=0.85)]
    runs = [replace(run, labels=["a", "b"]) for run in runs]
    for run in runs:
        rows = {"split": "validation", "id": range(100), "label": labels}
        predicted = answers[run.canonical_config["train"]["lr"]]
        store.write(run)
        store.write_predictions(run.run_id, pd.DataFrame({**rows, "prediction": predicted}))
    unreadable = make_run(lr=5e-3, validation=0.99)
    assert select_best(runs, select_by="mcc") is None
    for select_by in ("mcc", "balanced_accuracy"):
        best = select_best(fill_scores([*runs, unreadable], store, select_by), select_by=select_by)
        assert best is not None
        assert learning_rate(best.results) == 3e-3
        assert len(best.candidates) == 2
    assert fill_scores(runs, store, "accuracy") == runs
    assert learning_rate(select_best(runs).results) == 1e-3  # type: ignore[union-attr]
