"""A plan as a person reads it in a terminal: each run if they are few, else a row for runs that are alike."""

from collections.abc import Mapping, Sequence
from typing import Any

from bench.config.cards import GIB
from bench.config.identity import describe
from bench.config.schema import SweepConfig
from bench.sweep.forecast import format_hours, tell_bound
from bench.sweep.plan import Plan

_FEW = 24  # runs that are shown one by one
_UNKNOWN = "unknown"


def tell_order(plan: Plan, settings: SweepConfig) -> list[str]:
    """What a sweep trains before all other runs, and what after them."""
    lines = []
    values = " or ".join(" ".join(f"{key}={value}" for key, value in one.items()) for one in settings.first)
    if plan.first:
        names = ", ".join(dict.fromkeys(point.config.method.name for point in plan.points[: plan.first]))
        lines.append(f"first {plan.first} of them ({names}) with {values}, so that a table stands early")
    elif values:
        lines.append(f"none goes first: sweep.first is {values}, and no run has these values")
    if seeds := settings.final_seeds:
        lines.append(f"then the best of each method with seeds {', '.join(map(str, seeds))}")
    return lines


def tabulate(plan: Plan, described: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows; alike are runs of one method with the same verdict and state.

    Memory and hours of a row are its runs' least and most, and all its hours together.
    """
    bound = tell_bound(described)
    named = [(describe(point.config), run) for point, run in zip(plan.points, described["runs"], strict=True)]
    if len(named) <= _FEW:
        header = ["Run", "Settings", "State", "Peak memory", "Fit", f"Time, {bound}"]
        return header, [
            [run["run_id"], name, run["state"], _memory([run]), run["verdict"] or _UNKNOWN, _hours([run])]
            for name, run in named
        ]
    times = [f"{one}, {bound}" for one in ("Each", "Together")]
    header = ["Method", "Settings", "Runs", "State", "Peak memory", "Fit", *times]
    groups: dict[tuple[str, str, str], list[tuple[str, Mapping[str, Any]]]] = {}
    for name, run in named:
        kind = (name.split(" ")[0], run["state"], run["verdict"] or _UNKNOWN)
        groups.setdefault(kind, []).append((name, run))
    return header, [_join(kind, members) for kind, members in groups.items()]


def _join(kind: tuple[str, str, str], members: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """The row of runs that are alike."""
    method, state, verdict = kind
    runs = [run for _, run in members]
    hours = [run["predicted_hours"] for run in runs if run["predicted_hours"] is not None]
    together = format_hours(sum(hours)) if hours else _UNKNOWN
    settings = merge_settings([name for name, _ in members])
    return [method, settings, str(len(runs)), state, _memory(runs), verdict, _hours(runs), together]


def merge_settings(names: Sequence[str]) -> str:
    """Runs' names as one: ``lora r=8 lr=0.1`` and ``lora r=16 lr=0.1`` are ``r=8,16 lr=0.1``."""
    values: dict[str, dict[str, None]] = {}
    for name in names:
        for word in name.split(" ")[1:]:
            key, _, value = word.partition("=")
            values.setdefault(key, {})[value] = None
    return " ".join(f"{key}={','.join(found)}" if "" not in found else key for key, found in values.items())


def _memory(runs: Sequence[Mapping[str, Any]]) -> str:
    sizes = [run["predicted_peak_reserved_bytes"] for run in runs]
    known = [size / GIB for size in sizes if size is not None]
    return f"{_span([f'{size:.2f}' for size in sorted(known)])} GiB" if known else _UNKNOWN


def _hours(runs: Sequence[Mapping[str, Any]]) -> str:
    known = sorted(run["predicted_hours"] for run in runs if run["predicted_hours"] is not None)
    return _span([format_hours(hours) for hours in known]) if known else _UNKNOWN


def _span(texts: Sequence[str]) -> str:
    """The first and the last, once if they are the same."""
    return texts[0] if texts[0] == texts[-1] else f"{texts[0]} - {texts[-1]}"
