"""A plan in words: its totals, what goes first, and its runs as lines or as a table."""

import math
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.config.cards import GIB
from bench.config.identity import describe
from bench.config.schema import LOOKS, SweepConfig
from bench.memory.calibration import tell_source
from bench.process import program
from bench.sweep.forecast import Forecast
from bench.sweep.packing import UNKNOWN
from bench.sweep.plan import Plan, Point
from bench.sweep.predict import FITS, TIGHT, TOO_LARGE
from bench.sweep.search import bracket
from bench.sweep.search.hours import TimeBudget

_FEW = 24  # runs that are shown one by one
_UNKNOWN = "unknown"
_HOUR, _DAY = 3600.0, 24.0
_WORDS = {FITS: "fit", TIGHT: "fit tightly", TOO_LARGE: "do not fit", None: "unknown"}


def list_runs(plan: Plan, described: Mapping[str, Any]) -> Iterable[str]:
    """Yield a line for each run."""
    bound = tell_bound(described)
    for point, run in zip(plan.every, described["runs"], strict=True):
        memory, hours = run["predicted_peak_reserved_bytes"], run["predicted_hours"]
        yield (
            f"{point.run_id} {run['state']:8}"
            f"{'-' if memory is None else f'{memory / GIB:.2f} GiB':>11} {run['verdict'] or 'unknown':13}"
            f"{'-' if hours is None else f'{bound} {format_hours(hours)}':>18}  {describe(point.config)}"
        )


def summarise(described: Mapping[str, Any], known: Forecast) -> list[str]:
    """Return the plan's totals, a line each."""
    runs = described["runs"]
    verdicts = Counter(run["verdict"] for run in runs)
    kind = "reserved by torch" if known.target.device_type == "cuda" else "tensors alone"
    lines = [
        f"{described['combinations']} combinations are {described['distinct']} distinct runs: "
        f"{described['done']} done, {described['remaining']} to train",
        f"memory ({kind}) on {known.target.name}, {known.target.tell_room()}: "
        + ", ".join(f"{count} {_WORDS[verdict]}" for verdict, count in verdicts.items()),
    ]
    if described["teachers"]:
        hours = described["teachers_hours"]
        length = "" if hours is None else f", {tell_bound(described)} {format_hours(hours)}"
        lines.append(
            f"{described['teachers']} of them are a teacher's trainings, each without a part that it "
            f"predicts; they come before its students{length}"
        )
    if known.target.note is not None:
        lines.append(known.target.note)
    if described["total_hours"] is not None:
        lines += [_tell_time(described, known)]
    lines += [
        f"halving {one['method']}: at most {', '.join(map(str, one['runs']))} runs up to step "
        f"{', '.join(map(str, one['steps']))}"
        for one in described["rungs"]
    ]
    lines += _tell_packs(described) + _tell_budget(described)
    for reason in dict.fromkeys(run["reason"] for run in runs if run["reason"]):
        lines.append(f"unknown for {sum(run['reason'] == reason for run in runs)} runs: {reason}")
    for one in described["advice"]:
        size = one["largest_micro_batch"]
        lines.append(
            f"{one['method']}: "
            + (f"micro-batches of up to {size} fit" if size else "not even a micro-batch of one text fits")
        )
        lines += [f"  would fit with {' '.join(remedy)}" for remedy in one["remedies"]]
    return lines


def _tell_budget(described: Mapping[str, Any]) -> list[str]:
    """Return a line about what sweep.hours suffices for, if there is a budget."""
    if (budget := described["budget"]) is None:
        return []
    line = f"sweep.hours: {format_hours(budget['hours'])} in all"
    if budget["spent_hours"]:
        line += f", {format_hours(budget['spent_hours'])} of them spent"
    if budget["teachers_hours"]:
        line += f", about {format_hours(budget['teachers_hours'])} for the teacher's trainings"
    if any(one["untried"] is None for one in budget["methods"]):
        return [f"{line}; how far they go is unknown before a run has ended here"]
    tried = ", ".join(
        f"{one['configurations'] - one['untried']} of {one['configurations']} {one['method']}"
        for one in budget["methods"]
    )
    left = sum(one["untried"] for one in budget["methods"])
    rest = f"{left} {'is' if left == 1 else 'are'} not tried" if left else "none is left out"
    return [f"{line}; they go as far as {tried}, by prediction, before the final seeds; {rest}"]


def tell_used(
    budget: TimeBudget,
    plan: Plan,
    untried: Iterable[Point],
    left_out: Sequence[Point],
    arguments: Sequence[str],
) -> list[str]:
    """Return what a sweep's hours were used for and what they left, if there was a budget.

    Args:
        left_out: runs of the final seeds, and those that were to be measured alone.
        arguments: the sweep's command line.
    """
    if math.isinf(budget.seconds):
        return []
    spent, before = budget.spent / _HOUR, budget.earlier / budget.slots / _HOUR
    earlier = f", {format_hours(before)} of them by earlier runs" if before else ""
    lines = [f"sweep.hours: {format_hours(spent)} of {format_hours(budget.seconds / _HOUR)} used{earlier}"]
    left, planned = (Counter(point.method_key for point in points) for points in (untried, plan.points))
    if left:
        counts = ", ".join(f"{count} of {planned[key]} {key.method}" for key, count in left.items())
        lines.append(f"configurations not tried: {counts}")
    if left_out:
        lines.append(f"final runs left out: {', '.join(describe(point.config) for point in left_out)}")
    if len(lines) > 1:
        kept = [line for line in arguments if not line.startswith("sweep.hours=")]
        more = shlex.join([program(), "sweep", *kept, f"sweep.hours={2 * budget.seconds / _HOUR:.3g}"])
        lines.append(f"with more hours it goes on: {more}")
    return lines


