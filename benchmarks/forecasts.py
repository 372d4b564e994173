"""What a learning curve forecasts, beside what was then measured: curves that are cut off."""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

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
TIMES = (2, 4, 8)  # the largest size is so many times the largest that the forecast knows
FEWEST_TEXTS = 4  # of a label, about, at the smallest size
_ROWS = 64
_LARGE = ("data.train_size=1600", "data.validation_size=400", "data.test_size=4000")


def _keep(frame: Frame, _: np.random.Generator, __: str) -> Frame:
    return frame


# Generated texts can be as many as one likes: 4,000 of them leave a third of the noise of 400.
GENERATED: Mapping[str, str] = {
    "generated, 8 topics": "data.noise=0.0",
    "generated, 8 topics, a tenth of the labels wrong": "data.noise=0.1",
}


@dataclass(frozen=True)
class Case:
    """The answers of one method to the test texts of one kind, by the number of train texts."""

    kind: str
    method: str
    sizes: Sequence[int]  # ascending
    right: np.ndarray  # share of the draws that are right about a text. # (sizes, texts)
    draws: int

    @property
    def is_generated(self) -> bool:
        return self.kind in GENERATED


def report(*, short: bool) -> str:
    """The section: how far forecasts are from what was measured, and how often intervals hold it."""
    kinds = [*KINDS][:2] if short else [*KINDS, *GENERATED]
    cases = [case for kind in kinds for case in draw_cases(kind)]
    rows = []
    for generated in (False, True):
        for draws in (1, len(SEEDS)):
            same = [case for case in cases if (case.is_generated, case.draws) == (generated, draws)]
            rows += [row for times in TIMES if (row := _judge(same, times))]
    head = [
        "test texts",
        "curves",
        "times the labels",
        "cases",
        "mean absolute error",
        "if the law were true",
        "by noise alone",
        "without a forecast",
        "in the interval",
    ]
    return "\n\n".join(
        [
            "## Forecasts of a learning curve",
            f"TF-IDF and the frozen encoder on {len(kinds)} kinds of texts, of the choice and generated, at "
            f"sizes that double; {len(SEEDS)} draws of the train texts. The law knows the sizes up to a "
            "half, a quarter or an eighth of all, and forecasts the test accuracy with all. The interval "
            f"is of {LEVEL:.0%}. If the law were true: the error with curves drawn from the law that is "
            "fitted to all sizes, with the noise of these texts. By noise alone: the error of who knows "
            "the true accuracy at every size, and has only to guess what these test texts make of it at "
            "the largest from what they did at the known. Without a forecast: the error of the last "
            "accuracy that is known. In points.",
            table(head, rows),
        ]
    )


def _judge(cases: Sequence[Case], times: int) -> list[str]:
    """A row of the table; empty if no case is long enough."""
    errors, imagined, noises, still, held = (list[float]() for _ in range(5))
    random = np.random.default_rng(0)
    for case in cases:
        (known, last), texts = cut(read(case), times), case.right.shape[1]
        if (law := fit(known, texts=texts)) is None:
            continue
        found = law.forecast(last.size)
        errors.append(abs(found.estimate - last.accuracy))
        held.append(found.low <= last.accuracy <= found.high)
        imagined.append(_forecast_imagined(case, times, random))
        noises.append(find_noise(case, len(known)))
        still.append(abs(known[-1].accuracy - last.accuracy))
    if not errors:
        return []
    texts = sorted({case.right.shape[1] for case in cases})
    draws = "one draw" if cases[0].draws == 1 else f"mean of {cases[0].draws} draws"
    said = f"{texts[0]} to {texts[-1]}" if len(texts) > 1 else str(texts[0])
    shares = [f"{100 * statistics.fmean(some):.1f}" for some in (errors, imagined, noises, still)]
    return [said, draws, str(times), str(len(errors)), *shares, f"{statistics.fmean(held):.0%}"]


def read(case: Case) -> list[Reading]:
    """The accuracy at each size."""
    shares = case.right.mean(axis=1)
    return [Reading(size, float(share), case.draws) for size, share in zip(case.sizes, shares, strict=True)]


