"""Products with weights that are not trained, without the copies that torch makes on a CPU."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional


def apply(layer: nn.Linear, inputs: torch.Tensor) -> torch.Tensor:
    """Apply the layer; on a CPU in bf16 torch would first fill the result with the bias."""
    if inputs.device.type != "cpu" or not inputs.dtype == layer.weight.dtype == torch.bfloat16:
        return functional.linear(inputs, layer.weight, layer.bias)
    output: torch.Tensor = _Linear.apply(inputs, layer.weight, layer.bias)  # type: ignore[no-untyped-call]
    return output


def add_product(base: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Add left right to the base for each member, in the place of a whole base, which nothing else may need.

    Args:
        base: (members x rows, ..., out), or of all members the same (rows, ..., out)
        left: (members, rows x ..., rank)
        right: (members, rank, out)
    """
    # bitsandbytes' results are views, which autograd lets nobody change in place; torch tells so privately.
    whole = base.numel() == len(left) * left.shape[1] * right.shape[2]
    if not whole or left.dtype != base.dtype or base._is_view():
        product = torch.bmm(left, right).view(-1, *base.shape)  # (1 or members, ...)
        return (base + product).to(base.dtype).flatten(0, 1)
    output: torch.Tensor = _AddProduct.apply(base, left, right)  # type: ignore[no-untyped-call]
    return output


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.weight = weight
        # oneDNN's product and bias in one, which torch itself uses where it compiles; it has no public name.
        output: torch.Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, None, None]:
        return (gradients[0] @ ctx.weight if ctx.needs_input_grad[0] else None), None, None


class _AddProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, base: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        ctx.mark_dirty(base)
        ctx.save_for_backward(left, right)
        base.view(len(left), -1, base.shape[-1]).baddbmm_(left, right)
        return base

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        left, right = ctx.saved_tensors
        own = gradients[0].reshape(len(left), -1, gradients[0].shape[-1])
        return gradients[0], torch.bmm(own, right.transpose(1, 2)), torch.bmm(left.transpose(1, 2), own)
