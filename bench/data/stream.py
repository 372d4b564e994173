"""A stream: texts that come in pieces, each split by itself.

A text that an earlier piece has is left out of a later one, so that no test text was ever trained on.
"""

import logging
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from bench.config.identity import is_stream
from bench.config.schema import DataConfig, MethodConfig
from bench.data import sources
from bench.data.sources import SPLITS, Frames
from bench.data.splits import cut_splits, draw_rows, shorten
from bench.errors import ConfigError, DataError
from bench.redaction import show

_logger = logging.getLogger(__name__)


def deal_pieces(frames: Frames, config: DataConfig) -> Frames:
    """Say in a column ``piece`` of which piece each row is, the oldest first, if there is a stream.

    Raises:
        DataError: a piece has no text that an earlier one has not.
        ConfigError: data.late_labels names a label that there is not.
    """
    if not is_stream(config):
        return frames
    rows = frames["train"]
    if config.date_column is not None:
        rows = rows.assign(piece=_cut_dates(rows["date"], config)).drop(columns="date")
    elif config.pieces is not None:
        rows = rows.assign(piece=_draw_pieces(rows["label"], config))
    first = rows["piece"].groupby(sources.join_texts(rows)).transform("min")
    if repeated := int((rows["piece"] != first).sum()):
        _logger.warning(
            "data %s: %d texts are in an earlier piece of the stream too and are left out of the later one",
            show(config.name),
            repeated,
        )
    kept = rows[rows["piece"] == first].sort_values("piece", kind="stable").reset_index(drop=True)
    count = config.pieces if config.stream is None else len(config.stream)
    if empty := sorted(set(range(count or 0)) - set(kept["piece"])):
        raise DataError(
            f"data {config.name}: piece {empty[0] + 1} of {count} has no text that an earlier one has not; "
            "make fewer pieces, or leave the file out"
        )
    return {"train": kept}


def _cut_dates(dates: pd.Series, config: DataConfig) -> npt.NDArray[np.int64]:
    """Return each row's piece: as many rows in each as whole dates allow. # (rows,)"""
    ordered = np.sort(dates.to_numpy())
    place = np.searchsorted(ordered, dates.to_numpy())  # of the date's first row
    return np.asarray(place * (config.pieces or 1) // len(dates), dtype=np.int64)


def _draw_pieces(labels: pd.Series, config: DataConfig) -> npt.NDArray[np.int64]:
    """Draw each row's piece by split_seed, the last one for late labels. # (rows,)"""
    late, count = config.late_labels or [], config.pieces or 1
    if unknown := sorted(set(late) - set(labels)):
        raise ConfigError(f"data.late_labels: there is no label {shorten([*map(repr, unknown)])}")
    pieces = np.full(len(labels), count - 1)
    others = np.flatnonzero(~labels.isin(late))
    shuffled = np.random.RandomState(config.split_seed).permutation(others)
    pieces[shuffled] = np.arange(len(others)) * count // max(1, len(others))
    return pieces


def cut_pieces(frames: Frames, config: DataConfig, labels: tuple[str, ...]) -> Frames:
    """Cut each piece into splits by itself, over the labels that it has; return them joined, oldest first.

    Raises:
        DataError: a piece has too few rows of a label, or the first has one label alone.
    """
    parts: dict[str, list[pd.DataFrame]] = {split: [] for split in SPLITS}
    for piece in range(frames["train"]["piece"].max() + 1):
        rows = frames["train"][frames["train"]["piece"] == piece]
        present = np.unique(rows["label"])  # the numbers of its labels
        if piece == 0 and len(present) < 2:
            raise DataError(
                f"the first piece of the stream has the one label {labels[present[0]]!r}; a classifier needs "
                "at least two: begin with a larger piece"
            )
        own = np.searchsorted(present, rows["label"])
        try:
            cut = cut_splits(
                {"train": rows.assign(label=own, stratum=own)},
                config,
                tuple(labels[number] for number in present),
            )
        except DataError as error:
            raise DataError(f"piece {piece + 1} of the stream: {error}") from None
        for split, frame in cut.items():
            parts[split].append(frame.assign(label=present[frame["label"].to_numpy()]))
    return {split: pd.concat(frames, ignore_index=True) for split, frames in parts.items()}


def count_trained(rows: Sequence[int], method: MethodConfig) -> list[int]:
    """Count the texts that each training sees, about, given the train rows of each piece."""
    old = [sum(rows[:place]) for place in range(len(rows))]
    share = 1.0 if method.update is None else method.replay or 0.0
    return [new + round(share * before) for new, before in zip(rows, old, strict=True)]


def draw_again(old: pd.DataFrame, share: float | None, seed: list[int]) -> pd.DataFrame:
    """Draw the old texts that are shown again, stratified by label, at least one of each."""
    if share is None:
        return old[:0]
    least = old["label"].nunique()
    stratum = np.unique(old["label"], return_inverse=True)[1]
    drawn = draw_rows(
        old.assign(stratum=stratum),
        max(least, round(share * len(old))),
        spare=0,
        random=np.random.RandomState(seed),
    )
    return drawn.drop(columns="stratum")
