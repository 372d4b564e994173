"""A record from anywhere is trusted or named as bad: nothing that reads it later breaks on it."""

import dataclasses
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from records import NO_PRICES, make_predictions, make_run

from bench.config.identity import hash_canonical
from bench.errors import BenchError
from bench.report.language.text import read_language
from bench.report.numbers.evidence import gather
from bench.report.page.page import write_report
from bench.report.table import write_tables
from bench.report.verdicts.advice import describe_advice
from bench.report.verdicts.recommend import TrainingLimits
from bench.results import store as results
from bench.results.selection import group_by_method, read_criterion, select_best
from bench.results.store import RECORD, BadRecord, Result, Store, read_record
from bench.winner.choose import find_run

STRANGE = (
    *(None, True, -1, 0, 2.5, 1e39, -1e39, 10**400, 2**31, "", "x", "9" * 300, "\x1b[31m", "nan"),
    *([], [1], ["a"], [[]], {}, {"a": 1}, {"": None}, {"a": {"b": {"c": []}}}),
)


def make_full_run(**values: Any) -> Result:
    """A record with a value under nearly every name that a run writes."""
    peaks = {"peak_allocated_bytes": None, "peak_reserved_bytes": None, "peak_resident_bytes": 2**30}
    return dataclasses.replace(
        make_run(**values),
        memory={"kind": "cpu_resident", "baseline_bytes": 9, "load": peaks, "train": peaks, "eval": peaks},
        time={"load_seconds": 1.0, "train_seconds": 9.5, "eval_seconds": 2.0, "total_seconds": 12.5},
        throughput={"tokens_per_second": 100.0, "samples_per_second": 3.5},
        energy={"joules": 10.0, "source": "nvml"},
        prediction={
            "kind": "cpu_tensors",
            "target": "cpu",
            "predicted_peak_bytes": 2**29,
            "measured_peak_bytes": 2**30,
            "error": -0.5,
            "parts": {"weights": 2**20},
            "phases": {"train": peaks},
            "cost": {"train": 1.5, "eval": 0.5},
        },
        data={
            "fingerprint": "d1",
            "sizes": {"train": 1296, "validation": 400, "test": 400},
            "label_counts": {"train": {"a": 500, "b": 400, "c": 396}},
            "truncated_share": 0.1,
            "duplicate_rows_across_splits": 3,
            "conflicting_labels": 1,
        },
        model={"target_modules": ["query"], "precision": "fp32", "steps": 300, "resumed_from_step": None},
        provenance={"git_commit": None, "packages": {"torch": "2.6"}, "hardware": {"cpu": "x", "cores": 2}},
        tracking={"mode": "disabled", "wandb_run_id": None, "reason": None},
        attempts=[{"attempt": 1, "status": "oom", "phase": "train", "validation": {"accuracy": 0.5}}],
    )


def find_places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a record, from the outside in."""
    if path:
        yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield from find_places(item, (*path, key))


def change(values: dict[str, Any], path: tuple[Any, ...], value: Any) -> None:
    """Puts the value at the place; an ellipsis takes away what is there."""
    *outer, last = path
    inner: Any = values
    for key in outer:
        inner = inner[key]
    if value is not ...:
        inner[last] = value
    elif isinstance(inner, dict):
        del inner[last]


def save(folder: Path, values: dict[str, Any]) -> Path:
    """Writes a record as somebody does who knows how: with the right id and checksum."""
    values["run_id"] = hash_canonical(values["canonical_config"])
    path = folder / "runs" / values["run_id"] / RECORD
    path.parent.mkdir(parents=True, exist_ok=True)
    body = {**values, "checksum": results._checksum(values)}
    path.write_text(json.dumps(body, ensure_ascii=False), encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    store = Store(tmp_path)
    for run in (make_run("lora"), make_run("lora", seed=1), make_run("full"), make_run("qlora")):
        store.write(run)
        store.write_predictions(run.run_id, make_predictions(run))
    return tmp_path


def test_a_full_record_is_trusted(folder: Path) -> None:
    path = save(folder, dataclasses.asdict(make_full_run(r=64)))
    assert isinstance(read_record(path), Result)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metrics.test.accuracy", 1.5),
        ("metrics.test.f1_macro", "high"),
        ("metrics.validation", [1]),
        ("memory.train", 7),
        ("memory.train.peak_resident_bytes", "many"),
        ("time.train_seconds", 1e39),
        ("time.train_seconds", -1),
        ("parameters.total", 10**400),
        ("data.sizes.test", 2.5),
        ("data.sizes", None),
        ("config.method", None),
        ("config.method.title", {}),
        ("config.lora.r", "8"),
        ("config.sweep", []),
        ("canonical_config.seed", "first"),
        ("canonical_config.train", []),
        ("model.target_modules", {"a": 1}),
        ("provenance.hardware", "fast"),
        ("attempts", [{"status": "success", "validation": {"accuracy": "good"}}]),
        ("attempts", [{"validation": []}]),
        ("error", {"message": ["a"]}),
        ("labels", ["a", 1]),
        ("prediction.parts", [1]),
        ("reasons", {"memory": "x" * 200_000}),
    ],
)
def test_a_value_that_no_run_writes_makes_a_record_bad(folder: Path, path: str, value: Any) -> None:
    values = json.loads(json.dumps(dataclasses.asdict(make_full_run(r=64))))
    change(values, tuple(path.split(".")), value)
    found = read_record(save(folder, values))
    assert isinstance(found, BadRecord) == (value is not None or path == "config.method")
    if isinstance(found, BadRecord):
        assert path.split(".")[0] in found.reason
        assert len(found.reason) < 200


def read_everything(folder: Path) -> None:
    """All that is made from records, but for the page."""
    store = Store(folder)
    good, _ = store.read_all()
    write_tables(store, lang="en", report=NO_PRICES)
    limits = TrainingLimits(12.0, 3600.0, 0.5)
    describe_advice(gather(store, NO_PRICES), store.read_predictions, limits=limits, text=read_language("zh"))
    for runs in group_by_method(good).values():
        select_best(runs, select_by=read_criterion(good))
    find_run(store, "best:lora")


def break_records(folder: Path, count: int, seed: int, use: Callable[[Path], None]) -> int:
    """How many of so many records with one strange value are trusted; whatever uses them must not break."""
    choose, trusted = random.Random(seed), 0
    for number in range(count):
        values = json.loads(json.dumps(dataclasses.asdict(make_full_run(r=choose.choice((8, 64))))))
        places = list(find_places(values))
        place = choose.choice(places)
        value = choose.choice((*STRANGE, ...))
        try:
            change(values, place, value)
            path = save(folder, values)
        except (KeyError, TypeError, ValueError):  # a record without an id or a checksum is no record
            continue
        is_trusted = isinstance(read_record(path), Result)
        trusted += is_trusted
        try:
            if is_trusted or number < 10:  # the bad ones are all named alike
                use(folder)
        except BenchError:
            pass
        except Exception as error:
            error.add_note(f"{'.'.join(map(str, place))} = {value!r}")
            raise
        finally:
            path.unlink()
    return trusted


def test_a_few_strange_records_break_nothing(folder: Path) -> None:
    assert break_records(folder, 20, 0, read_everything) > 2


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 7))
def test_many_strange_records_break_nothing(folder: Path, seed: int) -> None:
    assert break_records(folder, 100, seed, read_everything) > 10


@pytest.mark.slow
def test_a_page_of_strange_records_is_written(folder: Path) -> None:
    def write_page(place: Path) -> None:
        write_report(Store(place), lang="en", report=NO_PRICES)

    assert break_records(folder, 30, 9, write_page) > 2
