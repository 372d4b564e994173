"""A plan holds each distinct run once, in a good order, as overrides that make the same configuration."""

import itertools
import string
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bench.config.identity import Identity, describe, identify
from bench.config.overrides import override_line
from bench.config.schema import Config, replace_values
from bench.errors import ConfigError
from bench.sweep.plan import (
    Axes,
    Plan,
    combine_axes,
    expand,
    make_plan,
    plan_finals,
)

Compose = Callable[..., Config]

HOSTILE = (
    "", " ", "'", '"', "\\", "\\'", "a\\", "a\\\\'b", "'\\", "a,b", "{a: b}", "[x", "a=b", "null", "True",
    "nan", "-inf", "8", "007", "1e-4", "1_000", "0x1", ".", "+", "~", "a b", "a\nb", "\t", "标题", "é", "@",
    "$x", "a:b", "x(1)", "choice(a,b)", "results/x", "/data", "../x", "owner/name-1.0", "C:\\dir\\", "${x",
    "#", "%", "!", "a\\\n",
)  # fmt: skip


def identify_here(config: Config) -> Identity:
    return identify(config, data_fingerprint=config.data.name, model_revision=config.model.name)


@pytest.fixture(scope="module")
def compose_lines(compose: Compose) -> Callable[[Sequence[str]], Config]:
    """Hydra's composition, with the override lines as one sequence."""
    return lambda lines: compose(*lines)


def plan_of(grids: Sequence[Axes], compose: Callable[[Sequence[str]], Config]) -> Plan:
    return make_plan(list(expand(grids, compose=compose)), identify_here)


def shared_of(plan: Plan) -> list[tuple[str, str, str]]:
    configs = [point.config for point in plan.points]
    return [(one.data.name, one.model.name, one.method.quantization) for one in configs]


def test_the_articles_grid_is_219_runs(compose: Compose, compose_lines: Any) -> None:
    grids = combine_axes(compose("sweep=article").sweep.grids, swept={}, fixed={})
    plan = plan_of(grids, compose_lines)
    assert (plan.combinations, len(plan.points)) == (324, 219)
    methods = [point.config.method.name for point in plan.points]
    assert {name: methods.count(name) for name in methods} == {"full": 3, "lora": 108, "qlora": 108}


def test_the_articles_experiment_begins_with_its_own_point_of_each_method(
    compose: Compose, compose_lines: Any
) -> None:
    settings = compose("experiment=article").sweep
    grids = combine_axes(settings.grids, swept={}, fixed={})
    expanded = list(expand(grids, compose=compose_lines, constant=["experiment=article"]))
    plan = make_plan(expanded, identify_here, first=settings.first)
    assert (plan.combinations, len(plan.points), plan.first) == (324, 219, 3)
    assert [describe(point.config) for point in plan.points[:3]] == [
        "full label_likelihood lr=0.0001 seed=0",
        "lora r=8 alpha=16 dropout=0.05 label_likelihood lr=0.0001 seed=0",
        "qlora r=8 alpha=16 dropout=0.05 label_likelihood lr=0.0001 seed=0",
    ]
    others = [point.run_id for point in plan.points[3:]]
    in_order = [point.run_id for point in make_plan(expanded, identify_here).points]
    assert others == [run_id for run_id in in_order if run_id in set(others)]


@pytest.mark.parametrize(
    ("first", "ahead"),
    [
        ([], []),
        ([{"lora.r": "16"}], ["lora 16 0.001", "lora 16 0.002"]),
        ([{"lora.r": 16.0, "train.lr": "2e-3"}], ["lora 16 0.002"]),
        (
            [{"lora.r": 16, "train.lr": 2e-3}, {"lora.r": 8}],
            ["lora 8 0.001", "lora 8 0.002", "lora 16 0.002"],
        ),
        ([{"lora.r": 7}], []),
    ],
)
def test_what_goes_first_are_the_runs_with_its_values(
    compose_lines: Any, first: list[dict[str, Any]], ahead: list[str]
) -> None:
    grid: Axes = {"method": ["lora"], "lora.r": [8, 16], "train.lr": [0.001, 0.002]}
    plan = make_plan(list(expand([grid], compose=compose_lines)), identify_here, first=first)
    names = [f"lora {point.config.lora.r} {point.config.train.lr:g}" for point in plan.points]
    assert (names[: plan.first], len(names)) == (ahead, 4)


@pytest.mark.parametrize("first", [{"lora.rank": 8}, {"lora.r": 8.5}, {"method": "lora"}])
def test_what_is_no_value_of_a_setting_cannot_go_first(compose_lines: Any, first: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"^{next(iter(first))}="):
        make_plan(list(expand([{"lora.r": [8]}], compose=compose_lines)), identify_here, first=[first])


