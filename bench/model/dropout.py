"""Masks of dropout from random numbers of 16 bits, four at the price of one of those that torch draws."""

import math
from collections.abc import Sequence

import torch


def draw_mask(like: torch.Tensor, p: float) -> torch.Tensor:
    """Draw a mask: 0 with probability p, and else what keeps the mean."""
    return (draw_levels(like.shape, like.device) >= level(p)).to(like.dtype).div_(1 - p)


def draw_levels(shape: Sequence[int], device: torch.device) -> torch.Tensor:
    """Draw random numbers of 16 bits."""
    count = math.prod(shape)
    words = torch.empty((count + 3) // 4, dtype=torch.int64, device=device).random_(-(2**63), None)
    return words.view(torch.int16)[:count].view(shape)


def level(p: float) -> int:
    """Return the level that such a number is below with probability p, to 1/65,536."""
    return round(p * 2**16) - 2**15
