"""A storm of SIGKILLs over a sweep of 60 runs: none lost, none twice, every number as if undisturbed."""

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

KILLS = int(os.environ.get("STORM_KILLS", "100"))
GRID = ["lora.r=2,4,8", "lora.alpha=4,8", "lora.dropout=0.05,0.1", "train.lr=1e-3,2e-3,3e-3,5e-3,1e-2"]
LIMIT_SECONDS = 2400


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    """All records by run_id."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("runs/*/result.json")]
    return {record["run_id"]: record for record in records}


def find_workers(sweep: "subprocess.Popen[str]") -> list[psutil.Process]:
    """The processes that train: each leads a process group of its own."""
    try:
        children = psutil.Process(sweep.pid).children(recursive=True)
        return [child for child in children if os.getpgid(child.pid) == child.pid]
    except (psutil.NoSuchProcess, ProcessLookupError):
        return []


def kill_one(sweep: "subprocess.Popen[str]", chance: random.Random) -> bool:
    """Kills the training process, the sweep, or both, once there is a training process; whether it did."""
    workers = find_workers(sweep)
    if not workers or sweep.poll() is not None:
        return False
    victims = chance.choice(["worker", "worker", "sweep", "both"])
    if victims != "sweep":
        for worker in workers:
            worker.kill()
    if victims != "worker":
        sweep.send_signal(signal.SIGKILL)
    return True


@pytest.mark.slow
def test_a_storm_of_kills_loses_nothing(bench: Any, tiny: list[str], count: Any) -> None:
    longer = ["train.max_steps=120", "train.eval_steps=60", "train.checkpoint_steps=20"]
    command = ["sweep", *tiny, *longer, *GRID]
    control = bench(*command, "results_dir=results/control")
    assert count(control.stdout) == {"planned": 60, "success": 60}

    chance = random.Random(0)
    kills, starts = 0, 0
    deadline = time.monotonic() + LIMIT_SECONDS
    while kills < KILLS and time.monotonic() < deadline:
        starts += 1
        with bench.start(*command, "results_dir=results/storm") as sweep:
            while sweep.poll() is None and kills < KILLS:
                time.sleep(chance.uniform(0.1, 1.5))
                kills += kill_one(sweep, chance)
            if sweep.poll() is None:
                sweep.kill()
            sweep.communicate(timeout=60)
        if sweep.returncode == 0:
            break
    last = bench(*command, "results_dir=results/storm")
    while last.returncode == 1 and time.monotonic() < deadline:
        last = bench(*command, "results_dir=results/storm")
    assert (last.returncode, count(last.stdout)["success"]) == (0, 60), last.stderr

    expected, found = (read_results(bench.folder / "results" / name) for name in ("control", "storm"))
    attempts = sum(record["attempt"] for record in found.values())
    resumed = sum(record["model"]["resumed_from_step"] is not None for record in found.values())
    print(f"storm: kills={kills} starts={starts} attempts={attempts} resumed={resumed}")
    assert kills >= min(KILLS, 20)
    assert set(found) == set(expected)
    assert len(found) == 60
    assert all(record["status"] == "success" for record in found.values())
    for run_id, record in expected.items():
        assert found[run_id]["metrics"] == record["metrics"]
    assert bench("verify", "--results", "results/storm").returncode == 0
    assert not list((bench.folder / "results").rglob(".writing-*"))
