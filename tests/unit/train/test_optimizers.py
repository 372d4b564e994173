"""Weights in bf16 move as far as weights in fp32 would, with one gradient and one piece in fp32 at a time."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from bench.config.schema import Config, TrainConfig
from bench.errors import ConfigError
from bench.train import optimizers

Compose = Callable[..., Config]

CPU = torch.device("cpu")
RATE = 1e-5


def make_optimizer(model: nn.Module, settings: TrainConfig, device: torch.device) -> torch.optim.Optimizer:
    groups = optimizers.group_parameters(dict(model.named_parameters()), settings, loraplus_lr_ratio=None)
    return optimizers.make_optimizer(groups, settings, device)


@pytest.fixture
def settings(compose: Compose) -> Callable[..., TrainConfig]:
    """Settings of a training without clipping and decay at RATE, with further fields."""
    plain = dataclasses.replace(compose().train, lr=RATE, weight_decay=0.0, max_grad_norm=None)
    return lambda **fields: dataclasses.replace(plain, **fields)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("value", [1.0, -1.0, 3.7e-5, -250.0])
def test_rounding_goes_up_as_often_as_keeps_the_mean(value: float, share: float) -> None:
    """The closed form: the mean of a Bernoulli variable, within five of its standard deviations."""
    torch.manual_seed(0)
    below = torch.tensor(value).bfloat16().float()
    above = (below.view(torch.int32) + 2**16).view(torch.float32)  # the next in bf16, away from 0
    between = below + share * (above - below)
    draws = 40_000
    rounded = optimizers.round_stochastically(between.expand(draws).contiguous())
    assert set(rounded.tolist()) <= {float(below), float(above)}
    found = float(((rounded - below) / (above - below)).double().mean())
    exact = float((between - below) / (above - below))  # as fp32 has it
    assert abs(found - exact) <= 5 * math.sqrt(exact * (1 - exact) / draws)


def test_what_bf16_holds_is_not_rounded_and_what_is_no_number_stays_none() -> None:
    bits = torch.tensor(
        [0x7FFFFFFF, 0x7FC00000, -1], dtype=torch.int32
    )  # NaN as CUDA and as the CPU writes it
    assert optimizers.round_stochastically(bits.view(torch.float32)).isnan().all()
    held = torch.tensor([0.0, -0.0, 1.5, -3.0, math.inf, -math.inf])
    assert optimizers.round_stochastically(held).tolist() == held.tolist()


@pytest.mark.parametrize("optimizer", ["adamw", "adamw_8bit"])
def test_rounding_keeps_the_way_that_rounding_to_nearest_loses(
    settings: Callable[..., TrainConfig], optimizer: str
) -> None:
    """With a constant gradient AdamW moves each weight by the rate at each step; weights are about 0.02."""
    bf16 = {"optimizer": optimizer, "optimizer_in_backward": True, "weights": "bf16"}
    assert share_moved(settings(**bf16, stochastic_rounding=True)) == pytest.approx(1.0, abs=0.01)
    assert share_moved(settings(**bf16)) == pytest.approx(0.16, abs=0.01)


def share_moved(settings: TrainConfig, *, steps: int = 100) -> float:
    """How far weights moved against their gradient, of the way that the rate and the steps come to."""
    torch.manual_seed(0)
    weight = nn.Parameter((torch.randn(128, 256) * 0.02).bfloat16())
    before, slope = weight.detach().clone(), torch.randn(128, 256).sign().bfloat16()
    make_optimizer(as_model(weight), settings, CPU)
    for _ in range(steps):
        (weight * slope).sum().backward()
    return float(((before.float() - weight.detach().float()) * slope).mean()) / (settings.lr * steps)


def as_model(*weights: nn.Parameter) -> nn.Module:
    model = nn.Module()
    for number, weight in enumerate(weights):
        model.register_parameter(f"weight_{number}", weight)
    return model


@pytest.mark.parametrize("optimizer", ["adamw", "adamw_8bit"])
def test_a_step_in_backward_is_the_step_after_it(
    settings: Callable[..., TrainConfig], optimizer: str
) -> None:
    after, inside = (
        train_small(settings(optimizer=optimizer, lr=1e-2, weight_decay=0.1, optimizer_in_backward=inside))
        for inside in (False, True)
    )
    assert all(map(torch.equal, after, inside))


def train_small(settings: TrainConfig) -> list[torch.Tensor]:
    """The weights of a small network after a few steps."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(80, 80), nn.Tanh(), nn.Linear(80, 3))
    optimizer = make_optimizer(model, settings, CPU)
    for _ in range(5):
        model(torch.randn(4, 80)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return [weight.detach() for weight in model.parameters()]


@pytest.mark.parametrize("rounded", [False, True])
def test_there_is_never_a_gradient_of_more_than_one_weight(
    settings: Callable[..., TrainConfig], rounded: bool
) -> None:
    weights = [nn.Parameter(torch.ones(8, 8, dtype=torch.bfloat16)) for _ in range(5)]
    fields = {"optimizer_in_backward": True, "weights": "bf16", "stochastic_rounding": rounded}
    make_optimizer(as_model(*weights), settings(**fields, lr=0.1), CPU)
    left: list[int] = []
    for weight in weights:
        weight.register_post_accumulate_grad_hook(
            lambda _: left.append(sum(one.grad is not None for one in weights))
        )
    torch.linalg.multi_dot([one.float() for one in weights]).sum().backward()
    assert left == [0] * 5
    assert all(float(weight.detach().float().max()) < 1 for weight in weights)


def test_no_more_than_a_piece_is_ever_in_fp32(
    settings: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    rounds = optimizers.round_stochastically

    def spy(values: torch.Tensor) -> torch.Tensor:
        sizes.append(values.numel())
        return rounds(values)

    monkeypatch.setattr(optimizers, "PIECE", 10_000)
    monkeypatch.setattr(optimizers, "round_stochastically", spy)
    fields: dict[str, Any] = {"optimizer_in_backward": True, "stochastic_rounding": True, "weights": "bf16"}
    assert share_moved(settings(**fields), steps=50) == pytest.approx(1.0, abs=0.02)
    assert sizes == [10_000, 10_000, 10_000, 2768] * 50


def test_paging_is_refused_where_it_would_silently_not_happen() -> None:
    message = "paged_adamw_8bit: paging needs a CUDA device; use train.optimizer=adamw_8bit on a CPU"
    with pytest.raises(ConfigError, match=message):
        optimizers.require_optimizer("paged_adamw_8bit", CPU)
