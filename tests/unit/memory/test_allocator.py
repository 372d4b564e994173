"""The allocator's rules, each worked out by hand from c10/cuda/CUDACachingAllocator.cpp."""

import itertools
import random

import pytest

from bench.memory.allocator import MIB, Allocator, Block, Event, OutOfMemoryError, replay


def hold(allocator: Allocator, *sizes: int) -> list[Block]:
    return [allocator.allocate(size) for size in sizes]


@pytest.mark.parametrize(
    ("size", "allocated", "reserved"),
    [
        (0, 512, 2 * MIB),
        (1, 512, 2 * MIB),
        (512, 512, 2 * MIB),
        (513, 1024, 2 * MIB),
        (MIB, MIB, 2 * MIB),
        (MIB + 1, MIB + 512, 20 * MIB),
        (10 * MIB - 512, 10 * MIB - 512, 20 * MIB),
        (10 * MIB, 10 * MIB, 10 * MIB),
        (10 * MIB + 1, 10 * MIB + 512, 12 * MIB),
        (501 * MIB, 502 * MIB, 502 * MIB),  # a rest of up to 1 MiB stays with its block
    ],
)
def test_one_tensor_takes_a_rounded_block_of_a_rounded_segment(
    size: int, allocated: int, reserved: int
) -> None:
    allocator = Allocator()
    allocator.allocate(size)
    assert (allocator.allocated, allocator.reserved) == (allocated, reserved)


def test_small_and_large_tensors_do_not_share_segments() -> None:
    allocator = Allocator()
    hold(allocator, 5 * MIB, MIB)
    assert allocator.reserved == 22 * MIB


def test_a_segment_is_shared_until_it_is_full() -> None:
    allocator = Allocator()
    hold(allocator, *[512] * 4096)
    assert allocator.reserved == 2 * MIB
    hold(allocator, 1)
    assert allocator.reserved == 4 * MIB


def test_a_large_block_is_split_only_if_more_than_a_mebibyte_is_left() -> None:
    allocator = Allocator()
    allocator.free(allocator.allocate(12 * MIB))
    [whole] = hold(allocator, 11 * MIB)  # 1 MiB would be left
    assert allocator.allocated == 12 * MIB
    allocator.free(whole)
    hold(allocator, 11 * MIB - 512)
    assert allocator.allocated == 11 * MIB - 512
    assert allocator.reserved == 12 * MIB


def test_the_smallest_block_that_is_large_enough_is_taken() -> None:
    allocator = Allocator()
    blocks = hold(allocator, 30 * MIB, 14 * MIB, 20 * MIB)
    for block in blocks:
        allocator.free(block)
    hold(allocator, 18 * MIB)  # from the 20, whose rest of 2 MiB serves the next
    hold(allocator, 2 * MIB, 30 * MIB, 14 * MIB)
    assert allocator.reserved == 64 * MIB


def test_neighbours_become_one_block_again_on_either_side() -> None:
    allocator = Allocator()
    first, second, third, _ = hold(allocator, 4 * MIB, 4 * MIB, 4 * MIB, 8 * MIB)  # one segment of 20 MiB
    allocator.free(first)
    allocator.free(third)
    allocator.free(second)
    hold(allocator, 12 * MIB)
    assert allocator.reserved == 20 * MIB


def test_memory_in_pieces_cannot_serve_a_whole() -> None:
    allocator = Allocator()
    first, _, third, _ = hold(allocator, 4 * MIB, 4 * MIB, 4 * MIB, 8 * MIB)
    allocator.free(first)
    allocator.free(third)
    hold(allocator, 8 * MIB)
    assert allocator.reserved == 40 * MIB


def test_reserved_memory_never_shrinks_by_itself_and_peaks_are_of_a_phase() -> None:
    allocator = Allocator()
    blocks = hold(allocator, 100 * MIB, 50 * MIB)
    for block in blocks:
        allocator.free(block)
    assert (allocator.allocated, allocator.reserved) == (0, 150 * MIB)
    assert (allocator.peak_allocated, allocator.peak_reserved) == (150 * MIB, 150 * MIB)
    allocator.reset_peaks()
    hold(allocator, 30 * MIB)
    assert (allocator.peak_allocated, allocator.peak_reserved) == (30 * MIB, 150 * MIB)


def test_only_segments_without_a_tensor_are_given_back() -> None:
    allocator = Allocator()
    unused, part, _ = hold(allocator, 100 * MIB, 4 * MIB, 4 * MIB)
    allocator.free(unused)
    allocator.free(part)
    allocator.release_unused()
    assert allocator.reserved == 20 * MIB
    hold(allocator, 4 * MIB)
    assert allocator.reserved == 20 * MIB


def test_unused_segments_are_given_back_before_a_card_is_full() -> None:
    allocator = Allocator(capacity=100 * MIB)
    allocator.free(allocator.allocate(60 * MIB))
    [held] = hold(allocator, 80 * MIB)
    assert allocator.reserved == 80 * MIB
    with pytest.raises(OutOfMemoryError):
        allocator.allocate(40 * MIB)
    allocator.free(held)
    hold(allocator, 100 * MIB)


def test_a_phase_begins_without_what_the_one_before_has_freed() -> None:
    large, small = 300 * MIB, 30 * MIB
    events = [
        Event(0, 100 * MIB, "load"),
        *(Event(1, large, "load"), Event(1, None, "load")),
        *(Event(2, large, "forward"), Event(2, None, "backward")),
        *(Event(3, small, "step"), Event(3, None, "step")),  # of the same phase, train
        *(Event(4, small, "eval"), Event(4, None, "eval")),
    ]
    peaks = {name: found["peak_reserved_bytes"] / MIB for name, found in replay(events).items()}
    assert peaks == {"load": 400, "train": 400, "eval": 130}


def test_whatever_the_order_nothing_is_lost() -> None:
    chance = random.Random(0)
    allocator, held = Allocator(), []
    for _ in range(3000):
        if held and chance.random() < 0.5:
            allocator.free(held.pop(chance.randrange(len(held))))
        else:
            held.append(allocator.allocate(int(2 ** chance.uniform(0, 26))))
        assert allocator.allocated == sum(block.size for block in held)
        assert allocator.allocated <= allocator.reserved
    spans = sorted((block.address, block.address + block.size) for block in held)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
    for block in held:
        allocator.free(block)
    allocator.release_unused()
    assert (allocator.allocated, allocator.reserved) == (0, 0)
