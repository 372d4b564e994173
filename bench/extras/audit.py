"""Labels that are probably wrong, from what models that have not seen a text say of it.

It reads the out-of-fold predictions of cross-validations and trains nothing. The share of wrong labels is the
noise of a mixture that is fitted to them; which labels to take for wrong is confident learning's verdict, by
the library cleanlab (Northcutt, Jiang and Chuang, JAIR 70, 2021).
"""

import importlib.util
import shlex
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.optimize import brentq, minimize
from scipy.special import expit, softmax

from bench.config.overrides import list_overrides
from bench.config.schema import Config, from_record
from bench.csv_text import to_csv
from bench.data import dataset
from bench.data.sources import join_texts
from bench.errors import ConfigError, MissingError, StoreError
from bench.results.marks import find_separator
from bench.results.selection import (
    Selection,
    fill_scores,
    group_by_method,
    read_criterion,
    read_fold,
    read_value,
    select_best,
)
from bench.results.store import Result, Store

FILE = "label_issues.csv"
_HEADER = ("rank", "id", "text", "label", "suggested_label", "score", "is_issue")
_FOLDS = 5  # that are proposed
_SMALLEST = 1e-6  # probability: the files have six digits
_FAR = 20  # points below the ceiling, from which on models are too weak to say how many labels are wrong
_LEVEL = 3.841 / 2  # of log-likelihood: half the quantile of chi squared at 95 %

Probabilities = npt.NDArray[np.float64]  # (texts, labels)
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class OutOfFold:
    """The texts outside test, and the probabilities of their labels by models that have not seen them."""

    methods: tuple[str, ...]  # titles
    runs: int
    labels: tuple[str, ...]
    texts: pd.DataFrame  # id, text, label (number)
    probabilities: Probabilities  # (methods, texts, labels)


@dataclass(frozen=True)
class Noise:
    """The share of wrong labels, and what its mixture says of each text."""

    share: float
    low: float  # its 95 % interval
    high: float
    likely: Probabilities  # of each label to be the right one, whatever label is given: (texts, labels)
    wrong: npt.NDArray[np.float64]  # that the given label is not the right one: (texts,)


def gather(store: Store, method: str | None, defaults: Config) -> OutOfFold:
    """Read the out-of-fold predictions of the methods' chosen configurations, means over their seeds.

    Args:
        method: the name of the only one to read; None: all that read texts
        defaults: for settings that are newer than the records

    Raises:
        ConfigError: there is no whole cross-validation; the message is the command for one. Or the texts are
            no longer those of the runs.
        StoreError, MissingError, DataError: predictions or texts cannot be read.
    """
    chosen = _choose(store, method)
    read = [_read_folds(store, best, defaults) for best in chosen]
    return OutOfFold(
        methods=tuple(str(read_value(best.results[0], "config.method.title")) for best in chosen),
        runs=sum(len(best.results) for best in chosen),
        labels=tuple(chosen[0].results[0].labels),
        texts=read[0][0],
        probabilities=np.stack([probabilities for _, probabilities in read]),
    )


def _choose(store: Store, method: str | None) -> list[Selection]:
    """Choose the cross-validations to read, one of each method."""
    results, _ = store.read_all()
    if any(find_separator(result.config) is not None for result in results):
        raise ConfigError(
            f"{store.folder}: holds runs on texts with several labels, and an audit is of one label a text; "
            "name a folder of such runs with --results"
        )
    select_by = read_criterion(results)
    groups = {
        key: best
        for key, members in group_by_method(fill_scores(results, store, select_by)).items()
        if (key.method == method if method else key.method != "majority")
        and (best := select_best(members, select_by=select_by)) is not None
    }
    whole = {key: best for key, best in groups.items() if _is_whole(best)}
    if not whole:
        raise ConfigError(_explain_missing(store, method, list(groups.values()), results))
    if len({key.data_fingerprint for key in whole}) > 1:
        raise ConfigError(
            f"{store.folder}: holds cross-validations of several data sets; sweep each with a results_dir of "
            "its own"
        )
    by_runs = {tuple(one.run_id for one in best.results): best for best in whole.values()}
    return list(by_runs.values())  # a baseline without a base model belongs to each model


