"""Runs in one pack are split where memory is short, tried alone where it fails, and measured alone."""

import csv
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from sweeps import RANKS, Compose, Trainer, describe, record

from bench.config.pack import describe_pack
from bench.config.schema import Config, replace_values
from bench.errors import HeldError
from bench.results.store import STARTED, Store
from bench.sweep.engine import Foresight, Outcome, Sweep
from bench.sweep.isolate import ProcessError
from bench.sweep.packing import Pack
from bench.sweep.plan import Axes, Plan, Point
from bench.sweep.request import Identifier, plan_sweep


@pytest.fixture
def sweep_packed(base: Config, compose: Compose, identify: Identifier) -> Callable[..., Outcome]:
    """A sweep whose runs of lora fit into one pack."""
    plan = plan_sweep([RANKS], constant=[], compose=lambda lines: compose(*lines), identify=identify)
    foresight = Foresight(limit_pack=lambda _: 4)

    def sweep_with(trainer: Trainer, **settings: Any) -> Outcome:
        given = replace_values(base, settings)
        return Sweep(plan, given, trainer, identify, lambda: foresight).run()

    return sweep_with


def ranks(jobs: Sequence[Sequence[Point]]) -> list[list[int]]:
    return [[point.config.lora.r for point in job] for job in jobs]


@pytest.mark.parametrize("strategy", ["grid", "halving"])
def test_what_goes_first_trains_whole_and_alone_before_all_else(
    base: Config, compose: Compose, store: Store, identify: Identifier, strategy: str
) -> None:
    grids: list[Axes] = [{**RANKS, "train.max_steps": [60]}]
    plan = plan_sweep(
        grids,
        constant=[],
        compose=lambda lines: compose(*lines),
        identify=identify,
        first=[{"lora.r": 4}],
    )
    trainer = Trainer(store)
    settings = {"sweep.strategy": strategy, "sweep.pack": 4}
    foresight = Foresight(limit_pack=lambda _: 4)
    outcome = Sweep(plan, replace_values(base, settings), trainer, identify, lambda: foresight).run()
    assert trainer.trained[:2] == ["full 2 0", "lora 4 0"]
    assert trainer.sizes[:2] == [[1, 1], [3] if strategy == "grid" else [4]]
    assert {point.config.train.stop_step for point in trainer.jobs[0]} == {None}
    assert outcome.exit_code == 0


def test_a_job_that_dies_is_on_record_before_the_others_of_its_launch_have_ended(
    base: Config, plan: Plan, store: Store, identify: Identifier
) -> None:
    seen = []

    def launch(jobs: Sequence[tuple[Pack, Sequence[str]]]) -> list[Exception | None]:
        errors: list[Exception | None] = []
        for pack, _ in jobs:
            [point] = pack
            dies = point.config.method.name == "full"
            store.write(record(point, STARTED if dies else "success"))
            errors.append(ProcessError("killed", status="crashed") if dies else None)
            whole = sweep.note_end(pack, errors[-1])
            found = store.read(point.run_id)
            assert found is not None
            seen.append((describe(point), found.status, found.attempt, whole, sweep.progress()))
        return errors

    sweep = Sweep(plan, base, launch, identify)
    assert sweep.run().statuses == {"success": 3, "crashed": 1}
    assert seen == [
        ("majority 8 0", "success", 1, True, (1, 4)),
        ("full 8 0", "crashed", 1, True, (2, 4)),
        ("lora 8 0", "success", 1, False, (3, 4)),
        ("lora 16 0", "success", 1, True, (4, 4)),
    ]
    assert {one.attempt for one in store.read_all()[0]} == {1}  # the death counts once


def test_what_is_chosen_from_a_pack_is_measured_alone(
    sweep_packed: Callable[..., Outcome], store: Store
) -> None:
    trainer = Trainer(store)
    outcome = sweep_packed(trainer)
    assert trainer.sizes == [[1, 4], [1]]
    assert ranks(trainer.jobs[1:]) == [[16]]  # the best on validation
    assert (outcome.planned, outcome.statuses["success"], outcome.skipped) == (5, 5, 0)
    packed = {one.config["lora"]["r"]: one.packed for one in store.read_all()[0]}
    assert {r: packed[r] for r in (4, 8, 16)} == {4: describe_pack(4), 8: describe_pack(4), 16: None}
    again = Trainer(store)
    assert sweep_packed(again).skipped == 5
    assert again.jobs == []


