"""Runs on texts with several labels: what is exported answers with lists, by the run's thresholds."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fastapi.testclient import TestClient

import bench
from bench.data import dataset
from bench.extras import serve
from bench.results.confidence import read_split
from bench.results.marks import write_marks
from bench.results.several import choose_thresholds
from bench.results.store import Result, Store
from bench.winner import agreement, classifier, export
from bench.winner.conversion import convert

Train = Callable[..., tuple[Store, Result]]
Bench = Callable[..., tuple[int, str, str]]
LIMITS = serve.RequestLimits(texts=8, characters=100, waiting=16, batch=8)
LABELS = ["股市", "债券", "外汇"]


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory, texts: Path) -> Path:
    """120 texts made of one or two texts, with the labels of both in columns of 0 and 1."""
    frame = pd.read_csv(texts)
    other = frame.sample(frac=1, random_state=0).reset_index(drop=True)
    both = frame.index % 3 > 0
    found = pd.DataFrame({"text": frame["text"].where(~both, frame["text"] + " " + other["text"])})
    for label in LABELS:
        found[label] = ((frame["label"] == label) | (both & (other["label"] == label))).astype(int)
    path = tmp_path_factory.mktemp("several") / "several.csv"
    found.to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def trained(train: Train, several: Path) -> tuple[Store, Result, pd.DataFrame]:
    """A run, with the test split as it predicted it and the texts."""
    columns = ("data.multi_label=true", f"data.label_columns={LABELS}")
    store, result = train(f"data.train={several}", *columns, "method=lora")
    rows = store.read_predictions(result.run_id).query("split == 'test'").reset_index(drop=True)
    return (
        store,
        result,
        rows.assign(text=dataset.load(classifier.read_config(result).data).splits["test"]["text"]),
    )


def test_a_record_has_thresholds_and_null_for_what_several_labels_have_not(
    trained: tuple[Store, Result, pd.DataFrame],
) -> None:
    _, result, rows = trained
    assert result.labels == LABELS
    assert set(result.model["thresholds"]) == set(LABELS)
    test = result.metrics["test"]
    assert (test["mcc"], test["balanced_accuracy"]) == (None, None)
    assert result.reasons["metrics.*.mcc"] == "not defined where a text has several labels"
    assert test["accuracy"] == pytest.approx((rows["label"] == rows["prediction"]).mean())
    assert test["accuracy"] > 0.4
    assert test["mean_average_precision"] > 0.8
    for label in LABELS:
        answered = rows["prediction"].str.split("|").map(lambda row, label=label: label in row)
        threshold = result.model["thresholds"][label]
        assert ((rows[f"probability_{label}"] >= threshold) == answered).all()
    assert result.data["label_sets"]["test"]["labels_per_text"] > 1


def test_an_exported_folder_answers_with_lists_of_labels(
    trained: tuple[Store, Result, pd.DataFrame], command: Bench, tmp_path: Path
) -> None:
    store, result, rows = trained
    folder = tmp_path / "model"
    export.export(store, result, folder)
    loaded = bench.load(folder)
    answers = loaded.predict(rows["text"].tolist())
    expected = [cell.split("|") if cell else [] for cell in rows["prediction"]]
    assert [answer.label for answer in answers] == expected
    settings = json.loads((folder / "config.json").read_text())
    assert settings["problem_type"] == "multi_label_classification"
    rows[["text"]].to_csv(tmp_path / "in.csv", index=False)
    code, _, err = command("classify", folder, "--file", tmp_path / "in.csv", "--out", tmp_path / "out.csv")
    assert (code, err) == (0, "")
    written = pd.read_csv(tmp_path / "out.csv", keep_default_na=False)["prediction"]
    assert written.tolist() == rows["prediction"].tolist()
    some = next(place for place, answer in enumerate(expected) if len(answer) > 1)
    code, out, _ = command("classify", folder, rows["text"][some])
    likely = " ".join(f"{answers[some].probabilities[label]:.4f}" for label in expected[some])
    assert out == f"{'|'.join(expected[some])}\t{likely}\t{rows['text'][some]}\n"
    code, out, _ = command("classify", folder, "--json", rows["text"][some])
    assert json.loads(out)["prediction"] == expected[some]
    with TestClient(serve.make_app(loaded, LIMITS)) as client:
        reply = client.post("/classify", json={"texts": [rows["text"][some]]}).json()
        assert reply["predictions"][0]["label"] == expected[some]


def test_a_merged_folder_agrees_text_by_text(
    trained: tuple[Store, Result, pd.DataFrame], tmp_path: Path
) -> None:
    store, result, rows = trained
    options = {"form": "merged", "into": None, "tolerance": 1.0, "force": False}
    _, found = convert(store, result, tmp_path / "merged", **options)
    forms = {one.form: one for one in found}
    assert forms["as trained"].accuracy == pytest.approx(result.metrics["test"]["accuracy"])
    assert forms["as trained"].f1_macro == pytest.approx(result.metrics["test"]["f1_macro"])
    assert forms["merged, fp32"].changed_share == 0
    answers = bench.load(tmp_path / "merged").predict(rows["text"].tolist())
    assert ["|".join(answer.label) for answer in answers] == rows["prediction"].tolist()
    assert "| Exact match, test " in (tmp_path / "merged" / "README.md").read_text(encoding="utf-8")


def read_values(answers: Sequence[classifier.LabelPrediction]) -> np.ndarray:
    return np.array([[*one.probabilities.values()] for one in answers])


@pytest.mark.slow
def test_as_onnx_it_answers_with_the_same_lists_and_int8_counts_those_that_change(
    trained: tuple[Store, Result, pd.DataFrame], command: Bench, tmp_path: Path
) -> None:
    store, result, rows = trained
    texts, answered = rows["text"].tolist(), rows["prediction"].tolist()
    for form in ("onnx", "onnx-int8"):
        folder = tmp_path / form
        options = ("--format", form, "--tolerance", "1", "--results", store.folder)
        code, out, err = command("export", result.run_id, folder, *options)
        assert (code, err) == (0, "")
        assert "| Exact match |" in out
        written = {one["form"]: one for one in json.loads((folder / "agreement.json").read_text())["forms"]}
        assert (written["ONNX"]["changed"], written["as trained"]["changed"]) == (0, 0)
        assert written["ONNX"]["max_probability_difference"] < 1e-4
        answers = bench.load(folder).predict(texts)
        labels = ["|".join(one.label) for one in answers]
        changed = sum(one != other for one, other in zip(labels, answered, strict=True))
        name = "ONNX" if form == "onnx" else "ONNX, int8"
        assert written[name]["changed"] == changed
        assert written[name]["accuracy"] == pytest.approx((np.array(labels) == rows["label"]).mean())
        code, out, _ = command("classify", folder, texts[0], "--json")
        assert (code, type(json.loads(out)["prediction"])) == (0, list)
    trained_values = rows[[f"probability_{label}" for label in LABELS]].to_numpy()
    assert np.abs(read_values(bench.load(tmp_path / "onnx").predict(texts)) - trained_values).max() < 1e-4
    assert np.abs(read_values(answers) - trained_values).max() > 1e-4  # int8 is another model


def test_seeds_together_answer_by_thresholds_chosen_on_their_mean(
    train: Train, several: Path, command: Bench, tmp_path: Path
) -> None:
    columns = ("data.multi_label=true", f"data.label_columns={LABELS}", "method=lora", "lora.alpha=12")
    runs = [train(f"data.train={several}", *columns, f"seed={seed}") for seed in (0, 1)]
    store, results = runs[0][0], [result for _, result in runs]
    folder, where = tmp_path / "all", ("--results", store.folder)
    code, out, err = command("export", results[0].run_id, folder, "--seeds", *where)
    assert (code, out, err) == (0, f"{results[0].run_id} (lora): its 2 seeds are in {folder}\n", "")
    frames = [store.read_predictions(one.run_id) for one in results]
    splits = {
        split: [read_split(frame, LABELS, split=split, separator="|") for frame in frames]
        for split in ("validation", "test")
    }
    mean = {split: np.mean([one.probabilities for one in both], 0) for split, both in splits.items()}
    thresholds = choose_thresholds(mean["validation"], splits["validation"][0].labels)
    loaded = bench.load(folder)
    assert loaded.manifest.thresholds == pytest.approx([*thresholds])
    alone = [[one.model["thresholds"][label] for label in LABELS] for one in results]
    assert [*thresholds] not in alone  # or it would not matter whose they are
    texts = agreement.read_test(results[0]).texts
    answers = loaded.predict(texts)
    assert np.abs(read_values(answers) - mean["test"]).max() < 1e-4
    expected = write_marks(mean["test"] >= thresholds, LABELS, "|")
    assert ["|".join(one.label) for one in answers] == expected
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert re.search(rf"\| {LABELS[0]} +\| +{thresholds[0]:.4f} +\|", card)
    code, out, _ = command("classify", folder, texts[0], "--json")
    assert (code, json.loads(out)["prediction"]) == (0, answers[0].label)
    with TestClient(serve.make_app(loaded, LIMITS)) as client:
        reply = client.post("/classify", json={"texts": [texts[0]]}).json()
        assert reply["predictions"][0]["label"] == answers[0].label
    path = store.run_folder(results[1].run_id) / "predictions.csv"
    kept = path.read_bytes()
    path.unlink()
    code, _, err = command("export", results[0].run_id, tmp_path / "new", "--seeds", *where)
    path.write_bytes(kept)
    assert (code, "nor can a threshold be chosen for all seeds together" in err) == (3, True)
    assert not (tmp_path / "new").exists()
    code, _, err = command(
        "export", results[0].run_id, tmp_path / "new", "--seeds", "--format", "onnx", *where
    )
    assert (code, "would write a whole model for each" in err) == (2, True)


@pytest.mark.slow
@pytest.mark.parametrize("form", [None, "onnx"])
def test_the_code_in_the_card_answers_alike_without_bench(
    trained: tuple[Store, Result, pd.DataFrame], tmp_path: Path, form: str | None
) -> None:
    store, result, rows = trained
    if form is None:
        export.export(store, result, tmp_path / "model")
    else:
        convert(store, result, tmp_path / "model", form=form, into=None, tolerance=1.0, force=False)
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    code = code.replace('["put your texts here"]', repr(rows["text"].tolist()))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", f"{code}\nimport sys\nassert 'bench' not in sys.modules"],
        cwd=tmp_path / "model",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = re.findall(r"^(\[.*?\]) \[", done.stdout, flags=re.MULTILINE)
    assert ["|".join(re.findall(r"'(.*?)'", one)) for one in found] == rows["prediction"].tolist()
