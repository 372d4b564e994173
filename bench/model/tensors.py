"""Tensors as a safetensors file, one after another, so that no more than one of them is copied to the CPU."""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor, distribute_tensor

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_ALIGNMENT = 8  # bytes; no type is larger


def write(tensors: Mapping[str, torch.Tensor], path: Path, *, writes: bool = True) -> None:
    """Write the tensors, from any device, to a file that every reader of safetensors reads.

    The library's own save_file wants all of them in the machine's memory at once. Where processes have a part
    of each tensor, all must call this, and one of them ``writes``.

    Raises:
        OSError: the disk refused it; a part of the file is left.
    """
    # As the library: the widest types first, so that each tensor begins at a multiple of its own type.
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header, end = dict[str, object](), 0
    for name in order:
        tensor, start = tensors[name], end
        end += tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with path.open("wb") if writes else contextlib.nullcontext() as file:
        if file is not None:
            file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            gathered = whole(tensors[name])
            if file is not None:
                # A copy, as the storage of a tensor that numpy has seen cannot be resized, which FSDP does.
                file.write(gathered.to("cpu", copy=True).reshape(-1).view(torch.uint8).numpy().data)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor of which this process may hold a part; all must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def spread(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return the tensor, or this process's part of it where ``like`` is one."""
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)
