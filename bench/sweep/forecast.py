"""The forecast of a plan: which runs fit, how long they take, what would make the others fit."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from bench.config.batch import halve_micro_batch
from bench.config.cards import GIB
from bench.config.checks import check
from bench.config.reporting import ReportConfig
from bench.config.schema import Config, replace_values
from bench.memory.calibration import FOLDER, Calibration, read_measured
from bench.memory.prediction import Prediction
from bench.results.selection import read_filled
from bench.results.store import Store
from bench.sweep.engine import Refuse
from bench.sweep.isolate import Isolation
from bench.sweep.machine import count_slots
from bench.sweep.packing import Pack, bound_size, count_merged, count_sizes, form_packs
from bench.sweep.plan import Compose, Plan, Point
from bench.sweep.predict import (
    COMFORTABLE,
    FITS,
    TOO_LARGE,
    Found,
    Outlook,
    Target,
    calibrate,
    find_target,
    foresee,
    measure_work,
    predict_each,
    predict_runs,
)
from bench.sweep.search.halving import count_by_rung, count_cost, find_rungs, group_points
from bench.sweep.search.hours import TimeBudget
from bench.sweep.search.turns import rehearse

_HOUR = 3600.0
# Tokens of a pack's micro-batch from which a CPU gains nothing by more at once. A core took 1.9 times as long
# for four micro-batches as for one of the same texts at 200 tokens, 1.1 times at 1,000, and 0.9 at 4,100.
FULL = 2000
# What may make a run fit, tried in this order on top of its own settings.
_REMEDIES = (
    ("train.gradient_checkpointing=true",),
    ("train.optimizer=paged_adamw_8bit",),
    ("train=full_24gb",),
    ("train.gradient_checkpointing=true", "train.optimizer=paged_adamw_8bit"),
    ("method=qlora",),
    ("method=qlora", "train.gradient_checkpointing=true"),
)


@dataclass(frozen=True)
class Forecast:
    """Predictions for a plan's runs, by run_id."""

    target: Target
    found: Mapping[str, Found]
    calibrations: Mapping[str, Calibration]
    outlooks: Mapping[str, Outlook]
    prices: ReportConfig


@dataclass(frozen=True)
class Advice:
    """Advice for a method's largest run: its largest micro-batch, and what makes it fit."""

    method: str
    largest_micro_batch: int | None  # None: not even one text fits
    remedies: tuple[tuple[str, ...], ...]


def forecast(plan: Plan, base: Config, store: Store, *, isolation: Isolation) -> Forecast:
    """Predict every run of the plan, on the card that the plan is for."""
    target = find_target(base)
    predicted = predict_runs(plan.every, target, isolation=isolation)
    results = [one for point in plan.every if (one := store.read(point.run_id)) is not None]
    measured = read_measured(store.folder.parent / FOLDER, target.name)
    calibrations = measured | calibrate(results, plan.every, predicted, target)
    outlooks = {
        point.run_id: foresee(point.config, predicted.get(point.run_id), target, calibrations)
        for point in plan.every
    }
    return Forecast(target, predicted, calibrations, outlooks, base.report)


def advise(plan: Plan, known: Forecast, *, compose: Compose, isolation: Isolation) -> list[Advice]:
    """Find the largest micro-batch of each method that could be predicted, and remedies if it does not fit.

    A CPU gets no advice: its memory is the machine's, and larger batches gain no speed there.
    """
    if known.target.device_type == "cpu":
        return []
    largest: dict[str, tuple[Point, Prediction]] = {}
    for point in plan.points:
        predicted, name = known.found.get(point.run_id), point.config.method.name
        if not isinstance(predicted, Prediction) or point.config.method.estimator != "network":
            continue
        if name not in largest or predicted.peak_bytes > largest[name][1].peak_bytes:
            largest[name] = (point, predicted)
    remedies = [
        (name, lines, config)
        for name, (point, predicted) in largest.items()
        if known.target.judge(predicted) == TOO_LARGE
        for lines, config in _compose_remedies(point, compose)
    ]
    trials = [replace(largest[name][0], config=config) for name, _, config in remedies]
    helps: dict[str, list[tuple[str, ...]]] = {}
    for (name, lines, _), traced in zip(remedies, predict_each(trials, known.target, isolation), strict=True):
        fits = isinstance(traced, Prediction) and known.target.judge(traced) != TOO_LARGE
        if fits and not any(set(one) <= set(lines) for one in helps.get(name, ())):
            helps.setdefault(name, []).append(lines)
    sizes = _find_micro_batches(largest, known.target, isolation)
    return [Advice(name, sizes[name], tuple(helps.get(name, ()))) for name in largest]


