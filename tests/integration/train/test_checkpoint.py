"""A run that was killed goes on from its newest valid checkpoint, and nobody can tell by its numbers."""

import errno
import json
import logging
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench.config.schema import Config
from bench.results.store import Result
from bench.run.run import run
from bench.train import checkpoint, fit, loop, meter, state
from bench.train.training import Training

Compose = Callable[..., Config]
Interrupt = Callable[[int], None]

SHORT = ("train.eval_steps=5", "train.checkpoint_steps=4", "train.log_steps=3", "train.lr=1e-2")
LORA = ("method=lora", "lora.dropout=0.3", *SHORT)
IN_BACKWARD = (
    "train.weights=bf16",
    "train.precision=bf16",
    "train.optimizer=adamw_8bit",
    "train.optimizer_in_backward=true",
    "train.stochastic_rounding=true",
    "train.max_grad_norm=null",
    "train.oom_retries=0",
)
LINEAGE = {"run": "a"}
SPENT = {"allocated_bytes", "resident_bytes"}  # differ between two runs of anything
# Writes a second checkpoint in a process that dies at the n-th flush to the disk, with no time to clean up.
DYING = """
import os, sys
from pathlib import Path
from bench.train import checkpoint

folder, last = Path(sys.argv[1]), int(sys.argv[2])
flush, flushed = checkpoint.flush, []

def die(path):
    flushed.append(path)
    if len(flushed) == last:
        os._exit(9)
    flush(path)

checkpoint.flush = die
checkpoint.write(folder, step=2, lineage={"run": "a"}, save=lambda to: (to / "data").write_text("new"))
"""


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Interrupt:
    """Makes trainings end as on SIGINT when they come to the optimizer step of the number; 0 lets them be."""
    take_step = loop.take_step
    place = [0]

    def stop_there(training: Training, *rest: Any) -> None:
        if training.step + 1 == place[0]:
            raise KeyboardInterrupt
        take_step(training, *rest)

    monkeypatch.setattr(loop, "take_step", stop_there)
    return lambda step: place.__setitem__(0, step)


def folder_of(config: Config, run_id: str) -> Path:
    return Path(config.results_dir) / "runs" / run_id


def checkpoints(folder: Path) -> list[Path]:
    return sorted((folder / checkpoint.FOLDER).glob("*"))


def steps_of(folder: Path) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in checkpoints(folder)]


def only_folder(config: Config) -> Path:
    """The folder of the only run there is."""
    (folder,) = (Path(config.results_dir) / "runs").iterdir()
    return folder


def numbers_of(config: Config, result: Result) -> dict[str, Any]:
    """All of a run that another run of the same configuration must have to the last bit."""
    folder = folder_of(config, result.run_id)
    history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return {
        "run_id": result.run_id,
        "metrics": result.metrics,
        "best_step": result.model["best_step"],
        "history": [{name: row[name] for name in row if name not in SPENT} for row in history],
        "predictions": (folder / "predictions.csv").read_text(),
        "weights": (folder / checkpoint.BEST).read_bytes(),
    }


def stop_run(config: Config, interrupt: Interrupt, step: int) -> Path:
    """Runs up to an interrupt at the step; its folder."""
    interrupt(step)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    interrupt(0)
    return only_folder(config)


