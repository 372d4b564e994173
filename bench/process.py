"""The process of a command: the signals that end it, and standard streams that may be lost while it works."""

import atexit
import contextlib
import errno
import io
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from bench.errors import BenchError, StoreError
from bench.redaction import show

INTERRUPTED, TERMINATED = 130, 143  # exit codes after SIGINT and SIGTERM
READER_GONE, UNWRITABLE = 1, 3  # exit codes where standard output took not everything
_OTHERS = "it is read-only or another user's; name a folder of your own (--results DIR, results_dir=DIR)"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
DEFERRED = (signal.SIGINT, signal.SIGHUP)  # which a terminal sends to all of its processes


class Terminated(KeyboardInterrupt):
    """SIGTERM, or SIGHUP of a lost terminal, which end a run as an interrupt does."""


def stop_on_signals(again: Callable[[], object] | None = None) -> None:
    """Raise KeyboardInterrupt at the first SIGINT, SIGTERM or SIGHUP, so that its record can be written.

    A second signal calls ``again``; without that it is ignored. Under nohup SIGHUP stays ignored.
    """
    handled = [one for one in SIGNALS if one != signal.SIGHUP or signal.getsignal(one) != signal.SIG_IGN]

    def stop(number: int, _: FrameType | None) -> None:
        for one in handled:
            signal.signal(one, signal.SIG_IGN if again is None else lambda *_: again())
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated

    for one in handled:
        signal.signal(one, stop)


def interrupt_code(interrupt: KeyboardInterrupt) -> int:
    """Return the exit code after an interrupt: 130, or 143 after SIGTERM and SIGHUP."""
    return TERMINATED if isinstance(interrupt, Terminated) else INTERRUPTED


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Guard a command: a user's error, a signal or a lost stream is an exit code and no traceback.

    A run that cannot show its progress goes on, as its record is what counts.
    """
    stop_on_signals(again=lambda: os._exit(INTERRUPTED))
    atexit.register(_ignore_signals)  # or one that comes while Python shuts down would end it without a code
    output = _guard_streams()
    code: object = 0
    try:
        yield
    except SystemExit as ended:
        code = ended.code
    except KeyboardInterrupt as interrupt:
        code = interrupt_code(interrupt)
    except BenchError as error:
        print(show(error), file=sys.stderr)
        code = error.exit_code
    except PermissionError as error:
        print(show(f"{error.filename}: {error.strerror}; {_OTHERS}"), file=sys.stderr)
        code = StoreError.exit_code
    exec("")  # clears Python's note of an interrupt that passed an exec, for which it would end by SIGINT
    sys.stdout.flush()
    if not code and output is not None and output.fault is not None:
        code = READER_GONE if output.fault.errno == errno.EPIPE else UNWRITABLE
    sys.exit(0 if code is None else code)  # type: ignore[arg-type]


def program() -> str:
    """Return what a shell calls bench by: its name where it is on PATH, else its path from here."""
    own = Path(sys.executable).with_name("bench")
    if shutil.which("bench") is None and own.exists():
        return shlex.quote(os.path.relpath(own))
    return "bench"


def end_silently() -> None:
    """Have SIGINT and SIGHUP end this process without a traceback, also those that wait blocked."""
    for one in DEFERRED:
        signal.signal(one, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, DEFERRED)


class _Stream(io.FileIO):
    """A standard stream that takes no more after its first error, and costs the command nothing."""

    fault: OSError | None = None

    def write(self, body: object) -> int:
        """Write to the stream, or to nowhere once it is lost."""
        try:
            return super().write(body)  # type: ignore[arg-type]
        except OSError as error:
            self.fault = error
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            if self.fileno() == 1 and error.errno != errno.EPIPE:  # whose reader has seen enough
                print(f"standard output: {error.strerror}; what follows is not shown", file=sys.stderr)
            return len(memoryview(body))  # type: ignore[arg-type]


def _guard_streams() -> _Stream | None:
    """Make standard output and error streams that can be lost; return standard output's."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed: the next file that is opened would get its number, and what is printed
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
            os.set_inheritable(number, True)
    guarded: dict[str, _Stream] = {}
    for number, name in ((1, "stdout"), (2, "stderr")):
        given = getattr(sys, name)
        if given is not getattr(sys, f"__{name}__"):  # replaced by a test or a notebook
            continue
        guarded[name] = _Stream(number, "w", closefd=False)
        text = io.TextIOWrapper(
            io.BufferedWriter(guarded[name]),
            encoding=getattr(given, "encoding", "utf-8"),
            errors=getattr(given, "errors", "backslashreplace"),
            line_buffering=getattr(given, "line_buffering", True),
        )
        setattr(sys, name, text)
    return guarded.get("stdout")


def _ignore_signals() -> None:
    for one in SIGNALS:
        signal.signal(one, signal.SIG_IGN)
