"""One row per method, from the records of its runs: numbers, not yet text."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from bench.config.schema import AS_IT_IS, LONG_TEXTS, LOSSES, TRAINED
from bench.report.cells import clean, flatten
from bench.report.numbers.budget import Budget, count_budget
from bench.report.numbers.calibration import Reliability
from bench.report.numbers.collapse import is_untrained
from bench.report.numbers.edges import Edge, find_edges
from bench.report.numbers.health import DataHealth, describe_health
from bench.report.numbers.statistics import Difference, Summary, summarise
from bench.report.numbers.traits import DataOrigin, Traits, read_origin, read_traits
from bench.results.marks import find_separator
from bench.results.selection import (
    MethodKey,
    Selection,
    configuration_key,
    group_by_method,
    read_criterion,
    read_fold,
    read_number,
    read_seed,
    read_value,
    select_best,
)
from bench.results.store import STARTED, STATUSES, Result

PEAKS = {  # memory kind -> the peak the table shows; in the order of the tables
    "cuda": "memory.train.peak_reserved_bytes",
    "cpu_resident": "memory.train.peak_resident_bytes",
}
OVER = (
    "seeds_and_texts",
    "other_seeds_and_texts",  # the seeds as those of the table's other methods vary: it has too few
    "texts",  # all there is for a method without randomness
    "texts_alone",  # nothing is known of how the seeds vary
)
PAGED = "memory.train.paged_bytes"
_UNLABELLED = "data.unlabelled"
# Shown wherever they count.
_USUAL = (
    *("lora.r", "lora.alpha", "lora.dropout", "train.lr"),
    *("method.experts", "method.loraplus_lr_ratio", "method.shots"),
    *("distillation.weight", "distillation.temperature"),
)

# By where a record holds it: what a training takes beside memory, and what is averaged over the chosen runs.
_TAKEN = {"train_time": "time.train_seconds", "energy": "energy.joules"}
_SCORED = {
    "accuracy": "metrics.test.accuracy",
    "f1_macro": "metrics.test.f1_macro",
    "trainable": "parameters.trainable",
    "total": "parameters.total",
}


@dataclass(frozen=True)
class ReportTask:
    """Some data and a base model: only methods of one task can be compared."""

    data: str
    model: str | None  # None: no method of the task has a base model
    fingerprint: str
    revision: str | None
    test_size: int | None  # texts; None: no record says it
    health: DataHealth
    traits: Traits  # what tells it from a task whose data and model have the same names
    origin: DataOrigin
    multi_label: bool = False  # whether texts have several labels, so that accuracy is exact match


@dataclass(frozen=True)
class Interval:
    """Where a score lies with 95 % confidence, and over what it was taken to vary."""

    low: float
    high: float
    over: str  # one of OVER


@dataclass(frozen=True)
class Together:
    """What a method's seeds answer together: one classifier by the mean of their probabilities."""

    seeds: int
    accuracy: float
    interval: Interval  # for other texts; what other seeds would change is unknown
    f1_macro: float
    gain: Difference  # its accuracy less the mean of the seeds', for other texts
    calibration: Reliability | None  # None: texts may have several labels
    several: Mapping[str, float]  # where they may: by one of MULTI_LABEL


@dataclass(frozen=True)
class BoundedScore:
    """A score on the test split, the mean over seeds, and where it lies."""

    mean: float
    interval: Interval | None