@pytest.mark.parametrize(
    "overrides",
    [
        ("method=full",),
        pytest.param(("method=full", "train.optimizer=adamw_8bit"), marks=pytest.mark.slow),
        pytest.param(
            ("method=full", "train.precision=bf16", "train.group_by_length=false"), marks=pytest.mark.slow
        ),
        pytest.param(("method=full", *IN_BACKWARD), marks=pytest.mark.slow),
        ("method=lora", "lora.dropout=0.3"),
        pytest.param(
            ("method=lora", "lora.dropout=0.3", "train.gradient_accumulation_steps=3"), marks=pytest.mark.slow
        ),
        ("method=qlora", "lora.dropout=0.3"),
        pytest.param(
            ("method=dora", "lora.dropout=0.3", "method.loraplus_lr_ratio=16", "train.optimizer=adamw_8bit"),
            marks=pytest.mark.slow,
        ),
        # its frozen base is not the checkpoint's
        pytest.param(("method=pissa", "lora.dropout=0.3"), marks=pytest.mark.slow),
        pytest.param(("method=loftq", "lora.dropout=0.3"), marks=pytest.mark.slow),
        pytest.param(("method=routed_lora", "lora.dropout=0.3"), marks=pytest.mark.slow),
        pytest.param(("method=ia3",), marks=pytest.mark.slow),
        pytest.param(
            ("method=lora", "train.max_steps=null", "train.epochs=2", "train.max_grad_norm=null"),
            marks=pytest.mark.slow,
        ),
        ("method=lora", "train.loss=balanced_sampling"),
    ],
)
def test_an_interrupted_run_comes_to_what_an_undisturbed_one_does(
    compose_tiny: Compose, interrupt: Interrupt, tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    config = compose_tiny(*SHORT, *overrides)
    stop_run(config, interrupt, 4)  # before the first checkpoint
    folder = stop_run(config, interrupt, 7)  # between two
    assert steps_of(folder) == [4]
    stop_run(config, interrupt, 9)  # right after one
    assert steps_of(folder) == [4, 8]
    stop_run(config, interrupt, 11)  # right after an evaluation
    stop_run(config, interrupt, 16)  # again
    assert steps_of(folder) == [8, 12]
    resumed = run(config)
    assert (resumed.status, resumed.attempt) == ("success", 6)
    assert resumed.model["resumed_from_step"] == 12

    calm = compose_tiny(*SHORT, *overrides, f"results_dir={tmp_path}/calm", "train.checkpoint_steps=null")
    undisturbed = run(calm)
    assert undisturbed.model["resumed_from_step"] is None
    assert numbers_of(config, resumed) == numbers_of(calm, undisturbed)


@pytest.mark.parametrize(
    "stops",
    [pytest.param((10,), marks=pytest.mark.slow), (7, 13), pytest.param((20,), marks=pytest.mark.slow)],
)
def test_a_run_that_was_stopped_and_gone_on_from_comes_to_the_same(
    compose_tiny: Compose, tmp_path: Path, stops: tuple[int, ...]
) -> None:
    """Also between two evaluations of the schedule, where the stopped run has one more."""
    earlier = "null"
    for stop in stops:
        stopped = run(compose_tiny(*LORA, f"train.stop_step={stop}", f"resume_from={earlier}"))
        assert (stopped.status, stopped.model["steps"]) == ("success", stop)
        assert stopped.metrics["validation"]["accuracy"] > 0
        assert steps_of(folder_of(compose_tiny(*LORA), stopped.run_id)) == [stop]
        earlier = stopped.run_id
    config = compose_tiny(*LORA, f"resume_from={earlier}")
    whole = run(config)
    assert whole.model["resumed_from_step"] == stops[-1]
    calm = compose_tiny(*LORA, f"results_dir={tmp_path}/calm")
    assert numbers_of(config, whole) == numbers_of(calm, run(calm))
    assert steps_of(folder_of(config, earlier)) == [stops[-1]]  # only read


def test_a_stopped_run_that_was_killed_at_its_end_is_evaluated_again(
    compose_tiny: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = compose_tiny(*LORA, "train.stop_step=4", "train.eval_steps=100")
    with monkeypatch.context() as patch:
        patch.setattr(loop, "predict", lambda *_, **__: _raise(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(config)
    again = run(config)
    assert (again.model["resumed_from_step"], again.model["best_step"]) == (4, 4)
    assert again.throughput["samples_per_second"] > 0


def _raise(error: type[BaseException]) -> Any:
    raise error


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        pytest.param(state.WEIGHTS, "changed", marks=pytest.mark.slow),
        (state.TENSORS, "cut"),
        pytest.param(state.VALUES, "missing", marks=pytest.mark.slow),
        pytest.param(checkpoint.MANIFEST, "cut", marks=pytest.mark.slow),
        (checkpoint.MANIFEST, "missing"),
    ],
)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    compose_tiny: Compose, interrupt: Interrupt, tmp_path: Path, name: str, damage: str
) -> None:
    config = compose_tiny(*LORA)
    folder = stop_run(config, interrupt, 11)
    _damage(folder / checkpoint.FOLDER / "step-000008" / name, damage)
    stop_run(config, interrupt, 6)
    log = (folder / "log.txt").read_text(encoding="utf-8")
    assert "step-000008: " in log
    assert "it is not used" in log
    assert steps_of(folder) == [4]
    resumed = run(config)
    assert resumed.model["resumed_from_step"] == 4
    calm = compose_tiny(*LORA, f"results_dir={tmp_path}/calm")
    assert resumed.metrics == run(calm).metrics


def _damage(path: Path, damage: str) -> None:
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])