def make_refusal(known: Forecast, base: Config, *, isolation: Isolation) -> Refuse:
    """Return a function that says why a run cannot fit its card, so that a sweep does not start it.

    Nothing is refused with plan.force=true, nor on a CPU, whose memory is the machine's: that swaps.
    """

    def refuse(point: Point, halvings: int) -> str | None:
        target = known.target
        if base.plan.force or target.device_type == "cpu" or point.config.method.estimator != "network":
            return None
        config = halve_micro_batch(replace_values(point.config, {"oom_halvings": halvings}))
        [predicted] = predict_each([replace(point, config=config)], target, isolation)
        if isinstance(predicted, str) or target.judge(predicted) != TOO_LARGE:
            return None
        return (
            f"not started: would take {predicted.peak_bytes / GIB:.1f} GiB with train.micro_batch_size="
            f"{config.train.micro_batch_size}, and {target.name} has {target.tell_room()}; "
            "`bench plan` says what would fit, and plan.force=true tries it"
        )

    return refuse


def limit_packs(known: Forecast, base: Config) -> Callable[[Point], int]:
    """Return a function that says how many runs may train together: sweep.pack, or what memory allows."""
    setting = base.sweep.pack
    if setting in ("off", False):
        return lambda _: 1
    usable = _count_usable(known, base)

    def limit(point: Point) -> int:
        if setting != "auto":
            return int(setting)
        predicted = known.found.get(point.run_id)
        return bound_size(predicted if isinstance(predicted, Prediction) else None, usable)

    return limit


def _count_usable(known: Forecast, base: Config) -> float:
    """Count the bytes that one process may use; all slots share a CPU's."""
    slots = count_slots(base.devices) if known.target.device_type == "cpu" else 1
    return COMFORTABLE * known.target.usable_bytes / slots


def merge_batches(known: Forecast, base: Config) -> Callable[[Pack], int]:
    """Return a function that says how many micro-batches of a step a pack computes as one: all that fit.

    It is one where micro-batches are of like length, which saves more, and on a CPU from FULL tokens on.
    """
    usable, is_cpu = _count_usable(known, base), known.target.device_type == "cpu"

    def merge(pack: Pack) -> int:
        train, size = pack[0].config.train, len(pack)
        found = [known.found.get(point.run_id) for point in pack]
        predicted = [one for one in found if isinstance(one, Prediction)]
        full = is_cpu and any(size * one.mean_batch_tokens >= FULL for one in predicted)
        if train.group_by_length or full or len(predicted) < size:
            return 1
        return min(count_merged(one, size, train.gradient_accumulation_steps, usable) for one in predicted)

    return merge


def _find_micro_batches(
    largest: Mapping[str, tuple[Point, Prediction]], target: Target, isolation: Isolation
) -> dict[str, int | None]:
    """Find for each run the largest micro-batch, a power of two, that fits with room to spare.

    A first guess comes from one trace; it is traced too, and halved until it fits.
    """
    sizes: dict[str, int | None] = {}
    guesses = {
        name: _guess_micro_batch(predicted, point, target) for name, (point, predicted) in largest.items()
    }
    while guesses:
        trials = [
            replace(point, config=replace_values(point.config, {"train.micro_batch_size": size}))
            for name, size in guesses.items()
            for point in [largest[name][0]]
        ]
        traced = predict_each(trials, target, isolation)
        for name, one in zip(list(guesses), traced, strict=True):
            if isinstance(one, Prediction) and target.judge(one) == FITS:
                sizes[name] = guesses.pop(name)
            elif guesses[name] == 1:
                sizes[name] = None
                del guesses[name]
            else:
                guesses[name] //= 2
    return sizes


def _guess_micro_batch(predicted: Prediction, point: Point, target: Target) -> int:
    """Return the largest power of two that would fit if only activations grew with it, and at least 1."""
    each = predicted.parts.get("activations", 0) / point.config.train.micro_batch_size
    room = COMFORTABLE * target.usable_bytes - (predicted.peak_bytes - predicted.parts.get("activations", 0))
    guess = 1
    while 2 * guess * each <= room and 2 * guess <= predicted.train_rows:
        guess *= 2
    return guess


