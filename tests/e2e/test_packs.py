"""Runs that train together: the same records, no number that is not a run's own, no fault that spreads."""

import csv
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

RATES = "train.lr=1e-3,2e-3,3e-3,4e-3"


def find_record(bench: Any, **fields: Any) -> dict[str, Any]:
    """The one record with these values of its configuration, by dotted path with __ for the point."""

    def matches(record: Any) -> bool:
        for path, value in fields.items():
            found = record["config"]
            for name in path.split("__"):
                found = found[name]
            if found != value:
                return False
        return True

    paths = (bench.folder / "results").rglob("result.json")
    found = [record for path in paths if matches(record := json.loads(path.read_text(encoding="utf-8")))]
    assert len(found) == 1
    return found[0]


def read_table(bench: Any, name: str) -> list[dict[str, str]]:
    path = next((bench.folder / "results").rglob(name))
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_a_sweep_packs_its_runs_and_measures_what_it_chooses_alone(
    bench: Any, tiny: list[str], count: Any
) -> None:
    command = ["sweep", *tiny, "method=majority,lora", RATES, "sweep.pack=auto", "sweep.final_seeds=[0,1]"]
    done = bench(*command)
    assert done.returncode == 0, done.stderr
    assert count(done.stdout) == {"planned": 6, "success": 6}
    assert "4 runs train together in one process, 1 run trains alone; the best is then" in done.stdout
    assert "6 good, 0 bad" in bench("verify").stdout

    runs = {(row["method"], row["lr"], row["seed"]): row for row in read_table(bench, "runs.csv")}
    sizes = {key: row["packed"] for key, row in runs.items()}
    assert sizes["majority", "", ""] == ""
    lora = {key[1]: row for key, row in runs.items() if key[0] == "lora" and key[2] == "0"}
    assert sorted(row["packed"] for row in lora.values()) == ["", "4", "4", "4"]  # the chosen one stood alone
    for row in lora.values():
        alone = row["packed"] == ""
        assert [bool(row[name]) for name in ("train_seconds", "train_peak_resident_bytes")] == [alone] * 2
        assert bool(row["pack_seconds"]) != alone
        assert float(row["test_accuracy"]) > 0
        folder = next((bench.folder / "results").rglob("runs")) / row["run_id"]
        files = {"result.json", "config.yaml", "history.jsonl", "predictions.csv", "log.txt"}
        assert files <= {path.name for path in folder.iterdir()}
        log = (folder / "log.txt").read_text(encoding="utf-8")
        assert log.count("step 12: loss") == (2 if alone else 1)  # its own steps, and no other run's
    [row] = [one for one in read_table(bench, "table.csv") if one["Method"] == "LoRA"]
    chosen = [one for one in runs.values() if one["method"] == "lora" and one["packed"] == ""]
    peaks = [int(one["train_peak_resident_bytes"]) for one in chosen]
    assert int(row["Peak memory (bytes)"]) == max(peaks)

    again = bench(*command)
    assert count(again.stdout) == {"planned": 6, "success": 6, "skipped": 6}


@pytest.mark.slow
def test_a_killed_pack_costs_the_run_to_blame_only(bench: Any, tiny: list[str], count: Any) -> None:
    bench.inject({2e-3: ("SIGKILL", 6)}, packed={2e-3: ("SIGKILL", 6)})
    done = bench("sweep", *tiny, RATES, "sweep.pack=4")
    assert count(done.stdout) == {"planned": 4, "success": 3, "crashed": 1}
    records = bench.records()
    assert {rate for rate, record in records.items() if record["status"] != "success"} == {2e-3}
    for record in records.values():  # all of them died once, together, and then stood alone
        assert record["attempts"][0]["status"] == "crashed"
        assert record["attempts"][0]["packed"]["size"] == 4
        assert record["packed"] is None
    assert bench("sweep", *tiny, RATES, "sweep.pack=4").returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "status", "sizes"),
    [
        ("exception", "failed", [None] * 4),
        ("exit", "failed", [None] * 4),
        ("_exit", "crashed", [None] * 4),
        ("SIGSEGV", "crashed", [None] * 4),
        ("hang", "timeout", [None] * 4),
        ("torch_oom", "oom", [2, 2, 2, None]),  # in halves; the chosen one was measured alone
        ("memory_error", "oom", [2, 2, 2, None]),
    ],
)
def test_whatever_ends_a_pack_all_its_runs_succeed(
    bench: Any, tiny: list[str], count: Any, fault: str, status: str, sizes: list[int | None]
) -> None:
    bench.inject({}, packed={2e-3: (fault, 6)})
    done = bench("sweep", *tiny, RATES, "sweep.pack=4", "sweep.time_limit_seconds=10")
    assert done.returncode == 0, done.stdout
    assert count(done.stdout) == {"planned": 4, "success": 4}
    records = list(bench.records().values())
    assert {record["attempts"][0]["status"] for record in records} == {status}
    found = [record["packed"] and record["packed"]["size"] for record in records]
    assert sorted(found, key=str) == sorted(sizes, key=str)


@pytest.mark.slow
def test_a_pack_that_is_interrupted_begins_again(bench: Any, tiny: list[str], count: Any) -> None:
    bench.inject({}, packed={2e-3: ("hang", 6)})
    command = ["sweep", *tiny, RATES, "sweep.pack=4"]
    with bench.start(*command) as process:
        wait_for_mark(process, bench.folder / "marks" / "packed" / "0.002")
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert count(out) == {"planned": 4, "interrupted": 4}
    assert {record["status"] for record in bench.records().values()} == {"interrupted"}
    done = bench(*command)
    assert count(done.stdout) == {"planned": 4, "success": 4}
    assert sorted(bool(record["packed"]) for record in bench.records().values()) == [False, True, True, True]


def wait_for_mark(process: "subprocess.Popen[str]", mark: Path) -> None:
    deadline = time.monotonic() + 120
    while not mark.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            os.killpg(process.pid, signal.SIGKILL)
            raise AssertionError("the pack never came to its sixth step")
        time.sleep(0.05)
