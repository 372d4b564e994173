"""bench: full fine-tuning, LoRA or QLoRA, for your data on your card?"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.winner.classifier import Classifier

__version__ = "0.1.0"

# On a CPU with bfloat16 bitsandbytes warns that an optional kernel from a hub is missing; it works without.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def load(folder: str | Path, *more: str | Path) -> "Classifier":
    """Load the classifier in a folder that ``bench export`` or ``bench merge`` has made.

    ``bench.load(DIR).predict(texts)`` gives each text's label and probabilities. Of several folders, adapters
    on one base, each is a task by its name: ``bench.load(A, B).predict(texts, tasks=["A", "B", ...])``.

    Raises:
        ConfigError: the folder is not such a one, or an adapter's base has changed since.
        MissingError: an adapter's base is not on this machine.
    """
    from bench.winner import adapters, classifier  # here, so that importing bench stays quick

    return adapters.load([Path(folder), *map(Path, more)]) if more else classifier.load(folder)
