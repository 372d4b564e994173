"""Every preset's architecture is the public one, and can be trained with random weights by every method."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, set_seed

from bench.config.schema import CONF_DIR, Config
from bench.model import build as builder
from bench.model import random_weights, weights
from bench.run.run import run
from bench.train.meter import Meter

Compose = Callable[..., Config]

HEADS = ("lora_", "score", "classifier")  # what a run has of its own
CPU = torch.device("cpu")
# Parameters of the public checkpoints: of decoders with their head, tied ones once, of encoders with pooler.
# The figure that ChatGLM-6B is known by leaves its head out, which is as large as the word embeddings again.
PUBLIC = {
    "chatglm-6b": 6_173_286_400,
    "glm-4-9b": 9_399_951_360,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "qwen2.5-7b": 7_615_616_512,
    "llama-3.2-3b": 3_212_749_824,
    "llama-3.1-8b": 8_030_261_248,
    "mistral-7b": 7_248_023_552,
    "bert-base-chinese": 102_267_648,
    "minilm": 22_713_216,
    "smollm2": 134_515_008,
}
PRESETS = sorted(
    path.stem for path in (CONF_DIR / "model").glob("*.yaml") if path.stem not in ("local", "hub")
)
# One preset of each architecture, and what makes it small.
DECODER = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
SMALL = {"num_key_value_heads": 2, "head_dim": 16}
TINY: dict[str, dict[str, Any]] = {
    "bert-base-chinese": DECODER,
    "chatglm-6b": {
        **{"hidden_size": 64, "inner_hidden_size": 128, "num_layers": 2, "num_attention_heads": 4},
        **{"mask_token_id": 4, "gmask_token_id": 5, "bos_token_id": 6, "eos_token_id": 7},
    },
    "glm-4-9b": DECODER | SMALL | {"pad_token_id": 3, "eos_token_id": 4},
    "llama-3.2-3b": DECODER | SMALL,
    "mistral-7b": DECODER | SMALL,
    "qwen2.5-7b": DECODER | {"num_key_value_heads": 2},
    "qwen3-0.6b": DECODER | SMALL,
}


def tiny(preset: str, *more: str) -> tuple[str, ...]:
    """Overrides that make the preset small, its weights random and wide enough to learn from."""
    sizes = {"vocab_size": 1000} | TINY[preset]
    added = "+" if preset == "chatglm-6b" else ""  # whose public file does not say it
    lines = [f"model.architecture.{name}={value}" for name, value in sizes.items()]
    lines.append(f"{added}model.architecture.initializer_range=0.2")
    return (f"model={preset}", "model.weights=random", *lines, *more)


def build(config: Config, seed: int = 0) -> nn.Module:
    set_seed(seed)
    return builder.build(
        config, folder=None, labels=["a", "b", "c"], pad_token_id=0, device=CPU, precision="fp32"
    ).model


def base_of(network: nn.Module) -> dict[str, torch.Tensor]:
    """Weights by the names that they have without PEFT, those of the adapter and the head left out."""
    named = {
        name.removeprefix("base_model.model.").replace(".base_layer", ""): value
        for name, value in network.state_dict().items()
    }
    return {name: value for name, value in named.items() if not any(one in name for one in HEADS)}


def test_every_preset_is_counted() -> None:
    assert sorted(PUBLIC) == PRESETS


@pytest.mark.parametrize("preset", PRESETS)
def test_the_architecture_has_as_many_parameters_as_the_public_checkpoint(
    compose: Compose, preset: str
) -> None:
    config = compose(f"model={preset}")
    if config.model.architecture is None:
        settings = AutoConfig.from_pretrained(weights.locate(config.model))
    else:
        settings = random_weights.read_settings(config.model)
    auto = AutoModel if settings.model_type in ("bert", "chatglm") else AutoModelForCausalLM
    with torch.device("meta"):
        skeleton = auto.from_config(settings)
    assert sum(parameter.numel() for parameter in skeleton.parameters()) == PUBLIC[preset]


@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "minilm"])
def test_the_target_modules_are_there(compose: Compose, preset: str) -> None:
    config = compose(f"model={preset}")
    with torch.device("meta"):
        skeleton = AutoModel.from_config(random_weights.read_settings(config.model))
    names = {name.rpartition(".")[2] for name, _ in skeleton.named_modules()}
    asked = config.lora.target_modules
    assert asked == "all-linear" or set(asked) <= names  # PEFT's word for whatever there is


def test_lora_on_chatglm_trains_what_its_shapes_come_to(compose: Compose) -> None:
    """28 layers x r x (4,096 in + 12,288 out) of query_key_value: 458,752 r."""
    config = compose("model=chatglm-6b")
    with torch.device("meta"):
        skeleton = AutoModel.from_config(random_weights.read_settings(config.model))
        adapted = peft.get_peft_model(
            skeleton, peft.LoraConfig(r=config.lora.r, target_modules=config.lora.target_modules)
        )
    assert adapted.get_nb_trainable_parameters()[0] == 458_752 * config.lora.r == 3_670_016


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
@pytest.mark.parametrize("preset", TINY)
def test_each_architecture_is_trained_small(compose_tiny: Compose, preset: str, method: str) -> None:
    config = compose_tiny(*tiny(preset, f"method={method}", "train.lr=5e-3", "train.max_steps=60"))
    result = run(config)
    assert result.status == "success", result.error
    lines = (Path(config.results_dir) / "runs" / result.run_id / "history.jsonl").read_text().splitlines()
    losses = [row["loss"] for row in map(json.loads, lines) if "loss" in row]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    assert result.model["weights"] == result.config["model"]["weights"] == "random"
    assert result.canonical_config["model"]["revision"].startswith("random:")


@pytest.mark.parametrize("preset", ["bert-base-chinese", "llama-3.2-3b", "qwen3-0.6b"])
def test_all_runs_share_one_base_and_the_seed_gives_the_head(compose: Compose, preset: str) -> None:
    full, lora = (compose(*tiny(preset, f"method={method}", "devices=cpu")) for method in ("full", "lora"))
    first, same, other = build(full), build(full), build(full, seed=1)
    head = "classifier.weight" if preset.startswith("bert") else "score.weight"
    assert torch.equal(first.state_dict()[head], same.state_dict()[head])
    assert not torch.equal(first.state_dict()[head], other.state_dict()[head])
    adapted = base_of(build(lora))
    for name, value in base_of(first).items():
        assert torch.equal(value, base_of(other)[name]), name
        assert torch.equal(value, adapted[name]), name


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
@pytest.mark.parametrize("preset", ["bert-base-chinese", "llama-3.2-3b", "qwen3-0.6b"])
def test_random_weights_are_quantised_as_a_checkpoint_of_them_is(
    compose: Compose, tmp_path: Path, preset: str, quantization: str
) -> None:
    """transformers' own loading is the reference: save the same weights, and load them quantised."""
    base = AutoModel.from_config(random_weights.read_settings(compose(*tiny(preset)).model))
    named = build(compose(*tiny(preset, "method=full"))).state_dict()
    prefix = "bert." if preset.startswith("bert") else "model."
    base.load_state_dict(
        {name.removeprefix(prefix): named[name] for name in named if name.startswith(prefix)}
    )
    base.save_pretrained(tmp_path / "saved")
    method = ("method=qlora", f"method.quantization={quantization}", "devices=cpu")
    drawn = build(compose(*tiny(preset, *method)))
    set_seed(0)
    saved = builder.build(
        compose("model=local", f"model.path={tmp_path}/saved", *method, "lora.target_modules=[q_proj,v_proj]")
        if prefix == "model."
        else compose("model=local", f"model.path={tmp_path}/saved", *method),
        folder=tmp_path / "saved",
        labels=["a", "b", "c"],
        pad_token_id=0,
        device=CPU,
        precision="fp32",
    ).model
    kinds = [{name: type(one).__name__ for name, one in found.named_modules()} for found in (drawn, saved)]
    assert kinds[0] == kinds[1]
    expected = base_of(saved)
    for name, value in base_of(drawn).items():
        assert torch.equal(value, expected[name]), name
    linear = [one for one in drawn.modules() if type(one) in (Linear4bit, Linear8bitLt)]
    assert len(linear) == (13 if prefix == "bert." else 14)  # 2 layers of 6 and a pooler, or of 7
    if quantization == "nf4":
        weight = linear[0].weight
        assert (weight.dtype, weight.quant_state.nested) == (torch.uint8, True)
        assert dequantize_4bit(weight.data, weight.quant_state).std() == pytest.approx(0.2, rel=0.1)


