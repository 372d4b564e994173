"""A whole sweep: skip what is done, train the rest, then the best of each method with more seeds."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeGuard

from bench.config.cards import GIB
from bench.config.identity import describe
from bench.config.overrides import override_line
from bench.config.schema import Config, replace_values
from bench.errors import HeldError, StoreError
from bench.files import can_write
from bench.redaction import show
from bench.report.numbers.budget import UNTRIED
from bench.report.numbers.comparison import Comparison, compare_methods
from bench.report.numbers.rows import build_rows
from bench.results import selection
from bench.results.selection import MethodKey
from bench.results.store import STARTED, STATUSES, Result, Store, start_record
from bench.run.tracking import wandb_run as tracking
from bench.sweep import cleanup, crashes
from bench.sweep.isolate import ProcessError
from bench.sweep.machine import count_slots
from bench.sweep.packing import Pack, form_packs, pack_lines, shrink
from bench.sweep.plan import Identify, Plan, Point, plan_finals
from bench.sweep.search import bracket, halving, turns
from bench.sweep.search.halving import Verdict, group_points
from bench.sweep.search.hours import Measure, TimeBudget
from bench.sweep.search.sequence import train_in_rounds

POLL_SECONDS = 1.0  # between looks at runs that another sweep is training

# Given packs, each with further overrides: the error of each outside its runs' own records, or None.
Launch = Callable[[Sequence[tuple[Pack, Sequence[str]]]], Sequence[Exception | None]]

# Given a point and how often its micro-batch was halved: why it cannot fit, or None.
Refuse = Callable[[Point, int], str | None]


@dataclass(frozen=True)
class Foresight:
    """Predictions that a sweep uses: which runs cannot fit, and how many fit together."""

    refuse: Refuse = lambda *_: None
    limit_pack: Callable[[Point], int] = lambda _: 1  # how many runs may train together with this one
    merge_batches: Callable[[Pack], int] = lambda _: 1  # how many micro-batches they compute as one
    weigh: Measure = lambda _: None  # what a run computes, in one unit for all
    predict: Measure = lambda _: None  # how many seconds a run takes


@dataclass(frozen=True)
class Outcome:
    """The end of a sweep."""

    planned: int
    statuses: Mapping[str, int]
    skipped: int

    @property
    def exit_code(self) -> int:
        """0 if every planned run has a success, else 1."""
        return 0 if self.statuses["success"] == self.planned else 1

    def last_line(self) -> str:
        """Return the line that scripts read; the statuses sum to planned."""
        counts = " ".join(f"{status}={self.statuses[status]}" for status in STATUSES)
        return f"sweep: planned={self.planned} {counts} skipped={self.skipped}"


def ends_sweep(error: Exception | None) -> TypeGuard[StoreError]:
    """Return whether the results folder caused a run's error, so that no other run can be recorded either."""
    return isinstance(error, StoreError) and not isinstance(error, HeldError)


