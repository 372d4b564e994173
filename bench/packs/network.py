"""The networks of runs that differ in their adapters alone, as one model with one frozen base."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import peft
import torch
from peft.utils.other import ModulesToSaveWrapper
from torch import nn
from transformers import set_seed

from bench.config.schema import Config
from bench.model import trained
from bench.model.adapters.adapter import add_adapter, add_member
from bench.model.build import DTYPES, Base, build_base
from bench.packs import layers
from bench.train.training import FIRST, Networks, Part, list_streams


def build(
    configs: Sequence[Config],
    *,
    folder: Path | None,
    labels: Sequence[str],
    pad_token_id: int | None,
    device: torch.device,
    precision: str,
) -> Networks:
    """Build the runs' networks over the base that model.build makes of the first, each as its own run begins.

    Raises:
        ConfigError: as model.build.
    """
    first = configs[0]
    load = partial(
        build_base,
        folder=folder,
        labels=labels,
        pad_token_id=pad_token_id,
        device=device,
        precision=precision,
    )
    base = load(first)
    starts = {first.seed: _Start(torch.get_rng_state(), {})}
    adapted, targets = add_adapter(base.model, first, new=base.new, folder=folder)
    assert isinstance(adapted, peft.PeftModel)
    names = [FIRST, *(f"member_{number}" for number in range(1, len(configs)))]
    for name, config in zip(names[1:], configs[1:], strict=True):
        if config.seed not in starts:
            starts[config.seed] = _draw_start(config, base.new, load)
        start = starts[config.seed]
        torch.set_rng_state(start.state)
        add_member(adapted, config, name=name, new=base.new)
        for path, values in start.heads.items():
            if isinstance(head := base.model.get_submodule(path), ModulesToSaveWrapper):
                head.modules_to_save[name].load_state_dict(values)
    parts = [
        _find_part(adapted, name, config, skeleton=base.skeleton)
        for name, config in zip(names, configs, strict=True)
    ]
    adapted.to(device)  # before weights become views
    stacked = layers.pack(adapted, names, alike=len(list_streams(configs)) == 1)
    choices = {**base.choices, "target_modules": targets}
    return Networks(adapted, parts, choices, names, drop=partial(_drop, names, stacked))


class _Start(NamedTuple):
    """What a run's seed decides of where it begins."""

    state: torch.Tensor  # of the random numbers from which it draws its adapter
    heads: dict[str, Any]  # by name, the state of each module that is trained from scratch, if not the base's


def _draw_start(config: Config, new: Sequence[str], load: Callable[[Config], Base]) -> _Start:
    """Begin a run of another seed as it begins alone, where new modules are drawn while a model loads."""
    set_seed(config.seed)
    model = load(config).model if new else None
    heads = {} if model is None else {name: model.get_submodule(name).state_dict() for name in new}
    return _Start(torch.get_rng_state(), heads)


def _drop(names: list[str], stacked: Sequence[layers.Adapters], place: int) -> None:
    """Leave a run out of what is computed from now on; the layers share the list of names."""
    del names[place]
    for layer in stacked:
        layer.stack()


def _find_part(adapted: nn.Module, adapter: str, config: Config, *, skeleton: nn.Module) -> Part:
    """Find what the run of the adapter trains, and hold it in its type."""
    parameters = {
        ".".join(FIRST if part == adapter else part for part in name.split(".")): parameter
        for name, parameter in adapted.named_parameters()
        if adapter in name.split(".")
    }
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    trained.hold(parameters, DTYPES[config.train.weights])
    return Part(lambda: parameters, *trained.count(parameters, skeleton))
