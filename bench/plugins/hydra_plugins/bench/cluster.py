"""Hydra's launcher of bench on a cluster: every job where SLURM or Ray puts it.

The engines' own Hydra plugins wait for the jobs in order and give up on all of them when one has died; here
each ends for itself.
"""

import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from hydra_plugins.bench.launcher import run_in_child
from omegaconf import DictConfig, OmegaConf, open_dict

from bench.extras.cluster import Batch, submit
from bench.sweep.isolate import GRACE_SECONDS


class ClusterLauncher(Launcher):
    """Submits all jobs at once; a crash of one touches no other."""

    engine: str

    def __init__(self, **settings: Any) -> None:
        self.settings: Any = OmegaConf.to_container(OmegaConf.create(settings), resolve=True)
        self.seconds: Callable[[int], float | None] = lambda _: None  # that a job may take, by its place
        self.on_end: Callable[[int, JobReturn], bool] = lambda *_: True  # False: end the other jobs

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what launch needs."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Return each job's return in order; a job that died has failed."""
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        configs = [self._compose(job, initial_job_idx + place) for place, job in enumerate(job_overrides)]
        state = Singleton.get_state()
        calls = [
            partial(run_in_child, self.hydra_context, self.task_function, config, state) for config in configs
        ]
        batch = submit(
            self.engine,
            calls,
            settings=self.settings,
            devices=configs[0].devices,
            results_dir=configs[0].results_dir,
            seconds=[self.seconds(place) for place in range(len(calls))],
        )
        returns = [JobReturn(overrides=list(job), status=JobStatus.UNKNOWN) for job in job_overrides]
        left = set(range(len(calls)))
        try:
            self._gather(batch, left, returns)
        except KeyboardInterrupt:
            _stop(batch, left)
            raise
        return returns

    def _gather(self, batch: Batch, left: set[int], returns: list[JobReturn]) -> None:
        """Put each job's return in its place as it ends."""
        go_on = True
        while left:
            for place in batch.find_ended(left):
                left.discard(place)
                try:
                    returns[place] = batch.answer(place)
                except Exception as error:
                    returns[place].status = JobStatus.FAILED
                    returns[place].return_value = error
                if not self.on_end(place, returns[place]) and go_on:
                    go_on = False
                    batch.cancel(left)

    def _compose(self, overrides: Sequence[str], number: int) -> DictConfig:
        config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config):
            config.hydra.job.id = str(number)
            config.hydra.job.num = number
        return config


class SlurmLauncher(ClusterLauncher):
    """Jobs of SLURM."""

    engine = "slurm"


class RayLauncher(ClusterLauncher):
    """Tasks of Ray."""

    engine = "ray"


def _stop(batch: Batch, left: Collection[int]) -> None:
    """End the jobs and give their runs the time to write that down."""
    batch.cancel(left)
    end = time.monotonic() + GRACE_SECONDS
    while left and time.monotonic() < end:
        left = set(left) - set(batch.find_ended(left))
