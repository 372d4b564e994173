"""Which texts a classifier answers at all, so that its answers are as accurate as wished."""

import logging

from bench.errors import ConfigError, StoreError
from bench.redaction import show
from bench.results.confidence import (
    LEVEL,
    Confidence,
    Threshold,
    choose_threshold,
    measure_confidence,
    read_split,
)
from bench.results.marks import find_separator
from bench.results.store import Result, Store
from bench.run.manifest import Manifest

_logger = logging.getLogger(__name__)
_STEPS = 1000  # of the accuracies that are tried for a message


def read_confidence(store: Store, result: Result) -> Confidence | None:
    """Return how sure the run's answers are, by its validation texts; warn where that cannot be known."""
    if find_separator(result.config) is not None:  # each label has a threshold instead
        return None
    try:
        predictions = store.read_predictions(result.run_id)
        return measure_confidence(read_split(predictions, result.labels, split="validation"))
    except StoreError as error:
        _logger.warning(
            "%s: no temperature is fitted, so probabilities are as the run predicted them (%s)",
            result.run_id,
            show(error),
        )
        return None


def find_threshold(manifest: Manifest, accuracy: float) -> Threshold:
    """Find the lowest probability from which answers are as accurate as wished.

    Raises:
        ConfigError: nothing is known of the run's validation texts, or no threshold shows such an accuracy.
    """
    asked, confidence = f"--min-accuracy {accuracy:g}", manifest.confidence
    if manifest.merged_into is not None or manifest.kind == "onnx":
        form = "an ONNX" if manifest.kind == "onnx" else "a merged"
        raise ConfigError(
            f"{asked}: {form} model's probabilities are not those of run {manifest.run_id}, by which "
            "answers are judged; use its export or the run itself, or give --min-confidence"
        )
    if confidence is None:
        raise ConfigError(
            f"{asked}: nothing is known of the answers of run {manifest.run_id} to its validation texts; "
            "export it again where its predictions.csv is there, or give --min-confidence"
        )
    threshold = choose_threshold(confidence, accuracy)
    if threshold is None:
        raise ConfigError(
            f"{asked}: the {confidence.texts} validation texts of run {manifest.run_id} show no threshold at "
            f"which answers are so accurate with {LEVEL:.0%} confidence; {_say_most(confidence)}"
        )
    return threshold


def say_threshold(threshold: Threshold, manifest: Manifest) -> str:
    """Say from which probability on texts are answered, how many these are and how accurate."""
    texts = manifest.confidence.texts if manifest.confidence else 0
    return (
        f"texts are answered from a probability of {threshold.probability:g} on: {threshold.coverage:.1%} of "
        f"the {texts} validation texts, {threshold.accuracy:.1%} of these right; of all texts of this kind "
        f"that are answered at least {100 * threshold.wished:g}% are right, with {LEVEL:.0%} confidence"
    )


def _say_most(confidence: Confidence) -> str:
    """Say the highest accuracy that a threshold shows."""
    for step in reversed(range(_STEPS // 2, _STEPS)):
        if threshold := choose_threshold(confidence, step / _STEPS):
            return (
                f"they show {step / _STEPS:g}, for {threshold.coverage:.1%} of the texts: ask for that or "
                "less, or give --min-confidence"
            )
    return "give --min-confidence"
