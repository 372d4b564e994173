"""A sweep trains what has no success yet, adds seeds to each method's best, and leaves no hole."""

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sweeps import Compose, Trainer, record

from bench.config import pins
from bench.config.identity import Identity
from bench.config.schema import Config, replace_values
from bench.data import dataset
from bench.errors import ConfigError, MissingError, StoreError
from bench.model import weights
from bench.results.store import RECORD, STARTED, STATUSES, Store
from bench.run.preparation import ASIDE
from bench.run.tracking import wandb_run as tracking
from bench.sweep import engine, request
from bench.sweep.engine import Foresight, Outcome, Sweep
from bench.sweep.plan import Axes, Plan, Point
from bench.sweep.request import Identifier, plan_sweep
from bench.train.checkpoint import FOLDER


def test_a_sweep_trains_every_run_once(sweep: Callable[..., Outcome], store: Store) -> None:
    trainer = Trainer(store)
    outcome = sweep(trainer)
    assert trainer.trained == ["majority 8 0", "full 8 0", "lora 8 0", "lora 16 0"]
    assert (outcome.planned, outcome.skipped, outcome.exit_code) == (4, 0, 0)


def test_the_same_sweep_again_trains_nothing(sweep: Callable[..., Outcome], store: Store) -> None:
    seeds = {"sweep.final_seeds": [0, 1]}
    first = sweep(Trainer(store), **seeds)
    again = Trainer(store)
    outcome = sweep(again, **seeds)
    assert again.jobs == []
    assert (outcome.planned, outcome.skipped, outcome.exit_code) == (first.planned, first.planned, 0)


@pytest.mark.parametrize("status", [*STATUSES[1:], STARTED])
def test_only_a_success_is_skipped(
    sweep: Callable[..., Outcome], store: Store, plan: Plan, status: str
) -> None:
    first, second, *_ = plan.points
    store.write(record(first, "success"))
    store.write(record(second, status))
    trainer = Trainer(store)
    outcome = sweep(trainer)
    assert trainer.trained == ["full 8 0", "lora 8 0", "lora 16 0"]
    assert (outcome.skipped, outcome.statuses["success"], outcome.exit_code) == (1, 4, 0)


def test_a_damaged_success_is_trained_again(sweep: Callable[..., Outcome], store: Store, plan: Plan) -> None:
    sweep(Trainer(store))
    (store.run_folder(plan.points[0].run_id) / RECORD).write_text("{}", encoding="utf-8")
    trainer = Trainer(store)
    assert sweep(trainer).exit_code == 0
    assert trainer.trained == ["majority 8 0"]


@pytest.mark.parametrize("left", [STARTED, None])
@pytest.mark.parametrize(
    ("death", "message"),
    [
        ("the process was killed by SIGKILL", "the process was killed by SIGKILL"),
        (None, "the process left no final record"),
    ],
)
def test_a_run_that_vanished_is_crashed_and_says_how(
    sweep: Callable[..., Outcome], store: Store, plan: Plan, left: str | None, death: str | None, message: str
) -> None:
    def status(point: Point) -> str | None:
        return "success" if point.config.method.name != "full" else left

    outcome = sweep(Trainer(store, status, death))
    vanished = store.read(plan.points[1].run_id)
    assert vanished is not None
    assert vanished.status == "crashed"
    assert vanished.error is not None
    assert vanished.error["message"] == message
    assert vanished.ended_at is not None
    assert vanished.config["method"]["name"] == "full"
    assert (outcome.statuses["crashed"], outcome.statuses["success"], outcome.exit_code) == (1, 3, 1)
    assert store.read_all()[1] == []


def test_a_failure_stays_as_it_was_recorded(sweep: Callable[..., Outcome], store: Store, plan: Plan) -> None:
    outcome = sweep(Trainer(store, lambda point: "failed" if point.config.lora.r == 16 else "success"))
    found = store.read(plan.points[3].run_id)
    assert found == record(plan.points[3], "failed")
    assert outcome.exit_code == 1