@dataclass(frozen=True)
class Row:
    """One method on one task, measured in one kind of memory. A value is None unless every seed has it."""

    task: ReportTask
    memory_kind: str | None  # one of PEAKS; None: no run says it
    method: str
    title: str
    baseline: bool  # fits no network
    as_it_is: bool  # one of them, by which the base model answers without any training
    has_model: bool  # False: a baseline without a base model, which is in the table of each model
    status: str  # success, or how most of its runs ended
    statuses: Mapping[str, int]  # of all its runs
    selection: Selection | None  # None: no run succeeded
    lost_seeds: Mapping[str, int]  # statuses of the chosen configuration's other seeds
    validation: float | None  # the score that the chosen configuration was chosen for
    not_alone: int  # chosen runs whose memory, time and energy are left out: resumed halfway, or packed
    peak_memory_bytes: float | None  # the highest of the seeds, while training; as_it_is: while answering
    paged_bytes: (
        float | None
    )  # of optimizer states in the machine's memory, beside that; the most of the seeds
    train_seconds: float | None  # mean
    joules: float | None  # mean, of the GPU while training
    accuracy: Summary | None  # on the test split
    f1_macro: Summary | None  # on the test split
    interval: Interval | None  # of the accuracy; all three from scores.bound_rows
    texts_interval: Interval | None  # of the accuracy of these trained models, over texts alone
    f1_interval: Interval | None
    trainable_parameters: float | None
    total_parameters: float | None
    seeds: tuple[int, ...]  # of each chosen run; empty: the method has no randomness, or no run succeeded
    folds: int  # of a cross-validation that the chosen runs are of; 0: they are of none
    hyperparameters: Mapping[str, Any]  # chosen; name -> value
    runs: int
    failed_runs: int
    run_ids: tuple[str, ...]  # behind the numbers
    budget: Budget
    unknown: Mapping[str, str]  # number that is None -> reason, which may be empty
    error: str | None  # where no run succeeded: what one of them said
    has_random_weights: bool  # of the base model: its scores mean nothing
    rank: int  # place among the task's methods
    edges: tuple[Edge, ...]  # chosen values at the edge of what was tried
    untrained: tuple[Result, ...]  # chosen runs that answer no better than the majority class
    columns: Mapping[str, BoundedScore] = field(default_factory=dict)  # that report.columns asks for, by name
    calibration: Reliability | None = None  # of the probabilities; from scores.bound_rows
    together: Together | None = None  # of several seeds; from there too
    gate_parameters: float | None = None  # of the trainable ones, in an adapter with gates

    @property
    def is_untrained(self) -> bool:
        """Whether no chosen run trained, so that the method's numbers say nothing of it."""
        return len(self.untrained) == len(self.run_ids) > 0


def build_rows(results: Iterable[Result]) -> list[Row]:
    """Return the comparison's rows in its order, the same whatever the order of the results.

    Tasks are sorted by name, then CUDA before CPU, then baselines, full fine-tuning, LoRA, LoRA over
    quantised weights, and other methods by title. A run that ended too early to say its kind of memory is
    counted with the other runs of its method, or of its task, if those have one kind.
    """
    results = list(results)
    select_by = read_criterion(results)
    rows = [build_row(*group, select_by) for group in list_groups(results)]
    return _tell_apart(sorted(rows, key=order_row))


def list_groups(
    results: Sequence[Result],
) -> Iterator[tuple[ReportTask, MethodKey, str | None, Sequence[Result]]]:
    """Yield the runs of each row: its task, its method, its kind of memory, and they themselves."""
    groups = group_by_method(results)
    tasks = _describe_tasks(groups)
    for key, members in groups.items():
        same_task = [one for other, some in groups.items() if other[:2] == key[:2] for one in some]
        for kind, same_kind in _split_by_kind(members, fallback=_only_kind(same_task)).items():
            yield tasks[key[:2]], key, kind, same_kind


