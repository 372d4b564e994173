"""Texts as token ids, made once and kept on disk, and the batches a model is trained and evaluated on."""

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy
import torch

from bench.data.dataset import Dataset
from bench.data.prompt import Prompt, encode_texts
from bench.data.sources import Text, list_texts
from bench.errors import ConfigError, DataError
from bench.files import replace_file

CACHE_VERSION = 1  # raise it when the files' layout changes
FILLER = -100  # the label of a row that only fills a batch up
MEGABATCH = 50  # micro-batches sorted together by length: long enough to save padding, short enough to mix
_ARRAYS = ("ids", "offsets", "labels", "full_lengths", "types")
_logger = logging.getLogger(__name__)

Batch = dict[str, torch.Tensor]  # input_ids, attention_mask, token_type_ids: (rows, longest); labels: (rows,)
Integers = npt.NDArray[Any]


class Tokenizer(Protocol):
    """What is used of a transformers tokenizer."""

    truncation_side: str
    is_fast: bool

    def __call__(self, text: list[str], *second: list[str], **options: Any) -> Any:
        """Return ``input_ids`` of each text, or of each pair."""


@dataclass(frozen=True)
class Padding:
    """How the shorter rows of a batch are filled up."""

    token_id: int
    side: str  # left | right

    @classmethod
    def of(cls, tokenizer: Any) -> "Padding":
        """Return the tokenizer's own padding.

        Raises:
            ConfigError: it has no token to pad with.
        """
        if tokenizer.pad_token_id is None:
            raise ConfigError(
                f"{type(tokenizer).__name__}: the tokenizer has no pad token; "
                "name one as pad_token in its tokenizer_config.json"
            )
        return cls(tokenizer.pad_token_id, tokenizer.padding_side)


@dataclass(frozen=True)
class TokenisedSplit:
    """The token ids of a split's texts, in the order of its rows."""

    ids: Integers  # of all rows, one after the other: int32
    offsets: Integers  # row i is ids[offsets[i]:offsets[i + 1]]: (rows + 1,)
    labels: Integers  # (rows,)
    full_lengths: Integers  # tokens before texts were cut: (rows,)
    # 0 for tokens of a first text, 1 for those of its second; empty where the model does not ask
    types: Integers = field(default_factory=lambda: np.zeros(0, dtype=np.int8))

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
    def truncated_share(self) -> float:
        """The share of texts that were longer than the limit and were cut."""
        return float((self.full_lengths > self.lengths).mean())


def tokenise(
    dataset: Dataset,
    tokenizer: Tokenizer,
    *,
    max_length: int,
    cache_dir: str | Path,
    prompt: Prompt | None = None,
    types: bool = False,
) -> dict[str, TokenisedSplit]:
    """Return the splits as token ids, from disk where the same texts met the same tokenizer before.

    With a prompt each row is that, up to where the answer begins; together they keep to the limit. With
    ``types`` each token of a pair says which of both it is of.

    A damaged file is made anew, and a folder that cannot be written is done without, each with a warning.
    Any number of processes may do this at once.

    Raises:
        DataError: a text has no tokens.
        ConfigError: the prompt and its answers leave no room for the text.
    """
    facts = [CACHE_VERSION, dataset.fingerprint, identify_tokenizer(tokenizer), max_length]
    if dataset.fold is not None:
        facts += [f"fold {dataset.fold}"]
    if dataset.draw is not None:
        facts += [f"draw {dataset.draw}"]
    if prompt is not None:
        facts += [prompt.before, prompt.after, prompt.room, *([prompt.between] if prompt.between else [])]
        if prompt.room >= max_length:
            raise ConfigError(
                f"train.max_length={max_length}: the template and the longest label's words take "
                f"{prompt.room} tokens, so none is left for the text; raise it"
            )
    if types:
        facts += ["types"]
    path = (
        Path(cache_dir) / "tokens" / f"{hashlib.sha256(json.dumps(facts).encode()).hexdigest()}.safetensors"
    )
    if (cached := _read_cache(path, dataset)) is not None:
        return cached
    splits = {
        split: tokenise_texts(
            list_texts(frame),
            frame["label"].to_numpy(),
            tokenizer,
            max_length=max_length,
            prompt=prompt,
            split=split,
            types=types,
        )
        for split, frame in dataset.splits.items()
    }
    _write_cache(path, splits)
    return splits