def test_out_of_memory_halves_the_micro_batch_as_often_as_allowed(
    sweep: Callable[..., Outcome], store: Store
) -> None:
    asked: list[str] = []

    def status(point: Point) -> str:
        if point.config.lora.r != 16:
            return "success"
        asked.append(trainer.extra[-1])
        return "oom"

    trainer = Trainer(store, status)
    outcome = sweep(trainer)
    assert trainer.trained[3:] == ["lora 16 0"] * 3  # train.oom_retries is 2
    assert asked[1:] == ["oom_halvings=1", "oom_halvings=2"]
    assert (outcome.statuses["oom"], outcome.statuses["success"], outcome.exit_code) == (1, 3, 1)


@pytest.mark.parametrize(
    ("words", "age", "status"),
    [
        ("Error out of memory at line 62 in file /src/csrc/ops.cu", 0, "oom"),
        ("Error out of memory at line 62 in file /src/csrc/ops.cu\nterminate called", 0, "oom"),
        ("Error out of memory at line 62 in file /src/csrc/ops.cu", 10**9, "crashed"),  # of an attempt before
        ("Error invalid device ordinal at line 62 in file /src/csrc/ops.cu", 0, "crashed"),
    ],
)
def test_a_process_that_bitsandbytes_ended_for_want_of_memory_was_out_of_memory(
    sweep: Callable[..., Outcome], store: Store, plan: Plan, words: str, age: int, status: str
) -> None:
    def die(point: Point) -> str:
        if point.config.lora.r != 16:
            return "success"
        log = store.run_folder(point.run_id) / "log.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(f"2026-01-01 00:00:00,000 INFO bench: step 1\n{words}\n")
        os.utime(log, (time.time() - age,) * 2)
        return STARTED

    trainer = Trainer(store, die, "the process ended by itself with exit code 1 and no result")
    outcome = sweep(trainer)
    found = store.read(plan.points[3].run_id)
    assert found is not None
    assert found.error is not None
    assert (found.status, outcome.statuses[status]) == (status, 1)
    if status == "oom":  # and was tried with smaller micro-batches first
        assert trainer.trained[3:] == ["lora 16 0"] * 3
        assert found.error["message"] == (
            "bitsandbytes ended the process: Error out of memory at line 62 in file /src/csrc/ops.cu"
        )


def test_what_killed_processes_left_goes_with_the_next_start_also_where_all_is_done(
    sweep: Callable[..., Outcome], store: Store, plan: Plan
) -> None:
    done, failed, held = plan.points[:3]
    for point, status in ((done, "success"), (failed, "failed"), (held, "success")):
        store.write(record(point, status))
        folder = store.run_folder(point.run_id)
        (folder / FOLDER / "step-000010").mkdir(parents=True)
        (folder / ASIDE).mkdir()
        (folder / ".writing-result.json.x").touch()
    (store.folder / ".writing-table.csv.old").touch()
    os.utime(store.folder / ".writing-table.csv.old", (0, 0))
    (store.folder / ".writing-table.csv.new").touch()  # which another sweep may be writing
    with store.claim(held.run_id):
        (store.run_folder(held.run_id) / ".writing-result.json.x").touch()
        sweep(Trainer(store), **{"sweep.retry": []})
    left = {
        point.run_id: sorted(path.name for path in store.run_folder(point.run_id).iterdir())
        for point in (done, failed, held)
    }
    own = [".lock", "config.yaml", "result.json"]
    parts = [".writing-result.json.x", ASIDE, FOLDER]
    assert left[done.run_id] == own
    assert left[failed.run_id] == sorted([*own, ASIDE, FOLDER])
    assert left[held.run_id] == sorted([*own, *parts])
    assert [path.name for path in store.folder.glob(".writing-*")] == [".writing-table.csv.new"]


@pytest.mark.parametrize(
    ("words", "status"),
    [("Error out of memory at line 62 in file /src/csrc/ops.cu", "oom"), ("step 1: loss 0.5", "crashed")],
)
def test_a_single_run_that_bitsandbytes_ended_was_out_of_memory_to_the_next_sweep(
    sweep: Callable[..., Outcome], store: Store, plan: Plan, words: str, status: str
) -> None:
    run_id = plan.points[3].run_id
    store.write(record(plan.points[3], STARTED))
    (store.run_folder(run_id) / "log.txt").write_text(words)
    assert sweep(Trainer(store)).exit_code == 0
    found = store.read(run_id)
    assert found is not None
    assert [attempt["status"] for attempt in found.attempts] == [status]


