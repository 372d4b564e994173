"""This machine as a sweep sees it: the places where runs train at the same time, and the experiment for it.

The driver is asked, through NVML: a sweep's parent never touches CUDA, and importing torch takes seconds.
"""

import os
import sys
from dataclasses import dataclass

from bench.config.cards import GIB
from bench.config.schema import CONF_DIR
from bench.process import guarded
from bench.run import driver

CARD_BYTES = 20 * GIB  # of a card for experiment=rtx4090: 24 GB ones have it, 16 GB ones do not


@dataclass(frozen=True)
class Slot:
    """A place where one run trains at a time."""

    overrides: tuple[str, ...]  # of a job that runs here
    environment: tuple[tuple[str, str], ...] = ()
    threads: int | None = None  # that torch computes with; None: as many as there are cores


def count_slots(devices: str) -> int:
    """Count the slots that ``devices`` (auto, cpu, cuda, cpu*2, 0,1) means, whose form is checked already."""
    return int(devices.removeprefix("cpu*")) if "*" in devices else 1 + devices.count(",")


def make_slots(devices: str) -> list[Slot]:
    """Return the slots on this machine.

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


def choose_experiment() -> tuple[str, str]:
    """Return the experiment that ``make sweep`` runs unless EXPERIMENT names another, and why.

    Raises:
        MissingError: as driver.choose.
    """
    for largest in driver.choose("auto").devices:
        if largest.total_bytes >= CARD_BYTES:
            return "rtx4090", f"{largest.name} has {largest.total_bytes / GIB:.0f} GiB"
    return "quickstart", f"no CUDA card of at least {CARD_BYTES / GIB:.0f} GiB can be used here"


def main() -> None:
    """Print the name for a script, and the reason for a person."""
    name, reason = choose_experiment()
    others = ", ".join(sorted(path.stem for path in (CONF_DIR / "experiment").glob("*.yaml")))
    print(
        f"EXPERIMENT={name}, as {reason}; EXPERIMENT=NAME chooses among {others}, of which all but article "
        "and rtx4090 need no model hub",
        file=sys.stderr,
    )
    print(name)


if __name__ == "__main__":
    with guarded():
        main()
