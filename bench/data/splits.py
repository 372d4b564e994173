"""Rows drawn into splits and folds: by label, at random, and the same on every machine."""

import dataclasses
import math
import re

import numpy as np
import numpy.typing as npt
import pandas as pd

from bench.config.identity import draws_texts
from bench.config.schema import DataConfig
from bench.data import sources
from bench.data.sources import SPLITS, Frames
from bench.errors import DataError

_SHOWN = 5  # of a list of faults; the rest is counted


def cut_splits(frames: Frames, config: DataConfig, labels: tuple[str, ...], seed: int = 0) -> Frames:
    """Return all three splits; those that the source lacks are cut from train, stratified by label.

    Where texts have several labels, by the combination of these.

    Rows keep their order. Test is drawn first, so that it stays when only validation's or train's size
    changes. Of fewer train texts each is among those of any larger size.
    """
    rest = frames["train"].reset_index(drop=True)
    sizes = _row_counts(frames, config)
    if not config.multi_label:
        _require_enough(rest, sizes, labels, config)
    # RandomState, as its stream is frozen for good: other generators may change with numpy's version.
    random = np.random.RandomState(config.split_seed)
    result = {split: frame for split, frame in frames.items() if split != "train"}
    for still_to_come, (split, size) in zip(reversed(range(len(sizes))), sizes.items(), strict=True):
        if split == "train" and draws_texts(config):
            random = np.random.RandomState([config.split_seed, seed])
        least = 0 if config.multi_label else 1
        result[split] = draw_rows(rest, size, spare=still_to_come * least, least=least, random=random)
        rest = rest.drop(result[split].index)
    return {split: result[split] for split in SPLITS}


def draw_rows(
    rows: pd.DataFrame, size: int, *, spare: int, random: np.random.RandomState, least: int = 1
) -> pd.DataFrame:
    """Draw so many of the rows by stratum, at least ``least`` of each; ``spare`` of each are left."""
    quota = allot(np.bincount(rows["stratum"]), size, spare=spare, least=least)  # (strata,)
    shuffled = rows.iloc[random.permutation(len(rows))]
    place = shuffled.groupby("stratum").cumcount().to_numpy()
    drawn = shuffled.index[place < quota[shuffled["stratum"].to_numpy()]]
    chosen: pd.DataFrame = rows.loc[drawn.sort_values()]
    return chosen


def take_fold(frames: Frames, config: DataConfig, labels: tuple[str, ...]) -> Frames:
    """Return all three splits of one fold: test as without folds, of all other rows the fold validates.

    The other rows keep their order, those of a validation split of the source come last.
    """
    least = dataclasses.replace(config, train_size=None, validation_size=len(labels))
    parts = cut_splits(frames, least, labels)
    rest = pd.concat([parts["train"], parts["validation"]])
    rest = (rest if "validation" in frames else rest.sort_index()).reset_index(drop=True)
    rest["id"] = rest.index
    random = np.random.RandomState(config.split_seed)
    folds = _deal_folds(rest, config, labels, random)
    train = rest[folds != config.fold]
    if config.train_size is not None and config.source != "finance8_synthetic":  # which generates so many
        size = int(config.train_size * (1 if config.train_size >= 1 else len(frames["train"])))
        if size > (fewest := len(rest) - np.bincount(folds).max()):
            raise DataError(
                f"data {config.name}: the {fewest} rows of the other folds are too few for "
                f"data.train_size={config.train_size:g}; make it smaller"
            )
        train = draw_rows(train, size, spare=0, random=random)
    return {"train": train, "validation": rest[folds == config.fold], "test": parts["test"]}


def _deal_folds(
    rows: pd.DataFrame, config: DataConfig, labels: tuple[str, ...], random: np.random.RandomState
) -> npt.NDArray[np.int64]:
    """Deal the texts to folds, as deal does. # (rows,)

    Raises:
        DataError: a fold has no row of some label.
    """
    count = config.folds or 1
    folds = deal(rows, count, random)
    held = rows["label"].groupby(folds).agg(set)
    if scarce := [
        f"{label!r}" for number, label in enumerate(labels) if any(number not in one for one in held)
    ]:
        raise DataError(
            f"data.folds={count}: too few texts of {shorten(scarce)}, as each fold needs one; make fewer "
            "folds, add rows or fold the label with data.label_map"
        )
    return folds


