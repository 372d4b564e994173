"""What tells groups of runs apart in words that people know: a model's folder, a file, a number of rows."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from bench.config.fields import Off, read_marks
from bench.config.schema import Config
from bench.report.cells import clean, format_count, format_number
from bench.results.selection import read_number, read_value
from bench.results.store import Result

Traits = tuple[tuple[str, str], ...]  # (name, value), without what no record says

# Where a record says it, in the order in which people would look. Of a path the last name is shown, and with
# _folder the two last: data/en/train.csv is train.csv, or en/train.csv.
MODEL = {
    "model": "config.model.path",
    "hub_id": "config.model.hub_id",
    "model_folder": "config.model.path",
    "weights": "config.model.weights",
    "parameters": "parameters.total",
}
DATA = {
    "train": "config.data.train",
    "test": "config.data.test",
    "train_folder": "config.data.train",
    "test_folder": "config.data.test",
    "data_hub_id": "config.data.hub_id",
    "subset": "config.data.subset",
    "folds": "config.data.folds",
    "train_rows": "data.sizes.train",
    "validation_rows": "data.sizes.validation",
    "test_rows": "data.sizes.test",
    "labels": "labels",
    "text_column": "config.data.text_column",
    "label_column": "config.data.label_column",
    "split_seed": "config.data.split_seed",
    "train_size": "config.data.train_size",
    "validation_size": "config.data.validation_size",
    "test_size": "config.data.test_size",
    "noise": "config.data.noise",
}
TRAINING = {
    "max_length": "canonical_config.train.max_length",
    "precision": "canonical_config.train.precision",
    "template": "canonical_config.model.template",
}

# What a setting is at in records from before it was there, which lack it.
_OFF = {
    path: mark.value for path, marks in read_marks(Config).items() for mark in marks if isinstance(mark, Off)
}
# How the same texts may be split; a fold is a part of one split.
_SPLIT = ("train_size", "validation_size", "test_size", "split_seed", "folds", "fold")


@dataclass(frozen=True)
class DataOrigin:
    """Where the texts of some runs come from, and how they are split."""

    data_set: str  # settings of the data but those of its split; equal for runs on one data set
    split: str | None  # settings of the data but train's size; None: no record says this size
    tested_on: str | None  # rows of each label in test; None: no record says it
    train_rows: int | None


def read_origin(results: Iterable[Result]) -> DataOrigin:
    """Return where the texts of runs on the same splits come from, as the first record that says it does."""
    results = list(results)
    settings = dict(read_value(results[0], "config.data") or {})
    has_size, asked = "train_size" in settings, settings.get("train_size")
    settings = {
        name: value
        for name, value in settings.items()
        if name not in ("train_size", "fold") and value not in (None, _OFF.get(f"data.{name}"))
    }
    counts = (read_value(result, "data.label_counts.test") for result in results)
    rows = [read_number(result, "data.sizes.train") for result in results]
    rows.append(asked if isinstance(asked, int | float) and asked >= 1 else None)  # if all failed too early
    return DataOrigin(
        data_set=_to_json({name: value for name, value in settings.items() if name not in _SPLIT}),
        split=_to_json(settings) if has_size else None,
        tested_on=next((_to_json(one) for one in counts if one is not None), None),
        train_rows=next((int(count) for count in rows if count is not None), None),
    )


def _to_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def read_traits(results: Iterable[Result]) -> Traits:
    """Return what the runs of one group are known by; values that differ among them stand side by side."""
    results = list(results)
    # a baseline without a base model belongs to each model, and its record names one of them
    with_model = [result for result in results if read_value(result, "canonical_config.model.revision")]
    traits = []
    for name, path in (MODEL | DATA | TRAINING).items():
        members = with_model if name in MODEL else results
        values = (read_value(member, path) for member in members)
        unlike = {tuple(value) if isinstance(value, list) else value for value in values} - {None, ()}
        if unlike:
            traits.append((name, " / ".join(sorted({_show(name, path, value) for value in unlike}))))
    return tuple(traits)


def _show(name: str, path: str, value: Any) -> str:
    if name == "labels":
        return str(len(value))
    if name == "parameters":
        return format_count(value)
    if path in ("config.model.path", "config.data.train", "config.data.test"):
        return clean("/".join(PurePath(str(value)).parts[-2 if name.endswith("_folder") else -1 :]))
    return clean(format_number(value))


def choose_traits(groups: Sequence[Traits], names: Iterable[str]) -> list[str]:
    """Choose of these traits the first that tell the groups apart, and no more than are needed."""
    known, chosen = [dict(group) for group in groups], list[str]()

    def count(some: Sequence[str]) -> int:
        return len({tuple(one.get(name) for name in some) for one in known})

    for name in names:
        if count([*chosen, name]) > count(chosen):
            chosen.append(name)
    for name in reversed(chosen):  # train.csv is needless beside en/train.csv
        rest = [one for one in chosen if one != name]
        if count(rest) == count(chosen):
            chosen = rest
    return chosen