def _is_whole(best: Selection) -> bool:
    folds = read_value(best.results[0], "config.data.folds")
    return folds is not None and len({read_fold(one) for one in best.results}) == folds


def _explain_missing(
    store: Store, method: str | None, chosen: Sequence[Selection], results: Sequence[Result]
) -> str:
    """Say what is missing for an audit, and the command that makes it."""
    started = [best for best in chosen if read_value(best.results[0], "config.data.folds") is not None]
    if started:
        first = started[0].results[0]
        count = read_value(first, "config.data.folds")
        problem = f"{len({read_fold(one) for one in started[0].results})} of {count} folds have a success"
    elif chosen:
        first, count, problem = chosen[0].candidates[0], _FOLDS, "no run has out-of-fold predictions"
    else:
        known = sorted({str(read_value(one, "config.method.name")) for one in results})
        return f"{method or 'audit'}: {store.folder} has no success of it; it has runs of {', '.join(known)}"
    lines = list_overrides(first.config) or [f"method={read_value(first, 'config.method.name')}"]
    left_out = ["data.fold", "data.folds"]
    if read_value(first, "config.data.resample"):  # a size of a learning curve, which folds have none of
        left_out += ["data.resample", "data.train_size"]
    kept = [line for line in lines if line.partition("=")[0] not in left_out]
    folds = [
        f"data.folds={count}",
        f"data.fold={','.join(map(str, range(count)))}",
        f"results_dir={store.folder}",
    ]
    return (
        f"{store.folder}: {problem}, and a label is judged by models that have not seen its text. To make "
        f"them: {shlex.join(['bench', 'sweep', *kept, *folds])}"
    )


def _read_folds(store: Store, chosen: Selection, defaults: Config) -> tuple[pd.DataFrame, Probabilities]:
    """Read the texts that each fold validates, and the mean of its runs' probabilities; by id."""
    by_fold = defaultdict[int, list[Result]](list)
    for result in chosen.results:
        by_fold[read_fold(result) or 0].append(result)
    parts = [_read_fold(store, results, defaults) for results in by_fold.values()]
    texts = pd.concat([texts for texts, _ in parts], ignore_index=True)
    order = np.argsort(texts["id"].to_numpy())
    return texts.iloc[order].reset_index(drop=True), np.concatenate([found for _, found in parts])[order]


def _read_fold(
    store: Store, results: Sequence[Result], defaults: Config
) -> tuple[pd.DataFrame, Probabilities]:
    """Read the texts that a fold validates, and the mean of its runs' probabilities."""
    first = results[0]
    loaded = dataset.load(from_record(defaults, first.config).data)
    if loaded.fingerprint != read_value(first, "canonical_config.data.fingerprint"):
        raise ConfigError(
            f"run {first.run_id}: its texts have changed since it was trained; bring them back as they were, "
            "or train again"
        )
    texts = loaded.splits["validation"]
    found = [_read_probabilities(store, result, texts) for result in results]
    return texts, np.mean(found, axis=0)


def _read_probabilities(store: Store, result: Result, texts: pd.DataFrame) -> Probabilities:
    """Read a run's probabilities of each label for these texts."""
    rows = store.read_predictions(result.run_id).query("split == 'validation'").set_index("id")
    names = [f"probability_{label}" for label in result.labels]
    given = [result.labels[number] for number in texts["label"]]
    if sorted(rows.index) != sorted(texts["id"]) or rows.loc[texts["id"], "label"].tolist() != given:
        raise StoreError(f"runs/{result.run_id}/predictions.csv: is not of its fold's texts; it was changed")
    if missing := [name for name in names if name not in rows]:
        raise StoreError(f"runs/{result.run_id}/predictions.csv: has no column {missing[0]}; it was changed")
    found: Probabilities = rows.loc[texts["id"], names].to_numpy(dtype=np.float64)
    return np.asarray(found / found.sum(axis=1, keepdims=True))