def test_a_cross_validation_is_a_pack_of_which_one_fold_is_measured_alone(
    base: Config, compose: Compose, store: Store
) -> None:
    """And each final seed trains in each fold of what was chosen by the mean over folds."""
    grid: Axes = {"method": ["lora"], "lora.r": [8, 16], "data.folds": [3], "data.fold": [0, 1, 2]}
    config = compose("data.folds=3")
    identify = Identifier({repr(config.data): "texts"}, {repr(config.model): "weights"})
    plan = plan_sweep([grid], constant=[], compose=lambda lines: compose(*lines), identify=identify)
    trainer, foresight = Trainer(store), Foresight(limit_pack=lambda _: 6)
    settings = replace_values(base, {"sweep.final_seeds": [0, 1]})
    outcome = Sweep(plan, settings, trainer, identify, lambda: foresight).run()
    assert (outcome.planned, outcome.statuses["success"]) == (9, 9)
    assert trainer.sizes == [[6], [1], [1, 1, 1]]  # three are too few to pack and to measure one again
    places = [[(point.config.data.fold, point.config.seed) for point in job] for job in trainer.jobs]
    assert places[1:] == [[(0, 0)], [(0, 1), (1, 1), (2, 1)]]
    assert ranks(trainer.jobs[1:]) == [[16], [16, 16, 16]]


HALVING = {"sweep.strategy": "halving"}


@pytest.fixture
def halve_packed(base: Config, compose: Compose, identify: Identifier) -> Callable[..., Outcome]:
    """Halving of runs of lora with even ranks, of which so many fit into one pack."""

    def sweep_with(trainer: Trainer, *, runs: int = 8, largest: int = 10, **settings: Any) -> Outcome:
        ranks = range(2, 2 * runs + 1, 2)
        axes: Axes = {"method": ["lora"], "lora.r": list(ranks), "train.max_steps": [60]}
        plan = plan_sweep([axes], constant=[], compose=lambda lines: compose(*lines), identify=identify)
        foresight = Foresight(limit_pack=lambda _: largest)
        given = replace_values(base, HALVING | settings)
        return Sweep(plan, given, trainer, identify, lambda: foresight).run()

    return sweep_with


def stops(jobs: Sequence[Sequence[Point]]) -> list[tuple[list[int], int | None]]:
    return [([point.config.lora.r for point in job], job[0].config.train.stop_step) for job in jobs]


