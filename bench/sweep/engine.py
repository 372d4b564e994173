"""A whole sweep: plan, skip what is done, run the rest, then the best of each method with more seeds."""

import contextlib
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeGuard

from bench.config.cards import GIB
from bench.config.checks import require_valid
from bench.config.identity import Identity, identify
from bench.config.pins import find_pins
from bench.config.schema import Config, replace_values
from bench.data import dataset
from bench.data.dataset import Dataset
from bench.data.vocabulary import reads_tokens, require_readable
from bench.errors import HeldError, StoreError
from bench.files import can_write
from bench.model import weights
from bench.redaction import redact, show
from bench.results import selection
from bench.results.store import STARTED, STATUSES, Result, Store, start_record
from bench.run import tracking
from bench.sweep import losers
from bench.sweep.halving import count_survivors, group_points, plan_rung, rungs, survivors
from bench.sweep.isolate import ProcessError
from bench.sweep.packing import Pack, form_packs, pack_lines, shrink
from bench.sweep.plan import Axes, Compose, Plan, Point, expand, make_plan, override_line, plan_finals

# What bitsandbytes prints where CUDA has no memory left, before it calls exit(1) (csrc/ops.cuh).
_NATIVE_OOM = re.compile(r"Error out of memory at line \d+ in file .*")
_LAST_WORDS = 1000  # bytes of a log
POLL_SECONDS = 1.0  # between looks at runs that another sweep is training

# Given packs, each with further overrides: the error of each outside its runs' own records, or None.
Launch = Callable[[Sequence[tuple[Pack, Sequence[str]]]], Sequence[Exception | None]]

# Given a point and how often its micro-batch was halved: why it cannot fit, or None.
Refuse = Callable[[Point, int], str | None]


@dataclass(frozen=True)
class Foresight:
    """What is known of a sweep's runs before they run."""

    refuse: Refuse = lambda *_: None
    limit_pack: Callable[[Point], int] = lambda _: 1  # how many runs may train together with this one


