"""Predicts whether planned runs fit a card and how long they take. Never imports torch itself.

Runs that share shapes share one prediction; new shapes are traced in processes of their own.
"""

import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import psutil

from bench.config.cards import CONTEXT_BYTES, GIB, Card, read_cards, recognise
from bench.config.schema import Config, replace_values
from bench.memory.calibration import Calibration, name_family
from bench.memory.prediction import (
    Prediction,
    can_predict,
    count_cost,
    explain_unpredicted,
    make_key,
    read_cached,
    settle,
)
from bench.model import weights
from bench.results.selection import read_number
from bench.results.store import Result
from bench.run import driver
from bench.run.driver import Device, tell_holders
from bench.sweep.isolate import Isolation, ProcessError
from bench.sweep.plan import Point
from bench.sweep.search.hours import Measure

COMFORTABLE = 0.9  # of what a card can give: a prediction is a few per cent off
PROCESSES = 2  # that trace at once: each takes a core and about a gigabyte
FITS, TIGHT, TOO_LARGE = "fits", "tight", "does not fit"

Found = Prediction | str  # or the reason why there is none


@dataclass(frozen=True)
class Target:
    """The card or the CPU that runs are planned for."""

    device_type: str  # cuda | cpu
    name: str  # the card's, or cpu
    usable_bytes: int  # that tensors can have
    card: Card | None  # with its speed, where it is known
    device: Device | None = None  # the machine's own, which runs get
    note: str | None = None  # what a person should know of how it was chosen

    def settle(self, config: Config) -> Config:
        """Return the configuration as it is traced for the target, without asking CUDA for its precision."""
        config = settle(config, self.card)
        capability = None if self.device is None else self.device.capability
        if config.train.precision != "auto" or capability is None:
            return config
        return replace_values(config, {"train.precision": "bf16" if capability >= (8, 0) else "fp16"})

    def tell_room(self) -> str:
        """Return how much memory there is, and who holds the rest."""
        holders = None if self.device is None else tell_holders(self.device)
        return f"{self.usable_bytes / GIB:.1f} GiB usable" + (f" while {holders}" if holders else "")

    def judge(self, prediction: Prediction) -> str:
        """Return FITS with room to spare, TIGHT, or TOO_LARGE."""
        if prediction.peak_bytes <= COMFORTABLE * self.usable_bytes:
            return FITS
        return TIGHT if prediction.least_bytes <= self.usable_bytes else TOO_LARGE


@dataclass(frozen=True)
class Outlook:
    """One run's predicted memory and time; None is unknown, and the reason says why."""

    verdict: str | None
    peak_bytes: int | None
    seconds: float | None  # training and evaluating
    reason: str | None

    @property
    def fits(self) -> bool | None:
        """Whether it can be trained."""
        return None if self.verdict is None else self.verdict != TOO_LARGE


def find_target(config: Config) -> Target:
    """Return the card that plan.card names, else the one that runs get, the fullest of several, else the CPU.

    A plan counts with what is free on this machine's card now, as other processes may keep the rest.

    Raises:
        ConfigError, MissingError: as driver.choose.
    """
    limit = None if config.device_memory_gib is None else int(config.device_memory_gib * GIB)
    if config.plan.card is not None:
        return _aim(read_cards()[config.plan.card], limit)
    chosen = driver.choose(config.devices, config.train.processes)
    if not chosen.devices:
        return Target("cpu", "cpu", psutil.virtual_memory().total, None, note=chosen.note)
    device = min(chosen.devices, key=lambda one: one.free_bytes)
    usable = max(0, device.free_bytes - CONTEXT_BYTES)
    card = recognise(device.name)
    name = device.name if card is None else card.name
    return Target("cuda", name, min(usable, limit or usable), card, device, chosen.note)


def _aim(card: Card, limit: int | None) -> Target:
    return Target("cuda", card.name, min(card.usable_bytes, limit or card.usable_bytes), card)


def predict_runs(points: Sequence[Point], target: Target, isolation: Isolation) -> dict[str, Found]:
    """Predict each run that reads texts with a network of its own; return the predictions by run_id."""
    traced = [point for point in points if can_predict(point.config)]
    answers = predict_each(traced, target, isolation)
    return {point.run_id: answer for point, answer in zip(traced, answers, strict=True)}


def predict_each(points: Sequence[Point], target: Target, isolation: Isolation) -> list[Found]:
    """Return the points' predictions, from the cache or traced; each shape is traced once."""
    keys, answers, missing = [], dict[str, Found](), dict[str, Config]()
    revisions: dict[str, str] = {}  # each model is looked at once
    for point in points:
        config = target.settle(point.config)
        if (model := repr(config.model)) not in revisions:
            revisions[model] = weights.revision(config.model)
        key = make_key(
            config,
            device_type=target.device_type,
            fingerprint=point.identity.canonical["data"]["fingerprint"],
            revision=revisions[model],
            unlabelled=point.identity.canonical["data"].get("unlabelled"),
        )
        keys.append(key)
        if key in answers or key in missing:
            continue
        cached = read_cached(config.cache_dir, key)
        if cached is None:
            missing[key] = config
        else:
            answers[key] = cached
    answers |= _trace(missing, target, isolation)
    return [answers[key] for key in keys]


