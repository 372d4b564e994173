"""Which configuration of a method is its best, by validation alone.

The sweep asks, to train that configuration with more seeds; the table asks, to report it. Nothing here
reads a test metric, so no report can have been chosen on the split it reports.
"""

import json
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bench.config.schema import CRITERIA
from bench.errors import StoreError
from bench.results.marks import find_separator
from bench.results.store import Result, Store
from bench.results.tally import SCORES, score_predictions

_SMALLEST = 1e-15  # probability: keeps a loss finite where a wrong answer was certain, as in the metrics


class MethodKey(NamedTuple):
    """A method on a task; a task is some data and a base model, both by content."""

    data_fingerprint: str
    model_revision: str | None  # None: no result of these data has a base model
    method: str


@dataclass(frozen=True)
class Selection:
    """A method's best configuration on one task."""

    results: tuple[Result, ...]  # its successes, by seed and fold
    seed: int | None  # at which configurations were compared; None: the method has no randomness
    select_by: str  # one of CRITERIA, on validation
    # the run at that seed of each configuration that competed, and at the first of the folds they share;
    # best first
    candidates: tuple[Result, ...]
    scores: tuple[float, ...]  # theirs, of the metric; means over those folds
    configurations: int  # tried, with or without success
    failed_runs: int  # all runs of the method that are not a success

    @property
    def first_of_folds(self) -> list[Result]:
        """The run of each fold with its smallest seed; without folds that of all."""
        firsts: dict[int | None, Result] = {}
        for result in self.results:
            firsts.setdefault(read_fold(result), result)
        return list(firsts.values())


def read_value(result: Result, path: str) -> Any:
    """Return the value at a dotted path of a record, such as ``metrics.test.accuracy``, or None."""
    return read_place(result, split_path(path))


@cache
def split_path(path: str) -> tuple[str, tuple[str, ...]]:
    """Return a record's field and the keys within it, for read_place."""
    name, *rest = path.split(".")
    return name, tuple(rest)


def read_place(result: Result, place: tuple[str, tuple[str, ...]]) -> Any:
    """Return what read_value does, for who reads millions of values."""
    value = getattr(result, place[0])
    for part in place[1]:
        value = value.get(part) if isinstance(value, dict) else None
    return value


def read_number(result: Result, path: str) -> int | float | None:
    """Return the finite number at a dotted path of a record, or None if there is none."""
    value = read_value(result, path)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and math.isfinite(value) else None


def read_score(result: Result, name: str) -> int | float | None:
    """Return the validation score that the run competes with, its first success's, or None without one."""
    earlier = [
        attempt["validation"].get(name)
        for attempt in result.attempts
        if attempt.get("status") == "success" and attempt.get("validation")
    ]
    known = [score for score in earlier[:1] if score is not None]
    return known[0] if known else read_number(result, f"metrics.validation.{name}")


def fill_scores(results: Iterable[Result], store: Store, select_by: str) -> list[Result]:
    """Return the results with the validation score that they are selected by.

    Records from before that score was kept get it from their predictions; where these cannot be read, they
    stay without it.
    """
    return [
        _fill_score(one, store)
        if one.is_success and select_by in SCORES and read_score(one, select_by) is None
        else one
        for one in results
    ]


def read_filled(store: Store, run_id: str, select_by: str) -> Result | None:
    """Return the run's record with the validation score that it is selected by; None without a record."""
    record = store.read(run_id)
    return record and fill_scores([record], store, select_by)[0]


def _fill_score(result: Result, store: Store) -> Result:
    try:
        rows = store.read_predictions(result.run_id).query("split == 'validation'")
    except StoreError:
        return result
    separator = find_separator(result.config)
    known = {
        **score_predictions(rows, result.labels, separator),
        **(result.metrics.get("validation") or {}),
    }
    return replace(result, metrics={**result.metrics, "validation": known})


def read_losses(store: Store, run_ids: Sequence[str]) -> npt.NDArray[np.float64]:
    """Read each run's loss, -log p of the true label, on each validation text. # (runs, texts)

    Raises:
        StoreError: their predictions cannot be read, or are not of the same texts.
    """
    losses, texts = [], set()
    for run_id in run_ids:
        rows = store.read_predictions(run_id).query("split == 'validation'").sort_values("id", kind="stable")
        columns = {name: place for place, name in enumerate(rows)}
        places = [columns.get(f"probability_{label}", -1) for label in rows["label"]]
        if min(places, default=-1) < 0:
            raise StoreError(
                f"runs/{run_id}/predictions.csv: lacks a true label's probability; it was changed"
            )
        true = rows.to_numpy()[np.arange(len(rows)), places].astype(np.float64)  # (texts,)
        losses.append(-np.log(true.clip(_SMALLEST, 1.0)))
        texts.add(tuple(rows["id"]))
    if len(texts) > 1:
        raise StoreError("the runs' predictions are of other validation texts")
    return np.stack(losses)


def configuration_key(result: Result) -> str:
    """Name the hyperparameter configuration: equal for runs that differ in seed, fold and halving's rung."""
    canonical = {name: value for name, value in result.canonical_config.items() if name != "seed"}
    for section, name in (("train", "stop_step"), ("data", "fold")):
        if section in canonical:
            canonical[section] = {key: value for key, value in canonical[section].items() if key != name}
    return json.dumps(canonical, sort_keys=True, ensure_ascii=False)


