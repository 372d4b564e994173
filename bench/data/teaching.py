"""Texts that a teacher is asked about: held-out parts of train, and texts without labels; what it said."""

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from bench.config.schema import DataConfig
from bench.data import sources
from bench.data.reading import tables
from bench.data.reading.columns import list_read, to_texts
from bench.data.sources import Frames
from bench.data.splits import deal
from bench.errors import DataError
from bench.redaction import show

HELD_OUT, UNLABELLED = "held_out", "unlabelled"  # splits of predictions.csv, beside validation and test
LEFT_OUT = ("test", "validation", "train", "duplicates")  # in this order: a text is counted once
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Unlabelled:
    """Texts without labels, none of which is in a split of the labelled ones or occurs twice."""

    # id (row number in the file), text, pair (if texts have a second one), label (means nothing)
    frame: pd.DataFrame
    fingerprint: str  # of these texts
    counts: Mapping[str, int]  # texts: of the file, used; those of LEFT_OUT


@dataclass(frozen=True)
class Teaching:
    """A teacher's probabilities of each train text, then of each unlabelled one, and where they come from."""

    probabilities: npt.NDArray[np.float64]  # NaN of a text that it was not asked about. # (texts, labels)
    described: Mapping[str, Any]  # for the record


def read_unlabelled(config: DataConfig, splits: Frames) -> Unlabelled:
    """Read data.unlabelled, leave out what another split has too, and say how many texts that were.

    Texts are the same here if they differ in case and blanks alone: a student that had learned what a teacher
    says of a test text would be scored on texts that it knows.

    Raises:
        MissingError: the file cannot be read.
        DataError: it holds no texts, or none that another split has not.
    """
    name = str(config.unlabelled)
    where = f"data.unlabelled={name}"
    content = sources.read_bytes(UNLABELLED, name)
    table = tables.read(content, name, where=where, encoding=config.encoding, wanted=list_read(config))
    for note in table.notes:
        _logger.warning("%s: %s", show(where), note)
    rows = to_texts(table.frame, where=name, config=config, labelled=False)
    looks = _fold(rows)
    reasons = pd.Series("used", index=rows.index)
    reasons[looks.duplicated()] = "duplicates"
    for split in reversed(LEFT_OUT[:-1]):
        reasons[looks.isin(set(_fold(splits[split])))] = split
    counted = Counter(reasons)
    counts = {"given": len(rows), **{reason: counted[reason] for reason in ("used", *LEFT_OUT)}}
    left_out = ", ".join(f"{counts[one]} {'' if one == 'duplicates' else 'in '}{one}" for one in LEFT_OUT)
    _logger.warning(
        "%s: %d of %d texts are used; left out: %s", show(where), counts["used"], len(rows), left_out
    )
    if not counts["used"]:
        raise DataError(f"{where}: no text is left to learn from; left out: {left_out}; give other texts")
    used = rows[reasons == "used"]
    frame = used.assign(id=used.index, label=0).reset_index(drop=True)
    columns = [column for column in ("id", "text", "pair", "label") if column in frame]
    texts = sources.join_texts(frame)
    return Unlabelled(frame[columns], sources.hash_bytes(text.encode() for text in texts), counts)


def _fold(frame: pd.DataFrame) -> pd.Series:
    """Return what is compared of each text. # (rows,)"""
    return sources.join_texts(frame).str.split().str.join(" ").str.casefold()


def hold_out(train: pd.DataFrame, config: DataConfig) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the train rows that stay, and the part data.held_out of data.cross_fit, which is predicted.

    Validation and test stay as they are, so that no text of theirs teaches anybody.

    Raises:
        DataError: as require_parts.
    """
    count = config.cross_fit or 1
    require_parts(train, count)
    parts = deal(train, count, np.random.RandomState(config.split_seed))
    is_held = parts == config.held_out
    return train[~is_held].reset_index(drop=True), train[is_held].reset_index(drop=True)


def require_parts(train: pd.DataFrame, count: int) -> None:
    """Require of each label two different texts, so that whatever part is held out leaves one of it.

    Raises:
        DataError: a label has one text alone, or there are fewer texts than parts.
    """
    texts = train.assign(text=sources.join_texts(train)).groupby("label")["text"].nunique()
    if texts.min() < 2:
        raise DataError(
            f"data.cross_fit={count}: a label has one train text alone, so a teacher that has not seen it "
            "cannot know the label; add rows or raise data.train_size"
        )
    if texts.sum() < count:
        raise DataError(f"data.cross_fit={count}: there are {texts.sum()} train texts; make fewer parts")
