"""What a packed step's time goes to, and whether torch.compile would shorten a step.

    python -m benchmarks.inside parts|compiled CASE

prints the one or the other as JSON; each is a process of its own, as in step.py.
"""

import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence

from torch.profiler import ProfilerActivity, profile

from bench import trainer
from bench.packed import training
from benchmarks.settings import answer, ratio, table
from benchmarks.step import CASES, MEMBERS, Case, make_batches, prepare, prepare_pack

WARM, MEASURED = 5, 15
# The profiler's names of what a kind of work is made of; each counts with all that it calls.
KINDS: Mapping[str, Sequence[str]] = {
    "products with the base's frozen weights": ["_Linear", "_LinearBackward"],
    "attention with dropout": ["_Attention", "_AttentionBackward"],
    "GELU": ["aten::gelu", "aten::gelu_backward"],
    "LayerNorm": ["aten::native_layer_norm", "aten::native_layer_norm_backward"],
    "adapters: dropout and the second product": [
        "_Mask",
        "_MaskBackward",
        "_AddProduct",
        "_AddProductBackward",
    ],
    "the optimizers": ["Optimizer.step#AdamW.step"],
}


def report(*, short: bool) -> str:
    """The section: shares of a packed step by kind, and torch.compile's start-up beside what it gains."""
    names = ["lora-4x64"] if short else ["lora-4x64", "lora-4x128"]
    shares = {name: _ask("parts", name) for name in names}
    rows = [[kind, *(f"{shares[name][kind]:.0%}" for name in names)] for kind in shares[names[0]]]
    parts = [
        "## Inside a step",
        f"What a step of {MEMBERS['packed']} packed points spends its time on (torch.profiler). Only the "
        "first row can come near the peak; the others are bound by memory or are many small products, and "
        "would need kernels that fuse them.",
        table(["share of the time", *(CASES[name].title for name in names)], rows),
    ]
    if not short:
        compiled = [_describe_compiled(name) for name in ("lora-4x64", "full-16x64")]
        head = ["step", "eager", "compiled", "gain", "first step, with compiling", "pays after"]
        parts += ["`torch.compile(dynamic=True)` of the model that is trained alone:", table(head, compiled)]
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
    packed = prepare_pack(case, WARM + MEASURED)
    batches = make_batches(case, WARM + MEASURED)
    packed.model.train()
    for _ in range(WARM):
        training.advance(packed, [next(batches)])
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for batch in batches:
            training.advance(packed, [batch])
    events = profiled.key_averages()
    whole = sum(one.self_cpu_time_total for one in events)
    taken = {
        kind: sum(one.cpu_time_total for one in events if one.key in names) / whole
        for kind, names in KINDS.items()
    }
    return {**taken, "else: dropout, sums, the adapters' first product, heads": 1 - sum(taken.values())}


def measure_compiled(case: Case) -> dict[str, float]:
    """Seconds of a step, of one of the compiled model, and of the first one, which compiles."""
    steps = 2 * (WARM + MEASURED) + 1
    solo, batches = prepare(case, steps), make_batches(case, steps)
    solo.model.train()

    def run(count: int) -> list[float]:
        seconds = []
        for _ in range(count):
            began = time.perf_counter()
            trainer.advance(solo, [next(batches)])
            seconds.append(time.perf_counter() - began)
        return seconds

    eager = statistics.median(run(WARM + MEASURED)[WARM:])
    solo.model.compile(dynamic=True)
    [first] = run(1)
    return {"eager": eager, "first": first, "compiled": statistics.median(run(WARM + MEASURED)[WARM:])}


if __name__ == "__main__":
    what, name = sys.argv[1:]
    measure = {"parts": measure_parts, "compiled": measure_compiled}[what]
    print(json.dumps(measure(CASES[name])))
