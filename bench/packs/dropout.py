"""Dropout in a pack: one mask for all members, so that random numbers cost what they cost a run alone.

Each member sees what it would see alone, every element dropped with its probability and independently of the
others; that two members drop the same ones makes them differ by their hyperparameters alone.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from bench.model.dropout import draw_levels, draw_mask, level


def share(module: nn.Dropout, members: Sequence[str], inputs: torch.Tensor) -> torch.Tensor:
    """Apply a dropout of the base model, the same for all members. # inputs: (members x rows, ...)"""
    if not module.training or module.p == 0.0:
        return inputs
    parts = inputs.reshape(len(members), -1, *inputs.shape[1:])  # (members, rows, ...)
    dropped: torch.Tensor = parts * draw_mask(parts[0], module.p)
    return dropped.view(inputs.shape)


def drop_each(inputs: torch.Tensor, rates: Sequence[float]) -> torch.Tensor:
    """Drop out at each member's own rate; a higher rate drops what a lower one does, and more.

    The mean is kept by the caller, who has to divide what becomes of each part by one minus its rate.

    Args:
        inputs: (members, rows, features)
    """
    if not any(rates):
        return inputs
    levels = draw_levels(inputs.shape[1:], inputs.device)  # (rows, features)
    masks = {rate: (levels >= level(rate)).to(inputs.dtype) for rate in set(rates)}
    dropped: torch.Tensor = _Mask.apply(inputs, [masks[rate] for rate in rates])  # type: ignore[no-untyped-call]
    return dropped


class _Mask(torch.autograd.Function):
    """Each part times a mask of its own, without a copy of the masks side by side."""

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, masks: list[torch.Tensor]) -> torch.Tensor:
        ctx.masks = masks
        return _multiply(inputs, masks)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _multiply(gradients[0], ctx.masks), None


def _multiply(parts: torch.Tensor, masks: Sequence[torch.Tensor]) -> torch.Tensor:
    dropped = torch.empty_like(parts, memory_format=torch.contiguous_format)
    for part, mask, place in zip(parts, masks, dropped, strict=True):
        torch.mul(part, mask, out=place)
    return dropped
