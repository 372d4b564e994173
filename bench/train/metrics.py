"""Metrics of a split, from its labels and probabilities, and the file of all predictions."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.metrics import accuracy_score, f1_score

from bench.data.dataset import Dataset
from bench.errors import RunError
from bench.results import tally

SMALLEST_PROBABILITY = 1e-15  # keeps the loss finite where a wrong answer was certain


def score(probabilities: npt.NDArray[Any], labels: npt.NDArray[Any]) -> dict[str, float]:
    """Compute METRICS of a split, to compare methods by; the loss is the mean cross-entropy.

    F1 is averaged over every declared label; one that neither occurs nor is predicted counts as 0. Balanced
    accuracy is the mean recall of the labels that occur.

    Args:
        probabilities: of each label. # (rows, labels)
        labels: true label numbers. # (rows,)

    Raises:
        ValueError: no rows, or shapes that do not belong together.
        RunError: a probability is not a finite number.
    """
    if probabilities.ndim != 2 or len(labels) == 0 or labels.shape != probabilities.shape[:1]:
        raise ValueError(
            f"cannot score probabilities of shape {probabilities.shape} and labels {labels.shape}"
        )
    if not np.isfinite(probabilities).all():
        raise RunError("probabilities are not finite: the model diverged; lower train.lr")
    predicted = probabilities.argmax(axis=1)  # (rows,)
    true = np.take_along_axis(probabilities.astype(np.float64), labels[:, None], axis=1)  # (rows, 1)
    every_label = np.arange(probabilities.shape[1])
    counted = tally.count(labels, predicted, classes=len(every_label))
    return {
        "accuracy": float(accuracy_score(labels, predicted)),
        "f1_macro": float(f1_score(labels, predicted, labels=every_label, average="macro", zero_division=0)),
        "balanced_accuracy": float(tally.score_balanced_accuracy(counted)),
        "mcc": float(tally.score_mcc(counted)),
        "loss": float(-np.log(np.clip(true, SMALLEST_PROBABILITY, 1.0)).mean()),
    }


def score_each_label(
    probabilities: npt.NDArray[Any], labels: npt.NDArray[Any], names: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Compute the F1 of each label of a split, with its 95 % interval over other texts."""
    counted = tally.count(labels, probabilities.argmax(axis=1), classes=len(names))
    ends = zip(names, tally.score_labels(counted), *tally.bound_labels(counted), strict=True)
    return {name: {"f1": float(f1), "low": float(low), "high": float(high)} for name, f1, low, high in ends}


def predictions_frame(probabilities: Mapping[str, npt.NDArray[Any]], dataset: Dataset) -> pd.DataFrame:
    """Make the rows of predictions.csv: split, id, label, prediction, ``probability_<label>`` for each label.

    Args:
        probabilities: by split, in the order of its rows. # (rows, labels)

    Raises:
        ValueError: a split has another number of rows or labels.
    """
    names = np.array(dataset.labels, dtype=object)
    frames = []
    for split, values in probabilities.items():
        rows = dataset.splits[split]
        if values.shape != (len(rows), len(names)):
            raise ValueError(f"{split}: probabilities of shape {values.shape}, not {(len(rows), len(names))}")
        frame = pd.DataFrame({"split": split, "id": rows["id"].to_numpy()})
        frame["label"] = names[rows["label"].to_numpy()]
        frame["prediction"] = names[values.argmax(axis=1)]
        frames.append(frame.join(pd.DataFrame(values, columns=[f"probability_{name}" for name in names])))
    return pd.concat(frames, ignore_index=True)
