"""A fresh process for every run: peak memory is a property of a process, and a crash costs one run only.

Processes come from a fork server that has imported torch, transformers and PEFT once (about 8 s); after that
a fresh process starts in a fraction of a second. The parent itself never touches CUDA.
"""

import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from typing import Any

import cloudpickle

_PRELOADED = ["bench.attempt"]


@dataclass(frozen=True)
class Outcome:
    """How a process ended: with a value or an error, else how it died."""

    value: Any = None
    error: BaseException | None = None
    exit_code: int | None = None  # of a process that ended without an answer
    signal: str | None = None  # that killed it

    def describe_death(self) -> str:
        """How a process that gave no answer ended, in words."""
        return (
            f"the process was killed by {self.signal}"
            if self.signal
            else (f"the process ended by itself with exit code {self.exit_code} and no result")
        )


def warm_up() -> None:
    """Starts the fork server, which imports in the background while this process plans."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(_PRELOADED)
    forkserver.ensure_running()


def call_isolated(call: Callable[[], Any]) -> Outcome:
    """Calls in a fresh process and waits; whatever happens there, this process goes on.

    A keyboard interrupt here is passed on, and the process gets the time to record that it was interrupted.
    """
    warm_up()
    context = multiprocessing.get_context("forkserver")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(cloudpickle.dumps(call), sender))
    process.start()
    sender.close()
    try:
        answer = receiver.recv_bytes()
    except EOFError:
        answer = None
    except BaseException:
        _stop(process)
        raise
    finally:
        receiver.close()
    process.join()
    code = process.exitcode
    process.close()
    if answer is not None:
        value, error = cloudpickle.loads(answer)
        return Outcome(value=value, error=error)
    killed_by = signal.Signals(-code).name if code is not None and code < 0 else None
    return Outcome(exit_code=code, signal=killed_by)


def _serve(call: bytes, sender: Connection) -> None:
    """In the child: calls, and sends back the value or the error."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    value, error = None, None
    try:
        value = cloudpickle.loads(call)()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as raised:
        traceback.print_exc()
        error = raised
    try:
        answer = cloudpickle.dumps((value, error))
    except Exception:
        answer = cloudpickle.dumps((None, RuntimeError(repr(error or value))))
    sender.send_bytes(answer)


def _stop(process: Any) -> None:
    """Asks the process to end, then makes it."""
    process.terminate()
    process.join(8)
    if process.is_alive():
        process.kill()
        process.join()
