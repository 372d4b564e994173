"""A fresh process for every run: peak memory is a property of a process, and a crash costs one run only.

Processes come from a fork server that has imported torch, transformers and PEFT once (about 8 s); after that
a fresh process starts in a fraction of a second. Neither the parent nor the fork server makes a CUDA context;
where a forked process cannot use a card all the same, each process is a new interpreter.
"""

import gc
import logging
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from typing import Any

import cloudpickle

from bench.errors import BenchError, ConfigError, MissingError, RunError, first_line
from bench.process import DEFERRED
from bench.run import driver

GRACE_SECONDS = 8.0  # that a process has to write down that it was stopped
PRELOADED = ("bench.run.preload",)  # modules that the fork server imports
PROOF_SECONDS = 120  # that one may take to compute on a card, whose driver may have to wake up


class ProcessError(RunError):
    """A process ended without an answer; ``status`` is the status of its run."""

    def __init__(
        self, message: str, *, status: str, killed_by: str | None = None, ended_with: int | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.killed_by = killed_by
        self.ended_with = ended_with  # its exit code


def warm_up(more: Sequence[str] = ()) -> None:
    """Start the fork server, which imports what runs need, and ``more`` modules, while this process plans.

    Ctrl-C and a lost terminal reach the fork server too; they wait until its imports can be ended silently.
    """
    resource_tracker.ensure_running()  # which would unblock SIGINT again
    multiprocessing.get_context("forkserver").set_forkserver_preload([*PRELOADED, *more])
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, DEFERRED)
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


@dataclass
class Isolation:
    """Processes that run one call each; any number of threads may call at once."""

    alive: set[Any] = field(default_factory=set)
    stopped: bool = False
    start_method: str = "forkserver"  # or spawn: a new interpreter, which imports everything anew
    lock: threading.Lock = field(default_factory=threading.Lock)

    def call(
        self,
        call: Callable[[], Any],
        *,
        seconds: float | None = None,
        environment: Mapping[str, str] | None = None,
        threads: int | None = None,
    ) -> Any:
        """Call in a fresh process of its own group; return or raise what the call does.

        ``environment`` is added to the process's variables; torch computes with ``threads`` threads there.

        Raises:
            ProcessError: it died, ended without an answer, took longer than ``seconds``, or was stopped.
        """
        if self.start_method == "forkserver":
            warm_up()
        context: Any = multiprocessing.get_context(self.start_method)
        ours, theirs = context.Pipe(duplex=True)
        arguments = (cloudpickle.dumps(call), theirs, dict(environment or {}), threads)
        process = context.Process(target=_serve, args=arguments)
        with self.lock:
            if self.stopped:
                raise ProcessError("the sweep was stopped before this run", status="interrupted")
            process.start()
            self.alive.add(process)
        theirs.close()
        try:
            in_time = ours.poll(seconds)
            answer = ours.recv_bytes() if in_time else None
        except (EOFError, ConnectionError):
            in_time, answer = True, None
        try:
            if not in_time:
                _end(process)
            process.join(GRACE_SECONDS)
            _kill(process)  # what is left of its group, and itself where it hangs at its end
            process.join()
        finally:
            ours.close()
            with self.lock:
                self.alive.discard(process)
        if answer is not None:
            value, error = cloudpickle.loads(answer)
            if error is not None:
                raise error
            return value
        if not in_time:
            raise ProcessError(f"took longer than the time limit of {seconds:g} s", status="timeout")
        raise self._explain(process.exitcode)

    def prove_device(self, devices: str, environment: Mapping[str, str]) -> str | None:
        """Compute once on a run's device; spawn all further processes if a forked one cannot.

        Return why forked processes cannot, or None.

        Raises:
            BenchError: a new interpreter cannot compute there either.
        """
        prove = partial(self.call, partial(_compute_on, devices), environment=environment)
        reason = None
        if self.start_method == "forkserver":
            try:
                prove()
                return None
            except Exception as error:
                reason = _say_why(error)
            self.start_method = "spawn"
        try:
            prove()
        except (ConfigError, MissingError):
            raise
        except Exception as error:
            named = ", ".join(f"{name}={value}" for name, value in environment.items())
            place = named or f"devices={devices}"
            raise MissingError(
                f"{place}: cannot compute on the CUDA card ({_say_why(error)}); `bench doctor` tries what "
                "a run needs of it, and devices=cpu trains without it"
            ) from None
        return reason

    def stop(self) -> None:
        """Ask all processes to end, and kill those that take longer than GRACE_SECONDS."""
        with self.lock:
            self.stopped = True
            ending = [threading.Thread(target=_end, args=(process,)) for process in self.alive]
        for thread in ending:
            thread.start()
        for thread in ending:
            thread.join()

    def kill(self) -> None:
        """Kill all processes at once."""
        self.stopped = True
        for process in tuple(self.alive):
            _kill(process)

    def _explain(self, code: int | None) -> ProcessError:
        if self.stopped:
            return ProcessError("the sweep was stopped", status="interrupted", ended_with=code)
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            return ProcessError(f"the process was killed by {name}", status="crashed", killed_by=name)
        message = f"the process ended by itself with exit code {code} and no result"
        return ProcessError(message, status="crashed", ended_with=code)


def _serve(call: bytes, answers: Connection, environment: Mapping[str, str], threads: int | None) -> None:
    """Call in the child, and send back the value or the error."""
    os.setpgid(0, 0)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, DEFERRED)
    gc.freeze()  # or collecting garbage would go through all that the server imported, and copy its pages
    threading.Thread(target=_die_with_parent, args=(answers,), daemon=True).start()
    logging.getLogger().addHandler(logging.NullHandler())  # the command has said it, and a run has its log
    os.environ.update({"TOKENIZERS_PARALLELISM": "false", **environment})
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    value, error = None, None
    try:
        value = cloudpickle.loads(call)()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as raised:
        if not isinstance(raised, BenchError):  # a user's error says all by itself
            raised.add_note(traceback.format_exc())
        error = raised
    try:
        answer = cloudpickle.dumps((value, error))
    except Exception:
        answer = cloudpickle.dumps((None, RuntimeError(repr(error or value))))
    answers.send_bytes(answer)


def _compute_on(devices: str) -> None:
    """Compute a product on the CUDA card that a run would get, if any; only for a throw-away process."""
    import torch

    from bench.train.device import choose_device

    signal.alarm(PROOF_SECONDS)  # ends the process even where a driver's call hangs
    driver.take(devices)
    try:
        if (device := choose_device(devices)).type == "cuda":
            ones = torch.ones(16, 16, device=device)
            if (ones @ ones).sum().item() != 16**3:
                raise RunError("its product is wrong")
    except BenchError:
        raise
    except Exception as error:  # the parent would import torch to read an error of torch's own kinds
        raise RunError(first_line(error)) from None


def _say_why(error: Exception) -> str:
    """Return in one line why a process could not compute."""
    hung = isinstance(error, ProcessError) and error.killed_by == "SIGALRM"
    return f"no answer within {PROOF_SECONDS} s" if hung else first_line(error)


def _die_with_parent(answers: Connection) -> None:
    """Wait for the parent to end, as it never sends anything, and end with it."""
    try:
        answers.recv_bytes()
    except (EOFError, OSError):
        os.killpg(0, signal.SIGKILL)


def _end(process: Any) -> None:
    """Ask the process to end, then kill its whole group."""
    process.terminate()
    process.join(GRACE_SECONDS)
    _kill(process)


def _kill(process: Any) -> None:
    """Kill the process and what it started."""
    if process.pid is None:
        return
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # ended, or not yet a group of its own
        process.kill()
