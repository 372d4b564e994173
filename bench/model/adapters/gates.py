"""Routed LoRA: experts that share an adapter's rank out, and gates in its layers that weigh them."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import peft
import torch
from peft.tuners.lora.layer import LoraLayer, LoraVariant
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from bench.errors import ConfigError

ROUTED = "ROUTED_LORA"  # in place of PEFT's LORA in adapter_config.json, as PEFT alone would leave gates out
ATTENTION = "lora.target_modules=[q_proj,k_proj,v_proj,o_proj]"  # linear layers that most decoders have
_LINEAR = ("Linear", "Linear4bit", "Linear8bitLt")  # PEFT's layers around those that a gate can read


class RoutedLora(LoraVariant):
    """A forward pass of PEFT's LoRA layers in which a gate weighs parts of the rank, the experts.

    W x + s sum_i k w_i(x) B_i A_i x, where w(x) = softmax(G x) of every token, the k experts A_i and B_i are
    r / k rows of A and columns of B each, and s is LoRA's scaling at rank r: each expert is a LoRA of rank
    r / k with its own alpha / (r / k), and where all weigh alike the whole is one LoRA of rank r. A mixture
    of LoRA experts with soft routing (LoRAMoE, arXiv:2312.09979) whose experts share one rank out
    (MOELoRA, arXiv:2310.18339).
    """

    @staticmethod
    def forward(
        module: Any, active_adapter: str, x: torch.Tensor, result: torch.Tensor, **_: Any
    ) -> torch.Tensor:
        """Add what the experts make of the input to the base's result. # x: (..., in), result: (..., out)"""
        gate, scaling = module.lora_gate[active_adapter], module.scaling[active_adapter]
        weights = functional.softmax(gate(x), dim=-1, dtype=torch.float32)  # (..., experts)
        reduced = module.lora_A[active_adapter](module.lora_dropout[active_adapter](x))  # (..., r)
        shares = (gate.out_features * weights).to(reduced.dtype).unsqueeze(-1)
        parts = reduced.unflatten(-1, (gate.out_features, -1)) * shares  # (..., experts, r / experts)
        added: torch.Tensor = module.lora_B[active_adapter](parts.flatten(-2)) * scaling
        return result + added

    @staticmethod
    def merge_safe(*_: Any, **__: Any) -> Any:
        """Refuse, as no one weight stands for experts that each input weighs anew."""
        raise RuntimeError("routed LoRA cannot be merged")

    merge_unsafe = unmerge = merge_safe

    def supports_lora_conversion(self) -> bool:
        """Tell PEFT that no plain LoRA computes the same."""
        return False


def add_gates(model: nn.Module, experts: int, *, adapter: str = "default") -> None:
    """Put a gate beside each A and B of the adapter, which weighs all experts alike until it is trained.

    No random number is drawn, so that all else begins as it does in LoRA of the same rank.

    Raises:
        ConfigError: a layer is not linear.
    """
    layers: list[tuple[str, Any]] = [
        (name, one) for name, one in model.named_modules() if isinstance(one, LoraLayer)
    ]
    for name, layer in layers:
        if type(layer).__name__ not in _LINEAR:
            raise ConfigError(
                f"method.experts={experts}: a gate reads a linear layer's input, and {name} is of another "
                f"kind ({type(layer).__name__}); use {ATTENTION}"
            )
        weight = layer.lora_A[adapter].weight
        kind = {"device": weight.device, "dtype": weight.dtype}
        make: Any = nn.utils.skip_init
        gate = make(nn.Linear, weight.shape[1], experts, bias=False, **kind)
        nn.init.zeros_(gate.weight)
        if not hasattr(layer, "lora_gate"):
            layer.lora_gate = nn.ModuleDict()
        layer.lora_gate[adapter] = gate
        layer.lora_variant[adapter] = RoutedLora()


def find_gates(model: nn.Module) -> dict[str, nn.Module]:
    """Return the gates of the model's adapter by the layer that each is in, empty where there are none."""
    return {
        name.partition(".lora_gate.")[0].rpartition("base_model.model.")[2]: one
        for name, one in model.named_modules()
        if ".lora_gate." in name
    }


@contextlib.contextmanager
def watch_gates(model: nn.Module) -> Iterator[dict[str, torch.Tensor]]:
    """Inside, hold the weights that each gate gave the experts last, by its layer. # (..., experts) each"""
    said: dict[str, torch.Tensor] = {}

    def watch(layer: str, gate: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def hold(_: nn.Module, __: Any, logits: torch.Tensor) -> None:
            said[layer] = functional.softmax(logits.float(), dim=-1)

        return gate.register_forward_hook(hold)

    hooks = [watch(layer, gate) for layer, gate in find_gates(model).items()]
    try:
        yield said
    finally:
        for hook in hooks:
            hook.remove()


def mark_routed(folder: Path) -> None:
    """Have adapter_config.json say that the adapter has gates, as a kind that PEFT does not know."""
    path = folder / "adapter_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(settings | {"peft_type": ROUTED}, indent=2) + "\n", encoding="utf-8")


def read_routed(base: PreTrainedModel, folders: Mapping[str, Path], *, experts: int) -> peft.PeftModel:
    """Return the base with the routed adapters that were saved and marked in these folders, by their names.

    Raises:
        OSError, ValueError, KeyError, RuntimeError: a folder does not hold such an adapter.
    """
    model: peft.PeftModel | None = None
    for name, folder in folders.items():
        settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        config = peft.PeftConfig.from_peft_type(**settings | {"peft_type": "LORA", "inference_mode": True})
        if model is None:
            model = peft.PeftModel(base, config, adapter_name=name)
        else:
            model.add_adapter(name, config)
        add_gates(model, experts, adapter=name)
        state = peft.load_peft_weights(str(folder), device="cpu")
        found: Any = peft.set_peft_model_state_dict(model, state, adapter_name=name)
        absent = [key for key in found.missing_keys if f".lora_gate.{name}." in key]
        if wrong := [*found.unexpected_keys, *absent]:
            raise ValueError(f"its weights are not those of an adapter with gates: {wrong[0]}")
    assert model is not None
    return model
