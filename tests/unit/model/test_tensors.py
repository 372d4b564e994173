"""Weights are written one tensor after another, into the very file that the library would write."""

import gc
import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from bench.model import tensors, trained

ONE_OF_EACH_WIDTH = {
    "z.scalar": torch.tensor(3.5),
    "bias": torch.arange(5, dtype=torch.bfloat16),
    "weight": torch.randn(3, 7),
    "states": torch.arange(13, dtype=torch.uint8),
    "count": torch.tensor([1, -2]),
    "empty": torch.zeros(0, 4),
}


def test_the_file_is_what_the_library_writes(tmp_path: Path) -> None:
    save_file(ONE_OF_EACH_WIDTH, tmp_path / "theirs")
    tensors.write(ONE_OF_EACH_WIDTH, tmp_path / "ours")
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


@pytest.mark.parametrize("dtype", tensors._NAMES)
def test_every_type_of_weights_and_states_comes_back(tmp_path: Path, dtype: torch.dtype) -> None:
    given = {"odd": torch.ones(3, dtype=torch.bool), "文": (torch.randn(5) * 9).to(dtype)}
    tensors.write(given, tmp_path / "file")
    found = load_file(tmp_path / "file")
    assert (found["文"].dtype, found["文"].tolist()) == (dtype, given["文"].tolist())


def test_a_tensor_in_another_order_of_memory_and_one_that_shares_it_are_written_as_they_read(
    tmp_path: Path,
) -> None:
    whole = torch.randn(4, 6)
    given = {"whole": whole, "turned": whole.T, "row": whole[1]}
    tensors.write(given, tmp_path / "file")
    found = load_file(tmp_path / "file")
    assert found.keys() == given.keys()
    assert all(torch.equal(found[name], given[name]) for name in given)


def test_weights_are_fetched_one_after_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes from a device or from other processes is a copy, and no two of them are there at once."""
    copies: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []

    def fetch(tensor: torch.Tensor) -> torch.Tensor:
        gc.collect()
        alive.append(sum(one() is not None for one in copies))
        copy = tensor.clone()
        copies.append(weakref.ref(copy))
        return copy

    monkeypatch.setattr(tensors, "whole", fetch)
    weights = {f"layer.{number}": nn.Parameter(torch.randn(64, 64)) for number in range(8)}
    trained.write(weights, tmp_path / "best.safetensors")
    assert max(alive) <= 1  # the one before, until it is replaced
    assert len(copies) == 8
    others = {name: nn.Parameter(torch.zeros(64, 64)) for name in weights}
    trained.read(others, tmp_path / "best.safetensors")
    assert all(torch.equal(others[name], weights[name]) for name in weights)


def test_a_process_that_does_not_write_still_gives_its_part_of_each_weight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[bool, list[int]] = {True: [], False: []}
    weights = {name: nn.Parameter(torch.zeros(size)) for name, size in (("b", 2), ("a", 3), ("c", 1))}
    for writes in asked:
        monkeypatch.setattr(tensors, "whole", lambda one: asked[writes].append(one.numel()) or one)  # noqa: B023
        trained.write(weights, tmp_path / f"{writes}.safetensors", writes=writes)
    assert asked[True] == asked[False] == [3, 2, 1]
    assert [path.name for path in tmp_path.iterdir()] == ["True.safetensors"]
