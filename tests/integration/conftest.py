"""Short runs of tiny models, in this process."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pandas as pd
import pytest
from accelerate.state import AcceleratorState
from decoders import save_decoder

from bench.config.schema import Config
from bench.results.store import Result, Store
from bench.run.run import run

Compose = Callable[..., Config]


@pytest.fixture(autouse=True)
def _fresh_accelerator() -> Iterator[None]:
    """accelerate keeps one precision per process; a run has its own process, a test or a fixture does not."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def compose_tiny(compose: Compose, tiny_bert: Path, texts: Path, tmp_path: Path) -> Compose:
    """A configuration of a short run of the tiny model on the tiny texts, with further overrides."""

    def compose_with(*overrides: str) -> Config:
        return compose(
            "model=local",
            f"model.path={tiny_bert}",
            "data=files",
            f"data.train={texts}",
            f"results_dir={tmp_path}/results",
            f"cache_dir={tmp_path}/cache",
            "track.mode=disabled",
            "train.max_steps=20",
            "train.warmup_steps=2",
            "train.eval_steps=10",
            "train.micro_batch_size=8",
            "train.log_steps=1",
            "train.precision=fp32",
            "lora.dropout=0",
            "devices=cpu",
            *overrides,
        )

    return compose_with


@pytest.fixture(scope="session")
def tiny_decoder(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a saved tiny decoder of an architecture."""

    @cache
    def make(architecture: str) -> Path:
        folder = tmp_path_factory.mktemp(architecture)
        save_decoder(architecture, folder, pd.read_csv(texts)["text"].tolist())
        return folder

    return make


@pytest.fixture
def compose_decoder(compose_tiny: Compose, tiny_decoder: Callable[[str], Path]) -> Compose:
    """A configuration of a short run of the tiny decoder of an architecture, with further overrides."""

    def compose_with(architecture: str, *overrides: str) -> Config:
        return compose_tiny(f"model.path={tiny_decoder(architecture)}", *overrides)

    return compose_with


@pytest.fixture(scope="session")
def train(
    compose: Compose,
    tiny_bert: Path,
    tiny_decoder: Callable[[str], Path],
    texts: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., tuple[Store, Result]]:
    """A short run's store and record, trained once for all tests that want the same overrides."""
    folder = tmp_path_factory.mktemp("trained")

    @cache
    def train_once(*overrides: str, base: str = "bert") -> tuple[Store, Result]:
        config = compose(
            "model=local",
            f"model.path={tiny_bert if base == 'bert' else tiny_decoder(base)}",
            "data=files",
            f"data.train={texts}",
            f"results_dir={folder}/results",
            f"cache_dir={folder}/cache",
            "track.mode=disabled",
            "train.max_steps=30",
            "train.warmup_steps=2",
            "train.eval_steps=30",
            "train.micro_batch_size=8",
            "train.precision=fp32",
            "train.lr=1e-2",
            "devices=cpu",
            *overrides,
        )
        result = run(config)
        assert result.status == "success", result.error
        return Store(folder / "results"), result

    return train_once
