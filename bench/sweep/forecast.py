"""What a whole plan comes to before it runs: which runs fit, how long they take, what would make them fit."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from bench.config.batch import halve_micro_batch
from bench.config.cards import GIB
from bench.config.checks import check
from bench.config.identity import describe
from bench.config.reporting import ReportConfig
from bench.config.schema import Config, replace_values
from bench.memory.calibration import FOLDER, Calibration, read_measured, tell_source
from bench.memory.prediction import Prediction
from bench.results.store import Store
from bench.sweep.engine import Refuse
from bench.sweep.halving import budget, count_by_rung, group_points, rungs
from bench.sweep.isolate import Isolation
from bench.sweep.packing import UNKNOWN, bound_size, count_sizes, form_packs
from bench.sweep.plan import Compose, Plan, Point
from bench.sweep.predict import (
    COMFORTABLE,
    FITS,
    TIGHT,
    TOO_LARGE,
    Found,
    Outlook,
    Target,
    calibrate,
    find_target,
    foresee,
    predict_each,
    predict_runs,
)
from bench.sweep.slots import count_slots

_HOUR, _DAY = 3600.0, 24.0
_WORDS = {FITS: "fit", TIGHT: "fit tightly", TOO_LARGE: "do not fit", None: "unknown"}
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
    """All that is known of a plan's runs before they run, by run_id."""

    target: Target
    found: Mapping[str, Found]
    calibrations: Mapping[str, Calibration]
    outlooks: Mapping[str, Outlook]
    prices: ReportConfig


@dataclass(frozen=True)
class Advice:
    """For a method's largest run: how far its micro-batch can go, what makes it fit if it does not."""

    method: str
    largest_micro_batch: int | None  # None: not even one text fits
    remedies: tuple[tuple[str, ...], ...]


def forecast(plan: Plan, base: Config, store: Store, *, isolation: Isolation) -> Forecast:
    """Predictions of every run of the plan, on the card that it is for."""
    target = find_target(base)
    found = predict_runs(plan.points, target, isolation=isolation)
    results = [one for point in plan.points if (one := store.read(point.run_id)) is not None]
    measured = read_measured(store.folder.parent / FOLDER, target.name)
    calibrations = measured | calibrate(results, plan.points, found, target)
    outlooks = {
        point.run_id: foresee(point.config, found.get(point.run_id), target, calibrations)
        for point in plan.points
    }
    return Forecast(target, found, calibrations, outlooks, base.report)