def test_the_words_of_a_process_that_died_are_cut(
    sweep: Callable[..., Outcome], store: Store, plan: Plan
) -> None:
    sweep(Trainer(store, lambda _: STARTED, "x" * 3_000_000))
    assert (store.run_folder(plan.points[0].run_id) / RECORD).stat().st_size < 30_000


def test_what_cannot_fit_is_recorded_without_being_started(
    base: Config, store: Store, plan: Plan, identify: Identifier
) -> None:
    asked: list[tuple[int, int]] = []

    def refuse(point: Point, halvings: int) -> str | None:
        asked.append((point.config.lora.r, halvings))
        return "too large" if point.config.lora.r == 16 and halvings < 2 else None

    trainer = Trainer(store)
    outcome = Sweep(plan, base, trainer, identify, lambda: Foresight(refuse)).run()
    assert asked[3:] == [(16, 0), (16, 1), (16, 2)]  # halved as after a real end of memory
    assert trainer.trained == ["majority 8 0", "full 8 0", "lora 8 0", "lora 16 0"]
    assert trainer.extra[-1] == "oom_halvings=2"
    assert outcome.exit_code == 0

    never = Sweep(plan, base, trainer, identify, lambda: Foresight(lambda *_: "full"))
    store.run_folder(plan.points[3].run_id).joinpath(RECORD).unlink()
    assert never.run().statuses["oom"] == 1
    found = store.read(plan.points[3].run_id)
    assert found is not None
    assert found.error is not None
    assert (found.status, found.error["message"]) == ("oom", "full")


