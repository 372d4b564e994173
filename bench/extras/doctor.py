"""What this machine can run, each answer found by trying it: for `bench doctor` and for a GPU's report.

examine_device, which gpu-check calls, works where Hydra is not installed.
"""

import importlib.util
import os
import platform
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch
from torch import nn

from bench.config.cards import GIB
from bench.errors import BenchError
from bench.files import can_write
from bench.model.trained import DTYPES
from bench.run import driver, provenance
from bench.train.device import NO_PAGING, choose_device, choose_precision, is_wsl

if TYPE_CHECKING:
    from bench.config.schema import Config, ModelConfig

HUB = "https://huggingface.co"
NF4_ERROR = 0.12  # of normal weights, relative, root mean square; the code's own is about 0.095 (measured)
_EXTRAS = {
    "datasets": "data=hub",
    "cleanlab": "bench audit",
    "setfit": "method=setfit",
    "sentencepiece": "ChatGLM's tokenizer",
    "deepspeed": "train=deepspeed_zero2",
    "submitit": "hydra/launcher=submitit_slurm",
    "ray": "hydra/launcher=ray",
}


@dataclass(frozen=True)
class Trial:
    """One thing that was looked at."""

    name: str
    works: bool | None  # None: not on this machine, which is no fault
    detail: str

    @property
    def mark(self) -> str:
        """yes, NO, or - for what is not here."""
        return {True: "yes", False: "NO", None: "-"}[self.works]


def examine(config: "Config") -> Iterator[Trial]:
    """Try all that runs like this one need: the device and what it computes, the model, hub, W&B, disk."""
    from bench.run.tracking import wandb_run as tracking

    seconds = config.track.probe_seconds
    yield from examine_cards(config.devices)
    yield from examine_device(choose_device(config.devices))
    yield _find_model(config.model)
    yield from map(_find_extra, _EXTRAS)
    yield _find_hub(seconds)
    mode = tracking.resolve("auto", probe_seconds=seconds)
    yield Trial("W&B", mode.mode == "online" or None, mode.reason or "the server answers; runs are mirrored")
    yield _find_disk(Path(config.results_dir))


def examine_cards(devices: str) -> Iterator[Trial]:
    """Hold the driver against torch, and look at each card: what is free, who holds the rest, who gets it."""
    installed = driver.ask()
    if installed is None:
        yield Trial("driver", None, "no NVIDIA driver answers")
        return
    chosen, works, detail = driver.Choice(), True, driver.tell_driver(installed)
    try:
        chosen = driver.choose(devices)
    except BenchError as error:
        works, detail = False, str(error)
    yield Trial("driver", works, "; ".join(filter(None, [detail, chosen.note])))
    for device in installed.devices:
        is_chosen = device in chosen.devices
        parts = [
            f"{device.name}, {device.total_bytes / GIB:.1f} GiB, {device.free_bytes / GIB:.1f} free",
            driver.tell_holders(device),
            f"runs get it with devices={devices}" if is_chosen else f"not used with devices={devices}",
        ]
        yield Trial(f"card {device.index}", is_chosen or None, "; ".join(filter(None, parts)))


def examine_device(device: torch.device) -> Iterator[Trial]:
    """Look at the device and its precision, and try 4-bit weights and 8-bit optimizers on it."""
    yield Trial("Python", True, f"{platform.python_version()}, torch {torch.__version__}")
    hardware = provenance.describe(model_revision=None)["hardware"]
    available = psutil.virtual_memory().available
    yield Trial(
        "CPU",
        True,
        f"{hardware['cpu']}, {hardware['cores']} cores, {hardware['memory_bytes'] / GIB:.1f} GiB of memory, "
        f"{available / GIB:.1f} free",
    )
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        yield Trial("GPU", True, f"{hardware['gpu']}, {total / GIB:.1f} GiB, {free / GIB:.1f} free")
    else:
        yield Trial("GPU", None, "torch finds no CUDA device; everything runs on the CPU")
    precision = choose_precision("auto", device)
    yield _try("precision", lambda: _try_precision(device, precision))
    yield _try("4-bit weights (NF4)", lambda: _try_four_bit(device, DTYPES[precision]))
    yield _try("8-bit AdamW", lambda: _try_optimizer("AdamW8bit", device))
    if device.type == "cpu":
        yield Trial("paged 8-bit AdamW", None, "paging needs a CUDA device")
    elif is_wsl():
        yield Trial("paged 8-bit AdamW", None, f"{NO_PAGING}; train=full_24gb cannot run")
    else:
        yield _try("paged 8-bit AdamW", lambda: _try_optimizer("PagedAdamW8bit", device))


def _try(name: str, call: Callable[[], str]) -> Trial:
    """Return what the call says, or its error as a fault."""
    try:
        return Trial(name, True, call())
    except Exception as error:  # whatever a library raises on this machine is the finding
        line = next(iter(str(error).splitlines()), "no message")
        return Trial(name, False, f"{type(error).__name__}: {line}")


