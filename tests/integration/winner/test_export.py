"""What a run trained, as a folder: it predicts what the run predicted, also by code that has no bench."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import bench
from bench.data import dataset
from bench.errors import ConfigError, DataError, MissingError
from bench.results.store import Result, Store
from bench.run import manifest
from bench.train import checkpoint
from bench.winner import choose, classifier, export

Train = Callable[..., tuple[Store, Result]]
RUNS = {
    "lora": (("method=lora",), "bert"),
    "qlora": (("method=qlora",), "bert"),
    "full": (("method=full", "train.lr=1e-3"), "bert"),
    "head": (("method=full", "method.trainable=head"), "bert"),
    "pissa": (("method=pissa",), "bert"),
    "written": (("method=qlora", "task=label_likelihood", "model.template='{text} Topic: '"), "llama"),
    "int8": (("method=int8_lora",), "bert"),
    "dora": (("method=dora",), "bert"),
    "loftq": (("method=loftq",), "bert"),
    "ia3": (("method=ia3",), "bert"),
    "lora_plus": (("method=lora_plus",), "bert"),
    "rslora": (("method=rslora", "+method.adapter.init_lora_weights=pissa"), "bert"),
    "llama": (("method=lora",), "llama"),
    "gpt2": (("method=full", "train.lr=1e-3"), "gpt2"),
}
QUICK = ("lora", "qlora", "full", "pissa", "written")


@pytest.fixture(scope="module")
def exported(
    train: Train, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Path, pd.DataFrame]]:
    """The folder of an exported run, and the test split as the run predicted it, with the texts."""
    folder = tmp_path_factory.mktemp("exported")

    def find(name: str) -> tuple[Path, pd.DataFrame]:
        overrides, base = RUNS[name]
        store, result = train(*overrides, base=base)
        if not (folder / name).exists():
            export.export(store, result, folder / name)
        found = store.read_predictions(result.run_id)
        rows = found[found["split"] == "test"].reset_index(drop=True)
        texts = dataset.load(classifier.read_config(result).data).splits["test"]["text"]
        return folder / name, rows.assign(text=texts)

    return find


def probabilities_of(rows: pd.DataFrame, folder: Path) -> npt.NDArray[np.float64]:
    """The run's probabilities with the temperature that its export has."""
    columns = [name for name in rows if name.startswith("probability_")]
    powers = rows[columns].to_numpy(dtype=float) ** (1 / manifest.read(folder).temperature)
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=[] if one in QUICK else pytest.mark.slow) for one in RUNS]
)
def test_an_exported_folder_predicts_what_the_run_predicted(
    exported: Callable[[str], tuple[Path, pd.DataFrame]], name: str
) -> None:
    folder, rows = exported(name)
    found = bench.load(folder).predict(rows["text"].tolist())
    assert [one.label for one in found] == rows["prediction"].tolist()
    values = np.array([list(one.probabilities.values()) for one in found])
    assert np.abs(values - probabilities_of(rows, folder)).max() < 1e-4
    assert list(found[0].probabilities) == ["债券", "外汇", "股市"]


