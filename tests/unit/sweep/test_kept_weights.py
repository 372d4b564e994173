"""A sweep keeps the weights of what was chosen, and removes those of the others."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sweeps import GRID, RANKS, Compose, Trainer

from bench.config.schema import Config, replace_values
from bench.results.store import Store
from bench.sweep.engine import Foresight, Sweep
from bench.sweep.plan import Axes
from bench.sweep.request import Identifier, plan_sweep
from bench.train import checkpoint
from bench.train.checkpoint import BEST, FOLDER


@pytest.fixture
def sweep_grid(base: Config, compose: Compose, identify: Identifier) -> Callable[..., Trainer]:
    """Sweeps a grid with train.keep=chosen unless it is said otherwise; the trainer tells what it trained."""

    def sweep_with(axes: Axes, *, keep: str = "chosen", **settings: Any) -> Trainer:
        lines = [f"train.keep={keep}"]
        plan = plan_sweep([axes], constant=lines, compose=lambda more: compose(*more), identify=identify)
        trainer = Trainer(Store(Path(base.results_dir)))
        limit = Foresight(limit_pack=lambda _: 4)
        Sweep(plan, replace_values(base, settings), trainer, identify, lambda: limit).run()
        return trainer

    return sweep_with


def kept(store: Store) -> list[str]:
    """The runs that have weights, as describe names them."""
    found = []
    for one in store.read_all()[0]:
        config, folder = one.config, store.run_folder(one.run_id)
        if (folder / BEST).exists():
            found.append(f"{config['method']['name']} {config['lora']['r']} {config['seed']}")
        else:
            assert not (folder / FOLDER).exists()
    return sorted(found)


SEEDS = {"sweep.final_seeds": [0, 1]}


def test_only_what_was_chosen_keeps_its_weights(sweep_grid: Callable[..., Trainer], store: Store) -> None:
    sweep_grid(GRID, **SEEDS)
    chosen = ["full 8 0", "full 8 1", "lora 16 0", "lora 16 1", "majority 8 0"]
    assert kept(store) == chosen
    assert sweep_grid(GRID, **SEEDS).jobs == []  # a success without weights is one
    assert kept(store) == chosen


def test_what_loses_to_a_point_that_comes_later_loses_its_weights_then(
    sweep_grid: Callable[..., Trainer], store: Store
) -> None:
    sweep_grid({"method": ["lora"], "lora.r": [8, 16]}, **SEEDS)
    assert kept(store) == ["lora 16 0", "lora 16 1"]
    later = sweep_grid({"method": ["lora"], "lora.r": [8, 16, 32]}, **SEEDS)
    assert later.trained == ["lora 32 0", "lora 32 1"]
    assert kept(store) == ["lora 32 0", "lora 32 1"]


def test_the_tables_choice_keeps_its_weights_whatever_a_later_sweep_chooses(
    sweep_grid: Callable[..., Trainer], store: Store
) -> None:
    sweep_grid({"method": ["lora"], "lora.r": [32]})
    sweep_grid({"method": ["lora"], "lora.r": [4, 8]})
    assert kept(store) == ["lora 32 0", "lora 8 0"]


def test_rungs_and_their_checkpoints_go_with_the_losers(
    sweep_grid: Callable[..., Trainer], store: Store
) -> None:
    axes: Axes = {"method": ["lora"], "lora.r": [2, 4, 8, 16], "train.max_steps": [60]}
    halving = {"sweep.strategy": "halving", **SEEDS}
    assert len(sweep_grid(axes, **halving).trained) == 4 + 2 + 1 + 1
    assert kept(store) == ["lora 16 0", "lora 16 1"]
    assert sweep_grid(axes, **halving).jobs == []


def test_rungs_that_another_sweep_may_go_on_from_stay(
    sweep_grid: Callable[..., Trainer], store: Store
) -> None:
    axes: Axes = {"method": ["lora"], "lora.r": [8, 16], "train.max_steps": [60]}
    sweep_grid(axes, keep="best", **{"sweep.strategy": "halving"})
    for one in store.read_all()[0]:  # as a sweep with train.keep=chosen that is not over yet leaves them
        one.config["train"]["keep"] = "chosen"
        store.write(one)
    sweep_grid({"method": ["lora"], "lora.r": [4, 32], "train.max_steps": [60]})
    stopped = [one.run_id for one in store.read_all()[0] if one.config["train"]["stop_step"] is not None]
    assert len(stopped) == 2
    assert all((store.run_folder(run_id) / BEST).exists() for run_id in stopped)
    assert set(kept(store)) == {"lora 8 0", "lora 16 0", "lora 32 0"}


def test_the_losers_of_a_pack_lose_their_weights(sweep_grid: Callable[..., Trainer], store: Store) -> None:
    trainer = sweep_grid(RANKS)
    assert trainer.sizes == [[1, 4], [1]]
    assert kept(store) == ["full 2 0", "lora 16 0"]
    assert sweep_grid(RANKS).jobs == []


def test_a_run_that_another_sweep_holds_keeps_its_weights(
    sweep_grid: Callable[..., Trainer], store: Store
) -> None:
    axes: Axes = {"method": ["lora"], "lora.r": [8, 16]}
    sweep_grid(axes, keep="best")
    loser = next(one.run_id for one in store.read_all()[0] if one.config["lora"]["r"] == 8)
    with store.claim(loser):
        sweep_grid(axes)
        assert kept(store) == ["lora 16 0", "lora 8 0"]
    sweep_grid(axes)  # the same command with train.keep=chosen frees what was kept before
    assert kept(store) == ["lora 16 0"]


@pytest.mark.parametrize(
    ("keep", "large", "left"),
    [
        ("auto", 0, ["full 8 0", "lora 16 0", "lora 8 0"]),  # of full, all weights are trained
        ("auto", 10**9, ["full 8 0", "full 8 0", "lora 16 0", "lora 8 0"]),
        ("best", 0, ["full 8 0", "full 8 0", "lora 16 0", "lora 8 0"]),
        ("all", 0, ["full 8 0", "full 8 0", "lora 16 0", "lora 8 0"]),
    ],
)
def test_by_default_only_large_weights_that_were_not_chosen_go(
    sweep_grid: Callable[..., Trainer],
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    keep: str,
    large: int,
    left: list[str],
) -> None:
    monkeypatch.setattr(checkpoint, "LARGE_BYTES", large)
    sweep_grid({"method": ["full"], "train.lr": [1e-3, 1e-4]}, keep=keep)
    sweep_grid({"method": ["lora"], "lora.r": [8, 16]}, keep=keep)
    assert kept(store) == left