def _compose_remedies(point: Point, compose: Compose) -> Iterable[tuple[tuple[str, ...], Config]]:
    """Yield each of _REMEDIES that changes the run's configuration into a valid one, with the result."""
    for lines in _REMEDIES:
        config = compose([*_without(point.overrides, lines), *lines])
        if config != point.config and not check(config):
            yield lines, config


def _without(overrides: Sequence[str], lines: Sequence[str]) -> list[str]:
    keys = {line.partition("=")[0] for line in lines}
    return [line for line in overrides if line.lstrip("+").partition("=")[0] not in keys]


def describe_plan(
    plan: Plan, base: Config, store: Store, known: Forecast, advice: Sequence[Advice] = ()
) -> dict[str, Any]:
    """Return what ``bench plan --json`` prints; an unknown value is null and has a reason."""
    done = {point.run_id for point in plan.every if store.has_success(point.run_id)}
    runs = [_describe_run(point, known, is_done=point.run_id in done) for point in plan.every]
    left = [point for point in plan.every if point.run_id not in done]
    teaching = [point for point in left if point in plan.teachers]
    limit = limit_packs(known, base)
    packs = form_packs(left, {point.run_id: limit(point) for point in left}, base)
    guessed = [pack for pack in packs if len(pack) > 1 and not _is_predicted(pack[0], known)]
    halves = base.sweep.strategy == "halving"
    rivals = [point for point in left if point not in plan.teachers]
    hours = count_hours(left, known)
    if halves:
        hours = _sum([_count_halving(rivals, known, packs), count_hours(teaching, known)])
    watts = None if known.target.card is None else known.target.card.watts
    kwh = None if hours is None or watts is None else hours * watts / 1000
    return {
        "combinations": plan.combinations,
        "distinct": len(plan.every),
        "teachers": len(plan.teachers),
        "teachers_hours": count_hours(teaching, known),
        "done": len(done),
        "remaining": len(left),
        "total_hours": hours,
        "naive_hours": _add(known.outlooks[one].seconds for one in _repeat(plan)),
        "distinct_hours": count_hours(plan.every, known),
        "halving_hours": _sum([_count_halving(plan.points, known, packs), count_hours(plan.teachers, known)]),
        "rungs": _describe_rungs(plan.points) if halves else [],
        "budget": None if base.sweep.hours is None else _describe_budget(plan, base, store, known),
        "kwh": kwh,
        "cost": _price(hours, kwh, known.prices),
        "card": known.target.name,
        "usable_bytes": known.target.usable_bytes,
        "device": None if known.target.device is None else asdict(known.target.device),
        "memory_kind": "cuda_reserved" if known.target.device_type == "cuda" else "cpu_tensors",
        "calibration": {
            family or "all": asdict(calibration) for family, calibration in known.calibrations.items()
        },
        "packs": [{"size": size, "count": count} for size, count in count_sizes(packs).items()],
        "packs_of_unknown_memory": len(guessed) if base.sweep.pack == "auto" else 0,
        "advice": [
            {
                "method": one.method,
                "largest_micro_batch": one.largest_micro_batch,
                "remedies": [list(lines) for lines in one.remedies],
            }
            for one in advice
        ],
        "runs": runs,
    }


def _describe_budget(plan: Plan, base: Config, store: Store, known: Forecast) -> dict[str, Any]:
    """Describe what sweep.hours suffices for by prediction: what it leaves of each method."""
    weigh, predict = measure_work(known.found, known.target, known.calibrations)
    seconds, slots = base.sweep.budget_seconds or 0.0, count_slots(base.devices)
    expect = plan.guess_seconds
    budget = TimeBudget(seconds, base.sweep, slots, weigh, lambda point: predict(point) or expect(point))
    for point in plan.every:
        budget.meet(point, read_filled(store, point.run_id, base.sweep.select_by))
    spent, limit = budget.earlier / slots, limit_packs(known, base)
    teaching = [budget.expect(point) for point in plan.teachers if not store.has_success(point.run_id)]
    untried = rehearse(plan, budget, limits={point.run_id: limit(point) for point in plan.points})
    counts = Counter(point.method_key for point in plan.points)
    return {
        "hours": seconds / _HOUR,
        "spent_hours": spent / _HOUR,
        "teachers_hours": None if None in teaching else (_add(teaching) or 0.0) / slots,
        "methods": [
            {
                "method": key.method,
                "configurations": count,
                "untried": None if untried is None else len(untried[key]),
            }
            for key, count in counts.items()
        ],
    }


