"""Which experiment suits this machine: what ``make sweep`` runs unless EXPERIMENT says otherwise.

The driver is asked, through NVML: a sweep's parent never touches CUDA, and importing torch takes seconds.
"""

import importlib.util
import os
import sys
from importlib import metadata

from bench.cards import GIB
from bench.config import CONF_DIR

CARD_BYTES = 20 * GIB  # of a card for experiment=rtx4090: 24 GB ones have it, 16 GB ones do not


def choose_experiment() -> tuple[str, str]:
    """The experiment's name, and why it is this one."""
    cards = ask_driver()
    largest = max(cards, key=lambda card: cards[card], default=None)
    if largest is not None and cards[largest] >= CARD_BYTES:
        return "rtx4090", f"{largest} has {cards[largest] / GIB:.0f} GiB"
    return "quickstart", f"no CUDA card of at least {CARD_BYTES / GIB:.0f} GiB can be used here"


def ask_driver() -> dict[str, int]:
    """Name and memory in bytes of each CUDA card that this environment's torch could use, by the driver."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if hidden or metadata.version("torch").endswith("+cpu") or importlib.util.find_spec("pynvml") is None:
        return {}
    import pynvml

    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(place) for place in range(pynvml.nvmlDeviceGetCount())]
        return {
            str(pynvml.nvmlDeviceGetName(handle)): int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)
            for handle in handles
        }
    except pynvml.NVMLError:  # no driver, so no card
        return {}


def main() -> None:
    """Prints the name for a script, and the reason for a person."""
    name, reason = choose_experiment()
    others = ", ".join(sorted(path.stem for path in (CONF_DIR / "experiment").glob("*.yaml")))
    print(
        f"EXPERIMENT={name}, as {reason}; EXPERIMENT=NAME chooses among {others}, of which "
        "quickstart alone needs no model hub",
        file=sys.stderr,
    )
    print(name)


if __name__ == "__main__":
    main()