def measure_noise(found: OutOfFold) -> Noise:
    """Fit which labels are right and how many given ones are wrong, by maximum likelihood.

    A text's right label has as probabilities the softmax of a weighted sum of the methods' logarithms. The
    given label is the right one, or with the probability of the noise any of the others alike. Labels that no
    model finds likely tell the noise from texts that are hard. The interval is of the profile likelihood.
    """
    logs = np.log(found.probabilities.clip(_SMALLEST))  # (methods, texts, labels)
    labels, methods = found.texts["label"].to_numpy(), len(logs)
    rows, others = np.arange(len(labels)), len(found.labels) - 1

    def likely(weights: npt.NDArray[np.float64]) -> Probabilities:
        return np.asarray(softmax(np.tensordot(weights, logs, 1), axis=1))

    def lose(weights: npt.NDArray[np.float64], noise: float) -> float:
        right = likely(weights)[rows, labels]
        given = (1 - noise) * right + noise * (1 - right) / others
        return -float(np.log(given.clip(_SMALLEST**2)).sum())

    start = np.full(methods, 1.5 / methods)
    best = minimize(lambda values: lose(values[:-1], float(expit(values[-1]))), [*start, -2.0])
    weights, share = best.x[:-1], float(expit(best.x[-1]))

    def lag(noise: float) -> float:
        return float(minimize(lose, weights, args=(noise,)).fun - best.fun - _LEVEL)

    right = likely(weights)
    of_given = right[rows, labels]
    of_noise = share * (1 - of_given) / others
    return Noise(
        share=share,
        low=float(brentq(lag, 0.0, share, xtol=1e-4)) if lag(0.0) > 0 else 0.0,
        high=float(brentq(lag, share, 1 - 1e-3, xtol=1e-4)),
        likely=right,
        wrong=of_noise / ((1 - share) * of_given + of_noise),
    )


def find_issues(found: OutOfFold, noise: Noise) -> npt.NDArray[np.bool_]:
    """Return whether confident learning takes each given label for wrong. # (texts,)

    Raises:
        MissingError: cleanlab is not installed.
    """
    if importlib.util.find_spec("cleanlab") is None:
        raise MissingError(
            "cleanlab: the package behind bench audit is not installed; run pip install 'bench[audit]'"
        )
    from cleanlab.filter import find_label_issues

    given = (1 - noise.share) * noise.likely + noise.share * (1 - noise.likely) / (len(found.labels) - 1)
    return np.asarray(find_label_issues(found.texts["label"].to_numpy(), given, n_jobs=1))


def render(found: OutOfFold, noise: Noise, issues: npt.NDArray[np.bool_]) -> str:
    """Write every text outside test, those whose labels are most likely wrong first."""
    names, texts, joined = found.labels, found.texts, join_texts(found.texts)
    rows: list[list[Any]] = [
        [
            rank,
            int(texts["id"].iloc[place]),
            joined.iloc[place],
            names[texts["label"].iloc[place]],
            names[noise.likely[place].argmax()],
            f"{noise.wrong[place]:.6g}",
            bool(issues[place]),
        ]
        for rank, place in enumerate(np.argsort(-noise.wrong, kind="stable"), start=1)
    ]
    return to_csv(_HEADER, rows)


def summarise(found: OutOfFold, noise: Noise, issues: npt.NDArray[np.bool_]) -> str:
    """Say how many labels are wrong, the ceiling on accuracy, and whether the models are too weak for it."""
    share, low, high = (100 * value for value in (noise.share, noise.low, noise.high))
    answers = found.probabilities.mean(axis=0).argmax(axis=1)
    agreed = 100 * float((answers == found.texts["label"].to_numpy()).mean())
    doubt = (
        "these models answer far worse than that, so the number rests on little: train them longer, or audit "
        "by a better method\n"
    )
    return (
        f"{', '.join(found.methods)} ({found.runs} runs): each of {len(found.texts)} texts judged by models "
        f"that have not seen it, which answer as labelled on {agreed:.1f} %\n"
        f"labels that are wrong: {share:.1f} % ({low:.1f} to {high:.1f} %)\n"
        f"so the best accuracy to expect on labels like these is {100 - share:.1f} % ({100 - high:.1f} to "
        f"{100 - low:.1f} %)\n"
        f"{doubt if 100 - share - agreed > _FAR else ''}"
        f"{issues.sum()} texts are taken for wrongly labelled; the likeliest stand first in {FILE}"
    )
