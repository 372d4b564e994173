"""A data set ready to train on: three splits of texts with numbered labels, and a fingerprint."""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from bench.config.identity import draws_texts, is_stream
from bench.config.schema import DataConfig, MethodConfig
from bench.config.tasks import read_tasks
from bench.data import sources, stream
from bench.data import tasks as several
from bench.data.label_sets import Marks, find_strata, list_labels, number_sets, require_separable
from bench.data.reading.columns import fold_look
from bench.data.sources import SPLITS, Frames
from bench.data.splits import cut_splits, shorten, take_fold
from bench.data.teaching import HELD_OUT, UNLABELLED, Teaching, Unlabelled, hold_out, read_unlabelled
from bench.errors import ConfigError, DataError, MissingError
from bench.redaction import show

UNKNOWN = -1  # the label of a text of a stream whose true one comes with a later piece
SPLIT_VERSION = 1  # raise it when the same content and settings would give other splits
# Of a label, below which it is said. Of four test texts all right, the interval of the share (Wilson's, 95 %)
# begins at 51 %, of five at 57 %. Ten are about what few-shot learning is given of each label.
LEAST_ROWS = {"train": 10, "test": 5}
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Dataset:
    """Texts and labels by split, the same on every machine for the same fingerprint, fold and draw."""

    # train, validation, test: id (row number in the split, or with folds in train and validation together),
    # text, pair (if texts have a second one), label (index into labels, or if texts have several into sets),
    # piece (of a stream, from 0 on), task (number of the text's, where there are several)
    splits: Frames
    labels: tuple[str, ...]  # in the declared order, which is the order of a model's outputs
    fingerprint: str  # with the fold the name of the splits; all folds have one
    duplicate_rows_across_splits: int  # of validation and test: their exact text is in another split too
    fold: int | None = None  # which validates; None: there are none
    draw: int | None = None  # the seed that drew the train texts; None: every seed has the same
    # each combination of labels, if texts have several; None: a text has one. # (combinations, labels)
    sets: Marks | None = None
    # what a teacher is asked about, each like a split: held_out (of train, which lacks it), unlabelled
    asked: Frames = field(default_factory=dict)
    part: str | None = None  # names the part of train that is held out
    unlabelled: Unlabelled | None = None
    teaching: Teaching | None = None  # what a teacher said of train and of the unlabelled texts

    tasks: Mapping[str, "Dataset"] = field(default_factory=dict)  # each as it is alone; empty: one task

    @property
    def every_split(self) -> Frames:
        """The splits, and what a teacher is asked about."""
        return {**self.splits, **self.asked}

    @property
    def unlabelled_fingerprint(self) -> str | None:
        """The hash of the texts without labels, if there are any."""
        return None if self.unlabelled is None else self.unlabelled.fingerprint

    @property
    def pieces(self) -> int:
        """How many pieces of a stream there are; 1 of texts that are none."""
        return len(self.count_pieces("train"))

    def count_pieces(self, split: str) -> list[int]:
        """Count the rows of each piece of a stream; all of texts that are none."""
        frame = self.splits[split]
        return np.bincount(frame["piece"]).tolist() if "piece" in frame else [len(frame)]

    @property
    def heads(self) -> Marks | None:
        """The labels that a text of each task can have; None: of one task. # (tasks, labels)"""
        return several.mark_heads([len(one.labels) for one in self.tasks.values()]) if self.tasks else None

    def read_truth(self, split: str) -> npt.NDArray[Any]:
        """Return each row's label, or of several which it has. # (rows,), or (rows, labels)"""
        numbers = self.every_split[split]["label"].to_numpy()
        return numbers if self.sets is None else self.sets[numbers]

    def count_labels(self, split: str) -> npt.NDArray[np.int64]:
        """Count the rows that have each label. # (labels,)"""
        places = len(self.labels if self.sets is None else self.sets)
        counts = np.bincount(self.splits[split]["label"], minlength=places)
        return counts if self.sets is None else counts @ self.sets