def advise(plan: Plan, known: Forecast, *, compose: Compose, isolation: Isolation) -> list[Advice]:
    """For each method that could be predicted: the largest micro-batch and, where it is needed, remedies.

    Nothing for a CPU, whose memory is the machine's, and where larger batches gain no speed.
    """
    if known.target.device_type == "cpu":
        return []
    largest: dict[str, tuple[Point, Prediction]] = {}
    for point in plan.points:
        found, name = known.found.get(point.run_id), point.config.method.name
        if not isinstance(found, Prediction):
            continue
        if name not in largest or found.peak_bytes > largest[name][1].peak_bytes:
            largest[name] = (point, found)
    remedies = [
        (name, lines, config)
        for name, (point, found) in largest.items()
        if known.target.judge(found) == TOO_LARGE
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
    """Says why a run cannot fit its card, so that a sweep need not find out; never with plan.force=true.

    A CPU's memory is the machine's, which lets a run begin and then swaps: there nothing is refused.
    """

    def refuse(point: Point, halvings: int) -> str | None:
        target = known.target
        if base.plan.force or target.device_type == "cpu" or point.config.method.estimator != "network":
            return None
        config = halve_micro_batch(replace_values(point.config, {"oom_halvings": halvings}))
        [found] = predict_each([replace(point, config=config)], target, isolation)
        if isinstance(found, str) or target.judge(found) != TOO_LARGE:
            return None
        return (
            f"not started: would take {found.peak_bytes / GIB:.1f} GiB with train.micro_batch_size="
            f"{config.train.micro_batch_size}, and {target.name} has {target.tell_room()}; "
            "`bench plan` says what would fit, and plan.force=true tries it"
        )

    return refuse


def limit_packs(known: Forecast, base: Config) -> Callable[[Point], int]:
    """How many runs may train together with a point: as sweep.pack says, under auto as memory allows.

    Halving trains each run alone, as its runs go on from checkpoints, and a pack keeps none; so does fp16.
    """
    setting = base.sweep.pack
    if setting in ("off", False) or base.sweep.strategy == "halving":
        return lambda _: 1
    usable = COMFORTABLE * known.target.usable_bytes
    if known.target.device_type == "cpu":  # whose memory all slots share
        usable /= count_slots(base.devices)

    def limit(point: Point) -> int:
        if known.target.settle(point.config).train.precision == "fp16":  # auto, on a card without bf16
            return 1
        if setting != "auto":
            return int(setting)
        found = known.found.get(point.run_id)
        return bound_size(found if isinstance(found, Prediction) else None, usable)

    return limit


def _find_micro_batches(
    largest: Mapping[str, tuple[Point, Prediction]], target: Target, isolation: Isolation
) -> dict[str, int | None]:
    """For each run the largest power of two, of texts at once, that fits with room to spare.

    What grows with it is guessed from one trace; the guess is traced, and halved until it holds.
    """
    sizes: dict[str, int | None] = {}
    guesses = {name: _guess_micro_batch(found, point, target) for name, (point, found) in largest.items()}
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


def _guess_micro_batch(found: Prediction, point: Point, target: Target) -> int:
    """The largest power of two that would fit if activations alone grew with it, and at least 1."""
    each = found.parts.get("activations", 0) / point.config.train.micro_batch_size
    room = COMFORTABLE * target.usable_bytes - (found.peak_bytes - found.parts.get("activations", 0))
    guess = 1
    while 2 * guess * each <= room and 2 * guess <= found.train_rows:
        guess *= 2
    return guess


def _compose_remedies(point: Point, compose: Compose) -> Iterable[tuple[tuple[str, ...], Config]]:
    """Each of _REMEDIES with the run's configuration under it, where that is another one and valid."""
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
    """What ``bench plan --json`` prints; what is not known is null, with the reason."""
    done = {point.run_id for point in plan.points if _is_done(store, point.run_id)}
    runs = [_describe_run(point, known, is_done=point.run_id in done) for point in plan.points]
    left = [point for point in plan.points if point.run_id not in done]
    limit = limit_packs(known, base)
    packs = form_packs(left, {point.run_id: limit(point) for point in left}, base)
    guessed = [pack for pack in packs if len(pack) > 1 and not _is_predicted(pack[0], known)]
    hours = count_hours(left, known)
    watts = None if known.target.card is None else known.target.card.watts
    kwh = None if hours is None or watts is None else hours * watts / 1000
    return {
        "combinations": plan.combinations,
        "distinct": len(plan.points),
        "done": len(done),
        "remaining": len(left),
        "total_hours": hours,
        "naive_hours": _add(known.outlooks[one].seconds for one in _repeat(plan)),
        "distinct_hours": count_hours(plan.points, known),
        "halving_hours": _count_halving(plan.points, known),
        "kwh": kwh,
        "cost": _price(hours, kwh, known.prices),
        "card": known.target.name,
        "usable_bytes": known.target.usable_bytes,
        "device": None if known.target.device is None else asdict(known.target.device),
        "memory_kind": "cuda_reserved" if known.target.device_type == "cuda" else "cpu_tensors",
        "calibration": {family or "all": asdict(one) for family, one in known.calibrations.items()},
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


def _describe_run(point: Point, known: Forecast, *, is_done: bool) -> dict[str, Any]:
    outlook, found = known.outlooks[point.run_id], known.found.get(point.run_id)
    return {
        "run_id": point.run_id,
        "overrides": list(point.overrides),
        "state": "done" if is_done else "planned",
        "fits": outlook.fits,
        "verdict": outlook.verdict,
        "predicted_peak_reserved_bytes": outlook.peak_bytes,
        "predicted_hours": None if outlook.seconds is None else outlook.seconds / _HOUR,
        "parts": found.parts if isinstance(found, Prediction) else None,
        "paged_bytes": found.paged_bytes if isinstance(found, Prediction) else None,
        "weights_bytes": found.trained_bytes if isinstance(found, Prediction) else None,
        "reason": outlook.reason,
    }


def count_hours(points: Iterable[Point], known: Forecast) -> float | None:
    """Hours of all these runs, one after the other; None if no run's time is known."""
    return _add(known.outlooks[point.run_id].seconds for point in points)


def _price(hours: float | None, kwh: float | None, prices: ReportConfig) -> float | None:
    """What the hours and the energy come to at these prices; None without a price or a number."""
    parts = [(hours, prices.price_per_hour), (kwh, prices.price_per_kwh)]
    costs = [amount * price for amount, price in parts if amount is not None and price is not None]
    return sum(costs) if costs else None


def _add(seconds: Iterable[float | None]) -> float | None:
    values = [one for one in seconds if one is not None]
    return sum(values) / _HOUR if values else None


def _repeat(plan: Plan) -> list[str]:
    return [run_id for run_id, times in plan.repeats.items() for _ in range(times)]


def _count_halving(points: Sequence[Point], known: Forecast) -> float | None:
    """Hours with sweep.strategy=halving, where most runs end early."""
    hours = []
    for group in group_points(points):
        whole = count_hours(group, known)
        if whole is None:
            continue
        total = group[0].config.train.max_steps
        if len(group) > 1 and total is not None:
            ends = rungs(total)
            whole *= budget(ends, count_by_rung(len(group), rungs=ends)) / (len(group) * total)
        hours.append(whole)
    return sum(hours) if hours else None


def _is_done(store: Store, run_id: str) -> bool:
    found = store.read(run_id)
    return found is not None and found.status == "success"


def list_runs(plan: Plan, described: Mapping[str, Any]) -> Iterable[str]:
    """A line for each run."""
    bound = tell_bound(described)
    for point, run in zip(plan.points, described["runs"], strict=True):
        memory, hours = run["predicted_peak_reserved_bytes"], run["predicted_hours"]
        yield (
            f"{point.run_id} {run['state']:8}"
            f"{'-' if memory is None else f'{memory / GIB:.2f} GiB':>11} {run['verdict'] or 'unknown':13}"
            f"{'-' if hours is None else f'{bound} {format_hours(hours)}':>18}  {describe(point.config)}"
        )


def summarise(described: Mapping[str, Any], known: Forecast) -> list[str]:
    """The totals, for a person."""
    runs = described["runs"]
    verdicts = Counter(run["verdict"] for run in runs)
    kind = "reserved by torch" if known.target.device_type == "cuda" else "tensors alone"
    lines = [
        f"{described['combinations']} combinations are {described['distinct']} distinct runs: "
        f"{described['done']} done, {described['remaining']} to train",
        f"memory ({kind}) on {known.target.name}, {known.target.tell_room()}: "
        + ", ".join(f"{count} {_WORDS[verdict]}" for verdict, count in verdicts.items()),
    ]
    if known.target.note is not None:
        lines.append(known.target.note)
    if described["total_hours"] is not None:
        lines += [_tell_time(described, known)]
    lines += _tell_packs(described)
    for reason in dict.fromkeys(run["reason"] for run in runs if run["reason"]):
        lines.append(f"not known of {sum(run['reason'] == reason for run in runs)} runs: {reason}")
    for one in described["advice"]:
        size = one["largest_micro_batch"]
        lines.append(
            f"{one['method']}: "
            + (f"micro-batches of up to {size} fit" if size else "not even a micro-batch of one text fits")
        )
        lines += [f"  would fit with {' '.join(remedy)}" for remedy in one["remedies"]]
    return lines


def _tell_packs(described: Mapping[str, Any]) -> list[str]:
    """How many processes the runs take where some of them share one."""
    packs = {one["size"]: one["count"] for one in described["packs"] if one["size"] > 1}
    if not packs:
        return []
    alone = described["remaining"] - sum(size * count for size, count in packs.items())
    sizes = ", ".join(f"{count} x {size} together" for size, count in packs.items())
    guessed = described["packs_of_unknown_memory"]
    return [
        f"processes: {sizes}, {alone} x 1; what is chosen once more alone (times are of all runs alone)"
        + (f"; the memory of {guessed} is unknown, so they have at most {UNKNOWN} runs" if guessed else "")
    ]


def _is_predicted(point: Point, known: Forecast) -> bool:
    return isinstance(known.found.get(point.run_id), Prediction)


def _tell_time(described: Mapping[str, Any], known: Forecast) -> str:
    """Hours, where they come from, and what they would be another way."""
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


def tell_bound(described: Mapping[str, Any]) -> str:
    """Return the words before hours, energy and cost, which are the least until a run has finished."""
    return "about" if described["calibration"] else "at least"


def format_hours(hours: float) -> str:
    """Seconds, minutes, hours or days, whichever reads best."""
    for unit, size, limit in (("s", 1 / _HOUR, 2 / 60), ("min", 1 / 60, 2.0), ("h", 1.0, 2 * _DAY)):
        if hours < limit:
            return f"{hours / size:.1f} {unit}"
    return f"{hours / _DAY:.1f} d"
