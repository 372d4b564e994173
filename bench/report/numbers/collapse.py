"""Runs that did not train: their answers are no better than the majority class, whatever the cause."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.report.cells import format_number
from bench.report.numbers.statistics import bound_share
from bench.results.marks import find_separator
from bench.results.selection import read_number, read_value
from bench.results.store import Result

_SKIPPED_SHARE = 0.02  # of the steps; a scale that finds its place skips fewer
_SEEN_SHARE = 0.5  # of the train texts; who has seen fewer has hardly begun
_FLAT = 0.95  # of the loss at first: above that it did not fall
_LARGE = 1.5  # times the loss at first
_LOW_RATE = 0.1  # of the method's usual learning rate


@dataclass(frozen=True)
class Cause:
    """The likely cause why a run did not train: a sentence below ``causes`` and its numbers."""

    name: str  # overflow | warmup | few_steps | large_loss | flat_loss | low_rate | none
    values: Mapping[str, float | str] = field(default_factory=dict)


def is_untrained(result: Result) -> bool:
    """Tell whether a run of a network answers no better than the majority class.

    Its accuracy is not above the share of the most frequent label, and its macro F1, which rare labels raise,
    is not above that of chance, both within their 95 % intervals over texts. So a network that tells rare
    labels from a frequent one has trained, however little that adds to the accuracy. A run whose record
    lacks these numbers, or whose base weights are random, is not judged.
    """
    if read_value(result, "config.method.estimator") != "network" or not result.is_success:
        return False
    if read_value(result, "config.model.weights") == "random":
        return False
    split = "validation" if read_number(result, "metrics.test.accuracy") is None else "test"
    scores = [read_number(result, f"metrics.{split}.{name}") for name in ("accuracy", "f1_macro")]
    share, texts = read_majority(result, split)
    if share is None or None in scores:
        return False
    limits = (share, _find_chance(result, split))
    return all(
        score is not None and bound_share(score, rows=texts)[0] <= limit
        for score, limit in zip(scores, limits, strict=True)
    )


def read_majority(result: Result, split: str = "test") -> tuple[float | None, int]:
    """Return the share of the split's most frequent label, None if the record lacks it, and its texts.

    Where texts have several labels, the share of the most frequent combination of them.
    """
    if (most := read_number(result, f"data.label_sets.{split}.most_frequent")) is not None:
        texts = int(read_number(result, f"data.sizes.{split}") or 0)
        return (most / texts, texts) if texts else (None, 0)
    counts = read_value(result, f"data.label_counts.{split}")
    numbers = list(counts.values()) if isinstance(counts, Mapping) else []
    texts = sum(numbers)
    return (max(numbers) / texts, texts) if texts else (None, 0)


def _find_chance(result: Result, split: str) -> float:
    """Return the macro F1 of answers that do not read the text: a random label, or of several always all.

    To answer a label always has the F1 2 s / (1 + s), where s is the share of the texts that have it, and no
    answer that does not read has more (Lipton et al., arXiv:1402.1892).
    """
    if find_separator(result.config) is None:
        return 1 / max(1, len(result.labels))
    counts = read_value(result, f"data.label_counts.{split}") or {}
    texts = read_number(result, f"data.sizes.{split}") or 0
    known = [2 * count / (texts + count) for count in counts.values() if texts + count]
    return math.fsum(known) / max(1, len(known))


def suggest_cause(result: Result, history: Sequence[Mapping[str, Any]]) -> Cause:
    """Suggest why the run did not train, from its record and the losses of its history."""
    steps, warmup = read_number(result, "model.steps"), read_number(result, "config.train.warmup_steps")
    skipped, texts = read_number(result, "model.skipped_steps"), read_number(result, "data.sizes.train")
    if steps and skipped is not None and skipped > _SKIPPED_SHARE * steps:
        return Cause("overflow", {"skipped": skipped, "steps": steps})
    if steps and warmup is not None and steps <= warmup:
        return Cause("warmup", {"steps": steps, "warmup": warmup})
    batch = [
        read_number(result, f"config.train.{name}")
        for name in ("micro_batch_size", "gradient_accumulation_steps")
    ]
    if steps and texts and None not in batch:
        share = steps * math.prod(size or 1 for size in batch) / texts
        if share < _SEEN_SHARE:
            return Cause("few_steps", {"steps": steps, "share": 100 * share})
    return _read_losses(result, history)


def _read_losses(result: Result, history: Sequence[Mapping[str, Any]]) -> Cause:
    """Suggest a learning rate that is too high or too low, if the loss did not fall."""
    losses = [row["loss"] for row in history if isinstance(row.get("loss"), int | float)]
    rate, usual = (read_number(result, f"config.{name}") for name in ("train.lr", "method.default_lr"))
    if len(losses) < 2 or rate is None:
        return Cause("none")
    part = max(1, len(losses) // 4)
    first, last = math.fsum(losses[:part]) / part, math.fsum(losses[-part:]) / part
    values: dict[str, float | str] = {"first": losses[0], "last": losses[-1], "lr": format_number(rate)}
    if not last < _LARGE * first or not max(losses) < 2 * _LARGE * first:
        return Cause("large_loss", {**values, "most": max(losses)})
    if last < _FLAT * first:
        return Cause("none")
    if usual is not None and rate < _LOW_RATE * usual:
        return Cause("low_rate", {**values, "usual": format_number(usual)})
    return Cause("flat_loss", values)
