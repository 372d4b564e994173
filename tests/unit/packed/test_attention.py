"""Attention with dropout, against its formula and torch's own gradients."""

import pytest
import torch
from torch import nn

from bench.packed import attention, dropout

MEMBERS, ROWS, HEADS, LENGTH, WIDTH = ["a", "b", "c"], 2, 3, 5, 4


@pytest.mark.parametrize("padded", [False, True])
def test_it_is_softmax_with_one_mask_for_all_members(monkeypatch: pytest.MonkeyPatch, padded: bool) -> None:
    torch.manual_seed(0)
    kept = (torch.rand(ROWS, HEADS, LENGTH, LENGTH, dtype=torch.float64) > 0.3) / 0.7
    monkeypatch.setattr(dropout, "draw_mask", lambda _, __: kept)
    shape = (len(MEMBERS) * ROWS, LENGTH, HEADS, WIDTH)
    ours = [torch.randn(shape, dtype=torch.float64).transpose(1, 2).requires_grad_() for _ in range(3)]
    other = [one.detach().clone().requires_grad_() for one in ours]
    visible = None
    if padded:
        visible = torch.ones(ROWS, 1, LENGTH, LENGTH, dtype=torch.bool)
        visible[1, :, :, 3:] = False
        visible = visible.repeat(len(MEMBERS), 1, 1, 1)
    module = nn.Module()
    module.is_causal = False  # type: ignore[assignment]
    found, _ = attention._attend(MEMBERS, module, *ours, visible, dropout=0.3, scaling=0.5)

    query, key, value = other
    scores = query @ key.transpose(2, 3) * 0.5
    if visible is not None:
        scores = scores.masked_fill(~visible, -torch.inf)
    expected = (scores.softmax(-1) * kept.repeat(len(MEMBERS), 1, 1, 1) @ value).transpose(1, 2)
    assert torch.allclose(found, expected)
    weights = torch.randn_like(expected)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    for one, reference in zip(ours, other, strict=True):
        assert one.grad is not None
        assert reference.grad is not None
        assert torch.allclose(one.grad, reference.grad)
