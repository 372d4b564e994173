"""What a card computes with, seen by the memory of single operations on the device meta."""

import contextlib
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional

from bench.memory.kernels import BLAS_WORKSPACE, Kernels
from bench.memory.recording import Recorder, Recording

BATCH, HEADS, LENGTH, SIZE = 2, 4, 256, 32
SQUARE = BATCH * HEADS * LENGTH * LENGTH  # values of attention between all pairs of tokens


def record(call: Callable[[], object], *, device_type: str = "cuda", autocast: bool = False) -> Recording:
    recorder = Recorder(device_type)
    context = torch.autocast("cpu", torch.bfloat16) if autocast else contextlib.nullcontext()
    with Kernels(device_type).active(), recorder, context:
        _alive = call()
    return recorder.recording


def sizes(recording: Recording) -> list[int]:
    return [event.size for event in recording.events if event.size is not None]


def states(dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.zeros(BATCH, HEADS, LENGTH, SIZE, dtype=dtype, device="meta", requires_grad=True)


@pytest.mark.parametrize("device_type", ["cuda", "cpu"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_never_holds_the_weights_of_all_pairs(
    device_type: str, dtype: torch.dtype, masked: bool
) -> None:
    mask = torch.ones(BATCH, 1, LENGTH, LENGTH, dtype=torch.bool, device="meta") if masked else None

    def attend() -> torch.Tensor:
        query = states(dtype)
        out = functional.scaled_dot_product_attention(query, query, query, attn_mask=mask)
        torch.autograd.backward(out.sum())
        return out

    recorded = [size for size in sizes(record(attend, device_type=device_type)) if size != BLAS_WORKSPACE]
    assert max(recorded) < SQUARE * dtype.itemsize
    assert BATCH * HEADS * LENGTH * 4 in recorded  # the logarithm of each row's sum, in fp32


def test_attention_that_no_fused_kernel_has_is_plain() -> None:
    def attend() -> torch.Tensor:
        query, shared = states(torch.float32), states(torch.float32)[:, :2]
        return functional.scaled_dot_product_attention(query, shared, shared, enable_gqa=True)

    assert max(sizes(record(attend))) >= 4 * SQUARE


@pytest.mark.parametrize(("device_type", "mask_bytes"), [("cuda", 1), ("cpu", 4)])
def test_dropout_keeps_a_byte_for_each_value_on_a_card(device_type: str, mask_bytes: int) -> None:
    values = torch.zeros(1000, device="meta", requires_grad=True)
    recorded = sizes(record(lambda: functional.dropout(values, 0.5), device_type=device_type))
    assert sorted(recorded)[0] == 1000 * mask_bytes


def test_a_card_casts_a_trained_weight_once_until_autocast_ends() -> None:
    layer = nn.Linear(100, 100, bias=False, device="meta")
    values = torch.zeros(10, 100, dtype=torch.bfloat16, device="meta")

    def compute() -> list[torch.Tensor]:
        first = [layer(values), layer(values)]
        with torch.autocast("cpu", enabled=False):
            pass
        return [*first, layer(values)]

    assert sizes(record(compute, autocast=True)).count(100 * 100 * 2) == 1
    layer.requires_grad_(False)
    assert sizes(record(compute, autocast=True)).count(100 * 100 * 2) == 3


@pytest.mark.parametrize(("device_type", "dtype"), [("cuda", torch.float32), ("cpu", torch.bfloat16)])
def test_a_card_normalises_in_fp32(device_type: str, dtype: torch.dtype) -> None:
    norm, found = nn.LayerNorm(100, device="meta", dtype=torch.bfloat16), []
    values = torch.zeros(10, 100, dtype=torch.bfloat16, device="meta")
    record(lambda: found.append(norm(values).dtype), device_type=device_type, autocast=True)
    assert found == [dtype]


def test_the_first_product_on_a_card_brings_a_workspace_that_stays() -> None:
    values = torch.zeros(10, 10, device="meta")
    on_card, on_cpu = (record(lambda: values @ values @ values, device_type=kind) for kind in ("cuda", "cpu"))
    assert sizes(on_card).count(BLAS_WORKSPACE) == 1
    assert BLAS_WORKSPACE not in sizes(on_cpu)
    freed = {event.number for event in on_card.events if event.size is None}
    assert next(event.number for event in on_card.events if event.size == BLAS_WORKSPACE) not in freed


def test_work_is_counted_in_operations_and_bytes() -> None:
    left, right = torch.zeros(20, 30, device="meta"), torch.zeros(30, 40, device="meta")
    [(work, times)] = record(lambda: (left @ right).view(-1)).work["load"].items()
    assert (work.flops, work.moved_bytes, times) == (2 * 20 * 30 * 40, 4 * (600 + 1200 + 800), 1)
