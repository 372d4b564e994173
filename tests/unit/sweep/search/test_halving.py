"""Halving spends few steps, keeps the best of every method, and never depends on an order."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_rel

from bench.config.identity import Identity, hash_canonical, identify
from bench.config.schema import Config
from bench.errors import ConfigError
from bench.sweep.plan import Plan, Point, combine_axes, expand, make_plan
from bench.sweep.search import halving

Compose = Callable[..., Config]

SCORES = st.none() | st.sampled_from([0.0, 0.5, 0.75, 1.0, math.nan]) | st.floats(0, 1)
SCORED = st.dictionaries(st.text(max_size=4), SCORES, max_size=12)


def identify_here(config: Config) -> Identity:
    return identify(config, data_fingerprint=config.data.name, model_revision=config.model.name)


def plan_of(compose: Compose, *grids: Mapping[str, Any]) -> Plan:
    return make_plan(list(expand(list(grids), compose=lambda lines: compose(*lines))), identify_here)


def names_of(groups: Sequence[Sequence[Point]]) -> list[tuple[str, int]]:
    return [(group[0].config.method.name, len(group)) for group in groups]


@pytest.mark.parametrize(
    ("total", "given_values", "expected"),
    [
        (300, {}, [43, 86, 172, 300]),
        (300, {"first_steps": 75}, [75, 150, 300]),
        (300, {"first_steps": 75, "eta": 4}, [75, 300]),
        (300, {"first_steps": 300}, [300]),
        (300, {"first_steps": 301}, [300]),
        (7, {}, [1, 2, 4, 7]),
        (1, {}, [1]),
    ],
)
def test_rungs_grow_by_eta_up_to_the_total(
    total: int, given_values: dict[str, int], expected: list[int]
) -> None:
    assert halving.rungs(total, **given_values) == expected


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"eta": 1}, "halving eta=1: must be at least 2"),
        ({"first_steps": 0}, "halving first_steps=0: must be at least 1"),
        ({"total_steps": 0}, "halving total_steps=0: must be at least 1"),
    ],
)
def test_rungs_that_would_not_grow_are_an_error(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}$"):
        halving.rungs(**({"total_steps": 300} | wrong))


@given(st.integers(1, 10_000), st.integers(2, 5), st.none() | st.integers(1, 10_000))
def test_rungs_rise_to_the_total(total: int, eta: int, first: int | None) -> None:
    found = halving.rungs(total, eta=eta, first_steps=first)
    assert found[-1] == total
    assert found == sorted(set(found))
    assert found[0] >= 1


@pytest.mark.parametrize(
    ("scores", "losses", "keep", "expected"),
    [
        ({"a": 0.5, "b": 0.9, "c": 0.7}, None, 2, ["b", "c"]),
        ({"a": 0.5, "b": 0.5, "c": 0.5}, {"a": 0.3, "b": 0.1, "c": 0.2}, 2, ["b", "c"]),
        ({"a": 0.5, "b": 0.5, "c": 0.5}, {"a": None, "b": math.nan, "c": 9.0}, 3, ["c", "a", "b"]),
        ({"b": 0.5, "a": 0.5}, None, 1, ["a"]),
        ({"a": 0.4, "b": 0.5}, {"a": 0.1, "b": 0.9}, 1, ["b"]),  # the loss breaks ties, nothing else
        ({"a": None, "b": math.nan, "c": 0.0}, None, 3, ["c"]),
        ({"a": None, "b": 0.1}, None, 0, ["b"]),
        ({"a": None}, None, 1, []),
        ({}, None, 1, []),
    ],
)
def test_the_best_survive_and_a_failure_never(
    scores: dict[str, float | None], losses: dict[str, float | None] | None, keep: int, expected: list[str]
) -> None:
    assert halving.survivors(scores, keep=keep, losses=losses) == expected


@given(SCORED, st.integers(0, 15), st.randoms())
def test_survivors_are_among_the_best_whatever_the_order(
    scores: dict[str, float | None], keep: int, random: Any
) -> None:
    kept = halving.survivors(scores, keep=keep)
    items = list(scores.items())
    random.shuffle(items)
    assert halving.survivors(dict(items), keep=keep) == kept
    good = {key: score for key, score in scores.items() if score is not None and not math.isnan(score)}
    assert len(kept) == min(max(keep, 1), len(good))
    assert set(kept) <= set(good)
    lost = set(good) - set(kept)
    assert not lost or min(good[key] for key in kept) >= max(good[key] for key in lost)


@given(st.integers(1, 200), st.integers(2, 4), st.integers(1, 2000), st.none() | st.integers(1, 2000))
def test_halving_never_costs_more_than_the_grid(count: int, eta: int, total: int, first: int | None) -> None:
    ends = halving.rungs(total, eta=eta, first_steps=first)
    counts = halving.count_by_rung(count, rungs=ends)
    spent = halving.budget(ends, counts)
    assert counts[0] == count
    assert counts == sorted(counts, reverse=True)
    assert min(counts) >= 1
    assert total <= spent <= count * total
    assert (spent < count * total) == (count > 1 and len(ends) > 1)


def draw_losses(members: int, texts: int, *, seed: int, worse: Sequence[float] = ()) -> Any:
    """Losses of members on the same texts, skewed as a classifier's; the last ones are worse by so much."""
    random = np.random.default_rng(seed)
    margins = 1.0 + 1.5 * random.standard_normal(texts) + 0.7 * random.standard_normal((members, texts))
    losses = np.logaddexp(0.0, -2.0 * margins)
    if worse:
        losses[-len(worse) :] += np.array(worse)[:, None]
    return losses