def deal(rows: pd.DataFrame, count: int, random: np.random.RandomState) -> npt.NDArray[np.int64]:
    """Deal the texts of each label, shuffled, to one part after another; equal texts are in one. # (rows,)"""
    joined = sources.join_texts(rows)
    texts = rows.assign(text=joined).drop_duplicates("text")
    shuffled = texts.iloc[random.permutation(len(texts))].sort_values("label", kind="stable")
    part_of = pd.Series(np.arange(len(texts)) % count, index=shuffled["text"])
    parts: npt.NDArray[np.int64] = joined.map(part_of).to_numpy(dtype=np.int64)
    return parts


def _row_counts(frames: Frames, config: DataConfig) -> dict[str, int]:
    """Count the rows of each split that comes out of train, as scikit-learn does.

    A share of train's rows is rounded up for test and validation, down for train; train takes the rest unless
    its size is given.
    """
    total = len(frames["train"])
    sizes: dict[str, int] = {}
    for split in ("test", "validation"):
        if split not in frames:
            size = getattr(config, f"{split}_size")
            sizes[split] = int(size) if size >= 1 else math.ceil(size * total)
    rest = total - sum(sizes.values())
    wanted = config.train_size
    sizes["train"] = rest if wanted is None else int(wanted if wanted >= 1 else wanted * total)
    if sizes["train"] > rest or rest < 1:
        asked = " + ".join(f"{size} for {split}" for split, size in sizes.items() if size > 0)
        raise DataError(f"data {config.name}: {total} rows are too few for {asked}; make data.*_size smaller")
    return sizes


def _require_enough(
    frame: pd.DataFrame, sizes: dict[str, int], labels: tuple[str, ...], config: DataConfig
) -> None:
    """Raise a DataError unless each split can hold a row of every label, over which F1 is averaged."""
    if len(labels) * len(sizes) > len(frame):
        are_numbers = all(re.fullmatch(r"[+-]?\d*\.?\d+", label) for label in labels)
        kind = (
            "holds numbers of a scale, which a classifier does not predict"
            if are_numbers
            else "may hold texts"
        )
        raise DataError(
            f"data.label_column={config.label_column}: {len(frame)} rows have {len(labels)} labels, and "
            f"{', '.join(sizes)} need a row of each; the column {kind}: choose another, or fold labels "
            "with data.label_map"
        )
    for split, size in sizes.items():
        if size < len(labels):
            raise DataError(
                f"data.{split}_size: {size} rows for {split} cannot hold one of each of the {len(labels)} "
                "labels; ask for more or give more rows"
            )
    counts = np.bincount(frame["label"], minlength=len(labels))
    scarce = [
        f"{label!r} ({count} rows)" for label, count in zip(labels, counts, strict=True) if count < len(sizes)
    ]
    if scarce:
        raise DataError(
            f"too few rows of {shorten(scarce)}: {', '.join(sizes)} need one each; "
            "add rows or fold the label with data.label_map"
        )


def allot(counts: npt.NDArray[np.int64], size: int, *, spare: int, least: int = 1) -> npt.NDArray[np.int64]:
    """Return how many rows of each stratum to draw: in proportion, at least ``least``; ``spare`` are left.

    Args:
        counts: rows there are. # (strata,)
    """
    exact = counts * size / counts.sum()
    allotted: npt.NDArray[np.int64] = np.clip(np.floor(exact).astype(np.int64), least, counts - spare)
    while gap := size - allotted.sum():
        step = 1 if gap > 0 else -1
        allowed = (allotted + step >= least) & (allotted + step <= counts - spare)
        allotted[np.argmax(np.where(allowed, step * (exact - allotted), -np.inf))] += step
    return allotted


def shorten(faults: list[str]) -> str:
    """Join the first few of a list of faults, and count the rest."""
    more = len(faults) - _SHOWN
    return ", ".join(faults[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
