"""AdamW in torch or in bitsandbytes, and its step inside backward for weights that are held in bf16."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from bench.config.schema import TrainConfig
from bench.errors import ConfigError, MissingError
from bench.train.device import NO_PAGING, is_wsl

Group = dict[str, Any]  # params, weight_decay, lr

PIECE = 2**24  # weights that are updated in fp32 at a time: 64 MiB, and as much for gradient and random bits


def require_optimizer(name: str, device: torch.device) -> None:
    """Raise an error for a paged optimizer where there is nothing to page with.

    Raises:
        ConfigError: on a CPU, where bitsandbytes would silently not page.
        MissingError: on WSL2, where CUDA has no managed memory and bitsandbytes ends the process (issue 726).
    """
    if not name.startswith("paged"):
        return
    plain = name.removeprefix("paged_")
    if device.type == "cpu":
        raise ConfigError(
            f"train.optimizer={name}: paging needs a CUDA device; use train.optimizer={plain} on a CPU"
        )
    if is_wsl():
        raise MissingError(
            f"train.optimizer={name}: {NO_PAGING}; use Linux itself, or train.optimizer={plain} where "
            "the card has room for them"
        )


def group_parameters(
    trained: Mapping[str, nn.Parameter], settings: TrainConfig, *, loraplus_lr_ratio: float | None
) -> list[Group]:
    """Group what is trained for an optimizer: biases and norms without weight decay, and LoRA's B apart.

    With a ratio B is learnt that many times as fast as all else (LoRA+, arXiv:2402.12354, section 4); the
    schedule scales both. The first group has the plain rate. PEFT's create_loraplus_optimizer also speeds up
    all biases, which the paper does not ask for.
    """
    faster = {name for name in trained if "lora_B" in name or "lora_embedding_B" in name}
    if loraplus_lr_ratio is None:
        faster = set()

    def split(names: Iterable[str], rate: float) -> list[Group]:
        chosen = [trained[name] for name in names]
        decayed = [one for one in chosen if one.ndim > 1]
        rest = [one for one in chosen if one.ndim <= 1]
        return [
            {"params": decayed, "weight_decay": settings.weight_decay, "lr": rate},
            {"params": rest, "weight_decay": 0.0, "lr": rate},
        ]

    groups = split((name for name in trained if name not in faster), settings.lr)
    if loraplus_lr_ratio is not None:
        groups += split((name for name in trained if name in faster), settings.lr * loraplus_lr_ratio)
    return groups


def make_optimizer(
    groups: Sequence[Group], settings: TrainConfig, device: torch.device
) -> torch.optim.Optimizer:
    """Make AdamW over the groups of parameters, in torch or in bitsandbytes.

    With ``optimizer_in_backward`` it steps by itself, weight by weight, and the loop's own step finds
    nothing left to do.

    Raises:
        ConfigError: the optimizer does not work on the device.
    """
    require_optimizer(settings.optimizer, device)
    trained = [weight for group in groups for weight in group["params"]]
    pieces = {one: _cut(one) if settings.stochastic_rounding else [one] for one in trained}
    optimizer = _make_adamw(
        [
            {**group, "params": [one for weight in group["params"] for one in pieces[weight]]}
            for group in groups
        ],
        settings,
    )
    if settings.optimizer_in_backward:
        for weight in trained:
            step = partial(_step_rounded, pieces=pieces[weight]) if settings.stochastic_rounding else _step
            hook = partial(step, optimizer=optimizer)
            weight.register_post_accumulate_grad_hook(hook)
    return optimizer


@contextlib.contextmanager
def in_one_piece(optimizer: Any) -> Iterator[None]:
    """Hold each weight and gradient in one piece of memory meanwhile, as bitsandbytes' kernels read it.

    Members of a pack have views of what all of them hold, through which torch's own optimizer steps.
    """
    inner = getattr(optimizer, "optimizer", optimizer)  # without accelerate's wrapper
    groups = [] if isinstance(inner, torch.optim.AdamW) else inner.param_groups
    weights = [weight for group in groups for weight in group["params"]]
    views = [(one, one.data, one.grad) for one in weights if not one.is_contiguous()]
    for weight, values, gradient in views:
        weight.data = values.contiguous()
        weight.grad = None if gradient is None else gradient.contiguous()
    yield
    for weight, values, gradient in views:
        values.copy_(weight.data)
        weight.data, weight.grad = values, gradient


def is_paged(state: object) -> bool:
    """Return whether bitsandbytes keeps the state in the machine's memory."""
    return bool(getattr(state, "is_paged", False))


def count_paged(optimizer: Any) -> int:
    """Return the bytes of the optimizer's states that are in the machine's memory."""
    values = [value for state in optimizer.state.values() for value in state.values()]
    return sum(value.nbytes for value in values if is_paged(value))


def round_stochastically(values: torch.Tensor) -> torch.Tensor:
    """Round fp32 values to the grid of bf16, each up with the probability that keeps its mean.

    bf16 is the upper half of fp32's bits, so that a random lower half is added and cut off. Rounding to the
    nearest would lose every update below 1/512 of a weight, and AdamW's at a rate of 1e-5 mostly are.
    """
    noise = torch.randint_like(values, 2**16, dtype=torch.int32)
    rounded = noise.add_(values.view(torch.int32)).bitwise_and_(-(2**16)).view(torch.float32)
    return torch.where(values.isnan(), values, rounded)  # whose bits all set would carry over to -0


def _make_adamw(groups: list[Group], settings: TrainConfig) -> torch.optim.Optimizer:
    if settings.optimizer == "adamw":
        adamw = torch.optim.AdamW(groups, lr=settings.lr, fused=True)
        # Or it skips a step of fp16 by itself, and accelerate never knows; torch has no public way to say so.
        adamw._step_supports_amp_scaling = False
        return adamw
    from bitsandbytes.optim.adamw import AdamW8bit, PagedAdamW8bit, PagedAdamW32bit

    classes = {"adamw_8bit": AdamW8bit, "paged_adamw": PagedAdamW32bit, "paged_adamw_8bit": PagedAdamW8bit}
    optimizer: torch.optim.Optimizer = classes[settings.optimizer](groups, lr=settings.lr)
    return optimizer


def _cut(weight: nn.Parameter) -> list[nn.Parameter]:
    """Cut the weight into views, at most PIECE long, to be optimised instead of it.

    Each has optimizer states of its own, so that all the temporary memory of a step is that of one piece.
    """
    return [nn.Parameter(part, requires_grad=True) for part in torch.split(weight.detach().view(-1), PIECE)]


def _step(weight: nn.Parameter, *, optimizer: torch.optim.Optimizer) -> None:
    """Update the weight as soon as its gradient is complete, and free that: no other has one just now."""
    optimizer.step()
    weight.grad = None


@torch.no_grad()
def _step_rounded(
    weight: nn.Parameter, *, optimizer: torch.optim.Optimizer, pieces: list[nn.Parameter]
) -> None:
    """Update a weight in bf16 as _step does: each piece becomes fp32, is updated, and is rounded back."""
    gradient, weight.grad = weight.grad, None
    if gradient is None:
        return
    parts, slopes = torch.split(weight.view(-1), PIECE), torch.split(gradient.reshape(-1), PIECE)
    for piece, held, slope in zip(pieces, parts, slopes, strict=True):
        piece.data = held.float()
        piece.grad = slope.float()
        optimizer.step()
        piece.grad = None
        held.copy_(round_stochastically(piece.data))
        piece.data = held