def unique(values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(values, min_size=1, max_size=4)


@settings(max_examples=20)
@given(
    methods=unique(st.sampled_from(["full", "lora", "qlora", "majority", "head"])),
    data=st.lists(st.sampled_from(["bbc_headlines", "bbc_news"]), min_size=1, max_size=2),
    ranks=unique(st.sampled_from([4, 8, 8.0, "8", 16])),
    rates=unique(st.sampled_from([1e-4, 0.0001, "1e-4", 1e-3])),
    seeds=unique(st.integers(0, 2)),
)
def test_a_plan_holds_every_distinct_run_once(
    compose_lines: Any,
    methods: list[str],
    data: list[str],
    ranks: list[Any],
    rates: list[Any],
    seeds: list[int],
) -> None:
    axes = {"method": methods, "data": data, "lora.r": ranks, "train.lr": rates, "seed": seeds}
    plan = plan_of([axes], compose_lines)
    r, lr, seed = len({int(one) for one in ranks}), len({float(one) for one in rates}), len(set(seeds))
    per_method = {"majority": 1, "head": 1, "full": lr * seed, "lora": r * lr * seed, "qlora": r * lr * seed}
    assert plan.combinations == len(methods) * len(data) * len(ranks) * len(rates) * len(seeds)
    assert len(plan.points) == len(set(data)) * sum(per_method[name] for name in set(methods))
    assert len({point.run_id for point in plan.points}) == len(plan.points)
    assert plan_of([axes], compose_lines) == plan
    groups = [key for key, _ in itertools.groupby(shared_of(plan))]  # what can share a loaded base model
    assert len(groups) == len(set(groups))


def test_runs_keep_the_order_of_the_grids_within_a_group(compose_lines: Any) -> None:
    grids = [{"method": ["qlora", "lora"], "seed": [1]}, {"method": ["qlora", "full"], "seed": [0, 1]}]
    plan = plan_of(grids, compose_lines)
    names = [(point.config.method.name, point.config.seed) for point in plan.points]
    assert names == [("qlora", 1), ("qlora", 0), ("lora", 1), ("full", 0), ("full", 1)]
    assert plan.combinations == 6


def test_the_first_of_equal_combinations_stands_for_them(compose_lines: Any) -> None:
    plan = plan_of([{"method": ["full"], "lora.r": [32, 8]}], compose_lines)
    assert [point.overrides for point in plan.points] == [("method=full", "lora.r=32")]


@pytest.mark.parametrize(
    "axes",
    [
        {},
        {"method": ["full", "qlora"], "lora.r": [8.0, "16"], "train.lr": ["1e-4", 5e-5], "seed": [1.0]},
        {"lora.target_modules": [["query", "value"], "all-linear"], "train.max_grad_norm": [None, 1]},
        {"method": ["lora"], "method.adapter.use_dora": [True, False]},
        {"method.adapter": [{"peft_type": "LORA", "use_rslora": True}]},
        {"train.gradient_checkpointing": [True], "data.labels": [["股票", "a,b"]]},
        {"train.max_steps": [None], "train.epochs": [1, 0.5]},
    ],
)
def test_a_points_overrides_compose_to_its_configuration(compose: Compose, axes: Axes) -> None:
    for overrides, config in expand([axes], compose=lambda lines: compose(*lines)):
        assert compose(*overrides) == config


def test_constant_overrides_are_in_every_point_and_give_way_to_the_grids_keys(compose_lines: Any) -> None:
    constant = ["method=lora", "lora.r=4", "+method.adapter.use_dora=true", "seed=7"]
    grids = [{"method": ["qlora"], "lora.r": [16]}, {"method.adapter.use_dora": [False]}]
    (first, qlora), (second, lora) = expand(grids, compose=compose_lines, constant=constant)
    assert first == ("+method.adapter.use_dora=true", "seed=7", "method=qlora", "lora.r=16")
    assert second == ("method=lora", "lora.r=4", "seed=7", "++method.adapter.use_dora=false")
    assert (qlora.lora.r, qlora.seed, qlora.method.adapter["use_dora"]) == (16, 7, True)
    assert (lora.lora.r, lora.seed, lora.method.adapter["use_dora"]) == (4, 7, False)


def test_hydra_composes_once_per_choice_of_groups(compose: Compose) -> None:
    asked: list[Sequence[str]] = []

    def composing(lines: Sequence[str]) -> Config:
        asked.append(lines)
        return compose(*lines)

    axes = {"method": ["lora", "qlora"], "data": ["bbc_news"], "lora.r": list(range(1, 21)), "seed": [0, 1]}
    assert len(list(expand([axes], compose=composing))) == 80
    assert asked == [["method=lora", "data=bbc_news"], ["method=qlora", "data=bbc_news"]]


@pytest.mark.parametrize(("key", "value"), [("lora.rank", 8), ("lora.r", 8.5), ("sweep", "article")])
def test_a_grid_of_what_there_is_not_is_an_error_of_the_settings(
    compose_lines: Any, key: str, value: Any
) -> None:
    with pytest.raises(ConfigError, match=f"^{key}={value}: "):
        list(expand([{key: [value]}], compose=compose_lines))


QUICK = [{"method": ["majority", "tfidf"]}, {"method": "full", "train.lr": [2e-5, 5e-5]}]


@pytest.mark.parametrize(
    ("grids", "swept", "fixed", "expected"),
    [
        # the file alone; one value is a list of one
        (QUICK, {}, {}, [{"method": ["majority", "tfidf"]}, {"method": ["full"], "train.lr": [2e-5, 5e-5]}]),
        # without a file's grid, what the command line sweeps
        ([{}], {"method": ["full"], "lora.r": [8, 16]}, {}, [{"method": ["full"], "lora.r": [8, 16]}]),
        ([{}], {}, {"method": "full", "seed": 1}, [{}]),
        # a swept key is swept in every sub-grid, over what the file says
        (
            QUICK,
            {"train.lr": [1, 2], "seed": [0]},
            {},
            [
                {"method": ["majority", "tfidf"], "train.lr": [1, 2], "seed": [0]},
                {"method": ["full"], "train.lr": [1, 2], "seed": [0]},
            ],
        ),
        # a fixed key is fixed in those that sweep it
        (
            QUICK,
            {},
            {"train.lr": 3},
            [{"method": ["majority", "tfidf"]}, {"method": ["full"], "train.lr": [3]}],
        ),
        # method chooses among the sub-grids, in the command line's order
        (QUICK, {}, {"method": "full"}, [{"method": ["full"], "train.lr": [2e-5, 5e-5]}]),
        (QUICK, {"method": ["tfidf", "lora", "majority"]}, {}, [{"method": ["tfidf", "majority"]}]),
    ],
)
def test_the_command_line_has_the_last_word_over_the_grids(
    grids: list[dict[str, Any]], swept: dict[str, list[Any]], fixed: dict[str, Any], expected: list[Axes]
) -> None:
    assert combine_axes(grids, swept=swept, fixed=fixed) == expected


@pytest.mark.parametrize("given", [{"fixed": {"method": "dora"}}, {"swept": {"method": ["dora", "qlora"]}}])
def test_a_method_that_no_grid_has_is_an_error(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        combine_axes(QUICK, **({"swept": {}, "fixed": {}} | given))
    assert str(caught.value).startswith("method=dora")
    assert "this sweep's grids have only full, majority, tfidf; add sweep=none to sweep" in str(caught.value)


def test_final_seeds_are_added_to_the_best_and_never_twice(compose_lines: Any) -> None:
    plan = plan_of([{"method": ["majority", "head", "lora"], "lora.r": [8], "seed": [1]}], compose_lines)
    finals = plan_finals(plan.points, [0, 1, 2], identify_here)
    found = [(point.config.method.name, point.config.seed) for point in finals.points]
    assert found == [("majority", 0), ("head", 0), ("lora", 0), ("lora", 1), ("lora", 2)]
    known = {point.run_id for point in plan.points}
    assert [point.run_id in known for point in finals.points] == [True, True, False, True, False]
    assert finals.points[2].overrides == ("method=lora", "lora.r=8", "seed=0")
    assert finals.combinations == 9
    assert plan_finals(plan.points, [], identify_here).points == ()


def parse(line: str) -> tuple[str, Any]:
    override = OverridesParser.create().parse_override(line)
    assert not override.is_sweep_override()
    return override.key_or_group, override.value()


TEXT = st.sampled_from(HOSTILE) | st.text(max_size=8)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT
KEYS = st.text(string.ascii_letters + "_ .:=,{}()[]\\", min_size=1, max_size=6).map(lambda text: f"k{text}k")
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=100)
@given(VALUES)
@example(list(HOSTILE))
def test_hydra_reads_an_override_as_the_value_it_was_made_of(value: Any) -> None:
    assert parse(override_line("some.key", value)) == ("some.key", value)


@pytest.mark.parametrize("text", HOSTILE)
def test_hydra_reads_hostile_text_as_text(text: str) -> None:
    _, found = parse(override_line("key", text))
    assert (found, type(found)) == (text, str)


def test_text_survives_composition(compose: Compose) -> None:
    texts = [text for text in HOSTILE if "${" not in text]  # an interpolation is the user's to make
    values = {"data.labels": texts, "track.entity": "a\\", "results_dir": "it's, here=\\'"}
    config = compose(*(override_line(key, value) for key, value in values.items()))
    assert config == replace_values(compose(), values)
    assert config.data.labels == texts


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ("results/my-run_1.0", "key=results/my-run_1.0"),
        (1e-05, "key=1e-05"),
        (True, "key=true"),
        (None, "key=null"),
        ([1, "a"], "key=[1,a]"),
        ("8", "key='8'"),
    ],
)
def test_plain_values_stay_readable(value: Any, line: str) -> None:
    assert override_line("key", value) == line
