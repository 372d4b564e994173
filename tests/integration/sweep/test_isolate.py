"""The fork server of a sweep at a terminal, whose signals reach all of its processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = """
import sys
from multiprocessing import forkserver
from bench.sweep import isolate

isolate.PRELOADED = ("slow",)
isolate.warm_up()
print(forkserver._forkserver._forkserver_pid, flush=True)
sys.stdin.read()
"""
SLOW = """
import time
{first}
open("importing", "w").close()
time.sleep({seconds})
"""


@pytest.mark.parametrize(("name", "early"), [("SIGINT", True), ("SIGINT", False), ("SIGHUP", False)])
def test_a_signal_while_the_fork_server_imports_prints_no_traceback(
    tmp_path: Path, name: str, early: bool
) -> None:
    """Early is before it has said how it wants to end, when the signal has to wait."""
    first = "time.sleep(1)" if early else ""
    (tmp_path / "slow.py").write_text(
        SLOW.format(first=f"{first}\nfrom bench.process import end_silently\nend_silently()", seconds=60)
    )
    (tmp_path / "script.py").write_text(SCRIPT)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    with subprocess.Popen(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as script:
        assert script.stdout is not None
        server = int(script.stdout.readline())
        while not (early or (tmp_path / "importing").exists()):
            time.sleep(0.05)
        os.kill(server, getattr(signal, name))
        script.kill()
        assert script.communicate()[1] == ""  # once the fork server has ended too, which else slept
