"""A sweep within its hours: what is tried, what is kept for the final seeds, and what is said to be left."""

import dataclasses
import os
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import pytest
from sweeps import Compose, Trainer, record

from bench.config.schema import Config, replace_values
from bench.report.language.text import read_language
from bench.report.numbers.budget import UNTRIED
from bench.report.numbers.evidence import gather
from bench.report.table import describe_all, render_files, write_tables
from bench.results.store import RECORD, STARTED, Store
from bench.sweep.engine import Foresight, Outcome, Sweep
from bench.sweep.overview import tell_used
from bench.sweep.plan import Axes, Point
from bench.sweep.request import Identifier, plan_sweep
from bench.sweep.search.hours import read_taken

RATES = [1e-4, 3e-4, 1e-3, 3e-3, 1e-2]
AXES: Axes = {"method": ["full", "lora", "majority"], "train.lr": RATES}
SECONDS = {"full": 30.0, "lora": 10.0, "majority": 0.1}
LANGUAGES = ("en", "zh")

Run = Callable[..., tuple[Outcome, Sweep]]


def take(point: Point) -> float:
    return SECONDS[point.config.method.name]


@pytest.fixture
def run(compose: Compose, base: Config, identify: Identifier) -> Run:
    def run_with(
        trainer: Trainer, seconds: float, axes: Axes = AXES, **settings: Any
    ) -> tuple[Outcome, Sweep]:
        plan = plan_sweep([axes], constant=[], compose=lambda lines: compose(*lines), identify=identify)
        given = replace_values(base, {"sweep.hours": seconds / 3600, "sweep.pack": "off", **settings})
        foresight = Foresight(limit_pack=lambda _: 1 if given.sweep.pack == "off" else 24)
        made = Sweep(plan, given, trainer, identify, lambda: foresight, clock=lambda: trainer.now)
        return made.run(), made

    return run_with


def list_rates(trainer: Trainer) -> list[str]:
    return [
        f"{point.config.method.name} {point.config.train.lr:g} {point.config.seed}"
        for job in trainer.jobs
        for point in job
    ]


def add_up(trainer: Trainer) -> dict[str, float]:
    seconds: dict[str, float] = defaultdict(float)
    for job in trainer.jobs:
        for point in job:
            seconds[point.config.method.name] += take(point)
    return seconds


def test_methods_share_the_hours(run: Run, store: Store) -> None:
    trainer = Trainer(store, seconds=take)
    outcome, sweep = run(trainer, 125)
    assert list_rates(trainer)[:3] == ["majority 0.0001 0", "full 0.001 0", "lora 0.001 0"]
    assert add_up(trainer) == {"majority": 0.1, "full": 60.0, "lora": 50.0}
    assert trainer.now <= 125
    assert (outcome.planned, outcome.exit_code) == (8, 0)
    assert [point.config.train.lr for point in sweep.list_untried()] == [3e-3, 1e-4, 1e-2]


def test_the_final_seeds_have_their_time(run: Run, store: Store) -> None:
    trainer = Trainer(store, seconds=take)
    run(trainer, 170, **{"sweep.final_seeds": [0, 1, 2]})
    seeds = [line.split() for line in list_rates(trainer)]
    assert [(method, seed) for method, _, seed in seeds if seed != "0"] == [
        (method, seed) for seed in "12" for method in ("full", "lora")
    ]
    assert add_up(trainer)["full"] == 3 * 30
    assert add_up(trainer)["lora"] == (5 + 2) * 10
    assert trainer.now <= 170


@pytest.mark.parametrize(
    ("seconds", "seeds"), [(101, ["full 1", "lora 1", "lora 2"]), (61, ["lora 1", "lora 2"]), (41, [])]
)
def test_of_final_seeds_each_method_gets_as_many_as_fit(
    run: Run, store: Store, seconds: float, seeds: list[str]
) -> None:
    trainer = Trainer(store, seconds=take)
    _, sweep = run(trainer, seconds, **{"sweep.final_seeds": [0, 1, 2]})
    assert [
        f"{point.config.method.name} {point.config.seed}"
        for point in sweep.points.values()
        if point.config.seed
    ] == seeds
    assert len(sweep.left_out) == 4 - len(seeds)
    assert trainer.now <= seconds


def test_the_same_command_again_trains_nothing_and_more_hours_go_on(run: Run, store: Store) -> None:
    seeds = {"sweep.final_seeds": [0, 1]}
    first, _ = run(Trainer(store, seconds=take), 125, **seeds)
    again = Trainer(store, seconds=take)
    outcome, sweep = run(again, 125, **seeds)
    assert again.jobs == []
    assert (outcome.planned, outcome.skipped, outcome.exit_code) == (first.planned, first.planned, 0)
    more = Trainer(store, seconds=take)
    outcome, sweep = run(more, 400, **seeds)
    assert sweep.list_untried() == []
    assert outcome.planned == 11 + 2
    assert add_up(more)["full"] + add_up(more)["lora"] + sweep.budget.earlier <= 400


