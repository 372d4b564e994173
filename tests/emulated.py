"""Emulate a machine with NVIDIA cards for a test; tests/emulation does it in every process.

A process is given one by its environment; this process itself stays on the CPU.
"""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
EMULATION = ROOT / "tests" / "emulation"


@dataclass(frozen=True)
class Holder:
    """A process that holds memory of a card."""

    pid: int
    name: str
    gib: float


@dataclass(frozen=True)
class Card:
    """One card, as the driver describes it."""

    name: str = "NVIDIA GeForce RTX 4090"
    uuid: str = "GPU-40900000-0000-0000-0000-000000000000"
    memory_gib: float = 23.5
    used_gib: float = 0.3
    held_by: tuple[Holder, ...] = ()
    instances: tuple["Card", ...] = ()  # where MIG is on


@dataclass(frozen=True)
class Machine:
    """Cards in nvidia-smi's order, and the driver; who makes a context adds a line to ``log``."""

    log: Path
    cards: tuple[Card, ...] = (Card(),)
    driver: str = "580.65.06"
    driver_cuda: int = 13000  # of an older one than torch's NVML sees the cards, and torch does not
    torch_cuda: str | None = "13.0"  # None: a torch for the CPU alone
    nvml: bool = True
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """Variables for a process of this machine."""
        values = {**asdict(self), "log": str(self.log)}
        paths = [str(EMULATION), str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        return {
            "EMULATED_CUDA": json.dumps(values),
            "PYTHONPATH": os.pathsep.join(path for path in paths if path),
            **self.variables,
        }

    def read_log(self) -> list[dict[str, Any]]:
        """Each event: what happened, in which process, and which cards that one could see."""
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []
