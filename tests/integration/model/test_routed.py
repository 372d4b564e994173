"""Routed LoRA computes what its formula says, trains its gates, and says what these chose."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import peft
import pytest
import torch
from torch import nn
from trainings import forget_temperature
from transformers import AutoModelForSequenceClassification, set_seed

import bench
from bench.config.schema import Config
from bench.data import dataset
from bench.errors import ConfigError, StoreError
from bench.model import build as builder
from bench.model.adapters.gates import find_gates
from bench.results.store import Result, Store
from bench.run.run import run
from bench.winner import classifier, export, latency, together
from bench.winner.conversion import convert

Compose = Callable[..., Config]
Train = Callable[..., tuple[Store, Result]]
ROUTED = "method=routed_lora"
NF4 = ("method.quantization=nf4", "method.double_quant=true")
SHORT = ("train.lr=1e-2", "train.max_steps=5", "train.warmup_steps=0", "lora.dropout=0.3")


def build(config: Config) -> Any:
    """The run's network, fresh from its seed."""
    set_seed(config.seed)
    return builder.build(
        config,
        folder=Path(str(config.model.path)),
        labels=["a", "b", "c"],
        pad_token_id=0,
        device=torch.device("cpu"),
        precision="fp32",
    )


def losses_of(config: Config) -> list[float]:
    result = run(config)
    assert result.status == "success", result.error
    return [
        row["loss"] for row in Store(Path(config.results_dir)).read_history(result.run_id) if "loss" in row
    ]


def find_layers(network: nn.Module) -> dict[str, Any]:
    return {name: one for name, one in network.named_modules() if isinstance(one, peft.tuners.lora.LoraLayer)}


