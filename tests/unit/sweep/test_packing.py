"""Runs that share base weights and steps train together, as many as memory and slots allow."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from bench.config.identity import identify
from bench.config.pack import unpack
from bench.config.schema import Config, replace_values
from bench.memory.prediction import Prediction
from bench.sweep.forecast import Forecast, limit_packs, merge_batches
from bench.sweep.packing import (
    FEWEST,
    LARGEST,
    UNKNOWN,
    Pack,
    bound_size,
    count_sizes,
    form_packs,
    pack_lines,
    predict_pack,
    shrink,
)
from bench.sweep.plan import Point
from bench.sweep.predict import Target

Compose = Callable[..., Config]


def predict(*, weights: int, load: int, train: int, evaluate: int) -> Prediction:
    phases = {"load": load, "train": train, "eval": evaluate}
    return Prediction(
        device_type="cuda",
        phases={
            name: {"peak_allocated_bytes": peak, "peak_reserved_bytes": peak} for name, peak in phases.items()
        },
        least_bytes=0,
        parts={"weights": weights},
        paged_bytes=0,
        parameters=1000,
        trained_bytes=400,
        largest_bytes=100,
        optimizer_bytes=800,
        work={},
        train_rows=1,
        piece_rows=[1],
        batch_tokens=1,
        mean_batch_tokens=1.0,
        eval_batch_tokens=1,
        eval_tokens={},
    )


@pytest.fixture
def make_points(compose: Compose) -> Callable[..., list[Point]]:
    """A point for each of the overrides, and of those of any further line for all."""

    def make(lines: Sequence[str], *more: str) -> list[Point]:
        configs = [compose(*line.split(), *more) for line in lines]
        return [
            Point((), one, identify(one, data_fingerprint="texts", model_revision="weights"))
            for one in configs
        ]

    return make


def form(points: Sequence[Point], limit: int, base: Config, **settings: Any) -> list[list[Point]]:
    limits = {point.run_id: limit for point in points}
    return [list(pack) for pack in form_packs(points, limits, replace_values(base, settings))]


def test_runs_of_one_kind_are_packed_in_the_plans_order(
    make_points: Callable[..., list[Point]], compose: Compose
) -> None:
    ranks = [
        f"method={name} lora.r={r} train.lr={lr}"
        for name in ("lora", "qlora")
        for r in (4, 8)
        for lr in (1, 2)
    ]
    points = make_points(["method=full", *ranks, "method=dora", "method=lora train.max_steps=7"])
    packs = form(points, 4, compose())
    assert packs == [points[:1], points[1:5], points[5:9], points[9:10], points[10:]]


def test_packs_are_as_equal_as_can_be_and_none_larger_than_memory_allows(
    make_points: Callable[..., list[Point]], compose: Compose
) -> None:
    points = make_points([f"lora.r={r}" for r in range(1, 11)])
    assert sorted(map(len, form(points, 4, compose()))) == [3, 3, 4]
    assert list(map(len, form(points, 1, compose()))) == [1] * 10
    assert list(map(len, form(points, LARGEST, compose()))) == [10]


def test_no_slot_stays_idle(make_points: Callable[..., list[Point]], compose: Compose) -> None:
    points = make_points([f"lora.r={r}" for r in range(1, 9)])
    assert list(map(len, form(points, 8, compose(), devices="cpu*3"))) == [2, 3, 3]
    assert list(map(len, form(points, 8, compose(), devices="0,1"))) == [4, 4]
    assert list(map(len, form(points[:4], 8, compose(), devices="cpu*9"))) == [1] * 4


def test_auto_packs_only_where_it_pays(make_points: Callable[..., list[Point]], compose: Compose) -> None:
    few = make_points([f"lora.r={r}" for r in range(1, FEWEST)])
    assert list(map(len, form(few, 8, compose()))) == [1] * len(few)
    assert list(map(len, form(few, 8, compose(), **{"sweep.pack": 8}))) == [len(few)]


def test_the_few_that_go_on_from_a_pack_go_on_in_one(
    make_points: Callable[..., list[Point]], compose: Compose
) -> None:
    few = make_points(["lora.r=2", "lora.r=4"], "resume_from='0123456789ab'", "train.stop_step=100")
    assert list(map(len, form(few, 8, compose()))) == [2]
    assert list(map(len, form(few, 1, compose()))) == [1, 1]


def test_each_size_of_train_has_its_choice_and_so_needs_its_runs(
    compose: Compose,
) -> None:
    """What is chosen is trained once more: one of all seeds, and one of each size of train."""

    def make(*lines: str) -> list[Point]:
        configs = [compose(*line.split()) for line in lines]
        return [
            Point((), one, identify(one, data_fingerprint=str(one.data.train_size), model_revision="weights"))
            for one in configs
        ]

    seeds = make(*(f"seed={seed}" for seed in range(5)))
    assert list(map(len, form(seeds, 24, compose()))) == [5]
    sizes = [f"data.train_size={size}" for size in (100, 200, 400)]
    curve = make(*sizes)
    assert list(map(len, form(curve, 24, compose()))) == [1, 1, 1]  # each of them would be trained twice
    assert list(map(len, form(curve, 24, compose(), **{"sweep.pack": 8}))) == [3]
    grid = make(*(f"{size} train.lr={rate}" for size in sizes for rate in (1, 2, 3, 4)))
    assert list(map(len, form(grid, 24, compose()))) == [12]
    [line] = pack_lines(tuple(curve))
    assert unpack(compose("data.train_size=100", line)) == [point.config for point in curve]


def test_the_least_limit_of_a_kind_holds_for_all_but_those_that_must_train_alone(
    make_points: Callable[..., list[Point]], compose: Compose
) -> None:
    points = make_points([f"lora.r={r}" for r in range(1, 7)])
    limits = dict(zip([point.run_id for point in points], [1, 8, 8, 2, 8, 1], strict=True))
    assert list(map(len, form_packs(points, limits, compose()))) == [1, 2, 2, 1]


def test_a_packs_job_asks_for_each_of_its_runs(
    make_points: Callable[..., list[Point]], compose: Compose
) -> None:
    points = make_points(
        ["lora.r=4 train.lr=0.01", "lora.r=8 train.lr=0.01", "lora.alpha=3.5 lora.dropout=0"]
    )
    [line] = pack_lines(tuple(points))
    assert unpack(compose("lora.r=4", "train.lr=0.01", line)) == [point.config for point in points]
    assert pack_lines((points[0],)) == []


def test_each_run_of_a_pack_goes_on_from_its_own(
    make_points: Callable[..., list[Point]], compose: Compose
) -> None:
    earlier = ["012345678901", "1234567890e1", "abcdefabcdef"]
    points = make_points([f"lora.r={r} resume_from='{one}'" for r, one in enumerate(earlier, start=2)])
    [line] = pack_lines(tuple(points))
    packed = unpack(compose(*points[0].overrides, "lora.r=2", f"resume_from='{earlier[0]}'", line))
    assert [one.resume_from for one in packed] == earlier


@pytest.mark.parametrize(
    ("status", "size"),
    [("oom", 2), ("crashed", 1), ("failed", 1), ("timeout", 1), ("invalid", 1), ("success", None)],
)
def test_what_a_pack_has_lost_is_tried_in_halves_or_alone(
    make_points: Callable[..., list[Point]], status: str, size: int | None
) -> None:
    pack = tuple(make_points(["lora.r=2", "lora.r=4", "lora.r=8"]))
    ids = [point.run_id for point in pack]
    ends = {ids[0]: status, ids[1]: status, ids[2]: "diverged"}
    assert shrink(pack, ends) == ({} if size is None else {ids[0]: size, ids[1]: size})
    assert shrink(pack[:1], {ids[0]: status}) == {}


def test_a_pack_takes_the_weights_once_and_all_else_as_often_as_it_has_runs() -> None:
    found = predict(weights=50, load=70, train=60, evaluate=75)
    assert [predict_pack(found, size, 50) for size in (1, 2, 3)] == [75, 75, 80]
    assert [bound_size(found, usable) for usable in (60, 75, 79, 80, 90, 1000)] == [1, 2, 2, 3, 4, LARGEST]
    assert bound_size(None, 1000) == UNKNOWN


@pytest.mark.parametrize(
    ("settings", "limit"),
    [
        ({}, 4),
        ({"devices": "0,1"}, 4),  # each card has its memory
        ({"sweep.pack": "off"}, 1),
        ({"sweep.pack": False}, 1),  # as YAML 1.1 reads off
        ({"sweep.pack": 7}, 7),
        ({"sweep.strategy": "halving"}, 4),
    ],
)
def test_the_setting_and_the_prediction_decide_how_large_a_pack_may_be(
    make_points: Callable[..., list[Point]], compose: Compose, settings: dict[str, Any], limit: int
) -> None:
    [known, unknown] = make_points(["lora.r=2", "lora.r=4"])
    base = replace_values(compose(), settings)
    found = {known.run_id: predict(weights=50, load=70, train=60, evaluate=55), unknown.run_id: "no shapes"}
    cast = Forecast(Target("cuda", "card", 100, None), found, {}, {}, base.report)
    assert limit_packs(cast, base)(known) == limit
    if settings == {}:
        assert limit_packs(cast, base)(unknown) == UNKNOWN


def test_a_pack_computes_as_many_micro_batches_as_one_as_fit(
    make_points: Callable[..., list[Point]], compose: Compose
) -> None:
    """Weights of 50 bytes once; beside them each run has 10 in training, of which 4 are activations."""
    lines = ("train.gradient_accumulation_steps=12", "train.group_by_length=false")
    points = make_points(["lora.r=2", "lora.r=4"], *lines)
    prediction = predict(weights=50, load=70, train=60, evaluate=55)
    prediction = replace(prediction, parts={**prediction.parts, "activations": 4})
    found = {point.run_id: prediction for point in points}

    def count(device: str, usable: int, pack: Pack) -> int:
        target = Target(device, "card", usable, None)
        return merge_batches(Forecast(target, found, {}, {}, compose().report), compose())(pack)

    pack = tuple(points)
    # 50 + 2 (10 + 3 x 4) = 94 of the 0.9 x 105 that are used, and with 6 at once it would be 110
    assert [count("cuda", usable, pack) for usable in (105, 200, 80)] == [4, 12, 1]
    assert count("cpu", 200, pack) == 12
    found = {name: replace(one, mean_batch_tokens=1000.0) for name, one in found.items()}
    assert [count(device, 200, pack) for device in ("cpu", "cuda")] == [1, 12]  # a core has enough to do
    sorted_by_length = replace_values(points[0].config, {"train.group_by_length": True})
    assert count("cuda", 200, (replace(points[0], config=sorted_by_length), points[1])) == 1
    unknown = replace(points[1], identity=replace(points[1].identity, run_id="unknown"))
    assert count("cuda", 200, (points[0], unknown)) == 1


def test_runs_at_the_same_time_on_a_cpu_share_its_memory(
    make_points: Callable[..., list[Point]], compose: Compose
) -> None:
    [point] = make_points(["lora.r=2"])
    found = {point.run_id: predict(weights=50, load=70, train=60, evaluate=55)}
    cast = Forecast(Target("cpu", "cpu", 200, None), found, {}, {}, compose().report)
    assert limit_packs(cast, compose("devices=cpu"))(point) == 13
    assert limit_packs(cast, compose("devices=cpu*2"))(point) == 4


def test_sizes_are_counted_the_largest_first(make_points: Callable[..., list[Point]]) -> None:
    one, two, three = make_points(["lora.r=2", "lora.r=4", "lora.r=8"])
    assert list(count_sizes([(one,), (one, two, three), (two,)]).items()) == [(3, 1), (1, 2)]
