"""What a packed step's time goes to, and whether torch.compile would shorten a step.

    python -m benchmarks.inside parts|compiled CASE

prints the one or the other as JSON; each is a process of its own, as in step.py.
"""

import contextlib
import json
import pkgutil
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

import torch

from bench.train import loop
from bench.train.device import keep_freed_memory
from benchmarks.settings import answer, ratio, table
from benchmarks.step import CASES, MEMBERS, Case, make_batches, prepare_alone, prepare_pack

WARM, MEASURED = 5, 15
# What computes a kind of work forward, and the nodes of autograd that do backward.
KINDS: Mapping[str, tuple[Sequence[str], Sequence[str]]] = {
    "products with the base's frozen weights": (["bench.packs.frozen._Linear.forward"], ["_LinearBackward"]),
    "attention with dropout": (["bench.model.attention._Attention.forward"], ["_AttentionBackward"]),
    "GELU": (["torch.nn.functional.gelu"], ["GeluBackward0"]),
    "LayerNorm": (["torch.nn.functional.layer_norm"], ["NativeLayerNormBackward0"]),
    "dropout of the base, its masks": (["bench.model.dropout.draw_mask"], ["MulBackward0"]),
    "adapters": (
        ["bench.packs.dropout.drop_each", "bench.packs.layers._add_products"],
        ["_MaskBackward", "BmmBackward0"],
    ),
    "the optimizers": (["torch.optim.AdamW.step"], []),
}


def report(*, short: bool) -> str:
    """The section: shares of a packed step by kind, and torch.compile's start-up beside what it gains."""
    names = ["lora-4x64"] if short else ["lora-4x64", "lora-4x128"]
    shares = {name: _ask("parts", name) for name in names}
    rows = [[kind, *(f"{shares[name][kind]:.0%}" for name in names)] for kind in shares[names[0]]]
    parts = [
        "## Inside a step",
        f"What a step of {MEMBERS['packed']} packed points spends its time on, by the clock around each part "
        "(torch.profiler's own memory would lie between the tensors' and make their pages be cleared anew). "
        "Only the first row can come near the peak; the others are bound by memory or are many small "
        "products, and would need kernels that fuse them.",
        table(["share of the time", *(CASES[name].title for name in names)], rows),
    ]
    if not short:
        compiled = [_describe_compiled(name) for name in ("lora-4x64", "full-16x64")]
        head = ["step", "eager", "compiled", "gain", "first step, with compiling", "pays after"]
        parts += [
            "`torch.compile(dynamic=True)` of the model that is trained alone, compiled with torch's own "
            "attention, as bench's does not compile:",
            table(head, compiled),
        ]
    return "\n\n".join(parts)


def _describe_compiled(name: str) -> list[str]:
    found = _ask("compiled", name)
    gained = found["eager"] - found["compiled"]
    pays = f"{found['first'] / gained:,.0f} steps" if gained > 0.01 * found["eager"] else "never"
    return [
        CASES[name].title,
        f"{1000 * found['eager']:.1f} ms",
        f"{1000 * found['compiled']:.1f} ms",
        ratio(found["eager"], found["compiled"]),
        f"{found['first']:.0f} s",
        pays,
    ]


def _ask(what: str, case: str) -> dict[str, float]:
    found: dict[str, float] = answer([sys.executable, "-m", "benchmarks.inside", what, case])
    return found


def measure_parts(case: Case) -> dict[str, float]:
    """The share of each of KINDS in a packed step's time, and of all else."""
    with _clocked() as seconds:
        packed = prepare_pack(case, WARM + MEASURED)
        batches = make_batches(case, WARM + MEASURED)
        packed.model.train()
        for _ in range(WARM):
            loop.take_step(packed, [next(batches)])
        seconds.clear()
        began = time.perf_counter()
        for batch in batches:
            loop.take_step(packed, [batch])
        whole = time.perf_counter() - began
    taken = {kind: seconds[kind] / whole for kind in KINDS}
    return {**taken, "else: sums, copies, embeddings, heads": 1 - sum(taken.values())}


@contextlib.contextmanager
def _clocked() -> Iterator[dict[str, float]]:
    """Inside, all work of KINDS adds its seconds to a counter."""
    seconds: dict[str, float] = defaultdict(float)
    kinds = {node: kind for kind, (_, nodes) in KINDS.items() for node in nodes}

    def clock(kind: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            began = time.perf_counter()
            found = call(*arguments, **options)
            seconds[kind] += time.perf_counter() - began
            return found

        return timed

    def backward(loss: torch.Tensor, *arguments: Any, **options: Any) -> None:
        for node in _walk(loss.grad_fn):
            if kind := kinds.get(type(node).__name__):
                _clock_node(node, kind, seconds)
        original(loss, *arguments, **options)

    original: Any = torch.Tensor.backward
    with contextlib.ExitStack() as patches:
        patches.enter_context(mock.patch("torch.Tensor.backward", backward))
        for kind, (names, _) in KINDS.items():
            for name in names:
                patches.enter_context(mock.patch(name, clock(kind, pkgutil.resolve_name(name))))
        yield seconds


def _walk(node: Any) -> set[Any]:
    """The nodes of the graph that backward goes through."""
    found, left = set(), [node]
    while left:
        if (one := left.pop()) is not None and one not in found:
            found.add(one)
            left += [following for following, _ in one.next_functions]
    return found


def _clock_node(node: Any, kind: str, seconds: dict[str, float]) -> None:
    def begin(_: Any) -> None:
        seconds[kind] -= time.perf_counter()

    def end(*_: Any) -> None:
        seconds[kind] += time.perf_counter()

    node.register_prehook(begin)
    node.register_hook(end)


def measure_compiled(case: Case) -> dict[str, float]:
    """Seconds of a step, of one of the compiled model, and of the first one, which compiles."""
    steps = 2 * (WARM + MEASURED) + 1
    solo, batches = prepare_alone(case, steps), make_batches(case, steps)
    solo.model.train()

    def run(count: int) -> list[float]:
        seconds = []
        for _ in range(count):
            began = time.perf_counter()
            loop.take_step(solo, [next(batches)])
            seconds.append(time.perf_counter() - began)
        return seconds

    eager = statistics.median(run(WARM + MEASURED)[WARM:])
    solo.model.config._attn_implementation = "sdpa"  # bench's own draws masks in a way that does not compile
    solo.model.compile(dynamic=True)
    [first] = run(1)
    return {"eager": eager, "first": first, "compiled": statistics.median(run(WARM + MEASURED)[WARM:])}


if __name__ == "__main__":
    what, name = sys.argv[1:]
    keep_freed_memory()  # as every run of bench
    measure = {"parts": measure_parts, "compiled": measure_compiled}[what]
    print(json.dumps(measure(CASES[name])))
