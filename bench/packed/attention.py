"""Attention with dropout on a CPU, where torch's fast kernel has none and the slow one is most of a step."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from bench.packed import dropout as dropouts

NAME = "sdpa_in_pack"  # as transformers knows it


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
    """softmax(Q K' scale) with dropout, times V, member by member, so that scores stay in the cache."""

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
        found = query.new_empty((len(query), length, heads, width))
        weights = query.new_empty((len(query), heads, length, length))
        hidden = None if visible is None else ~visible[:rows]
        for start in range(0, len(query), rows):
            part = slice(start, start + rows)
            scores = torch.matmul(query[part], key[part].transpose(2, 3)).mul_(scale)
            if hidden is not None:
                scores.masked_fill_(hidden, torch.finfo(scores.dtype).min)
            torch.softmax(scores, -1, out=weights[part])
            torch.mul(weights[part], kept, out=scores)
            found[part] = torch.matmul(scores, value[part]).transpose(1, 2)
        ctx.save_for_backward(query, key, value, weights, kept)
        ctx.scale = scale
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, weights, kept = ctx.saved_tensors
        (gradient,), rows = gradients, len(kept)
        slopes = [torch.empty_like(one) for one in (query, key, value)]
        of_query, of_key, of_value = slopes
        for start in range(0, len(query), rows):
            part = slice(start, start + rows)
            own = gradient[part].transpose(1, 2)  # (rows, heads, length, width)
            of_value[part] = torch.matmul((weights[part] * kept).transpose(2, 3), own)
            of_weights = torch.matmul(own, value[part].transpose(2, 3)).mul_(kept)
            of_scores = torch._softmax_backward_data(of_weights, weights[part], -1, weights.dtype)
            of_query[part] = torch.matmul(of_scores, key[part]).mul_(ctx.scale)
            of_key[part] = torch.matmul(of_scores.transpose(2, 3), query[part]).mul_(ctx.scale)
        return (*slopes, None, None, None)
