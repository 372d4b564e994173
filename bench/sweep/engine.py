"""A whole sweep: plan, skip what is done, run the rest, then the best of each method with more seeds."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench import config as configuration
from bench import data, selection, tracking, weights
from bench.checks import require_valid
from bench.config import Config, Identity
from bench.store import STARTED, STATUSES, Result, Store, now
from bench.sweep.plan import (
    Axes,
    Compose,
    Plan,
    Point,
    expand,
    make_plan,
    override_line,
    plan_finals,
)

# Given points and further overrides: how each failed outside its own record, or None.
Launch = Callable[[Sequence[Point], Sequence[str]], Sequence[str | None]]


@dataclass
class Identifier:
    """Run ids, with each data set and each model looked at once."""

    fingerprints: dict[str, str] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=dict)

    def __call__(self, config: Config) -> Identity:
        """The identity of a configuration.

        Raises:
            DataError, MissingError: the texts or the model are wrong or not there.
        """
        data_key, model_key = repr(config.data), repr(config.model)
        if data_key not in self.fingerprints:
            self.fingerprints[data_key] = data.load(config.data).fingerprint
        if model_key not in self.revisions:
            self.revisions[model_key] = weights.revision(config.model)
        return configuration.identify(
            config,
            data_fingerprint=self.fingerprints[data_key],
            model_revision=self.revisions[model_key],
        )


@dataclass(frozen=True)
class Outcome:
    """What a sweep came to."""

    planned: int
    statuses: Mapping[str, int]
    skipped: int

    @property
    def exit_code(self) -> int:
        """0 if every planned run has a success, else 1."""
        return 0 if self.statuses["success"] == self.planned else 1

    def last_line(self) -> str:
        """The line that scripts read; the statuses sum to planned."""
        counts = " ".join(f"{status}={self.statuses[status]}" for status in STATUSES)
        return f"sweep: planned={self.planned} {counts} skipped={self.skipped}"


def plan_sweep(
    grids: Sequence[Axes], *, constant: Sequence[str], compose: Compose, identify: Identifier
) -> Plan:
    """The distinct runs of the grids, each of them checked before any of them runs.

    Raises:
        ConfigError: every fault of every planned run.
        DataError, MissingError: the texts or the model are wrong or not there.
    """
    expanded = list(expand(grids, compose=compose, constant=constant))
    require_valid([config for _, config in expanded])
    return make_plan(expanded, identify)


def run_sweep(plan: Plan, *, base: Config, launch: Launch, identify: Identifier) -> Outcome:
    """Runs what has no success yet, then the final seeds; results/ holds the records.

    ``base`` is what the whole sweep shares. W&B's mode is decided once, so that a server that does not answer
    costs one probe.

    Raises:
        ConfigError, MissingError: W&B is wanted online and cannot be.
        StoreError: the results folder cannot be written.
    """
    store = Store(Path(base.results_dir))
    mode = tracking.resolve(base.track.mode, probe_seconds=base.track.probe_seconds)
    if mode.reason and base.track.mode == "auto":
        print(f"W&B: {mode.reason}", flush=True)
    extra = [
        f"track.mode={mode.mode}",
        override_line("track.reason", mode.reason),
        override_line("results_dir", base.results_dir),  # one folder for all, also where data is swept
    ]
    store.prepare()
    skipped = _run_missing(plan, store, launch, extra)
    finals = plan_finals(_choose_best(plan, store, base.sweep.select_by), base.sweep.final_seeds, identify)
    known = {point.run_id for point in plan.points}
    more = Plan(tuple(point for point in finals.points if point.run_id not in known), finals.combinations)
    skipped += _run_missing(more, store, launch, extra)
    points = [*plan.points, *more.points]
    found = [store.read(point.run_id) for point in points]
    statuses = Counter(result.status for result in found if result is not None)
    return Outcome(len(points), statuses, skipped)


def _run_missing(plan: Plan, store: Store, launch: Launch, extra: Sequence[str]) -> int:
    """Launches the runs without a success, calls those that vanished crashed; how many were done before."""
    missing = [point for point in plan.points if not _is_done(store, point)]
    if missing:
        deaths = launch(missing, extra)
        for point, death in zip(missing, deaths, strict=True):
            found = store.read(point.run_id)
            if found is None or found.status == STARTED:
                store.write(_crashed(point, found, death))
    return len(plan.points) - len(missing)


def _is_done(store: Store, point: Point) -> bool:
    found = store.read(point.run_id)
    return found is not None and found.status == "success"


def _choose_best(plan: Plan, store: Store, select_by: str) -> list[Point]:
    """The point of each method (and task) with the best validation score, among this plan's successes."""
    points = {point.run_id: point for point in plan.points}
    results = [found for run_id in points if (found := store.read(run_id)) is not None]
    groups = selection.group_by_method(results)
    chosen = [selection.select_best(group, select_by=select_by) for group in groups.values()]
    return [points[best.results[0].run_id] for best in chosen if best is not None]


def _crashed(point: Point, started: Result | None, death: str | None) -> Result:
    """The record of a run whose process vanished."""
    record = started or Result(
        run_id=point.run_id,
        status=STARTED,
        attempt=1,
        phase="load",
        started_at=now(),
        ended_at=None,
        config=configuration.to_dict(point.config),
        canonical_config=dict(point.identity.canonical),
    )
    message = death or "the process ended without a final record"
    error = {"type": "Crash", "message": message, "traceback_tail": None, "signal": None, "exit_code": None}
    return dataclasses.replace(record, status="crashed", ended_at=now(), error=error)