def build_row(
    task: ReportTask, key: MethodKey, kind: str | None, results: Sequence[Result], select_by: str
) -> Row:
    """Build the row of one method's runs on one task in one kind of memory."""
    selection = select_best(results, select_by=select_by)
    statuses = Counter(result.status for result in results)
    chosen = selection.results if selection else ()
    shown = chosen or tuple(results[:1])
    status = "success" if selection else min(statuses, key=lambda one: (-statuses[one], _status_order(one)))
    alone = [one for one in chosen if stands_alone(one)]
    measured = {"memory": find_peak(shown[0], kind), **_TAKEN}
    known = {name: _read_known(alone, path) for name, path in measured.items()}
    known |= {name: _read_known(chosen, path) for name, path in _SCORED.items()}
    return Row(
        task=task,
        memory_kind=kind,
        method=key.method,
        title=clean(str(read_value(shown[0], "config.method.title") or "")) or key.method,
        baseline=read_value(shown[0], "config.method.estimator") not in TRAINED,
        as_it_is=read_value(shown[0], "config.method.estimator") in AS_IT_IS,
        has_model=read_value(shown[0], "canonical_config.model.revision") is not None,
        status=status,
        statuses=statuses,
        selection=selection,
        lost_seeds=_count_lost_seeds(chosen, results),
        validation=selection.scores[0] if selection else None,
        not_alone=len(chosen) - len(alone),
        peak_memory_bytes=max(known["memory"], default=None),
        paged_bytes=max(_read_known(alone, PAGED), default=None),
        train_seconds=_mean(known["train_time"]),
        joules=_mean(known["energy"]),
        accuracy=summarise(known["accuracy"]) if known["accuracy"] else None,
        f1_macro=summarise(known["f1_macro"]) if known["f1_macro"] else None,
        interval=None,
        texts_interval=None,
        f1_interval=None,
        trainable_parameters=max(known["trainable"], default=None),
        total_parameters=max(known["total"], default=None),
        seeds=tuple(read_seed(one) or 0 for one in chosen if {read_seed(one), read_fold(one)} != {None}),
        folds=len({read_fold(one) for one in chosen} - {None}),
        hyperparameters=_choose_hyperparameters(chosen, results),
        runs=len(results),
        failed_runs=len(results) - statuses["success"],
        run_ids=tuple(one.run_id for one in chosen),
        budget=count_budget(results, selection),
        unknown={
            name: _find_reason(chosen, path)
            for name, path in (measured | _SCORED).items()
            if chosen and not known[name]
        },
        error=None if selection else _first_error(results, status),
        has_random_weights=_has_random_weights(shown[0]),
        rank=_rank_method(shown[0]),
        edges=find_edges(selection.candidates[0], results) if selection else (),
        untrained=tuple(one for one in chosen if is_untrained(one)),
        gate_parameters=max(_read_known(chosen, "model.gate_parameters"), default=None),
    )


def _has_random_weights(result: Result) -> bool:
    has_model = read_value(result, "canonical_config.model.revision") is not None
    return has_model and read_value(result, "config.model.weights") == "random"


def _describe_tasks(groups: Mapping[MethodKey, Sequence[Result]]) -> dict[tuple[str, str | None], ReportTask]:
    """Return each task with the names that its runs give to data and model."""
    members: dict[tuple[str, str | None], list[Result]] = defaultdict(list)
    for key, results in groups.items():
        members[key[:2]] += results
    tasks = {}
    for (fingerprint, revision), results in members.items():
        with_model = [result for result in results if read_value(result, "canonical_config.model.revision")]
        sizes = {size for result in results if (size := read_number(result, "data.sizes.test")) is not None}
        tasks[fingerprint, revision] = ReportTask(
            data=_join_names(results, "config.data.name"),
            model=_join_names(with_model, "config.model.name") if with_model else None,
            fingerprint=fingerprint,
            revision=revision,
            test_size=int(sizes.pop()) if len(sizes) == 1 else None,
            health=describe_health(results),
            traits=read_traits(results),
            origin=read_origin(results),
            multi_label=any(find_separator(result.config) is not None for result in results),
        )
    return tasks


def _join_names(results: Iterable[Result], path: str) -> str:
    return " / ".join(sorted({clean(str(read_value(result, path))) for result in results}))


def _read_kind(result: Result) -> str | None:
    kind = read_value(result, "memory.kind")
    return kind if isinstance(kind, str) and kind in PEAKS else None


def _only_kind(results: Iterable[Result]) -> str | None:
    kinds = {_read_kind(result) for result in results} - {None}
    return kinds.pop() if len(kinds) == 1 else None


def _split_by_kind(results: Sequence[Result], *, fallback: str | None) -> dict[str | None, list[Result]]:
    """Split the method's runs by their kind of memory, so that peaks of two kinds never share a table."""
    fallback = _only_kind(results) or fallback
    groups: dict[str | None, list[Result]] = defaultdict(list)
    for result in results:
        groups[_read_kind(result) or fallback].append(result)
    return groups


def _read_known(results: Sequence[Result], path: str) -> list[int | float]:
    """Return the numbers of all seeds, or none if a seed lacks it: a mean of some would pass for all."""
    values = [read_number(result, path) for result in results]
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else []


def _mean(values: Sequence[float]) -> float | None:
    return summarise(values).mean if values else None


def find_peak(result: Result, kind: str | None) -> str:
    """Return where the record has the peak that tables show of this kind of memory.

    It is that of training, and of answering where nothing is trained; earlier records have both in one.
    """
    path = PEAKS.get(str(kind), "memory.kind")
    trains = read_value(result, "config.method.estimator") not in AS_IT_IS
    return path if trains or not read_value(result, "memory.eval") else path.replace("train", "eval")