def test_a_quantised_model_is_built_without_its_full_precision(compose: Compose) -> None:
    """100 million parameters: 400 MB in fp32, 200 MB in bf16, 50 MB in NF4."""
    sizes = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 6, "vocab_size": 1000}
    sizes |= {"num_attention_heads": 8}
    lines = [f"model.architecture.{name}={value}" for name, value in sizes.items()]
    config = compose("model=llama-3.2-3b", "model.weights=random", "method=qlora", "devices=cpu", *lines)
    build(compose(*tiny("llama-3.2-3b", "method=qlora", "devices=cpu")))  # the libraries are there then
    meter = Meter(CPU)
    with meter.phase("load"):
        built = builder.build(
            config, folder=None, labels=["a", "b"], pad_token_id=0, device=CPU, precision="bf16"
        )
    peak = meter.peaks["load"]["peak_resident_bytes"]
    assert built.total_parameters > 99e6
    assert peak is not None
    assert peak - meter.baseline_bytes < 200e6  # NF4, and one layer in fp32


def test_words_become_ids_that_mean_nothing_else(compose: Compose) -> None:
    settings = random_weights.read_settings(compose("model=chatglm-6b").model)
    tokenizer = random_weights.HashTokenizer(settings)
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (3, 130005)
    texts = ["Shares rise 3.25% on strong results", "国债收益率上涨", "Shares fall"]
    found = tokenizer(texts)["input_ids"]
    assert [len(ids) for ids in found] == [9, 7, 2]
    assert found[0][0] == found[2][0]
    assert len({token for ids in found for token in ids}) == 17  # one word comes twice
    assert tokenizer(texts, truncation=True, max_length=4)["input_ids"] == [ids[:4] for ids in found]
    many = tokenizer([str(number) for number in range(1000)] + ["<|3|>", "<pad>"])["input_ids"]
    special = {3, 130000, 130001, 130004, 130005}
    assert not special & {token for ids in many for token in ids}
    assert max(token for ids in many for token in ids) < settings.vocab_size


