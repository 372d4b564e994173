"""Each variant of LoRA under conf/method/ trains, on an encoder and on a decoder, and is what it says."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from peft.utils.integrations import dequantize_module_weight
from torch import nn
from trainings import prepare_alone
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    OlmoConfig,
    OlmoForCausalLM,
    set_seed,
)

from bench.config.schema import Config
from bench.errors import ConfigError
from bench.model import build as builder
from bench.model.adapters import adapter
from bench.run.run import run

Compose = Callable[..., Config]
VARIANTS = ("dora", "rslora", "pissa", "loftq", "lora_plus", "qdora", "int8_lora", "ia3", "lora_all_linear")


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Path:
    """A two-layer Llama with random weights and the tokenizer of the tiny BERT."""
    folder = tmp_path_factory.mktemp("tiny_llama")
    AutoTokenizer.from_pretrained(tiny_bert).save_pretrained(folder)
    torch.manual_seed(0)
    settings = LlamaConfig(
        vocab_size=30522,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        initializer_range=0.2,
        pad_token_id=0,
    )
    LlamaForCausalLM(settings).save_pretrained(folder)
    return folder


@pytest.fixture
def on(compose_tiny: Compose, tiny_llama: Path) -> Callable[..., Config]:
    """The short run's configuration on the named base."""

    def compose_on(base: str, *overrides: str) -> Config:
        return compose_tiny(*([f"model.path={tiny_llama}"] if base == "llama" else []), *overrides)

    return compose_on


def build(config: Config) -> nn.Module:
    """The run's network, fresh from its seed."""
    set_seed(config.seed)
    folder = Path(str(config.model.path))
    network = builder.build(
        config,
        folder=folder,
        labels=["a", "b", "c"],
        pad_token_id=0,
        device=torch.device("cpu"),
        precision=config.train.precision,
    )
    return network.model


def adapted(network: nn.Module) -> dict[str, Any]:
    """PEFT's layers by name."""
    kinds = (peft.tuners.lora.LoraLayer, peft.tuners.ia3.IA3Layer)
    return {name: one for name, one in network.named_modules() if isinstance(one, kinds)}


@torch.no_grad()
def states_of(network: nn.Module) -> torch.Tensor:
    """The last hidden states of two fixed texts, (rows, length, hidden)."""
    network.eval()
    ids = torch.tensor([[101, 2023, 3000, 102], [101, 4000, 5000, 102]])
    base: Any = network
    states: torch.Tensor = base.get_base_model().base_model(input_ids=ids).last_hidden_state
    return states


def losses_of(config: Config) -> list[float]:
    """The loss of every step of a whole run, which has to be a success."""
    result = run(config)
    assert result.status == "success", result.error
    lines = (Path(config.results_dir) / "runs" / result.run_id / "history.jsonl").read_text().splitlines()
    return [row["loss"] for row in map(json.loads, lines) if row.get("loss") is not None]


@pytest.mark.parametrize("base", ["bert", "llama"])
@pytest.mark.parametrize("method", VARIANTS)
def test_a_variant_lowers_the_loss(on: Compose, base: str, method: str) -> None:
    losses = losses_of(on(base, f"method={method}", "train.lr=1e-2"))
    assert sum(losses[-5:]) < sum(losses[:5]) * 0.95


@pytest.mark.parametrize("method", ["dora", "qdora"])
@torch.no_grad()
def test_dora_learns_the_weights_magnitudes(on: Compose, method: str) -> None:
    """They start as the norms of the rows of the weights that the base has, quantised or not."""
    network = build(on("bert", f"method={method}"))
    layers = adapted(network)
    assert len(layers) == 4
    for layer in layers.values():
        magnitude = layer.lora_magnitude_vector["default"].weight
        assert magnitude.requires_grad
        held = dequantize_module_weight(layer.base_layer)
        assert magnitude == pytest.approx(held.float().norm(dim=1), abs=1e-5)  # (out,)
        assert isinstance(layer.base_layer, Linear4bit) == (method == "qdora")


def test_rslora_divides_by_the_square_root_of_the_rank(on: Compose) -> None:
    for method, scaling in (("rslora", 24 / math.sqrt(16)), ("lora", 24 / 16)):
        layers = adapted(build(on("bert", f"method={method}", "lora.r=16", "lora.alpha=24")))
        assert {layer.scaling["default"] for layer in layers.values()} == {scaling}


