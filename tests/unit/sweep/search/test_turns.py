"""Whose turn it is while a sweep's hours last, and what fits into what is left."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from sweeps import Compose, record

from bench.config.identity import Identity, identify
from bench.config.pack import describe_pack
from bench.config.schema import Config, replace_values
from bench.report.numbers.budget import read_untried
from bench.results.store import Result
from bench.sweep.plan import Plan, Point
from bench.sweep.search import turns
from bench.sweep.search.hours import TimeBudget, read_taken
from bench.sweep.search.turns import choose_wave, measure_distances, queue_points, rehearse

RATES = [1e-4, 3e-4, 1e-3, 3e-3, 1e-2]


def identify_here(config: Config) -> Identity:
    return identify(config, data_fingerprint=config.data.name, model_revision=config.model.name)


def make_points(compose: Compose, method: str, values: Sequence[dict[str, Any]]) -> list[Point]:
    configs = [replace_values(compose(f"method={method}"), one) for one in values]
    return [Point((f"method={method}",), config, identify_here(config)) for config in configs]


@pytest.fixture
def plan(compose: Compose) -> Plan:
    points = [
        *make_points(compose, "full", [{"train.lr": rate} for rate in RATES]),
        *make_points(compose, "majority", [{}]),
        *make_points(compose, "lora", [{"train.lr": rate} for rate in RATES]),
    ]
    return Plan(tuple(points), len(points), {})


@pytest.fixture
def make_budget(compose: Compose) -> Callable[..., TimeBudget]:
    def make(hours: float, **given: Any) -> TimeBudget:
        settings = {name: given.pop(name) for name in list(given) if name.startswith("sweep.")}
        sweep = replace_values(compose(), {"sweep.hours": hours, **settings}).sweep
        return TimeBudget(sweep.budget_seconds or math.inf, sweep, clock=lambda: 0.0, **given)

    return make


def end(point: Point, seconds: float, *, status: str = "success", size: int = 1) -> Result:
    packed = describe_pack(size) if size > 1 else None
    return dataclasses.replace(record(point, status, seconds=seconds), packed=packed)


def name(points: Sequence[Point]) -> list[str]:
    return [f"{point.config.method.name} {point.config.train.lr:g}" for point in points]


def test_a_method_begins_in_the_middle_and_goes_outwards(plan: Plan) -> None:
    queues = queue_points(plan)
    assert name(queues[plan.points[0].method_key]) == [
        f"full {rate:g}" for rate in (1e-3, 3e-4, 3e-3, 1e-4, 1e-2)
    ]
    first = dataclasses.replace(plan, first=1)
    assert name(queue_points(first)[plan.points[0].method_key])[:2] == ["full 0.0001", "full 0.001"]
    tried = {plan.points[2].run_id}
    assert name(queue_points(plan, tried)[plan.points[0].method_key])[-1] == "full 0.001"


def test_the_middle_is_that_of_all_axes_and_seeds_and_folds_are_none(compose: Compose) -> None:
    values = [
        {"lora.r": r, "train.lr": rate, "seed": seed}
        for r in (4, 8, 64)
        for rate in (1e-4, 1e-3, 1e-2)
        for seed in (0, 7)
    ]
    points = make_points(compose, "lora", values)
    far = measure_distances(points)
    by_value = {
        (one["lora.r"], one["train.lr"], one["seed"]): far[point.run_id]
        for one, point in zip(values, points, strict=True)
    }
    assert by_value[8, 1e-3, 0] == by_value[8, 1e-3, 7] == 0.0
    assert by_value[64, 1e-3, 0] == by_value[8, 1e-4, 7] == 1.0
    assert by_value[4, 1e-2, 0] == 2.0
    even = make_points(compose, "lora", [{"lora.r": r} for r in (8, 16)])
    assert set(measure_distances(even).values()) == {1.0}
    folds = make_points(compose, "lora", [{"data.folds": 3, "data.fold": fold} for fold in range(3)])
    assert set(measure_distances(folds).values()) == {0.0}


def test_it_is_the_turn_of_the_method_that_had_the_least_time(
    plan: Plan, make_budget: Callable[..., TimeBudget]
) -> None:
    budget, queues = make_budget(10), queue_points(plan)
    full, lora = (queues[plan.points[place].method_key] for place in (0, 6))
    assert name(choose_wave(queues, budget, limits={})) == ["full 0.001"]
    budget.note(full.pop(0), end(full[0], 0.0))
    assert name(choose_wave(queues, budget, limits={})) == ["lora 0.001"]  # each once, whatever it took
    first = full.pop(0)
    budget.note(first, end(first, 30.0))
    for seconds, expected in ((10.0, "lora 0.0003"), (15.0, "lora 0.003"), (10.0, "full 0.003")):
        one = lora.pop(0)
        budget.note(one, end(one, seconds))
        assert name(choose_wave(queues, budget, limits={})) == [expected]


def test_of_untried_methods_the_one_that_computes_least_is_first(
    plan: Plan, make_budget: Callable[..., TimeBudget]
) -> None:
    work = {"full": 3.0, "lora": 2.0}
    budget = make_budget(10, weigh=lambda point: work[point.config.method.name])
    assert name(choose_wave(queue_points(plan), budget, limits={})) == ["lora 0.001"]


def test_a_run_begins_only_if_it_ends_in_time_beside_the_final_seeds(
    plan: Plan, make_budget: Callable[..., TimeBudget]
) -> None:
    queues = queue_points(plan)
    full, lora = (queues[plan.points[place].method_key] for place in (0, 6))
    slow, quick = full.pop(0), lora.pop(0)

    def choose(seconds: float, **settings: Any) -> list[str]:
        budget = make_budget(seconds / 3600, **settings)
        budget.note(slow, end(slow, 100.0))
        budget.note(quick, end(quick, 110.0))
        return name(choose_wave(queues, budget, limits={}))

    assert choose(101) == ["full 0.0003"]
    assert choose(99) == []
    assert choose(109) == ["full 0.0003"]
    assert choose(101, **{"sweep.final_seeds": [0]}) == ["full 0.0003"]  # which both have
    assert choose(519, **{"sweep.final_seeds": [0, 1, 2]}) == []  # twice 100 and twice 110 are kept
    assert choose(521, **{"sweep.final_seeds": [0, 1, 2]}) == ["full 0.0003"]
    assert choose(519, **{"sweep.final_seeds": "auto"}) == []  # as many: the first round
    full.clear()
    assert choose(109) == []
    assert choose(111) == ["lora 0.0003"]


def test_the_first_run_of_a_method_comes_before_the_final_seeds(
    plan: Plan, make_budget: Callable[..., TimeBudget]
) -> None:
    queues = queue_points(plan)
    first = queues[plan.points[0].method_key].pop(0)
    budget = make_budget(150 / 3600, **{"sweep.final_seeds": [0, 1, 2]})
    budget.note(first, end(first, 100.0))
    assert name(choose_wave(queues, budget, limits={})) == ["lora 0.001"]


def test_where_the_next_run_of_one_does_not_fit_others_may_go_on(
    plan: Plan, make_budget: Callable[..., TimeBudget]
) -> None:
    queues, budget = queue_points(plan), make_budget(50 / 3600)
    full, lora = (queues[plan.points[place].method_key] for place in (0, 6))
    for queue, seconds in ((full, 60.0), (lora, 20.0), (lora, 20.0), (lora, 21.0)):
        one = queue.pop(0)
        budget.note(one, end(one, seconds))
    assert name(choose_wave(queues, budget, limits={})) == ["lora 0.0001"]


def test_a_turn_is_a_pack_of_what_fits_into_the_methods_share(
    plan: Plan, make_budget: Callable[..., TimeBudget]
) -> None:
    queues = queue_points(plan)
    full, lora = (queues[plan.points[place].method_key] for place in (0, 6))
    one, other = full.pop(0), lora.pop(0)

    def choose(seconds: float, limit: int, **settings: Any) -> int:
        budget = make_budget(seconds / 3600, **settings)
        budget.note(one, end(one, 100.0))
        budget.note(other, end(other, 10.0))
        return len(choose_wave(queues, budget, limits={point.run_id: limit for point in lora}))

    assert choose(91, 24) == 4  # half of it, less 10 s to measure the best alone, is 40 s
    assert choose(89, 24) == 1  # three are no pack
    assert choose(500, 1) == 1
    assert choose(500, 3) == 3
    assert choose(91, 24, **{"sweep.final_seeds": [0, 1]}) == 0  # 110 s are kept


def test_several_slots_have_a_turn_each(plan: Plan, make_budget: Callable[..., TimeBudget]) -> None:
    queues, budget = queue_points(plan), make_budget(10, slots=3)
    assert name(choose_wave(queues, budget, limits={})) == ["full 0.001", "lora 0.001", "full 0.0003"]


def test_a_longer_run_is_expected_to_take_longer(plan: Plan, make_budget: Callable[..., TimeBudget]) -> None:
    budget = make_budget(10, weigh=lambda point: point.config.train.lr, predict=lambda _: 7.0)
    one, two, *_ = plan.points
    lora = plan.points[-1]
    assert budget.expect(one) == 7.0
    budget.note(one, end(one, 10.0))
    assert budget.expect(two) == pytest.approx(30.0)
    assert budget.expect(lora) == pytest.approx(1000.0)  # as others took, by what it computes
    budget.note(lora, end(lora, 5.0))
    assert budget.expect(lora) == 5.0
    unknown = make_budget(10)
    unknown.note(one, end(one, 10.0))
    assert unknown.expect(two) == 10.0
    assert unknown.expect(lora) is None


def test_what_a_run_took_is_all_its_attempts_and_a_share_of_a_pack(plan: Plan) -> None:
    point = plan.points[0]
    packed = end(point, 40.0, size=4)
    again = dataclasses.replace(
        record(point, "success", earlier=packed, seconds=25.0),
    )
    assert read_taken(point, packed, "accuracy").seconds == 10.0
    assert read_taken(point, packed, "accuracy").whole is None
    taken = read_taken(point, again, "accuracy")
    assert (taken.seconds, taken.whole, taken.is_packed) == (35.0, 25.0, False)
    failed = read_taken(point, end(point, 3.0, status="failed"), "accuracy")
    assert (failed.seconds, failed.whole, failed.score) == (3.0, None, None)
    odd = dataclasses.replace(packed, ended_at="yesterday")
    assert read_taken(point, odd, "accuracy").seconds == 0.0


def test_a_plan_says_what_would_be_tried(plan: Plan, make_budget: Callable[..., TimeBudget]) -> None:
    """Full fine-tuning takes 100 s, LoRA 10 s: the same time for each is one run of full and all of LoRA."""
    seconds = {"full": 100.0, "lora": 10.0, "majority": None}

    def count(budget: float, *records: tuple[Point, Result], **settings: Any) -> dict[str, int] | None:
        made = make_budget(budget / 3600, predict=lambda point: seconds[point.config.method.name], **settings)
        for point, result in records:
            made.meet(point, result)
        left = rehearse(plan, made, limits={})
        return None if left is None else {key.method: len(queue) for key, queue in left.items()}

    assert count(155) == {"full": 4, "majority": 0, "lora": 0}
    assert count(125) == {"full": 4, "majority": 0, "lora": 3}
    assert count(95) == {"full": 5, "majority": 0, "lora": 0}
    assert count(10_000) == {"full": 0, "majority": 0, "lora": 0}
    assert count(250, **{"sweep.final_seeds": [0, 1]}) == {"full": 4, "majority": 0, "lora": 1}
    done = [(plan.points[place], end(plan.points[place], 100.0)) for place in (0, 1)]
    assert count(255, *done) == {"full": 3, "majority": 0, "lora": 0}
    halved = count(10_000, **{"sweep.strategy": "halving"})
    assert halved == {"full": 0, "majority": 0, "lora": 0}
    assert count(200, **{"sweep.strategy": "halving"}) == {"full": 4, "majority": 0, "lora": 0}
    assert rehearse(plan, make_budget(1), limits={}) is None  # nothing is known of any


def test_untried_configurations_are_written_in_place_of_those_of_the_same_plan(plan: Plan) -> None:
    first = turns.add_untried("", plan, plan.points[1:4])
    assert [one.run_id for one in read_untried(first)] == [point.run_id for point in plan.points[1:4]]
    [one] = read_untried(turns.add_untried(first, plan, plan.points[2:3]))
    assert (one.method_key, one.title) == (plan.points[2].method_key, "Full fine-tuning")
    assert turns.add_untried(first, plan, []) == ""
    smaller = dataclasses.replace(plan, points=plan.points[:2])
    assert [one.run_id for one in read_untried(turns.add_untried(first, smaller, []))] == [
        point.run_id for point in plan.points[2:4]
    ]
    assert read_untried("nonsense\n1,2,3\n") == read_untried("run_id,method\n,lora\n") == []