def identify_tokenizer(tokenizer: Any) -> str:
    """Hash all that decides the ids: a fast tokenizer's file, else class and vocabulary.

    The backend remembers how the last call truncated and padded; that is left out.
    """
    facts: Any
    if tokenizer.is_fast:
        backend = tokenizer.backend_tokenizer
        backend.no_truncation()  # every call sets both anew
        backend.no_padding()
        facts = backend.to_str()
    else:
        kind = type(tokenizer)
        facts = {
            "class": f"{kind.__module__}.{kind.__qualname__}",
            "vocabulary": tokenizer.get_vocab(),
            "special": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        }
        if (pieces := getattr(tokenizer, "sp_model", None)) is not None:  # scores and rules decide the cuts
            facts["sentencepiece"] = hashlib.sha256(pieces.serialized_model_proto()).hexdigest()
    text = json.dumps([facts, tokenizer.truncation_side], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def micro_batches_per_epoch(split: TokenisedSplit, micro_batch_size: int) -> int:
    """Count the micro-batches that show every row once; the last may be smaller."""
    return -(-len(split) // micro_batch_size)


class Stream(NamedTuple):
    """The rows that a training is shown, and what decides their order."""

    split: TokenisedSplit
    seed: int
    balanced: bool = False  # each epoch has equally many rows of each label


def train_batches(
    stream: Stream,
    *,
    micro_batch_size: int,
    micro_batches: int,
    group_by_length: bool,
    padding: Padding,
    skipped: int = 0,
    merged: int = 1,
) -> Iterator[Batch]:
    """Yield so many micro-batches, over as many epochs as they need, each padded to its longest.

    Every epoch shows every row once, in an order of its own that the seed decides; if balanced, as many rows
    but equally many of each label, the rare ones several times. ``group_by_length`` puts
    rows of like length together, which saves padding; the batches still come in random order. The first
    ``skipped`` of them are left out, at no cost, for a training that goes on from a checkpoint; ``merged`` of
    them, one after the other, are yielded as one.
    """
    grid = _Grid(micro_batch_size, micro_batches, group_by_length, skipped, merged)
    for rows in _merge_rows(stream, grid, meets=False):
        yield _pad(stream.split, rows, padding)


def train_batches_apart(
    streams: Sequence[Stream],
    *,
    micro_batch_size: int,
    micro_batches: int,
    group_by_length: bool,
    padding: Padding,
    skipped: int = 0,
    merged: int = 1,
) -> Iterator[Batch]:
    """Yield the micro-batches of several trainings side by side, the rows of one after those of another.

    Each stream has the batches that ``train_batches`` gives it. All are padded to one
    length, and to as many rows by rows whose label is FILLER. ``group_by_length`` lets batches of like length
    meet: a stream's come in a random order that is the same for all, with others or without.
    """
    grid = _Grid(micro_batch_size, micro_batches, group_by_length, skipped, merged)
    orders = [_merge_rows(stream, grid, meets=True) for stream in streams]
    splits = [stream.split for stream in streams]
    for rows in zip(*orders, strict=True):
        yield _pad_together(splits, rows, padding)


def eval_batches(
    split: TokenisedSplit, *, batch_size: int, padding: Padding
) -> Iterator[tuple[Integers, Batch]]:
    """Yield every row once, the longest first: row numbers, and their batch."""
    order = np.argsort(-split.lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        yield rows, _pad(split, rows, padding)


def eval_batches_apart(
    splits: Sequence[TokenisedSplit], *, batch_size: int, padding: Padding
) -> Iterator[tuple[Integers, Batch]]:
    """Yield every row of several splits once, those of one after those of another, as ``eval_batches``.

    All have as many rows in a batch: one that has fewer left is filled up, with FILLER for a row number.

    Yields:
        row numbers, and their batch. # (splits, rows), (splits x rows, length)
    """
    orders = [np.argsort(-split.lengths, kind="stable") for split in splits]
    for start in range(0, max(map(len, orders)), batch_size):
        parts = [order[start : start + batch_size] for order in orders]
        count = max(map(len, parts))
        rows = np.stack([np.pad(own, (0, count - len(own)), constant_values=FILLER) for own in parts])
        taken = [np.where(own == FILLER, order[-1], own) for own, order in zip(rows, orders, strict=True)]
        yield rows, _pad_together(splits, taken, padding)


def mean_padded_tokens(stream: Stream, micro_batch_size: int, *, group_by_length: bool) -> float:
    """Return the tokens of an average micro-batch of the first epoch, padding included."""
    size = micro_batch_size if group_by_length else None
    order = _order_rows(stream, np.random.default_rng([stream.seed, 0]), size)
    return _count_padded(stream.split.lengths[order], micro_batch_size) / micro_batches_per_epoch(
        stream.split, micro_batch_size
    )


def count_evaluated_tokens(split: TokenisedSplit, batch_size: int) -> int:
    """Count the tokens of all batches that evaluate the split, padding included."""
    return _count_padded(-np.sort(-split.lengths), batch_size)


def _count_padded(lengths: Integers, batch_size: int) -> int:
    """Count the tokens of rows in this order, each as long as its batch's longest."""
    groups = (lengths[start : start + batch_size] for start in range(0, len(lengths), batch_size))
    return sum(len(group) * int(group.max()) for group in groups)


def tokenise_texts(
    texts: Sequence[Text],
    labels: Integers,
    tokenizer: Tokenizer,
    *,
    max_length: int,
    prompt: Prompt | None,
    split: str,
    types: bool = False,
) -> TokenisedSplit:
    """Tokenise each text twice, whole and cut, as a cut text does not say how long it was."""
    around, kinds = 0, list[list[int]]()
    if prompt is None:
        sides = _list_sides(texts, tokenizer)
        whole: Sequence[list[int]] = tokenizer(*sides, truncation=False, verbose=False)["input_ids"]
        asked = {"return_token_type_ids": True} if types else {}
        encoded = tokenizer(*sides, truncation=True, max_length=max_length, verbose=False, **asked)
        cut: Sequence[list[int]] = encoded["input_ids"]
        kinds = encoded["token_type_ids"] if types else kinds
    else:
        around = len(prompt.before) + len(prompt.after)
        whole = encode_texts(tokenizer, texts, None, prompt.between)
        cut = encode_texts(tokenizer, texts, max_length - prompt.room, prompt.between)
    if empty := [row for row, ids in enumerate(cut) if not ids]:
        row = empty[0]
        raise DataError(
            f"{split}, id {row}: the tokenizer finds no token in {str(texts[row])[:40]!r}; remove it"
        )
    rows = cut if prompt is None else [(*prompt.before, *ids, *prompt.after) for ids in cut]
    lengths = np.array([len(ids) for ids in rows], dtype=np.int64)  # (rows,)
    count = int(lengths.sum())
    return TokenisedSplit(
        ids=np.fromiter((token for ids in rows for token in ids), dtype=np.int32, count=count),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        labels=labels.astype(np.int64),
        full_lengths=np.array([len(ids) for ids in whole], dtype=np.int64) + around,
        types=np.fromiter((kind for row in kinds for kind in row), dtype=np.int8),
    )


def _list_sides(texts: Sequence[Text], tokenizer: Tokenizer) -> list[list[str]]:
    """List the texts, and apart from them their second ones if the tokenizer has a token to part them.

    Else, as decoders' have none, a second one stands on the line below the first.
    """
    pairs = [text for text in texts if isinstance(text, tuple)]
    if not pairs:
        return [[str(text) for text in texts]]
    if getattr(tokenizer, "sep_token", None) is None:
        return [["\n".join(pair) for pair in pairs]]
    return [[first for first, _ in pairs], [second for _, second in pairs]]


class _Grid(NamedTuple):
    """The micro-batches of a training, as train_batches has them."""

    micro_batch_size: int
    micro_batches: int
    group_by_length: bool
    skipped: int
    merged: int


def _merge_rows(stream: Stream, grid: _Grid, *, meets: bool) -> Iterator[Integers]:
    """Yield the row numbers of each batch, which is so many micro-batches in one."""
    rows = _list_rows(stream, grid, meets=meets)
    return (np.concatenate(group) for group in zip(*[rows] * grid.merged, strict=True))


def _list_rows(stream: Stream, grid: _Grid, *, meets: bool) -> Iterator[Integers]:
    """Yield the row numbers of each micro-batch; streams that meet share an order of lengths."""
    split, size = stream.split, grid.micro_batch_size
    per_epoch, given = micro_batches_per_epoch(split, size), grid.skipped
    while given < grid.micro_batches:
        epoch, place = divmod(given, per_epoch)
        random = np.random.default_rng([stream.seed, epoch])
        order = _order_rows(stream, random, size if grid.group_by_length else None)
        groups = [order[start : start + size] for start in range(0, len(order), size)]
        if grid.group_by_length and meets:
            groups = _sort_like(groups, split.lengths, start=epoch * per_epoch)
        elif grid.group_by_length:
            groups = [groups[place] for place in random.permutation(len(groups))]
        yield from groups[place : place + grid.micro_batches - given]
        given += per_epoch - place


def _sort_like(groups: Sequence[Integers], lengths: Integers, *, start: int) -> list[Integers]:
    """Order an epoch's micro-batches by length as random numbers are that stand for the places of a training.

    Whatever the size of an epoch, micro-batches at one place are about as long, and the order is random.
    """
    drawn = np.random.default_rng(0).random(start + len(groups))[start:]
    by_length = np.argsort([lengths[rows].max() for rows in groups], kind="stable")
    ranks = np.argsort(np.argsort(drawn))
    return [groups[by_length[rank]] for rank in ranks]


def _order_rows(stream: Stream, random: np.random.Generator, micro_batch_size: int | None) -> Integers:
    """Shuffle an epoch's row numbers; with a size, sort each run of MEGABATCH micro-batches by length."""
    lengths = stream.split.lengths
    drawn = _draw_equally(stream.split.labels, random) if stream.balanced else len(lengths)
    order: Integers = random.permutation(drawn)
    if micro_batch_size is None:
        return order
    step = MEGABATCH * micro_batch_size
    runs = [order[start : start + step] for start in range(0, len(order), step)]
    return np.concatenate([run[np.argsort(-lengths[run], kind="stable")] for run in runs])


def _draw_equally(labels: Integers, random: np.random.Generator) -> Integers:
    """Draw as many rows as there are, of each label equally many and each of its rows about as often."""
    present = np.unique(labels)
    counts = np.full(len(present), len(labels) // len(present))
    counts[random.permutation(len(present))[: len(labels) % len(present)]] += 1
    shuffled = [random.permutation(np.flatnonzero(labels == label)) for label in present]
    return np.concatenate([np.resize(rows, count) for rows, count in zip(shuffled, counts, strict=True)])


def _pad_together(splits: Sequence[TokenisedSplit], rows: Sequence[Integers], padding: Padding) -> Batch:
    """Make a batch of rows of each split, those of one after those of another, of one length and number."""
    longest = max(int(split.lengths[own].max()) for split, own in zip(splits, rows, strict=True))
    parts = [
        _pad(split, own, padding, longest=longest, count=max(map(len, rows)))
        for split, own in zip(splits, rows, strict=True)
    ]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _pad(
    split: TokenisedSplit, rows: Integers, padding: Padding, *, longest: int = 0, count: int = 0
) -> Batch:
    """Make a batch of the rows, at least ``longest`` tokens and ``count`` rows large."""
    given, longest = len(rows), max(longest, int(split.lengths[rows].max()))
    rows = np.concatenate([rows, np.repeat(rows[:1], max(0, count - given))])
    labels = split.labels[rows]
    labels[given:] = FILLER
    ids = np.full((len(rows), longest), padding.token_id, dtype=np.int64)
    mask = np.zeros_like(ids)
    types = np.zeros_like(ids)
    for place, index in enumerate(rows):
        tokens = split.row(index)
        part = slice(longest - len(tokens), None) if padding.side == "left" else slice(len(tokens))
        ids[place, part] = tokens
        mask[place, part] = 1
        if len(split.types):
            types[place, part] = split.types[split.offsets[index] : split.offsets[index + 1]]
    batch = {
        "input_ids": ids,
        "attention_mask": mask,
        **({"token_type_ids": types} if len(split.types) else {}),
    }
    return {name: torch.from_numpy(array) for name, array in {**batch, "labels": labels}.items()}


def _read_cache(path: Path, dataset: Dataset) -> dict[str, TokenisedSplit] | None:
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
            for split in dataset.splits
        }
        for split, frame in dataset.splits.items():
            if not np.array_equal(splits[split].labels, frame["label"]):
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


def _write_cache(path: Path, splits: dict[str, TokenisedSplit]) -> None:
    """Keep the token ids for the next run; warn where the folder cannot be written."""
    arrays = {
        f"{split}.{name}": getattr(data, name)
        for split, data in splits.items()
        for name in _ARRAYS
        if name != "types" or len(data.types)
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
