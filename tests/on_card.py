"""What tests/integration/run/test_card.py calls in a process of a machine with emulated cards, all in one go.

``python on_card.py FUNCTION ARGUMENTS`` prints what the function comes to, as JSON.
"""

import dataclasses
import itertools
import json
import math
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from bench.config.schema import Config
from bench.errors import BenchError
from bench.extras import doctor
from bench.model import build as builder
from bench.run.app import composing
from bench.run.run import run, run_all
from bench.train import optimizers
from bench.train.meter import Meter

CUDA = torch.device("cuda")
STEPS = 20


def compose_short(base: str, texts: str, *overrides: str) -> Config:
    with composing() as compose:
        return compose(
            [
                *("model=local", f"model.path={base}", "data=files", f"data.train={texts}"),
                *("track.mode=disabled", "lora.dropout=0", "train.micro_batch_size=8", "train.log_steps=1"),
                *(f"train.max_steps={STEPS}", "train.warmup_steps=2", "train.eval_steps=10"),
                *overrides,
            ]
        )


def train_in_fp16(base: str, texts: str, folder: str) -> dict[str, Any]:
    """Runs whose gradients overflow at some steps: stopped and resumed, and one that overflows too often."""
    seen: dict[str, Any] = {}

    def train(overflows: set[int], begun: int, *overrides: str) -> Any:
        AcceleratorState._reset_state(reset_partial_state=True)
        steps, backward = itertools.count(begun + 1), Accelerator.backward

        def overflow(self: Accelerator, loss: torch.Tensor, **options: Any) -> None:
            backward(self, loss, **options)
            if next(steps) in overflows:
                slopes = (one.grad for one in self._models[0].parameters() if one.grad is not None)
                next(slopes).fill_(math.inf)
            seen["scaler"] = self.scaler

        with mock.patch.object(Accelerator, "backward", overflow):
            return run(
                compose_short(
                    *(base, texts, "method=lora", "train.precision=fp16"),
                    *(f"results_dir={folder}/results", f"cache_dir={folder}/cache", *overrides),
                )
            )

    stopped = train({3}, 0, "train.stop_step=10")
    whole = train({13}, 10, f"resume_from={stopped.run_id}")
    scale = seen["scaler"].get_scale()
    path = Path(folder, "results", "runs", whole.run_id, "history.jsonl")
    rows = [row for row in map(json.loads, path.read_text().splitlines()) if "lr" in row]
    diverged = train({3, 4, 9}, 0, "train.lr=2e-3")
    return {
        "stopped": dataclasses.asdict(stopped),
        "whole": dataclasses.asdict(whole),
        "rows": rows,
        "scale": scale,
        "diverged": dataclasses.asdict(diverged),
    }


def pack_in_fp16(base: str, texts: str, folder: str) -> dict[str, Any]:
    """Three runs alone, as a pack, and as one whose second member's gradients overflow at two steps."""
    members = ("lora.r=8", "lora.r=4", "lora.r=2")

    def train(name: str, overflows: set[int], *overrides: str) -> list[Any]:
        AcceleratorState._reset_state(reset_partial_state=True)
        steps, backward = itertools.count(1), Accelerator.backward

        def overflow(self: Accelerator, loss: torch.Tensor, **options: Any) -> None:
            backward(self, loss, **options)
            if next(steps) in overflows:
                named = self._models[0].named_parameters()
                next(one.grad for path, one in named if "member_1" in path).fill_(math.inf)

        places = (f"results_dir={folder}/{name}", f"cache_dir={folder}/cache")
        with mock.patch.object(Accelerator, "backward", overflow):
            records = run_all(
                compose_short(
                    *(base, texts, "method=lora", "lora.alpha=2", "train.precision=fp16"),
                    *(*places, *overrides),
                )
            )
        return [describe(record, Path(folder, name)) for record in records]

    def describe(record: Any, results: Path) -> dict[str, Any]:
        text = (results / "runs" / record.run_id / "history.jsonl").read_text()
        rows = [row for row in map(json.loads, text.splitlines()) if "lr" in row]
        return {"status": record.status, "model": record.model, "rows": rows, "metrics": record.metrics}

    pack = f"pack=[{','.join('{' + one.replace('=', ':') + '}' for one in members[1:])}]"
    return {
        "alone": [train("alone", set(), one)[0] for one in members],
        "packed": train("packed", set(), members[0], pack),
        "overflowing": train("overflowing", {3, 13}, members[0], pack),
    }


def look_at_card(base: str, texts: str, folder: str) -> dict[str, Any]:
    """What is measured, placed, tried and refused."""
    return {
        "peaks": measure_phases(),
        "nvml": {name: ask_nvml(**case) for name, case in NVML.items()},
        "pissa": build_pissa(base, texts, folder),
        "doctor": try_paging(),
        "wsl": refuse_on_wsl(base, texts, folder),
    }


def measure_phases() -> dict[str, Any]:
    """Peaks of evaluating with 100 bytes and then training with 10, as torch's allocator would count them."""
    held = {"allocated": 0, "reserved": 0, "peak": 0}

    def take(size: int) -> None:
        held.update(allocated=size, reserved=max(size, held["reserved"]))
        held["peak"] = max(held["peak"], held["reserved"])
        held["allocated"] = 0

    replaced = {
        "empty_cache": lambda: held.update(reserved=held["allocated"]),
        "reset_peak_memory_stats": lambda _: held.update(peak=held["reserved"]),
        "max_memory_reserved": lambda _: held["peak"],
    }
    with mock.patch.multiple(torch.cuda, **replaced):
        meter = Meter(CUDA)
        for phase, size in (("eval", 100), ("train", 10), ("eval", 50)):
            with meter.phase(phase):
                take(size)
    return {name: peaks["peak_reserved_bytes"] for name, peaks in meter.peaks.items()}


