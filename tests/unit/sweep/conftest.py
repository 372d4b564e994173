"""A plan of four runs and the sweep of it, without texts, weights or training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sweeps import GRID, Compose, Trainer

from bench.config.schema import Config, replace_values
from bench.results.store import Store
from bench.sweep.engine import Outcome, Sweep
from bench.sweep.plan import Plan
from bench.sweep.request import Identifier, plan_sweep


@pytest.fixture(scope="module")
def identify(compose: Compose) -> Identifier:
    """Run ids without a look at texts or weights."""
    config = compose()
    return Identifier({repr(config.data): "texts"}, {repr(config.model): "weights"})


@pytest.fixture
def base(compose: Compose, tmp_path: Path) -> Config:
    settings = {"results_dir": str(tmp_path / "results"), "track.mode": "disabled", "sweep.final_seeds": []}
    return replace_values(compose(), settings)


@pytest.fixture
def store(base: Config) -> Store:
    return Store(Path(base.results_dir))


@pytest.fixture
def plan(compose: Compose, identify: Identifier) -> Plan:
    return plan_sweep([GRID], constant=[], compose=lambda lines: compose(*lines), identify=identify)


@pytest.fixture
def sweep(base: Config, plan: Plan, identify: Identifier) -> Callable[..., Outcome]:
    def sweep_with(trainer: Trainer, **settings: Any) -> Outcome:
        return Sweep(plan, replace_values(base, settings), trainer, identify).run()

    return sweep_with
