"""Attention on a CPU, where torch's fast kernel has no dropout and in bf16 is slow."""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from bench.model import dropout as masks

NAME = "sdpa_on_cpu"  # as transformers knows it
CACHE = 2**22  # bytes of scores that are worked on at a time


def install(model: Any, members: Sequence[str]) -> None:
    """Let the model attend on a CPU by what is here, if it asks transformers for torch's attention.

    Dropout is the same for all ``members`` of a pack, whose rows each batch holds one member after the other;
    the sequence may get shorter later, with the batches. A run alone is one member.
    """
    # transformers' set_attn_implementation only warns where a model cannot; its own check is private too.
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
    """Attend as sdpa_attention_forward, and leave to it what is better done without all pairs' weights.

    Args:
        query: (members x rows, heads, length, width); its length may be less than that of the others
        key, value: (members x rows, heads, keys, width)
    """
    looks_back = getattr(module, "is_causal", True) and (attention_mask is None or dropout == 0.0)
    is_plain = query.shape[1] == key.shape[1] and (
        attention_mask is None or attention_mask.dtype == torch.bool
    )
    if looks_back or not is_plain or (dropout == 0.0 and torch.is_grad_enabled()):
        attended, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
        )
        return attended, None
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if dropout == 0.0:
        return _look(query, key, value, attention_mask, scale), None
    rows, heads, length, _ = query.shape
    like = query.new_empty((rows // len(members), heads, length, key.shape[2]))
    kept = masks.draw_mask(like, dropout)
    attended = _Attention.apply(query, key, value, attention_mask, kept, scale)  # type: ignore[no-untyped-call]
    return attended, None


def _look(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, visible: torch.Tensor | None, scale: float
) -> torch.Tensor:
    """Compute softmax(Q K' scale) V, some rows at a time. # (members x rows, length, heads, width)"""
    query, key, value = _scale(query, scale), key.contiguous(), value.contiguous()
    rows, heads, length, _ = query.shape
    attended = query.new_empty((rows, length, heads, value.shape[3]))
    for part in _divide(rows, query[0, ..., :1].nbytes * key.shape[2]):
        seen = None if visible is None else visible[part].to(query.dtype)
        powers = torch.matmul(query[part], key[part].transpose(2, 3))
        sums = _raise(powers, seen)
        torch.div(torch.matmul(powers, value[part]), sums, out=attended[part].transpose(1, 2))
    return attended


class _Attention(torch.autograd.Function):
    """softmax(Q K' scale) with dropout, times V, of some members at a time, so that scores stay in the cache.

    With E the powers of the scores and l their sums over the keys, the weights are E / l, and it is not they
    that are divided but what becomes of them, which is smaller. With G the gradient of the output O, that of
    a score is E (kept (G / l) V' - sum(G O) / l), as in FlashAttention (Dao et al. 2022, appendix B.4).
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
        query, key, value = _scale(query, scale), key.contiguous(), value.contiguous()
        (_, heads, length, _), rows = query.shape, len(kept)
        attended = query.new_empty((len(query), length, heads, value.shape[3]))
        powers = query.new_empty((len(query) // rows, *kept.shape))
        sums = query.new_empty((len(query), heads, length, 1))
        for members in _divide(len(powers), powers[0].nbytes):
            part, own = slice(members.start * rows, members.stop * rows), powers[members]
            torch.matmul(query[part], key[part].transpose(2, 3), out=own.flatten(0, 1))
            seen = None if visible is None else visible[part].to(query.dtype)
            sums[part] = _raise(own.flatten(0, 1), seen)
            product = torch.matmul((own * kept).flatten(0, 1), value[part])
            torch.div(product, sums[part], out=attended[part].transpose(1, 2))
        ctx.save_for_backward(query, key, value, powers, sums, kept, attended)
        ctx.scale = scale
        return attended

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, powers, sums, kept, attended = ctx.saved_tensors
        slopes = [one.new_empty(one.transpose(1, 2).shape).transpose(1, 2) for one in (query, key, value)]
        of_query, of_key, of_value = slopes
        shares = (gradients[0] * attended).sum(-1, keepdim=True).transpose(1, 2).div_(sums)
        gradient = query.new_empty(attended.transpose(1, 2).shape)  # of the output, over l
        torch.div(gradients[0].transpose(1, 2), sums, out=gradient)
        for members in _divide(len(powers), powers[0].nbytes):
            part = slice(members.start * len(kept), members.stop * len(kept))
            dropped = (powers[members] * kept).flatten(0, 1)
            of_value[part] = torch.matmul(dropped.transpose(2, 3), gradient[part])
            of_scores = torch.matmul(gradient[part], value[part].transpose(2, 3)).mul_(dropped)
            of_scores.addcmul_(powers[members].flatten(0, 1), shares[part], value=-1)
            torch.mul(torch.matmul(of_scores, key[part]), ctx.scale, out=of_query[part])
            of_key[part] = torch.matmul(of_scores.transpose(2, 3), query[part])
        return (*slopes, None, None, None)


def _scale(query: torch.Tensor, scale: float) -> torch.Tensor:
    return torch.mul(query, scale, out=query.new_empty(query.shape))  # contiguous


def _raise(scores: torch.Tensor, seen: torch.Tensor | None) -> torch.Tensor:
    """Raise e to each score, in place, with 0 where a key is not seen, and return the sums over keys.

    Softmax takes off each query's largest score first; that is done only where the scores ask for it.

    Args:
        scores: (..., rows, heads, length, keys)
        seen: (rows, 1, length or 1, keys), of zeros and ones
    """
    limits = torch.finfo(scores.dtype)
    low, high = torch.aminmax(scores)
    fits = max(-low, high) < math.log(limits.max) / 2  # with room for sums and products of powers; not if NaN
    if not fits:
        if seen is not None:
            scores.masked_fill_(seen == 0, limits.min)
        scores -= scores.amax(-1, keepdim=True)
    scores.exp_()
    if seen is not None:
        scores *= seen
    return scores.sum(-1, keepdim=True).clamp_(min=limits.tiny)  # a query that sees nothing gets zeros


def _divide(count: int, size: int) -> Iterator[slice]:
    """Divide ``count`` things of ``size`` bytes each into as many at a time as the cache holds."""
    together = max(1, CACHE // size)
    for start in range(0, count, together):
        yield slice(start, min(start + together, count))