@pytest.mark.slow
def test_the_code_in_the_card_predicts_the_same_without_bench(
    exported: Callable[[str], tuple[Path, pd.DataFrame]],
) -> None:
    names = ("lora", "qlora", "full", "pissa", "written")
    lines, expected, values = ["import os, sys"], [], []
    for name in names:
        folder, rows = exported(name)
        card = (folder / "README.md").read_text(encoding="utf-8")
        (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
        some = rows.head(6)
        expected.append(some)
        values.append(probabilities_of(some, folder))
        code = code.replace('["put your texts here"]', repr(some["text"].tolist()))
        lines += [f"os.chdir({str(folder)!r})", code]
    lines.append("assert 'bench' not in sys.modules")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", "\n".join(lines)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = re.findall(r"^(\S+) (\[.*?\]) ", done.stdout, flags=re.MULTILINE)
    rows = pd.concat(expected)
    assert [label for label, _ in found] == rows["prediction"].tolist()
    distances = np.abs(np.array([json.loads(row) for _, row in found]) - np.concatenate(values)).max(axis=1)
    assert distances.reshape(5, 6).max(axis=1) == pytest.approx(0, abs=2e-2)  # 4-bit layers round otherwise
    assert distances.reshape(5, 6)[[0, 2, 3]].max() < 1e-3


def test_an_adapter_is_in_pefts_layout_and_names_its_base(
    exported: Callable[[str], tuple[Path, pd.DataFrame]], tiny_bert: Path
) -> None:
    folder, _ = exported("qlora")
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert (settings["peft_type"], settings["r"], settings["base_model_name_or_path"]) == (
        "LORA",
        8,
        str(tiny_bert),
    )
    names = load_file(folder / "adapter_model.safetensors")
    assert sum("lora_A" in name for name in names) == 4
    assert any("classifier" in name for name in names)
    labels = json.loads((folder / "config.json").read_text())["id2label"]
    assert labels == {"0": "债券", "1": "外汇", "2": "股市"}
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "trained on the base in nf4" in card
    assert 'bnb_4bit_quant_type="nf4"' in card
    assert "Data (files): unknown" in card


def test_a_start_taken_out_of_the_base_is_exported_for_the_base_as_it_is(
    exported: Callable[[str], tuple[Path, pd.DataFrame]],
) -> None:
    """W - s B0 A0 + s B A is an adapter of rank 2 r on W."""
    folder, _ = exported("pissa")
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"], settings["init_lora_weights"]) == (16, 32, True)
    weights = load_file(folder / "adapter_model.safetensors")
    assert {tuple(one.shape) for name, one in weights.items() if "lora_A" in name} == {(16, 64)}


def test_the_best_of_a_method_is_chosen_on_validation(train: Train, tmp_path: Path) -> None:
    """Of one base and these texts; a second base needs a run_id."""
    overrides, base = RUNS["lora"]
    store, _ = train(*overrides, base=base)
    runs = [
        train(*overrides, *more, base=base)[1] for more in ((), ("lora.r=2",), ("lora.r=2", "train.lr=1e-3"))
    ]
    alone = Store(tmp_path)
    for one in runs:
        shutil.copytree(store.run_folder(one.run_id), alone.run_folder(one.run_id))
    scores = [one.metrics["validation"] for one in runs]
    best = max(range(3), key=lambda number: (scores[number]["accuracy"], -scores[number]["loss"]))
    assert choose.find_run(alone, "best:lora") == runs[best]
    other = train(*RUNS["llama"][0], base="llama")[1]
    shutil.copytree(store.run_folder(other.run_id), alone.run_folder(other.run_id))
    with pytest.raises(ConfigError, match=r"holds this method on 2 pairs of texts and base model"):
        choose.find_run(alone, "best:lora")


def test_what_cannot_be_exported_says_why(train: Train, tmp_path: Path) -> None:
    overrides, base = RUNS["lora"]
    store, result = train(*overrides, base=base)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note").touch()
    with pytest.raises(ConfigError, match=r"is not empty; give a new folder"):
        export.export(store, result, tmp_path / "full")
    with pytest.raises(ConfigError, match=r"has no such run"):
        choose.find_run(store, "0123456789ab")
    with pytest.raises(ConfigError, match=r"must be a run_id"):
        choose.find_run(store, "../results")
    with pytest.raises(ConfigError, match=r"has no run of it; there are .*lora"):
        choose.find_run(store, "best:nonsense")
    store, gone = train("method=lora", "train.keep=none", "seed=5")
    with pytest.raises(
        MissingError, match=r"train\.keep=none left no weights; train again with train\.keep=best"
    ):
        export.export(store, gone, tmp_path / "gone")
    store, baseline = train("method=majority")
    with pytest.raises(ConfigError, match=r"is a baseline without a trained network"):
        export.export(store, baseline, tmp_path / "gone")
    with pytest.raises(ConfigError, match=r"there is no such folder"):
        bench.load(tmp_path / "gone")
    with pytest.raises(ConfigError, match=r"holds no bench\.json"):
        bench.load(tmp_path / "full")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"]


def test_an_adapter_whose_base_has_changed_is_not_used(
    exported: Callable[[str], tuple[Path, pd.DataFrame]], tmp_path: Path
) -> None:
    folder, _ = exported("lora")
    found = manifest.read(folder)
    other = tmp_path / "other"
    other.mkdir()
    for path in folder.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    text = (other / "bench.json").read_text().replace(found.base.content, "0" * 16)
    (other / "bench.json").write_text(text)
    with pytest.raises(ConfigError, match=r"bring back the base as it was"):
        bench.load(other)
    (other / "bench.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"bench\.json: cannot be read"):
        bench.load(other)


def test_texts_without_content_are_refused_by_number(
    exported: Callable[[str], tuple[Path, pd.DataFrame]],
) -> None:
    folder, _ = exported("lora")
    found = bench.load(folder)
    assert found.predict([]) == []
    with pytest.raises(DataError, match=r"text 2 of 2 is empty"):
        found.predict(["股票", " \n"])


def test_a_damaged_adapter_is_one_message(
    exported: Callable[[str], tuple[Path, pd.DataFrame]], tmp_path: Path
) -> None:
    folder, _ = exported("lora")
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "adapter_model.safetensors").write_bytes(b"no")
    with pytest.raises(ConfigError, match=r"its model does not load \(.*\); export it again"):
        bench.load(tmp_path)


def test_the_best_weights_are_what_is_exported(
    train: Train, exported: Callable[[str], tuple[Path, pd.DataFrame]]
) -> None:
    overrides, base = RUNS["lora"]
    store, result = train(*overrides, base=base)
    trained = load_file(store.run_folder(result.run_id) / checkpoint.BEST)
    folder, _ = exported("lora")
    saved = load_file(folder / "adapter_model.safetensors")
    for name, value in trained.items():
        stem = name.replace(".default", "").replace("modules_to_save.", "")
        assert torch.equal(saved[stem.replace(".modules_to_save", "")], value), name
