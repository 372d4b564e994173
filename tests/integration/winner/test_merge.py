"""A merged model is the base plus what the adapter adds, and says how far it agrees with its run."""

import json
from collections.abc import Callable
from pathlib import Path

import bitsandbytes
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.stats import ttest_rel

import bench
from bench.errors import ConfigError, RunError
from bench.results.store import Result, Store
from bench.winner import agreement
from bench.winner.conversion import convert

Train = Callable[..., tuple[Store, Result]]
LAYER = "bert.encoder.layer.0.attention.self.query"
FORMS = ["as trained", "reloaded adapter", "merged, fp32", "merged, bf16", "merged, NF4 again"]


def merge_run(
    found: tuple[Store, Result],
    folder: Path,
    *,
    into: str | None = None,
    tolerance: float = 1.0,
    force: bool = False,
) -> dict[str, agreement.Agreement]:
    store, result = found
    _, rows = convert(store, result, folder, form="merged", into=into, tolerance=tolerance, force=force)
    assert [one.form for one in rows] == FORMS
    assert rows[0].accuracy == result.metrics["test"]["accuracy"]
    assert rows[0].f1_macro == pytest.approx(result.metrics["test"]["f1_macro"])
    return {one.form: one for one in rows}


def learned(store: Store, result: Result) -> torch.Tensor:
    """What the adapter adds to the layer: B A alpha / r."""
    trained = load_file(store.run_folder(result.run_id) / "best.safetensors")
    a, b = (trained[f"base_model.model.{LAYER}.lora_{one}.default.weight"] for one in "AB")
    return b @ a * (16 / 8)


@pytest.mark.parametrize(
    ("method", "base"),
    [
        ("lora", "bert"),
        ("pissa", "bert"),
        pytest.param("dora", "bert", marks=pytest.mark.slow),
        pytest.param("ia3", "bert", marks=pytest.mark.slow),
        pytest.param("qdora", "bert", marks=pytest.mark.slow),
        pytest.param("loftq", "bert", marks=pytest.mark.slow),
        pytest.param("lora", "llama", marks=pytest.mark.slow),
    ],
)
def test_merged_into_what_it_was_trained_on_a_model_predicts_the_same(
    train: Train, tmp_path: Path, method: str, base: str
) -> None:
    rows = merge_run(train(f"method={method}", base=base), tmp_path / "merged")
    assert rows["reloaded adapter"].max_score_difference < 1e-3
    assert rows["merged, fp32"].max_score_difference < 1e-3
    assert rows["merged, fp32"].changed_share == 0
    assert rows["merged, NF4 again"].max_score_difference > rows["merged, fp32"].max_score_difference


def test_the_merged_weights_are_the_bases_plus_what_was_learned(
    train: Train, tmp_path: Path, tiny_bert: Path
) -> None:
    store, result = train("method=lora")
    rows = merge_run((store, result), tmp_path / "merged")
    before = load_file(tiny_bert / "model.safetensors")[f"{LAYER}.weight"]
    after = load_file(tmp_path / "merged" / "model.safetensors")[f"{LAYER}.weight"]
    assert torch.allclose(after, before + learned(store, result), atol=1e-6)
    written = json.loads((tmp_path / "merged" / "agreement.json").read_text())
    assert written["texts"] == 18
    assert [one["form"] for one in written["forms"]] == FORMS
    assert written["forms"][4]["changed_share"] == rows["merged, NF4 again"].changed_share
    card = (tmp_path / "merged" / "README.md").read_text(encoding="utf-8")
    assert "| merged, NF4 again |" in card
    assert "peft" not in card
    texts = agreement.read_test(result).texts
    trained = store.read_predictions(result.run_id).query("split == 'test'")["prediction"].tolist()
    assert [one.label for one in bench.load(tmp_path / "merged").predict(texts)] == trained


def test_a_4_bit_runs_adapter_goes_into_either_base(train: Train, tmp_path: Path, tiny_bert: Path) -> None:
    """The values that 4 bits stood for are those of bitsandbytes, asked without a model."""
    store, result = train("method=qlora")
    base = load_file(tiny_bert / "model.safetensors")[f"{LAYER}.weight"]
    packed, state = bitsandbytes.functional.quantize_4bit(base, quant_type="nf4", compress_statistics=True)
    held = bitsandbytes.functional.dequantize_4bit(packed, state)
    differences = {}
    for into, before in (("4bit", held), ("full", base)):
        rows = merge_run((store, result), tmp_path / into, into=into)
        after = load_file(tmp_path / into / "model.safetensors")[f"{LAYER}.weight"]
        assert torch.allclose(after, before + learned(store, result), atol=1e-5)
        differences[into] = rows["merged, fp32"].max_score_difference
    assert differences["4bit"] < 1e-3 < differences["full"]
    assert "4-bit base stood for" in (tmp_path / "4bit" / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_model_that_writes_labels_is_merged_too(train: Train, tmp_path: Path) -> None:
    found = train("method=qlora", "task=label_likelihood", "model.template='{text} Topic: '", base="llama")
    assert merge_run(found, tmp_path / "merged")["merged, fp32"].max_score_difference < 1e-2


def test_a_merge_that_changes_too_much_leaves_nothing_unless_it_is_forced(
    train: Train, tmp_path: Path
) -> None:
    found = train("method=lora")
    with pytest.raises(
        RunError, match=r"merged into full, 0 of 18 test predictions change \(0\.00%\).*nothing was"
    ):
        merge_run(found, tmp_path / "merged", tolerance=-1)  # so that any change is too much
    assert list(tmp_path.iterdir()) == []
    merge_run(found, tmp_path / "merged", tolerance=-1, force=True)
    assert (tmp_path / "merged" / "model.safetensors").exists()


def test_changed_labels_are_counted_and_tested_as_pairs() -> None:
    """The p is that of Student's paired test on which answers are right."""
    random = np.random.default_rng(0)
    labels, trained = random.integers(3, size=200), random.normal(size=(200, 3))
    trained[np.arange(200), labels] += 2
    scores = trained.copy()
    scores[:20] = np.roll(scores[:20], 1, axis=1)
    found = agreement.compare("other", scores, trained, agreement.Held(["text"] * 200, labels))
    right, other = (one.argmax(axis=1) == labels for one in (scores, trained))
    assert (found.changed, found.changed_share) == (20, 0.1)
    assert found.accuracy == right.mean()
    assert found.p_value == pytest.approx(
        ttest_rel(right.astype(float), other.astype(float)).pvalue, rel=1e-6
    )
    assert 0 < found.p_value < 0.05
    same = agreement.compare("same", trained, trained, agreement.Held(["text"] * 200, labels))
    assert (same.changed, same.p_value, same.max_probability_difference) == (0, pytest.approx(1), 0)
    one = agreement.compare("one", scores[:1], trained[:1], agreement.Held(["text"], labels[:1]))
    assert one.p_value is None
    assert "unknown" in agreement.tabulate([one], multi_label=False)


def test_what_cannot_be_merged_says_why(train: Train, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no adapter to merge; `bench export` writes what it has"):
        merge_run(train("method=full", "train.lr=1e-3"), tmp_path / "merged")
    with pytest.raises(ConfigError, match=r"--into 4bit: .* not in 4 bits; use --into full"):
        merge_run(train("method=lora"), tmp_path / "merged", into="4bit")
    assert list(tmp_path.iterdir()) == []
