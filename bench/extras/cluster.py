"""Runs as jobs of a cluster: on SLURM through submitit, or on Ray.

A job does for its run what the sweep's own launcher does here: it calls in a fresh process and waits. Its
answer says how that process ended, so a run that dies leaves its job alive to tell. Where a job dies itself,
with its node say, the engine tells. The sweep's working directory, bench's environment and the results
folder must be at the same paths on every node.
"""

import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import cloudpickle

from bench.errors import ConfigError, MissingError
from bench.run.app import PLUGINS_DIR
from bench.sweep.isolate import Isolation, ProcessError

CONNECT_SECONDS = 5.0  # that a Ray cluster may take to answer
POLL_SECONDS = 1.0  # between looks for answers
ACCOUNTING_SECONDS = 10.0  # between questions to SLURM's accounting, which serves a whole site
RESERVE_SECONDS = 60.0  # before SLURM's time limit, for a run to write down that it reached it
RELEASE_SECONDS = 1.0  # after a job's death, for its run to die too and let go of its record

# What a run came to whose job SLURM ended in this state; any other state is a crash.
_STATES = {"CANCELLED": "interrupted", "TIMEOUT": "timeout", "DEADLINE": "timeout", "OUT_OF_MEMORY": "oom"}


class Batch(Protocol):
    """Jobs that were submitted together, each known by its place among them."""

    def find_ended(self, places: Collection[int]) -> list[int]:
        """Wait a moment and return the jobs that have ended."""
        ...

    def answer(self, place: int) -> Any:
        """Return or raise what the call of an ended job did.

        Raises:
            ProcessError: the job, or the process that it called in, died.
        """
        ...

    def cancel(self, places: Collection[int]) -> None:
        """End the jobs."""
        ...


@dataclass(frozen=True)
class Job:
    """What one job does, in a form that any process of bench can load."""

    call: bytes
    folder: str  # to work in
    seconds: float | None  # that it may take
    threads: int | None  # that it computes with; None: as the engine or the machine says


@dataclass(frozen=True)
class Death:
    """How the process that a job called in ended, in a form that travels."""

    message: str
    details: Mapping[str, Any]


def pack(call: Callable[[], Any], *, seconds: float | None = None, threads: int | None = None) -> Job:
    """Pack the call for a job, which runs it in this process's working directory."""
    return Job(cloudpickle.dumps(call), str(Path.cwd()), seconds, threads)


def perform(work: Job) -> Any:
    """Run the call in the job, and return what it returned or how its process died."""
    os.chdir(work.folder)
    if str(PLUGINS_DIR) not in sys.path:
        sys.path.append(str(PLUGINS_DIR))  # the call names Hydra plugins of bench
    if work.threads is not None:
        os.environ.setdefault("OMP_NUM_THREADS", str(work.threads))  # read when libraries are loaded
    try:
        # A fork server would serve this one run, and its imports might keep the run from using a card.
        return Isolation(start_method="spawn").call(cloudpickle.loads(work.call), seconds=work.seconds)
    except ProcessError as error:
        return Death(str(error), vars(error))


def require_devices(devices: str) -> None:
    """Require devices that a job of a cluster can be given.

    Raises:
        ConfigError: they are numbers of cards, or several runs at a time on one machine (cpu*2).
    """
    if devices not in ("auto", "cpu", "cuda"):
        raise ConfigError(
            f"devices={devices}: on a cluster must be auto, cpu or cuda; the cluster chooses among its own"
        )


def submit(
    engine: str, calls: Sequence[Callable[[], Any]], *, settings: Mapping[str, Any], devices: str, **more: Any
) -> Batch:
    """Submit the calls as jobs of the engine, ``slurm`` or ``ray``, with ``settings`` of its file in conf/.

    Raises:
        ConfigError: the cluster refuses such jobs.
        MissingError: the engine is not here.
    """
    engines: dict[str, Callable[..., Batch]] = {"slurm": _submit_to_slurm, "ray": _submit_to_ray}
    return engines[engine](calls, settings=settings, devices=devices, **more)


def _answer(value: Any) -> Any:
    if isinstance(value, Death):
        raise ProcessError(value.message, **value.details)
    return value


def _wants_gpu(devices: str, *, has_gpus: bool) -> bool:
    return devices == "cuda" or (devices == "auto" and has_gpus)


@dataclass
class SlurmBatch:
    """Jobs of one SLURM array."""

    jobs: Sequence[Any]  # submitit's
    asked: float = 0.0  # when the accounting was

    def find_ended(self, places: Collection[int]) -> list[int]:
        """See Batch; an answer is seen at once, a death when the accounting tells."""
        time.sleep(POLL_SECONDS)
        watcher = self.jobs[0].watcher
        if time.monotonic() - self.asked > ACCOUNTING_SECONDS:
            self.asked = time.monotonic()
            watcher.update()
        return [
            place
            for place in places
            if self.jobs[place].paths.result_pickle.exists()
            or watcher.is_done(self.jobs[place].job_id, mode="cache")
        ]

    def answer(self, place: int) -> Any:
        """See Batch."""
        from submitit.core.utils import FailedJobError, UncompletedJobError

        job = self.jobs[place]
        try:
            return _answer(job.result())
        except (FailedJobError, UncompletedJobError):
            state = job.watcher.get_state(job.job_id, mode="force").partition(" ")[0]
            status = _STATES.get(state, "crashed")
            raise ProcessError(
                f"SLURM's job {job.job_id} ended without an answer, in state {state}; see {job.paths.stderr}",
                status=status,
            ) from None

    def cancel(self, places: Collection[int]) -> None:
        """See Batch."""
        subprocess.run(["scancel", *(self.jobs[place].job_id for place in places)], check=False)
        self.asked = -math.inf


