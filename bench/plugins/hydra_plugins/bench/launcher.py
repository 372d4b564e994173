"""Hydra's launcher of bench: every job in a fresh process, as many at a time as there are slots."""

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from bench.sweep.isolate import GRACE_SECONDS, Isolation, ProcessError
from bench.sweep.machine import Slot


class BenchLauncher(Launcher):
    """Launches jobs so that a crash, an exit, a hang or a leak of memory in one job touches no other."""

    def __init__(self) -> None:
        self.isolation = Isolation()
        self.slots = [Slot(())]
        self.seconds: Callable[[int], float | None] = lambda _: None  # that a job may take, by its place
        self.on_start: Callable[[int], None] = lambda _: None  # with the job's place among those launched
        self.on_end: Callable[[int, JobReturn], bool] = lambda *_: True  # False: start no further job

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what launch needs."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Return each job's return in order; a job whose process died has failed."""
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        returns: list[JobReturn | None] = [None] * len(job_overrides)
        places: queue.SimpleQueue[int] = queue.SimpleQueue()
        for place in range(len(job_overrides)):
            places.put(place)
        go_on = threading.Event()
        go_on.set()
        composer, composed = ThreadPoolExecutor(1), dict[int, Future[DictConfig]]()

        def compose(place: int, slot: Slot) -> Future[DictConfig]:
            job = [*job_overrides[place], *slot.overrides]  # all slots' are the same
            return composer.submit(self._compose, job, initial_job_idx + place)

        def work(slot: Slot) -> None:
            while go_on.is_set() and not self.isolation.stopped:
                try:
                    place = places.get_nowait()
                except queue.Empty:
                    return
                self.on_start(place)
                job = composed.pop(place, None) or compose(place, slot)
                if place + 1 < len(job_overrides):  # while the process of this one starts
                    composed[place + 1] = compose(place + 1, slot)
                done = self._launch_one(job_overrides[place], job, slot, self.seconds(place))
                returns[place] = done
                if not self.on_end(place, done):
                    go_on.clear()

        workers, working = ThreadPoolExecutor(len(self.slots)), list[Future[None]]()
        try:
            working.extend(workers.submit(work, slot) for slot in self.slots)
            while wait(working, 0.5).not_done:  # without a timeout it would put off signals
                pass
        except KeyboardInterrupt:
            self.isolation.stop()
            wait(working, GRACE_SECONDS)  # what is said of their runs comes before the sweep's last line
            raise
        for worker in working:
            worker.result()
        left_out = ProcessError("another run failed first, and fail_fast is set", status="interrupted")
        return [done or self._failed(job_overrides[place], left_out) for place, done in enumerate(returns)]

    def prove_slots(self) -> str | None:
        """Compute once on the device of each slot but a CPU's; return why jobs are not forked, or None.

        Raises:
            BenchError: a slot's device cannot compute.
        """
        reasons = []
        for slot in dict.fromkeys(self.slots):
            devices = slot.overrides[0].removeprefix("devices=")
            if devices != "cpu":
                reasons.append(self.isolation.prove_device(devices, dict(slot.environment)))
        return next(filter(None, reasons), None)

    def _compose(self, overrides: Sequence[str], number: int) -> DictConfig:
        config: DictConfig = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config):
            config.hydra.job.id = str(number)
            config.hydra.job.num = number
        return config

    def _launch_one(
        self, overrides: Sequence[str], job: Future[DictConfig], slot: Slot, seconds: float | None
    ) -> JobReturn:
        try:
            call = partial(
                run_in_child, self.hydra_context, self.task_function, job.result(), Singleton.get_state()
            )
            done: JobReturn = self.isolation.call(
                call, seconds=seconds, environment=dict(slot.environment), threads=slot.threads
            )
        except Exception as error:
            return self._failed(overrides, error)
        return done

    def _failed(self, overrides: Sequence[str], error: Exception) -> JobReturn:
        failed = JobReturn(overrides=list(overrides), status=JobStatus.FAILED)
        failed.return_value = error
        return failed


def run_in_child(
    context: HydraContext, task: TaskFunction, config: DictConfig, singletons: dict[Any, Any]
) -> JobReturn:
    """Run a job as Hydra's own launcher does, in a process that has not set Hydra up yet."""
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