def _describe_rungs(points: Sequence[Point]) -> list[dict[str, Any]]:
    """Describe the rungs of each method whose runs compete: their last steps, and how many train at most."""
    described = []
    for group in group_points(points):
        config = group[0].config
        if len(group) > 1 and config.train.max_steps is not None:
            ends = find_rungs(group)
            counts = count_by_rung(len(group), rungs=ends)
            described.append({"method": config.method.name, "steps": ends, "runs": counts})
    return described


def _describe_run(point: Point, known: Forecast, *, is_done: bool) -> dict[str, Any]:
    outlook, predicted = known.outlooks[point.run_id], known.found.get(point.run_id)
    return {
        "run_id": point.run_id,
        "overrides": list(point.overrides),
        "state": "done" if is_done else "planned",
        "fits": outlook.fits,
        "verdict": outlook.verdict,
        "predicted_peak_reserved_bytes": outlook.peak_bytes,
        "predicted_hours": None if outlook.seconds is None else outlook.seconds / _HOUR,
        "parts": predicted.parts if isinstance(predicted, Prediction) else None,
        "paged_bytes": predicted.paged_bytes if isinstance(predicted, Prediction) else None,
        "weights_bytes": predicted.trained_bytes if isinstance(predicted, Prediction) else None,
        "reason": outlook.reason,
    }


def count_hours(points: Iterable[Point], known: Forecast) -> float | None:
    """Add up the hours of these runs, one after the other; None if no run's time is known."""
    return _add(known.outlooks[point.run_id].seconds for point in points)


def _price(hours: float | None, kwh: float | None, prices: ReportConfig) -> float | None:
    """Return the cost of the hours and the energy; None without a price or a number."""
    parts = [(hours, prices.price_per_hour), (kwh, prices.price_per_kwh)]
    costs = [amount * price for amount, price in parts if amount is not None and price is not None]
    return sum(costs) if costs else None


def _add(seconds: Iterable[float | None]) -> float | None:
    values = [one for one in seconds if one is not None]
    return sum(values) / _HOUR if values else None


def _sum(hours: Iterable[float | None]) -> float | None:
    """Add up what is known; None if nothing is."""
    known = [one for one in hours if one is not None]
    return sum(known) if known else None


def _repeat(plan: Plan) -> list[str]:
    return [run_id for run_id, times in plan.repeats.items() for _ in range(times)]


def _count_halving(points: Sequence[Point], known: Forecast, packs: Iterable[Pack]) -> float | None:
    """Return the hours with sweep.strategy=halving, where most runs end early, each counted as if alone.

    What is chosen from packs is trained once more, alone. None if no run's time is known.
    """
    packed = {point.run_id for pack in packs if len(pack) > 1 for point in pack}
    hours = [
        _count_group(group, known, packed=any(point.run_id in packed for point in group))
        for group in group_points(points)
    ]
    return _sum(hours)


def _count_group(group: Sequence[Point], known: Forecast, *, packed: bool) -> float | None:
    """Return the hours of one method's rungs."""
    whole, total = count_hours(group, known), group[0].config.train.max_steps
    if whole is None or total is None or len(group) == 1:
        return whole
    ends = find_rungs(group)
    mean = [whole / len(group) * _find_share(group, known, end) for end in ends]  # hours of a run up to each
    return count_cost(mean, len(group), is_packed=packed)


def _find_share(group: Sequence[Point], known: Forecast, end: int) -> float:
    """Return the share of a run's time that it takes up to a rung's end."""
    point = next(one for one in group if known.outlooks[one.run_id].seconds is not None)
    config, found = point.config, known.found.get(point.run_id)
    stop = end if end != config.train.max_steps else None
    stopped = foresee(
        replace_values(config, {"train.stop_step": stop}), found, known.target, known.calibrations
    )
    return (stopped.seconds or 0.0) / (known.outlooks[point.run_id].seconds or 1.0)


def _is_predicted(point: Point, known: Forecast) -> bool:
    return isinstance(known.found.get(point.run_id), Prediction)
