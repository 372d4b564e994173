"""The machine that figures are of, and how fast it multiplies matrices, which no training can beat."""

import os
import platform
import statistics
import time
from pathlib import Path

import torch

from bench.run import provenance

FLAGS = (
    "avx2",
    "avx512f",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_bf16",
)  # that decide the speed here
LARGE = (1024, 2048, 4096)


def describe() -> list[tuple[str, str]]:
    """What a reader has to know to set the figures beside others; torch here gets all cores, as sides do."""
    facts = provenance.describe(model_revision=None)
    hardware, packages = facts["hardware"], facts["packages"]
    torch.set_num_threads(hardware["cores"])
    commit = facts["git_commit"] or "none"
    return [
        ("Date", time.strftime("%Y-%m-%d", time.gmtime())),
        ("Commit", commit + (", changed since" if facts["git_dirty"] else "")),
        ("CPU", f"{hardware['cpu'] or platform.machine()}, {hardware['cores']} cores"),
        (
            "CPU flags",
            ", ".join(flag for flag in FLAGS if flag in _read_flags()) or "none of " + ", ".join(FLAGS),
        ),
        ("Memory", f"{hardware['memory_bytes'] / 2**30:.1f} GiB"),
        ("Load before", f"{os.getloadavg()[0]:.2f} processes" if hasattr(os, "getloadavg") else "unknown"),
        ("Threads", str(torch.get_num_threads())),
        ("Python", facts["python"]),
        ("Packages", ", ".join(f"{name} {version}" for name, version in packages.items() if version)),
    ]


def matmul_flops(rows: int, inner: int, columns: int, dtype: torch.dtype, *, seconds: float = 0.3) -> float:
    """FLOP/s of torch's matrix product (rows, inner) x (inner, columns), from the median of its times."""
    left, right = torch.randn(rows, inner).to(dtype), torch.randn(inner, columns).to(dtype)
    times: list[float] = []
    begun = time.perf_counter()
    while len(times) < 5 or time.perf_counter() - begun < seconds:
        started = time.perf_counter()
        torch.mm(left, right)
        times.append(time.perf_counter() - started)
    return 2 * rows * inner * columns / statistics.median(times[1:])


def measure_peak(dtype: torch.dtype) -> float:
    """The best FLOP/s over large square products."""
    return max(matmul_flops(size, size, size, dtype, seconds=1) for size in LARGE)


def _read_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return {word for line in lines if line.startswith("flags") for word in line.split()}
