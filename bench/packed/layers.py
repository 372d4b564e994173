"""The forward passes of a base that several adapters share: each sees its own rows of one replicated batch.

A pack's batch holds the same rows once for each member, one member after the other, so that the frozen base
computes all of it at once, and a 4-bit weight is dequantised once for all.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import bitsandbytes
import torch
from peft.tuners import lora
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import ModulesToSaveWrapper
from torch import nn
from torch.nn import functional

from bench.packed import dropout as dropouts

_LINEAR: tuple[Any, ...] = tuple(
    getattr(lora, name) for name in ("Linear", "Linear4bit", "Linear8bitLt") if hasattr(lora, name)
)
_SWITCHED: tuple[Any, ...] = (BaseTunerLayer, ModulesToSaveWrapper)
_INT8: Any = bitsandbytes.nn.Linear8bitLt  # type: ignore[attr-defined]


def pack(model: nn.Module, members: Sequence[str]) -> None:
    """Lets each of the model's adapters of these names work on its own part of every batch.

    ``members`` may get shorter later, with the batches.
    """
    own = {one for layer in model.modules() if isinstance(layer, _SWITCHED) for one in layer.modules()}
    for one in model.modules():
        module: Any = one  # whose forward is replaced
        forward = module.forward
        if isinstance(module, _LINEAR):
            module.forward = partial(_add_adapters, module, members)
        elif isinstance(module, _SWITCHED):
            module.forward = partial(_switch, module, forward, members)
        elif isinstance(module, nn.Dropout) and module not in own:
            module.forward = partial(dropouts.share, module, members)
        elif isinstance(module, _INT8):  # which columns it keeps in 16 bits depends on all its rows
            module.forward = partial(_divide, forward, members)


def _add_adapters(layer: Any, members: Sequence[str], inputs: torch.Tensor) -> torch.Tensor:
    """W x + B A x * scaling, each member's A and B for its own rows; lower ranks are padded with zeros.

    Args:
        inputs: (members x rows, ..., in)
    """
    result: torch.Tensor = layer.base_layer(inputs)  # (members x rows, ..., out)
    rank = max(layer.r[name] for name in members)
    rates = [_read_rate(layer, name) for name in members]
    down = torch.stack([_pad_rank(layer.lora_A[name].weight, rank, dim=0) for name in members])
    scales = [layer.scaling[name] / (1 - rate) for name, rate in zip(members, rates, strict=True)]
    up = torch.stack(
        [
            _pad_rank(layer.lora_B[name].weight * scale, rank, dim=1)
            for name, scale in zip(members, scales, strict=True)
        ]
    )  # (members, out, rank)
    parts = inputs.reshape(len(members), -1, inputs.shape[-1])  # (members, rows x ..., in)
    if not torch.is_autocast_enabled(inputs.device.type):
        parts = parts.to(down.dtype)
    reduced = dropouts.drop_each(parts, rates) @ down.transpose(1, 2)  # (members, rows x ..., rank)
    base = result.view(len(members), -1, result.shape[-1])
    return torch.baddbmm(base, reduced, up.transpose(1, 2)).view(result.shape).to(result.dtype)


def _read_rate(layer: Any, member: str) -> float:
    """The share of its inputs that the member drops now."""
    dropout = layer.lora_dropout[member]
    return dropout.p if isinstance(dropout, nn.Dropout) and dropout.training else 0.0


def _pad_rank(weight: torch.Tensor, rank: int, *, dim: int) -> torch.Tensor:
    missing = rank - weight.shape[dim]
    return functional.pad(weight, (0, 0, 0, missing) if dim == 0 else (0, missing))


def _switch(
    layer: Any, forward: Callable[..., torch.Tensor], members: Sequence[str], inputs: torch.Tensor
) -> torch.Tensor:
    """What PEFT's layer makes of each member's rows with the member's adapter or its copy of the module."""
    results = []
    for name, part in zip(members, inputs.chunk(len(members)), strict=True):
        layer._active_adapter = [name]
        results.append(forward(part))
    return torch.cat(results)


def _divide(
    forward: Callable[..., torch.Tensor], members: Sequence[str], inputs: torch.Tensor
) -> torch.Tensor:
    """What the layer makes of each member's rows by themselves."""
    return torch.cat([forward(part) for part in inputs.chunk(len(members))])