NVML: dict[str, dict[str, Any]] = {
    "listed": {"used": 5},
    "elsewhere": {"pid": 1},
    "untold": {"used": None},
    "wsl": {"used": None, "release": "5.15.90.1-microsoft-standard-WSL2"},
    "mig": {"pid": 1, "divided": True},
    "no driver": {"starts": False},
    "unknown card": {"knows": False},
}


def ask_nvml(
    *,
    pid: int | None = None,
    used: int | None = 5,
    release: str = "6.8.0-generic",
    divided: bool = False,
    starts: bool = True,
    knows: bool = True,
) -> tuple[Any, Any]:
    """The peak that the driver says and the reason, where NVML answers so."""
    import pynvml

    def refuse(*_: Any) -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)

    one = SimpleNamespace(pid=os.getpid() if pid is None else pid, usedGpuMemory=used)
    replaced: dict[str, Any] = {
        "nvmlDeviceGetComputeRunningProcesses": lambda _: [one],
        "nvmlDeviceIsMigDeviceHandle": lambda _: SimpleNamespace(value=0),
        "nvmlDeviceGetMigMode": lambda _: [int(divided), int(divided)],
    }
    replaced |= {} if starts else {"nvmlInit": refuse}
    replaced |= {} if knows else {"nvmlDeviceGetHandleByUUID": refuse}
    with (
        mock.patch.multiple(pynvml, **replaced),
        mock.patch.object(platform, "release", return_value=release),
    ):
        meter = Meter(CUDA)
        with meter.phase("train"):
            pass
        reason = meter.null_reasons().get("memory.*.nvml_peak_bytes")
        return meter.peaks["train"]["nvml_peak_bytes"], reason


def build(config: Config, place: torch.device) -> builder.Network:
    torch.manual_seed(0)
    return builder.build(
        config,
        folder=Path(str(config.model.path)),
        labels=["a", "b", "c"],
        pad_token_id=0,
        device=place,
        precision="fp32",
    )


def build_pissa(base: str, texts: str, folder: str) -> dict[str, Any]:
    """Whether the network was on the card before its weights were decomposed, and is the same as on a CPU."""
    config = compose_short(base, texts, f"cache_dir={folder}/cache", "method=pissa", "train.precision=fp32")
    plain, events = build(config, torch.device("cpu")), []
    move, decompose = torch.nn.Module.to, torch.linalg.svd

    def note_move(self: torch.nn.Module, *args: Any, **options: Any) -> Any:
        if any(isinstance(one, torch.device) and one.type == "cuda" for one in args):
            events.append("move")
        return move(self, *args, **options)

    def note_svd(*args: Any, **options: Any) -> Any:
        events.append("svd")
        return decompose(*args, **options)

    with (
        mock.patch.object(torch.nn.Module, "to", note_move),
        mock.patch.object(torch.linalg, "svd", note_svd),
    ):
        placed = build(config, CUDA)
    pairs = zip(plain.model.state_dict().items(), placed.model.state_dict().items(), strict=True)
    equal = [name == other and torch.equal(one, two) for (name, one), (other, two) in pairs]
    return {"events": [name for name, _ in itertools.groupby(events)], "equal": all(equal)}


def try_paging() -> dict[str, Any]:
    """What doctor finds of a paged optimizer where nothing is paged, where CUDA pages, and on WSL2."""
    from bitsandbytes.optim.optimizer import Optimizer8bit

    def page(self: Any, weight: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        buffer = torch.zeros_like(weight, dtype=dtype)
        buffer.is_paged = self.is_paged and weight.numel() >= 1e5  # type: ignore[attr-defined]
        return buffer

    def find() -> tuple[str, str]:
        [found] = [one for one in doctor.examine_device(CUDA) if one.name == "paged 8-bit AdamW"]
        return found.mark, found.detail

    plain = find()
    with mock.patch.multiple(Optimizer8bit, get_state_buffer=page, prefetch_state=lambda *_: None):
        paged = find()
    with mock.patch.object(platform, "release", return_value="6.6-microsoft-standard-WSL2"):
        return {"plain": plain, "paged": paged, "wsl": find()}


def refuse_on_wsl(base: str, texts: str, folder: str) -> dict[str, Any]:
    config = compose_short(
        *(base, texts, "train.optimizer=paged_adamw_8bit"),
        *(f"results_dir={folder}/wsl", f"cache_dir={folder}/cache"),
    )
    optimizers.require_optimizer("paged_adamw", CUDA)  # where there is no Windows
    with mock.patch.object(platform, "release", return_value="6.6-microsoft-standard-WSL2"):
        return catch(lambda: run(config)) | {"written": Path(folder, "wsl").exists()}


def catch(call: Callable[[], Any]) -> dict[str, Any]:
    try:
        call()
    except BenchError as error:
        return {"message": str(error), "exit_code": error.exit_code}
    return {}


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])))
