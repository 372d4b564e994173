"""``python -m bench.extras.gpu_check``: the parts in order of risk, within nine minutes."""

import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.extras.gpu_check import article, sweeps
from bench.extras.gpu_check.lab import ROOT, Lab, Late, Machine, Proof, find_missing
from bench.extras.gpu_check.report import FAIL, PartResult, describe, name_card, write_report
from bench.memory.calibration import FOLDER

LIMIT_SECONDS = 9 * 60
CLOSING_SECONDS = 5  # of it, to end what still runs
LEAST_SECONDS = 15  # below which no part is worth beginning
TORCH = ("torch", "transformers", "safetensors")
PAGING = (*TORCH, "bitsandbytes")
BENCH = (
    *(*PAGING, "peft", "accelerate", "hydra", "omegaconf"),
    *("cloudpickle", "pandas", "rich", "scipy", "sklearn"),
)


@dataclass(frozen=True)
class Check:
    """One part of the check."""

    name: str
    check: Callable[[Lab], Iterator[Proof]]
    seconds: float  # that it may take
    packages: Sequence[str]  # without which it cannot run
    needs_card: str | None = None  # why it is left out on a CPU


PARTS = (
    Check("device", partial(Lab.try_here, name="device"), 100, TORCH),
    Check("sweep", sweeps.check_sweep, 150, BENCH),
    Check("out of memory", sweeps.check_halving, 90, BENCH, "only a CUDA card's memory can be capped"),
    Check("CPU and card agree", partial(Lab.try_here, name="agreement"), 45, TORCH),
    Check("fp16", sweeps.check_fp16, 75, BENCH, "a CPU does not train in fp16"),
    Check("paged 8-bit AdamW", partial(Lab.try_here, name="paging"), 30, PAGING, "a CPU cannot page"),
    Check("killed and resumed", sweeps.check_resumption, 120, BENCH),
    Check("ChatGLM-6B", article.check_article, 300, BENCH, "the network takes a card of 8 GiB or more"),
    Check("pack of 4", sweeps.check_pack, 120, BENCH),
)


def main() -> None:
    """Run everything and exit with 1 if a part failed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what it has started ends with it
    started, outcomes = time.monotonic(), list[PartResult]()
    place = ROOT / "build"  # and not /tmp, which may be in memory that a run is to page to
    place.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="gpu-check-", dir=place, ignore_cleanup_errors=True) as folder:
        for outcome in run_parts(Path(folder), PARTS, ends_at=started + LIMIT_SECONDS - CLOSING_SECONDS):
            outcomes.append(outcome)
            report = describe(outcomes, find_machine(outcomes[0]), seconds=time.monotonic() - started)
            paths = write_report(report, ROOT / "results" / FOLDER)
    print(f"{name_card(report)}: {', '.join(f'{one.name} {one.status}' for one in outcomes)}")
    print(*(path.relative_to(ROOT) for path in paths), sep="\n")
    sys.exit(1 if FAIL in {one.status for one in outcomes} else 0)


def run_parts(folder: Path, parts: Sequence[Check], *, ends_at: float) -> Iterator[PartResult]:
    """Run the parts in order, as far as the time lasts; each proof is printed as it is found."""
    machine = None
    for number, part in enumerate(parts):
        started, proofs = time.monotonic(), list[Proof]()
        lab = Lab(folder / str(number), min(ends_at, started + part.seconds), machine)
        lab.folder.mkdir()
        print(part.name, flush=True)
        for proof in _check(part, lab, is_first=number == 0):
            proofs.append(proof)
            print(f"  {proof.mark:5}{proof.name:22}{proof.detail}", flush=True)
        outcome = PartResult(part.name, time.monotonic() - started, proofs)
        print(f"  {outcome.status}", flush=True)
        machine = machine or find_machine(outcome)
        yield outcome


def find_machine(outcome: PartResult) -> Machine | None:
    """Find what the first part says of the machine, if it came to that."""
    machines = [proof.numbers["machine"] for proof in outcome.proofs if "machine" in proof.numbers]
    return Machine(**machines[0]) if machines else None


def _check(part: Check, lab: Lab, *, is_first: bool) -> Iterator[Proof]:
    """Yield the part's proofs; instead, or after those that there are, why it could not go on."""
    if missing := find_missing(part.packages):
        yield Proof(part.name, None, f"left out: not installed: {', '.join(missing)}")
    elif lab.seconds_left < LEAST_SECONDS:
        yield Proof(part.name, None, f"left out: the {LIMIT_SECONDS // 60} minutes are over")
    elif lab.machine is None and not is_first:
        yield Proof(part.name, None, "left out: the device could not be used at all")
    elif part.needs_card and not lab.has_gpu:
        yield Proof(part.name, None, f"left out: needs a card, as {part.needs_card}")
    else:
        try:
            yield from part.check(lab)
        except Late as late:
            yield Proof(part.name, False, str(late))
        except Exception as error:  # a check that cannot go on has found a fault, here or in itself
            yield Proof(part.name, False, f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
