"""The article's own example code: its LoRA layer is PEFT's, its 4-bit setting is what method=qlora uses."""

import hydra
import peft
import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers import BitsAndBytesConfig

from bench.config import schema
from bench.config.schema import CONF_DIR, MethodConfig
from bench.model import build

ROWS, IN, OUT = 5, 24, 16


class LoRALayer(nn.Module):
    """A low-rank adapter beside a frozen linear layer, written from scratch: W0 x + B A x * alpha / r."""

    def __init__(self, base: nn.Linear, *, r: int, alpha: float) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.lora_A = nn.Parameter(torch.randn(r, base.in_features) * 0.1)  # (r, in)
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, r))  # (out, r)
        self.scaling = alpha / r

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + x @ self.lora_A.T @ self.lora_B.T * self.scaling  # (rows, out)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(("r", "alpha"), [(1, 1), (2, 16), (4, 4), (8, 16), (8, 32), (16, 8)])
def test_the_articles_lora_layer_is_pefts(r: int, alpha: int) -> None:
    base = nn.Linear(IN, OUT)
    x = torch.randn(ROWS, IN)
    article = LoRALayer(base, r=r, alpha=alpha)
    wrapped = with_peft(base, r=r, alpha=alpha)

    assert_close(article(x), base(x), rtol=0, atol=0)  # B = 0: training starts at the base model
    assert_close(wrapped(x), base(x), rtol=0, atol=0)

    nn.init.normal_(article.lora_B)
    theirs = copy_adapter(article, wrapped)
    target = torch.randn(ROWS, OUT)
    for layer in (article, wrapped):
        nn.functional.mse_loss(layer(x), target).backward()

    assert (article(x) - base(x)).abs().max() > 0.01
    assert_close(wrapped(x), article(x), rtol=1e-6, atol=1e-6)
    assert_close(theirs["lora_A"].grad, article.lora_A.grad, rtol=1e-6, atol=1e-6)
    assert_close(theirs["lora_B"].grad, article.lora_B.grad, rtol=1e-6, atol=1e-6)
    assert {name for name, weight in wrapped.named_parameters() if weight.grad is not None} == {
        name for name, _ in wrapped.named_parameters() if "lora_" in name
    }


@pytest.mark.parametrize("compute_dtype", [torch.float16, torch.bfloat16])
def test_method_qlora_is_the_articles_4_bit_setting(compute_dtype: torch.dtype) -> None:
    article = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype,  # float16 in the article; bfloat16 where the device has it
    ).to_dict()
    ours = build.quantization_config(compose_method("qlora"), compute_dtype, ["classifier"])
    assert ours is not None
    assert {name: value for name, value in ours.to_dict().items() if value != article[name]} == {
        "llm_int8_skip_modules": ["classifier"]  # the new head is trained, so it stays in full precision
    }


def test_methods_without_quantisation_have_no_4_bit_setting() -> None:
    for name in ("full", "lora"):
        assert build.quantization_config(compose_method(name), torch.bfloat16, ["classifier"]) is None


def with_peft(base: nn.Linear, *, r: int, alpha: int) -> nn.Module:
    """The same layer with PEFT's adapter beside it."""
    copied = nn.Linear(IN, OUT)
    copied.load_state_dict(base.state_dict())
    adapter = peft.LoraConfig(r=r, lora_alpha=alpha, target_modules=["0"], lora_dropout=0.0)
    return peft.get_peft_model(nn.Sequential(copied), adapter)


def copy_adapter(article: LoRALayer, wrapped: nn.Module) -> dict[str, nn.Parameter]:
    """PEFT's A and B, set to the article's."""
    theirs = {
        name: weight
        for full_name, weight in wrapped.named_parameters()
        for name in ("lora_A", "lora_B")
        if f".{name}." in full_name
    }
    with torch.no_grad():
        for name, weight in theirs.items():
            weight.copy_(getattr(article, name))
    return theirs


def compose_method(name: str) -> MethodConfig:
    schema.register_schema()
    with hydra.initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return schema.from_hydra(hydra.compose("config", overrides=[f"method={name}"])).method
