"""bench's launcher is a launcher as Hydra means it: Hydra's own suite of tests runs against it."""

import pytest
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.test_utils.launcher_common_tests import LauncherTestSuite


def test_hydra_finds_the_plugins() -> None:
    found = Plugins.instance()
    assert "BenchLauncher" in [one.__name__ for one in found.discover(Launcher)]
    assert "BenchSweeper" in [one.__name__ for one in found.discover(Sweeper)]


@pytest.mark.parametrize(("launcher_name", "overrides"), [("bench", ["hydra.job.chdir=true"])])
class TestBenchLauncher(LauncherTestSuite):
    """The suite, with every job in a process of its own."""
