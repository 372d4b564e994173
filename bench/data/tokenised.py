"""The token ids of a split's texts, and the file in which those of a data set are kept for the next run."""

import hashlib
import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from bench.data.dataset import Dataset
from bench.data.windows import pool
from bench.files import replace_file

_ARRAYS = ("ids", "offsets", "labels", "full_lengths", "types", "owners", "tasks")
_logger = logging.getLogger(__name__)

Integers = npt.NDArray[Any]


@dataclass(frozen=True)
class TokenisedSplit:
    """The token ids of a split's texts, in the order of its rows."""

    ids: Integers  # of all rows, one after the other: int32
    offsets: Integers  # row i is ids[offsets[i]:offsets[i + 1]]: (rows + 1,)
    labels: Integers  # (rows,)
    full_lengths: Integers  # tokens before texts were cut: (rows,)
    # 0 for tokens of a first text, 1 for those of its second; empty where the model does not ask
    types: Integers = field(default_factory=lambda: np.zeros(0, dtype=np.int8))
    # the text that each row is a window of; empty where each row is a text
    owners: Integers = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    tasks: Integers = field(default_factory=lambda: np.zeros(0, dtype=np.int64))  # of each row; empty: one

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.labels)

    def row(self, index: int) -> Integers:
        """Return the token ids of one row, with the tokenizer's special tokens. # (length,)"""
        return self.ids[self.offsets[index] : self.offsets[index + 1]]

    @property
    def lengths(self) -> Integers:
        """Tokens of each row. # (rows,)"""
        return np.diff(self.offsets)

    @property
    def text_labels(self) -> Integers:
        """The label of each text. # (texts,)"""
        return self.labels[np.unique(self.owners, return_index=True)[1]] if len(self.owners) else self.labels

    def of_tasks(self, tasks: Integers) -> "TokenisedSplit":
        """Return the same split, which says of each row the task of its text. # tasks: (texts,)"""
        return replace(self, tasks=tasks[self.owners] if len(self.owners) else tasks)

    @property
    def long_share(self) -> float:
        """The share of texts that were longer than the limit."""
        is_long = (self.full_lengths > self.lengths).astype(np.float64)
        return float(pool(is_long, self.owners).mean())

    @property
    def truncated_share(self) -> float:
        """The share of texts of which something is not read."""
        return 0.0 if len(self.owners) else self.long_share


def number_texts(split: TokenisedSplit, *, first: int = 0) -> TokenisedSplit:
    """Return the rows with their text's place, from ``first`` on, where their labels were."""
    places = split.owners if len(split.owners) else np.arange(len(split))
    return replace(split, labels=places + first)


def join(first: TokenisedSplit, second: TokenisedSplit) -> TokenisedSplit:
    """Return the rows of both, one after the other, with their text's place where their labels were."""
    numbered = number_texts(first), number_texts(second, first=len(first.text_labels))
    names = ("ids", "labels", "full_lengths", "types")
    joined = {name: np.concatenate([getattr(one, name) for one in numbered]) for name in names}
    has_windows = len(first.owners) or len(second.owners)
    return TokenisedSplit(
        offsets=np.concatenate([first.offsets, second.offsets[1:] + first.offsets[-1]]),
        owners=joined["labels"] if has_windows else first.owners,
        **joined,
    )


def read_cache(path: Path, dataset: Dataset) -> dict[str, TokenisedSplit] | None:
    """Return the splits in the file, None where it is not whole or not of this data set."""
    try:
        with path.open("rb"):
            pass
    except OSError:  # what keeps it from being read keeps it from being written, which says so
        return None
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            digest = (file.metadata() or {}).get("sha256")
        if digest != _hash_arrays(arrays):
            raise ValueError("its checksum does not match")
        splits = {
            split: TokenisedSplit(
                **{name: arrays[key] for name in _ARRAYS if (key := f"{split}.{name}") in arrays}
            )
            for split in dataset.every_split
        }
        for split, frame in dataset.every_split.items():
            if not np.array_equal(splits[split].text_labels, frame["label"]):
                raise ValueError(f"its labels of {split} are of other data")
    except (
        safetensors.SafetensorError,
        OSError,
        ValueError,
        TypeError,
    ) as error:  # TypeError: an array lacks
        _logger.warning("%s: damaged (%s); the texts are tokenised again", path, error)
        return None
    return splits


def write_cache(path: Path, splits: dict[str, TokenisedSplit]) -> None:
    """Keep the token ids for the next run; warn where the folder cannot be written."""
    arrays = {
        f"{split}.{name}": getattr(data, name)
        for split, data in splits.items()
        for name in _ARRAYS
        if name not in ("types", "owners", "tasks") or len(getattr(data, name))
    }
    content = safetensors.numpy.save(arrays, metadata={"sha256": _hash_arrays(arrays)})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, content, durable=False)
    except OSError as error:
        _logger.warning(
            "cache_dir %s: cannot be written (%s); texts are tokenised anew in each run",
            path.parent.parent,
            error.strerror,
        )


def _hash_arrays(arrays: dict[str, Integers]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape} ".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()
