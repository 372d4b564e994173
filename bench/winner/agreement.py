"""How far other forms of a classifier agree with it as it was trained, on the test split of its run."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.data import dataset as datasets
from bench.data.sources import Text, list_texts
from bench.errors import ConfigError
from bench.report.cells import to_markdown
from bench.report.numbers import statistics
from bench.results.marks import mark
from bench.results.several import decide
from bench.results.store import Result
from bench.train import metrics
from bench.winner.classifier import normalise, read_config

Scores = npt.NDArray[np.float64]  # (texts, labels)


@dataclass(frozen=True)
class Held:
    """The test split that a run was scored on."""

    texts: list[Text]
    labels: npt.NDArray[Any]  # each text's, or of several which it has: (texts,), or (texts, labels)
    thresholds: Scores | None = None  # of several: (labels,)
    tasks: list[str] | None = None  # each text's; None: there is one


@dataclass(frozen=True)
class Agreement:
    """One form of the classifier beside the one that was trained."""

    form: str
    accuracy: float
    f1_macro: float
    p_value: float | None  # of accuracies that are equal on texts like these; a single text gives none
    changed: int  # test texts that it takes for another label, or other labels
    changed_share: float
    max_probability_difference: float
    max_score_difference: float  # of logits, or of log-likelihoods


def read_test(result: Result) -> Held:
    """Return the run's test split.

    Raises:
        ConfigError: the texts are no longer those of the run.
        MissingError, DataError: they are not there or cannot be read.
    """
    dataset = datasets.load(read_config(result).data)
    if dataset.fingerprint != result.data["fingerprint"]:
        raise ConfigError(
            f"{result.run_id}: its texts have changed since it was trained, so nothing can be compared on "
            "them; bring them back as they were, or train again"
        )
    thresholds, test, names = result.model.get("thresholds"), dataset.splits["test"], list(dataset.tasks)
    return Held(
        list_texts(test),
        dataset.read_truth("test"),
        None if thresholds is None else np.array([thresholds[label] for label in result.labels]),
        [names[number] for number in test["task"]] if names else None,
    )


def compare(form: str, scores: Scores, trained: Scores, held: Held) -> Agreement:
    """Return the form's own quality, and how far its scores are from the trained one's."""
    probabilities = [normalise(one, held.thresholds) for one in (scores, trained)]
    answers, before = (decide(one, held.thresholds) for one in probabilities)
    score = metrics.score(probabilities[0], held.labels, held.thresholds)
    truth = mark(held.labels, scores.shape[1])
    changed = (answers != before).any(axis=1)  # (texts,)
    possible = np.isfinite(trained)  # not of another task than the text's
    return Agreement(
        form=form,
        accuracy=score["accuracy"],
        f1_macro=score["f1_macro"],
        p_value=_test((answers == truth).all(axis=1), (before == truth).all(axis=1)),
        changed=int(changed.sum()),
        changed_share=float(changed.mean()),
        max_probability_difference=float(np.abs(probabilities[0] - probabilities[1]).max()),
        max_score_difference=float(np.abs(scores[possible] - trained[possible]).max()),
    )


def _test(right: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> float | None:
    """Return the two-sided p of equal accuracy, paired by text. # both (texts,)"""
    if len(right) < 2:
        return None
    difference = statistics.subtract(*(statistics.score_answers(one[None]) for one in (right, other)))
    return statistics.find_p(*difference, rows=len(right))


def describe(rows: Sequence[Agreement], *, texts: int, tolerance: float) -> dict[str, Any]:
    """Return the content of agreement.json."""
    return {"split": "test", "texts": texts, "tolerance": tolerance, "forms": [asdict(row) for row in rows]}


def tabulate(rows: Sequence[Agreement], *, multi_label: bool) -> str:
    """Write the forms as a Markdown table."""
    accuracy = "Exact match" if multi_label else "Accuracy"
    header = ["Form", accuracy, "F1 (macro)", "p", "Changed predictions", "Largest change of a probability"]
    cells = [
        [
            row.form,
            f"{row.accuracy:.2%}",
            f"{row.f1_macro:.2%}",
            "unknown" if row.p_value is None else f"{row.p_value:.2g}",
            f"{row.changed} ({row.changed_share:.2%})",
            f"{row.max_probability_difference:.2g}",
        ]
        for row in rows
    ]
    return to_markdown(header, cells, left={0})
