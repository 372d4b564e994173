"""A best at the end of an axis is followed beyond it, as far for one method as for another."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from sweeps import Compose, Trainer

from bench.config.identity import Identity, identify
from bench.config.schema import Config, replace_values
from bench.results.store import Store
from bench.sweep.engine import Outcome, Sweep
from bench.sweep.plan import Axes, Point
from bench.sweep.request import Identifier, plan_sweep
from bench.sweep.search import bracket


def identify_here(config: Config) -> Identity:
    return identify(config, data_fingerprint=config.data.name, model_revision=config.model.name)


def make_points(compose: Compose, path: str, values: Sequence[Any], *lines: str) -> list[Point]:
    base = compose("method=lora", *lines)
    configs = [replace_values(base, {path: value}) for value in values]
    return [Point(("method=lora", *lines), config, identify_here(config)) for config in configs]


def score(points: Sequence[Point], values: Sequence[float | None]) -> dict[str, float | None]:
    return {point.run_id: value for point, value in zip(points, values, strict=True)}


@pytest.mark.parametrize(
    ("path", "values", "scores", "expected"),
    [
        ("train.lr", [1e-3, 3e-3], [0.7, 0.8], 9e-3),
        ("train.lr", [1e-3, 3e-3], [0.8, 0.7], 3.33e-4),
        ("train.lr", [1e-3, 3e-3, 9e-3], [0.7, 0.8, 0.6], 1.73e-3),  # inside: towards the better neighbour
        ("train.lr", [1e-3, 3e-3, 9e-3], [0.6, 0.8, 0.7], 5.2e-3),
        ("train.lr", [1e-3, 3e-3], [0.7, None], 3.33e-4),  # what failed was tried
        ("lora.r", [8, 16], [0.7, 0.8], 32),
        ("lora.r", [4, 16], [0.8, 0.7], 1),
        ("lora.r", [1, 2], [0.8, 0.7], None),  # nothing is below 1, nor between 1 and 2
        ("lora.alpha", [8, 16], [0.7, 0.8], 32),
        ("train.lr", [1e-3], [0.7], None),
        ("train.lr", [1e-3, 3e-3], [None, None], None),
    ],
)
def test_the_next_value_of_an_axis(
    compose: Compose, path: str, values: list[Any], scores: list[float | None], expected: float | None
) -> None:
    points = make_points(compose, path, values)
    proposed = bracket.propose(points, score(points, scores), identify=identify_here)
    if expected is None:
        assert proposed is None
        return
    assert proposed is not None
    name = path.partition(".")[2]
    assert getattr(getattr(proposed.config, path.partition(".")[0]), name) == expected
    assert compose(*proposed.overrides) == proposed.config


@pytest.mark.parametrize(
    ("values", "scores", "expected"),
    [
        ([1e-3, 3e-3], [0.7, 0.8], False),
        ([1e-3, 3e-3, 9e-3], [0.7, 0.8, 0.6], True),
        ([1e-3, 3e-3, 9e-3], [0.7, 0.8, None], True),
        ([1e-3], [0.7], True),
        ([1e-3, 3e-3], [None, None], True),
    ],
)
def test_a_best_is_inside(
    compose: Compose, values: list[float], scores: list[float | None], expected: bool
) -> None:
    points = make_points(compose, "train.lr", values)
    assert bracket.is_inside(points, score(points, scores)) is expected


def test_dropout_is_no_axis_of_ratios(compose: Compose) -> None:
    points = make_points(compose, "lora.dropout", [0.05, 0.1])
    assert bracket.is_inside(points, score(points, [0.7, 0.8]))


@pytest.fixture
def bracketed(compose: Compose, base: Config, identify: Identifier) -> Callable[..., Outcome]:
    def run(trainer: Trainer, axes: Axes, **settings: Any) -> Outcome:
        plan = plan_sweep([axes], constant=[], compose=lambda lines: compose(*lines), identify=identify)
        return Sweep(plan, replace_values(base, {"sweep.bracket": True, **settings}), trainer, identify).run()

    return run


AXES: Axes = {"method": ["majority", "full", "lora"], "lora.r": [2, 4], "train.lr": [1e-3, 2e-3]}


def test_every_method_gets_as_many_more_runs(bracketed: Callable[..., Outcome], store: Store) -> None:
    """Their records are the better the higher the rank: LoRA's best is always at the end."""
    trainer = Trainer(store)
    outcome = bracketed(trainer, AXES)
    more = [point for job in trainer.jobs[1:] for point in job]
    assert [point.config.lora.r for point in more if point.config.method.name == "lora"][-1] > 4
    methods = [point.config.method.name for point in more]
    assert methods.count("lora") == methods.count("full") == bracket.MOST
    assert "majority" not in methods
    assert (outcome.planned, outcome.exit_code) == (7 + 2 * bracket.MOST, 0)


def test_a_sweep_that_is_begun_again_proposes_the_same(
    bracketed: Callable[..., Outcome], store: Store
) -> None:
    first = bracketed(Trainer(store), AXES)
    again = Trainer(store)
    outcome = bracketed(again, AXES)
    assert again.jobs == []
    assert (outcome.planned, outcome.skipped) == (first.planned, first.planned)


def test_the_best_of_all_gets_the_final_seeds(bracketed: Callable[..., Outcome], store: Store) -> None:
    trainer = Trainer(store)
    axes: Axes = {"method": ["lora"], "lora.r": [2, 4]}
    bracketed(trainer, axes, **{"sweep.final_seeds": [0, 1]})
    ranks = [2, 4, 8, 16, 32, 64]
    assert trainer.trained == [*(f"lora {rank} 0" for rank in ranks), "lora 64 1"]