def method_key(result: Result) -> MethodKey:
    """Return the method and the task that a run belongs to."""
    revision = read_value(result, "canonical_config.model.revision")
    return MethodKey(
        data_fingerprint=str(read_value(result, "canonical_config.data.fingerprint")),
        model_revision=None if revision is None else str(revision),
        method=str(read_value(result, "config.method.name")),
    )


def group_by_method(results: Iterable[Result]) -> dict[MethodKey, list[Result]]:
    """Group the runs by method and task, both in a fixed order.

    A baseline without a base model belongs to every task with the same data. Runs that predict a part of
    train for a student are in no group, as they were given fewer texts.
    """
    whole = (result for result in results if not is_teaching(result))
    keyed = [(method_key(result), result) for result in sorted(whole, key=lambda result: result.run_id)]
    revisions = defaultdict(set)
    for key, _ in keyed:
        if key.model_revision is not None:
            revisions[key.data_fingerprint].add(key.model_revision)
    groups = defaultdict(list)
    for key, result in keyed:
        shared = revisions[key.data_fingerprint] if key.model_revision is None else ()
        for revision in shared or [key.model_revision]:
            groups[key._replace(model_revision=revision)].append(result)
    return {
        key: groups[key] for key in sorted(groups, key=lambda group: (group[0], group[1] or "", group[2]))
    }


def read_criterion(results: Iterable[Result]) -> str:
    """Return the validation metric that most runs were to be selected by, so that table and sweep agree."""
    counts = Counter(read_value(result, "config.sweep.select_by") for result in results)
    return max(CRITERIA, key=lambda name: counts[name])  # max keeps the first of equals


def select_best(results: Sequence[Result], *, select_by: str = "accuracy") -> Selection | None:
    """Choose the best configuration among the runs of one method on one task; None if none can be compared.

    Configurations may have different numbers of seeds, and a mean over three seeds is not to be compared with
    one lucky seed. So they compete at one seed, the one that the most of them have a success for (of equals,
    the smallest), and in a cross-validation by their means over the same folds (see ``_find_common_folds``).
    The highest validation metric wins; ties go to the lower validation loss, then to the configuration's key,
    which is arbitrary but fixed. A training that was stopped halfway, as a rung of halving is, is no
    candidate. A run that was measured alone after a success in a pack competes with its scores of the pack,
    so that measuring the best does not change which it is.
    """
    key_of = {result.run_id: configuration_key(result) for result in results}
    successes = [result for result in results if result.is_success and not is_stopped(result)]
    scored = [success for success in successes if read_score(success, select_by) is not None]
    if not scored:
        return None
    seeds = Counter(seed for _, seed in {(key_of[one.run_id], read_seed(one)) for one in scored})
    seed = min(seeds, key=lambda one: (-seeds[one], _order(one)))
    runs = defaultdict[str, dict[int | None, Result]](dict)  # of each configuration, by fold
    for one in scored:
        if read_seed(one) == seed:
            runs[key_of[one.run_id]][read_fold(one)] = one
    folds = _find_common_folds([frozenset(by_fold) for by_fold in runs.values()])

    def rank(key: str) -> tuple[float, float, str]:
        score, loss = (
            _average(read_score(runs[key][fold], name) for fold in folds) for name in (select_by, "loss")
        )
        return -(score or 0.0), math.inf if loss is None else loss, key

    ranked = sorted((key for key, by_fold in runs.items() if by_fold.keys() >= set(folds)), key=rank)
    chosen = [success for success in successes if key_of[success.run_id] == ranked[0]]
    return Selection(
        results=tuple(sorted(chosen, key=lambda one: (_order(read_seed(one)), _order(read_fold(one))))),
        seed=seed,
        select_by=select_by,
        candidates=tuple(runs[key][folds[0]] for key in ranked),
        scores=tuple(-rank(key)[0] for key in ranked),
        configurations=len(set(key_of.values())),
        failed_runs=sum(not result.is_success for result in results),
    )


def _find_common_folds(having: Sequence[frozenset[int | None]]) -> list[int | None]:
    """Find the folds on which configurations compete, given those that each has a success for.

    They are those that allow the most comparisons with one of them: folds that all configurations have,
    unless one with few of them would cost the others more than it brings. One that lacks such a fold does
    not compete.
    """
    shared = {one & other for one in {*having} for other in {*having}}

    def rate(folds: list[int | None]) -> tuple[int, int, list[int]]:
        rivals = sum(one.issuperset(folds) for one in having) - 1
        return rivals * len(folds), len(folds), [-_order(fold) for fold in folds]

    return max((sorted(folds, key=_order) for folds in shared), key=rate)


def _average(values: Iterable[float | None]) -> float | None:
    """Return the mean, or None if a value is unknown."""
    known = list(values)
    numbers = [value for value in known if value is not None]
    return statistics.fmean(numbers) if len(numbers) == len(known) else None


def is_stopped(result: Result) -> bool:
    """Tell whether the run is a rung of halving: a training that was stopped before its schedule ended."""
    return read_value(result, "canonical_config.train.stop_step") is not None


def is_teaching(result: Result) -> bool:
    """Tell whether the run lacks a part of train, as it predicts that for a student, whose cost it is."""
    return read_value(result, "canonical_config.data.held_out") is not None


def read_seed(result: Result) -> int | None:
    """Return the run's seed, or None where the seed cannot matter."""
    seed = result.canonical_config.get("seed")
    return seed if isinstance(seed, int) else None


def read_fold(result: Result) -> int | None:
    """Return the fold that the run was validated on, or None without folds."""
    fold = read_value(result, "canonical_config.data.fold")
    return fold if isinstance(fold, int) else None


def _order(number: int | None) -> int:
    return -1 if number is None else number
