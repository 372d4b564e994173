"""A plan of more than twelve hours begins only once somebody has said so."""

import importlib.util
import io
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from bench.config.schema import Config
from bench.errors import ConfigError, MissingError
from bench.sweep.request import Identifier, confirm_long, plan_sweep

Compose = Callable[..., Config]

ARGUMENTS = ["experiment=article", "data.train=my texts.csv"]


class Terminal(io.StringIO):
    """A stream that a person types into or reads."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], io.StringIO]:
    """Has a person at a terminal type this, or nobody there: standard error comes back."""

    def sit(typed: str | None) -> io.StringIO:
        streams = [io.StringIO("y\n"), io.StringIO()] if typed is None else [Terminal(typed), Terminal()]
        for name, stream in zip(("stdin", "stderr"), streams, strict=True):
            monkeypatch.setattr(f"sys.{name}", stream)
        return streams[1]

    return sit


def describe(hours: float | None, **more: Any) -> dict[str, Any]:
    return {"total_hours": hours, "halving_hours": None, "done": 0, "calibration": {}, **more}


@pytest.mark.parametrize("typed", ["y\n", "Y\n", " yes \n"])
def test_a_person_is_asked_and_may_say_yes(
    compose: Compose, answer: Callable[[str | None], io.StringIO], typed: str
) -> None:
    shown = answer(typed)
    confirm_long(describe(46.6), compose(), ARGUMENTS)
    assert shown.getvalue() == "this sweep takes at least 46.6 h; go on? [y/N] "


@pytest.mark.parametrize("typed", ["\n", "n\n", "yesterday\n", ""])
def test_anything_but_yes_is_no(
    compose: Compose, answer: Callable[[str | None], io.StringIO], typed: str
) -> None:
    answer(typed)
    with pytest.raises(ConfigError, match=r"^not started") as caught:
        confirm_long(describe(46.6), compose(), ARGUMENTS)
    assert caught.value.exit_code == 2


def test_where_nobody_can_be_asked_the_message_is_the_way_on(
    compose: Compose, answer: Callable[[str | None], io.StringIO]
) -> None:
    answer(None)
    with pytest.raises(ConfigError) as caught:
        confirm_long(describe(46.6, calibration={"all": {}}), compose(), [*ARGUMENTS, "plan.force=false"])
    first, second = str(caught.value).splitlines()
    assert "about 46.6 h, and there is no terminal to ask whether more than 12 h are meant" in first
    assert first.endswith("bench plan experiment=article 'data.train=my texts.csv'")
    assert second.endswith(": bench sweep experiment=article 'data.train=my texts.csv' plan.force=true")
    confirm_long(describe(46.6), compose("plan.force=true"), ARGUMENTS)


def test_a_process_without_any_input_is_no_terminal(
    compose: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(ConfigError, match="no terminal"):
        confirm_long(describe(46.6), compose(), ARGUMENTS)


@pytest.mark.parametrize(
    ("lines", "described"),
    [
        ((), describe(12.0)),
        ((), describe(None)),  # what is not known asks nothing
        ((), describe(1.0, halving_hours=100.0)),
        (("sweep.strategy=halving",), describe(100.0, halving_hours=11.0)),
        (
            ("sweep.strategy=halving",),
            describe(100.0, halving_hours=100.0, done=1),
        ),  # what is left is not known
    ],
)
def test_a_shorter_plan_begins_at_once(
    compose: Compose,
    answer: Callable[[str | None], io.StringIO],
    lines: tuple[str, ...],
    described: dict[str, Any],
) -> None:
    shown = answer("n\n")
    confirm_long(described, compose(*lines), ARGUMENTS)
    assert shown.getvalue() == ""


@pytest.mark.parametrize(
    ("lines", "described"),
    [((), describe(12.01)), (("sweep.strategy=halving",), describe(20.0, halving_hours=12.01))],
)
def test_what_counts_are_the_hours_of_this_strategy(
    compose: Compose,
    answer: Callable[[str | None], io.StringIO],
    lines: tuple[str, ...],
    described: dict[str, Any],
) -> None:
    answer(None)
    with pytest.raises(ConfigError, match=r"at least 12\.0 h"):
        confirm_long(described, compose(*lines), ARGUMENTS)


CURVE = {"method": ["tfidf"], "seed": [0]}


def plan_curve(compose: Compose, count: int, *lines: str) -> list[tuple[str, ...]]:
    plan = plan_sweep(
        [CURVE],
        constant=list(lines),
        compose=lambda more: compose(*more),
        identify=Identifier(),
        curve=count,
    )
    return [point.overrides for point in plan.points]


def test_a_curve_halves_the_train_texts(compose: Compose) -> None:
    """The headlines have 1,296."""
    planned = plan_curve(compose, 4)
    sizes = [line for lines in planned for line in lines if line.startswith("data.train_size=")]
    assert sizes == [f"data.train_size={size}" for size in (162, 324, 648, 1296)]
    assert all("data.resample=true" in lines for lines in planned)
    assert [
        line for lines in plan_curve(compose, 2, "data.train_size=100") for line in lines if "size" in line
    ] == [
        "data.train_size=50",
        "data.train_size=100",
    ]


def test_a_curve_needs_a_text_of_each_label(compose: Compose) -> None:
    with pytest.raises(
        ConfigError, match=r"sweep.curve=10: the smallest size would be 2 of 1296 .* set sweep.curve=9"
    ):
        plan_curve(compose, 10)
    with pytest.raises(ConfigError, match="too few for a curve"):
        plan_curve(compose, 2, "data.train_size=8")


def test_a_package_that_a_method_lacks_is_missed_before_anything_is_trained(
    compose: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "setfit" else find(name))
    assert plan_curve(compose, 2)
    with pytest.raises(
        MissingError, match=r"run pip install 'bench\[setfit\]', or name the methods"
    ) as caught:
        plan_sweep(
            [{"method": ["tfidf", "setfit"]}],
            constant=[],
            compose=lambda more: compose(*more),
            identify=Identifier(),
        )
    assert caught.value.exit_code == 3


def test_pairs_that_the_memory_does_not_hold_are_missed_before_anything_is_trained(
    compose: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1,296 train texts have 839,160 pairs."""
    free = SimpleNamespace(available=20_000_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    grids = [{"method": ["tfidf", "setfit"]}]
    plan = partial(plan_sweep, grids, constant=[], compose=lambda more: compose(*more))
    with pytest.raises(MissingError, match=r"every pair of the 1,296 .* 0\.0 GiB .* data\.train_size=1100"):
        plan(identify=Identifier())
    free.available = 30_000_000
    assert len(plan(identify=Identifier()).points) == 2
