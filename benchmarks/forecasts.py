"""What a learning curve forecasts, beside what was then measured: curves of real texts, cut off."""

import statistics
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

from bench.data.dataset import Dataset
from bench.model import weights
from bench.report.across.law import LEVEL, Reading, fit
from bench.train import baselines
from benchmarks.choice import KINDS, Frame, change_texts
from benchmarks.settings import compose, table

SEEDS = range(3)  # draws of the train texts
TIMES = (2, 4)  # the largest size is so many times the largest that the forecast knows
FEWEST_TEXTS = 4  # of a label, about, at the smallest size
_ROWS = 64

Accuracies = Mapping[int, float]  # by size
Case = tuple[Sequence[Reading], int]  # a curve, and how many test texts it has


def report(*, short: bool) -> str:
    """The section: how far forecasts are from what was measured, and how often intervals hold it."""
    kinds = dict(list(KINDS.items())[:2]) if short else KINDS
    found = [one for title in kinds for one in _draw_curves(title)]
    cases: dict[str, list[Case]] = {
        "one draw": [
            ([Reading(size, accuracy, 1) for size, accuracy in sorted(one.items())], texts)
            for curves, texts in found
            for one in curves
        ],
        f"mean of {len(SEEDS)} draws": [(_average(curves), texts) for curves, texts in found],
    }
    rows = [[name, str(times), *_judge(curves, times)] for name, curves in cases.items() for times in TIMES]
    head = [
        "curves",
        "times the labels",
        "cases",
        "mean absolute error",
        "without a forecast",
        "in the interval",
    ]
    return "\n\n".join(
        [
            "## Forecasts of a learning curve",
            f"TF-IDF and the frozen encoder on {len(kinds)} kinds of texts, as under the choice, at sizes "
            f"that double; {len(SEEDS)} draws of the train texts. The law knows the sizes up to a half or a "
            "quarter of all, and forecasts the test accuracy with all. The interval is of "
            f"{LEVEL:.0%}; without a forecast: the error of the last accuracy that is known. In points.",
            table(head, rows),
        ]
    )


def _average(curves: Sequence[Accuracies]) -> list[Reading]:
    """The mean accuracy at each size; sizes of different draws are equal in their order."""
    ordered = [sorted(one.items()) for one in curves]
    return [
        Reading(same[0][0], statistics.fmean(accuracy for _, accuracy in same), len(same))
        for same in zip(*ordered, strict=True)
    ]


def _judge(cases: Sequence[Case], times: int) -> list[str]:
    """Cases, mean absolute error, that of no forecast, and the share in the interval."""
    errors, still, held = list[float](), list[float](), list[bool]()
    for curve, texts in cases:
        last = curve[-1]
        known = [one for one in curve if one.size * times <= 1.1 * last.size]
        if (law := fit(known, texts=texts)) is None:
            continue
        found = law.forecast(last.size)
        errors.append(abs(found.estimate - last.accuracy))
        still.append(abs(known[-1].accuracy - last.accuracy))
        held.append(found.low <= last.accuracy <= found.high)
    shares = [f"{100 * statistics.fmean(some):.1f}" for some in (errors, still)]
    return [str(len(errors)), *shares, f"{statistics.fmean(held):.0%}"]


def _draw_curves(title: str) -> Iterator[tuple[list[Accuracies], int]]:
    """A curve by draw of each method on one kind of texts, and how many test texts there are."""
    frames, labels = change_texts(KINDS[title])
    numbered = {
        split: frame.assign(label=frame["label"].map({label: place for place, label in enumerate(labels)}))
        for split, frame in frames.items()
    }
    features = {split: _embed(frame["text"].tolist()) for split, frame in frames.items()}
    draws = [list(_draw_sizes(numbered["train"], seed, len(labels))) for seed in SEEDS]
    for method in ("tfidf", "frozen"):
        curves = [
            {len(rows): _score(method, numbered, features, rows, labels) for rows in draw} for draw in draws
        ]
        yield curves, len(numbered["test"])


def _draw_sizes(train: Frame, seed: int, labels: int) -> Iterator[np.ndarray]:
    """Rows of the train split at sizes that halve, stratified; each size is part of the larger."""
    shuffled = train.iloc[np.random.RandomState(seed).permutation(len(train))]
    place, counts = shuffled.groupby("label").cumcount(), shuffled["label"].map(train["label"].value_counts())
    share = 1.0
    while share * len(train) >= FEWEST_TEXTS * labels:
        kept = shuffled.index[(place < np.maximum(1, np.round(share * counts))).to_numpy()]
        yield np.sort(kept.to_numpy())
        share /= 2


def _score(
    method: str,
    frames: Mapping[str, Frame],
    features: Mapping[str, np.ndarray],
    rows: np.ndarray,
    labels: Sequence[str],
) -> float:
    """The test accuracy of the method on these rows of the train split."""
    data = Dataset({**frames, "train": frames["train"].loc[rows]}, tuple(labels), "", 0)
    if method == "tfidf":
        fitted = baselines.fit_tfidf(data)
    else:
        fitted = baselines.fit_frozen({**features, "train": features["train"][rows]}, data)
    right = fitted.probabilities["test"].argmax(axis=1) == frames["test"]["label"].to_numpy()
    return float(right.mean())


def _embed(texts: Sequence[str]) -> np.ndarray:
    """The default encoder's mean-pooled states. # (texts, features)"""
    folder = weights.locate(compose().model)
    tokenizer, encoder = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    states = []
    with torch.inference_mode():
        for start in range(0, len(texts), _ROWS):
            batch = tokenizer(
                list(texts[start : start + _ROWS]),
                padding=True,
                truncation=True,
                max_length=64,
                return_tensors="pt",
            )
            hidden, mask = encoder(**batch).last_hidden_state, batch["attention_mask"][..., None]
            states.append(((hidden * mask).sum(1) / mask.sum(1)).numpy())
    return np.concatenate(states)