def _try_precision(device: torch.device, precision: str) -> str:
    """Hold a product of matrices against the same in fp32."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(256, 256, generator=generator) for _ in range(2))
    product = left.to(device, DTYPES[precision]) @ right.to(device, DTYPES[precision])
    error = _relative_error(product, left @ right)
    if error > 0.02:
        raise ArithmeticError(f"a product in {precision} is off by {error:.1%}")
    return f"{precision} is what train.precision=auto means here; a product is within {error:.2%} of fp32"


def _try_four_bit(device: torch.device, dtype: torch.dtype) -> str:
    """Hold a linear layer in NF4, forwards and backwards, against the product with its own weights."""
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn.modules import Linear4bit

    weights = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    make: Any = Linear4bit  # without annotations
    layer = make(256, 256, bias=False, compute_dtype=dtype, quant_type="nf4")
    layer.load_state_dict({"weight": weights})
    layer.support_avx512bf16_for_cpu = False  # as bench trains
    layer = layer.to(device)
    rows = torch.randn(8, 256, generator=torch.Generator().manual_seed(1)).to(device, dtype)
    output = layer(rows.requires_grad_())
    output.sum().backward()
    held = dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
    lost = _relative_error(held, weights)
    assert rows.grad is not None  # backward has just made it
    errors = (
        _relative_error(output, rows.detach().float() @ held.T),
        _relative_error(rows.grad, torch.ones(8, 256) @ held.cpu()),
    )
    if lost > NF4_ERROR or max(errors) > 0.02:
        raise ArithmeticError(
            f"NF4 keeps weights within {lost:.1%}, a product within {errors[0]:.1%} and its gradient within "
            f"{errors[1]:.1%}"
        )
    return f"forward and backward work; weights are kept within {lost:.1%} (root mean square)"


def _try_optimizer(name: str, device: torch.device) -> str:
    """Take steps of bitsandbytes' optimizer that bring a square down."""
    from bitsandbytes import optim

    # 262,144 weights: bitsandbytes keeps states of fewer than 4,096 in 32 bits, and pages from 100,000 on.
    layer = nn.Linear(512, 512, bias=False).to(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        nn.init.normal_(layer.weight)
    optimizer = getattr(optim, name)(layer.parameters(), lr=0.1)
    losses = []
    for _ in range(10):
        loss = layer.weight.square().mean()
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    states = [state[key] for state in optimizer.state.values() for key in ("state1", "state2")]
    kinds = {state.dtype for state in states}
    if losses[-1] > 0.5 * losses[0] or kinds != {torch.uint8}:
        raise ArithmeticError(f"ten steps took a loss from {losses[0]:.2f} to {losses[-1]:.2f} in {kinds}")
    if not optimizer.is_paged:
        return "works; its states are held in 8 bits"
    if not all(getattr(state, "is_paged", False) for state in states):
        raise ArithmeticError("its states are not in memory that CUDA can page")
    return "works; its states are held in 8 bits, in memory that CUDA pages"


def _relative_error(computed: torch.Tensor, expected: torch.Tensor) -> float:
    """Compute the root mean square of the difference, as a share of that of what was expected."""
    expected = expected.cpu().float()
    return float((computed.detach().cpu().float() - expected).norm() / expected.norm())


def _find_model(model: "ModelConfig") -> Trial:
    from bench.model.weights import locate

    try:
        return Trial("default model", True, str(locate(model) or "random weights"))
    except BenchError as error:
        return Trial("default model", False, str(error))


def _find_extra(package: str) -> Trial:
    is_there = importlib.util.find_spec(package) is not None
    return Trial(
        package, is_there or None, f"{'installed' if is_there else 'not installed'}; for {_EXTRAS[package]}"
    )


def _find_hub(seconds: float) -> Trial:
    if os.environ.get("HF_HUB_OFFLINE", "0").upper() not in ("", "0", "NO", "FALSE", "OFF"):
        return Trial("hub", None, "HF_HUB_OFFLINE is set; only models and data in the cache are used")
    try:
        with urllib.request.urlopen(urllib.request.Request(HUB, method="HEAD"), timeout=seconds):
            return Trial("hub", True, f"{HUB} answers")
    except (OSError, urllib.error.URLError) as error:
        return Trial("hub", None, f"{HUB} cannot be reached ({error}); only what is in the cache is used")


def _find_disk(results: Path) -> Trial:
    """Tell whether results can be written, without making anything."""
    place = next(path for path in (results.absolute(), *results.absolute().parents) if path.exists())
    free = f"{shutil.disk_usage(place).free / GIB:.1f} GiB free"
    if can_write(results):
        return Trial("results", True, f"{results} can be written, {free}")
    return Trial("results", False, f"{place} cannot be written; give another folder with results_dir")
