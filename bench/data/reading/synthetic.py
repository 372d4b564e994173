"""The data set finance8_synthetic: short Chinese finance news whose best possible accuracy is known.

Real news cannot say how much of a model's error is the model's. Here every text has exactly one true class,
and the given label differs from it with a stated probability, so accuracy is read against a ceiling. The
shape (10,000, 2,000 and 2,000 texts in 8 classes) is that of a 2024 article's private data. The grammar is
assets/finance8.yaml.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
import pandas as pd
import yaml

from bench.errors import ConfigError

MAX_NOISE = 0.5
MAX_CHARACTERS = 60  # of a text; fewer than one draw in 1,000 is longer
USABLE_SHARE = 0.1  # of the grammar's derivations; past it, drawing a text that is still new gets slow
_SLOT = re.compile(r"\{(\w+)\}")

Slots = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Grammar:
    """A sentence template, what its slots may become, and each class's templates for the slot ``core``."""

    sentence: str
    slots: Slots
    classes: Mapping[str, Sequence[str]]  # in the declared order of the labels

    def slots_of(self, label: str) -> Slots:
        """Return all slots of a text of this class."""
        return {**self.slots, "core": self.classes[label]}


@cache
def load_grammar() -> Grammar:
    """Read the grammar in assets/finance8.yaml, once."""
    text = resources.files("bench.assets").joinpath("finance8.yaml").read_text(encoding="utf-8")
    return Grammar(**yaml.safe_load(text))


def labels() -> tuple[str, ...]:
    """Return the 8 class names in their declared order, that of a model's outputs."""
    return tuple(load_grammar().classes)


def best_accuracy(noise: float) -> float:
    """Return the accuracy that a perfect classifier reaches: the share of true labels.

    A wrong label is one of the 7 others alike, so the true class stays the best answer while noise < 7/8.

    Raises:
        ConfigError: noise outside [0, 0.5].
    """
    _check_noise(noise)
    return 1.0 - noise


def generate(*, seed: int, sizes: Mapping[str, int], noise: float) -> dict[str, pd.DataFrame]:
    """Return texts and labels by split, whose best accuracy is known: ``best_accuracy(noise)``.

    Each frame has the columns ``text`` (at most 60 characters) and ``label``, in shuffled order. No text
    occurs twice over all splits. True classes are balanced to within one row in each split; then each label
    is, with probability ``noise``, replaced by one of the others. The same arguments give the same bytes
    everywhere, whatever the order of ``sizes``; the same seed and sizes give the same texts at every noise.

    Raises:
        ConfigError: noise outside [0, 0.5], a split of fewer than 8 rows, or more rows than distinct texts.
    """
    _check_noise(noise)
    _check_sizes(sizes)
    rng = np.random.default_rng(seed)
    seen: set[str] = set()
    frames = {split: _draw_split(sizes[split], noise, rng, seen) for split in sorted(sizes)}
    return {split: frames[split] for split in sizes}


def derivations(template: str, slots: Slots) -> int:
    """Count the ways to fill the template's slots: no fewer than the distinct texts."""
    count = 1
    for name in _SLOT.findall(template):
        count *= sum(derivations(alternative, slots) for alternative in slots[name])
    return count


def _check_noise(noise: float) -> None:
    if not 0 <= noise <= MAX_NOISE:  # also false for nan
        raise ConfigError(
            f"data.noise={noise}: the share of wrong labels must lie in [0, {MAX_NOISE}]; "
            "use 0 for clean labels"
        )


def _check_sizes(sizes: Mapping[str, int]) -> None:
    grammar = load_grammar()
    classes = len(grammar.classes)
    for split, size in sizes.items():
        if size < classes:
            raise ConfigError(
                f"data.sizes.{split}={size}: a split needs at least {classes} rows, one for each class"
            )
    most = min(derivations(grammar.sentence, grammar.slots_of(label)) for label in grammar.classes)
    limit = int(most * USABLE_SHARE) * classes
    total = sum(sizes.values())
    if total > limit:
        raise ConfigError(
            f"data.sizes={dict(sizes)}: {total} rows in all, but at most {limit} distinct texts can be "
            "drawn; ask for fewer"
        )


def _draw_split(size: int, noise: float, rng: np.random.Generator, seen: set[str]) -> pd.DataFrame:
    """Draw one split's rows; the texts are added to ``seen``."""
    names = labels()
    truth = rng.permutation(np.arange(size) % len(names))  # (size,)
    texts = [_draw_new(names[index], rng, seen) for index in truth]
    wrong = rng.random(size) < noise
    steps = rng.integers(1, len(names), size=size)  # for every row, so that noise moves no text
    given = np.where(wrong, (truth + steps) % len(names), truth)
    return pd.DataFrame({"text": texts, "label": [names[index] for index in given]})


def _draw_new(label: str, rng: np.random.Generator, seen: set[str]) -> str:
    """Draw a text of this class, not too long and not in ``seen``, to which it is added."""
    grammar = load_grammar()
    slots = grammar.slots_of(label)
    text = _fill(grammar.sentence, slots, rng)
    while text in seen or len(text) > MAX_CHARACTERS:
        text = _fill(grammar.sentence, slots, rng)
    seen.add(text)
    return text


def _fill(template: str, slots: Slots, rng: np.random.Generator) -> str:
    """Replace each of the template's slots by one of its alternatives, each as likely."""

    def choose(slot: re.Match[str]) -> str:
        alternatives = slots[slot[1]]
        return _fill(alternatives[int(rng.integers(len(alternatives)))], slots, rng)

    return _SLOT.sub(choose, template)