def test_without_a_valid_checkpoint_a_run_begins_anew(
    compose_tiny: Compose, interrupt: Interrupt, tmp_path: Path
) -> None:
    config = compose_tiny(*LORA)
    folder = stop_run(config, interrupt, 11)
    for path in checkpoints(folder):
        _damage(path / state.TENSORS, "cut")
    resumed = run(config)
    assert (resumed.status, resumed.model["resumed_from_step"]) == ("success", None)
    calm = compose_tiny(*LORA, f"results_dir={tmp_path}/calm")
    assert numbers_of(config, resumed) == numbers_of(calm, run(calm))


@pytest.mark.parametrize(
    "other",
    [
        "seed=1",
        "sweep.select_by=f1_macro",
        pytest.param("train.lr=2e-2", marks=pytest.mark.slow),
        pytest.param("lora.alpha=32", marks=pytest.mark.slow),
    ],
)
def test_another_trainings_checkpoint_is_never_gone_on_from(
    compose_tiny: Compose, tmp_path: Path, other: str
) -> None:
    stopped = run(compose_tiny(*LORA, "train.stop_step=8"))
    config = compose_tiny(*LORA, other, f"resume_from={stopped.run_id}")
    result = run(config)
    assert (result.status, result.model["resumed_from_step"]) == ("success", None)
    assert "has no checkpoint to go on from" in (folder_of(config, result.run_id) / "log.txt").read_text()
    calm = compose_tiny(*LORA, other, f"results_dir={tmp_path}/calm")
    assert numbers_of(config, result) == numbers_of(calm, run(calm))


def test_a_run_goes_on_from_its_own_checkpoint_before_anothers(
    compose_tiny: Compose, interrupt: Interrupt
) -> None:
    stopped = run(compose_tiny(*LORA, "train.stop_step=12"))
    config = compose_tiny(*LORA, f"resume_from={stopped.run_id}")
    interrupt(10)
    with pytest.raises(KeyboardInterrupt):
        run(compose_tiny(*LORA))
    interrupt(0)
    assert run(config).model["resumed_from_step"] == 8


def test_a_run_with_a_halved_micro_batch_does_not_go_on_from_a_whole_ones(
    compose_tiny: Compose, interrupt: Interrupt
) -> None:
    folder = stop_run(compose_tiny(*LORA), interrupt, 11)
    halved = run(compose_tiny(*LORA, "oom_halvings=1"))
    assert (halved.run_id, halved.status) == (folder.name, "success")
    assert halved.model["resumed_from_step"] is None