def test_a_sweep_that_was_killed_goes_on_with_what_is_left_of_its_hours(run: Run, store: Store) -> None:
    class Killed(Exception):
        pass

    def die(_: Point) -> str:
        if len(trainer.trained) == 4:
            raise Killed
        return "success"

    trainer = Trainer(store, die, seconds=take)
    with pytest.raises(Killed):
        run(trainer, 125)
    again = Trainer(store, seconds=take)
    _, sweep = run(again, 125)
    assert sweep.budget.earlier == pytest.approx(40.1, abs=30)
    assert trainer.now - take(trainer.jobs[-1][-1]) + again.now <= 125
    assert {*list_rates(again)} | {*list_rates(trainer)[:-1]} == {
        "majority 0.0001 0",
        *(f"lora {rate:g} 0" for rate in RATES),
        *("full 0.001 0", "full 0.0003 0"),
    }


def test_a_method_that_always_fails_costs_the_others_no_more_than_its_share(run: Run, store: Store) -> None:
    trainer = Trainer(
        store, lambda point: "failed" if point.config.method.name == "full" else "success", seconds=take
    )
    outcome, _ = run(trainer, 125, **{"sweep.final_seeds": [0, 1]})
    assert add_up(trainer) == {"majority": 0.1, "full": 60.0, "lora": 60.0}  # five, and a seed
    assert (outcome.exit_code, outcome.statuses["failed"], outcome.statuses["success"]) == (1, 2, 7)
    again = Trainer(store, seconds=take)
    outcome, _ = run(again, 125, **{"sweep.final_seeds": [0, 1]})
    assert again.jobs == []
    assert (outcome.exit_code, outcome.statuses["failed"], outcome.planned) == (1, 2, 9)
    outcome, _ = run(again, 500, **{"sweep.final_seeds": [0, 1]})
    assert list_rates(again)[:3] == [
        "full 0.003 0",
        "full 0.0001 0",
        "full 0.01 0",
    ]  # what was never tried is first
    assert outcome.exit_code == 0


def test_hours_that_are_too_short_for_a_method_say_so(run: Run, store: Store, base: Config) -> None:
    trainer = Trainer(store, seconds=take)
    outcome, sweep = run(trainer, 20)
    assert list_rates(trainer) == ["majority 0.0001 0", "full 0.001 0"]  # how long it takes was unknown
    assert (outcome.planned, outcome.exit_code) == (2, 0)
    write_tables(store, lang="en", report=base.report)
    assert "LoRA: none of its configurations (5) was tried, as the hours of the sweep were used" in (
        store.folder / "table.md"
    ).read_text(encoding="utf-8")
    lines = tell_used(
        sweep.budget, sweep.plan, sweep.list_untried(), [], ["method=full,lora", "sweep.hours=0.005"]
    )
    assert lines[0] == "sweep.hours: 30.1 s of 20.0 s used"
    assert lines[1] == "configurations not tried: 4 of 5 full, 5 of 5 lora"
    assert lines[2].endswith("sweep method=full,lora sweep.hours=0.0111")


@pytest.mark.parametrize("lang", LANGUAGES)
def test_the_table_says_what_was_not_tried_until_it_is(
    run: Run, store: Store, base: Config, lang: str
) -> None:
    run(Trainer(store, seconds=take), 125)
    text, evidence = read_language(lang), gather(store, base.report)
    body = render_files(evidence, describe_all(evidence, text=text), text=text)["table.md"]
    assert text("notes.untried", title="Full fine-tuning", count=3, all=5) in body
    assert text("budget.columns.untried") in body
    run(Trainer(store, seconds=take), 500)
    evidence = gather(store, base.report)
    assert (
        text("budget.columns.untried")
        not in render_files(evidence, describe_all(evidence, text=text), text=text)["table.md"]
    )
    assert [row.budget.untried for row in evidence.rows] == [0, 0, 0]


def test_a_changed_list_of_the_untried_costs_its_own_rows_alone(run: Run, store: Store, base: Config) -> None:
    run(Trainer(store, seconds=take), 125)
    (store.folder / UNTRIED).write_bytes(b"run_id,method\n\xff\xfe\x00,\n,,,,,,,,\n")
    assert gather(store, base.report).untried == []
    run(Trainer(store, seconds=take), 125)
    assert [row.budget.untried for row in gather(store, base.report).rows] == [0, 3, 0]


