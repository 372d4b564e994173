"""The networks of runs that differ in their adapters alone, as one model with one frozen base."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import peft
import torch
from torch import nn

from bench.config.schema import Config
from bench.model import trained
from bench.model.adapter import add_adapter, add_member
from bench.model.build import DTYPES, build_base
from bench.packs import attention, layers

FIRST = "default"  # PEFT's name for an only adapter, as it stands in the weights of a run of its own


@dataclass(frozen=True)
class Member:
    """One run's part of the model."""

    adapter: str  # its name in the model
    trained: dict[str, nn.Parameter]  # by the names that they have in a run of its own
    trainable_parameters: int
    total_parameters: int


@dataclass(frozen=True)
class Pack:
    """The model, and the members whose rows its batches hold, in this order."""

    model: nn.Module
    members: list[Member]
    choices: dict[str, Any]  # for the record
    adapters: list[str]  # of the members that are still there
    stacked: list[layers.Adapters]

    def drop(self, member: Member) -> None:
        """Leaves the member out of what is computed from now on."""
        self.adapters.remove(member.adapter)
        for layer in self.stacked if self.adapters else []:
            layer.stack()

    def clear(self) -> None:
        """Clears the gradients of all members."""
        for parameter in self.apart:
            parameter.grad = None
        for layer in self.stacked:
            layer.clear()

    @cached_property
    def apart(self) -> list[nn.Parameter]:
        """What is trained and not stacked: heads, and adapters of tables."""
        views = {id(one) for layer in self.stacked for one in layer.weights()}
        return [one for member in self.members for one in member.trained.values() if id(one) not in views]


def build(
    configs: Sequence[Config],
    *,
    folder: Path | None,
    labels: Sequence[str],
    pad_token_id: int | None,
    device: torch.device,
    precision: str,
) -> Pack:
    """The runs' networks over the base that model.build makes of the first, each as its own run begins.

    Raises:
        ConfigError: as model.build.
    """
    first = configs[0]
    base = build_base(
        first, folder=folder, labels=labels, pad_token_id=pad_token_id, device=device, precision=precision
    )
    state = torch.get_rng_state()  # from which every run on its own draws its adapter
    adapted, targets = add_adapter(base.model, first, new=base.new, folder=folder)
    assert isinstance(adapted, peft.PeftModel)
    names = [FIRST, *(f"member_{number}" for number in range(1, len(configs)))]
    for name, config in zip(names[1:], configs[1:], strict=True):
        torch.set_rng_state(state)
        add_member(adapted, config, name=name, new=base.new)
    members = [
        _find_member(adapted, name, config, skeleton=base.skeleton)
        for name, config in zip(names, configs, strict=True)
    ]
    adapted.to(device)  # before weights become views
    stacked = layers.pack(adapted, names)
    if device.type == "cpu":
        attention.install(base.model, names)
    return Pack(adapted, members, {**base.choices, "target_modules": targets}, names, stacked)


def _find_member(adapted: nn.Module, adapter: str, config: Config, *, skeleton: nn.Module) -> Member:
    found = {
        ".".join(FIRST if part == adapter else part for part in name.split(".")): parameter
        for name, parameter in adapted.named_parameters()
        if adapter in name.split(".")
    }
    for parameter in found.values():
        parameter.requires_grad_(True)
    trained.hold(found, DTYPES[config.train.weights])
    return Member(adapter, found, *trained.count(found, skeleton))
