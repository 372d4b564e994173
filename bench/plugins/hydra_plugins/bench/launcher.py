"""Hydra's launcher of bench: every job in a fresh process, one after the other."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from bench.errors import RunError
from bench.sweep.isolate import call_isolated


class BenchLauncher(Launcher):
    """A crash, an exit or a leak of memory in one job touches no other."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keeps what launch needs."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Each job's return in order; a job whose process died is a failed one."""
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        return [self._launch_one(job, initial_job_idx + index) for index, job in enumerate(job_overrides)]

    def _launch_one(self, overrides: Sequence[str], number: int) -> JobReturn:
        config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config):
            config.hydra.job.id = str(number)
            config.hydra.job.num = number
        call = partial(_run_in_child, self.hydra_context, self.task_function, config, Singleton.get_state())
        outcome = call_isolated(call)
        if isinstance(outcome.value, JobReturn):
            return outcome.value
        failed = JobReturn(overrides=list(overrides), cfg=config, status=JobStatus.FAILED)
        failed.return_value = outcome.error or RunError(outcome.describe_death())
        return failed


def _run_in_child(
    context: HydraContext, task: TaskFunction, config: DictConfig, singletons: dict[Any, Any]
) -> JobReturn:
    """What Hydra's own launcher does for a job, in a process that has not set Hydra up yet."""
    setup_globals()
    Singleton.set_state(singletons)
    return run_job(
        hydra_context=context,
        task_function=task,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )


ConfigStore.instance().store(
    group="hydra/launcher",
    name="bench",
    node={"_target_": "hydra_plugins.bench.launcher.BenchLauncher"},
    provider="bench",
)
