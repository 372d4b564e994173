"""Where the runs of a sweep may run at the same time: GPUs by number, or shares of the CPU."""

import os
from dataclasses import dataclass

from bench.run import driver


@dataclass(frozen=True)
class Slot:
    """One place for one run at a time."""

    overrides: tuple[str, ...]  # of a job that runs here
    environment: tuple[tuple[str, str], ...] = ()
    threads: int | None = None  # that torch computes with; None: as many as there are cores


def count_slots(devices: str) -> int:
    """How many slots ``devices`` (auto, cpu, cuda, cpu*2, 0,1) means; checks.py has checked its form."""
    return int(devices.removeprefix("cpu*")) if "*" in devices else 1 + devices.count(",")


def make_slots(devices: str) -> list[Slot]:
    """The slots on this machine.

    Raises:
        ConfigError, MissingError: as driver.choose, before any run is started.
    """
    names, count = driver.choose(devices).names, count_slots(devices)
    if devices.startswith("cpu*"):
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return [Slot(("devices=cpu",), threads=max(1, cores // count))] * count
    if devices[0].isdigit():
        return [Slot(("devices=cuda",), environment=((driver.VISIBLE, name),)) for name in names]
    return [Slot((f"devices={devices}",))]
