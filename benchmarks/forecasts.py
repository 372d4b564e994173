"""What a learning curve forecasts, beside what was then measured: curves that are cut off."""

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import numpy as np
import pandas as pd
import torch
from transformers import AutoModel, AutoTokenizer

from bench.data.dataset import Dataset
from bench.model import weights
from bench.report.across.law import LEVEL, Reading, fit
from bench.train import baselines
from benchmarks.choice import KINDS, Change, Frame, change_texts
from benchmarks.settings import compose, table

SEEDS = range(3)  # draws of the train texts
TIMES = (2, 4, 8)  # the largest size is so many times the largest that the forecast knows
FEWEST_TEXTS = 4  # of a label, about, at the smallest size
_ROWS = 64
_WORDS = 20  # of a passage
_LARGE = {"train": 3200, "validation": 400, "test": 4000}

Texts = tuple[dict[str, Frame], list[str]]  # splits with labels by name, and the labels
States = dict[str, np.ndarray]  # the encoder's states by text: kinds share their texts


@dataclass(frozen=True)
class Case:
    """The answers of one method to the test texts of one kind, by the number of train texts."""

    kind: str
    method: str
    sizes: Sequence[int]  # ascending
    right: np.ndarray  # share of the draws that are right about a text. # (sizes, texts)
    draws: int


# Kinds of the choice that ask different things about the same texts: the encoder reads them once for all.
_ASKED = (
    "headlines, 5 topics",
    "headlines, sports or not",
    "headlines, two topics ten times rarer",
    "headlines, a fifth of the labels drawn anew",
    "headlines, is there a number",
)
_THINNED = "headlines, a fifth of the training texts"  # too few where most texts are tested on


def _draw_choice() -> Iterator[tuple[str, Texts]]:
    for kind, change in KINDS.items():
        yield kind, change_texts(change)


def _draw_split() -> Iterator[tuple[str, Texts]]:
    """Headlines of which most are tested on."""
    for kind in _ASKED:
        yield kind, change_texts(KINDS[kind], "data.test_size=1300", "data.validation_size=150")


def _draw_passages() -> Iterator[tuple[str, Texts]]:
    """Whole texts cut into passages: real texts, and many."""
    frames, _ = change_texts(("bbc_news", _cut_passages))
    whole = pd.concat(frames.values()).drop_duplicates("text")
    whole = whole.iloc[np.random.default_rng(0).permutation(len(whole))]
    ends = np.cumsum(list(_LARGE.values()))
    splits = {name: whole[end - _LARGE[name] : end] for name, end in zip(_LARGE, ends, strict=True)}
    for kind in (*_ASKED, _THINNED):
        random, edit = np.random.default_rng(0), KINDS[kind][1]
        edited = {name: edit(frame.reset_index(drop=True), random, name) for name, frame in splits.items()}
        labels = sorted(edited["train"]["label"].unique())
        yield kind, ({name: frame.reset_index(drop=True) for name, frame in edited.items()}, labels)


def _cut_passages(frame: Frame, _: np.random.Generator, __: str) -> Frame:
    rows = []
    for text, label in zip(frame["text"], frame["label"], strict=True):
        words = text.split()
        starts = range(0, len(words) - _WORDS + 1, _WORDS)
        rows += [(" ".join(words[start : start + _WORDS]), label) for start in starts]
    return pd.DataFrame(rows, columns=["text", "label"])


def _draw_generated() -> Iterator[tuple[str, Texts]]:
    """Chinese texts, as many as one likes, with so many labels wrong; asked for all topics, or for less."""
    sizes = [f"data.{split}_size={size}" for split, size in _LARGE.items()]
    edits: Mapping[str, Change] = {
        "8 topics": lambda frame, _, __: frame,
        "company news or not": partial(_ask_label, "公司新闻"),
        "shares or not": partial(_ask_label, "股票市场"),
        "markets or institutions": _ask_markets,
        "characters in any order": _shuffle_characters,
    }
    for noise in (0.0, 0.1, 0.2, 0.3):
        for asked, edit in edits.items():
            if asked == "8 topics" or noise < 0.2:
                change = "finance8_synthetic", edit
                yield f"{asked}, {noise:.0%} wrong", change_texts(change, *sizes, f"data.noise={noise}")


def _ask_label(label: str, frame: Frame, _: np.random.Generator, __: str) -> Frame:
    return frame.assign(label=np.where(frame["label"] == label, label, "other"))


def _ask_markets(frame: Frame, _: np.random.Generator, __: str) -> Frame:
    markets = ["宏观政策", "股票市场", "债券市场", "外汇市场", "大宗商品"]
    return frame.assign(label=np.where(frame["label"].isin(markets), "markets", "institutions"))


def _shuffle_characters(frame: Frame, random: np.random.Generator, __: str) -> Frame:
    return frame.assign(text=["".join(random.permutation(list(text))) for text in frame["text"]])


# The encoder reads no Chinese.
SOURCES: Mapping[str, tuple[Callable[[], Iterator[tuple[str, Texts]]], Sequence[str]]] = {
    "the choice": (_draw_choice, ("tfidf", "frozen")),
    "headlines, split otherwise": (_draw_split, ("tfidf", "frozen")),
    "passages of whole texts": (_draw_passages, ("tfidf", "frozen")),
    "generated": (_draw_generated, ("tfidf",)),
}


def report(*, short: bool) -> str:
    """The section: how far forecasts are from what was measured, and how often intervals hold it."""
    states, rows, kinds = States(), list[list[str]](), 0
    for source, (draw, methods) in SOURCES.items():
        cases = list[Case]()
        for kind, texts in islice(draw(), 2 if short else None):
            cases += draw_cases(kind, texts, methods, states)
            kinds += 1
            print(source, kind, flush=True)
        for draws in (1, len(SEEDS)):
            same = [case for case in cases if case.draws == draws]
            rows += [[source, *row] for times in TIMES if (row := _judge(same, times))]
        if short:
            break
    head = [
        "texts",
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
            f"TF-IDF and the frozen encoder on {kinds} kinds of texts: of the choice; headlines of "
            f"which most are tested on; whole texts in passages of {_WORDS} words; generated (TF-IDF "
            f"alone). At sizes that double; {len(SEEDS)} draws of the train texts. The law knows the "
            "sizes up to a half, a quarter or an eighth of all, and forecasts the test accuracy with "
            f"all. The interval is of {LEVEL:.0%}. If the law were true: the error with curves drawn "
            "from the law that is fitted to all sizes, with the noise of these texts. By noise alone: "
            "the error of who knows the true accuracy at every size, and has only to guess what these "
            "test texts make of it at the largest from what they did at the known. Without a "
            "forecast: the error of the last accuracy that is known. In points.",
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


def draw_cases(kind: str, texts: Texts, methods: Sequence[str], states: States) -> Iterator[Case]:
    """The curves of each method on one kind of texts: of each draw, and of their mean."""
    frames, labels = texts
    numbered = {
        split: frame.assign(label=frame["label"].map({label: place for place, label in enumerate(labels)}))
        for split, frame in frames.items()
    }
    features = (
        {split: _embed(frame["text"].tolist(), states) for split, frame in frames.items()}
        if "frozen" in methods
        else {}
    )
    for method in methods:
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


def _embed(texts: Sequence[str], states: States) -> np.ndarray:
    """The default encoder's mean-pooled states; those not known yet are added. # (texts, features)"""
    folder = weights.locate(compose().model)
    tokenizer, encoder = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    new = sorted(set(texts) - set(states), key=len)  # batches of like length
    with torch.inference_mode():
        for start in range(0, len(new), _ROWS):
            some = new[start : start + _ROWS]
            batch = tokenizer(some, padding=True, truncation=True, max_length=64, return_tensors="pt")
            hidden, mask = encoder(**batch).last_hidden_state, batch["attention_mask"][..., None]
            states.update(zip(some, ((hidden * mask).sum(1) / mask.sum(1)).numpy(), strict=True))
    return np.stack([states[text] for text in texts])
