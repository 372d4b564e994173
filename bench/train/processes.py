"""Processes that train one model together: the run's own is the first and keeps the record, others follow.

They are all on this machine and are connected through a file. Knows nothing of what they compute.
"""

import contextlib
import datetime
import multiprocessing
import os
import signal
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import cloudpickle
import torch
from torch import distributed

from bench.errors import BenchError

_PATIENCE = datetime.timedelta(hours=1)  # for one that writes weights; one that dies is noticed at once
_GRACE_SECONDS = 5.0  # from an error here to the word of the process that caused it


@dataclass(frozen=True)
class Meeting:
    """The facts that the processes agree on before they are connected."""

    path: str  # of a file that only they know
    count: int
    backend: str  # nccl | gloo
    threads: int  # that torch computes with in each


@contextlib.contextmanager
def gather(count: int, device: torch.device, follow: Callable[[], object]) -> Iterator[None]:
    """Connect this process inside with ``count`` - 1 others, each of which calls ``follow``; it is the first.

    They are fresh, say nothing and write nothing, and end with this process, however that ends. For a count
    of 1 nothing happens.

    Raises:
        Exception: the error of one of the others, which is why this one could not go on.
    """
    if count == 1:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        backend = "nccl" if device.type == "cuda" else "gloo"
        threads = (
            max(1, torch.get_num_threads() // count) if device.type == "cpu" else torch.get_num_threads()
        )
        meeting = Meeting(f"{folder}/meeting", count, backend, threads)
        others = {rank: _start(rank, meeting, follow) for rank in range(1, count)}
        failures: list[BaseException] = []
        pipes = {pipe: rank for rank, (_, pipe) in others.items()}
        watcher = threading.Thread(target=_watch, args=(pipes, failures), daemon=True)
        watcher.start()
        try:
            with _connect(0, meeting):
                yield
            watcher.join()
            for process, _ in others.values():
                process.join(_GRACE_SECONDS)  # to clean up after itself
        except BenchError:
            raise
        except Exception as error:
            watcher.join(_GRACE_SECONDS)
            if failures:
                raise failures[0] from error
            raise
        finally:
            for process, _ in others.values():
                process.kill()
                process.join()
            watcher.join()
        if failures:
            raise failures[0]


def _start(rank: int, meeting: Meeting, follow: Callable[[], object]) -> tuple[Any, Connection]:
    """Start a follower with a pipe to it; on a CPU from a fork server, which imports torch once for all.

    A new interpreter can use its card whatever a fork server's imports would have done to CUDA.
    """
    context: Any = multiprocessing.get_context("spawn" if meeting.backend == "nccl" else "forkserver")
    context.set_forkserver_preload(["bench.run.preload"])
    ours, theirs = context.Pipe(duplex=True)
    arguments = (rank, meeting, cloudpickle.dumps(follow), dict(os.environ), theirs)
    process = context.Process(target=_follow, args=arguments, daemon=True)
    process.start()
    theirs.close()
    return process, ours


def _follow(
    rank: int, meeting: Meeting, follow: bytes, environment: Mapping[str, str], pipe: Connection
) -> None:
    """Call ``follow`` and send back its error or None; only the first process can be asked to stop."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_die_with_first, args=(pipe,), daemon=True).start()
    os.environ.update(environment)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    error: BaseException | None = None
    try:
        with _connect(rank, meeting):
            cloudpickle.loads(follow)()
    except BaseException as raised:
        raised.add_note(f"in process {rank} of {meeting.count}:\n{traceback.format_exc()}")
        error = raised
    try:
        answer = cloudpickle.dumps(error)
    except Exception:  # an error that cannot be sent
        answer = cloudpickle.dumps(RuntimeError(repr(error)))
    pipe.send_bytes(answer)


def _die_with_first(pipe: Connection) -> None:
    """End with the first process: nothing ever comes from it, so that the end of waiting is its end."""
    with contextlib.suppress(EOFError, OSError):
        pipe.recv_bytes()
    os.kill(os.getpid(), signal.SIGKILL)


@contextlib.contextmanager
def _connect(rank: int, meeting: Meeting) -> Iterator[None]:
    """Let torch.distributed work inside, and accelerate find what it looks for in the environment."""
    facts = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": meeting.count, "LOCAL_WORLD_SIZE": meeting.count}
    kept = {name: os.environ.get(name) for name in (*facts, "OMP_NUM_THREADS", "MASTER_PORT")}
    os.environ.update({name: str(value) for name, value in facts.items()})
    os.environ["OMP_NUM_THREADS"] = str(meeting.threads)
    threads = torch.get_num_threads()
    torch.set_num_threads(meeting.threads)
    if meeting.backend == "nccl":
        torch.cuda.set_device(rank)
    distributed.init_process_group(
        meeting.backend,
        init_method=Path(meeting.path).as_uri(),
        rank=rank,
        world_size=meeting.count,
        timeout=_PATIENCE,
    )
    try:
        yield
    except BaseException:
        _abort()
        raise
    finally:
        distributed.destroy_process_group()
        torch.set_num_threads(threads)
        for name, value in kept.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _watch(pipes: Mapping[Connection, int], failures: list[BaseException]) -> None:
    """Wait until all others are done, or for the first error, after which nobody waits for the rest."""
    left = dict(pipes)
    while left and not failures:
        for pipe in wait(list(left)):
            rank = left.pop(pipe)  # type: ignore[call-overload]
            try:
                error = cloudpickle.loads(pipe.recv_bytes())  # type: ignore[union-attr]
            except (EOFError, OSError):
                error = RuntimeError(f"process {rank} of {len(pipes) + 1}, which trained with this one, died")
            if error is not None:
                failures.append(error)
    if failures:
        _abort()


def _abort() -> None:
    """End what this process waits for: NCCL would wait for a dead process, and so would the group's end."""
    group = distributed.group.WORLD
    if group is not None and distributed.get_backend(group) == "nccl":
        group.abort()