def test_a_run_that_another_sweep_trains_is_waited_for(
    sweep: Callable[..., Outcome], store: Store, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = plan.points[2]
    waited: list[float] = []

    def finish(seconds: float) -> None:
        waited.append(seconds)
        claim.close()
        store.write(record(held, "success"))

    monkeypatch.setattr(engine.time, "sleep", finish)
    trainer = Trainer(store)
    with contextlib.ExitStack() as claim:
        claim.enter_context(store.claim(held.run_id))
        outcome = sweep(trainer)
    assert trainer.trained == ["majority 8 0", "full 8 0", "lora 16 0"]
    assert len(waited) == 1
    assert outcome.exit_code == 0


def test_the_last_line_counts_every_status(sweep: Callable[..., Outcome], store: Store, plan: Plan) -> None:
    store.write(record(plan.points[0], "success"))
    statuses = dict(zip([point.run_id for point in plan.points[1:]], ["oom", "diverged", None], strict=True))
    outcome = sweep(Trainer(store, lambda point: statuses[point.run_id]))
    assert outcome.last_line() == (
        "sweep: planned=4 success=1 failed=0 oom=1 diverged=1 timeout=0 interrupted=0 crashed=1 invalid=0 "
        "skipped=1"
    )


@pytest.mark.parametrize("status", STATUSES)
def test_the_statuses_sum_to_planned(sweep: Callable[..., Outcome], store: Store, status: str) -> None:
    outcome = sweep(Trainer(store, lambda point: status if point.config.lora.r == 16 else None))
    assert outcome.statuses == ({status: 1, "crashed": 3} if status != "crashed" else {"crashed": 4})
    numbers = [int(part.partition("=")[2]) for part in outcome.last_line().split()[1:]]
    assert sum(numbers[1:-1]) == numbers[0] == outcome.planned
    assert outcome.exit_code == 1


@pytest.mark.parametrize(("select_by", "best"), [("accuracy", 16), ("f1_macro", 8)])
def test_only_the_best_of_each_method_gets_more_seeds(
    sweep: Callable[..., Outcome], store: Store, select_by: str, best: int
) -> None:
    trainer = Trainer(store)
    outcome = sweep(trainer, **{"sweep.final_seeds": [0, 1, 2], "sweep.select_by": select_by})
    assert len(trainer.jobs) == 2
    assert sorted(trainer.trained[4:]) == ["full 8 1", "full 8 2", f"lora {best} 1", f"lora {best} 2"]
    assert (outcome.planned, outcome.skipped, outcome.statuses["success"]) == (8, 0, 8)


def test_a_method_without_a_success_gets_no_more_seeds(sweep: Callable[..., Outcome], store: Store) -> None:
    trainer = Trainer(store, lambda point: "failed" if point.config.method.name == "lora" else "success")
    outcome = sweep(trainer, **{"sweep.final_seeds": [0, 1]})
    assert trainer.trained[4:] == ["full 8 1"]
    assert (outcome.planned, outcome.statuses["failed"], outcome.exit_code) == (5, 2, 1)


def test_other_runs_in_the_folder_are_not_this_sweeps(
    sweep: Callable[..., Outcome], store: Store, compose: Compose, identify: Identifier
) -> None:
    better = plan_sweep(
        [{"method": ["lora"], "lora.r": [64]}],
        constant=[],
        compose=lambda lines: compose(*lines),
        identify=identify,
    )
    store.write(record(better.points[0], "success"))
    trainer = Trainer(store)
    outcome = sweep(trainer, **{"sweep.final_seeds": [1]})
    assert sorted(trainer.trained[4:]) == ["full 8 1", "lora 16 1"]
    assert (outcome.planned, outcome.skipped) == (6, 0)


def test_results_that_cannot_be_written_stop_a_sweep_before_it_trains(
    sweep: Callable[..., Outcome], store: Store, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    trainer = Trainer(store)
    with pytest.raises(StoreError, match="results_dir must be a folder that can be written"):
        sweep(trainer, results_dir=str(tmp_path / "file"))
    assert trainer.jobs == []


@pytest.mark.parametrize(
    "mode", [tracking.Mode("offline", "no API key, here"), tracking.Mode("online", None)]
)
def test_the_server_is_asked_once_for_a_whole_sweep(
    sweep: Callable[..., Outcome],
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    mode: tracking.Mode,
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(tracking, "resolve", lambda asked_for, **_: asked.append(asked_for) or mode)
    trainer = Trainer(store)
    sweep(trainer, **{"track.mode": "auto", "sweep.final_seeds": [0, 1]})
    assert asked == ["auto"]
    assert (
        trainer.extra[:2]
        == {
            "offline": ["track.mode=offline", "track.reason='no API key, here'"],
            "online": ["track.mode=online", "track.reason='the server answered when the sweep began'"],
        }[mode.mode]
    )
    assert capsys.readouterr().out == ("W&B: no API key, here\n" if mode.reason else "")


def test_every_run_writes_to_the_sweeps_folder_also_where_data_is_swept(
    base: Config, store: Store, compose: Compose
) -> None:
    configs = [compose("data=bbc_news"), compose("data=bbc_headlines")]
    assert len({config.results_dir for config in configs}) == 2
    identify = Identifier(
        {repr(config.data): config.data.name for config in configs}, {repr(base.model): "weights"}
    )
    axes = {"data": ["bbc_news", "bbc_headlines"]}
    plan = plan_sweep([axes], constant=[], compose=lambda lines: compose(*lines), identify=identify)
    trainer = Trainer(store)
    Sweep(plan, base, trainer, identify).run()
    point_lines = trainer.jobs[0][0].overrides
    assert compose(*point_lines, *trainer.extra).results_dir == base.results_dir


def test_every_fault_of_every_run_is_found_before_any_is_identified(compose: Compose) -> None:
    def identify_never(_: Config) -> Identity:
        pytest.fail("looked at texts for a plan that is wrong")

    axes = {"lora.r": [0, 8], "train.lr": [1e-3, -1.0]}
    with pytest.raises(ConfigError) as caught:
        plan_sweep([axes], constant=[], compose=lambda lines: compose(*lines), identify=identify_never)
    faults = [line.partition(":")[0] for line in str(caught.value).splitlines()]
    assert faults == ["lora.r=0", "train.lr=-1.0"]


def test_texts_and_weights_are_looked_at_once(compose: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    load, revision = dataset.load, weights.revision
    monkeypatch.setattr(
        request.dataset, "load", lambda one, **more: loaded.append(one.name) or load(one, **more)
    )
    monkeypatch.setattr(request.weights, "revision", lambda one: loaded.append(one.name) or revision(one))
    axes = {"method": ["full", "lora", "qlora"], "lora.r": [8, 16]}
    identify = Identifier()
    plan = plan_sweep([axes], constant=[], compose=lambda lines: compose(*lines), identify=identify)
    assert sorted(loaded) == ["bbc_headlines", "minilm"]
    assert len(plan.points) == 5
    assert {point.identity.canonical["data"]["fingerprint"] for point in plan.points} == {
        load(compose().data).fingerprint
    }


def test_a_model_that_is_not_here_stops_a_plan(compose: Compose, identify: Identifier) -> None:
    lines = ["model=local", "model.path=no/such/folder"]
    with pytest.raises(MissingError, match=r"^model\.path=no/such/folder: "):
        plan_sweep([{}], constant=lines, compose=lambda given: compose(*given), identify=identify)


def test_halving_trains_in_rungs_and_only_the_better_half_goes_on(
    compose: Compose, base: Config, store: Store, identify: Identifier
) -> None:
    axes: Axes = {"method": ["majority", "lora"], "lora.r": [2, 4, 8, 16], "train.max_steps": [60]}
    plan = plan_sweep([axes], constant=[], compose=lambda lines: compose(*lines), identify=identify)
    trainer = Trainer(store)
    settings = {"sweep.strategy": "halving", "sweep.final_seeds": [0, 1]}
    outcome = Sweep(plan, replace_values(base, settings), trainer, identify).run()
    rungs = [
        sorted((point.config.lora.r, point.config.train.stop_step) for point in job)
        for job in trainer.jobs[1:-1]
    ]
    assert trainer.trained[0] == "majority 2 0"
    assert rungs == [[(2, 9), (4, 9), (8, 9), (16, 9)], [(8, 18), (16, 18)], [(16, None)]]
    resumed = [point.config.resume_from for point in trainer.jobs[2]]
    assert set(resumed) <= {point.run_id for point in trainer.jobs[1]}
    assert trainer.jobs[3][0].config.resume_from in {point.run_id for point in trainer.jobs[2]}
    assert trainer.trained[-1] == "lora 16 1"  # the final seed, trained in full
    assert (outcome.planned, outcome.exit_code) == (9, 0)


def test_what_is_on_the_hub_is_pinned_for_every_process_of_a_sweep(
    compose: Compose, identify: Identifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "revision", lambda model: f"{model.hub_id}@{model.revision}")
    monkeypatch.setattr(pins, "_find_commit", lambda *_: "a" * 40)
    lines = ["model=hub", "model.hub_id=owner/name"]
    grids: list[Axes] = [{"method": ["full", "lora"], "seed": [0, 1]}]
    plan = plan_sweep(grids, constant=lines, compose=lambda more: compose(*more), identify=identify)
    assert [point.config.model.revision for point in plan.points] == ["a" * 40] * 4
    assert [point.overrides[-1] for point in plan.points] == [f"model.revision={'a' * 40}"] * 4
    assert all(point.identity.canonical["model"]["revision"].endswith("a" * 40) for point in plan.points)
    assert compose(*plan.points[3].overrides) == plan.points[3].config


@pytest.mark.parametrize(
    ("experiment", "combinations", "distinct"), [("article", 324, 219), ("rtx4090", 10, 10)]
)
def test_the_experiments_of_large_models_are_right_in_every_run(
    compose: Compose, experiment: str, combinations: int, distinct: int
) -> None:
    lines = [f"experiment={experiment}", "model.weights=random", "data=bbc_headlines"]
    base = compose(*lines)
    known = Identifier({repr(base.data): "texts"}, {repr(base.model): "weights"})
    grids: list[Axes] = [
        {key: value if isinstance(value, list) else [value] for key, value in grid.items()}
        for grid in base.sweep.grids
    ]
    plan = plan_sweep(grids, constant=lines, compose=lambda more: compose(*more), identify=known)
    assert (plan.combinations, len(plan.points)) == (combinations, distinct)
    for point in plan.points:
        train = point.config.train
        assert train.micro_batch_size * train.gradient_accumulation_steps == 16
        assert train.optimizer_in_backward == (point.config.method.trainable == "all")
