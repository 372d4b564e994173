"""Several seeds as one classifier: exported, loaded and classified with, as the mean of their predictions."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

import bench
from bench.results.confidence import Predicted, average, fit_temperature, read_split, temper
from bench.results.store import Result, Store
from bench.run import manifest
from bench.winner import agreement, together

Train = Callable[..., tuple[Store, Result]]
Bench = Callable[..., tuple[int, str, str]]


def train_seeds(train: Train, *overrides: str) -> tuple[Store, list[Result]]:
    runs = [train(*overrides, "lora.alpha=12", f"seed={seed}") for seed in (0, 1)]  # no other test trains it
    return runs[0][0], [result for _, result in runs]


def join(store: Store, results: Sequence[Result], split: str) -> Predicted:
    """The mean of what the runs predicted, by their files."""
    frames = [(store.read_predictions(one.run_id), one.labels) for one in results]
    return average([read_split(frame, labels, split=split) for frame, labels in frames])


@pytest.mark.parametrize("method", ["lora", pytest.param("qlora", marks=pytest.mark.slow)])
def test_an_export_of_seeds_predicts_the_mean_of_what_each_predicted(
    train: Train, command: Bench, tmp_path: Path, method: str
) -> None:
    store, results = train_seeds(train, f"method={method}")
    code, out, _ = command(
        "export", results[1].run_id, tmp_path / "all", "--seeds", "--results", store.folder
    )
    assert (code, out) == (0, f"{results[1].run_id} ({method}): its 2 seeds are in {tmp_path / 'all'}\n")
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == [
        "README.md",
        "bench.json",
        "seed-0",
        "seed-1",
    ]
    test, validation = join(store, results, "test"), join(store, results, "validation")
    known = manifest.read(tmp_path / "all")
    assert known.confidence is not None
    assert known.confidence.temperature == fit_temperature(validation)
    found = bench.load(tmp_path / "all").predict(agreement.read_test(results[0]).texts)
    values = np.array([list(one.probabilities.values()) for one in found])
    expected = temper(test, known.confidence.temperature)
    assert np.abs(values - expected.probabilities).max() < 1e-4
    labels = [results[0].labels[place] for place in test.answers]
    assert [one.label for one in found] == labels
    alone = [read_split(store.read_predictions(one.run_id), one.labels, split="test") for one in results]
    assert np.abs(alone[0].probabilities - alone[1].probabilities).max() > 1e-3  # or the mean shows nothing
    code, out, _ = command("classify", tmp_path / "all", "股票上涨", "--json")
    assert (code, "prediction" in json.loads(out)) == (0, True)


def test_one_of_its_seeds_is_an_export_too(train: Train, tmp_path: Path) -> None:
    store, results = train_seeds(train, "method=lora")
    together.export_seeds(store, results, tmp_path / "all")
    own = bench.load(tmp_path / "all" / "seed-1")
    assert (own.manifest.run_id, own.manifest.members) == (results[1].run_id, None)


def test_what_cannot_answer_together_is_refused(train: Train, command: Bench, tmp_path: Path) -> None:
    store, result = train("method=full", "train.lr=1e-3")
    where = ["--seeds", "--results", store.folder]
    code, _, err = command("export", result.run_id, tmp_path / "full", *where)
    assert code == 2
    assert "method full trains no adapter, so its seeds share no base" in err
    _, alone = train("method=lora", "lora.r=2")
    code, _, err = command("export", alone.run_id, tmp_path / "one", *where)
    assert code == 2
    assert "its configuration has one seed; train more with sweep.final_seeds=3" in err
    assert command("latency", tmp_path, *where)[0] == 2
    assert not (tmp_path / "full").exists()


def test_latency_of_seeds_is_kept_with_the_memory_and_shown_in_the_table(
    train: Train, command: Bench
) -> None:
    store, results = train_seeds(train, "method=lora")
    code, out, _ = command("latency", results[0].run_id, "--seeds", "--results", store.folder)
    assert code == 0
    path = store.run_folder(results[0].run_id) / "latency-seeds.json"
    assert out.splitlines()[-1] == str(path)
    written = json.loads(path.read_text())
    assert written["run_ids"] == [one.run_id for one in results]
    assert {one["form"] for one in written["forms"]} == {"base + all adapters"}
    assert written["memory"]["kind"] == "cpu_resident"
    assert written["memory"]["peak_bytes"] > 2**26
    path.unlink()
