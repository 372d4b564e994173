"""Where a part works: its folder, its time, and processes that are killed with all they started."""

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[3]
POLL_SECONDS = 0.05  # between looks at a process


class Late(Exception):
    """A part has used up its time."""


@dataclass(frozen=True)
class Proof:
    """One thing that a part has looked at."""

    name: str
    works: bool | None  # None: not on this machine, or not looked at, which is no fault
    detail: str
    numbers: dict[str, Any] = field(default_factory=dict)

    @property
    def mark(self) -> str:
        """yes, NO, or - for what was not looked at."""
        return {True: "yes", False: "NO", None: "-"}[self.works]


@dataclass(frozen=True)
class Machine:
    """What the first part found out about the device; None on a CPU."""

    gpu: str | None = None  # as the driver calls it
    card: str | None = None  # as a plan calls it
    uuid: str | None = None  # as the driver calls the one that runs get
    memory_bytes: int | None = None
    pages: bool = False  # whether CUDA has memory that it pages to the machine's
    provenance: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Ended:
    """A process that has ended."""

    code: int
    said: str  # on both of its outputs

    @property
    def last_line(self) -> str:
        """Return what it said last, which is its error if it has failed."""
        return next(reversed(self.said.strip().splitlines()), "no message")


@dataclass(frozen=True)
class Lab:
    """What one part works with."""

    folder: Path  # its own
    ends_at: float  # by time.monotonic()
    machine: Machine | None = None  # None: not known yet

    @property
    def has_gpu(self) -> bool:
        """Whether torch computes on a CUDA device here."""
        return self.machine is not None and self.machine.gpu is not None

    @property
    def seconds_left(self) -> float:
        """The time that the part still has."""
        return self.ends_at - time.monotonic()

    def run(self, *command: str | Path, look: Callable[[psutil.Process], None] = lambda _: None) -> Ended:
        """Run Python with these arguments to its end, and look at the process again and again meanwhile.

        Raises:
            Late: the part's time was over; the process and all that it had started are dead.
        """
        log = self.folder / "output.txt"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, *map(str, command)],
                cwd=ROOT,
                env={**os.environ, "HF_HUB_OFFLINE": "1"},
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        begun = time.monotonic()
        try:
            while process.poll() is None:
                if self.seconds_left < 0:
                    raise Late(f"was still at work after {time.monotonic() - begun:.0f} s, and was ended")
                with contextlib.suppress(psutil.Error):  # a process ended while it was looked at
                    look(psutil.Process(process.pid))
                time.sleep(POLL_SECONDS)
        finally:
            _kill(process)
        return Ended(process.returncode, log.read_text(encoding="utf-8", errors="replace"))

    def try_here(self, name: str) -> Iterator[Proof]:
        """Run a function of trials.py in a process of its own: its proofs, also of one that dies or hangs."""
        path, fault = self.folder / f"{name}.jsonl", None
        try:
            ended = self.run("-m", "bench.extras.gpu_check.trials", name, path)
            if ended.code:
                fault = f"exit code {ended.code}: {ended.last_line}"
        except Late as late:
            fault = str(late)
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            yield Proof(**json.loads(line))
        if fault is not None:
            yield Proof(name, False, fault)


def find_missing(packages: Sequence[str]) -> list[str]:
    """Name those of the packages that are not installed."""
    return [package for package in packages if importlib.util.find_spec(package) is None]


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill the process, if it lives, and all that it has started: runs have groups of their own."""
    if process.poll() is not None:
        return
    with contextlib.suppress(psutil.Error):
        for child in reversed(psutil.Process(process.pid).children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                child.kill()
    process.kill()
    process.wait()
