"""Hydra's sweeper of bench: the grids of a sweep file under the command line's overrides."""

import shlex
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from hydra_plugins.bench.cluster import ClusterLauncher
from hydra_plugins.bench.launcher import BenchLauncher
from omegaconf import DictConfig

from bench.config import schema
from bench.config.identity import describe
from bench.config.schema import Config
from bench.errors import StoreError
from bench.extras.cluster import require_devices
from bench.process import interrupt_code, program, stop_on_signals
from bench.redaction import shorten, show
from bench.report.table import write_tables, write_unfinished
from bench.results.store import Store
from bench.run.app import summarise
from bench.run.tracking import wandb_run as tracking
from bench.sweep import forecast, isolate, overview, space
from bench.sweep.engine import Foresight, Sweep, ends_sweep
from bench.sweep.isolate import Isolation, ProcessError
from bench.sweep.machine import make_slots
from bench.sweep.packing import Pack
from bench.sweep.plan import Plan
from bench.sweep.predict import measure_work
from bench.sweep.progress import Display
from bench.sweep.request import Identifier, Teachers, confirm_long, plan_request, require_hours


class BenchSweeper(Sweeper):
    """Connects Hydra to bench.sweep, which plans, skips and trains."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Make the launcher that the configuration names."""
        self.loader = hydra_context.config_loader
        self.composed = config
        self.worker = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        self.launched = 0
        self.lock = threading.Lock()  # jobs end in threads of their own
        self.compared: set[str] = set()  # methods with a success of this sweep
        self.next_table = 0.0  # on time.monotonic's clock

    def sweep(self, arguments: list[str]) -> None:
        """Run the sweep, write and print the table unless it was stopped, and exit with its code."""
        local = isinstance(self.worker, BenchLauncher)
        stop_on_signals(again=self.worker.isolation.kill if isinstance(self.worker, BenchLauncher) else None)
        if local:
            isolate.warm_up(() if self.composed.track.mode == "disabled" else tracking.MODULES)
        identify = Identifier()
        base, plan = plan_request(arguments, compose=self._compose, identify=identify)
        store = Store(Path(base.results_dir))
        self.running = sweep = Sweep(
            plan,
            base,
            self._launch,
            identify,
            lambda: self._foresee(plan, base, store, arguments),
            Teachers(self._compose, identify),
        )
        if isinstance(self.worker, BenchLauncher):
            self.worker.slots = make_slots(sweep.base.devices)
        elif isinstance(self.worker, ClusterLauncher):
            require_devices(sweep.base.devices)
        with Display(log_of=lambda run_id: store.run_folder(run_id) / "log.txt") as self.display:
            try:
                outcome = sweep.run()
                code = outcome.exit_code
            except KeyboardInterrupt as stopped:
                sweep.settle()
                outcome, code = sweep.outcome(), interrupt_code(stopped)
            except StoreError as error:
                if not sweep.points:
                    raise
                print(show(error), file=sys.stderr)
                outcome, code = sweep.outcome(), error.exit_code
        bench, folder = program(), shlex.quote(str(store.folder))
        if code in (0, 1):
            written = write_tables(store, lang="en", report=base.report)
            print((store.folder / "table.md").read_text(encoding="utf-8"))
            names = ", ".join(path.name for path in written)
            print(show(f"{store.folder} holds {names} and each run's own folder in runs/"))
            print(show(f"to look at them: {bench} report --results {folder}"))
            print(f"what to take within so many GiB, by these results: {bench} recommend --vram GIB")
            for line in overview.tell_used(
                sweep.budget, plan, sweep.list_untried(), sweep.left_out, arguments
            ):
                print(show(line))
        else:  # a table of thousands of runs takes seconds, and who stops a sweep waits for it to stop
            print(show(f"stopped; to go on: {bench} sweep {shlex.join(arguments)}"))
            print(show(f"the table of what there is: {bench} table --results {folder}"))
        print(outcome.last_line(), flush=True)
        sys.exit(code)

    def _foresee(self, plan: Plan, base: Config, store: Store, arguments: Sequence[str]) -> Foresight:
        """Print the plan's totals, and ask before a long one; return the predictions for its runs.

        Raises:
            ConfigError: it is long and was not confirmed.
        """
        isolation = self.worker.isolation if isinstance(self.worker, BenchLauncher) else Isolation()
        known = forecast.forecast(plan, base, store, isolation=isolation)
        described = forecast.describe_plan(plan, base, store, known)
        limit = forecast.limit_packs(known, base)
        room = space.find_space(plan, base, store, found=known.found, target=known.target, limit_pack=limit)
        lines = overview.summarise(described, known)
        lines += [*space.summarise(room), *overview.tell_order(plan, base.sweep)]
        print(show("\n".join(lines)), flush=True)
        space.require(room, base)
        require_hours(described)
        confirm_long(described, base, arguments)
        return Foresight(
            forecast.make_refusal(known, base, isolation=isolation),
            limit,
            forecast.merge_batches(known, base),
            *measure_work(known.found, known.target, known.calibrations, isolation),
        )

    def _compose(self, overrides: Sequence[str]) -> Config:
        return schema.from_hydra(self.loader.load_sweep_config(self.composed, list(overrides)))

    def _launch(self, jobs: Sequence[tuple[Pack, Sequence[str]]]) -> list[Exception | None]:
        """Launch the jobs; return the error of each that its runs' records do not hold, or None."""
        packs = [pack for pack, _ in jobs]
        self.display.expect(sum(map(len, packs)))
        if isinstance(self.worker, BenchLauncher):
            if not self.launched and (reason := self.worker.prove_slots()):
                told = "each run starts a new Python interpreter, as a forked process cannot use the card"
                print(show(f"{told}: {reason}"), flush=True)
            self.worker.on_start = lambda place: self.display.start(packs[place])
        if isinstance(self.worker, BenchLauncher | ClusterLauncher):
            self.worker.seconds = lambda place: _limit_seconds(packs[place])
            self.worker.on_end = lambda place, job: self._end(packs[place], job)
        lines = [[*pack[0].overrides, *more] for pack, more in jobs]
        assert self.worker is not None
        returns = self.worker.launch(lines, initial_job_idx=self.launched)
        self.launched += len(jobs)
        if not isinstance(self.worker, BenchLauncher | ClusterLauncher):
            for pack, job in zip(packs, returns, strict=True):
                self._end(pack, job)
        return [_error(job) for job in returns]

    def _end(self, pack: Pack, job: JobReturn) -> bool:
        """Show how the runs of a job ended; return whether further jobs may start.

        Which run of a pack has failed is not known before each was trained alone.
        """
        error = _error(job)
        results = [] if error is not None else job.return_value
        lines = [show(f"{point.run_id} {describe(point.config)}: {shorten(str(error))}") for point in pack]
        if error is None:
            lines = [summarise(point.config, result) for point, result in zip(pack, results, strict=True)]
        self.display.end(pack, lines)
        stopping = ends_sweep(error) or (isinstance(error, ProcessError) and error.status == "interrupted")
        with self.lock:
            ends_method, known = self.running.note_end(pack, error), len(self.compared)
            self.compared |= {
                point.config.method.name
                for point, result in zip(pack, results, strict=False)
                if result.is_success
            }
            joins = len(self.compared) > max(1, known)
            is_due = known > 1 and time.monotonic() >= self.next_table
            if not stopping and (ends_method or joins or is_due):  # who stops a sweep waits for no table
                self._write_unfinished(ranks_more=joins, tells=ends_method or joins)
        failed = error is not None or any(not result.is_success for result in results)
        return not (failed and len(pack) == 1 and pack[0].config.sweep.fail_fast) and not ends_sweep(error)

    def _write_unfinished(self, *, ranks_more: bool, tells: bool) -> None:
        """Write the tables of the runs that have ended, and print them where another method has joined.

        An error there stops no training. The next table waits until this one was at most a 20th of the time.
        """
        store, (ended, planned), begun = self.running.store, self.running.progress(), time.monotonic()
        try:
            tables = write_unfinished(store, report=self.running.base.report, ended=ended, planned=planned)
        except StoreError as error:
            print(show(error), file=sys.stderr)
        else:
            if ranks_more:
                print(tables)
            if tells:
                line = f"table of {ended} of at least {planned} runs: {store.folder / 'table.md'}"
                print(show(line), flush=True)
        self.next_table = time.monotonic() + 20 * (time.monotonic() - begun)


def _limit_seconds(pack: Pack) -> float | None:
    """Return the time limit of a job: a pack has that of all its runs together."""
    limit = pack[0].config.sweep.time_limit_seconds
    return None if limit is None else limit * len(pack)


def _error(job: JobReturn) -> Exception | None:
    if job.status == JobStatus.COMPLETED:
        return None
    error: Exception = job._return_value  # the property would raise it
    return error


ConfigStore.instance().store(
    group="hydra/sweeper",
    name="bench",
    node={"_target_": "hydra_plugins.bench.sweeper.BenchSweeper"},
    provider="bench",
)