def stands_alone(result: Result) -> bool:
    """Return whether memory and time are those of one whole training, with nothing beside it."""
    return result.packed is None and read_value(result, "model.resumed_from_step") is None


def _find_reason(results: Iterable[Result], path: str) -> str:
    """Find why the number is null, in the first record that says so; keys may hold a * for any name."""
    names = path.split(".")
    prefixes = [".".join(names[:count]) for count in range(len(names), 0, -1)]
    for result in results:
        for prefix in prefixes:
            for pattern, reason in sorted(result.reasons.items()):
                if fnmatchcase(prefix, pattern):
                    return reason
    return ""


def _count_lost_seeds(chosen: Sequence[Result], results: Iterable[Result]) -> Counter[str]:
    if not chosen:
        return Counter()
    key = configuration_key(chosen[0])
    return Counter(
        result.status for result in results if not result.is_success and configuration_key(result) == key
    )


def _choose_hyperparameters(chosen: Sequence[Result], results: Iterable[Result]) -> dict[str, Any]:
    """Return the chosen r, alpha, dropout, lr where they count, and all that the method's runs vary."""
    if not chosen:
        return {}
    settings = flatten(chosen[0].canonical_config)
    leaves = [flatten(result.canonical_config) for result in results]
    alike = [other for other in leaves if other.get("task") == settings.get("task")]  # with the same fields
    varied = {path for path in settings if any(other.get(path) != settings[path] for other in alike)}
    if len(alike) < len(leaves):
        settings.setdefault("task", "sequence_classification")  # which a run_id leaves out
        varied.add("task")
    for path, off in (("train.loss", LOSSES[0]), ("data.long_texts", LONG_TEXTS[0])):
        if any(path in other for other in leaves):
            settings.setdefault(path, off)  # which a run_id leaves out too
            varied.add(path)
    usual = ("auto", read_value(chosen[0], "config.model.target_modules"))
    if settings.get("lora.target_modules", "auto") not in usual:
        varied.add("lora.target_modules")
    paths = [path for path in _USUAL if path in settings] + sorted(varied - {*_USUAL, "seed", "data.fold"})
    if _UNLABELLED in settings:  # by name: a run_id counts the content's hash
        settings[_UNLABELLED] = Path(str(read_value(chosen[0], f"config.{_UNLABELLED}"))).name
    return {path.rpartition(".")[2]: settings[path] for path in paths}


def _first_error(results: Iterable[Result], status: str) -> str | None:
    """Return the first line of the message of a run that ended with this status."""
    for result in sorted(results, key=lambda result: (result.status != status, result.run_id)):
        lines = str(read_value(result, "error.message") or "").strip().splitlines()
        if lines:
            return lines[0]
    return None


def _status_order(status: str) -> int:
    return [*STATUSES, STARTED].index(status)


def _rank_method(result: Result) -> int:
    """Rank methods by what they do: baselines, full, LoRA, LoRA over quantised weights, others."""
    method = result.config.get("method") or {}
    estimators = ("majority", *AS_IT_IS, "tfidf", "frozen_encoder", "setfit")
    if method.get("estimator") in estimators:
        return estimators.index(method["estimator"])
    if method.get("trainable") in ("head", "all"):
        return 5 if method["trainable"] == "head" else 6
    if method.get("adapter") == {"peft_type": "LORA"} and method.get("experts") is None:
        return 7 if method.get("quantization") == "none" else 8
    return 9


def order_row(row: Row) -> tuple[Any, ...]:
    """Return what rows are sorted by."""
    task, kinds = row.task, list(PEAKS)
    kind = kinds.index(row.memory_kind) if row.memory_kind else math.inf
    names = (task.data, task.model or "", task.fingerprint, task.revision or "")
    return (*names, kind, row.rank, row.title, row.method)


def _tell_apart(rows: list[Row]) -> list[Row]:
    """Add the method's name to titles that two rows of a table share."""
    counts = Counter((row.task, row.memory_kind, row.title) for row in rows)
    return [
        replace(row, title=f"{row.title} ({row.method})")
        if counts[row.task, row.memory_kind, row.title] > 1
        else row
        for row in rows
    ]
