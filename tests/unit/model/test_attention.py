"""Attention with and without dropout, against its formula and torch's own gradients."""

import pytest
import torch
from torch import nn

from bench.model import attention, dropout

MEMBERS, ROWS, HEADS, LENGTH, WIDTH = ["a", "b", "c"], 2, 3, 5, 4
BLIND = nn.Module()
BLIND.is_causal = False  # type: ignore[assignment]


def draw(lengths: tuple[int, int, int]) -> list[torch.Tensor]:
    """Queries, keys and values of so many tokens."""
    torch.manual_seed(0)
    shapes = [(len(MEMBERS) * ROWS, length, HEADS, WIDTH) for length in lengths]
    return [torch.randn(shape, dtype=torch.float64).transpose(1, 2).requires_grad_() for shape in shapes]


def make_mask(padded: bool, queries: int) -> torch.Tensor | None:
    """The second of each member's rows ends two tokens early, and the last member's first row one."""
    if not padded:
        return None
    visible = torch.ones(ROWS, 1, queries, LENGTH, dtype=torch.bool)
    visible[1, :, :, 3:] = False
    visible = visible.repeat(len(MEMBERS), 1, 1, 1)
    visible[-ROWS, :, :, 4:] = False
    return visible


def expect(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, visible: torch.Tensor | None, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The weights, and the values."""
    scores = query @ key.transpose(2, 3) * scale
    if visible is not None:
        scores = scores.masked_fill(~visible, -torch.inf)
    return scores.softmax(-1), value


@pytest.mark.parametrize("cache", [2**22, 1])  # all members at once, and one by one
@pytest.mark.parametrize("queries", [LENGTH, 1])
@pytest.mark.parametrize("scale", [0.5, 500.0])  # scores whose powers fit, and such that are too large for it
@pytest.mark.parametrize("padded", [False, True])
def test_it_is_softmax_with_one_mask_for_all_members(
    monkeypatch: pytest.MonkeyPatch, padded: bool, scale: float, queries: int, cache: int
) -> None:
    monkeypatch.setattr(attention, "CACHE", cache)
    ours = draw((queries, LENGTH, LENGTH))
    other = [one.detach().clone().requires_grad_() for one in ours]
    kept = (torch.rand(ROWS, HEADS, queries, LENGTH, dtype=torch.float64) > 0.3) / 0.7
    monkeypatch.setattr(dropout, "draw_mask", lambda _, __: kept)
    visible = make_mask(padded, queries)
    found, _ = attention._attend(MEMBERS, BLIND, *ours, visible, dropout=0.3, scaling=scale)

    weights, value = expect(*other, visible, scale)
    expected = (weights * kept.repeat(len(MEMBERS), 1, 1, 1) @ value).transpose(1, 2)
    torch.testing.assert_close(found, expected)
    slopes = torch.randn_like(expected)
    (found * slopes).sum().backward()
    (expected * slopes).sum().backward()
    for one, reference in zip(ours, other, strict=True):
        torch.testing.assert_close(one.grad, reference.grad)


@pytest.mark.parametrize("cache", [2**22, 1])
@pytest.mark.parametrize("scale", [0.5, 500.0])
@pytest.mark.parametrize("padded", [False, True])
def test_evaluation_drops_nothing(
    monkeypatch: pytest.MonkeyPatch, padded: bool, scale: float, cache: int
) -> None:
    monkeypatch.setattr(attention, "CACHE", cache)
    monkeypatch.setattr(attention, "sdpa_attention_forward", None)  # it is not that which serves here
    visible = make_mask(padded, LENGTH)
    ours = draw((LENGTH, LENGTH, LENGTH))
    with torch.inference_mode():
        found, _ = attention._attend(MEMBERS, BLIND, *ours, visible, scaling=scale)
        weights, value = expect(*ours, visible, scale)
        torch.testing.assert_close(found, (weights @ value).transpose(1, 2))


def test_in_bf16_it_loses_little_more_than_torchs_own() -> None:
    """For a head's real width and a text's length: 1.0 % to 0.5 %, as torch's kernel keeps scores in fp32."""
    torch.manual_seed(0)
    exact = [2 * torch.randn(len(MEMBERS), HEADS, 100, 32) for _ in range(3)]
    halves = [one.to(torch.bfloat16) for one in exact]
    with torch.inference_mode():
        weights, value = expect(*exact, None, 32**-0.5)
        expected = (weights @ value).transpose(1, 2)
        found, _ = attention._attend(MEMBERS, BLIND, *halves, None)
        own = nn.functional.scaled_dot_product_attention(*halves).transpose(1, 2)
    error, usual = ((one.float() - expected).norm() / expected.norm() for one in (found, own))
    assert error < 2.5 * usual


def test_a_query_that_sees_nothing_gets_zeros() -> None:
    visible = torch.ones(len(MEMBERS) * ROWS, 1, LENGTH, LENGTH, dtype=torch.bool)
    visible[0, :, 2] = False
    with torch.inference_mode():
        found, _ = attention._attend(MEMBERS, BLIND, *draw((LENGTH, LENGTH, LENGTH)), visible)
    assert found.isfinite().all()
    assert (found[0, 2] == 0).all()
    assert (found[0, 1] != 0).all()