def cut(curve: Sequence[Reading], times: int) -> tuple[list[Reading], Reading]:
    """The accuracies up to the largest size divided by so many, and that of the largest."""
    return [one for one in curve if one.size * times <= 1.1 * curve[-1].size], curve[-1]


def _forecast_imagined(case: Case, times: int, random: np.random.Generator) -> float:
    """The error of the forecast of a curve that follows the law exactly, but for the noise of its texts."""
    curve, texts = read(case), case.right.shape[1]
    law = fit(curve, texts=texts)
    assert law is not None
    noise = random.multivariate_normal(np.zeros(len(curve)), np.cov(case.right) / texts)
    drawn = [
        replace(one, accuracy=float(np.clip(law.expect(one.size) + more, 0, 1)))
        for one, more in zip(curve, noise, strict=True)
    ]
    known, last = cut(drawn, times)
    law = fit(known, texts=texts)
    assert law is not None
    return abs(law.forecast(last.size).estimate - last.accuracy)


def find_noise(case: Case, known: int) -> float:
    """The mean absolute error of the best guess at the last accuracy, where the true ones are all known.

    What the test texts add to the true accuracies is normal, with the covariance that texts have: the guess
    is its mean at the last size, given what it is at so many first ones.
    """
    covariance = np.cov(case.right) / case.right.shape[1]
    rest, own = covariance[-1, :known], covariance[-1, -1]
    variance = own - rest @ np.linalg.pinv(covariance[:known, :known]) @ rest
    return math.sqrt(max(0.0, variance) * 2 / math.pi)


def draw_cases(kind: str) -> Iterator[Case]:
    """The curves of each method on one kind of texts: of each draw, and of their mean."""
    if kind in GENERATED:
        frames, labels = change_texts(("finance8_synthetic", _keep), *_LARGE, GENERATED[kind])
    else:
        frames, labels = change_texts(KINDS[kind])
    numbered = {
        split: frame.assign(label=frame["label"].map({label: place for place, label in enumerate(labels)}))
        for split, frame in frames.items()
    }
    features = (
        {}
        if kind in GENERATED
        else {split: _embed(frame["text"].tolist()) for split, frame in frames.items()}
    )
    for method in ("tfidf",) if kind in GENERATED else ("tfidf", "frozen"):  # the encoder reads no Chinese
        draws = []
        for seed in SEEDS:
            rows = list(_draw_sizes(numbered["train"], seed, len(labels)))[::-1]
            draws.append(np.stack([_answer(method, numbered, features, some, labels) for some in rows]))
            sizes = [len(some) for some in rows]
            yield Case(kind, method, sizes, draws[-1].astype(float), 1)
        yield Case(kind, method, sizes, np.mean(draws, axis=0), len(draws))


def _draw_sizes(train: Frame, seed: int, labels: int) -> Iterator[np.ndarray]:
    """Rows of the train split at sizes that halve, stratified; each size is part of the larger."""
    shuffled = train.iloc[np.random.RandomState(seed).permutation(len(train))]
    place, counts = shuffled.groupby("label").cumcount(), shuffled["label"].map(train["label"].value_counts())
    share = 1.0
    while share * len(train) >= FEWEST_TEXTS * labels:
        kept = shuffled.index[(place < np.maximum(1, np.round(share * counts))).to_numpy()]
        yield np.sort(kept.to_numpy())
        share /= 2


def _answer(
    method: str,
    frames: Mapping[str, Frame],
    features: Mapping[str, np.ndarray],
    rows: np.ndarray,
    labels: Sequence[str],
) -> np.ndarray:
    """Which test texts the method is right about, from these rows of the train split. # (texts,)"""
    data = Dataset({**frames, "train": frames["train"].loc[rows]}, tuple(labels), "", 0)
    if method == "tfidf":
        fitted = baselines.fit_tfidf(data)
    else:
        fitted = baselines.fit_frozen({**features, "train": features["train"][rows]}, data)
    right: np.ndarray = fitted.probabilities["test"].argmax(axis=1) == frames["test"]["label"].to_numpy()
    return right


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