def test_a_pack_counts_its_own_time_and_its_best_is_measured_alone(run: Run, store: Store) -> None:
    trainer = Trainer(store, seconds=take)
    axes: Axes = {"method": ["lora"], "lora.r": [4, 8, 16, 32], "train.lr": RATES}
    _, sweep = run(trainer, 155, axes, **{"sweep.pack": "auto"})
    assert trainer.sizes[:2] == [[1], [13]]  # 10 s are taken, and 10 kept to measure the best alone
    assert trainer.sizes[-1] == [1]
    assert trainer.now <= 155
    assert sweep.left_out == []
    again = Trainer(store, seconds=take)
    run(again, 155, axes, **{"sweep.pack": "auto"})
    assert again.jobs == []


def test_halving_groups_share_the_hours(run: Run, store: Store) -> None:
    trainer = Trainer(store, seconds=lambda point: take(point) * (point.config.train.stop_step or 60) / 60)
    axes = {**AXES, "train.max_steps": [60]}
    outcome, sweep = run(trainer, 130, axes, **{"sweep.strategy": "halving"})
    whole = [point for job in trainer.jobs[1:3] for point in job]
    assert [
        (point.config.method.name, point.config.train.lr, point.config.train.stop_step) for point in whole
    ] == [
        ("full", 1e-3, None),
        ("lora", 1e-3, None),
    ]
    rungs = [point.config.method.name for job in trainer.jobs[3:] for point in job]
    assert rungs.count("lora") > 4
    assert {point.config.method.name for point in sweep.list_untried()} <= {"full"}
    assert outcome.exit_code == 0
    again = Trainer(store, seconds=take)
    run(again, 130, axes, **{"sweep.strategy": "halving"})
    assert again.jobs == []


def test_a_grid_is_bracketed_only_where_each_method_gets_one_more_run(
    run: Run, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    axes: Axes = {"method": ["full", "lora"], "lora.r": [8, 16], "train.lr": [1e-3, 3e-3]}
    trainer = Trainer(store, seconds=take)
    run(trainer, 185, axes, **{"sweep.bracket": True})
    assert add_up(trainer) == {"full": 120.0, "lora": 60.0}  # two rounds of 40 s
    assert "the hours do not suffice for one more run of each method" in capsys.readouterr().out
    assert trainer.now <= 185


def test_runs_from_before_a_score_was_kept_leave_their_final_seeds_their_time(run: Run, store: Store) -> None:
    """The score comes from their predictions; without it nothing would be best, and more rates be tried."""
    run(Trainer(store, seconds=take), 125)
    rows = {"split": "validation", "id": range(4), "label": [*"aabb"]}
    for found in store.read_all()[0]:
        right = found.canonical_config.get("train", {}).get("lr") == 1e-3
        frame = pd.DataFrame({**rows, "prediction": [*("aabb" if right else "aaab")]})
        with store.claim(found.run_id):
            store.write(dataclasses.replace(found, labels=["a", "b"]))
            store.write_predictions(found.run_id, frame)
    trainer = Trainer(store, seconds=take)
    _, sweep = run(trainer, 172, **{"sweep.final_seeds": [0, 1, 2], "sweep.select_by": "balanced_accuracy"})
    assert list_rates(trainer) == ["full 0.001 1", "lora 0.001 1", "lora 0.001 2"]
    scores = {one.score for one in sweep.budget.taken.values()}
    assert {1.0, 0.75} <= scores


def test_a_run_that_vanished_took_as_long_as_it_wrote(run: Run, store: Store) -> None:
    """Days later the same command finds it, and counts no days."""
    axes: Axes = {"method": ["full"]}
    trainer = Trainer(store, lambda _: STARTED, seconds=take)
    _, sweep = run(trainer, 40, axes)
    [point] = sweep.points.values()
    begun = (datetime.now(UTC) - timedelta(days=2)).replace(microsecond=0)
    left = dataclasses.replace(record(point, STARTED), started_at=begun.isoformat())
    with store.claim(point.run_id):
        store.write(left)
    for name, seconds in ((RECORD, 0.0), ("log.txt", 12.0)):
        path = store.run_folder(point.run_id) / name
        path.touch()
        os.utime(path, (begun.timestamp() + seconds,) * 2)
    store.recover()
    found = store.read(point.run_id)
    assert found is not None
    assert found.status == "crashed"
    assert read_taken(point, found, "accuracy").seconds == 12.0
    again = Trainer(store, seconds=take)
    _, sweep = run(again, 40, axes)
    assert again.trained == ["full 8 0"]
    assert sweep.budget.earlier == 12.0
