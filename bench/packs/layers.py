"""The forward passes of a base that several adapters share: each sees its own rows of one repeated batch.

A pack's batch holds the same rows once for each member, one member after the other, so that the frozen base
computes all of it at once, and a 4-bit weight is dequantised once for all. Where all members read the same
texts, nothing differs yet up to the first adapters, and the frozen products so far are made of one's rows.
"""

import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import bitsandbytes
import torch
from peft.tuners import lora
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import ModulesToSaveWrapper
from torch import nn

from bench.packs import dropout as dropouts
from bench.packs import frozen

_LINEAR: tuple[Any, ...] = tuple(
    getattr(lora, name) for name in ("Linear", "Linear4bit", "Linear8bitLt") if hasattr(lora, name)
)
_SWITCHED: tuple[Any, ...] = (BaseTunerLayer, ModulesToSaveWrapper)
_INT8: Any = bitsandbytes.nn.Linear8bitLt  # type: ignore[attr-defined]
_FOUR_BIT: Any = bitsandbytes.nn.Linear4bit  # type: ignore[attr-defined]


def pack(model: Any, members: Sequence[str], *, alike: bool) -> "list[Adapters]":
    """Let each of the model's adapters of these names work on its own part of every batch.

    ``members`` may get shorter later, with the batches; then what comes out has to be stacked anew.

    Args:
        model: PEFT's, of a transformers model
        alike: all members' parts of every batch are the same
    """
    stacked = []
    prefix = _Prefix()
    if alike:
        model.get_input_embeddings().register_forward_pre_hook(prefix.begin)
    for name, one in model.named_modules():
        module: Any = one  # whose forward is replaced
        forward = module.forward
        if isinstance(one, _LINEAR):
            stacked.append(Adapters(module, members, prefix))
            module.forward = stacked[-1].forward
        elif isinstance(one, _SWITCHED):
            module.forward = partial(_switch, module, forward, members, prefix)
        elif isinstance(one, _INT8):  # which columns it keeps in 16 bits depends on all its rows
            module.forward = partial(_divide, forward, members)
        elif isinstance(one, nn.Dropout) and ".lora_dropout." not in name:
            module.forward = partial(dropouts.share, module, members)
        elif type(one) is nn.Linear and not one.weight.requires_grad:
            module.forward = partial(_share, partial(frozen.apply, module), members, prefix)
        elif isinstance(one, _FOUR_BIT):
            module.forward = partial(_share, forward, members, prefix)
    return stacked


class _Prefix:
    """What of a forward pass is the same for all members: all before the first module of a member's own."""

    def __init__(self) -> None:
        self.lasts = False
        self.end: weakref.ref[torch.Tensor] | None = None  # the inputs of that module

    def begin(self, *_: Any) -> None:
        """Begin a forward pass; called as a hook of the module that it goes through first."""
        self.lasts, self.end = True, None

    def close(self, inputs: torch.Tensor) -> None:
        """Note that of these inputs each member makes something of its own."""
        if self.lasts:
            self.lasts, self.end = False, weakref.ref(inputs)

    def holds(self, inputs: torch.Tensor) -> bool:
        """Return whether the inputs are the same for all members."""
        return self.lasts or (self.end is not None and self.end() is inputs)


class Adapters:
    """The members' A and B of one layer, side by side, so that a product with all of them is one product.

    PEFT's own weights and their gradients are views of them, and so are each member's to optimise and save.
    """

    def __init__(self, layer: Any, members: Sequence[str], prefix: _Prefix) -> None:
        self.layer = layer
        self.members = members
        self.prefix = prefix
        self.stack()

    def stack(self) -> None:
        """Put the weights of the members that are left side by side; lower ranks are padded with zeros."""
        pairs = [(self.layer.lora_A[name].weight, self.layer.lora_B[name].weight) for name in self.members]
        rank, shape = max(len(a) for a, _ in pairs), (len(pairs[0][0][0]), len(pairs[0][1]))
        self.down, self.up = (pairs[0][0].new_zeros((len(pairs), rank, size)) for size in shape)
        self.down.grad, self.up.grad = torch.zeros_like(self.down), torch.zeros_like(self.up)
        for place, (a, b) in enumerate(pairs):
            part = (place, slice(len(a)))
            for whole, weight, turned in ((self.down, a, False), (self.up, b, True)):
                assert whole.grad is not None
                view, slope = (one[part].T if turned else one[part] for one in (whole.data, whole.grad))
                view.copy_(weight.data)
                weight.data, weight.grad = view, slope
        self.down.requires_grad_()
        self.up.requires_grad_()
        scales = [self.layer.scaling[name] for name in self.members]
        self.scales = torch.tensor(scales, device=self.down.device)  # in fp32, as bf16 would round them

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Compute W x + B A x * scaling. # inputs: (members x rows, ..., in)"""
        self.prefix.close(inputs)
        result: torch.Tensor = self.layer.base_layer(inputs)  # (members x rows, ..., out)
        rates = [_read_rate(self.layer.lora_dropout[name]) for name in self.members]
        kept = self.scales.new_tensor([1 - rate for rate in rates])
        parts = inputs.reshape(len(self.members), -1, inputs.shape[-1])  # (members, rows x ..., in)
        dtype = result.dtype if torch.is_autocast_enabled(inputs.device.type) else self.down.dtype
        down, up = self.down.to(dtype), (self.up * (self.scales / kept)[:, None, None]).to(dtype)
        return _add_products(result, dropouts.drop_each(parts.to(dtype), rates), down, up)


def _add_products(
    result: torch.Tensor, parts: torch.Tensor, down: torch.Tensor, up: torch.Tensor
) -> torch.Tensor:
    """Add the adapters' products to the base's result, rounded in its type as PEFT rounds them."""
    products = torch.bmm(parts @ down.transpose(1, 2), up)  # (members, rows x ..., out)
    return (result + products.view(result.shape)).to(result.dtype)


def _read_rate(dropout: nn.Module) -> float:
    """Read the share of its inputs that a member's adapter drops now."""
    return dropout.p if isinstance(dropout, nn.Dropout) and dropout.training else 0.0


def _switch(
    layer: Any,
    forward: Callable[..., torch.Tensor],
    members: Sequence[str],
    prefix: _Prefix,
    inputs: torch.Tensor,
) -> torch.Tensor:
    """Apply PEFT's layer to each member's rows, with the member's adapter or its copy of the module."""
    prefix.close(inputs)
    results = []
    for name, part in zip(members, inputs.chunk(len(members)), strict=True):
        # PEFT's set_adapter would also freeze the other members' weights.
        layer._active_adapter = [name]
        results.append(forward(part))
    return torch.cat(results)


def _divide(
    forward: Callable[..., torch.Tensor], members: Sequence[str], inputs: torch.Tensor
) -> torch.Tensor:
    """Apply the layer to each member's rows by themselves."""
    return torch.cat([forward(part) for part in inputs.chunk(len(members))])


def _share(
    forward: Callable[..., torch.Tensor], members: Sequence[str], prefix: _Prefix, inputs: torch.Tensor
) -> torch.Tensor:
    """Apply the layer to the rows of one member where all have the same."""
    if not prefix.holds(inputs):
        return forward(inputs)
    result = forward(inputs.chunk(len(members))[0])
    return result.expand(len(members), *result.shape).flatten(0, 1)
