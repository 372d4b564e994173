"""ONNX gives torch's probabilities, whatever the batch, and the labels that int8 changes are counted."""

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from transformers import pipeline

import bench
from bench.config.schema import Config
from bench.errors import ConfigError, RunError
from bench.extras.serve import RequestLimits, make_app
from bench.results.store import Result, Store
from bench.run.run import run
from bench.winner import agreement, classifier
from bench.winner.classifier import normalise, rebuild
from bench.winner.conversion import convert

Bench = Callable[..., tuple[int, str, str]]
Compose = Callable[..., Config]
Found = tuple[Store, Result]
Train = Callable[..., Found]
RUNS = {
    "full": (("method=full", "train.lr=1e-3"), "bert"),
    "lora": (("method=lora",), "bert"),
    "qlora": (("method=qlora",), "bert"),
    "head": (("method=full", "method.trainable=head"), "bert"),
    "pissa": (("method=pissa",), "bert"),
    "llama": (("method=lora",), "llama"),
    "gpt2": (("method=full", "train.lr=1e-3"), "gpt2"),
}
QUICK = ("lora",)
TEXTS = ["股票", "美元 人民币 汇率 央行 干预 " * 4, "国债 收益率", "指数 上涨 下跌", "股 " * 400]


def write(
    found: Found, folder: Path, *, form: str = "onnx", tolerance: float = 1.0
) -> list[agreement.Agreement]:
    store, result = found
    _, rows = convert(store, result, folder, form=form, into=None, tolerance=tolerance, force=False)
    return rows


