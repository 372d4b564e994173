"""The device of a run, what it computes in, and what of it the run may use."""

import ctypes
import platform
import sys
from functools import cache
from typing import Any

import torch
from transformers.utils.import_utils import is_flash_attn_2_available

from bench.config.cards import GIB
from bench.errors import ConfigError, MissingError, first_line

NO_PAGING = "this is WSL2, where CUDA has no managed memory, so that optimizer states cannot be paged"


def choose_device(devices: str) -> torch.device:
    """Choose the device that ``devices`` (auto, cpu, cuda) means on this machine.

    Raises:
        ConfigError: cuda where there is none.
    """
    if devices == "cpu" or torch.cuda.is_available():
        return torch.device("cpu" if devices == "cpu" else "cuda")
    if devices == "cuda":
        raise ConfigError(
            f"devices=cuda: this machine has no CUDA device that torch can use ({explain_no_cuda()}); "
            "use devices=cpu"
        )
    return torch.device("cpu")


def require_no_broken_card(devices: str) -> None:
    """Raise an error where ``devices=auto`` would train on the CPU beside a card that torch cannot use.

    bench.run.driver says so earlier and better; this is for where the driver's NVML cannot be asked.

    Raises:
        MissingError: torch found a driver, and cannot use it.
    """
    if devices != "auto" or torch.cuda.is_available():
        return
    reason = explain_no_cuda()
    if not reason.startswith(("Torch not compiled", "Found no NVIDIA driver", "No CUDA GPUs", "No HIP GPUs")):
        raise MissingError(
            f"devices=auto: torch cannot use CUDA on this machine ({reason}); devices=cpu trains without it"
        )


def explain_no_cuda() -> str:
    """Say why torch.cuda.is_available is False, in torch's words."""
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:  # the latter of a torch without CUDA
        return first_line(error)
    return "it has become available just now"


def choose_precision(requested: str, device: torch.device) -> str:
    """Choose fp32, bf16 or fp16; auto is the fastest that trains well: bf16 where the chip computes in it.

    Raises:
        ConfigError: fp16 on a CPU, where its gradients cannot be scaled.
    """
    if requested == "fp16" and device.type == "cpu":
        raise ConfigError("train.precision=fp16: needs a CUDA device; use bf16 or fp32 on a CPU")
    if requested != "auto":
        return requested
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    # torch.cpu.get_capabilities, which is public, is newer than the oldest torch that bench works with.
    return "bf16" if torch.cpu._is_avx512_bf16_supported() else "fp32"


def require_attention(requested: str, device: torch.device, precision: str) -> None:
    """Raise an error that says what flash attention lacks here: a package, a device or a precision.

    Raises:
        ConfigError: the device or the precision does not have it.
        MissingError: its package is not installed.
    """
    if requested != "flash_attention_2":
        return
    if device.type != "cuda":
        raise ConfigError(f"train.attention={requested}: needs a CUDA device; use auto on a CPU")
    if precision == "fp32":
        raise ConfigError(f"train.attention={requested}: computes in bf16 or fp16; set train.precision=bf16")
    if not is_flash_attn_2_available():
        raise MissingError(
            f"train.attention={requested}: the package flash-attn (2.3.3 or newer) is not installed; "
            "install it, or use sdpa, which has kernels of the same kind"
        )


def limit_memory(device: torch.device, gib: float) -> None:
    """Limit this process to so much of the device's memory, so that a large card stands for a smaller one.

    Raises:
        ConfigError: the device has no such limit, or less memory.
    """
    if device.type != "cuda":
        raise ConfigError(f"device_memory_gib={gib:g}: only a CUDA device's memory can be limited; use null")
    total = torch.cuda.get_device_properties(device).total_memory
    if gib * GIB > total:
        raise ConfigError(f"device_memory_gib={gib:g}: this device has {total / GIB:.1f} GiB; ask for less")
    torch.cuda.set_per_process_memory_fraction(gib * GIB / total, device.index)  # None: the one in use


def is_wsl() -> bool:
    """Return whether this is Linux inside Windows (WSL2), where the driver is that of Windows."""
    return "microsoft" in platform.release().lower()


def keep_freed_memory() -> None:
    """Let the process keep the memory of freed tensors for later ones, until return_freed_memory.

    By default glibc gives large blocks back to the kernel, which clears every page again at its next use; on
    a CPU that takes a tenth of a training step. See mallopt(3); other C libraries are left as they are.
    """
    if (libc := _find_glibc()) is not None:
        libc.mallopt(_M_MMAP_THRESHOLD, 2**30)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def return_freed_memory() -> None:
    """Give the kernel what the process keeps and does not use, so that what it holds is what it needs."""
    if (libc := _find_glibc()) is not None:
        libc.malloc_trim(0)


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


@cache
def _find_glibc() -> Any:
    """Find the process's own C library if it is glibc; None if it is another."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