def fingerprint(config: DataConfig) -> str:
    """Hash the content and every setting that changes the splits, without making them.

    Names and paths do not count, nor a size or a seed that is not used: a run's identity rests on this. The
    folds of a cross-validation have one fingerprint, as they are one task.

    Raises:
        MissingError: a file or a package is not on this machine.
        ConfigError: a setting that the source needs is missing.
    """
    if config.tasks is not None:
        parts = [[name, fingerprint(one)] for name, one in read_tasks(config).items()]
        return hashlib.sha256(json.dumps({"version": SPLIT_VERSION, "tasks": parts}).encode()).hexdigest()
    cut = [split for split in SPLITS if split not in sources.given_splits(config)]
    sizes = {split: float(getattr(config, f"{split}_size")) for split in cut}
    if config.train_size is not None:
        sizes["train"] = float(config.train_size)
        if config.resample:
            sizes["resample"] = 1.0
    if config.folds is not None:
        sizes.pop("validation", None)
    facts = {
        "version": SPLIT_VERSION,
        "content": sources.read_content(config),
        "labels": config.labels,
        "label_map": config.label_map or None,
        "sizes": sizes,
        "split_seed": config.split_seed if sizes or config.folds is not None else None,
        **({} if config.folds is None else {"folds": config.folds}),
        **({} if config.pieces is None else {"pieces": [config.pieces, config.late_labels]}),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def load(config: DataConfig, *, seed: int = 0) -> Dataset:
    """Read the texts, fold and number their labels, and cut the splits that the source lacks.

    A text that occurs in two splits is counted and reported, not dropped: the rows are the user's.

    Raises:
        MissingError: a file, a package or a hub's data set is not on this machine.
        DataError: texts or labels that cannot be used; the message says which and what to do.
        ConfigError: a setting that the source needs is missing.
    """
    if config.tasks is not None:
        each = {name: _load_task(name, one, seed=seed) for name, one in read_tasks(config).items()}
        return _join_tasks(each, config)
    frames = {split: _fold(frame, split, config) for split, frame in sources.read(config).items()}
    frames = stream.deal_pieces(frames, config)
    labels = _declare_labels(frames, config)
    _doubt_labels(labels, frames, config)
    name_labels(labels, config)  # says now if it cannot
    numbered, sets = _number_labels(frames, labels, config)
    if is_stream(config):
        cut = stream.cut_pieces(numbered, config, labels)
    elif config.folds is None:
        cut = cut_splits(numbered, config, labels, seed)
    else:
        cut = take_fold(numbered, config, labels)
    splits = {split: _number_rows(frame) for split, frame in cut.items()}
    duplicates = _doubt_duplicates(splits, config)
    draw = seed if draws_texts(config) else None
    unlabelled = None if config.unlabelled is None else read_unlabelled(config, splits)
    asked = {} if unlabelled is None else {UNLABELLED: unlabelled.frame}
    part = None
    if config.held_out is not None:
        splits["train"], held = hold_out(splits["train"], config)
        asked, part = {HELD_OUT: held, **asked}, f"part {config.held_out} of {config.cross_fit}"
    dataset = Dataset(
        splits,
        labels,
        fingerprint(config),
        duplicates,
        config.fold,
        draw,
        sets,
        asked=asked,
        part=part,
        unlabelled=unlabelled,
    )
    _require_present(dataset, config)
    _doubt_counts(dataset, config)
    return dataset


def imagine_teacher(dataset: Dataset) -> Dataset:
    """Return the data set with a teacher that finds all labels equally likely, where shapes alone count."""
    unlabelled = dataset.asked.get(UNLABELLED)
    texts = len(dataset.splits["train"]) + (0 if unlabelled is None else len(unlabelled))
    labels = len(dataset.labels)
    return dataclasses.replace(dataset, teaching=Teaching(np.full((texts, labels), 1 / labels), {}))


def take_piece(dataset: Dataset, piece: int, method: MethodConfig, *, seed: int) -> Dataset:
    """Return what a training after the piece sees, its labels those that have come by then.

    Train is all texts so far or, where the method updates, the new ones and those that are shown again;
    validation all so far; test all there are, those with a label yet to come as UNKNOWN.
    """
    train = dataset.splits["train"]
    so_far = train[train["piece"] <= piece]
    known = np.unique(so_far["label"])
    facts: list[Any] = [dataset.fingerprint, piece]
    if method.update is not None and piece > 0:
        is_new = so_far["piece"] == piece
        again = stream.draw_again(so_far[~is_new], method.replay, [seed, piece])
        so_far = pd.concat([again, so_far[is_new]])
        facts += ["new"] if method.replay is None else ["new", method.replay, seed]
    validation = dataset.splits["validation"]
    splits = {"train": so_far, "validation": validation[validation["piece"] <= piece]}
    numbers = np.full(len(dataset.labels), UNKNOWN)
    numbers[known] = np.arange(len(known))
    return dataclasses.replace(
        dataset,
        splits={
            split: frame.assign(label=numbers[frame["label"]]).reset_index(drop=True)
            for split, frame in {**splits, "test": dataset.splits["test"]}.items()
        },
        labels=tuple(dataset.labels[number] for number in known),
        fingerprint=hashlib.sha256(json.dumps(facts).encode()).hexdigest(),
    )


def name_labels(labels: Sequence[str], config: DataConfig) -> dict[str, str]:
    """Return what each label is called where a model writes it: data.label_words, or itself.

    Raises:
        ConfigError: words for a label that there is not.
    """
    words = config.label_words or {}
    if unknown := [repr(label) for label in words if label not in labels]:
        raise ConfigError(
            f"data.label_words: there is no label {shorten(unknown)}; there are {shorten(list(labels))}"
        )
    return {label: words.get(label, label) for label in labels}


def describe(dataset: Dataset) -> dict[str, Any]:
    """Return what a run's record says of its data: rows by label, duplicates, conflicts."""
    counts = {split: dataset.count_labels(split).tolist() for split in dataset.splits}
    return {
        "fingerprint": dataset.fingerprint,
        "sizes": {split: len(frame) for split, frame in dataset.splits.items()},
        "label_counts": {
            split: dict(zip(dataset.labels, numbers, strict=True)) for split, numbers in counts.items()
        },
        "duplicate_rows_across_splits": dataset.duplicate_rows_across_splits,
        "conflicting_labels": _count_conflicts(dataset.splits),
        **({} if dataset.sets is None else {"label_sets": _describe_sets(dataset)}),
        **({} if dataset.unlabelled is None else {"unlabelled": dict(dataset.unlabelled.counts)}),
        **({} if dataset.teaching is None else {"teacher": dict(dataset.teaching.described)}),
        **(
            {"tasks": {name: _describe_task(one) for name, one in dataset.tasks.items()}}
            if dataset.tasks
            else {}
        ),
    }


def _describe_task(task: Dataset) -> dict[str, Any]:
    """Describe one of several tasks, so that its own runs can be told by the fingerprint."""
    sizes = {split: len(frame) for split, frame in task.splits.items()}
    return {"fingerprint": task.fingerprint, "labels": list(task.labels), "sizes": sizes}


def _describe_sets(dataset: Dataset) -> dict[str, dict[str, float]]:
    """Describe by split how many labels texts have, and how many texts the most frequent combination."""
    described = {}
    for split, frame in dataset.splits.items():
        truth = dataset.read_truth(split)
        described[split] = {
            "most_frequent": int(frame["label"].value_counts().iloc[0]),
            "without_label": int((~truth.any(axis=1)).sum()),
            "labels_per_text": float(truth.sum(axis=1).mean()),
        }
    return described


def _fold(frame: pd.DataFrame, split: str, config: DataConfig) -> pd.DataFrame:
    """Replace each raw label by the one that data.label_map folds it into."""
    if not config.label_map:
        return frame
    counts = list_labels(frame).value_counts()
    unmapped = [
        f"{label!r} ({counts[label]} rows)" for label in counts.index if label not in config.label_map
    ]
    if unmapped:
        raise DataError(
            f"data.label_map: does not map {shorten(unmapped)} of {split}; every raw label needs an entry"
        )
    if not config.multi_label:
        return frame.assign(label=frame["label"].map(config.label_map))
    folded = [tuple(dict.fromkeys(config.label_map[label] for label in row)) for row in frame["label"]]
    return frame.assign(label=pd.Series(folded, index=frame.index, dtype=object))


def _declare_labels(frames: Frames, config: DataConfig) -> tuple[str, ...]:
    """Return the labels in their declared order: data.labels, data.label_columns, or train's, sorted.

    Raises:
        DataError: a row's label is not declared, train lacks a declared one, or there is only one.
        ConfigError: a label is declared twice.
    """
    present = set(list_labels(frames["train"]))
    columns = None if config.label_map else config.label_columns  # which folds them into others
    labels = tuple(config.labels or columns or sorted(present))
    if len(set(labels)) < len(labels):
        raise ConfigError(f"data.labels={list(labels)}: a label is declared twice")
    unseen = [
        f"{label!r} in {split} ({count} rows)"
        for split, frame in frames.items()
        for label, count in list_labels(frame).value_counts().items()
        if label not in labels
    ]
    if unseen:
        raise DataError(
            f"unseen label {shorten(unseen)}: the labels are {shorten(list(labels))} "
            f"({'data.labels' if config.labels else 'those of train'}); remove the rows, fold the label with "
            "data.label_map or declare it in data.labels"
        )
    if absent := [repr(label) for label in labels if label not in present]:
        setting = "data.labels" if config.labels else "data.label_columns"
        raise DataError(f"{setting}: train has no row of {shorten(absent)}; a model cannot learn it")
    if len(labels) < 2:
        raise DataError(f"train has the one label {labels[0]!r}; a classifier needs at least two")
    if config.multi_label:
        require_separable(labels, config.label_separator)
    return labels


def _number_labels(
    frames: Frames, labels: tuple[str, ...], config: DataConfig
) -> tuple[Frames, Marks | None]:
    """Number the labels, or their combinations, and add by what rows are drawn in proportion."""
    if config.multi_label:
        numbered, sets = number_sets(frames, labels)
        train = numbered["train"]
        return {**numbered, "train": train.assign(stratum=find_strata(train["label"]))}, sets
    index = {label: number for number, label in enumerate(labels)}
    numbered = {split: frame.assign(label=frame["label"].map(index)) for split, frame in frames.items()}
    return {split: frame.assign(stratum=frame["label"]) for split, frame in numbered.items()}, None


def _require_present(dataset: Dataset, config: DataConfig) -> None:
    """Raise a DataError where the rows that were drawn lack a label that has to be learned, or any at all.

    Only of several labels a text, as one alone has rows in each split that is drawn.
    """
    if dataset.sets is None:
        return
    counts = dataset.count_labels("train")
    if absent := [f"{label!r}" for label, count in zip(dataset.labels, counts, strict=True) if not count]:
        raise DataError(
            f"train has no row of {shorten(absent)}, as all that have it are in other splits or were not "
            "drawn; add rows, raise data.train_size, or leave the label out"
        )
    if empty := [split for split in SPLITS if not dataset.count_labels(split).any()]:
        raise DataError(f"data {config.name}: no row of {empty[0]} has a label, so nothing can be scored")


def _doubt_labels(labels: Sequence[str], frames: Frames, config: DataConfig) -> None:
    """Warn of labels that look alike, which are one label by mistake more often than two."""
    alike: dict[str, list[str]] = {}
    for label in labels:
        alike.setdefault(fold_look(label), []).append(label)
    rows = pd.concat([list_labels(frame) for frame in frames.values()]).value_counts()
    named = [
        " and ".join(f"{label!r} ({rows[label]} rows)" for label in group)
        for group in alike.values()
        if len(group) > 1
    ]
    if named:
        _logger.warning(
            "data %s: labels differ only in case, blanks, width or invisible characters and count as "
            "different: %s; mend the file, or fold them with data.label_map",
            show(config.name),
            shorten(named),
        )


def _doubt_counts(dataset: Dataset, config: DataConfig) -> None:
    """Warn of labels with so few rows that their own scores say little."""
    counts = {split: dataset.count_labels(split).tolist() for split in LEAST_ROWS}
    scarce = [
        f"{label!r} ({', '.join(f'{counts[split][number]} in {split}' for split in few)})"
        for number, label in enumerate(dataset.labels)
        if (few := [split for split, least in LEAST_ROWS.items() if counts[split][number] < least])
    ]
    if scarce:
        _logger.warning(
            "data %s: labels with few rows, fewer than %d to learn from or %d to be tested on: %s; their own "
            "scores say little, so add rows or fold such a label into another with data.label_map",
            show(config.name),
            *LEAST_ROWS.values(),
            shorten(scarce),
        )


def _number_rows(frame: pd.DataFrame) -> pd.DataFrame:
    ids = frame.get("id", range(len(frame)))
    columns = {
        "id": ids,
        **{name: frame[name] for name in ("text", "pair", "label", "piece") if name in frame},
    }
    return pd.DataFrame(columns).reset_index(drop=True).astype({"id": np.int64, "label": np.int64})


def _load_task(name: str, config: DataConfig, *, seed: int) -> Dataset:
    """Load one of several tasks as it is alone; its errors name it.

    Raises:
        MissingError, DataError: as load.
    """
    try:
        return load(config, seed=seed)
    except (MissingError, DataError) as error:
        reason = str(error).removeprefix("data.train=")  # which nobody has set
        raise type(error)(f"data.tasks: {name}: {reason}") from None


def _join_tasks(tasks: Mapping[str, Dataset], config: DataConfig) -> Dataset:
    """Make one data set of several tasks: the texts of all, each with the labels of its own task alone."""
    labels = several.name_labels({name: one.labels for name, one in tasks.items()})
    splits = several.join_splits([(one.splits, len(one.labels)) for one in tasks.values()])
    duplicates, draws = _doubt_duplicates(splits, config), [one.draw for one in tasks.values()]
    return Dataset(splits, labels, fingerprint(config), duplicates, draw=draws[0], tasks=tasks)


def _doubt_duplicates(splits: Frames, config: DataConfig) -> int:
    """Count the rows of validation and test whose text is in another split too, and warn of them."""
    count = _count_duplicates(splits)
    if count:
        _logger.warning(
            "data %s: %d rows of validation and test have a text that is in another split too; "
            "their scores say little about new texts",
            config.name,
            count,
        )
    return count


def _count_duplicates(splits: Frames) -> int:
    texts = {split: set(sources.list_texts(frame)) for split, frame in splits.items()}
    count = 0
    for split in ("validation", "test"):
        others = set().union(*(texts[other] for other in SPLITS if other != split))
        count += sum(text in others for text in sources.list_texts(splits[split]))
    return count


def _count_conflicts(splits: Frames) -> int:
    """Count the rows whose exact text has another label too, in whatever split."""
    rows = pd.concat([splits[split].assign(text=sources.join_texts(splits[split])) for split in SPLITS])
    labels = rows.groupby("text", sort=False)["label"].nunique()
    return int(rows["text"].isin(labels.index[labels > 1]).sum())
