"""Each member of a pack drops what it would drop alone: as much, each element independently of others."""

import math

import pytest
import torch
from torch import nn

from bench.packs import dropout

RATES = (0.0, 0.05, 0.1, 0.5)
SHAPE = (400, 500)  # 200,000 elements


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_each_member_drops_at_its_own_rate() -> None:
    kept = dropout.drop_each(torch.ones(len(RATES), *SHAPE), RATES)
    for part, rate in zip(kept, RATES, strict=True):
        assert set(part.unique().tolist()) <= {0.0, 1.0}
        assert float(part.mean()) == pytest.approx(1 - rate, abs=5 * deviation(rate) + 1e-9)


@pytest.mark.parametrize("rate", RATES[1:])
@pytest.mark.parametrize("shift", [(0, 1), (0, 4), (1, 0)])
def test_an_element_says_nothing_about_its_neighbours(rate: float, shift: tuple[int, int]) -> None:
    """Also not about that which is drawn from the same 64 bits."""
    dropped = dropout.drop_each(torch.ones(1, *SHAPE), [rate])[0] == 0
    both = float((dropped & dropped.roll(shift, (0, 1))).double().mean())
    assert both == pytest.approx(rate**2, abs=5 * math.sqrt(rate**2 / dropped.numel()))


def test_the_gradient_is_that_of_what_was_kept() -> None:
    inputs = torch.ones(2, 30, 40, requires_grad=True)
    kept = dropout.drop_each(inputs, [0.3, 0.6])
    weights = torch.rand_like(kept)
    (kept * weights).sum().backward()
    assert inputs.grad is not None
    assert inputs.grad.equal(weights * kept.detach())


def test_members_share_the_bases_dropout_and_its_mean_is_kept() -> None:
    module = nn.Dropout(0.1)
    found = dropout.share(module, ["a", "b", "c"], torch.ones(3 * SHAPE[0], SHAPE[1]))
    first, *others = found.view(3, *SHAPE)
    assert all(one.equal(first) for one in others)
    assert sorted(first.unique().tolist()) == pytest.approx([0.0, 1 / 0.9])
    assert float((first == 0).double().mean()) == pytest.approx(0.1, abs=5 * deviation(0.1))
    assert dropout.share(module.eval(), ["a"], torch.ones(2, 3)).equal(torch.ones(2, 3))


def test_no_two_draws_are_the_same() -> None:
    like = torch.ones(*SHAPE)
    assert not dropout.draw_mask(like, 0.1).equal(dropout.draw_mask(like, 0.1))


def deviation(rate: float) -> float:
    return math.sqrt(rate * (1 - rate) / math.prod(SHAPE))