def test_the_test_of_two_is_the_paired_t_test() -> None:
    better, worse = losses = draw_losses(2, 200, seed=0, worse=[0.06])
    expected = ttest_rel(worse, better, alternative="greater").pvalue
    assert 0.005 < expected < 0.2
    assert halving.compute_p_values(losses) == pytest.approx([0.5, expected])  # the first lags behind none


def test_what_lags_far_behind_is_told_from_what_only_chance_puts_behind() -> None:
    losses = draw_losses(24, 400, seed=1, worse=[0.5] * 12)
    found = np.array(halving.compute_p_values(losses))
    assert (found[12:] < halving.ERROR).all()
    assert (found[:12] > halving.ERROR).all()
    assert found[losses.mean(axis=1).argmin()] == 1.0
    few = np.array(halving.compute_p_values(losses[:, :3]))  # three texts tell little
    assert (few[:12] > halving.ERROR).all()


@pytest.mark.parametrize(
    ("count", "going_on"),
    [(1, 1), (2, 1), (3, 2), (4, 2), (5, 2), (8, 2), (9, 3), (24, 6), (105, 27)],
)
def test_of_many_a_quarter_goes_on_and_of_few_the_half(count: int, going_on: int) -> None:
    assert halving.count_survivors(count) == going_on


@pytest.mark.parametrize(
    ("total", "every", "ends"),
    [(300, 25, [25, 50, 100, 200, 300]), (300, 50, [43, 86, 172, 300]), (100, 14, [14, 28, 56, 100])],
)
def test_rungs_end_at_evaluations_where_these_come_often(
    compose: Compose, total: int, every: int, ends: list[int]
) -> None:
    points = plan_of(
        compose, {"method": ["lora"], "train.max_steps": [total], "train.eval_steps": [every]}
    ).points
    assert halving.find_rungs(points) == ends


def test_configurations_that_answer_alike_are_equally_good() -> None:
    losses = draw_losses(1, 50, seed=2)
    assert halving.compute_p_values(np.concatenate([losses, losses, losses + 1e-15])) == [1.0] * 3
    assert halving.compute_p_values(losses) == [1.0]
    assert halving.compute_p_values(np.zeros((3, 50))) == [1.0] * 3


@pytest.mark.slow
@pytest.mark.parametrize(("members", "texts"), [(2, 400), (6, 100), (24, 400)])
def test_the_best_is_dropped_in_a_hundredth_of_the_studies_at_most(members: int, texts: int) -> None:
    """Also where all are equally good, which is the hardest case; benchmarks/studies.py has more."""
    studies = 400
    dropped = [
        halving.compute_p_values(draw_losses(members, texts, seed=seed))[0] < halving.ERROR
        for seed in range(studies)
    ]
    assert sum(dropped) / studies <= halving.ERROR + 3 * math.sqrt(halving.ERROR / studies)


def test_the_first_by_rank_goes_on_and_others_leave_for_either_reason() -> None:
    scores: dict[str, float | None] = {"a": 0.9, "b": 0.8, "c": 0.7, "d": 0.1, "e": None}
    losses: dict[str, float | None] = {"a": 0.5, "b": 0.4, "c": 0.9, "d": 2.0, "e": None}
    p_best = {"a": 0.001, "b": 1.0, "c": 0.0099, "d": 0.0001}
    found = halving.judge(scores, losses, keep=3, p_best=p_best)
    says = {key: verdict.says for key, verdict in found.items()}
    assert says == {
        "a": halving.GOES_ON,
        "b": halving.GOES_ON,
        "c": halving.BY_TEST,
        "d": halving.BY_RANK,
        "e": halving.FAILED,
    }
    assert found["c"] == halving.Verdict(0.7, 0.9, 0.0099, halving.BY_TEST)
    untested = halving.judge(scores, losses, keep=3, p_best={})
    assert untested["c"].says == halving.GOES_ON


