"""bench's launcher is a launcher as Hydra means it: Hydra's own suite of tests runs against it."""

import _thread
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.test_utils.launcher_common_tests import LauncherTestSuite
from hydra_plugins.bench.launcher import BenchLauncher
from omegaconf import OmegaConf


def test_hydra_finds_the_plugins() -> None:
    found = Plugins.instance()
    assert "BenchLauncher" in [one.__name__ for one in found.discover(Launcher)]
    assert "BenchSweeper" in [one.__name__ for one in found.discover(Sweeper)]


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """A shell's job in the background begins with interrupts ignored, and the tests in it would too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(("launcher_name", "overrides"), [("bench", ["hydra.job.chdir=true"])])
class TestBenchLauncher(LauncherTestSuite):
    """The suite, with every job in a process of its own."""


@pytest.mark.usefixtures("_interruptible")
def test_an_interrupt_ends_a_launch_after_the_last_word_of_each_job(monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = BenchLauncher()
    config = OmegaConf.create({"hydra": {"hydra_logging": None, "verbose": False}})
    launcher.setup(hydra_context=None, task_function=None, config=config)  # type: ignore[arg-type]
    said: list[int] = []

    def wait_for_the_stop(*_: Any) -> JobReturn:
        threading.Timer(0.2, _thread.interrupt_main).start()
        while not launcher.isolation.stopped:
            time.sleep(0.01)
        return JobReturn()

    def speak_slowly(place: int, _: JobReturn) -> bool:
        time.sleep(0.5)
        said.append(place)
        return True

    monkeypatch.setattr(launcher, "_compose", lambda *_: config)
    monkeypatch.setattr(launcher, "_launch_one", wait_for_the_stop)
    launcher.on_end = speak_slowly
    with pytest.raises(KeyboardInterrupt):
        launcher.launch([["a=1"], ["a=2"]], initial_job_idx=0)
    assert said == [0]
