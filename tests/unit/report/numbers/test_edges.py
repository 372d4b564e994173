"""Chosen values at the edge of what was tried, and the command that looks beyond."""

import shlex
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from records import make_run

from bench.config.schema import Config, to_dict
from bench.report.numbers.edges import find_edges, suggest_sweep
from bench.report.numbers.rows import build_rows
from bench.results.selection import read_value
from bench.results.store import Result


def vary(**values: float) -> Result:
    """A run of LoRA with these values, such as train_lr."""
    run = make_run("lora")
    canonical = {
        name: dict(part) if isinstance(part, dict) else part for name, part in run.canonical_config.items()
    }
    for name, value in values.items():
        section, setting = name.split("_")
        canonical[section][setting] = value
    return replace(run, canonical_config=canonical)


@pytest.mark.parametrize(
    ("setting", "chosen", "others", "edge"),
    [
        ("train_lr", 5e-5, [2e-5], ("largest", 1e-4)),
        ("train_lr", 3e-3, [1e-3], ("largest", 9e-3)),
        ("train_lr", 1e-3, [3e-3], ("smallest", 3e-4)),
        ("train_lr", 1e-3, [3e-4, 3e-3], None),
        ("train_lr", 1e-3, [1e-3], None),
        ("lora_r", 16, [8], ("largest", 32)),
        ("lora_r", 8, [16], ("smallest", 4)),
        ("lora_r", 1, [2], None),
        ("lora_alpha", 64, [32], ("largest", 128)),
        ("lora_dropout", 0.0, [0.1], None),
        ("lora_dropout", 0.05, [0.1], ("smallest", 0.025)),
        ("lora_dropout", 0.1, [0.0], ("largest", 0.2)),
        ("lora_dropout", 0.9, [0.5], ("largest", 0.95)),
    ],
)
def test_an_edge_is_an_end_of_what_was_tried_that_the_search_can_go_beyond(
    setting: str, chosen: float, others: list[float], edge: tuple[str, float] | None
) -> None:
    run = vary(**{setting: chosen})
    found = find_edges(run, [run, *(vary(**{setting: value}) for value in others)])
    if edge is None:
        assert found == ()
    else:
        (one,) = found
        assert (one.path, one.value) == (setting.replace("_", "."), chosen)
        assert (one.end, one.beyond) == (edge[0], pytest.approx(edge[1]))


def test_what_failed_was_tried_too() -> None:
    runs = [make_run(lr=1e-3, validation=0.8), make_run(lr=3e-3), make_run(lr=1e-2, status="diverged")]
    (row,) = build_rows(runs)
    assert row.edges == ()
    assert [edge.setting for edge in build_rows(runs[:2])[0].edges] == ["lr=0.003"]


@pytest.mark.parametrize(
    "given",
    [
        ["method=full", "train.lr=5e-5", "sweep=quickstart", "results_dir=results/quickstart"],
        ["method=qlora", "lora.r=16", "train.lr=3e-3", "seed=1", "train.max_steps=20"],
        [
            "method=lora",
            "data=files",
            "data.train=my data.csv",
            "data.text_column='a, b'",
            "sweep.select_by=f1_macro",
        ],
        ["experiment=llm", "method=lora", "train.lr=1e-3"],
        ["experiment=article", "method=lora", "train.lr=2e-4", "lora.alpha=32"],
    ],
)
def test_the_command_composes_what_was_chosen_and_goes_beyond_it(
    given: list[str], compose: Callable[..., Config]
) -> None:
    config = compose(*given)
    run = replace(make_run(config.method.name), config=to_dict(config, without=["report"]))
    run = replace(run, canonical_config={"train": {"lr": config.train.lr}})
    lower = replace(run, canonical_config={"train": {"lr": config.train.lr / 2}})
    edges = find_edges(run, [run, lower])
    command = suggest_sweep(run, edges)
    assert command is not None
    program, verb, *words = shlex.split(command)
    assert (program, verb) == ("bench", "sweep")
    (swept,) = [word for word in words if word.startswith("train.lr=")]
    (override,) = OverridesParser.create().parse_overrides([swept])
    assert list(override.sweep_iterator()) == pytest.approx([config.train.lr, 2 * config.train.lr], rel=0.2)
    again = compose(*(word for word in words if word != swept), f"train.lr={config.train.lr}")
    for name in ("method", "model", "data", "lora", "train", "task", "seed", "results_dir"):
        assert getattr(again, name) == getattr(config, name), name
    assert again.sweep.final_seeds == config.sweep.final_seeds
    assert again.sweep.select_by == config.sweep.select_by


def test_the_command_of_a_cross_validation_trains_every_fold(compose: Callable[..., Config]) -> None:
    config = compose("method=lora", "data.folds=3", "data.fold=1")
    run = replace(make_run(), config=to_dict(config, without=["report"]))
    command = suggest_sweep(run, find_edges(run, [run, vary(train_lr=5e-4)]))
    assert command is not None
    words = shlex.split(command)
    assert [word for word in words if word.startswith("data.fold")] == ["data.folds=3", "data.fold=range(3)"]


@pytest.mark.parametrize(
    "names", [{"data": "of nobody"}, {"data": "bbc_headlines", "model": "mine"}, {"data": "../../x"}]
)
def test_what_no_file_of_conf_is_named_after_has_no_command(names: dict[str, Any]) -> None:
    runs = [make_run(lr=1e-3, validation=0.8, names=names), make_run(lr=3e-3, names=names)]
    (row,) = build_rows(runs)
    assert row.selection is not None
    assert suggest_sweep(row.selection.candidates[0], row.edges) is None
    assert read_value(row.selection.candidates[0], "config.train.lr") == 3e-3


def test_a_command_that_would_end_its_own_quotes_is_not_shown(compose: Callable[..., Config]) -> None:
    config = compose("data=files", "data.train='`my`.csv'", "train.lr=1e-3")
    run = replace(make_run(), config=to_dict(config, without=["report"]))
    edges = find_edges(run, [run, vary(train_lr=5e-4)])
    assert edges != ()
    assert suggest_sweep(run, edges) is None
