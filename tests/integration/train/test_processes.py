"""Processes that belong together: connected, one's error is everyone's, and none outlives the first."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from torch import distributed

from bench.errors import ConfigError
from bench.train.processes import gather

CPU = torch.device("cpu")
# The first process of two, which tells the number of the other and waits to be killed.
FIRST = """
import os, sys, time
from pathlib import Path
import torch
from bench.train.processes import gather

def follow():
    Path(sys.argv[1] if len(sys.argv) > 1 else os.environ["TOLD"]).write_text(str(os.getpid()))
    time.sleep(60)

if __name__ == "__main__":
    with gather(2, torch.device("cpu"), follow):
        time.sleep(60)
"""


def add_up(value: float) -> float:
    """The sum of what all processes add."""
    total = torch.tensor(value)
    distributed.all_reduce(total)
    return float(total)


def add_up_twice() -> None:
    add_up(1.0)
    add_up(1.0)


def follow_to(answer: Callable[[], object]) -> Callable[[], None]:
    """What another process does: it takes part in one sum, then answers."""

    def follow() -> None:
        total = torch.tensor(2.0)
        torch.distributed.all_reduce(total)
        answer()

    return follow


def test_processes_are_connected_and_leave_no_trace(capfd: pytest.CaptureFixture[str]) -> None:
    before, threads = dict(os.environ), torch.get_num_threads()
    with gather(3, CPU, follow_to(lambda: print("a word", flush=True))):
        assert add_up(1.0) == 5.0
        assert (os.environ["RANK"], os.environ["WORLD_SIZE"]) == ("0", "3")
    assert capfd.readouterr().out == ""
    assert not distributed.is_initialized()
    assert (dict(os.environ), torch.get_num_threads()) == (before, threads)
    assert [
        child for child in psutil.Process().children() if "multiprocessing.spawn" in child.cmdline()
    ] == []


def test_one_process_is_not_connected_to_any() -> None:
    with gather(1, CPU, lambda: None):
        assert not distributed.is_initialized()


def test_anothers_error_is_the_error_of_what_waits_for_it() -> None:
    def fail() -> None:
        raise MemoryError("out of memory over there")

    with pytest.raises(MemoryError, match="over there") as caught, gather(2, CPU, follow_to(fail)):
        add_up_twice()
    assert "in process 1 of 2" in caught.value.__notes__[0]


def test_an_error_after_all_was_done_is_an_error_too() -> None:
    def fail() -> None:
        raise ValueError("too late")

    with pytest.raises(ValueError, match="too late"), gather(2, CPU, follow_to(fail)):
        add_up(1.0)


def test_the_death_of_another_ends_the_wait_for_it() -> None:
    with (
        pytest.raises(RuntimeError, match="process 1 of 2, which trained with this one, died"),
        gather(2, CPU, follow_to(lambda: os.kill(os.getpid(), signal.SIGKILL))),
    ):
        add_up_twice()


@pytest.mark.parametrize("error", [ConfigError("mine"), KeyboardInterrupt(), OSError("mine")])
def test_an_error_of_the_first_ends_the_others(error: BaseException) -> None:
    started = time.monotonic()

    def add_up_and_fail() -> None:
        add_up(1.0)
        raise error

    with pytest.raises(type(error)), gather(2, CPU, follow_to(lambda: time.sleep(60))):
        add_up_and_fail()
    assert time.monotonic() - started < 20


def test_the_others_end_when_the_first_is_killed(tmp_path: Path) -> None:
    script, told = tmp_path / "first.py", tmp_path / "told"
    script.write_text(FIRST)
    first = subprocess.Popen([sys.executable, str(script)], env={**os.environ, "TOLD": str(told)})
    try:
        deadline = time.monotonic() + 60
        while not told.exists() or not told.read_text():
            assert time.monotonic() < deadline
            assert first.poll() is None
            time.sleep(0.1)
        other = psutil.Process(int(told.read_text()))
    finally:
        first.kill()
        first.wait()
    deadline = time.monotonic() + 20
    while other.is_running() and other.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.1)