@dataclass
class Identifier:
    """Run ids, with each data set and each model looked at once, and each of the texts by each model."""

    fingerprints: dict[str, str] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=dict)
    datasets: dict[str, Dataset] = field(default_factory=dict)
    readable: set[tuple[str, str]] = field(default_factory=set)

    def __call__(self, config: Config) -> Identity:
        """The identity of a configuration.

        Raises:
            DataError, MissingError: the texts or the model are wrong or not there.
        """
        data_key, model_key = repr(config.data), repr(config.model)
        if data_key not in self.fingerprints:
            self.datasets[data_key] = dataset.load(config.data)
            self.fingerprints[data_key] = self.datasets[data_key].fingerprint
        if model_key not in self.revisions:
            self.revisions[model_key] = weights.revision(config.model)
        read = (data_key, model_key)
        if data_key in self.datasets and read not in self.readable and reads_tokens(config):
            require_readable(self.datasets[data_key], config, weights.find(config.model))
            self.readable.add(read)
        return identify(
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


def ends_sweep(error: Exception | None) -> TypeGuard[StoreError]:
    """Whether a run's error is the results folder's, so that no other run can be recorded either."""
    return isinstance(error, StoreError) and not isinstance(error, HeldError)


def plan_sweep(
    grids: Sequence[Axes],
    *,
    constant: Sequence[str],
    compose: Compose,
    identify: Identifier,
    first: Sequence[Mapping[str, Any]] = (),
) -> Plan:
    """The distinct runs of the grids, each of them checked before any of them runs; ``first`` as make_plan.

    What is on the hub is pinned here, for all processes and machines of the sweep.

    Raises:
        ConfigError: every fault of every planned run.
        DataError, MissingError: the texts or the model are wrong or not there.
    """
    expanded = list(expand(grids, compose=compose, constant=constant))
    require_valid([config for _, config in expanded])
    return make_plan([_pin(lines, config) for lines, config in expanded], identify, first=first)


def _pin(lines: tuple[str, ...], config: Config) -> tuple[tuple[str, ...], Config]:
    """A planned run with the commits that its configuration leaves open."""
    pins = find_pins(config)
    more = (override_line(key, commit) for key, commit in pins.items())
    return (*lines, *more), replace_values(config, pins)


@dataclass
class Sweep:
    """One sweep while it runs; results/ holds the records, so that it can be ended and begun again.

    ``base`` is what the whole sweep shares.
    """

    plan: Plan
    base: Config
    launch: Launch
    identify: Identifier
    foresee: Callable[[], Foresight] = Foresight
    points: dict[str, Point] = field(default_factory=dict)  # planned so far, by run_id
    skipped: int = 0
    shared: list[str] = field(default_factory=list)  # overrides of every job
    before: dict[str, Result | None] = field(default_factory=dict)  # records as the last launch found them
    coming: Counter[str] = field(default_factory=Counter)  # by method: runs of the last launch not ended yet

    @property
    def store(self) -> Store:
        """The records of this sweep, and of others with the same folder."""
        return Store(Path(self.base.results_dir))

    def run(self) -> Outcome:
        """Runs what has no success yet, first what the plan has first, then the final seeds.

        W&B's mode is decided once, so that a server that does not answer costs one probe.

        Raises:
            ConfigError, MissingError: W&B is wanted online and cannot be.
            StoreError: the results folder cannot be written.
        """
        mode = tracking.resolve(self.base.track.mode, probe_seconds=self.base.track.probe_seconds)
        if mode.reason and self.base.track.mode == "auto":
            print(f"W&B: {mode.reason}", flush=True)
        self.shared = [
            f"track.mode={mode.mode}",
            override_line("track.reason", mode.reason or "the server answered when the sweep began"),
            override_line(
                "results_dir", self.base.results_dir
            ),  # one folder for all, also where data is swept
        ]
        if not can_write(self.store.folder):  # which is said before a plan is made
            self.store.prepare()
        self.known = self.foresee()
        self.store.prepare()
        tracking.begin_sweep(self.store.folder)
        for line in self.store.recover():
            print(show(line), flush=True)
        if self._train(self.plan.points[: self.plan.first]) and self._search():
            best = self._choose_best()
            finals = plan_finals(best, self.base.sweep.final_seeds, self.identify).points
            if self._train(finals):
                self._measure_alone(finals)
        return self.outcome()

    def outcome(self) -> Outcome:
        """What the planned runs have come to by now; one without a record was interrupted before it began."""
        found = [record.status if record else STARTED for record in map(self.store.read, self.points)]
        statuses = Counter("interrupted" if status == STARTED else status for status in found)
        return Outcome(len(self.points), statuses, self.skipped)

    def note_end(self, pack: Pack, error: Exception | None) -> bool:
        """Records a job's end as soon as it has come; whether its method has no other run in this launch.

        Raises:
            StoreError: the disk refused a record.
        """
        error = self._find_native_oom(pack[0], error)
        if not isinstance(error, StoreError):
            for point in pack:
                self._record_end(point, error, before=self.before[point.run_id])
        method = pack[0].config.method.name
        self.coming[method] -= len(pack)
        return not self.coming[method]

    def progress(self) -> tuple[int, int]:
        """How many runs have ended, of at least how many: what follows from their scores is not counted."""
        outcome = self.outcome()
        return outcome.planned - outcome.statuses["interrupted"], max(outcome.planned, len(self.plan.points))

    def settle(self) -> None:
        """After an interrupt: what had started, and could not say so itself, was interrupted."""
        for point in self.points.values():
            self._record_end(point, ProcessError("the sweep was stopped", status="interrupted"), before=None)

    def _search(self) -> bool:
        """Trains all points or, by halving, those of each method in rungs; False as in _train."""
        if self.base.sweep.strategy != "halving":
            return self._train(self.plan.points, packed=True)
        return all(self._halve_group(group) for group in group_points(self.plan.points))

    def _halve_group(self, group: Sequence[Point]) -> bool:
        total = group[0].config.train.max_steps
        if len(group) == 1 or total is None:
            return self._train(group)
        previous: dict[str, str] = {}
        for steps in rungs(total):
            rung = plan_rung(group, steps=steps, total_steps=total, previous=previous, identify=self.identify)
            if not self._train(rung):
                return False
            previous = {point.run_id: run.run_id for point, run in zip(group, rung, strict=True)}
            scores, losses = (
                {
                    point.run_id: self._read_validation(run, name)
                    for point, run in zip(group, rung, strict=True)
                }
                for name in (self.base.sweep.select_by, "loss")
            )
            going_on = survivors(scores, keep=count_survivors(len(group)), losses=losses)
            group = [point for point in group if point.run_id in going_on]
        return True

    def _read_validation(self, run: Point, name: str) -> float | None:
        """The run's score on validation, or None without a success."""
        found = self.store.read(run.run_id)
        done = found is not None and found.status == "success"
        return found.metrics["validation"][name] if found is not None and done else None

    def _train(self, points: Iterable[Point], *, packed: bool = False) -> bool:
        """Launches each point that has no success, once; False if the sweep has to end here."""
        new = [point for point in points if point.run_id not in self.points]
        self.points |= {point.run_id: point for point in new}
        self.skipped += sum(self._status(point) == "success" for point in new)
        due = [point for point in new if self._is_due(point)]
        limits = {point.run_id: self.known.limit_pack(point) if packed else 1 for point in due}
        return self._work_off(due, limits, is_done=lambda point: self._status(point) == "success")

    def _measure_alone(self, points: Iterable[Point]) -> bool:
        """Trains each point again that was trained in a pack, where memory and time were not its own."""
        packed = [point for point in points if self._is_packed(point)]
        limits = {point.run_id: 1 for point in packed}
        return self._work_off(packed, limits, is_done=lambda point: not self._is_packed(point))

    def _work_off(
        self, left: list[Point], limits: dict[str, int], *, is_done: Callable[[Point], bool]
    ) -> bool:
        """Launches the points, in packs of at most their limits, until all have ended; False as in _train."""
        halvings = dict.fromkeys(limits, 0)
        while left:
            free = [point for point in left if not self.store.is_held(point.run_id)]
            if not free:
                time.sleep(POLL_SECONDS)
            left = [point for point in left if point not in free]
            self.before = {point.run_id: self.store.read(point.run_id) for point in free}
            refused = [point for point in free if self._refuse(point, halvings[point.run_id])]
            tried = [point for point in free if point not in refused]
            packs = form_packs(tried, limits, self.base)
            jobs = [(pack, self._overrides(pack, halvings[pack[0].run_id])) for pack in packs]
            self.coming = Counter(point.config.method.name for point in tried)
            errors = self.launch(jobs) if jobs else []
            ended = [*zip(packs, errors, strict=True), *(((point,), None) for point in refused)]
            for pack, raised in ended:
                error = self._find_native_oom(pack[0], raised)
                if isinstance(error, HeldError):
                    left += pack
                    continue
                for point in pack:
                    self._record_end(point, error, before=self.before[point.run_id])
                smaller = shrink(pack, {point.run_id: self._status(point) for point in pack})
                limits |= smaller
                left += [point for point in pack if point.run_id in smaller]
                if len(pack) == 1 and self._can_halve(pack[0], halvings[pack[0].run_id]):
                    halvings[pack[0].run_id] += 1
                    limits[pack[0].run_id] = 1
                    left += pack
            for error in errors:
                if ends_sweep(error):
                    raise error
            if self.base.sweep.fail_fast and not all(self._is_success_or(point, left) for point in free):
                return False
            left = [point for point in left if not is_done(point)]
        return True

    def _refuse(self, point: Point, halvings: int) -> bool:
        """Records that the run is out of memory, without starting it, if it is known that it cannot fit."""
        reason = self.known.refuse(point, halvings)
        if reason is None:
            return False
        config = replace_values(point.config, {"oom_halvings": halvings})
        started = start_record(config, point.identity, earlier=self.store.read(point.run_id))
        self.store.end(started, status="oom", message=reason)
        return True

    def _overrides(self, pack: Pack, halvings: int) -> list[str]:
        more = [f"oom_halvings={halvings}"] if halvings else []
        return [*self.shared, *pack_lines(pack), *more]

    def _is_success_or(self, point: Point, again: Sequence[Point]) -> bool:
        return point in again or self._status(point) == "success"

    def _is_due(self, point: Point) -> bool:
        status = self._status(point)
        return status is None or status == STARTED or status in self.base.sweep.retry

    def _status(self, point: Point) -> str | None:
        found = self.store.read(point.run_id)
        return None if found is None else found.status

    def _is_packed(self, point: Point) -> bool:
        """Whether the run has a success, and that in a pack."""
        found = self.store.read(point.run_id)
        return found is not None and found.status == "success" and found.packed is not None

    def _can_halve(self, point: Point, halvings: int) -> bool:
        """Whether the run was out of memory and a smaller micro-batch may still be tried."""
        train = point.config.train
        divisible = train.micro_batch_size % 2 ** (halvings + 1) == 0
        return self._status(point) == "oom" and halvings < train.oom_retries and divisible

    def _find_native_oom(self, first: Point, error: Exception | None) -> Exception | None:
        """Return the error, or that memory was out if bitsandbytes said so before it ended the process.

        What its kernels say goes to standard error, and so into the log of a pack's first run.
        """
        started, log = self.store.read(first.run_id), self.store.run_folder(first.run_id) / "log.txt"
        if not isinstance(error, ProcessError) or error.status != "crashed" or started is None:
            return error
        with contextlib.suppress(OSError):
            is_new = log.stat().st_mtime >= datetime.fromisoformat(started.started_at).timestamp()
            said = _NATIVE_OOM.search(log.read_bytes()[-_LAST_WORDS:].decode(errors="replace"))
            if is_new and said is not None:
                message = f"bitsandbytes ended the process: {said[0]}"
                return ProcessError(message, status="oom", ended_with=error.ended_with)
        return error

    def _record_end(self, point: Point, error: Exception | None, *, before: Result | None) -> None:
        """Writes down how a run ended that could not do so itself; ``before`` is its record of old."""
        found = self.store.read(point.run_id)
        error = error or ProcessError("the process left no final record", status="crashed")
        status = error.status if isinstance(error, ProcessError) else "failed"
        if found is None or found == before:  # it never began
            if status == "interrupted":
                return
            found = start_record(point.config, point.identity, earlier=found)
        elif found.status != STARTED and (found.status, status) != ("interrupted", "timeout"):
            return  # it said itself how it ended
        with contextlib.suppress(HeldError):
            self.store.end(
                found,
                status=status,
                message=redact(str(error)) or type(error).__name__,
                traceback_tail=redact("\n".join(getattr(error, "__notes__", []))) or None,
                killed_by=getattr(error, "killed_by", None),
                exit_code=getattr(error, "ended_with", None),
            )

    def _choose_best(self) -> list[Point]:
        """The point of each method (and task) with the best validation score, measured alone.

        None of it if the sweep has to end here.
        """
        planned = {point.run_id: point for point in self.plan.points}
        chosen = self._select(planned)
        if freed := losers.remove(self.store, self.points, chosen):
            print(f"train.keep: what was not chosen gave back {freed / GIB:.1f} GiB of the disk", flush=True)
        go_on = self._measure_alone(planned[one.run_id] for best in chosen for one in best.results)
        return [planned[best.results[0].run_id] for best in chosen] if go_on else []

    def _select(self, planned: Iterable[str]) -> list[selection.Selection]:
        """The best configuration of each method (and task) among this plan's successes."""
        results = [found for run_id in planned if (found := self.store.read(run_id)) is not None]
        groups = selection.group_by_method(results).values()
        chosen = (selection.select_best(group, select_by=self.base.sweep.select_by) for group in groups)
        return [best for best in chosen if best is not None]
