"""Attention with dropout on a CPU, where torch's fast kernel has none and the slow one is most of a step."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from bench.packed import dropout as dropouts

NAME = "sdpa_in_pack"  # as transformers knows it
SHORTEST = 32  # keys: torch's softmax of shorter rows takes two to ten times as long as of these
CACHE = 2**22  # bytes of scores that are worked on at a time


def install(model: PreTrainedModel, members: Sequence[str]) -> None:
    """Lets the model's attention drop the same for all members, if it asks transformers for it."""
    if model._supports_attention_backend and model.config._attn_implementation == "sdpa":
        AttentionInterface.register(NAME, partial(_attend, members))
        AttentionMaskInterface.register(NAME, sdpa_mask)
        model.config._attn_implementation = NAME


def _attend(
    members: Sequence[str],
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """As sdpa_attention_forward. # query, key, value: (members x rows, heads, length, width)"""
    looks_back = attention_mask is None and getattr(module, "is_causal", True)
    if dropout == 0.0 or looks_back or query.shape != key.shape:
        found, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
        )
        return found, None
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    rows, heads, length, _ = query.shape
    like = query.new_empty((rows // len(members), heads, length, length))
    kept = dropouts.draw_mask(like, dropout)
    found = _Attention.apply(query, key, value, attention_mask, kept, scale)  # type: ignore[no-untyped-call]
    return found, None


class _Attention(torch.autograd.Function):
    """softmax(Q K' scale) with dropout, times V, of some members at a time, so that scores stay in the cache.

    Keys are filled up to SHORTEST, unseen, and all is made contiguous first: torch is slow at else.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        visible: torch.Tensor | None,
        kept: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        rows, (_, heads, length, width) = len(kept), query.shape
        more = max(SHORTEST - length, 0)
        query = (query * scale).contiguous()
        key, value = (functional.pad(one, (0, 0, 0, more)).contiguous() for one in (key, value))
        kept = functional.pad(kept, (0, more))
        bias = _hide(visible, kept, length)
        found = query.new_empty((len(query), length, heads, width))
        weights = query.new_empty((len(query) // rows, *kept.shape))
        for members, part in _divide(weights):
            scores = torch.matmul(query[part], key[part].transpose(2, 3)).view(-1, *kept.shape)
            if bias is not None:
                scores += bias
            torch.softmax(scores, -1, out=weights[members])
            torch.mul(weights[members], kept, out=scores)
            found[part] = torch.matmul(scores.flatten(0, 1), value[part]).transpose(1, 2)
        ctx.save_for_backward(query, key, value, weights, kept)
        ctx.scale = scale
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, weights, kept = ctx.saved_tensors
        length = query.shape[2]
        slopes = [torch.empty_like(query) for _ in range(3)]
        of_query, of_key, of_value = slopes
        gradient = gradients[0].transpose(1, 2).contiguous()  # (members x rows, heads, length, width)
        for members, part in _divide(weights):
            own = gradient[part]
            dropped = (weights[members] * kept).flatten(0, 1)
            of_value[part] = torch.matmul(dropped.transpose(2, 3), own)[:, :, :length]
            of_weights = torch.matmul(own, value[part].transpose(2, 3)).view(-1, *kept.shape).mul_(kept)
            of_scores = torch._softmax_backward_data(of_weights, weights[members], -1, kept.dtype)
            of_scores = of_scores.flatten(0, 1)
            of_query[part] = torch.matmul(of_scores, key[part]).mul_(ctx.scale)
            of_key[part] = torch.matmul(of_scores.transpose(2, 3), query[part])[:, :, :length]
        return (*slopes, None, None, None)


def _hide(visible: torch.Tensor | None, kept: torch.Tensor, length: int) -> torch.Tensor | None:
    """What to add to one member's scores so that what it may not see weighs nothing. # (rows, 1, ., keys)"""
    rows, *_, keys = kept.shape
    if visible is None and keys == length:
        return None
    seen = kept.new_ones((rows, 1, 1, length), dtype=torch.bool) if visible is None else visible[:rows]
    hidden = ~functional.pad(seen, (0, keys - length))
    return kept.new_zeros(hidden.shape).masked_fill_(hidden, torch.finfo(kept.dtype).min)


def _divide(weights: torch.Tensor) -> Iterator[tuple[slice, slice]]:
    """The members, as many at a time as the cache holds the scores of, and the rows that are theirs.

    Args:
        weights: (members, rows, heads, length, keys)
    """
    members, rows = weights.shape[:2]
    together = max(1, CACHE // weights[0].nbytes)
    for start in range(0, members, together):
        yield slice(start, start + together), slice(start * rows, (start + together) * rows)