def _tell_packs(described: Mapping[str, Any]) -> list[str]:
    """Return a line about the runs that train together, if there are any."""
    packs = {pack["size"]: pack["count"] for pack in described["packs"] if pack["size"] > 1}
    if not packs:
        return []
    parts = [
        f"{size} runs train together in " + ("one process" if count == 1 else f"each of {count} processes")
        for size, count in packs.items()
    ]
    if alone := described["remaining"] - sum(size * count for size, count in packs.items()):
        parts.append(f"{alone} {'runs train' if alone > 1 else 'run trains'} alone")
    line = f"{', '.join(parts)}; the best is then retrained alone (times assume every run alone)"
    if guessed := described["packs_of_unknown_memory"]:
        line += f"; no prediction for {guessed} of the packs, which are held to {UNKNOWN} runs each"
    return [line]


def _tell_time(described: Mapping[str, Any], known: Forecast) -> str:
    """Return the line about hours: where they come from, and what another way would take."""
    bound = tell_bound(described)
    hours = [described[f"{kind}_hours"] for kind in ("total", "naive", "distinct", "halving")]
    left, naive, distinct, halving = (f"{bound} {format_hours(one)}" for one in hours)
    source = tell_source(known.calibrations)
    energy = "" if described["kwh"] is None else f", {bound} {described['kwh']:.1f} kWh"
    energy += "" if described["cost"] is None else f", cost {bound} {described['cost']:.2f}"
    return (
        f"time: {left} to go{energy} ({source}); every combination {naive}, distinct runs {distinct}, "
        f"sweep.strategy=halving {halving}"
    )


def tell_order(plan: Plan, settings: SweepConfig) -> list[str]:
    """Return what a sweep trains before all other runs, and what after them."""
    lines = []
    values = " or ".join(" ".join(f"{key}={value}" for key, value in one.items()) for one in settings.first)
    if plan.first:
        names = ", ".join(dict.fromkeys(point.config.method.name for point in plan.points[: plan.first]))
        lines.append(f"first {plan.first} of them ({names}) with {values}, so that a table stands early")
    elif values:
        lines.append(f"none goes first: sweep.first is {values}, and no run has these values")
    if settings.hours is not None:
        lines.append("methods take turns from the middle of their grids outwards, each for the same time")
    if settings.bracket:
        lines.append(
            f"then up to {bracket.MOST} more runs of each method, where the best is at the end of an axis"
        )
    if settings.final_seeds == "auto":
        methods = len({point.method_key for point in plan.points if "seed" in point.identity.canonical})
        least, most = ((count - 1) * methods for count in (LOOKS[0], LOOKS[-1]))
        more = ", ".join(map(str, LOOKS[1:]))
        lines.append(
            f"then the best of each method with {LOOKS[0]} seeds, and with {more} where these may tell it "
            f"from another: at least {least} more runs, at most {most}"
        )
    elif seeds := settings.final_seeds:
        lines.append(f"then the best of each method with seeds {', '.join(map(str, seeds))}")
    return lines


def tabulate(plan: Plan, described: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of a table: a row for each run, or for alike runs where there are many.

    Runs of one method with the same verdict and state are alike. Their row shows the least and the most
    memory and hours, and all hours together.
    """
    bound = tell_bound(described)
    named = [(describe(point.config), run) for point, run in zip(plan.every, described["runs"], strict=True)]
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
    """Return the row of runs that are alike."""
    method, state, verdict = kind
    runs = [run for _, run in members]
    hours = [run["predicted_hours"] for run in runs if run["predicted_hours"] is not None]
    together = format_hours(sum(hours)) if hours else _UNKNOWN
    settings = merge_settings([name for name, _ in members])
    return [method, settings, str(len(runs)), state, _memory(runs), verdict, _hours(runs), together]


def merge_settings(names: Sequence[str]) -> str:
    """Merge the names of runs: ``lora r=8 lr=0.1`` and ``lora r=16 lr=0.1`` are ``r=8,16 lr=0.1``."""
    values: dict[str, dict[str, None]] = {}
    for name in names:
        for word in name.split(" ")[1:]:
            key, _, value = word.partition("=")
            values.setdefault(key, {})[value] = None
    return " ".join(f"{key}={','.join(given)}" if "" not in given else key for key, given in values.items())


def _memory(runs: Sequence[Mapping[str, Any]]) -> str:
    sizes = [run["predicted_peak_reserved_bytes"] for run in runs]
    known = [size / GIB for size in sizes if size is not None]
    return f"{_span([f'{size:.2f}' for size in sorted(known)])} GiB" if known else _UNKNOWN


def _hours(runs: Sequence[Mapping[str, Any]]) -> str:
    known = sorted(run["predicted_hours"] for run in runs if run["predicted_hours"] is not None)
    return _span([format_hours(hours) for hours in known]) if known else _UNKNOWN


def _span(texts: Sequence[str]) -> str:
    """Return the first and the last text, once if they are the same."""
    return texts[0] if texts[0] == texts[-1] else f"{texts[0]} - {texts[-1]}"


def tell_bound(described: Mapping[str, Any]) -> str:
    """Return the words before hours, energy and cost, which are the least until a run has finished."""
    return "about" if described["calibration"] else "at least"


def format_hours(hours: float) -> str:
    """Return seconds, minutes, hours or days, whichever reads best."""
    for unit, size, limit in (("s", 1 / _HOUR, 2 / 60), ("min", 1 / 60, 2.0), ("h", 1.0, 2 * _DAY)):
        if hours < limit:
            return f"{hours / size:.1f} {unit}"
    return f"{hours / _DAY:.1f} d"