def test_a_folders_architecture_serves_too(compose_tiny: Compose, tiny_bert: Path, tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_text((tiny_bert / "config.json").read_text())
    result = run(compose_tiny(f"model.path={tmp_path}/bare", "model.weights=random", "method=head"))
    assert result.status == "success", result.error
    assert result.model["weights"] == "random"


@pytest.mark.parametrize("preset", ["chatglm-6b", "qwen3-0.6b"])
def test_labels_are_words_to_random_weights_too(compose_tiny: Compose, preset: str) -> None:
    overrides = tiny(preset, "method=qlora", "task=label_likelihood", "model.architecture.eos_token_id=7")
    result = run(compose_tiny(*overrides, "train.max_steps=3", "train.warmup_steps=0"))
    assert result.status == "success", result.error


def test_loftq_has_nothing_to_start_from(compose_tiny: Compose) -> None:
    result = run(compose_tiny(*tiny("qwen3-0.6b", "method=loftq")))
    assert result.status == "invalid"
    assert result.error is not None
    assert "loftq: starts from saved weights" in result.error["message"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "model.architecture.model_type=chatgpt",
            "model_type=chatgpt: transformers has no such architecture",
        ),
        ("model.architecture.num_attention_heads=7", r"transformers refuses it \(.*multiple of"),
    ],
)
def test_an_architecture_that_cannot_be_is_named(compose_tiny: Compose, line: str, message: str) -> None:
    result = run(compose_tiny(*tiny("llama-3.2-3b", line)))
    assert result.status == "invalid"
    assert result.error is not None
    assert re.search(message, result.error["message"])
