"""Which experiment suits this machine: what ``make sweep`` runs unless EXPERIMENT says otherwise.

The driver is asked, through NVML: a sweep's parent never touches CUDA, and importing torch takes seconds.
"""

import sys

from bench.config.cards import GIB
from bench.config.schema import CONF_DIR
from bench.run import driver
from bench.run.app import explained_errors

CARD_BYTES = 20 * GIB  # of a card for experiment=rtx4090: 24 GB ones have it, 16 GB ones do not


def choose_experiment() -> tuple[str, str]:
    """The experiment's name, and why it is this one.

    Raises:
        MissingError: as driver.choose.
    """
    for largest in driver.choose("auto").devices:
        if largest.total_bytes >= CARD_BYTES:
            return "rtx4090", f"{largest.name} has {largest.total_bytes / GIB:.0f} GiB"
    return "quickstart", f"no CUDA card of at least {CARD_BYTES / GIB:.0f} GiB can be used here"


def main() -> None:
    """Prints the name for a script, and the reason for a person."""
    with explained_errors():
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