def test_verdicts_are_a_table_with_a_row_for_each_rung_of_a_run(compose: Compose) -> None:
    points = plan_of(compose, {"method": ["lora"], "lora.r": [8, 16]}).points
    first, other = halving.plan_rung(points, steps=50, total_steps=300, previous={}, identify=identify_here)
    goes, leaves = (
        halving.Verdict(0.5, 1.25, p, says) for p, says in ((1.0, halving.GOES_ON), (0.002, halving.BY_TEST))
    )
    text = halving.add_verdicts("", [(first, goes), (other, leaves)])
    named = "lora r=16 alpha=16 dropout=0.05 lr=0.001 seed=0"
    assert text.splitlines()[2] == f"{other.run_id},{named},50,300,accuracy,0.5,1.25,0.002,left by test"
    again = halving.add_verdicts(text, [(first, leaves)])  # by another sweep
    assert [row.rsplit(",", 1)[1] for row in again.splitlines()] == [
        "verdict",
        "left by test",
        "left by test",
    ]
    assert halving.add_verdicts("run;step\n1;2\n", [(first, leaves)]) == halving.add_verdicts(
        "", [(first, leaves)]
    )
    told = halving.tell_rung([(first, goes), (other, leaves)])
    assert told[0] == "halving lora, step 50 of 300: 1 of 2 go on, 1 left by test"
    assert told[1].endswith("lr=0.001 seed=0: accuracy 0.5, loss 1.25, p 0.002")


def test_a_resumed_run_pays_only_the_difference() -> None:
    assert halving.budget([50, 100, 300], [4, 2, 1]) == 4 * 50 + 2 * 50 + 1 * 200
    assert halving.budget([300], [4]) == 1200


def test_the_quickstart_costs_half_of_its_grid() -> None:
    ends = halving.rungs(300)
    spent = halving.budget(ends, halving.count_by_rung(3, rungs=ends))  # of each of its three methods
    assert ends == [43, 86, 172, 300]
    assert spent == 3 * 43 + 2 * 43 + 1 * 214
    assert (spent, 3 * 300) == (429, 900)


def test_the_quickstarts_methods_do_not_compete_with_each_other(compose: Compose) -> None:
    plan = plan_of(compose, *combine_axes(compose("sweep=quickstart").sweep.grids, swept={}, fixed={}))
    assert sorted(names_of(halving.group_points(plan.points))) == [
        ("full", 3),
        ("head", 1),
        ("lora", 3),
        ("majority", 1),
        ("qlora", 3),
        ("tfidf", 1),
    ]


@pytest.mark.parametrize(
    ("axes", "sizes"),
    [
        ({"data": ["bbc_headlines", "bbc_news"]}, [2, 2]),  # other texts are another task
        ({"model": ["minilm", "local"]}, [2, 2]),
        ({"seed": [0, 1]}, [2, 2]),  # the luckiest seed would win
        ({"train.max_steps": [300, 600]}, [2, 2]),  # no last rung in common
        ({"train.micro_batch_size": [8, 16]}, [4]),
        ({"lora.r": [8, 16]}, [4]),
    ],
)
def test_only_what_can_be_compared_competes(
    compose: Compose, axes: dict[str, list[Any]], sizes: list[int]
) -> None:
    plan = plan_of(compose, {"method": ["lora"], "train.lr": [1e-3, 3e-3], **axes})
    assert [len(group) for group in halving.group_points(plan.points)] == sizes


def test_a_baseline_does_not_compete(compose: Compose) -> None:
    plan = plan_of(compose, {"method": ["head"], "train.max_length": [32, 64]})
    assert [len(group) for group in halving.group_points(plan.points)] == [1, 1]