@pytest.mark.parametrize("experts", [1, 2, 4])
@torch.no_grad()
def test_a_layer_computes_the_weighted_sum_of_its_experts(compose_tiny: Compose, experts: int) -> None:
    network = build(
        compose_tiny(ROUTED, f"method.experts={experts}", "lora.r=8", "lora.alpha=24")
    ).model.eval()
    torch.manual_seed(1)
    for layer in find_layers(network).values():
        for part in (layer.lora_A, layer.lora_B, layer.lora_gate):
            part["default"].weight.normal_()
        a = layer.lora_A["default"].weight.view(experts, 8 // experts, -1)
        b = layer.lora_B["default"].weight.view(-1, experts, 8 // experts)
        x = torch.randn(3, 5, 64)
        weights = torch.einsum("ei,rti->rte", layer.lora_gate["default"].weight, x).softmax(-1)
        each = torch.einsum("oej,eji,rti->rteo", b, a, x) * 24 / (8 / experts)  # a LoRA of rank 8 / experts
        expected = layer.base_layer(x) + torch.einsum("rte,rteo->rto", weights, each)
        assert torch.allclose(layer(x), expected, atol=1e-3)
    assert len(find_layers(network)) == 4


@pytest.mark.parametrize("lines", [(), pytest.param(NF4, marks=pytest.mark.slow)])
def test_one_expert_is_lora(compose_tiny: Compose, lines: tuple[str, ...]) -> None:
    """Also in what it draws: a gate takes no random number, and the gate of one expert nothing from it."""
    routed = losses_of(compose_tiny(ROUTED, "method.experts=1", *SHORT, *lines))
    assert routed == pytest.approx(losses_of(compose_tiny("method=lora", *SHORT, *lines)), abs=1e-5)


def test_a_gate_begins_as_lora_of_the_same_rank_and_learns(compose_tiny: Compose) -> None:
    config = compose_tiny(ROUTED, "train.lr=1e-2", "lora.dropout=0.3")
    plain, routed = losses_of(compose_tiny("method=lora", *SHORT, "train.warmup_steps=2")), losses_of(config)
    assert routed[:2] == pytest.approx(
        plain[:2], abs=1e-5
    )  # B is zero before the first step, the gate after it
    assert routed[4] != pytest.approx(plain[4], abs=1e-4)
    assert sum(routed[-5:]) < sum(routed[:5]) * 0.95
    [folder] = (Path(config.results_dir) / "runs").glob("*/gates.csv")
    assert pd.read_csv(folder)["largest"].min() > 0.26


@pytest.mark.slow
def test_gradient_checkpointing_changes_nothing(compose_tiny: Compose) -> None:
    plain = losses_of(compose_tiny(ROUTED, *SHORT))
    assert losses_of(compose_tiny(ROUTED, *SHORT, "train.gradient_checkpointing=true")) == pytest.approx(
        plain, abs=1e-5
    )


def test_the_gate_is_counted(compose_tiny: Compose) -> None:
    plain, routed = (build(compose_tiny(f"method={name}")) for name in ("lora", "routed_lora"))
    gates = 4 * 4 * 64  # of four layers, four experts and 64 features
    assert routed.choices["gate_parameters"] == gates
    assert routed.trainable_parameters == plain.trainable_parameters + gates
    assert routed.total_parameters == plain.total_parameters + gates
    assert "gate_parameters" not in plain.choices
    assert len(find_gates(routed.model)) == 4


def read_by_hand(network: Any, rows: list[list[int]]) -> dict[str, npt.NDArray[np.float64]]:
    """By layer each text's mean weights over its tokens, one text at a time and so without padding."""
    found: dict[str, list[npt.NDArray[np.float64]]] = {}
    for layer, module in find_layers(network).items():

        def look(one: Any, inputs: Any, layer: str = layer) -> None:
            logits = inputs[0][0].double() @ one.lora_gate["default"].weight.double().T
            powers = np.exp(logits.numpy())
            found.setdefault(layer, []).append((powers / powers.sum(1, keepdims=True)).mean(0))

        module.register_forward_pre_hook(look)
    with torch.no_grad():
        for ids in rows:
            network(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.int64))
    return {layer.removeprefix("base_model.model."): np.array(weights) for layer, weights in found.items()}


@pytest.mark.parametrize("base", ["bert", pytest.param("llama", marks=pytest.mark.slow)])
def test_gates_csv_is_the_mean_over_tokens_and_texts_of_each_label(train: Train, base: str) -> None:
    store, result = train(ROUTED, base=base)
    gates, found = store.read_gates(result.run_id), store.read_predictions(result.run_id)
    labels = found[found["split"] == "test"]["label"].to_numpy()
    trained = classifier.rebuild(store, result)
    texts = dataset.load(classifier.read_config(result).data).splits["test"]["text"].tolist()
    split = trained.tokenise(texts)
    rows = [split.row(place).tolist() for place in range(len(split))]
    assert len({len(one) for one in rows}) > 1  # so that some are padded
    expected = read_by_hand(trained.model, rows)
    assert set(gates["layer"]) == set(expected)
    for _, one in gates.iterrows():
        mean = expected[one["layer"]][labels == one["label"]].mean(axis=0)
        weights = one[[f"expert_{number}" for number in range(1, 5)]].to_numpy(dtype=float)
        assert weights == pytest.approx(mean, abs=1e-4)
        assert one["texts"] == (labels == one["label"]).sum()
        assert weights.max() <= one["largest"] + 1e-6


def test_a_run_without_gates_has_no_such_file(train: Train) -> None:
    store, result = train("method=lora")
    with pytest.raises(StoreError, match=r"gates\.csv: No such file"):
        store.read_gates(result.run_id)


FORMS = {
    "plain": (ROUTED,),
    "written": (ROUTED, *NF4, "task=label_likelihood", "model.template='{text} Topic: '"),
}


@pytest.mark.parametrize("form", FORMS)
def test_an_export_answers_as_the_run_and_peft_alone_refuses_it(
    train: Train, tmp_path: Path, form: str
) -> None:
    store, result = train(*FORMS[form], base="llama" if form == "written" else "bert")
    export.export(store, result, tmp_path / "made")
    found = store.read_predictions(result.run_id)
    rows = found[found["split"] == "test"]
    texts = dataset.load(classifier.read_config(result).data).splits["test"]["text"].tolist()
    loaded = bench.load(tmp_path / "made")
    names = [f"probability_{label}" for label in result.labels]
    powers = rows[names].to_numpy(dtype=float) ** (1 / loaded.manifest.temperature)
    values = [list(one.probabilities.values()) for one in loaded.predict(texts)]
    assert np.array(values) == pytest.approx(powers / powers.sum(axis=1, keepdims=True), abs=1e-4)
    settings = json.loads((tmp_path / "made" / "adapter_config.json").read_text())
    assert settings["peft_type"] == "ROUTED_LORA"
    card = (tmp_path / "made" / "README.md").read_text(encoding="utf-8")
    assert "PEFT alone cannot load this folder" in card
    assert "```python" not in card
    if form == "plain":
        base = AutoModelForSequenceClassification.from_pretrained(
            result.config["model"]["path"], num_labels=3
        )
        with pytest.raises(KeyError, match="ROUTED_LORA"):
            peft.PeftModel.from_pretrained(base, tmp_path / "made")
        measured = latency.measure(tmp_path / "made", texts)
        assert {one.form for one in measured} == {"base + adapter"}


def test_an_export_without_its_gates_is_refused(train: Train, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    store, result = train(ROUTED)
    export.export(store, result, tmp_path / "made")
    path = tmp_path / "made" / "adapter_model.safetensors"
    save_file({name: one for name, one in load_file(path).items() if "lora_gate" not in name}, path)
    with pytest.raises(ConfigError, match=r"its model does not load \(.*adapter with gates: .*lora_gate"):
        bench.load(tmp_path / "made")


def test_it_cannot_be_merged(train: Train, tmp_path: Path) -> None:
    store, result = train(ROUTED)
    with pytest.raises(ConfigError, match=r"\(routed_lora\): cannot be merged, as its gates weigh"):
        convert(store, result, tmp_path / "made", form="merged", into=None, tolerance=1.0, force=False)
    assert not (tmp_path / "made").exists()


@pytest.mark.slow
@pytest.mark.parametrize("lines", [(), NF4])
def test_onnx_keeps_the_gates(train: Train, tmp_path: Path, lines: tuple[str, ...]) -> None:
    store, result = train(ROUTED, *lines)
    _, rows = convert(store, result, tmp_path / "made", form="onnx", into=None, tolerance=1.0, force=False)
    assert [one.form for one in rows] == ["as trained", "reloaded, fp32", "ONNX"]
    assert abs(rows[2].max_score_difference - rows[1].max_score_difference) < 1e-3
    assert rows[1].max_score_difference < 1e-2
    assert bench.load(tmp_path / "made").predict(["股票 上涨"])[0].label in result.labels


def test_what_is_not_a_linear_layer_is_refused(compose_tiny: Compose) -> None:
    config = compose_tiny(ROUTED, "lora.target_modules=[word_embeddings]")
    with pytest.raises(
        ConfigError, match=r"method\.experts=4: a gate reads a linear layer's input, and .*Embedding"
    ):
        build(config)


@pytest.mark.slow
def test_seeds_together_each_have_their_own_gates(train: Train, tmp_path: Path) -> None:
    (store, first), (_, second) = (train(ROUTED, f"seed={seed}") for seed in (0, 1))
    together.export_seeds(store, [first, second], tmp_path / "all")
    texts, joined = ["股票 上涨", "美元 汇率"], bench.load(tmp_path / "all")
    alone = [forget_temperature(classifier.rebuild(store, one)).score(texts) for one in (first, second)]
    mean = np.mean([classifier.normalise(scores, None) for scores in alone], axis=0)
    found = classifier.normalise(forget_temperature(joined).score(texts), None)
    assert found == pytest.approx(mean, abs=1e-5)
    card = (tmp_path / "all" / "README.md").read_text(encoding="utf-8")
    assert "without bench" not in card
