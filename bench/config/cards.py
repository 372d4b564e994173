"""The cards that a plan can be made for: their memory, speed and power. Never imports torch."""

from dataclasses import dataclass
from functools import cache
from importlib import resources

import yaml

GIB = 2**30
CONTEXT_BYTES = GIB // 2  # that CUDA itself takes of a card for a process: its context and its kernels
LAUNCH_SECONDS = 5e-6  # that an operation takes at least, however small: Python, torch and the driver


@dataclass(frozen=True)
class Card:
    """One kind of card; speeds are what its maker says, and never reached."""

    name: str
    device: str  # the name that the driver gives, after the maker's
    memory_bytes: int  # all of it, as torch reports it
    bytes_per_second: float
    flops_per_second: dict[str, float]  # by precision: fp32, bf16, fp16
    watts: float

    @property
    def usable_bytes(self) -> int:
        """What torch's tensors can have of the memory."""
        return self.memory_bytes - CONTEXT_BYTES


@cache
def read_cards() -> dict[str, Card]:
    """Read every known card, by name."""
    text = resources.files("bench.assets").joinpath("cards.yaml").read_text(encoding="utf-8")
    return {
        name: Card(
            name=name,
            device=values["device"],
            memory_bytes=int(values["memory_gib"] * GIB),
            bytes_per_second=values["bandwidth_gb_s"] * 1e9,
            flops_per_second={kind: speed * 1e12 for kind, speed in values["tflops"].items()},
            watts=values["watts"],
        )
        for name, values in yaml.safe_load(text).items()
    }


def recognise(device: str) -> Card | None:
    """Return the card that the driver calls so, or None if it is not in the table."""
    name = device.removeprefix("NVIDIA ").removeprefix("GeForce ")
    return next((card for card in read_cards().values() if card.device == name), None)