def _trace(missing: Mapping[str, Config], target: Target, isolation: Isolation) -> dict[str, Found]:
    """Trace the configurations in up to PROCESSES processes; return the predictions by key."""
    count = min(PROCESSES, os.cpu_count() or 1, len(missing))
    parts = [list(missing.items())[place::count] for place in range(count)]

    def trace(part: Sequence[tuple[str, Config]]) -> dict[str, Found]:
        call = partial(_trace_part, [config for _, config in part], target.device_type)
        try:
            answers = isolation.call(call, threads=1)
        except ProcessError as error:
            answers = [str(error)] * len(part)
        return {key: answer for (key, _), answer in zip(part, answers, strict=True)}

    traced: dict[str, Found] = {}
    if parts:
        with ThreadPoolExecutor(count) as pool:
            try:
                for answers in pool.map(trace, parts):
                    traced |= answers
            except KeyboardInterrupt:
                isolation.stop()
                raise
    return traced


def _trace_part(configs: Sequence[Config], device_type: str) -> list[Found]:
    """Trace in a process of its own, as torch is needed."""
    from bench.memory.predict import predict_all

    return predict_all(configs, device_type)


def foresee(
    config: Config, found: Found | None, target: Target, calibrations: Mapping[str, Calibration]
) -> Outlook:
    """Return what the prediction means for the run on the target, with its time calibrated."""
    if found is None:
        return Outlook(None, None, None, explain_unpredicted(config))
    if isinstance(found, str):
        return Outlook(None, None, None, found)
    calibration = calibrations.get(_family(config)) or calibrations.get("")
    reason, seconds = None, None
    cost = count_cost(config, found, target.card)
    if calibration is not None:
        evaluation = calibration.ratio if calibration.eval_ratio is None else calibration.eval_ratio
        seconds = calibration.ratio * cost.train + evaluation * cost.eval
    elif target.card is not None:
        seconds = cost.train + cost.eval
    else:
        reason = f"no run has finished yet that would tell how fast {target.name} is"
    return Outlook(target.judge(found), found.peak_bytes, seconds, reason)


def measure_work(
    found: Mapping[str, Found],
    target: Target,
    calibrations: Mapping[str, Calibration],
    isolation: Isolation | None = None,
) -> tuple[Measure, Measure]:
    """Return functions of a run: what it computes, in one unit for all runs, and the seconds that this takes.

    A run that ``found`` lacks is predicted when it is asked for, where there is an isolation for that.
    """

    def find(point: Point) -> Found | None:
        if point.run_id in found or isolation is None or not can_predict(point.config):
            return found.get(point.run_id)
        return predict_each([point], target, isolation)[0]

    def weigh(point: Point) -> float | None:
        predicted = find(point)
        if not isinstance(predicted, Prediction):
            return None
        cost = count_cost(point.config, predicted, target.card)
        return cost.train + cost.eval

    def predict(point: Point) -> float | None:
        return foresee(point.config, find(point), target, calibrations).seconds

    return weigh, predict


def calibrate(
    results: Iterable[Result], points: Iterable[Point], found: Mapping[str, Found], target: Target
) -> dict[str, Calibration]:
    """Compare finished runs with their predictions, by family of methods; ``""`` is all families.

    A run is compared with the work that its record says it had: an earlier version may have done more.
    """
    configs = {point.run_id: point.config for point in points}
    ratios: dict[str, list[float]] = {}
    for result in results:
        prediction = found.get(result.run_id)
        alone = result.is_success and result.packed is None
        on_target = alone and result.prediction.get("target") == target.name
        if not isinstance(prediction, Prediction) or not on_target:
            continue
        config = configs[result.run_id]
        seconds = (result.time["train_seconds"] or 0.0) + (result.time["eval_seconds"] or 0.0)
        cost = count_cost(config, prediction, target.card)
        train, evaluation = (read_number(result, f"prediction.cost.{part}") for part in ("train", "eval"))
        ratio = seconds / ((train or cost.train) + (evaluation or cost.eval))
        # A base as it is answers alone, which says little of the time that a training takes.
        for family in (_family(config), *([""] if config.method.estimator == "network" else [])):
            ratios.setdefault(family, []).append(ratio)
    return {family: _summarise(values) for family, values in ratios.items()}


def _summarise(ratios: Sequence[float]) -> Calibration:
    middle = statistics.median(ratios)
    error = max(abs(ratio / middle - 1) for ratio in ratios) if len(ratios) > 1 else None
    return Calibration(middle, error, len(ratios))


def _family(config: Config) -> str:
    method, train = config.method, config.train
    return name_family(
        method.trainable, method.quantization, gradient_checkpointing=train.gradient_checkpointing
    )