@pytest.fixture(scope="module")
def onnx_of(train: Train, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The ONNX folder of a run."""
    place = tmp_path_factory.mktemp("onnx")

    def find(name: str, form: str = "onnx") -> Path:
        overrides, base = RUNS[name]
        folder = place / f"{name}-{form}"
        if not folder.exists():
            write(train(*overrides, base=base), folder, form=form)
        return folder

    return find


@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=[] if one in QUICK else pytest.mark.slow) for one in RUNS]
)
def test_onnx_gives_torchs_probabilities_at_any_batch_size_and_length(
    train: Train, onnx_of: Callable[..., Path], name: str
) -> None:
    overrides, base = RUNS[name]
    trained = classifier.rebuild(*train(*overrides, base=base))
    held = bench.load(onnx_of(name))
    expected = normalise(np.concatenate([trained.score([text]) for text in TEXTS]), None)
    assert len({*expected.argmax(axis=1)}) > 1
    for size in (1, 2, 5):
        assert np.abs(normalise(held.score(TEXTS, batch_size=size), None) - expected).max() < 1e-4


def test_an_onnx_folder_says_how_it_agrees_and_predicts_so(
    train: Train, onnx_of: Callable[..., Path]
) -> None:
    folder = onnx_of("lora")
    store, result = train("method=lora")
    written = json.loads((folder / "agreement.json").read_text())
    assert [one["form"] for one in written["forms"]] == ["as trained", "merged, fp32", "ONNX"]
    for one in written["forms"]:
        assert (one["changed"], one["p_value"]) == (0, pytest.approx(1))
        assert one["accuracy"] == result.metrics["test"]["accuracy"]
        assert one["max_probability_difference"] < 1e-4
    rows = store.read_predictions(result.run_id).query("split == 'test'")
    texts = agreement.read_test(result).texts
    assert [one.label for one in bench.load(folder).predict(texts)] == rows["prediction"].tolist()
    assert not (folder / "model.safetensors").exists()
    assert "| ONNX  " in (folder / "README.md").read_text(encoding="utf-8")


def test_the_command_writes_int8_and_counts_the_labels_that_it_changes(
    train: Train, command: Bench, onnx_of: Callable[..., Path], tmp_path: Path
) -> None:
    """The count is that of the folder's own predictions on the test split, beside the run's."""
    store, result = train("method=lora")
    folder, options = tmp_path / "small", ("--format", "onnx-int8", "--tolerance", "1")
    code, out, err = command("export", result.run_id, folder, *options, "--results", store.folder)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == f"{result.run_id} (lora): its ONNX model is in {folder}"
    written = {one["form"]: one for one in json.loads((folder / "agreement.json").read_text())["forms"]}
    assert list(written) == ["as trained", "merged, fp32", "ONNX", "ONNX, int8"]
    small, whole = ((path / "model.onnx").stat().st_size for path in (folder, onnx_of("lora")))
    assert small < 0.35 * whole
    texts = agreement.read_test(result).texts
    trained = store.read_predictions(result.run_id).query("split == 'test'")
    found = bench.load(folder).predict(texts)
    changed = sum(
        one.label != label for one, label in zip(found, trained["prediction"].tolist(), strict=True)
    )
    assert written["ONNX, int8"]["changed"] == changed
    assert f" {changed} ({changed / len(texts):.2%}) |" in out
    values = np.array([list(one.probabilities.values()) for one in found])
    expected = [list(one.probabilities.values()) for one in rebuild(store, result).predict(texts)]
    difference = np.abs(values - expected).max()
    assert written["ONNX, int8"]["max_probability_difference"] == pytest.approx(difference, abs=1e-4)
    assert difference > 1e-4 > written["ONNX"]["max_probability_difference"]


@pytest.mark.slow
def test_a_form_that_changes_too_much_leaves_nothing(train: Train, tmp_path: Path) -> None:
    with pytest.raises(
        RunError,
        match=r"as ONNX, int8, \d+ of 18 test predictions change \(.*%\).*Take --format onnx instead",
    ):
        write(train("method=lora"), tmp_path / "small", form="onnx-int8", tolerance=-1)
    assert list(tmp_path.iterdir()) == []


def test_commands_take_an_onnx_folder_as_any_other(
    train: Train, command: Bench, onnx_of: Callable[..., Path]
) -> None:
    folder, (store, result) = onnx_of("lora"), train("method=lora")
    code, out, _ = command("classify", folder, "股票上涨", "国债 利率")
    assert (code, [line.split("\t")[0] for line in out.splitlines()]) == (
        0,
        [one.label for one in classifier.rebuild(store, result).predict(["股票上涨", "国债 利率"])],
    )
    assert command("latency", folder, "--results", store.folder)[0] == 0
    written = json.loads((folder / "latency.json").read_text())
    assert {one["form"] for one in written["forms"]} == {"ONNX"}
    assert written["packages"]["onnxruntime"]
    code, _, err = command("generate", folder, "股票")
    assert (code, "classifies and writes nothing" in err) == (2, True)


def test_an_onnx_folder_is_served(onnx_of: Callable[..., Path]) -> None:
    loaded = bench.load(onnx_of("lora"))

    async def ask() -> httpx.Response:
        limits = RequestLimits(texts=4, characters=50, waiting=16, batch=8)
        transport = httpx.ASGITransport(app=make_app(loaded, limits))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post("/classify", json={"texts": ["股票上涨"]})

    [answer] = asyncio.run(ask()).json()["predictions"]
    assert answer["label"] == loaded.predict(["股票上涨"])[0].label


def test_without_its_extra_onnx_says_how_to_get_it(
    train: Train,
    command: Bench,
    onnx_of: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, (store, result) = onnx_of("lora"), train("method=lora")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    remedy = 'onnxruntime is not installed; install the extra, pip install -c constraints.txt -e ".[onnx]"'
    options = ("--format", "onnx-int8", "--results", store.folder)
    for arguments in (
        ("export", result.run_id, tmp_path / "new", *options),
        ("classify", folder, "股票"),
        ("latency", folder, "--results", store.folder),
    ):
        code, out, err = command(*arguments)
        assert (code, out) == (3, "")
        assert remedy in err
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_onnx_says_why(train: Train, command: Bench, tmp_path: Path) -> None:
    written = train("method=qlora", "task=label_likelihood", "model.template='{text} Topic: '", base="llama")
    with pytest.raises(ConfigError, match=r"reads a text once for each label's words; .*--format merged"):
        write(written, tmp_path / "new")
    store, result = train("method=full", "train.lr=1e-3")
    with pytest.raises(ConfigError, match=r"no adapter to merge"):
        convert(store, result, tmp_path / "new", form="onnx", into="full", tolerance=1, force=False)
    code, _, err = command(
        "export", result.run_id, tmp_path / "new", "--into", "full", "--results", store.folder
    )
    assert (code, err.startswith("--into, --tolerance and --force: are for another form")) == (2, True)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_onnx_file_is_one_message(onnx_of: Callable[..., Path], tmp_path: Path) -> None:
    for path in onnx_of("lora").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "model.onnx").write_bytes(b"no")
    with pytest.raises(ConfigError, match=r"its model\.onnx does not load \(.*\); export it again"):
        bench.load(tmp_path)


@pytest.mark.parametrize("form", ["merged", "onnx"])
def test_a_folder_has_what_servers_look_for(train: Train, onnx_of: Callable[..., Path], form: str) -> None:
    """As text-embeddings-inference (router/src/lib.rs) and vLLM read it."""
    _, result = train("method=lora")
    folder = onnx_of("lora", form)
    settings = json.loads((folder / "config.json").read_text())
    assert settings["architectures"] == ["BertForSequenceClassification"]
    assert settings["problem_type"] == "single_label_classification"
    assert settings["id2label"] == {str(number): label for number, label in enumerate(result.labels)}
    assert settings["label2id"] == {label: number for number, label in enumerate(result.labels)}
    lengths = json.loads((folder / "sentence_bert_config.json").read_text())
    assert lengths == {"max_seq_length": result.model["max_length"], "do_lower_case": False}
    assert (folder / "tokenizer.json").is_file()


def test_a_merged_folder_predicts_the_same_in_plain_transformers(
    train: Train, onnx_of: Callable[..., Path]
) -> None:
    store, result = train("method=lora")
    rows = store.read_predictions(result.run_id).query("split == 'test'")
    classify = pipeline("text-classification", model=str(onnx_of("lora", "merged")), device="cpu")
    found = classify(agreement.read_test(result).texts, batch_size=4)
    assert [one["label"] for one in found] == rows["prediction"].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "onnx-int8"])
def test_the_code_in_the_card_predicts_the_same_without_bench(
    train: Train, onnx_of: Callable[..., Path], form: str
) -> None:
    folder = onnx_of("lora", form)
    texts = agreement.read_test(train("method=lora")[1]).texts[:6]
    card = (folder / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    code = (
        code.replace('["put your texts here"]', repr(texts))
        + "\nimport sys\nassert 'bench' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=folder, capture_output=True, text=True, check=True
    )
    found = re.findall(r"^(\S+) (\[.*?\]) ", done.stdout, flags=re.MULTILINE)
    expected = bench.load(folder).predict(texts)
    assert [label for label, _ in found] == [one.label for one in expected]
    values = np.array([json.loads(row) for _, row in found])
    other = np.array([list(one.probabilities.values()) for one in expected])
    assert np.abs(values - other).max() < (1e-4 if form == "onnx" else 0.1)  # int8 scales go by the batch


@pytest.mark.slow
def test_the_embedded_minilm_keeps_its_labels(compose: Compose, tmp_path: Path) -> None:
    result = run(
        compose(
            *("experiment=quickstart", "method=qlora", "data.train_size=200", "data.validation_size=100"),
            *("data.test_size=200", "train.lr=3e-3", "train.max_steps=40", "train.warmup_steps=4"),
            *("train.eval_steps=40", "train.precision=fp32", "train.keep=best", "track.mode=disabled"),
            *("devices=cpu", f"results_dir={tmp_path}/results", f"cache_dir={tmp_path}/cache"),
        )
    )
    assert result.status == "success", result.error
    found = Store(tmp_path / "results"), result
    rows = {one.form: one for one in write(found, tmp_path / "small", form="onnx-int8")}
    assert rows["ONNX"].changed == rows["merged, fp32"].changed
    assert rows["ONNX"].max_probability_difference == pytest.approx(
        rows["merged, fp32"].max_probability_difference, abs=1e-4
    )
    assert rows["ONNX, int8"].changed_share < 0.05
    assert (tmp_path / "small" / "model.onnx").stat().st_size < 26e6  # 22.7 million weights
