"""The state of a training as files, and back: weights, optimizer, schedule, random numbers and progress.

Each member of a pack has files of its own, as a run alone has; the random numbers in them are those of all.
Only safetensors and JSON, so that reading a file from elsewhere cannot run code.
"""

import dataclasses
import json
import math
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from bench.model import tensors, trained
from bench.results.store import finite
from bench.train import optimizers
from bench.train.training import Member, Progress, Training

WEIGHTS = "weights.safetensors"  # what is trained, as in a run's best.safetensors
TENSORS = "state.safetensors"
VALUES = "state.json"


def save(training: Training, member: Member, folder: Path) -> None:
    """Write all that the member's training needs to go on from here; tensors as safetensors, else JSON.

    Raises:
        DivergedError: the loss is NaN or infinite; there is nothing to go on from.
    """
    progress = member.progress
    if progress.steps > progress.logged:
        training.mean_loss(member)
    trained.write(member.part.find(), folder / WEIGHTS)
    held, plain = _split_optimizer(member.optimizer.optimizer)
    if member.best is not None:
        held["best"] = torch.from_numpy(member.best)
    held["random.torch"] = torch.get_rng_state()
    if training.accelerator.device.type == "cuda":
        held["random.cuda"] = torch.cuda.get_rng_state(training.accelerator.device)
    tensors.write(held, folder / TENSORS)
    scaler = member.optimizer.scaler
    values = {
        "progress": dataclasses.asdict(progress),
        "losses": float(member.losses),
        "schedule": member.schedule.state_dict(),
        "optimizer": plain,
        "scaler": None if scaler is None else scaler.state_dict(),
        "random": {"python": random.getstate(), "numpy": np.random.get_state(legacy=False)},
    }
    text = json.dumps(finite(values), allow_nan=False, default=np.ndarray.tolist)
    (folder / VALUES).write_text(text, encoding="utf-8")


def load(training: Training, member: Member, folder: Path) -> None:
    """Put the member where it was when save wrote the folder; nothing that is read can run code."""
    values = json.loads((folder / VALUES).read_text(encoding="utf-8"))
    held = load_file(folder / TENSORS)  # which maps the file, and reads of it what is used
    trained.read(member.part.find(), folder / WEIGHTS)
    with optimizers.in_one_piece(member.optimizer):
        _join_optimizer(member.optimizer.optimizer, held, values["optimizer"])
    member.schedule.load_state_dict(values["schedule"])
    for group, rate in zip(member.optimizer.param_groups, member.schedule.get_last_lr(), strict=True):
        group["lr"] = rate
    if member.optimizer.scaler is not None:
        member.optimizer.scaler.load_state_dict(values["scaler"])
    best = values["progress"].pop("best_score")
    member.progress = Progress(**values["progress"], best_score=-math.inf if best is None else best)
    member.losses.fill_(values["losses"])
    member.best = held["best"].numpy() if "best" in held else None
    version, state, gauss = values["random"]["python"]
    random.setstate((version, tuple(state), gauss))
    np.random.set_state(values["random"]["numpy"])
    torch.set_rng_state(held["random.torch"])
    if training.accelerator.device.type == "cuda":
        torch.cuda.set_rng_state(held["random.cuda"], training.accelerator.device)


def _split_optimizer(
    optimizer: torch.optim.Optimizer,
) -> tuple[dict[str, torch.Tensor], dict[str, dict[str, Any]]]:
    """Split the optimizer's state into tensors, by ``<number of the parameter>.<name>``, and plain values."""
    held: dict[str, torch.Tensor] = {}
    values: dict[str, dict[str, Any]] = {}
    for number, _, parameter in _enumerate(optimizer):
        values[number] = {}
        for name, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, torch.Tensor):
                held[f"{number}.{name}"] = value.detach()
            else:
                values[number][name] = value
    return held, values


def _join_optimizer(
    optimizer: torch.optim.Optimizer,
    held: Mapping[str, torch.Tensor],
    values: Mapping[str, Mapping[str, Any]],
) -> None:
    """Give the optimizer the state that _split_optimizer took from one like it."""
    states: dict[str, dict[str, torch.Tensor]] = defaultdict(dict)
    for key, tensor in held.items():
        number, _, name = key.partition(".")
        states[number][name] = tensor
    for number, place, parameter in _enumerate(optimizer):
        if number not in states:
            continue  # it never had a gradient
        state = optimizer.state[parameter]
        if hasattr(optimizer, "init_state"):  # bitsandbytes makes its own memory, which may be paged
            optimizer.init_state(optimizer.param_groups[place[0]], parameter, *place)
            for name, tensor in states[number].items():
                state[name].copy_(tensor)
        else:
            for name, tensor in states[number].items():
                state[name] = _copy_as(parameter, tensor)
        state.update(values[number])


def _copy_as(parameter: nn.Parameter, tensor: torch.Tensor) -> torch.Tensor:
    """Copy the tensor to the parameter's device, laid out as that is, as a fused step takes for granted."""
    if tensor.shape != parameter.shape:
        return tensor.to(parameter.device, copy=True)
    return torch.empty_like(parameter, dtype=tensor.dtype, requires_grad=False).copy_(tensor)


def _enumerate(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, tuple[int, int], nn.Parameter]]:
    """Yield each parameter with its number, as text, and its group and place in that."""
    number = 0
    for group, settings in enumerate(optimizer.param_groups):
        for place, parameter in enumerate(settings["params"]):
            yield str(number), (group, place), parameter
            number += 1
