"""Whatever happens to one run, the others finish, its record says what it was, and a rerun mends it."""

import itertools
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.sweep.isolate import GRACE_SECONDS

FAULTS = {
    1e-3: ("exception", "failed"),
    2e-3: ("exit", "failed"),
    3e-3: ("_exit", "crashed"),
    4e-3: ("SIGKILL", "crashed"),
    5e-3: ("SIGSEGV", "crashed"),
    6e-3: ("nan", "diverged"),
    7e-3: ("hang", "timeout"),
    8e-3: ("torch_oom", "success"),  # with half the micro-batch
    9e-3: ("cuda_oom", "success"),
    1e-2: ("memory_error", "success"),
    1.5e-2: ("native_oom", "success"),
    2e-2: ("none", "success"),
}


def wait_for(condition: Callable[[], Any], seconds: float = 60) -> Any:
    """What the condition comes to, once it comes to anything."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.05)
    raise TimeoutError("waited in vain")


def descendants(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


@pytest.fixture
def running(bench: Any, tiny: list[str]) -> Iterator["subprocess.Popen[str]"]:
    """A sweep of two runs, the first of which hangs at its sixth step."""
    bench.inject({1e-3: ("hang", 6)})
    with bench.start("sweep", *tiny, "train.lr=1e-3,2e-3") as process:
        try:
            wait_for(lambda: (bench.folder / "marks" / "0.001").exists())
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def test_every_fault_costs_one_run_only(bench: Any, tiny: list[str], count: Any) -> None:
    bench.inject({rate: (fault, 6) for rate, (fault, _) in FAULTS.items() if fault != "none"})
    rates = ",".join(map(str, FAULTS))
    command = ["sweep", *tiny, f"train.lr={rates}", "sweep.time_limit_seconds=10"]
    done = bench(*command)
    assert done.returncode == 1, done.stderr
    expected = [status for _, status in FAULTS.values()]
    assert count(done.stdout) == {
        "planned": len(FAULTS),
        **{status: expected.count(status) for status in expected},
    }
    records = bench.records()
    assert {rate: records[rate]["status"] for rate in FAULTS} == {
        rate: status for rate, (_, status) in FAULTS.items()
    }
    assert records[4e-3]["error"]["signal"] == "SIGKILL"
    assert records[5e-3]["error"]["signal"] == "SIGSEGV"
    assert records[3e-3]["error"]["exit_code"] == 0
    assert "time limit of 10 s" in records[7e-3]["error"]["message"]
    for rate in (8e-3, 9e-3, 1e-2, 1.5e-2):
        record = records[rate]
        assert (record["attempt"], record["attempts"][0]["status"]) == (2, "oom")
        assert (record["config"]["oom_halvings"], record["attempts"][0]["oom_halvings"]) == (1, 0)
    assert records[2e-2]["attempts"] == []

    again = bench(*command)
    assert again.returncode == 0, again.stdout
    assert count(again.stdout) == {"planned": len(FAULTS), "success": len(FAULTS), "skipped": 5}
    records = bench.records()
    assert {record["status"] for record in records.values()} == {"success"}
    assert records[1e-3]["attempts"][0]["error"]["message"] == "injected"


@pytest.mark.slow
def test_retry_chooses_what_is_trained_again(bench: Any, tiny: list[str], count: Any) -> None:
    bench.inject({1e-3: ("exception", 2), 2e-3: ("nan", 2)})
    command = ["sweep", *tiny, "train.lr=1e-3,2e-3,3e-3"]
    assert count(bench(*command).stdout) == {"planned": 3, "success": 1, "failed": 1, "diverged": 1}
    none = bench(*command, "--retry", "none")
    assert none.returncode == 1
    assert count(none.stdout) == {"planned": 3, "success": 1, "failed": 1, "diverged": 1, "skipped": 1}
    some = bench(*command, "--retry", "failed")
    assert count(some.stdout) == {"planned": 3, "success": 2, "diverged": 1, "skipped": 1}
    assert bench(*command, "--retry", "nonsense").returncode == 2


@pytest.mark.slow
def test_fail_fast_starts_nothing_more(bench: Any, tiny: list[str], count: Any) -> None:
    bench.inject({1e-3: ("exception", 2)})
    command = ["sweep", *tiny, "train.lr=1e-3,2e-3,3e-3", "sweep.final_seeds=[0,1]"]
    done = bench(*command, "--fail-fast")
    assert done.returncode == 1
    assert count(done.stdout) == {"planned": 3, "failed": 1, "interrupted": 2}
    assert len(bench.records()) == 1


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, 130),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, 143, marks=pytest.mark.slow),
    ],
)
def test_a_signal_stops_cleanly_and_the_printed_command_goes_on(
    running: "subprocess.Popen[str]", bench: Any, count: Any, number: int, code: int
) -> None:
    children = descendants(running)
    running.send_signal(number)
    running.wait(timeout=10)
    out, err = running.communicate(timeout=30)
    assert (running.returncode, err) == (code, "")
    assert count(out) == {"planned": 2, "interrupted": 2}
    (record,) = bench.records().values()
    assert record["status"] == "interrupted"
    assert re.search(r"^stopped; to go on: \S*bench sweep model=local", out, re.MULTILINE)
    wait_for(lambda: not [child for child in children if child.is_running()], 5)


@pytest.mark.slow
def test_a_second_signal_stops_at_once(running: "subprocess.Popen[str]", bench: Any) -> None:
    (worker,) = [child for child in descendants(running) if child.pid == os.getpgid(child.pid)]
    worker.suspend()  # it cannot answer
    running.send_signal(signal.SIGINT)
    time.sleep(1)
    assert running.poll() is None
    running.send_signal(signal.SIGINT)
    running.wait(timeout=GRACE_SECONDS / 2)  # instead of the rest of what the worker has to answer
    running.communicate(timeout=30)
    assert running.returncode == 130
    (record,) = bench.records().values()
    assert record["status"] == "interrupted"


def test_no_process_outlives_a_killed_sweep_and_what_it_left_is_found(
    running: "subprocess.Popen[str]", bench: Any, tiny: list[str], count: Any
) -> None:
    children = descendants(running)
    running.kill()
    running.communicate()
    wait_for(lambda: not [child for child in children if child.is_running()], 10)
    (record,) = bench.records().values()
    assert record["status"] == "started"
    folder = next((bench.folder / "results").rglob("runs"))
    (next(folder.iterdir()) / ".writing-result.json.x").touch()
    (folder / ("0" * 12)).mkdir()
    (folder / ("0" * 12) / "result.json").write_text("{")
    (folder / "somebody's.txt").touch()
    again = bench("sweep", *tiny, "train.lr=1e-3,2e-3")
    assert again.returncode == 0, again.stderr
    assert "its process had vanished; it counts as crashed" in again.stdout
    assert "moved to" in again.stdout
    assert count(again.stdout) == {"planned": 2, "success": 2}
    assert [attempt["status"] for attempt in bench.records()[1e-3]["attempts"]] == ["crashed"]
    assert not list(folder.rglob(".writing-*"))
    assert bench("verify").returncode == 0


@pytest.mark.slow
def test_two_shells_train_each_run_once(bench: Any, tiny: list[str], count: Any) -> None:
    command = ["sweep", *tiny, "train.lr=1e-3,2e-3,3e-3,4e-3,5e-3,6e-3"]
    with bench.start(*command) as one, bench.start(*command) as two:
        outs = [process.communicate(timeout=300)[0] for process in (one, two)]
    assert (one.returncode, two.returncode) == (0, 0)
    assert all(count(out)["success"] == 6 for out in outs)
    assert {record["attempt"] for record in bench.records().values()} == {1}
    logs = [path.read_text() for path in (bench.folder / "results").rglob("log.txt")]
    assert [log.count("step 12: loss") for log in logs] == [1] * 6


@pytest.mark.slow
def test_two_runs_at_once_on_the_cpu(bench: Any, tiny: list[str], count: Any) -> None:
    done = bench("sweep", *tiny, "train.lr=1e-3,2e-3,3e-3,4e-3", "devices=cpu*2")
    assert done.returncode == 0, done.stderr
    assert count(done.stdout) == {"planned": 4, "success": 4}
    spans = sorted((record["started_at"], record["ended_at"]) for record in bench.records().values())
    assert any(first[1] > second[0] for first, second in itertools.pairwise(spans))


@pytest.mark.slow
def test_different_grids_unite_in_one_folder(bench: Any, tiny: list[str], count: Any) -> None:
    assert bench("sweep", *tiny, "lora.r=2,4").returncode == 0
    wider = bench("sweep", *tiny, "lora.r=4,8")
    assert count(wider.stdout) == {"planned": 2, "success": 2, "skipped": 1}
    assert "3 success" in bench("status").stdout


def test_a_folder_that_cannot_be_written_costs_nothing_that_was_there(
    bench: Any, tiny: list[str], tmp_path: Path
) -> None:
    (tmp_path / "results").write_text("not a folder")
    done = bench("sweep", *tiny, "lora.r=2,4")
    assert (done.returncode, done.stdout) == (3, "")
    assert "results" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "results").read_text() == "not a folder"


@pytest.mark.slow
def test_a_disk_that_fills_ends_the_sweep_and_the_same_command_goes_on(
    bench: Any, tiny: list[str], count: Any
) -> None:
    bench.inject({2e-3: ("full_disk", 6)})
    command = ["sweep", *tiny, "train.lr=1e-3,2e-3,3e-3"]
    done = bench(*command)
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)
    assert "No space left on device; free space" in done.stderr
    assert count(done.stdout) == {"planned": 3, "success": 1, "failed": 1, "interrupted": 1}
    assert set(bench.records()) == {1e-3, 2e-3}  # what could not be recorded was not begun
    (again,) = re.findall(r"to go on: (.*)", done.stdout)
    gone_on = subprocess.run(
        again,
        shell=True,
        cwd=bench.folder,
        env=bench.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (gone_on.returncode, count(gone_on.stdout)) == (0, {"planned": 3, "success": 3, "skipped": 1})
