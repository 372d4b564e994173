"""Final seeds in rounds: which methods get more of them, how many, and after a kill."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from sweeps import Compose, Trainer

from bench.config.identity import Identity, identify
from bench.config.schema import LOOKS, Config, replace_values
from bench.report.numbers.comparison import Comparison
from bench.report.numbers.equivalence import Needs
from bench.results.store import Store
from bench.sweep.engine import Foresight, Sweep
from bench.sweep.plan import Axes, Point
from bench.sweep.request import Identifier, plan_sweep
from bench.sweep.search.sequence import list_seeds, train_in_rounds


def identify_here(config: Config) -> Identity:
    return identify(config, data_fingerprint=config.data.name, model_revision=config.model.name)


def make_point(compose: Compose, method: str, seed: int = 0) -> Point:
    config = replace_values(compose(f"method={method}"), {"seed": seed})
    return Point((f"method={method}",), config, identify_here(config))


def compare(one: Point, other: Point, verdict: str, needs: Needs | None = None) -> Comparison:
    rows = [SimpleNamespace(run_ids=(point.run_id,)) for point in (one, other)]
    return cast(Comparison, SimpleNamespace(one=rows[0], other=rows[1], verdict=verdict, needs=needs))


Seeds = dict[str, list[int]]


@pytest.fixture
def train() -> Callable[..., list[Seeds]]:
    """What is launched in each round, by method, given the comparisons after each."""

    def train_with(
        best: Sequence[Point],
        looks: Sequence[Sequence[Comparison]],
        tried: Sequence[str] = (),
        most: int = 100,
    ) -> list[Seeds]:
        launched, known, verdicts = list[Seeds](), set(tried), iter(looks)

        def launch(points: Sequence[Point]) -> bool:
            new = [point for point in points if point.run_id not in known]
            known.update(point.run_id for point in new)
            launched.append({})
            for point in new:
                launched[-1].setdefault(point.config.method.name, []).append(point.config.seed)
            return len(launched) < most

        train_in_rounds(
            best,
            identify=identify_here,
            is_tried=lambda point: point.run_id in known,
            launch=launch,
            compare=lambda: next(verdicts),
        )
        return launched

    return train_with


SEEDS, TEXTS = Needs("seeds", seeds=20), Needs("texts", texts=5000)


def test_only_methods_that_are_not_told_apart_get_more_seeds(
    compose: Compose, train: Callable[..., list[Seeds]], capsys: pytest.CaptureFixture[str]
) -> None:
    full, lora, qlora = best = [make_point(compose, method) for method in ("full", "lora", "qlora")]
    tried = [point.run_id for point in best]
    open_ = [
        compare(full, lora, "difference"),
        compare(full, qlora, "equal"),
        compare(lora, qlora, "undecided", SEEDS),
    ]
    closed = [*open_[:2], compare(lora, qlora, "equal")]
    assert train(best, [open_, closed], tried) == [
        {"full": [1, 2], "lora": [1, 2], "qlora": [1, 2]},
        {"lora": [3, 4, 5], "qlora": [3, 4, 5]},
    ]
    assert capsys.readouterr().out.splitlines() == [
        "sweep.final_seeds=auto: 2 of 3 comparisons are decided; "
        "more seeds of lora (6 in all), qlora (6 in all)",
        "sweep.final_seeds=auto: 3 of 3 comparisons are decided; no more seeds",
    ]


def test_there_is_a_most(compose: Compose, train: Callable[..., list[Seeds]]) -> None:
    full, lora = best = [make_point(compose, method) for method in ("full", "lora")]
    rounds = train(
        best, [[compare(full, lora, "undecided", SEEDS)]] * len(LOOKS), [one.run_id for one in best]
    )
    assert [len(one["lora"]) for one in rounds] == [2, 3, 4]


@pytest.mark.parametrize("needs", [TEXTS, Needs("both", texts=5000, seeds=20)])
def test_where_seeds_decide_nothing_none_are_added(
    compose: Compose, train: Callable[..., list[Seeds]], needs: Needs, capsys: pytest.CaptureFixture[str]
) -> None:
    full, lora = best = [make_point(compose, method) for method in ("full", "lora")]
    assert len(train(best, [[compare(full, lora, "undecided", needs)]])) == 1
    assert "no more seeds, as 10 are the most, or more test texts would have to" in capsys.readouterr().out


def test_one_seed_is_never_enough_and_a_baseline_has_none(
    compose: Compose, train: Callable[..., list[Seeds]]
) -> None:
    lora, tfidf = best = [make_point(compose, method) for method in ("lora", "tfidf")]
    looks = [[compare(lora, tfidf, "one_seed")], [compare(lora, tfidf, "difference")]]
    assert train(best, looks, [point.run_id for point in best]) == [{"lora": [1, 2]}, {"lora": [3, 4, 5]}]


def test_a_round_that_was_stopped_is_made_whole_before_the_next_look(
    compose: Compose, train: Callable[..., list[Seeds]]
) -> None:
    full, lora = best = [make_point(compose, method) for method in ("full", "lora")]
    tried = [*(make_point(compose, "lora", seed).run_id for seed in range(4)), full.run_id]
    assert train(best, [[compare(full, lora, "equal")]], tried) == [{"full": [1, 2], "lora": [4, 5]}]
    every = [make_point(compose, "lora", seed).run_id for seed in range(10)]
    assert train(best, [[compare(full, lora, "equal")]], [*every, full.run_id]) == [{"full": [1, 2]}]


def test_rounds_end_where_not_all_of_one_could_be_trained(
    compose: Compose, train: Callable[..., list[Seeds]]
) -> None:
    full, lora = best = [make_point(compose, method) for method in ("full", "lora")]
    assert len(train(best, [[compare(full, lora, "undecided", SEEDS)]] * 4, most=2)) == 2


def test_the_seed_of_the_choice_is_one_of_them(compose: Compose) -> None:
    assert list_seeds(make_point(compose, "lora", 42), 3) == [42, 0, 1]
    assert list_seeds(make_point(compose, "lora", 1), 3) == [1, 0, 2]


def test_a_sweep_trains_the_first_round_and_its_seeds_pack_where_they_are_four(
    base: Config, compose: Compose, store: Store, identify: Identifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    axes: Axes = {"method": ["lora"], "lora.r": [8, 16]}
    plan = plan_sweep([axes], constant=[], compose=lambda lines: compose(*lines), identify=identify)
    given = replace_values(base, {"sweep.final_seeds": "auto", "sweep.strategy": "grid"})

    def sweep(trainer: Trainer, **settings: Any) -> None:
        made = Sweep(
            plan,
            replace_values(given, settings),
            trainer,
            identify,
            lambda: Foresight(limit_pack=lambda _: 24),
        )
        assert made.run().exit_code == 0

    trainer = Trainer(store)
    sweep(trainer)
    assert trainer.trained == ["lora 8 0", "lora 16 0", "lora 16 1", "lora 16 2"]
    again = Trainer(store)
    sweep(again)
    assert again.jobs == []
    monkeypatch.setattr("bench.sweep.search.sequence.LOOKS", (5, 7))
    more = Trainer(store)
    sweep(more)
    assert more.trained == ["lora 16 3", "lora 16 4"]