def test_the_best_state_is_that_of_the_checkpoint(
    compose_tiny: Compose, interrupt: Interrupt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An evaluation between the checkpoint and the kill may have put a later best in its place."""
    accuracies = iter([0.5, 0.9, *[0.1] * 10])  # at steps 5 and 10, and so on
    scores = {"f1_macro": 0.0, "loss": 1.0}
    monkeypatch.setattr(fit.metrics, "score", lambda *_: {"accuracy": next(accuracies), **scores})
    config = compose_tiny(*LORA)
    folder = stop_run(config, interrupt, 11)
    newer = (folder / checkpoint.BEST).read_bytes()
    result = run(config)
    assert (result.model["resumed_from_step"], result.model["best_step"]) == (8, 5)
    assert (folder / checkpoint.BEST).read_bytes() != newer


def test_a_success_leaves_no_checkpoints_and_while_it_trains_there_are_two(
    compose_tiny: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = compose_tiny(*LORA)
    take_step = loop.take_step
    seen: list[list[int]] = []

    def watch(*arguments: Any) -> None:
        seen.append(steps_of(only_folder(config)))
        take_step(*arguments)

    monkeypatch.setattr(loop, "take_step", watch)
    assert run(config).status == "success"
    assert seen[0] == []
    assert seen[-1] == [12, 16]
    assert max(map(len, seen)) == 2
    assert not (only_folder(config) / checkpoint.FOLDER).exists()


def test_a_checkpoint_is_read_without_a_pickle(
    compose_tiny: Compose, interrupt: Interrupt, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = compose_tiny("method=full", "train.optimizer=adamw_8bit", *SHORT)
    folder = stop_run(config, interrupt, 11)
    files = {path.suffix for one in checkpoints(folder) for path in one.iterdir()}
    assert files == {".safetensors", ".json"}
    load = state.load

    def load_without(*arguments: Any) -> None:
        with monkeypatch.context() as patch:
            for module, name in ((pickle, "load"), (pickle, "loads"), (torch, "load")):
                patch.setattr(module, name, lambda *_, **__: _raise(AssertionError))
            load(*arguments)

    monkeypatch.setattr(state, "load", load_without)
    assert run(config).model["resumed_from_step"] == 8


def test_the_time_before_the_interruption_counts_and_that_of_saving_does_not(
    compose_tiny: Compose, interrupt: Interrupt, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = state.save
    take_step = loop.take_step
    pause, now = [0.1], [0.0]

    def save_slowly(*arguments: Any) -> None:
        now[0] += 0.4
        save(*arguments)

    def step_slowly(*arguments: Any, **named: Any) -> Any:
        now[0] += pause[0]
        return take_step(*arguments, **named)

    monkeypatch.setattr(meter, "time", SimpleNamespace(monotonic=lambda: now[0]))

    monkeypatch.setattr(state, "save", save_slowly)
    monkeypatch.setattr(loop, "take_step", step_slowly)
    config = compose_tiny(*LORA, "train.checkpoint_steps=8")
    stop_run(config, interrupt, 12)
    pause[0] = 0.0
    times = run(config).time
    assert times["train_seconds"] == pytest.approx(8 * 0.1)
    assert times["total_seconds"] == pytest.approx(8 * 0.1 + 2 * 0.4)


def test_a_disk_that_refuses_a_checkpoint_costs_no_run(
    compose_tiny: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Training, __: Any, folder: Path) -> None:
        (folder / state.TENSORS).write_bytes(b"part")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(state, "save", fail)
    config = compose_tiny(*LORA, "train.stop_step=10")
    assert run(config).status == "success"
    folder = only_folder(config)
    assert checkpoints(folder) == []
    assert "checkpoint of step 8 cannot be written: [Errno 28]" in (folder / "log.txt").read_text()


def test_a_stop_beyond_the_end_is_refused_where_the_epochs_are_known(compose_tiny: Compose) -> None:
    epochs = ("train.max_steps=null", "train.epochs=1", "train.stop_step=12")
    result = run(compose_tiny(*LORA, *epochs))
    assert result.status == "invalid"
    assert result.error is not None
    assert result.error["message"].startswith("train.stop_step=12: the training has 11 steps")


@pytest.mark.parametrize("flush", [1, 2, 3, 4])
def test_a_process_that_dies_while_writing_leaves_the_checkpoint_before(tmp_path: Path, flush: int) -> None:
    checkpoint.write(tmp_path, step=1, lineage=LINEAGE, save=lambda to: _write(to, "old"))
    done = subprocess.run([sys.executable, "-c", DYING, str(tmp_path), str(flush)], check=False)
    assert done.returncode == 9
    assert len(checkpoints(tmp_path)) == 2
    found = [path.name for path in checkpoint.find(tmp_path, lineage=LINEAGE, last_step=9)]
    whole = ["step-000002"] if flush == 4 else []  # of the data, its manifest, the folder, and its place
    assert found == [*whole, "step-000001"]
    checkpoint.remove_after(tmp_path, 1)
    assert steps_of(tmp_path) == [1]


def _write(folder: Path, content: str) -> None:
    (folder / "data").write_text(content)


def test_a_checkpoint_that_is_half_removed_is_none(tmp_path: Path) -> None:
    checkpoint.write(tmp_path, step=1, lineage=LINEAGE, save=lambda to: _write(to, "old"))
    (tmp_path / checkpoint.FOLDER / "step-000001" / checkpoint.MANIFEST).unlink()
    assert list(checkpoint.find(tmp_path, lineage=LINEAGE, last_step=9)) == []
    checkpoint.write(tmp_path, step=1, lineage=LINEAGE, save=lambda to: _write(to, "new"))
    (path,) = checkpoint.find(tmp_path, lineage=LINEAGE, last_step=9)
    assert (path / "data").read_text() == "new"


def test_a_checkpoint_beyond_the_step_asked_for_is_not_found(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (1, 2):
        checkpoint.write(tmp_path, step=step, lineage=LINEAGE, save=lambda to: _write(to, "data"))
    with caplog.at_level(logging.WARNING):
        (path,) = checkpoint.find(tmp_path, lineage=LINEAGE, last_step=1)
        assert list(checkpoint.find(tmp_path / "nowhere", lineage=LINEAGE, last_step=1)) == []
        assert caplog.messages == []
        assert list(checkpoint.find(tmp_path, lineage={"run": "b", "seed": 1}, last_step=1)) == []
    assert path.name == "step-000001"
    assert "is of a training with another run, seed" in caplog.text
