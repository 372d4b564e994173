"""Hydra's sweeper of bench: the grids of a sweep file under the command line's overrides."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from bench import config as configuration
from bench.config import Config
from bench.report.table import write_tables
from bench.run import stop_on_signals
from bench.store import Store
from bench.sweep import engine, isolate
from bench.sweep.plan import Point, combine_axes


class BenchSweeper(Sweeper):
    """A thin shell: planning, skipping and final seeds are in bench.sweep."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Makes the launcher that the configuration names."""
        self.loader = hydra_context.config_loader
        self.composed = config
        self.worker = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        self.launched = 0

    def sweep(self, arguments: list[str]) -> None:
        """Runs the sweep, writes and prints the table, and exits with the sweep's code."""
        stop_on_signals()
        isolate.warm_up()
        overrides = OverridesParser.create(config_loader=self.loader).parse_overrides(arguments)
        swept = {one.key_or_group: _values(one) for one in overrides if one.is_sweep_override()}
        constant = [str(one.input_line) for one in overrides if not one.is_sweep_override()]
        fixed = {one.key_or_group: _plain(one.value()) for one in overrides if not one.is_sweep_override()}
        base = self._compose(constant)
        identify = engine.Identifier()
        plan = engine.plan_sweep(
            combine_axes(base.sweep.grids, swept=swept, fixed=fixed),
            constant=constant,
            compose=self._compose,
            identify=identify,
        )
        outcome = engine.run_sweep(plan, base=base, launch=self._launch, identify=identify)
        store = Store(Path(base.results_dir))
        write_tables(store, lang="en")
        print((store.folder / "table.md").read_text(encoding="utf-8"))
        print(outcome.last_line(), flush=True)
        sys.exit(outcome.exit_code)

    def _compose(self, overrides: Sequence[str]) -> Config:
        return configuration.from_hydra(self.loader.load_sweep_config(self.composed, list(overrides)))

    def _launch(self, points: Sequence[Point], extra: Sequence[str]) -> list[str | None]:
        """How each job failed outside its own record, or None."""
        jobs = [[*point.overrides, *extra] for point in points]
        returns = self.worker.launch(jobs, initial_job_idx=self.launched)
        self.launched += len(jobs)
        return [_failure(one) for one in returns]


def _values(override: Override) -> list[Any]:
    return [_plain(value) for value in override.sweep_iterator()]


def _plain(value: Any) -> Any:
    """The value without the parser's own types."""
    if isinstance(value, QuotedString):
        return value.text
    return [_plain(one) for one in value] if isinstance(value, list) else value


def _failure(job: JobReturn) -> str | None:
    if job.status == JobStatus.COMPLETED:
        return None
    error = job._return_value  # the property would raise it
    return str(error) or type(error).__name__


ConfigStore.instance().store(
    group="hydra/sweeper",
    name="bench",
    node={"_target_": "hydra_plugins.bench.sweeper.BenchSweeper"},
    provider="bench",
)
