"""A plan as a terminal shows it."""

import dataclasses
from collections.abc import Callable
from typing import Any

from bench.config.identity import Identity
from bench.config.schema import Config, replace_values
from bench.sweep.overview import _tell_packs, merge_settings, tabulate, tell_order
from bench.sweep.plan import Plan, Point

GIB = 2**30


def make_plan(compose: Callable[..., Config], rates: list[str]) -> tuple[Plan, dict[str, Any]]:
    methods = [compose(f"method={name}") for name in ("lora", "full")]
    configs = [replace_values(config, {"train.lr": float(rate)}) for config in methods for rate in rates]
    points = [
        Point(overrides=(), config=config, identity=Identity(run_id=f"{number:012x}", canonical={}))
        for number, config in enumerate(configs)
    ]
    runs = [
        {
            "run_id": point.run_id,
            "state": "done" if number == 0 else "planned",
            "verdict": "fits",
            "predicted_peak_reserved_bytes": (1 + number / 4) * GIB,
            "predicted_hours": 0.5 if number else None,
        }
        for number, point in enumerate(points)
    ]
    return Plan(combinations=len(points), points=tuple(points), repeats={}), {"runs": runs, "calibration": {}}


def test_few_runs_are_shown_one_by_one(compose: Callable[..., Config]) -> None:
    header, rows = tabulate(*make_plan(compose, ["1e-3", "3e-3"]))
    assert header[0] == "Run"
    assert [row[0] for row in rows] == [f"{number:012x}" for number in range(4)]
    assert rows[0][1:] == [
        "lora r=8 alpha=16 dropout=0.05 lr=0.001 seed=0",
        "done",
        "1.00 GiB",
        "fits",
        "unknown",
    ]


def test_many_runs_that_are_alike_share_a_row(compose: Callable[..., Config]) -> None:
    rates = [f"{number}e-4" for number in range(1, 14)]
    header, rows = tabulate(*make_plan(compose, rates))
    assert header[0] == "Method"
    assert [(row[0], row[2], row[3]) for row in rows] == [
        ("lora", "1", "done"),
        ("lora", "12", "planned"),
        ("full", "13", "planned"),
    ]
    assert rows[1][4:] == ["1.25 - 4.00 GiB", "fits", "30.0 min", "6.0 h"]
    assert sum(int(row[2]) for row in rows) == 26


def test_a_plan_says_what_goes_first_and_what_comes_last(compose: Callable[..., Config]) -> None:
    plan, _ = make_plan(compose, ["1e-3"])
    settings = dataclasses.replace(compose().sweep, first=[{"train.lr": 1e-3}], final_seeds=[0, 1])
    assert tell_order(dataclasses.replace(plan, first=2), settings) == [
        "first 2 of them (lora, full) with train.lr=0.001, so that a table stands early",
        "then the best of each method with seeds 0, 1",
    ]
    assert tell_order(plan, settings)[0] == (
        "none goes first: sweep.first is train.lr=0.001, and no run has these values"
    )
    assert tell_order(plan, compose().sweep) == []


def test_settings_that_differ_are_listed_once() -> None:
    names = ["lora r=8 lr=0.1 seed=0", "lora r=16 lr=0.1 seed=0", "lora r=8 lr=0.2 seed=0"]
    assert merge_settings(names) == "r=8,16 lr=0.1,0.2 seed=0"
    assert merge_settings(["lora label_likelihood lr=1"]) == "label_likelihood lr=1"


def test_runs_that_train_together_are_one_sentence() -> None:
    def tell(*packs: tuple[int, int], alone: int = 0, unknown: int = 0) -> str:
        runs = alone + sum(size * count for size, count in packs)
        sizes = [{"size": size, "count": count} for size, count in [*packs, (1, alone)] if count]
        given = {"packs": sizes, "remaining": runs, "packs_of_unknown_memory": unknown}
        return "".join(_tell_packs(given))

    end = "; the best is then retrained alone (times assume every run alone)"
    assert tell((4, 1)) == f"4 runs train together in one process{end}"
    assert tell((24, 2), (4, 1), alone=3) == (
        "24 runs train together in each of 2 processes, 4 runs train together in one process, "
        f"3 runs train alone{end}"
    )
    assert tell((4, 1), alone=1, unknown=1) == (
        f"4 runs train together in one process, 1 run trains alone{end}; no prediction for 1 of the packs, "
        "which are held to 4 runs each"
    )
    assert tell(alone=3) == ""
