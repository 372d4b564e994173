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
    for record in records.values():  # all of them died once, together, and then went on alone
        assert record["attempts"][0]["status"] == "crashed"
        assert record["attempts"][0]["packed"]["size"] == 4
    chosen = [record for record in records.values() if record["status"] == "success" and not record["packed"]]
    assert (
        len(chosen) == 1
    )  # the others went on from the pack's checkpoint, and so claim no memory of their own
    assert bench("sweep", *tiny, RATES, "sweep.pack=4").returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "status", "sizes"),
    [
        ("exception", "failed", [4, 4, 4, None]),
        ("exit", "failed", [4, 4, 4, None]),
        ("_exit", "crashed", [4, 4, 4, None]),
        ("SIGSEGV", "crashed", [4, 4, 4, None]),
        ("hang", "timeout", [4, 4, 4, None]),
        # in halves; the chosen one was measured alone, and who went on alone says with how many it had begun
        ("torch_oom", "oom", [2, 2, 2, None]),
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


@pytest.mark.slow
def test_a_cross_validation_in_a_pack_is_each_of_its_folds_alone(
    bench: Any, tiny: list[str], count: Any
) -> None:
    """Two configurations in five folds: one pack, one row, and every text outside test is predicted once."""
    lines = ("method=lora,tfidf", "train.lr=1e-3,1e-2", "data.folds=5", "data.fold=range(5)")
    exact = ("train.precision=fp32", "lora.dropout=0", "train.group_by_length=false")
    done = bench("sweep", *tiny, *lines, *exact, "sweep.pack=auto", "results_dir=results/packed")
    assert done.returncode == 0, done.stderr
    assert count(done.stdout) == {"planned": 15, "success": 15}
    assert "10 runs train together in one process, 5 runs train alone" in done.stdout
    packed, table = read_table(bench, "runs.csv"), read_table(bench, "table.csv")
    predictions = read_predictions(bench, packed)
    (bench.folder / "results" / "packed").rename(bench.folder / "packed")

    assert [row["Method"] for row in table] == ["TF-IDF + logistic regression", "LoRA"]
    lora = [row for row in packed if row["method"] == "lora"]
    means = {
        rate: sum(float(row["validation_accuracy"]) for row in lora if row["lr"] == rate) / 5
        for rate in ("0.001", "0.01")
    }
    assert float(table[1]["Validation score"]) == pytest.approx(max(means.values()), abs=1e-5)
    for rate in means:
        mine = [row for row in lora if row["lr"] == rate]
        assert sorted(row["fold"] for row in mine) == [*"01234"]
        found = [predictions[row["run_id"]]["validation"] for row in mine]
        assert sorted(number for one in found for number in one) == list(range(102))
        texts = [predictions[row["run_id"]]["test"] for row in mine]
        assert all(one.keys() == texts[0].keys() for one in texts)

    alone = bench("sweep", *tiny, *lines, *exact, "sweep.pack=off", "results_dir=results/alone")
    assert count(alone.stdout) == {"planned": 15, "success": 15}
    others = read_table(bench, "runs.csv")
    by_id = {row["run_id"]: row for row in others}
    assert {row["packed"] for row in others} == {""}
    for row in packed:
        for name in ("validation_loss", "test_loss"):
            assert float(row[name]) == pytest.approx(float(by_id[row["run_id"]][name]), abs=1e-3)
        for name in ("validation_accuracy", "test_accuracy"):
            assert float(row[name]) == pytest.approx(float(by_id[row["run_id"]][name]), abs=1e-6)


def read_predictions(bench: Any, runs: list[dict[str, str]]) -> dict[str, dict[str, dict[int, str]]]:
    """The prediction of each text by run, split and id."""
    folder, found = next((bench.folder / "results").rglob("runs")), {}
    for run in runs:
        with (folder / run["run_id"] / "predictions.csv").open(encoding="utf-8", newline="") as file:
            splits: dict[str, dict[int, str]] = {"validation": {}, "test": {}}
            for row in csv.DictReader(file):
                splits[row["split"]][int(row["id"])] = row["prediction"]
        found[run["run_id"]] = splits
    return found


EIGHT = "train.lr=1e-4,2e-4,5e-4,1e-3,2e-3,5e-3,1e-2,2e-2"
HALVING = (EIGHT, "sweep.strategy=halving", "train.precision=fp32", "lora.dropout=0", "train.eval_steps=2")


def read_halving(bench: Any) -> dict[tuple[str, str], dict[str, str]]:
    """The verdicts, by run and step."""
    return {(row["run"], row["step"]): row for row in read_table(bench, "halving.csv")}


@pytest.mark.slow
def test_halving_in_packs_is_halving_alone(bench: Any, tiny: list[str], count: Any) -> None:
    packed = bench("sweep", *tiny, *HALVING, "sweep.pack=auto", "results_dir=results/packed")
    assert packed.returncode == 0, packed.stderr
    assert "halving lora: at most 8, 2, 1, 1 runs up to step 2, 4, 8, 12" in packed.stdout
    assert "8 runs train together in one process" in packed.stdout
    numbers = count(packed.stdout)
    found = read_halving(bench)
    runs = read_table(bench, "runs.csv")
    table = read_table(bench, "table.csv")
    for row in runs:
        assert (row["test_accuracy"] == "") == (row["stop_step"] != "")
    [chosen] = [row for row in runs if row["stop_step"] == ""]
    assert (chosen["packed"], chosen["resumed_from_step"]) == ("", "")  # it began anew, alone
    assert float(chosen["train_seconds"]) > 0
    assert {row["packed"] for row in runs if row["stop_step"] == "2"} == {"8"}

    (bench.folder / "results" / "packed").rename(bench.folder / "packed")
    alone = bench("sweep", *tiny, *HALVING, "sweep.pack=off", "results_dir=results/alone")
    assert count(alone.stdout) == numbers
    other = read_halving(bench)
    assert {key: row["verdict"] for key, row in found.items()} == {
        key: row["verdict"] for key, row in other.items()
    }
    for key, row in found.items():
        assert float(row["loss"]) == pytest.approx(float(other[key]["loss"]), abs=1e-3)
    [mine], [its] = table, read_table(bench, "table.csv")
    assert mine["Accuracy"] == its["Accuracy"]


@pytest.mark.slow
def test_halving_that_is_stopped_inside_a_rung_goes_on(bench: Any, tiny: list[str], count: Any) -> None:
    calm = bench("sweep", *tiny, *HALVING, "sweep.pack=auto", "results_dir=results/calm")
    expected = read_halving(bench)
    (bench.folder / "results" / "calm").rename(bench.folder / "calm")
    lasting = next(
        run for (run, step), row in expected.items() if step == "2" and row["verdict"] == "goes on"
    )
    rate = next(float(word[3:]) for word in lasting.split() if word.startswith("lr="))
    bench.inject({}, packed={rate: ("hang", 4)})
    command = [
        "sweep",
        *tiny,
        *HALVING,
        "sweep.pack=auto",
        "results_dir=results/stopped",
        "train.checkpoint_steps=1",
    ]
    with bench.start(*command) as process:
        wait_for_mark(process, bench.folder / "marks" / "packed" / repr(rate))
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130
    done = bench(*command)
    assert done.returncode == 0, done.stdout
    assert count(done.stdout) == count(calm.stdout) | {"skipped": 8}
    assert read_halving(bench) == expected
    resumed = {row["resumed_from_step"] for row in read_table(bench, "runs.csv") if row["stop_step"] == "4"}
    assert resumed == {"3"}


def wait_for_mark(process: "subprocess.Popen[str]", mark: Path) -> None:
    deadline = time.monotonic() + 120
    while not mark.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            os.killpg(process.pid, signal.SIGKILL)
            raise AssertionError("the pack never came to its sixth step")
        time.sleep(0.05)
