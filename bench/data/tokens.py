"""Texts as token ids, made once and kept on disk, and the batches a model is trained and evaluated on."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from bench.config.schema import LONG_TEXTS
from bench.data import windows
from bench.data.dataset import Dataset
from bench.data.prompt import Prompt, encode_texts, find_specials
from bench.data.sources import Text, list_texts
from bench.data.tokenised import Integers, TokenisedSplit, read_cache, write_cache
from bench.errors import ConfigError, DataError

CACHE_VERSION = 1  # raise it when the files' layout changes
FILLER = -100  # the label of a row that only fills a batch up
TASK = "task"  # in a batch: the number of each row's, where there are several
MEGABATCH = 50  # micro-batches sorted together by length: long enough to save padding, short enough to mix

# input_ids, attention_mask, token_type_ids: (rows, longest); labels, task: (rows,)
Batch = dict[str, torch.Tensor]


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


def tokenise(
    dataset: Dataset,
    tokenizer: Tokenizer,
    *,
    max_length: int,
    cache_dir: str | Path,
    prompt: Prompt | None = None,
    types: bool = False,
    long_texts: str = LONG_TEXTS[0],
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
    texts, *more = _name_texts(dataset)
    facts = [CACHE_VERSION, texts, identify_tokenizer(tokenizer), max_length, *more]
    if prompt is not None:
        facts += [prompt.before, prompt.after, prompt.room, *([prompt.between] if prompt.between else [])]
        if prompt.room >= max_length:
            raise ConfigError(
                f"train.max_length={max_length}: the template and the longest label's words take "
                f"{prompt.room} tokens, so none is left for the text; raise it"
            )
    facts += ["types"] * types + [long_texts] * (long_texts != LONG_TEXTS[0])
    path = (
        Path(cache_dir) / "tokens" / f"{hashlib.sha256(json.dumps(facts).encode()).hexdigest()}.safetensors"
    )
    if (cached := read_cache(path, dataset)) is not None:
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
            long_texts=long_texts,
        )
        for split, frame in dataset.every_split.items()
    }
    if dataset.tasks:
        splits = {name: one.of_tasks(dataset.splits[name]["task"].to_numpy()) for name, one in splits.items()}
    write_cache(path, splits)
    return splits


def _name_texts(dataset: Dataset) -> list[str]:
    """Name what decides the texts of a data set's splits: its content, and which part of it they are."""
    facts = [dataset.fingerprint]
    if dataset.fold is not None:
        facts += [f"fold {dataset.fold}"]
    if dataset.draw is not None:
        facts += [f"draw {dataset.draw}"]
    if dataset.part is not None:
        facts += [dataset.part]
    if "unlabelled" in dataset.asked:
        facts += [f"unlabelled {dataset.unlabelled_fingerprint}"]
    return facts


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
    long_texts: str = LONG_TEXTS[0],
) -> TokenisedSplit:
    """Tokenise each text twice, whole and cut, as a cut text does not say how long it was."""
    if long_texts != LONG_TEXTS[0]:
        return _tokenise_long(
            texts, labels, tokenizer, max_length=max_length, prompt=prompt, split=split, way=long_texts
        )
    around, kinds = 0, list[list[int]]()
    if prompt is None:
        sides = _list_sides(texts, tokenizer)
        whole: Sequence[list[int]] = tokenizer(*sides, truncation=False, verbose=False)["input_ids"]
        asked: dict[str, Any] = {"return_token_type_ids": True} if types else {}
        encoded = tokenizer(*sides, truncation=True, max_length=max_length, verbose=False, **asked)
        cut: Sequence[list[int]] = encoded["input_ids"]
        kinds = encoded["token_type_ids"] if types else kinds
    else:
        around = len(prompt.before) + len(prompt.after)
        whole = encode_texts(tokenizer, texts, None, prompt.between)
        cut = encode_texts(tokenizer, texts, max_length - prompt.room, prompt.between)
    _require_tokens(cut, texts, split)
    rows = cut if prompt is None else [(*prompt.before, *ids, *prompt.after) for ids in cut]
    return TokenisedSplit(
        *_join_rows(rows),
        labels=labels.astype(np.int64),
        full_lengths=np.array([len(ids) for ids in whole], dtype=np.int64) + around,
        types=np.fromiter((kind for row in kinds for kind in row), dtype=np.int8),
    )


def _tokenise_long(
    texts: Sequence[Text],
    labels: Integers,
    tokenizer: Tokenizer,
    *,
    max_length: int,
    prompt: Prompt | None,
    split: str,
    way: str,
) -> TokenisedSplit:
    """Tokenise each text whole, and put the same tokens around each part of it that is read."""
    if prompt is None:
        before, after = find_specials(tokenizer, str(texts[0]))
        room = max_length - len(before) - len(after)
    else:
        before, after, room = [*prompt.before], [*prompt.after], max_length - prompt.room
    whole = encode_texts(tokenizer, texts, None, None)
    _require_tokens(whole, texts, split)
    parts = [windows.cut(ids, room, way) for ids in whole]
    counts = np.array([len(some) for some in parts])  # (texts,)
    lengths = np.array([len(ids) for ids in whole], dtype=np.int64) + len(before) + len(after)
    owners = np.repeat(np.arange(len(texts)), counts)
    return TokenisedSplit(
        *_join_rows([(*before, *part, *after) for some in parts for part in some]),
        labels=np.repeat(labels.astype(np.int64), counts),
        full_lengths=np.repeat(lengths, counts),
        owners=owners if len(owners) > len(texts) else owners[:0],
    )


def _require_tokens(rows: Sequence[Sequence[int]], texts: Sequence[Text], split: str) -> None:
    """Raise a DataError that names the first text without any token."""
    if empty := [row for row, ids in enumerate(rows) if not ids]:
        row = empty[0]
        raise DataError(
            f"{split}, id {row}: the tokenizer finds no token in {str(texts[row])[:40]!r}; remove it"
        )


def _join_rows(rows: Sequence[Sequence[int]]) -> tuple[Integers, Integers]:
    """Return the rows one after the other, and where each begins."""
    lengths = np.array([len(ids) for ids in rows], dtype=np.int64)  # (rows,)
    ids = (token for row in rows for token in row)
    return np.fromiter(ids, dtype=np.int32, count=int(lengths.sum())), np.concatenate(
        [[0], np.cumsum(lengths)]
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
        **({TASK: split.tasks[rows]} if len(split.tasks) else {}),
    }
    return {name: torch.from_numpy(array) for name, array in {**batch, "labels": labels}.items()}