def test_survivors_of_a_pack_go_on_together_and_the_last_one_begins_anew_alone(
    halve_packed: Callable[..., Outcome], store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = Trainer(store, sure=lambda _: 0.7)
    outcome = halve_packed(trainer)
    assert trainer.sizes == [[8], [2], [1]]
    assert stops(trainer.jobs) == [([2, 4, 6, 8, 10, 12, 14, 16], 9), ([14, 16], 18), ([16], None)]
    first, second, last = trainer.jobs
    by_rank = {point.config.lora.r: point.run_id for point in first}
    assert [point.config.resume_from for point in second] == [by_rank[14], by_rank[16]]
    assert last[0].config.resume_from is None  # so that its memory and time are its own
    assert (outcome.planned, outcome.exit_code) == (8 + 2 + 1, 0)
    assert "halving lora, step 9 of 60: 2 of 8 go on, 6 left by rank" in capsys.readouterr().out
    rows = list(csv.DictReader((store.folder / "halving.csv").read_text().splitlines()))
    assert [row["verdict"] for row in rows].count("goes on") == 2 + 1
    again = Trainer(store)
    assert halve_packed(again).skipped == 11
    assert again.jobs == []


def test_what_reaches_the_last_rung_in_a_pack_is_measured_alone(
    halve_packed: Callable[..., Outcome], store: Store
) -> None:
    trainer = Trainer(store, sure=lambda _: 0.7)
    halve_packed(trainer, **{"sweep.final_seeds": [0, 1]}, runs=33, largest=17)
    assert trainer.sizes == [[16, 17], [9], [3], [2], [1], [1]]
    assert stops(trainer.jobs[3:]) == [([64, 66], None), ([66], None), ([66], None)]
    assert [point.config.seed for job in trainer.jobs[3:] for point in job] == [0, 0, 0, 1]
    assert all(point.config.resume_from for point in trainer.jobs[3])
    assert trainer.jobs[4][0].config.resume_from is None


def test_who_can_hardly_be_the_best_leaves_beside_the_half(
    halve_packed: Callable[..., Outcome], store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = Trainer(store, sure=lambda point: 0.3 if point.config.lora.r < 16 else 0.8)
    halve_packed(trainer)
    assert stops(trainer.jobs) == [([2, 4, 6, 8, 10, 12, 14, 16], 9), ([16], None)]
    out = capsys.readouterr().out
    assert "halving lora, step 9 of 60: 1 of 8 go on, 6 left by rank, 1 left by test" in out
    assert out.count("  left by test: ") == 1


def test_without_predictions_the_rank_decides(
    halve_packed: Callable[..., Outcome], store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = Trainer(store)
    assert halve_packed(trainer).exit_code == 0
    assert trainer.sizes == [[8], [2], [1]]
    assert "halving by rank alone, as losses cannot be compared: runs/" in capsys.readouterr().out


def test_a_rungs_pack_that_fails_is_tried_smaller_and_its_runs_still_compete(
    halve_packed: Callable[..., Outcome], store: Store
) -> None:
    trainer = Trainer(store, end_pack=lambda pack: "oom" if len(pack) > 4 else "success", sure=lambda _: 0.7)
    assert halve_packed(trainer).exit_code == 0
    assert trainer.sizes == [[8], [4, 4], [2], [1]]


def test_runs_that_had_to_train_alone_go_on_alone_from_their_checkpoints(
    halve_packed: Callable[..., Outcome], store: Store
) -> None:
    trainer = Trainer(store, end_pack=lambda _: "crashed", sure=lambda _: 0.7)
    assert halve_packed(trainer).exit_code == 0
    assert trainer.sizes == [[8], [1] * 8, [1] * 2, [1]]
    assert trainer.jobs[-1][0].config.resume_from is not None


def test_a_choice_that_is_worse_alone_stands(sweep_packed: Callable[..., Outcome], store: Store) -> None:
    trainer = Trainer(store, worse_alone=16)
    sweep_packed(trainer, **{"sweep.final_seeds": [0, 1]})
    assert ranks(trainer.jobs[1:]) == [[16], [2, 16]]  # the best alone, then seed 1 of full and of lora
    assert trainer.sizes[1:] == [[1], [1, 1]]
    again = Trainer(store)
    sweep_packed(again, **{"sweep.final_seeds": [0, 1]})
    assert again.jobs == []


def test_a_failure_alone_costs_no_success_and_is_tried_once(
    sweep_packed: Callable[..., Outcome], store: Store
) -> None:
    trainer = Trainer(store)
    trainer.status = lambda _: "success" if len(trainer.jobs) == 1 else "failed"
    outcome = sweep_packed(trainer)
    assert trainer.sizes == [[1, 4], [1]]
    assert (outcome.statuses["success"], outcome.exit_code) == (5, 0)


@pytest.mark.parametrize(
    ("largest", "sizes"), [(2, [[1, 4], [2, 2], [1]]), (1, [[1, 4], [2, 2], [1, 1, 1, 1]])]
)
def test_a_pack_out_of_memory_is_split(
    sweep_packed: Callable[..., Outcome], store: Store, largest: int, sizes: list[list[int]]
) -> None:
    trainer = Trainer(store, end_pack=lambda pack: "oom" if len(pack) > largest else "success")
    outcome = sweep_packed(trainer, **{"sweep.pack": 4})
    assert trainer.sizes == sizes
    assert not any("oom_halvings" in line for line in trainer.extra)
    assert outcome.exit_code == 0


@pytest.mark.parametrize("largest", [4, 2])
def test_a_pack_computes_whole_micro_batches_as_one_until_memory_was_short(
    base: Config, compose: Compose, store: Store, identify: Identifier, largest: int
) -> None:
    plan = plan_sweep([RANKS], constant=[], compose=lambda lines: compose(*lines), identify=identify)
    trainer = Trainer(store, end_pack=lambda pack: "oom" if len(pack) > largest else "success")
    asked: list[list[str]] = []

    def launch(jobs: Sequence[tuple[Pack, Sequence[str]]]) -> list[Exception | None]:
        asked.append([f"{len(pack)} {line}" for pack, lines in jobs for line in lines if "merged" in line])
        return trainer(jobs)

    foresight = Foresight(limit_pack=lambda _: 4, merge_batches=lambda _: 2)
    Sweep(plan, base, launch, identify, lambda: foresight).run()
    assert asked[0] == ["4 merged_micro_batches=2"]
    assert not any(asked[1:])  # neither in halves, nor alone


def test_many_final_seeds_pack_and_have_the_memory_and_time_of_the_run_alone(
    sweep_packed: Callable[..., Outcome], store: Store
) -> None:
    trainer = Trainer(store)
    settings = {"sweep.final_seeds": [0, 1, 2, 3, 4], "sweep.pack": "auto"}
    sweep_packed(trainer, **settings)
    assert trainer.sizes == [[1, 4], [1], [1, 1, 1, 1, 4]]
    seeds = {one.config["seed"]: one.packed for one in store.read_all()[0] if one.config["lora"]["r"] == 16}
    assert [seeds[seed] for seed in range(5)] == [None, *[describe_pack(4)] * 4]
    again = Trainer(store)
    sweep_packed(again, **settings)
    assert again.jobs == []


def test_of_a_grid_of_seeds_one_run_is_measured_alone(
    base: Config, compose: Compose, store: Store, identify: Identifier
) -> None:
    grids: list[Axes] = [{"method": ["lora"], "seed": [0, 1, 2, 3, 4]}]
    plan = plan_sweep(grids, constant=[], compose=lambda lines: compose(*lines), identify=identify)
    trainer = Trainer(store)
    foresight = Foresight(limit_pack=lambda _: 24)
    Sweep(plan, base, trainer, identify, lambda: foresight).run()
    assert trainer.sizes == [[5], [1]]


@pytest.mark.parametrize("end", [None, STARTED, "failed", "crashed", "timeout", "invalid"])
def test_a_pack_that_dies_has_its_runs_trained_alone(
    sweep_packed: Callable[..., Outcome], store: Store, end: str | None
) -> None:
    trainer = Trainer(store, lambda point: "failed" if point.config.lora.r == 4 else "success")
    trainer.end_pack = lambda _: end
    outcome = sweep_packed(trainer)
    if end is None:  # its process left no word at all, and that is what each record says
        assert {one.attempt for one in store.read_all()[0] if one.config["method"]["name"] == "lora"} == {2}
    assert trainer.sizes == [[1, 4], [1, 1, 1, 1]]
    assert (outcome.statuses["success"], outcome.statuses["failed"]) == (4, 1)


def test_a_run_that_diverges_in_a_pack_has_had_its_try(
    sweep_packed: Callable[..., Outcome], store: Store
) -> None:
    trainer = Trainer(store, lambda point: "diverged" if point.config.lora.r == 4 else "success")
    outcome = sweep_packed(trainer)
    assert trainer.sizes == [[1, 4], [1]]
    assert outcome.statuses["diverged"] == 1


def test_a_pack_that_was_stopped_is_not_tried_again(
    sweep_packed: Callable[..., Outcome], store: Store
) -> None:
    trainer = Trainer(store, end_pack=lambda _: "interrupted")
    assert sweep_packed(trainer).statuses["interrupted"] == 4
    assert trainer.sizes == [[1, 4]]


def test_a_pack_with_a_run_that_another_sweep_took_is_formed_again(
    sweep_packed: Callable[..., Outcome], store: Store
) -> None:
    trainer = Trainer(store)
    train = trainer.train

    def hold(pack: Pack) -> Exception | None:
        return HeldError("taken") if len(pack) == 4 and len(trainer.jobs) == 1 else train(pack)

    trainer.train = hold  # type: ignore[method-assign]
    assert sweep_packed(trainer).exit_code == 0
    assert trainer.sizes == [[1, 4], [4], [1]]