@pytest.mark.parametrize("base", ["bert", "llama"])
@torch.no_grad()
def test_pissa_starts_as_the_base_with_its_largest_singular_values_in_the_adapter(
    on: Compose, base: str
) -> None:
    plain, pissa = (build(on(base, f"method={method}", "lora.r=4")) for method in ("lora", "pissa"))
    assert states_of(pissa) == pytest.approx(states_of(plain), abs=1e-4)
    for name, layer in adapted(pissa).items():
        whole = adapted(plain)[name].base_layer.weight
        values = torch.linalg.svdvals(whole)
        assert torch.linalg.svdvals(layer.get_delta_weight("default"))[:4] == pytest.approx(
            values[:4], abs=1e-4
        )
        largest = torch.linalg.svdvals(layer.base_layer.weight)[0]
        assert float(largest) == pytest.approx(float(values[4]), abs=1e-4)
        assert not layer.base_layer.weight.requires_grad


@pytest.mark.parametrize("base", ["bert", "llama"])
@pytest.mark.parametrize("alpha", [16, 64])  # the scale alpha / r is part of what the adapter adds
@torch.no_grad()
def test_loftq_starts_closer_to_the_base_than_qlora_does(on: Compose, base: str, alpha: int) -> None:
    lines = ("lora.r=16", f"lora.alpha={alpha}", "lora.target_modules=all-linear")
    plain, qlora, loftq = (build(on(base, f"method={name}", *lines)) for name in ("lora", "qlora", "loftq"))
    for name, layer in adapted(loftq).items():
        whole = adapted(plain)[name].base_layer.weight
        held = dequantize_module_weight(layer.base_layer)
        assert torch.equal(layer.base_layer.weight, adapted(qlora)[name].base_layer.weight)
        lost = torch.linalg.svdvals(whole - held)
        left = whole - held - layer.get_delta_weight("default")
        assert float(left.norm()) == pytest.approx(float(lost[16:].norm()), rel=1e-3)  # Eckart and Young
    expected = states_of(plain)
    assert (states_of(loftq) - expected).norm() < 0.9 * (states_of(qlora) - expected).norm()


def test_lora_plus_learns_b_faster_by_the_ratio_to_the_end(on: Compose) -> None:
    config = on("bert", "method=lora_plus", "train.weight_decay=0.1", "train.lr=1e-3")
    network = build(config)
    names = {parameter: name for name, parameter in network.named_parameters()}
    [member] = prepare_alone(network, config).members
    groups = member.optimizer.param_groups
    trained = sum(len(group["params"]) for group in groups)
    assert trained == sum(parameter.requires_grad for parameter in network.parameters())
    rates = []
    for _ in range(20):
        rate = member.schedule.get_last_lr()[0]
        rates.append(rate)
        for group in groups:
            for parameter in group["params"]:
                faster = 16 if "lora_B" in names[parameter] else 1
                assert group["lr"] == pytest.approx(rate * faster)
                assert group["weight_decay"] == (0.1 if parameter.ndim > 1 else 0.0)
        member.optimizer.step()
        member.schedule.step()
    assert len(set(rates)) > 15
    assert max(rates) == 1e-3  # the first group has train.lr itself, which the history shows


def test_lora_plus_with_the_ratio_one_is_lora(on: Compose) -> None:
    one = losses_of(on("bert", "method=lora_plus", "method.loraplus_lr_ratio=1", "train.lr=1e-2"))
    assert one == pytest.approx(losses_of(on("bert", "method=lora", "train.lr=1e-2")), abs=1e-6)


def test_int8_lora_holds_the_base_in_8_bits(on: Compose) -> None:
    network = build(on("bert", "method=int8_lora"))
    for layer in adapted(network).values():
        assert isinstance(layer.base_layer, Linear8bitLt)
        assert layer.base_layer.weight.dtype == torch.int8


@pytest.mark.parametrize(
    ("base", "scaled", "inner"),
    [("bert", {"key", "value"}, {"dense"}), ("llama", {"k_proj", "v_proj"}, {"down_proj"})],
)
def test_ia3_learns_vectors_for_keys_values_and_the_feed_forward(
    on: Compose, base: str, scaled: set[str], inner: set[str]
) -> None:
    network = build(on(base, "method=ia3"))
    layers = adapted(network)
    kinds = {name.rpartition(".")[2]: layer.is_feedforward for name, layer in layers.items()}
    assert kinds == dict.fromkeys(scaled, False) | dict.fromkeys(inner, True)
    for layer in layers.values():
        vector, linear = layer.ia3_l["default"], layer.base_layer
        size = linear.in_features if layer.is_feedforward else linear.out_features
        assert vector.numel() == size
        assert vector.requires_grad
        assert torch.all(vector == 1)
    assert sum("lora" in name for name, _ in network.named_parameters()) == 0


