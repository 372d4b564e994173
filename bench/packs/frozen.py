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
