"""The provenance of a number: code, packages, Python, machine and driver."""

import os
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from bench.run import driver

PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "bitsandbytes",
    "accelerate",
    "hydra-core",
    "omegaconf",
    "wandb",
    "pandas",
    "scikit-learn",
    "numpy",
)


def describe(*, model_revision: str | None) -> dict[str, Any]:
    """Return the block ``provenance`` of a record; what is missing is None."""
    import torch

    cuda = torch.cuda.is_available()
    return {
        **describe_code(),
        "python": platform.python_version(),
        "hardware": {
            "system": f"{platform.system()} {platform.machine()}",
            "cpu": _processor_name(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "memory_bytes": psutil.virtual_memory().total,
            "gpu": torch.cuda.get_device_name() if cuda else None,
            "gpu_memory_bytes": torch.cuda.get_device_properties().total_memory if cuda else None,
        },
        "driver": _driver_version() if cuda else None,
        "model_revision": model_revision,
    }


@cache
def describe_code() -> dict[str, Any]:
    """Look up the commit and the packages once, as a process goes on with what it has imported."""
    changes = _git("status", "--porcelain")
    return {
        "git_commit": _git("rev-parse", "HEAD"),
        "git_dirty": None if changes is None else bool(changes),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def _git(*arguments: str) -> str | None:
    """Return git's answer about the checkout that bench runs from, or None if there is no checkout."""
    command = ["git", "-C", str(Path(__file__).parents[2]), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor_name() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or None
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else None


def _driver_version() -> str | None:
    installed = driver.ask()
    return None if installed is None else installed.version
