"""Runs that read two texts, or texts made of columns: used as they were trained."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fastapi.testclient import TestClient
from trainings import forget_temperature

import bench
from bench.data import dataset
from bench.errors import DataError
from bench.extras import serve
from bench.results.store import Result, Store
from bench.winner import classifier, export
from bench.winner.conversion import convert

Train = Callable[..., tuple[Store, Result]]
Bench = Callable[..., tuple[int, str, str]]
Trained = Callable[[str], tuple[Store, Result, pd.DataFrame]]

RUNS = {
    "head": (("method=lora",), "bert"),
    "decoder": (("method=lora",), "llama"),
    "written": (("method=lora", "task=label_likelihood", "model.template='{text} Then {pair}. '"), "llama"),
}
LIMITS = serve.RequestLimits(texts=8, characters=100, waiting=16, batch=8)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 pairs of which the second alone decides the label."""
    words = [["股票", "指数"], ["美元", "汇率"]]
    rows = [(f"第{number}期", f"{words[number % 2][number // 2 % 2]} {number % 7}") for number in range(120)]
    frame = pd.DataFrame(rows, columns=["one", "two"]).assign(label=["stock", "money"] * 60)
    path = tmp_path_factory.mktemp("pairs") / "pairs.csv"
    frame.to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def trained(train: Train, pairs: Path) -> Trained:
    """A run that reads pairs, with the test split as it predicted it and the texts."""

    def find(name: str) -> tuple[Store, Result, pd.DataFrame]:
        overrides, base = RUNS[name]
        columns = (f"data.train={pairs}", "data.text_column=one", "data.text_pair_column=two")
        store, result = train(*columns, *overrides, base=base)
        rows = store.read_predictions(result.run_id).query("split == 'test'").reset_index(drop=True)
        test = dataset.load(classifier.read_config(result).data).splits["test"]
        return store, result, rows.assign(one=test["text"], two=test["pair"])

    return find


@pytest.mark.parametrize("name", RUNS)
def test_a_run_learns_from_the_second_text_and_its_folder_reads_it_too(
    trained: Trained, command: Bench, tmp_path: Path, name: str
) -> None:
    store, result, rows = trained(name)
    assert result.metrics["test"]["accuracy"] > 0.75  # by the first text alone a half
    folder = tmp_path / "model"
    export.export(store, result, folder)
    loaded = bench.load(folder)
    found = forget_temperature(loaded).predict([*zip(rows["one"], rows["two"], strict=True)])
    probabilities = rows[["probability_money", "probability_stock"]].to_numpy()
    assert np.abs([[*one.probabilities.values()] for one in found] - probabilities).max() < 1e-4
    rows[["one", "two"]].to_csv(tmp_path / "in.csv", index=False)
    options = ["--column", "one", "--pair-column", "two", "--out", tmp_path / "out.csv"]
    code, _, err = command("classify", folder, "--file", tmp_path / "in.csv", *options)
    assert (code, err) == (0, "")
    assert pd.read_csv(tmp_path / "out.csv")["prediction"].tolist() == rows["prediction"].tolist()
    one, two = rows.loc[0, ["one", "two"]]
    found = loaded.predict([(one, two)])
    line = f"{found[0].label}\t{found[0].probabilities[found[0].label]:.4f}\t{one}\t{two}\n"
    assert command("classify", folder, one, two) == (0, line, "")
    assert command("classify", folder, lines=f"{one}\t{two}\n") == (0, line, "")


@pytest.mark.parametrize("name", ["head", pytest.param("decoder", marks=pytest.mark.slow)])
@pytest.mark.parametrize("form", ["onnx", pytest.param("onnx-int8", marks=pytest.mark.slow)])
def test_as_onnx_it_reads_both_texts_as_in_torch(
    trained: Trained, command: Bench, tmp_path: Path, name: str, form: str
) -> None:
    store, result, rows = trained(name)
    folder, given = tmp_path / "model", [*zip(rows["one"], rows["two"], strict=True)]
    _, forms = convert(store, result, folder, form=form, into=None, tolerance=1.0, force=False)
    found = {one.form: one for one in forms}
    assert (found["ONNX"].changed, found["ONNX"].accuracy) == (0, result.metrics["test"]["accuracy"])
    assert found["ONNX"].max_probability_difference < 1e-4
    loaded = bench.load(folder)
    answers = loaded.predict(given)
    labels = [one.label for one in answers]
    assert forms[-1].changed == sum(
        one != other for one, other in zip(labels, rows["prediction"], strict=True)
    )
    assert form == "onnx-int8" or labels == rows["prediction"].tolist()
    each = [loaded.predict([pair])[0].probabilities for pair in given]  # of any length, not of this batch's
    if form == "onnx":
        expected = [[*one.probabilities.values()] for one in answers]
        assert np.abs([[*one.values()] for one in each] - np.array(expected)).max() < 1e-5
    one, two = given[0]
    line = f"{labels[0]}\t{each[0][labels[0]]:.4f}\t{one}\t{two}\n"
    assert command("classify", folder, one, two) == (0, line, "")
    kinds = ", `token_type_ids`, of any size" in (folder / "README.md").read_text(encoding="utf-8")
    assert kinds == (name == "head")  # a Llama has none


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "form"), [*((name, None) for name in RUNS), ("head", "onnx"), ("decoder", "onnx")]
)
def test_the_code_in_the_card_reads_pairs_without_bench(
    trained: Trained, tmp_path: Path, name: str, form: str | None
) -> None:
    store, result, rows = trained(name)
    if form is None:
        export.export(store, result, tmp_path / "model")
    else:
        convert(store, result, tmp_path / "model", form=form, into=None, tolerance=1.0, force=False)
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    some = rows.head(6)
    given = [*some[["one", "two"]].itertuples(index=False, name=None)]
    code = code.replace('[("put a text here", "and its second one here")]', repr(given))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", f"{code}\nimport sys\nassert 'bench' not in sys.modules"],
        cwd=tmp_path / "model",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = np.array(
        [json.loads(row) for row in re.findall(r"^\S+ (\[.*?\]) ", done.stdout, flags=re.MULTILINE)]
    )
    expected = [[*one.probabilities.values()] for one in bench.load(tmp_path / "model").predict(given)]
    assert np.abs(found - expected).max() < 1e-3


