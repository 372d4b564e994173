"""A model of PyTorch's CUDA caching allocator: the memory that a list of allocations takes on a card. Pure.

Memory is asked for from the driver in segments, cut into blocks, and kept when it is freed; so what a process
holds (reserved) is more than what its tensors take (allocated), and depends on their order. Constants and
rules are those of c10/cuda/CUDACachingAllocator.cpp with its default settings and a single stream.
"""

import bisect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MIB = 2**20

ROUNDING = 512  # every block is a multiple of it, and no block is smaller
SMALL = MIB  # blocks up to this size have a pool of their own
SMALL_SEGMENT = 2 * MIB
LARGE_SEGMENT = 20 * MIB  # for blocks below LARGE; larger ones get segments of their own size
LARGE = 10 * MIB
LARGE_ROUNDING = 2 * MIB
TRAINING = ("forward", "backward", "step")  # phases of events that a run measures as one, train


class OutOfMemoryError(Exception):
    """The card has no room for a segment, even after all unused ones were given back."""


@dataclass(frozen=True)
class Event:
    """A tensor's memory, allocated or freed; ``number`` is the same in both."""

    number: int
    size: int | None  # bytes; None: freed
    phase: str

    @property
    def measured_phase(self) -> str:
        """Return the phase that the run's own measurement counts it to: load, train or eval."""
        return "train" if self.phase in TRAINING else self.phase


@dataclass(eq=False)
class Block:
    """A piece of a segment, between its neighbours."""

    address: int
    size: int
    is_small: bool
    is_free: bool = True
    before: "Block | None" = None
    after: "Block | None" = None


class Allocator:
    """The state of the allocator, and its peaks since the last reset."""

    def __init__(self, capacity: int | None = None) -> None:
        self.capacity = capacity  # bytes that the driver gives; None: any number
        self.allocated = self.reserved = 0
        self.peak_allocated = self.peak_reserved = 0
        self._free: dict[bool, list[tuple[int, int, Block]]] = {True: [], False: []}  # by is_small
        self._next_address = 0

    def allocate(self, size: int) -> Block:
        """Allocate a block for a tensor of so many bytes: the smallest free one, or a new segment's.

        Raises:
            OutOfMemoryError: there is no room for the segment.
        """
        size = round_size(size)
        pool = self._free[size <= SMALL]
        place = bisect.bisect_left(pool, (size,))
        block = pool.pop(place)[-1] if place < len(pool) else self._reserve(size)
        rest = block.size - size
        if rest >= ROUNDING if block.is_small else rest > SMALL:
            block = self._split(block, size)
        block.is_free = False
        self.allocated += block.size
        self.peak_allocated = max(self.peak_allocated, self.allocated)
        return block

    def free(self, block: Block) -> None:
        """Put a block back, in one piece with free neighbours."""
        self.allocated -= block.size
        for other in (block.before, block.after):
            if other is not None and other.is_free:
                self._take(other)
                _merge(block, other)
        block.is_free = True
        self._put(block)

    def release_unused(self) -> None:
        """Give segments that are free as a whole back to the driver, as torch.cuda.empty_cache does."""
        for is_small, pool in self._free.items():
            parts = [entry for entry in pool if entry[-1].before is not None or entry[-1].after is not None]
            self.reserved -= sum(size for size, _, _ in pool) - sum(size for size, _, _ in parts)
            self._free[is_small] = parts

    def reset_peaks(self) -> None:
        """Begin a new phase: its peaks start from what is held now."""
        self.peak_allocated, self.peak_reserved = self.allocated, self.reserved

    def _reserve(self, size: int) -> Block:
        """Take a new segment from the driver, after giving back unused ones if it has no room."""
        segment = segment_size(size)
        if not self._has_room(segment):
            self.release_unused()
        if not self._has_room(segment):
            raise OutOfMemoryError(f"{segment} bytes wanted, {self.reserved} of {self.capacity} reserved")
        block = Block(self._next_address, segment, is_small=size <= SMALL)
        self._next_address += segment
        self.reserved += segment
        self.peak_reserved = max(self.peak_reserved, self.reserved)
        return block

    def _has_room(self, segment: int) -> bool:
        return self.capacity is None or self.reserved + segment <= self.capacity

    def _split(self, block: Block, size: int) -> Block:
        """Split off the first part of the block; the rest stays free."""
        first = Block(block.address, size, block.is_small, before=block.before, after=block)
        if block.before is not None:
            block.before.after = first
        block.before = first
        block.address += size
        block.size -= size
        block.is_free = True
        self._put(block)
        return first

    def _put(self, block: Block) -> None:
        bisect.insort(self._free[block.is_small], (block.size, block.address, block))

    def _take(self, block: Block) -> None:
        pool = self._free[block.is_small]
        del pool[bisect.bisect_left(pool, (block.size, block.address))]


def replay(events: Iterable[Event], capacity: int | None = None) -> dict[str, dict[str, int]]:
    """Return the peaks of allocated and reserved bytes of each measured phase.

    As in a run, what one phase freed is given back before the next begins.

    Raises:
        OutOfMemoryError: the capacity is not enough.
    """
    allocator = Allocator(capacity)
    blocks: dict[int, Block] = {}
    peaks: dict[str, dict[str, int]] = {}
    phase = None
    for event in events:
        if event.measured_phase != phase:
            phase = event.measured_phase
            allocator.release_unused()
            allocator.reset_peaks()
        if event.size is None:
            allocator.free(blocks.pop(event.number))
        else:
            blocks[event.number] = allocator.allocate(event.size)
        before = peaks.get(phase, {"peak_allocated_bytes": 0, "peak_reserved_bytes": 0})
        peaks[phase] = {
            "peak_allocated_bytes": max(before["peak_allocated_bytes"], allocator.peak_allocated),
            "peak_reserved_bytes": max(before["peak_reserved_bytes"], allocator.peak_reserved),
        }
    return peaks


def find_least(events: Sequence[Event], low: int, high: int) -> int:
    """Find the least capacity that is enough for the events, within a hundredth; ``high`` is known to be."""
    while high - low > high / 100:
        middle = (low + high) // 2
        try:
            replay(events, middle)
            high = middle
        except OutOfMemoryError:
            low = middle
    return high


def round_size(size: int) -> int:
    """Return the size of the block that a tensor of so many bytes gets."""
    return max(ROUNDING, -(-size // ROUNDING) * ROUNDING)


def segment_size(size: int) -> int:
    """Return the size of the segment that the driver is asked for, for a block of the rounded size."""
    if size <= SMALL:
        return SMALL_SEGMENT
    if size < LARGE:
        return LARGE_SEGMENT
    return -(-size // LARGE_ROUNDING) * LARGE_ROUNDING


def _merge(block: Block, other: Block) -> None:
    """Merge a block with its neighbour, which is gone."""
    if block.before is other:
        block.address, block.before = other.address, other.before
        if block.before is not None:
            block.before.after = block
    else:
        block.after = other.after
        if block.after is not None:
            block.after.before = block
    block.size += other.size
