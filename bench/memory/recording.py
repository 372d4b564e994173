"""A recorder of what a computation on ``meta`` allocates, frees and computes, operation by operation."""

import contextlib
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

# Private, and the only way to see every operation: torch's own flop_counter is made of the same two.
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from bench.memory.allocator import Event
from bench.memory.kernels import BLAS_WORKSPACE, DECOMPOSED, hidden_bytes

aten: Any = torch.ops.aten
_COPIES = (aten._to_copy.default, aten.copy_.default)


@dataclass(frozen=True)
class Work:
    """One operation's cost on any card."""

    flops: int
    moved_bytes: int  # of its inputs and outputs
    dtype: str  # that it computes in


@dataclass
class Recording:
    """All events in order, whose memory each number is, and the work of each phase."""

    events: list[Event] = field(default_factory=list)
    owners: dict[int, str] = field(default_factory=dict)  # number -> weights, ...; else activations
    work: dict[str, Counter[Work]] = field(default_factory=dict)
    paged_bytes: int = 0  # that are not on the device
    parameters: int = 0
    trained_bytes: int = 0
    largest_bytes: int = 0  # of what is trained
    optimizer_bytes: int = 0


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A recorder of the memory of every tensor on ``meta``, from the operation that makes it to its end."""

    def __init__(self, device_type: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device_type = device_type
        self.phase = "load"
        self.recording = Recording()
        self._live: dict[int, int] = {}  # a storage's id -> its number
        self._has_multiplied = False
        self._is_paused = False

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call the operation and write down what it allocates."""
        options = dict(kwargs or {})
        if func is aten._local_scalar_dense.default and args[0].is_meta:
            return _guess(args[0])
        if func is aten._to_copy.default and options.get("device") == torch.device("cpu"):
            return torch.zeros(args[0].shape, dtype=options.get("dtype") or args[0].dtype)
        if self._is_paused:
            return func(*args, **options)
        with self:
            if func in DECOMPOSED:
                return DECOMPOSED[func](*args, **options)
            if torch.is_inference_mode_enabled():  # where torch leaves it to the device to take them apart
                parts = func.decompose(*args, **options)
                if parts is not NotImplemented:
                    return parts
        with self.occupied(hidden_bytes(func, args, self.device_type)):
            result = func(*args, **options)
            made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor) and leaf.is_meta]
            self._count(func, args, options, result, made)
            for tensor in made:
                self.hold(tensor)
        return result

    def hold(self, tensor: torch.Tensor, owner: str | None = None) -> None:
        """Count the tensor's memory as allocated, if it was not yet; ``owner`` says what it is for."""
        storage = tensor.untyped_storage()
        key = id(storage)  # torch has one object for each
        if not storage.nbytes():
            return
        if key not in self._live:
            self._live[key] = self._allocate(storage.nbytes())
            weakref.finalize(storage, self._drop, key)
        if owner is not None:
            self.recording.owners[self._live[key]] = owner

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out what is made inside, as it is not on the device."""
        self._is_paused = True
        try:
            yield
        finally:
            self._is_paused = False

    @contextlib.contextmanager
    def occupied(self, sizes: Iterable[int]) -> Iterator[None]:
        """Take memory of these sizes inside."""
        numbers = [self._allocate(size) for size in sizes]
        yield
        for number in numbers:
            self._free(number)

    def _count(
        self, func: Any, args: Sequence[Any], options: Mapping[str, Any], result: Any, made: list[Any]
    ) -> None:
        """Add the operation's work, unless it is only another view of the same memory."""
        if func.is_view or not made:
            return
        count_flops: Callable[..., int] | None = flop_registry.get(func.overloadpacket)
        flops = 0 if count_flops is None else count_flops(*args, **options, out_val=result)
        if flops and not self._has_multiplied and self.device_type == "cuda":
            self._has_multiplied = True
            self._allocate(BLAS_WORKSPACE)
        read = [leaf for leaf in tree_leaves((args, options)) if isinstance(leaf, torch.Tensor)]
        moved = sum(one.nbytes for one in [*read, *made])
        dtype = str(read[0].dtype if read else made[0].dtype).removeprefix("torch.")
        self.recording.work.setdefault(self.phase, Counter())[Work(flops, moved, dtype)] += 1

    def _allocate(self, size: int) -> int:
        number = len(self.recording.events)  # nothing else begins there
        self.recording.events.append(Event(number, size, self.phase))
        return number

    def _free(self, number: int) -> None:
        self.recording.events.append(Event(number, None, self.phase))

    def _drop(self, key: int) -> None:
        self._free(self._live.pop(key))


def _guess(tensor: torch.Tensor) -> bool:
    """Guess the value that costs more memory, of a condition that decides what a network computes.

    Raises:
        NotImplementedError: not a condition, so that there is no such value.
    """
    if tensor.dtype == torch.bool:
        return False  # not all tokens are text, so that attention needs a mask
    raise NotImplementedError("a number that depends on the texts decides what is computed")
