"""Metrics of a split, from its labels and probabilities, and the file of all predictions."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.metrics import accuracy_score, average_precision_score, f1_score

from bench.data.dataset import Dataset
from bench.data.teaching import UNLABELLED
from bench.errors import RunError
from bench.results import tally
from bench.results.marks import Marks, mark, write_marks
from bench.results.several import choose_thresholds, decide

SMALLEST_PROBABILITY = 1e-15  # keeps the loss finite where a wrong answer was certain

Floats = npt.NDArray[np.float64]


def score(
    probabilities: npt.NDArray[Any], labels: npt.NDArray[Any], thresholds: Floats | None = None
) -> dict[str, float]:
    """Compute METRICS of a split, to compare methods by; the loss is the mean cross-entropy.

    F1 is averaged over every declared label; one that neither occurs nor is predicted counts as 0. Balanced
    accuracy is the mean recall of the labels that occur. Of texts with several labels accuracy is exact
    match, and the mean average precision leaves labels out that no text has.

    Args:
        probabilities: of each label. # (rows, labels)
        labels: true label numbers, or of several which a row has. # (rows,), or (rows, labels)
        thresholds: of several labels each one's; None: those that choose_thresholds finds here. # (labels,)

    Raises:
        ValueError: no rows, or shapes that do not belong together.
        RunError: a probability is not a finite number.
    """
    expected = probabilities.shape[: labels.ndim]
    if probabilities.ndim != 2 or len(labels) == 0 or labels.shape != expected:
        raise ValueError(
            f"cannot score probabilities of shape {probabilities.shape} and labels {labels.shape}"
        )
    if not np.isfinite(probabilities).all():
        raise RunError("probabilities are not finite: the model diverged; lower train.lr")
    if labels.ndim == 2:
        return _score_several(probabilities, labels, thresholds)
    predicted = probabilities.argmax(axis=1)  # (rows,)
    true = np.take_along_axis(probabilities.astype(np.float64), labels[:, None], axis=1)  # (rows, 1)
    every_label = np.arange(probabilities.shape[1])
    counted = tally.count(mark(labels, len(every_label)), mark(predicted, len(every_label)))
    return {
        "accuracy": float(accuracy_score(labels, predicted)),
        "f1_macro": float(f1_score(labels, predicted, labels=every_label, average="macro", zero_division=0)),
        "balanced_accuracy": float(tally.score_balanced_accuracy(counted)),
        "mcc": float(tally.score_mcc(counted)),
        "loss": float(-np.log(np.clip(true, SMALLEST_PROBABILITY, 1.0)).mean()),
    }


def _score_several(
    probabilities: npt.NDArray[Any], truth: Marks, thresholds: Floats | None
) -> dict[str, float]:
    """Compute those of METRICS that mean something where texts have several labels."""
    if thresholds is None:
        thresholds = choose_thresholds(probabilities, truth)
    answers = decide(probabilities, thresholds)
    labels = zip(truth.T, probabilities.T, strict=True)
    precisions = [average_precision_score(has, likely) for has, likely in labels if has.any()]
    of_truth = np.where(truth, probabilities, 1.0 - probabilities).astype(np.float64)
    return {
        "accuracy": float(accuracy_score(truth, answers)),
        "f1_macro": float(f1_score(truth, answers, average="macro", zero_division=0)),
        "f1_micro": float(f1_score(truth, answers, average="micro", zero_division=0)),
        # of a text without labels 1 where none is answered
        "f1_samples": float(f1_score(truth, answers, average="samples", zero_division=1)),
        "mean_average_precision": float(np.mean(precisions)),
        "loss": float(-np.log(np.clip(of_truth, SMALLEST_PROBABILITY, 1.0)).mean()),
    }


def find_thresholds(probabilities: Mapping[str, npt.NDArray[Any]], dataset: Dataset) -> Floats | None:
    """Choose each label's threshold on validation; None where a text has one label. # (labels,)"""
    if dataset.sets is None:
        return None
    return choose_thresholds(probabilities["validation"], dataset.read_truth("validation"))


def score_each_label(
    probabilities: npt.NDArray[Any],
    labels: npt.NDArray[Any],
    names: Sequence[str],
    thresholds: Floats | None = None,
) -> dict[str, dict[str, float]]:
    """Compute the F1 of each label of a split, with its 95 % interval over other texts."""
    counted = tally.count(mark(labels, len(names)), decide(probabilities, thresholds))
    ends = zip(names, tally.score_labels(counted), *tally.bound_labels(counted), strict=True)
    return {name: {"f1": float(f1), "low": float(low), "high": float(high)} for name, f1, low, high in ends}


def score_each_task(
    probabilities: npt.NDArray[Any], dataset: Dataset, split: str
) -> dict[str, dict[str, float]]:
    """Compute ``accuracy_by_task`` of a split; nothing where there is one task."""
    if not dataset.tasks:
        return {}
    frame = dataset.splits[split]
    right = frame["label"].to_numpy() == probabilities.argmax(axis=1)
    owners = frame["task"].to_numpy()
    accuracies = {name: float(right[owners == place].mean()) for place, name in enumerate(dataset.tasks)}
    return {"accuracy_by_task": accuracies}


def gates_frame(gates: Mapping[str, npt.NDArray[Any]], dataset: Dataset) -> pd.DataFrame:
    """Make the rows of gates.csv: of each layer and label the mean over the test texts that have the label.

    Columns are layer, label, texts, ``largest`` (the mean weight of each token's strongest expert) and
    ``expert_1`` on, whose weights add up to 1.

    Args:
        gates: as loop.read_gates. # by layer: (texts, experts + 1)
    """
    marks = mark(dataset.read_truth("test"), len(dataset.labels))  # (texts, labels)
    frames = []
    for layer, weights in gates.items():
        means = [
            weights[has].mean(axis=0) if has.any() else np.full(weights.shape[1], np.nan) for has in marks.T
        ]
        frame = pd.DataFrame({"layer": layer, "label": dataset.labels, "texts": marks.sum(axis=0)})
        frame["largest"] = [mean[-1] for mean in means]
        names = [f"expert_{number + 1}" for number in range(weights.shape[1] - 1)]
        frames.append(frame.join(pd.DataFrame([mean[:-1] for mean in means], columns=names)))
    return pd.concat(frames, ignore_index=True)


def predictions_frame(
    probabilities: Mapping[str, npt.NDArray[Any]], dataset: Dataset, separator: str = "|"
) -> pd.DataFrame:
    """Make the rows of predictions.csv: split, id, label, prediction, ``probability_<label>`` for each label.

    Args:
        probabilities: by split, in the order of its rows. # (rows, labels)
        separator: between the labels of a text that has several

    Raises:
        ValueError: a split has another number of rows or labels.
    """
    names, thresholds = dataset.labels, find_thresholds(probabilities, dataset)
    frames = []
    for split, values in probabilities.items():
        rows = dataset.every_split[split]
        if values.shape != (len(rows), len(names)):
            raise ValueError(f"{split}: probabilities of shape {values.shape}, not {(len(rows), len(names))}")
        frame = pd.DataFrame({"split": split, "id": rows["id"].to_numpy()})
        truth = write_marks(mark(dataset.read_truth(split), len(names)), names, separator)
        frame["label"] = "" if split == UNLABELLED else truth
        frame["prediction"] = write_marks(decide(values, thresholds), names, separator)
        frames.append(frame.join(pd.DataFrame(values, columns=[f"probability_{name}" for name in names])))
    return pd.concat(frames, ignore_index=True)