def _submit_to_slurm(
    calls: Sequence[Callable[[], Any]],
    *,
    settings: Mapping[str, Any],
    devices: str,
    results_dir: str,
    seconds: Sequence[float | None],
) -> SlurmBatch:
    try:
        from submitit import AutoExecutor
    except ImportError:
        raise _missing("submitit_slurm", "submitit") from None
    if shutil.which("srun") is None:
        raise MissingError(
            "hydra/launcher=submitit_slurm: there is no srun; run this where SLURM's commands work"
        )
    values = {name: value for name, value in settings.items() if value is not None}
    minutes = values["timeout_min"]
    if minutes < 5:
        raise ConfigError(
            f"hydra.launcher.timeout_min={minutes}: must be at least 5, so that a run can begin"
        )
    limits = [min(minutes * 60 - RESERVE_SECONDS, one or math.inf) for one in seconds]
    if "gpus_per_node" not in values and _wants_gpu(devices, has_gpus=_slurm_has_gpus(values)):
        values["gpus_per_node"] = 1
    try:
        executor = AutoExecutor(
            Path(results_dir, "slurm"),
            cluster="slurm",
            slurm_max_num_timeout=values.pop("max_num_timeout"),
        )
        everywhere = {"name", "timeout_min", "cpus_per_task", "mem_gb", "gpus_per_node"}
        executor.update_parameters(
            nodes=1,
            tasks_per_node=1,
            **{name if name in everywhere else f"slurm_{name}": value for name, value in values.items()},
        )
        works = [
            pack(call, seconds=limit, threads=values.get("cpus_per_task"))
            for call, limit in zip(calls, limits, strict=True)
        ]
        return SlurmBatch(executor.map_array(perform, works))
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"hydra/launcher=submitit_slurm: SLURM refused the jobs ({error}); set "
            "hydra.launcher.partition=..., gpus_per_node, cpus_per_task or mem_gb to what it has"
        ) from None


def _slurm_has_gpus(values: Mapping[str, Any]) -> bool:
    partition = ["--partition", values["partition"]] if "partition" in values else []
    with suppress(OSError):
        asked = subprocess.run(
            ["sinfo", "--noheader", "--format=%G", *partition], capture_output=True, text=True, check=False
        )
        return "gpu" in asked.stdout
    return False


@dataclass
class RayBatch:
    """Tasks of a Ray cluster."""

    tasks: Sequence[Any]  # references to their answers

    def find_ended(self, places: Collection[int]) -> list[int]:
        """See Batch."""
        import ray

        place_of = {self.tasks[place]: place for place in places}
        ended, _ = ray.wait(list(place_of), num_returns=1, timeout=POLL_SECONDS, fetch_local=False)
        return [place_of[task] for task in ended]

    def answer(self, place: int) -> Any:
        """See Batch."""
        import ray

        try:
            return _answer(ray.get(self.tasks[place]))
        except ray.exceptions.RayError as error:
            time.sleep(RELEASE_SECONDS)
            kinds = {
                ray.exceptions.OutOfMemoryError: "oom",
                ray.exceptions.TaskCancelledError: "interrupted",
            }
            status = next((status for kind, status in kinds.items() if isinstance(error, kind)), "crashed")
            reason = str(error).partition("\n")[0]
            raise ProcessError(f"Ray's task ended without an answer: {reason}", status=status) from None

    def cancel(self, places: Collection[int]) -> None:
        """See Batch; a task that runs is killed, and its run with it."""
        import ray

        for place in places:
            ray.cancel(self.tasks[place], force=True)


def _submit_to_ray(
    calls: Sequence[Callable[[], Any]],
    *,
    settings: Mapping[str, Any],
    devices: str,
    seconds: Sequence[float | None],
    **_: Any,
) -> RayBatch:
    try:
        import ray
    except ImportError:
        raise _missing("ray", "ray") from None
    settings = settings["ray"]
    if not ray.is_initialized():
        _start_ray(settings["init"])
    options = {name: value for name, value in settings["remote"].items() if value is not None}
    has_gpus = ray.cluster_resources().get("GPU", 0) > 0
    if "num_gpus" not in options and _wants_gpu(devices, has_gpus=has_gpus):
        options["num_gpus"] = 1
    remote = ray.remote(**options)(perform)
    works = [pack(call, seconds=one) for call, one in zip(calls, seconds, strict=True)]
    return RayBatch([remote.remote(work) for work in works])


def _start_ray(init: Mapping[str, Any]) -> None:
    """Connect to the cluster or start one here, without Ray's handlers of signals."""
    import ray

    address = init.get("address") or os.environ.get("RAY_ADDRESS", "")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    handlers = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        if (place := urlsplit(address if "//" in address else f"//{address}")).port:
            socket.create_connection(
                (place.hostname, place.port), CONNECT_SECONDS
            ).close()  # Ray tries minutes
        ray.init(**init)
    except OSError as error:
        raise MissingError(
            f"hydra.launcher.ray.init.address={address}: no Ray cluster answers there ({error}); "
            "null starts Ray on this machine"
        ) from None
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _missing(launcher: str, package: str) -> MissingError:
    return MissingError(
        f"hydra/launcher={launcher}: the package {package} is not installed; "
        'install it with pip install -c constraints.txt -c constraints-cluster.txt -e ".[cluster]"'
    )
