"""Runs that train together keep a checkpoint each, and go on from them together, apart, or not at all."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from bench.config.schema import Config
from bench.results.store import Result, Store
from bench.run.run import run, run_all
from bench.train import checkpoint, loop
from bench.train.checkpoint import BEST
from bench.train.training import Training

Compose = Callable[..., Config]
OTHERS = ({"lora.r": 4, "train.lr": 1e-2}, {"lora.alpha": 8})
SHORT = ("lora.r=2", "train.lr=5e-3", "train.eval_steps=5", "train.checkpoint_steps=4", "train.log_steps=3")


def pack_line(*earlier: str) -> str:
    """The override of the other runs, each to go on from one of the given."""
    more = [{"resume_from": f"'{one}'"} for one in earlier] or [{}, {}]
    packed = [
        ",".join(f"{name}:{value}" for name, value in {**values, **own}.items())
        for values, own in zip(OTHERS, more, strict=True)
    ]
    return "pack=[" + ",".join(f"{{{values}}}" for values in packed) + "]"


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Callable[[Config, int], None]:
    """Runs up to an interrupt at the optimizer step of the number."""
    take_step, place = loop.take_step, [0]

    def stop_there(training: Training, *rest: Any) -> None:
        if training.step + 1 == place[0]:
            raise KeyboardInterrupt
        take_step(training, *rest)

    def run_to(config: Config, step: int) -> None:
        place[0] = step
        with pytest.raises(KeyboardInterrupt):
            run_all(config)
        place[0] = 0

    monkeypatch.setattr(loop, "take_step", stop_there)
    return run_to


def folder_of(config: Config, result: Result) -> Path:
    return Store(Path(config.results_dir)).run_folder(result.run_id)


def steps_of(folder: Path) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in sorted((folder / checkpoint.FOLDER).glob("*"))]


def numbers_of(config: Config, result: Result) -> dict[str, Any]:
    """All of a run that another run of the same configuration must have to the last bit."""
    folder = folder_of(config, result)
    return {
        "run_id": result.run_id,
        "metrics": result.metrics,
        "best_step": result.model["best_step"],
        "history": (folder / "history.jsonl").read_text(),
        "predictions": (folder / "predictions.csv").read_text(),
        "weights": (folder / BEST).read_bytes(),
    }


@pytest.mark.parametrize(
    "overrides",
    [
        ("method=lora", "lora.dropout=0.3"),
        pytest.param(("method=lora", "lora.target_modules=[query,word_embeddings]"), marks=pytest.mark.slow),
        pytest.param(("method=qlora", "train.gradient_accumulation_steps=2"), marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_pack_comes_to_what_an_undisturbed_one_does(
    compose_tiny: Compose,
    interrupt: Callable[[Config, int], None],
    tmp_path: Path,
    overrides: tuple[str, ...],
) -> None:
    config = compose_tiny(*SHORT, *overrides, pack_line())
    interrupt(config, 7)
    folders = list((Path(config.results_dir) / "runs").iterdir())
    assert [steps_of(folder) for folder in folders] == [[4]] * 3
    interrupt(config, 11)  # right after an evaluation
    assert [steps_of(folder) for folder in folders] == [[4, 8]] * 3
    resumed = run_all(config)
    assert [one.model["resumed_from_step"] for one in resumed] == [8] * 3
    assert [steps_of(folder) for folder in folders] == [[]] * 3

    calm = compose_tiny(*SHORT, *overrides, pack_line(), f"results_dir={tmp_path}/calm")
    for one, undisturbed in zip(resumed, run_all(calm), strict=True):
        assert undisturbed.model["resumed_from_step"] is None
        assert numbers_of(config, one) == numbers_of(calm, undisturbed)
        assert one.packed is not None
        assert one.packed["size"] == 3


def test_a_pack_goes_on_from_a_step_that_all_its_runs_have(
    compose_tiny: Compose, interrupt: Callable[[Config, int], None]
) -> None:
    config = compose_tiny(*SHORT, pack_line())
    interrupt(config, 11)
    first, second, _ = (Path(config.results_dir) / "runs").iterdir()
    (first / checkpoint.FOLDER / "step-000008" / checkpoint.MANIFEST).unlink()
    interrupt(config, 6)
    assert steps_of(second) == [4]
    (second / checkpoint.FOLDER / "step-000004" / checkpoint.MANIFEST).unlink()
    results = run_all(config)
    assert [(one.status, one.model["resumed_from_step"]) for one in results] == [("success", None)] * 3


def test_what_was_stopped_goes_on_in_a_smaller_pack_as_if_it_had_been_alone(
    compose_tiny: Compose, tmp_path: Path
) -> None:
    stopped = run_all(compose_tiny(*SHORT, "train.stop_step=10", pack_line()))
    for one in stopped:
        assert (one.status, one.model["steps"], one.metrics["test"]) == ("success", 10, None)
        assert "train.stop_step" in one.reasons["metrics.test"]
        assert one.metrics["validation"]["accuracy"] > 0
    first, second, third = (one.run_id for one in stopped)
    config = compose_tiny(*SHORT, f"resume_from='{first}'", pack_line(second, third))
    whole = run_all(replace_pack(config, config.pack[:1]))
    last = run(compose_tiny(*SHORT, "lora.alpha=8", f"resume_from='{third}'"))
    assert [one.model["resumed_from_step"] for one in (*whole, last)] == [10] * 3
    apart = f"results_dir={tmp_path}/apart"
    for one, own in zip((*whole, last), ({}, *OTHERS), strict=True):
        alone = run(compose_tiny(*SHORT, *(f"{name}={value}" for name, value in own.items()), apart))
        require_alike(one, alone)
    assert [one.packed and one.packed["size"] for one in (*whole, last)] == [2, 2, 3]


def test_a_run_that_goes_on_from_a_pack_claims_none_of_what_that_took(compose_tiny: Compose) -> None:
    stopped = run_all(compose_tiny(*SHORT, "train.stop_step=10", pack_line()))
    result = run(compose_tiny(*SHORT, f"resume_from='{stopped[0].run_id}'"))
    assert result.packed is not None
    assert stopped[0].packed is not None
    assert result.packed["pack_seconds"] > stopped[0].packed["pack_seconds"]
    assert {result.memory["train"], *result.time.values(), *result.throughput.values()} == {None}
    assert result.reasons["time"] == "shared by a pack of 3; measured alone once it is chosen"
    again = run(compose_tiny(*SHORT))  # as what is chosen is
    assert (again.packed, again.model["resumed_from_step"]) == (None, None)
    assert again.time["train_seconds"] > 0


def replace_pack(config: Config, pack: list[Mapping[str, Any]]) -> Config:
    return dataclasses.replace(config, pack=[dict(one) for one in pack])


def require_alike(one: Result, alone: Result) -> None:
    assert one.run_id == alone.run_id
    assert one.model["best_step"] == alone.model["best_step"]
    for split in ("validation", "test"):
        scores = {name: value for name, value in alone.metrics[split].items() if name != "f1_by_label"}
        assert {name: one.metrics[split][name] for name in scores} == pytest.approx(scores, abs=1e-3)


def test_a_diverged_run_keeps_no_checkpoint_and_the_others_do(compose_tiny: Compose) -> None:
    wild = "pack=[{train.lr:1e30},{lora.r:4}]"
    lines = ("train.warmup_steps=0", "train.max_grad_norm=null", "train.stop_step=10", "train.log_steps=20")
    config = compose_tiny("lora.r=2", *lines, "train.eval_steps=20", "train.checkpoint_steps=null", wild)
    results = run_all(config)
    assert [one.status for one in results] == ["success", "diverged", "success"]
    assert [steps_of(folder_of(config, one)) for one in results] == [[10], [], [10]]
    values = json.loads(
        (folder_of(config, results[0]) / checkpoint.FOLDER / "step-000010" / "spent.json").read_text()
    )
    assert values["runs"] == 3