def test_a_rung_stops_early_and_resumes_the_one_before(compose: Compose) -> None:
    points = plan_of(compose, {"method": ["lora"], "lora.r": [8, 16]}).points
    first = halving.plan_rung(points, steps=50, total_steps=300, previous={}, identify=identify_here)
    previous = {point.run_id: run.run_id for point, run in zip(points, first, strict=True)}
    second = halving.plan_rung(
        points[:1], steps=100, total_steps=300, previous=previous, identify=identify_here
    )
    last = halving.plan_rung(
        points[:1], steps=300, total_steps=300, previous=previous, identify=identify_here
    )
    assert first[0].overrides == ("method=lora", "lora.r=8", "train.stop_step=50")
    assert second[0].overrides[:3] == ("method=lora", "lora.r=8", "train.stop_step=100")
    assert [run.config.train.stop_step for run in (first[0], second[0], last[0])] == [50, 100, None]
    assert [run.config.resume_from for run in (first[0], second[0], last[0])] == [
        None,
        first[0].run_id,
        first[0].run_id,
    ]
    assert len({run.run_id for run in (*first, *second, *last)}) == 4
    assert last[0].run_id == points[0].run_id  # resumed or not, it is the same training


def test_a_rungs_overrides_compose_to_its_configuration(compose: Compose) -> None:
    points = plan_of(compose, {"method": ["full", "qlora"], "train.lr": [1e-4]}).points
    for run_id in ("0123456789ab", "012345678901", "1234567890e1", "abcdefabcdef"):
        previous = {point.run_id: run_id for point in points}
        for steps in (50, 300):
            for run in halving.plan_rung(
                points, steps=steps, total_steps=300, previous=previous, identify=identify_here
            ):
                assert compose(*run.overrides) == run.config
                assert run.config.resume_from == run_id
                again = halving.plan_rung(
                    [run], steps=steps, total_steps=300, previous={}, identify=identify_here
                )
                assert again[0].overrides.count(f"train.stop_step={50 if steps == 50 else 'null'}") == 1


def halve(plan: Plan, score: Callable[[Point], float | None]) -> tuple[set[str], int]:
    """A whole halving as the engine does it: the run_ids that reach the end, and the steps spent."""
    groups = halving.group_points(plan.points)
    previous: dict[str, str] = {}
    reached: dict[str, int] = {}
    spent, finished = 0, set()
    for rung in range(10):
        for index, group in enumerate(groups):
            if not group:
                continue
            total = group[0].config.train.max_steps or 0
            ends = halving.rungs(total)
            steps = total if len(group) == 1 else ends[min(rung, len(ends) - 1)]
            runs = halving.plan_rung(
                group, steps=steps, total_steps=total, previous=previous, identify=identify_here
            )
            spent += sum(steps - reached.get(point.run_id, 0) for point in group)
            reached |= {point.run_id: steps for point in group}
            previous |= {point.run_id: run.run_id for point, run in zip(group, runs, strict=True)}
            scores = {point.run_id: score(point) for point in group}
            if steps == total:
                finished |= {run.run_id for run in runs if scores[run.run_id] is not None}
                groups[index] = []
                continue
            kept = halving.survivors(scores, keep=halving.count_survivors(len(group)))
            groups[index] = [point for point in group if point.run_id in kept]
    return finished, spent


def score_by_hash(failing: int) -> Callable[[Point], float | None]:
    """A score for each point, and some failures, that no order decides."""

    def score(point: Point) -> float | None:
        value = int(hash_canonical({"of": point.run_id})[:6], 16)
        return None if value % 10 < failing else value / 2**24

    return score


@settings(max_examples=15)
@given(
    methods=st.lists(st.sampled_from(["full", "lora", "qlora", "head"]), min_size=1, max_size=3, unique=True),
    ranks=st.lists(st.sampled_from([4, 8, 16]), min_size=1, unique=True),
    rates=st.lists(st.sampled_from([1e-4, 1e-3, 1e-2]), min_size=1, unique=True),
    failing=st.integers(0, 8),
    random=st.randoms(),
)
def test_every_method_keeps_a_survivor_at_no_more_than_the_grids_steps(
    compose: Compose, methods: list[str], ranks: list[int], rates: list[float], failing: int, random: Any
) -> None:
    plan = plan_of(compose, {"method": methods, "lora.r": ranks, "train.lr": rates})
    score = score_by_hash(failing)
    finished, spent = halve(plan, score)
    shuffled = list(plan.points)
    random.shuffle(shuffled)
    assert halve(Plan(tuple(shuffled), plan.combinations, plan.repeats), score) == (finished, spent)
    assert spent <= 300 * len(plan.points)
    assert finished <= {point.run_id for point in plan.points}
    for group in halving.group_points(plan.points):
        alive: Mapping[str, float] = {
            point.run_id: value for point in group if (value := score(point)) is not None
        }
        if alive:  # constant scores: the best of all is never given up
            assert max(alive, key=lambda run_id: alive[run_id]) in finished
