"""One process trains several runs: a record for each as if it had been alone, but for what they shared."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.config.schema import Config
from bench.results.store import Result, Store
from bench.run import fitting
from bench.run.preparation import ASIDE
from bench.run.run import run, run_all
from bench.train.checkpoint import BEST
from bench.train.meter import Meter

Compose = Callable[..., Config]
PACK = "pack=[{lora.r:4},{lora.r:4,train.lr:0.01}]"


@pytest.fixture
def pack(compose_tiny: Compose) -> Config:
    """Three runs as one."""
    return compose_tiny("lora.r=2", PACK)


def read_files(config: Config, result: Result) -> dict[str, bytes]:
    folder = Store(Path(config.results_dir)).run_folder(result.run_id)
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "log.txt"}


def test_each_run_of_a_pack_leaves_the_record_of_a_run_alone(
    pack: Config, compose_tiny: Compose, tmp_path: Path
) -> None:
    store = Store(Path(pack.results_dir))
    results = run_all(pack)
    apart = f"results_dir={tmp_path}/alone"
    lines = (["lora.r=2"], ["lora.r=4"], ["lora.r=4", "train.lr=0.01"])
    for result, line in zip(results, lines, strict=True):
        alone = run(compose_tiny(*line, apart))
        assert (result.run_id, result.status, result.phase) == (alone.run_id, "success", "save")
        assert result.config["pack"] == []
        assert result.parameters == alone.parameters
        assert result.model == alone.model
        assert result.metrics["test"]["loss"] == pytest.approx(alone.metrics["test"]["loss"], abs=1e-3)
        assert store.read(result.run_id) == result
        assert result.packed is not None
        assert result.packed["size"] == 3
        assert result.packed["pack_seconds"] > 0
        shared = [result.memory[name] for name in ("baseline_bytes", "load", "train", "eval")]
        assert {*shared, *result.time.values(), *result.throughput.values(), result.energy} == {None}
        assert result.prediction == {}
        for name in ("memory", "time", "throughput", "energy", "prediction"):
            assert result.reasons[name] == "shared by a pack of 3; measured alone once it is chosen"
        rows = [json.loads(line) for line in read_files(pack, result)["history.jsonl"].splitlines()]
        losses = [row["loss"] for row in rows if "loss" in row]
        assert len(losses) == 20
        assert not [name for row in rows for name in row if name.endswith("_bytes")]
        evaluated = {row["step"]: row["validation_loss"] for row in rows if "validation_loss" in row}
        assert result.metrics["validation"]["loss"] == evaluated[result.model["best_step"]]
        assert set(read_files(pack, result)) >= {"config.yaml", "predictions.csv", BEST}
    assert len({json.dumps(result.packed) for result in results}) == 1
    assert run_all(pack) == results  # a pack has nothing to add to its successes

    again = run(compose_tiny("lora.r=2"))
    assert (again.packed, again.attempt) == (None, 2)
    assert again.time["train_seconds"] > 0
    assert again.attempts[0]["packed"] == results[0].packed
    assert store.read(again.run_id) == again
    assert run(compose_tiny("lora.r=2")) == again
    assert not (store.run_folder(again.run_id) / ASIDE).exists()


def test_a_run_that_fails_alone_leaves_its_success_in_a_pack_as_it_was(
    pack: Config, compose_tiny: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *_ = run_all(pack)
    before = read_files(pack, first)
    fit = fitting.fit

    def fit_and_fail(*given: Any, **named: Any) -> None:
        fit(*given, **named)
        raise torch.OutOfMemoryError("injected")

    monkeypatch.setattr(fitting, "fit", fit_and_fail)
    assert run(compose_tiny("lora.r=2")).status == "oom"
    assert read_files(pack, first) == before


def test_a_run_that_diverges_leaves_the_others(compose_tiny: Compose) -> None:
    lines = ("train.warmup_steps=0", "train.max_grad_norm=null", "pack=[{train.lr:1e30},{lora.r:4}]")
    first, wild, last = run_all(compose_tiny("lora.r=2", *lines))
    assert [first.status, wild.status, last.status] == ["success", "diverged", "success"]
    assert wild.phase == "train"
    assert wild.packed == first.packed
    assert wild.error is not None
    assert wild.error["type"] == "DivergedError"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "oom"),
        (ValueError("injected"), "failed"),
        (KeyboardInterrupt(), "interrupted"),
    ],
)
def test_what_ends_a_pack_ends_all_its_runs(
    pack: Config, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: str
) -> None:
    def fail(*_: Any, meter: Meter, **__: Any) -> None:
        with meter.phase("train"):
            raise error

    monkeypatch.setattr(fitting, "fit_pack", fail)
    if status == "interrupted":
        with pytest.raises(KeyboardInterrupt):
            run_all(pack)
    else:
        run_all(pack)
    results, bad = Store(Path(pack.results_dir)).read_all()
    assert bad == []
    assert [(one.status, one.phase) for one in results] == [(status, "train")] * 3
    assert all(one.packed and one.packed["size"] == 3 for one in results)