def test_a_text_without_its_second_one_is_refused(
    trained: Trained, train: Train, command: Bench, tmp_path: Path
) -> None:
    store, result, _ = trained("head")
    export.export(store, result, tmp_path / "model")
    for arguments, lines, message in (
        (["a", "b", "c"], "", "3 texts: two make a pair"),
        ([], "a\tb\nc\n", "line 2: must hold two texts with a tab between them"),
    ):
        code, _, err = command("classify", tmp_path / "model", *arguments, lines=lines)
        assert code == 2
        assert message in err
    loaded = bench.load(tmp_path / "model")
    with pytest.raises(DataError, match=r"text 1 of 1: .* reads two texts at a time, as a pair"):
        loaded.predict(["alone"])
    with pytest.raises(DataError, match="text 2 of 2 is empty"):
        loaded.predict([("a", "b"), ("a", " ")])
    with pytest.raises(DataError, match="reads one text at a time"):
        classifier.rebuild(*train("method=lora")).predict([("a", "b")])


def test_latency_is_measured_of_pairs_in_a_file(trained: Trained, command: Bench, pairs: Path) -> None:
    store, result, _ = trained("head")
    asked = ("latency", result.run_id, "--results", store.folder, "--file", pairs, "--column", "one")
    code, _, err = command(*asked)
    assert (code, "no such column" in err) == (2, True)
    assert command(*asked, "--pair-column", "two")[0] == 0
    assert json.loads((store.run_folder(result.run_id) / "latency.json").read_text())["texts"] == 120


def test_a_request_gives_the_second_texts_beside_the_first(trained: Trained, train: Train) -> None:
    found = classifier.rebuild(*trained("head")[:2])
    with TestClient(serve.make_app(found, LIMITS)) as client:
        answer = client.post("/classify", json={"texts": ["第1期", "x"], "pairs": ["美元", "y"]})
        assert answer.json()["predictions"][0]["label"] == found.predict([("第1期", "美元")])[0].label
        for body, fault in (
            ({"texts": ["a"]}, "pairs: is missing; this classifier reads two texts"),
            ({"texts": ["a"], "pairs": ["b", "c"]}, "pairs: has 2 texts for the 1 in texts"),
            ({"texts": ["a"], "pairs": [" "]}, "pairs.0: is empty"),
        ):
            refused = client.post("/classify", json=body)
            assert refused.status_code == 422
            assert refused.json()["detail"].startswith(fault)
    with TestClient(serve.make_app(classifier.rebuild(*train("method=lora")), LIMITS)) as client:
        refused = client.post("/classify", json={"texts": ["a"], "pairs": ["b"]})
        assert (refused.status_code, refused.json()["detail"][:6]) == (422, "pairs:")


def test_a_file_is_filled_into_the_runs_template(
    train: Train, pairs: Path, command: Bench, tmp_path: Path
) -> None:
    store, result = train(f"data.train={pairs}", "data.text_template='{one} / {two}'", "method=lora")
    assert result.metrics["test"]["accuracy"] > 0.9
    export.export(store, result, tmp_path / "model")
    pd.DataFrame({"one": ["第1期"], "two": ["美元"]}).to_csv(tmp_path / "in.csv", index=False)
    code, out, _ = command("classify", tmp_path / "model", "--file", tmp_path / "in.csv", "--json")
    assert code == 0
    (expected,) = bench.load(tmp_path / "model").predict(["第1期 / 美元"])
    assert json.loads(out)["probability_money"] == pytest.approx(expected.probabilities["money"], abs=1e-6)