@pytest.mark.parametrize(("base", "count"), [("bert", 6), ("llama", 7)])
def test_all_linear_adapts_every_linear_layer_but_the_head(on: Compose, base: str, count: int) -> None:
    method = ("method=lora_all_linear", "lora.target_modules=[query]")  # the method's own win
    names = [name for name in adapted(build(on(base, *method))) if ".layer" in name]
    assert len(names) == 2 * count
    assert not any("score" in name or "classifier" in name for name in names)


@pytest.mark.parametrize("method", ["pissa", "loftq", "qdora", "ia3"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_building_again_makes_the_same_frozen_base(on: Compose, method: str, precision: str) -> None:
    """So that the trained weights alone bring a model back."""
    config = on("bert", f"method={method}", f"train.precision={precision}")
    first, second = (dict(build(config).named_parameters()) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_random_start_is_the_same_for_the_same_seed_only(on: Compose) -> None:
    lines = ("method=pissa", "method.adapter.init_lora_weights=pissa_niter_1")
    first, second, other = (
        dict(build(on("bert", *lines, f"seed={seed}")).named_parameters()) for seed in (0, 0, 1)
    )
    name = next(one for one in first if "query.base_layer.weight" in one)
    assert torch.equal(first[name], second[name])
    assert not torch.equal(first[name], other[name])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method=dora", "+method.adapter.use_dorra=true"], "method.adapter: LORA has no option use_dorra"),
        (
            ["method=lora", "method.adapter.peft_type=LORAX"],
            "method.adapter.peft_type=LORAX: PEFT knows ADALORA,",
        ),
        (
            ["method=lora", "+method.adapter.loftq_config={loftq_bits: 4}"],
            "lora.target_modules=auto method.adapter={'peft_type': 'LORA', "
            "'loftq_config': {'loftq_bits': 4}}: "
            "`loftq_config` specified but will be ignored when `init_lora_weights` is not 'loftq'.",
        ),
        (
            ["method=dora", "+method.adapter.lora_bias=true"],
            "lora.target_modules=auto method.adapter={'peft_type': 'LORA', 'use_dora': True, "
            "'lora_bias': True}: "
            "The argument lora_bias=True is not supported for DoRA",
        ),
        (
            ["method=dora", "lora.target_modules=[q_proj]"],
            "lora.target_modules=['q_proj'] method.adapter={'peft_type': 'LORA', 'use_dora': True}: "
            "No modules were targeted",
        ),
        (
            ["method=ia3", "+method.adapter.target_modules=[q_proj]"],
            "method.adapter={'peft_type': 'IA3', 'target_modules': ['q_proj']}: No modules were targeted",
        ),
        (
            [
                "method=ia3",
                "+method.adapter.target_modules=[key]",
                "+method.adapter.feedforward_modules=[value]",
            ],
            "method.adapter={'peft_type': 'IA3', 'target_modules': ['key'], "
            "'feedforward_modules': ['value']}: "
            "`feedforward_modules` should be a subset of `target_modules`",
        ),
    ],
)
def test_what_peft_refuses_or_would_ignore_is_one_message(
    on: Compose, overrides: list[str], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        build(on("bert", *overrides))
    assert str(caught.value).startswith(message)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("lora", "lora.target_modules=auto: PEFT names no modules for the architecture olmo; use all-linear"),
        (
            "ia3",
            "method.adapter.peft_type=IA3: PEFT names no modules for the architecture olmo; name them, for",
        ),
    ],
)
def test_an_architecture_without_default_modules_is_one_message(
    on: Compose, tmp_path: Path, method: str, message: str
) -> None:
    folder = tmp_path / "other"
    settings = {"vocab_size": 99, "hidden_size": 16, "intermediate_size": 16, "pad_token_id": 0}
    heads = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    OlmoForCausalLM(OlmoConfig(**settings, **heads)).save_pretrained(folder)
    with pytest.raises(ConfigError, match=re.escape(message)):
        build(on("bert", f"method={method}", f"model.path={folder}"))


def test_loftq_needs_the_weights_under_their_names(on: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    config = on("bert", "method=loftq")
    monkeypatch.setattr(adapter, "_find_tensors", lambda _: {})
    with pytest.raises(
        ConfigError, match=r"init_lora_weights=loftq: .* holds no tensor bert\.encoder\.layer"
    ):
        build(config)
