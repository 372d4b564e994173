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
from torch import nn
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, set_seed

from bench import model, tokens, trainer
from bench.config import Config
from bench.errors import ConfigError
from bench.run import run

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
    network = model.build(
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
def logits_of(network: nn.Module) -> torch.Tensor:
    """What the network says to three fixed texts, (rows, labels)."""
    network.eval()
    ids = torch.tensor([[101, 2023, 3000, 102], [101, 2054, 102, 0], [101, 4000, 5000, 102]])
    logits: torch.Tensor = network(input_ids=ids, attention_mask=(ids != 0).long()).logits
    return logits


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