@dataclass
class Sweep:
    """One sweep while it runs; results/ holds the records, so that it can be ended and begun again.

    ``base`` is what the whole sweep shares.
    """

    plan: Plan
    base: Config
    launch: Launch
    identify: Identify
    foresee: Callable[[], Foresight] = Foresight
    teach: Callable[[Sequence[Point]], Sequence[Point]] = lambda _: ()  # what trains before these
    points: dict[str, Point] = field(default_factory=dict)  # planned so far, by run_id
    skipped: int = 0
    shared: list[str] = field(default_factory=list)  # overrides of every job
    known: Foresight = field(default_factory=Foresight)
    before: dict[str, Result | None] = field(default_factory=dict)  # records as the last launch found them
    coming: Counter[str] = field(default_factory=Counter)  # by method: runs of the last launch not ended yet
    clock: Callable[[], float] = time.monotonic
    untried: dict[MethodKey, list[Point]] = field(default_factory=dict)  # as the hours were used
    left_out: list[Point] = field(default_factory=list)  # final seeds, and what was to be measured alone

    def __post_init__(self) -> None:
        self.budget = self._make_budget()

    @property
    def store(self) -> Store:
        """The records of this sweep, and of others with the same folder."""
        return Store(Path(self.base.results_dir))

    def run(self) -> Outcome:
        """Train what has no success yet: what the plan puts first, then the rest, then the final seeds.

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
            override_line("results_dir", self.base.results_dir),  # one for all, also where data is swept
        ]
        if not can_write(self.store.folder):  # which is said before a plan is made
            self.store.prepare()
        self.known = self.foresee()
        self.store.prepare()
        tracking.begin_sweep(self.store.folder)
        for line in [*crashes.recover_native_oom(self.store), *self.store.recover()]:
            print(show(line), flush=True)
        cleanup.remove_leftovers(self.store)
        self.budget = self._make_budget()
        searched = self._search()
        if searched and (not self.base.sweep.bracket or self._bracket()):
            self._train_finals(self._choose_best())
        self._write_untried()
        return self.outcome()

    def outcome(self) -> Outcome:
        """Count the planned runs by status; a run without a record was interrupted before it began."""
        ended = [record.status if record else STARTED for record in map(self.store.read, self.points)]
        statuses = Counter("interrupted" if status == STARTED else status for status in ended)
        return Outcome(len(self.points), statuses, self.skipped)

    def note_end(self, pack: Pack, error: Exception | None) -> bool:
        """Record the end of a job at once; return whether its method has no other run in this launch.

        Raises:
            StoreError: the disk refused a record.
        """
        if not isinstance(error, StoreError):
            self._record_ends(pack, error)
        method = pack[0].config.method.name
        self.coming[method] -= len(pack)
        return not self.coming[method]

    def progress(self) -> tuple[int, int]:
        """Return how many runs have ended, of at least how many; runs that depend on scores come later."""
        outcome = self.outcome()
        known = 0 if self.base.sweep.hours is not None else len(self.plan.every)
        return outcome.planned - outcome.statuses["interrupted"], max(outcome.planned, known)

    def list_untried(self) -> list[Point]:
        """List the planned points that the hours have not sufficed for, so far."""
        return [point for queue in self.untried.values() for point in queue]

    def settle(self) -> None:
        """Record after an interrupt that runs were interrupted which could not say so themselves."""
        for point in self.points.values():
            stopped = ProcessError("the sweep was stopped", status="interrupted")
            crashes.record_end(point, self.store, stopped, before=None)

    def _make_budget(self) -> TimeBudget:
        sweep, slots = self.base.sweep, count_slots(self.base.devices)
        seconds = math.inf if sweep.budget_seconds is None else sweep.budget_seconds
        return TimeBudget(seconds, sweep, slots, self.known.weigh, self._predict, self.clock)

    def _predict(self, point: Point) -> float | None:
        """Return the seconds that a run takes by prediction, or by that of which it has the configuration."""
        return self.known.predict(point) or self.plan.guess_seconds(point)

    def _search(self) -> bool:
        """Train all points or, by halving, those of each method in rungs; return False as in _launch_new."""
        points, halves = self.plan.points, self.base.sweep.strategy == "halving"
        if self.base.sweep.hours is not None:
            return self._search_in_turns(halves=halves)
        if not self._launch_new(points[: self.plan.first]):
            return False
        if halves:
            return all(self._halve_group(group) for group in group_points(points))
        return self._launch_new(points, self._limit_packs(points))

    def _search_in_turns(self, *, halves: bool) -> bool:
        """Train what the hours allow, each method for the same time; return False as in _launch_new.

        What was tried before counts as if it had been now. Halving comes upon it again in its rungs. What
        teaches students goes first, so that the turns share what it leaves.
        """
        points, limits = self.plan.points, self._limit_packs(self.plan.points)
        if not self._launch_new(self.plan.teachers, self._limit_packs(self.plan.teachers)):
            return False
        tried = [] if halves else [point for point in points if self._status(point) is not None]
        self._meet(tried)
        self._launch_new(point for point in tried if not self._is_due(point))
        self.untried = turns.queue_points(self.plan, {point.run_id for point in tried})
        turns.leave(self.untried, self.points.values())
        go_on = turns.search(
            self.untried,
            self.budget,
            limits=limits,
            launch=lambda wave: self._launch_new(wave, limits),
            halve=self._halve_group,
        )
        turns.leave(self.untried, tried)
        self.points |= {point.run_id: point for point in tried}
        return go_on

    def _halve_group(self, group: Sequence[Point]) -> bool:
        """Train the points in rungs, in packs where they fit; return False as in _launch_new.

        The last one left goes straight to the end. After a pack it begins anew, so that memory and time are
        its own; several go on from their checkpoints.
        """
        total = group[0].config.train.max_steps
        if len(group) == 1 or total is None:
            return self._launch_new(group)
        previous: dict[str, str] = {}
        limits = self._limit_packs(group)
        for steps in halving.find_rungs(group):
            end = steps
            if not group:
                break
            if len(group) == 1:
                end, previous = total, {} if limits[group[0].run_id] > 1 else previous
            rung = halving.plan_rung(
                group, steps=end, total_steps=total, previous=previous, identify=self.identify
            )
            pairs = list(zip(group, rung, strict=True))
            if not self._launch_new(rung, {run.run_id: limits[point.run_id] for point, run in pairs}):
                return False
            if end == total:
                break
            previous = {point.run_id: run.run_id for point, run in pairs}
            limits = {
                point.run_id: self.known.limit_pack(point) if self._is_packed(run) else 1
                for point, run in pairs
            }
            verdicts = self._judge(pairs)
            group = [point for point in group if verdicts[point.run_id].says == halving.GOES_ON]
        return True

    def _bracket(self) -> bool:
        """Train values beyond the end of an axis at which a best lies; return False as in _launch_new.

        Each round gives every method one more run, until the best of all lies inside their axes.
        """
        untried = {point.run_id for point in self.list_untried()}
        for _ in range(bracket.MOST):
            tried = [point for point in self.plan.points if point.run_id not in untried]
            groups = [
                (
                    group,
                    {
                        point.run_id: self._read_validation(point, self.base.sweep.select_by)
                        for point in group
                    },
                )
                for group in group_points(tried)
            ]
            if all(bracket.is_inside(group, scores) for group, scores in groups):
                break
            proposed = (bracket.propose(*group, identify=self.identify) for group in groups)
            new = [point for point in proposed if point is not None]
            due = [point for point in new if not self.store.has_success(point.run_id)]
            if len(self.budget.afford(due, keep=self.budget.reserve())) < len(due):
                print("sweep.bracket: the hours do not suffice for one more run of each method", flush=True)
                break
            self.plan = replace(self.plan, points=(*self.plan.points, *new))
            print(show(f"sweep.bracket: {', '.join(describe(point.config) for point in new)}"), flush=True)
            if not self._launch_new(new):
                return False
        return True

    def _judge(self, rung: Sequence[tuple[Point, Point]]) -> dict[str, Verdict]:
        """Say of each point of a rung whether it goes on, and why; print it, and write it to halving.csv."""
        scores, losses = (
            {point.run_id: self._read_validation(run, name) for point, run in rung}
            for name in (self.base.sweep.select_by, "loss")
        )
        alive = [(point, run) for point, run in rung if scores[point.run_id] is not None]
        try:
            found = selection.read_losses(self.store, [run.run_id for _, run in alive]) if alive else None
        except StoreError as error:
            print(show(f"halving by rank alone, as losses cannot be compared: {error}"), flush=True)
            found = None
        tested = [] if found is None else halving.compute_p_values(found)
        p_best = {point.run_id: p for (point, _), p in zip(alive, tested, strict=False)}
        keep = halving.count_survivors(len(rung))
        verdicts = halving.judge(scores, losses, keep=keep, p_best=p_best)
        judged = [(run, verdicts[point.run_id]) for point, run in rung]
        print(show("\n".join(halving.tell_rung(judged))), flush=True)
        path = self.store.folder / halving.VERDICTS
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        self.store.write_report(halving.VERDICTS, halving.add_verdicts(before, judged))
        return verdicts

    def _read_validation(self, run: Point, name: str) -> float | None:
        """Return the run's score on validation, or None without a success."""
        record = selection.read_filled(self.store, run.run_id, name)
        if record is None or not record.is_success:
            return None
        return selection.read_number(record, f"metrics.validation.{name}")

    def _launch_new(self, points: Iterable[Point], packs: Mapping[str, int] | None = None) -> bool:
        """Launch each point that is new and has no success; return False if the sweep has to end here.

        ``packs`` says how many runs may train together with a run; without it each trains alone. What
        predicts for students among them trains first.
        """
        new = [point for point in points if point.run_id not in self.points]
        teachers = [one for one in self.teach(new) if one.run_id not in self.points]
        if teachers and not self._launch_new(teachers, self._limit_packs(teachers)):
            return False
        self._meet(new)
        self.points |= {point.run_id: point for point in new}
        self.skipped += sum(self.store.has_success(point.run_id) for point in new)
        due = [point for point in new if self._is_due(point)]
        limits = {point.run_id: (packs or {}).get(point.run_id, 1) for point in due}
        return self._launch_all(due, limits, is_done=lambda point: self.store.has_success(point.run_id))

    def _meet(self, points: Iterable[Point]) -> None:
        """Count what runs took before this sweep came to them, where there is a budget."""
        if self.base.sweep.hours is not None:
            for point in points:
                self.budget.meet(point, self._read_filled(point.run_id))

    def _read_filled(self, run_id: str) -> Result | None:
        return selection.read_filled(self.store, run_id, self.base.sweep.select_by)

    def _launch_within(self, points: Sequence[Point]) -> bool:
        """Launch those of the points that end within the hours; return whether these are all.

        Return False as in _launch_new, too.
        """
        done = [point for point in points if self.store.has_success(point.run_id)]
        self._launch_new(done)
        due = [point for point in points if point not in done]
        fitting = self._afford(due)
        self.left_out += [point for point in due if point not in fitting]
        return self._launch_new(fitting, self._limit_packs(fitting)) and len(fitting) == len(due)

    def _afford(self, points: Sequence[Point]) -> list[Point]:
        """Return those of the points that end within the hours, students with what is to teach them."""
        teachers = [one for one in self.teach(points) if not self.store.has_success(one.run_id)]
        if len(self.budget.afford(teachers)) < len(teachers):
            points = [point for point in points if not any(one in teachers for one in self.teach([point]))]
            teachers = []
        seconds = sum(self.budget.expect(one) or 0.0 for one in teachers)
        return self.budget.afford(points, keep=seconds / self.budget.slots)

    def _limit_packs(self, points: Iterable[Point]) -> dict[str, int]:
        return {point.run_id: self.known.limit_pack(point) for point in points}

    def _measure_alone(self, points: Iterable[Point]) -> bool:
        """Train each point again that was trained in a pack, where memory and time were not its own.

        Other seeds of it have the same memory and time, and keep the scores that they had in a pack.
        """
        packed = [point for point in points if self._is_packed(point)]
        fitting = self.budget.afford(packed)
        self.left_out += [point for point in packed if point not in fitting]
        limits = {point.run_id: 1 for point in fitting}
        return self._launch_all(fitting, limits, is_done=lambda point: not self._is_packed(point))

    def _launch_all(
        self, left: list[Point], limits: dict[str, int], *, is_done: Callable[[Point], bool]
    ) -> bool:
        """Launch the points, in packs of at most their limits, until all have ended; False as in _launch_new.

        A run that was out of memory is launched again with half its micro-batch, and a pack that failed in
        smaller packs; a run that another sweep trains is waited for.
        """
        halvings = dict.fromkeys(limits, 0)
        while left:
            free = [point for point in left if not self.store.is_held(point.run_id)]
            if not free:
                time.sleep(POLL_SECONDS)
            left = [point for point in left if point not in free]
            ended = self._launch_once(free, limits, halvings)
            for pack, error in ended:
                if isinstance(error, HeldError):
                    left += pack
                    continue
                self._record_ends(pack, error)
                for point in pack:
                    self.budget.note(point, self._read_filled(point.run_id))
                left += self._plan_retry(pack, limits, halvings)
            for _, error in ended:
                if ends_sweep(error):
                    raise error
            if self.base.sweep.fail_fast and not all(self._is_success_or(point, left) for point in free):
                return False
            left = [point for point in left if not is_done(point)]
        return True

    def _launch_once(
        self, points: Sequence[Point], limits: Mapping[str, int], halvings: Mapping[str, int]
    ) -> list[tuple[Pack, Exception | None]]:
        """Launch the points that may fit; return each job, and each refused point, with its error."""
        self.before = {point.run_id: self.store.read(point.run_id) for point in points}
        refused = [point for point in points if self._refuse(point, halvings[point.run_id])]
        tried = [point for point in points if point not in refused]
        packs = form_packs(tried, limits, self.base)
        jobs = [(pack, self._overrides(pack, halvings[pack[0].run_id])) for pack in packs]
        self.coming = Counter(point.config.method.name for point in (*tried, *self.list_untried()))
        errors = self.launch(jobs) if jobs else []
        return [*zip(packs, errors, strict=True), *(((point,), None) for point in refused)]

    def _record_ends(self, pack: Pack, error: Exception | None) -> None:
        """Record how the runs of a job ended that could not do so themselves."""
        error = crashes.find_native_oom(pack[0].run_id, self.store, error)
        for point in pack:
            crashes.record_end(point, self.store, error, before=self.before[point.run_id])

    def _plan_retry(self, pack: Pack, limits: dict[str, int], halvings: dict[str, int]) -> list[Point]:
        """Return the runs to launch again, with smaller limits of their packs or a smaller micro-batch."""
        smaller = shrink(pack, {point.run_id: self._status(point) for point in pack})
        limits |= smaller
        [first, *others] = pack
        if not others and self._can_halve(first, halvings[first.run_id]):
            halvings[first.run_id] += 1
            limits[first.run_id] = 1
            return [first]
        return [point for point in pack if point.run_id in smaller]

    def _refuse(self, point: Point, halvings: int) -> bool:
        """Record out of memory without starting the run, if it is known not to fit; return whether."""
        reason = self.known.refuse(point, halvings)
        if reason is None:
            return False
        config = replace_values(point.config, {"oom_halvings": halvings})
        started = start_record(config, point.identity, earlier=self.store.read(point.run_id))
        self.store.end(started, status="oom", message=reason)
        return True

    def _overrides(self, pack: Pack, halvings: int) -> list[str]:
        more = [f"oom_halvings={halvings}"] if halvings else []
        if len(pack) > 1 and not any(self._status(point) == "oom" for point in pack):
            more += [f"merged_micro_batches={count}"] if (count := self.known.merge_batches(pack)) > 1 else []
        return [*self.shared, *pack_lines(pack), *more]

    def _is_success_or(self, point: Point, again: Sequence[Point]) -> bool:
        return point in again or self.store.has_success(point.run_id)

    def _is_due(self, point: Point) -> bool:
        status = self._status(point)
        return status is None or status == STARTED or status in self.base.sweep.retry

    def _status(self, point: Point) -> str | None:
        record = self.store.read(point.run_id)
        return None if record is None else record.status

    def _is_packed(self, point: Point) -> bool:
        """Return whether the run has a success that it had in a pack."""
        record = self.store.read(point.run_id)
        return record is not None and record.is_success and record.packed is not None

    def _can_halve(self, point: Point, halvings: int) -> bool:
        """Return whether the run was out of memory and a smaller micro-batch may still be tried."""
        train = point.config.train
        divisible = train.micro_batch_size % 2 ** (halvings + 1) == 0
        return self._status(point) == "oom" and halvings < train.oom_retries and divisible

    def _train_finals(self, best: Sequence[Point]) -> None:
        """Train the final seeds of each best point, as far as the hours go."""
        seeds = self.base.sweep.final_seeds
        if seeds == "auto":
            train_in_rounds(
                best,
                identify=self.identify,
                is_tried=lambda point: self._status(point) is not None,
                launch=self._launch_within,
                compare=self._compare,
            )
            return
        finals = list(plan_finals(best, seeds, self.identify).points)
        if self.base.sweep.hours is not None:  # a seed of each method before the next, as time may end
            finals.sort(key=lambda point: seeds.index(point.config.seed))
        self._launch_within(finals)

    def _compare(self) -> list[Comparison]:
        """Compare all methods of the results folder, as the report does."""
        rows = build_rows(self.store.read_all()[0])
        return compare_methods(rows, self.store.read_predictions, delta=self.base.report.delta)[1]

    def _write_untried(self) -> None:
        """Write down what the hours left untried, for the tables; of an earlier sweep what is still so."""
        if self.base.sweep.hours is None:
            return
        path = self.store.folder / UNTRIED
        before = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        if rows := turns.add_untried(before, self.plan, self.list_untried()):
            self.store.write_report(UNTRIED, rows)
        else:
            path.unlink(missing_ok=True)

    def _choose_best(self) -> list[Point]:
        """Return the point of each method (and task) with the best validation score, measured alone.

        Return none if the sweep has to end here; of a cross-validation a point for each fold.
        """
        planned = {point.run_id: point for point in self.plan.points}
        chosen = self._select(planned)
        if freed := cleanup.remove_losers(self.store, self.points, chosen):
            print(f"train.keep: what was not chosen gave back {freed / GIB:.1f} GiB of the disk", flush=True)
        go_on = self._measure_alone(planned[best.candidates[0].run_id] for best in chosen)
        return [planned[one.run_id] for best in chosen for one in best.first_of_folds] if go_on else []

    def _select(self, planned: Iterable[str]) -> list[selection.Selection]:
        """Return the best configuration of each method (and task) among this plan's successes."""
        results = [result for run_id in planned if (result := self.store.read(run_id)) is not None]
        select_by = self.base.sweep.select_by
        groups = selection.group_by_method(selection.fill_scores(results, self.store, select_by)).values()
        chosen = (selection.select_best(group, select_by=select_by) for group in groups)
        return [best for best in chosen if best is not None]
