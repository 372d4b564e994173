"""The weights that a run trains: which they are, how many, and as a file."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn

from bench.errors import StoreError
from bench.files import replacing
from bench.model import tensors

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


Trained = Mapping[str, nn.Parameter]  # by the name that a run's own network has for it


def find(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return what of the model is trained."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def hold(trained: Trained, dtype: torch.dtype) -> None:
    """Hold it in this type, whatever it came in."""
    for parameter in trained.values():
        parameter.data = parameter.data.to(dtype)


def count(trained: Trained, skeleton: nn.Module) -> tuple[int, int]:
    """Count trainable and total parameters: the base model's, the head's and the adapter's.

    Args:
        skeleton: the base model and its head, of which a 4-bit weight counts as one.
    """
    shapes = {name for name, _ in skeleton.named_parameters()}
    added = [
        value.numel()
        for name, value in trained.items()
        if name.removeprefix("base_model.model.").replace(".modules_to_save.default", "") not in shapes
    ]
    total = sum(value.numel() for value in skeleton.parameters()) + sum(added)
    return sum(value.numel() for value in trained.values()), total


def write(trained: Mapping[str, torch.Tensor], path: Path, *, writes: bool = True) -> None:
    """Write it to a safetensors file that is there as a whole or not at all, one tensor after another.

    Where processes have a part of each weight, all must call this, and one of them ``writes``.

    Raises:
        StoreError: the disk refused it; a file that was there stays.
    """
    held = {name: value.detach() for name, value in trained.items()}
    if not writes:
        tensors.write(held, path, writes=False)
        return
    try:
        with replacing(path, durable=False) as temporary:
            tensors.write(held, temporary)
    except OSError as error:
        raise StoreError(f"{path}: {error}; free space on that disk, and the same command goes on") from None


def read(trained: Trained, path: Path) -> None:
    """Set it to what ``write`` wrote of the same kind of network, one tensor after another."""
    with safe_open(path, framework="pt") as file, torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(tensors.spread(file.get_tensor(name), parameter))


def read_grown(trained: Trained, path: Path, places: Sequence[int]) -> None:
    """Set it to what ``write`` wrote of a network for fewer labels; rows of new ones stay as they are.

    Args:
        places: where each of the fewer labels is among those of this network
    """
    with safe_open(path, framework="pt") as file, torch.no_grad():
        for name, parameter in trained.items():
            held = file.get_tensor(name)
            rows = slice(None) if held.shape == parameter.shape else [*places]
            parameter[rows] = held.to(parameter)
