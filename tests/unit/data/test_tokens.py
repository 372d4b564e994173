"""Every row once an epoch, padded where it should be; token caches that survive damage and company."""

import dataclasses
import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench.data import tokens
from bench.data.dataset import Dataset
from bench.data.tokens import Padding, Stream, TokenisedSplit
from bench.errors import ConfigError, DataError

START, END = 1, 2


class CharacterTokenizer:
    """Each character's number between a start and an end; counts its calls."""

    is_fast = False
    truncation_side = "right"
    special_tokens_map = {"cls_token": "[CLS]"}  # noqa: RUF012 (as in transformers)

    def __init__(self, *, vocabulary: int = 9, specials: bool = True) -> None:
        self.vocabulary = vocabulary
        self.ends = 1 if specials else 0
        self.calls = 0

    def get_vocab(self) -> dict[str, int]:
        return {str(number): number for number in range(self.vocabulary)}

    def __call__(self, text: list[str], *, truncation: bool, max_length: int = 10**9, **_: Any) -> Any:
        self.calls += 1
        keep = max_length - 2 * self.ends if truncation else 10**9
        rows = [[ord(character) for character in one.strip("\x00")][:keep] for one in text]
        return {"input_ids": [[START] * self.ends + row + [END] * self.ends for row in rows]}


def make_dataset(fingerprint: str = "f", labels: tuple[int, int, int] = (0, 1, 1)) -> Dataset:
    frame = pd.DataFrame({"id": range(3), "text": ["abc", "央行", "abcdefgh"], "label": labels})
    return Dataset(dict.fromkeys(("train", "validation", "test"), frame), ("x", "y"), fingerprint, 0)


def make_split(lengths: list[int]) -> TokenisedSplit:
    """Rows whose tokens are the row's number, 100 and up, so that a batch shows which rows it holds."""
    sizes = np.array(lengths)
    return TokenisedSplit(
        ids=np.repeat(np.arange(len(sizes)) + 100, sizes).astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum(sizes)]),
        labels=np.arange(len(sizes)) % 3,
        full_lengths=sizes,
    )


def rows_of(batch: tokens.Batch) -> list[int]:
    return [
        int(ids[mask.bool()][0]) - 100
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]


def take(split: TokenisedSplit, count: int, **changed: Any) -> list[tokens.Batch]:
    settings = {"micro_batch_size": 4, "group_by_length": False, "padding": Padding(0, "right")}
    stream = Stream(split, changed.pop("seed", 0), changed.pop("balanced", False))
    return list(tokens.train_batches(stream, micro_batches=count, **{**settings, **changed}))


def take_apart(streams: list[Stream], count: int, **changed: Any) -> list[list[tokens.Batch]]:
    """The micro-batches of each stream, without the rows that fill them up."""
    settings = {"micro_batch_size": 4, "group_by_length": False, "padding": Padding(0, "right")}
    taken: list[list[tokens.Batch]] = [[] for _ in streams]
    for batch in tokens.train_batches_apart(streams, micro_batches=count, **{**settings, **changed}):
        for stream, rows in enumerate(torch.arange(len(batch["labels"])).chunk(len(streams))):
            kept = rows[batch["labels"][rows] != tokens.FILLER]
            taken[stream].append({name: tensor[kept] for name, tensor in batch.items()})
    return taken


def assert_same(one: dict[str, TokenisedSplit], other: dict[str, TokenisedSplit]) -> None:
    assert set(one) == set(other)
    for split, values in one.items():
        for field in dataclasses.fields(values):
            np.testing.assert_array_equal(getattr(values, field.name), getattr(other[split], field.name))


def test_rows_have_their_tokens_cut_at_the_limit(tmp_path: Path) -> None:
    split = tokens.tokenise(make_dataset(), CharacterTokenizer(), max_length=6, cache_dir=tmp_path)["test"]
    assert [split.row(row).tolist() for row in range(len(split))] == [
        [START, 97, 98, 99, END],
        [START, ord("央"), ord("行"), END],
        [START, 97, 98, 99, 100, END],
    ]
    assert split.lengths.tolist() == [5, 4, 6]
    assert split.labels.tolist() == [0, 1, 1]
    assert split.truncated_share == pytest.approx(1 / 3)


def test_a_text_just_as_long_as_the_limit_is_not_cut(tmp_path: Path) -> None:
    split = tokens.tokenise(make_dataset(), CharacterTokenizer(), max_length=10, cache_dir=tmp_path)["train"]
    assert split.truncated_share == 0


def test_texts_are_tokenised_once(tmp_path: Path) -> None:
    tokenizer = CharacterTokenizer()
    made = tokens.tokenise(make_dataset(), tokenizer, max_length=6, cache_dir=tmp_path)
    calls = tokenizer.calls
    read = tokens.tokenise(make_dataset(), tokenizer, max_length=6, cache_dir=str(tmp_path))
    assert tokenizer.calls == calls
    assert_same(made, read)
    assert [path.suffix for path in tmp_path.rglob("*") if path.is_file()] == [".safetensors"]


@pytest.mark.parametrize(
    ("fingerprint", "vocabulary", "max_length"), [("g", 9, 6), ("f", 10, 6), ("f", 9, 7)]
)
def test_other_data_another_tokenizer_or_limit_is_tokenised_anew(
    fingerprint: str, vocabulary: int, max_length: int, tmp_path: Path
) -> None:
    tokens.tokenise(make_dataset(), CharacterTokenizer(), max_length=6, cache_dir=tmp_path)
    other = CharacterTokenizer(vocabulary=vocabulary)
    tokens.tokenise(make_dataset(fingerprint), other, max_length=max_length, cache_dir=tmp_path)
    assert other.calls > 0


def test_each_draw_of_the_train_texts_has_its_own_cache(tmp_path: Path) -> None:
    """Two draws may have the same labels in the same order."""
    first = make_dataset()
    train = first.splits["train"].assign(text=["cab", "bb", "c"])
    second = dataclasses.replace(first, splits={**first.splits, "train": train})
    made = [
        tokens.tokenise(
            dataclasses.replace(one, draw=draw), CharacterTokenizer(), max_length=6, cache_dir=tmp_path
        )
        for draw, one in enumerate((first, second))
    ]
    assert made[0]["train"].ids.tolist() != made[1]["train"].ids.tolist()


@pytest.mark.parametrize("damage", ["cut short", "one byte", "empty", "other labels", "a folder"])
def test_a_damaged_cache_is_made_anew_with_a_warning(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = tokens.tokenise(make_dataset(), CharacterTokenizer(), max_length=6, cache_dir=tmp_path)
    (path,) = tmp_path.rglob("*.safetensors")
    content = bytearray(path.read_bytes())
    dataset = make_dataset()
    match damage:
        case "cut short":
            path.write_bytes(content[:-9])
        case "one byte":
            content[-9] ^= 1
            path.write_bytes(content)
        case "empty":
            path.write_bytes(b"")
        case "other labels":
            dataset = make_dataset(labels=(1, 0, 1))
        case "a folder":
            path.unlink()
            path.mkdir()
    again = tokens.tokenise(dataset, CharacterTokenizer(), max_length=6, cache_dir=tmp_path)
    if damage == "other labels":
        assert again["train"].labels.tolist() == [1, 0, 1]
    else:
        assert_same(made, again)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    if damage != "a folder":  # that one cannot be replaced
        caplog.clear()
        tokenizer = CharacterTokenizer()
        tokens.tokenise(dataset, tokenizer, max_length=6, cache_dir=tmp_path)
        assert (tokenizer.calls, caplog.records) == (0, [])


def test_a_cache_that_cannot_be_written_is_done_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    made = tokens.tokenise(make_dataset(), CharacterTokenizer(), max_length=6, cache_dir=blocked)
    assert made["test"].row(0).tolist() == [START, 97, 98, 99, END]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert f"cache_dir {blocked}: cannot be written" in caplog.text


def test_a_full_disk_leaves_no_half_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    tokens.tokenise(make_dataset(), CharacterTokenizer(), max_length=6, cache_dir=tmp_path)
    assert "No space left on device" in caplog.text
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def tokenise_often(folder: str) -> None:
    for fingerprint in map(str, range(20)):
        dataset = make_dataset(fingerprint)
        split = tokens.tokenise(dataset, CharacterTokenizer(), max_length=6, cache_dir=folder)["test"]
        assert split.row(1).tolist() == [START, ord("央"), ord("行"), END]


def test_two_processes_may_fill_one_cache(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", __file__, str(tmp_path)]  # runs tokenise_often
    workers = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for worker in workers:
        assert worker.communicate()[1] == ""  # no warning of a damaged file either
        assert worker.returncode == 0
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 20


def test_a_text_without_tokens_is_refused(tmp_path: Path) -> None:
    frame = pd.DataFrame({"id": [0, 1], "text": ["a", "\x00"], "label": [0, 1]})
    dataset = Dataset({"test": frame}, ("x", "y"), "f", 0)
    with pytest.raises(DataError, match=r"test, id 1: the tokenizer finds no token"):
        tokens.tokenise(dataset, CharacterTokenizer(specials=False), max_length=6, cache_dir=tmp_path)


@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=60),
    size=st.integers(1, 9),
    epochs=st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
    grouped=st.booleans(),
    side=st.sampled_from(["left", "right"]),
)
def test_every_epoch_shows_every_row_once_and_pads_only_its_own_side(
    lengths: list[int], size: int, epochs: int, seed: int, grouped: bool, side: str
) -> None:
    split = make_split(lengths)
    count = tokens.micro_batches_per_epoch(split, size)
    batches = take(
        split,
        epochs * count,
        micro_batch_size=size,
        seed=seed,
        group_by_length=grouped,
        padding=Padding(7, side),
    )
    assert len(batches) == epochs * count
    for epoch in range(epochs):
        shown = batches[epoch * count : (epoch + 1) * count]
        assert sorted(row for batch in shown for row in rows_of(batch)) == list(range(len(lengths)))
        assert sorted(len(batch["labels"]) for batch in shown)[1:] == [size] * (count - 1)
    for batch in batches:
        rows = rows_of(batch)
        assert batch["labels"].tolist() == [row % 3 for row in rows]
        assert batch["input_ids"].shape == (len(rows), max(lengths[row] for row in rows))
        for row, ids, mask in zip(rows, batch["input_ids"], batch["attention_mask"], strict=True):
            pad = len(ids) - lengths[row]
            real, padding = [row + 100] * lengths[row], [7] * pad
            assert ids.tolist() == (padding + real if side == "left" else real + padding)
            assert mask.tolist() == (
                [0] * pad + [1] * len(real) if side == "left" else [1] * len(real) + [0] * pad
            )
        assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


@pytest.mark.parametrize("grouped", [False, True])
def test_the_seed_decides_the_order_and_each_epoch_has_its_own(grouped: bool) -> None:
    split = make_split([3] * 40)
    orders = [
        [rows_of(batch) for batch in take(split, 20, seed=seed, group_by_length=grouped)]
        for seed in (0, 0, 1)
    ]
    assert orders[0] == orders[1] != orders[2]
    assert orders[0][:10] != orders[0][10:]


@pytest.mark.parametrize("count", [0, 1, 9, 10, 11, 25])
def test_there_are_as_many_micro_batches_as_asked_for_and_more_only_add(count: int) -> None:
    split = make_split([3] * 39)
    batches = [rows_of(batch) for batch in take(split, count)]
    assert batches == [rows_of(batch) for batch in take(split, 30)][:count]
    assert len(batches) == count


def test_grouping_by_length_saves_padding_and_still_mixes() -> None:
    lengths = np.random.default_rng(0).integers(1, 64, size=400).tolist()
    split = make_split(lengths)
    shown = {grouped: take(split, 100, group_by_length=grouped) for grouped in (False, True)}
    cells = {grouped: sum(batch["input_ids"].numel() for batch in shown[grouped]) for grouped in shown}
    assert cells[True] < 1.1 * sum(lengths) < 1.4 * sum(lengths) < cells[False]
    widths = [batch["input_ids"].shape[1] for batch in shown[True]]
    assert abs(np.corrcoef(np.arange(100), widths)[0, 1]) < 0.3


def draw_streams(*, balanced: bool = False) -> list[Stream]:
    """Three trainings of other seeds, one balanced if asked to, and the last on half as many texts."""
    lengths = np.random.default_rng(1).integers(3, 60, 303).tolist()
    return [
        Stream(make_split(lengths), 0),
        Stream(make_split(lengths), 1, balanced),
        Stream(make_split(lengths[:150]), 2),
    ]


def test_trainings_side_by_side_have_the_batches_that_each_has_alone() -> None:
    streams = draw_streams(balanced=True)
    for stream, taken in zip(streams, take_apart(streams, 100, skipped=20), strict=True):
        alone = take(stream.split, 100, seed=stream.seed, balanced=stream.balanced, skipped=20)
        assert [rows_of(batch) for batch in taken] == [rows_of(batch) for batch in alone]
        assert [batch["labels"].tolist() for batch in taken] == [one["labels"].tolist() for one in alone]


def test_trainings_side_by_side_meet_in_batches_of_like_length() -> None:
    streams = draw_streams()
    together = take_apart(streams, 152, group_by_length=True)
    for stream, taken in zip(streams, together, strict=True):
        split, rows = stream.split, [rows_of(batch) for batch in taken]
        epoch = rows[: tokens.micro_batches_per_epoch(split, 4)]
        assert sorted({row for batch in epoch for row in batch}) == list(range(len(split)))
        assert rows == [rows_of(batch) for batch in take_apart([stream], 152, group_by_length=True)[0]]
        lengths = [max(split.lengths[batch]) for batch in epoch]
        assert abs(np.corrcoef(lengths[:-1], lengths[1:])[0, 1]) < 0.3  # in no order of length
    padded, needed = (
        sum(batch["input_ids"].numel() for taken in all_taken for batch in taken)
        for all_taken in (
            together,
            [
                take(one.split, 152, seed=one.seed, balanced=one.balanced, group_by_length=True)
                for one in streams
            ],
        )
    )
    assert padded < 1.05 * needed
    skipped = take_apart(streams, 152, group_by_length=True, skipped=100)
    assert [rows_of(one) for one in skipped[2]] == [rows_of(one) for one in together[2][100:]]


def draw_imbalanced() -> TokenisedSplit:
    """100 rows: 80 of one label, 16 of another, 4 of a third."""
    labels = np.repeat([0, 1, 2], [80, 16, 4])
    return dataclasses.replace(make_split([3 + row % 5 for row in range(100)]), labels=labels)


@pytest.mark.parametrize("grouped", [False, True])
def test_a_balanced_epoch_has_every_label_as_often_and_every_row_of_it_about_as_often(grouped: bool) -> None:
    split = draw_imbalanced()
    batches = take(split, 100, balanced=True, group_by_length=grouped)
    for epoch in range(4):
        shown = [row for batch in batches[25 * epoch : 25 * (epoch + 1)] for row in rows_of(batch)]
        counts = np.bincount(shown, minlength=100)
        of_labels = [counts[split.labels == label] for label in range(3)]
        assert sorted(map(sum, of_labels)) == [33, 33, 34]
        assert all(counts.max() - counts.min() <= 1 for counts in of_labels)
    labels = [label for batch in batches for label in batch["labels"].tolist()]
    assert abs(np.corrcoef(labels[:-1], labels[1:])[0, 1]) < 0.2  # mixed, not one after the other


def test_a_balanced_order_is_the_seeds_and_the_same_after_a_resume() -> None:
    split = draw_imbalanced()
    orders = [[rows_of(one) for one in take(split, 60, seed=seed, balanced=True)] for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert [rows_of(one) for one in take(split, 60, balanced=True, skipped=37)] == orders[0][37:]
    epochs = [
        {row for rows in orders[0][start : start + 25] for row in rows if row < 80} for start in (0, 25)
    ]
    assert len(epochs[0] | epochs[1]) > 1.3 * len(epochs[0])  # other rows of a frequent label in each epoch


def draw_long_rare() -> TokenisedSplit:
    """600 rows of which 30 are of a label whose texts are all longer than those of the two others."""
    random, labels = np.random.default_rng(3), np.repeat([0, 1, 2], [480, 90, 30])
    lengths = np.where(labels == 2, random.integers(40, 64, 600), random.integers(3, 40, 600))
    return dataclasses.replace(make_split(lengths.tolist()), labels=labels)


def share_padding(batches: list[tokens.Batch]) -> float:
    cells, read = (sum(getattr(one["attention_mask"], how)() for one in batches) for how in ("numel", "sum"))
    return 1 - float(read) / cells


@pytest.mark.parametrize("draw", [draw_imbalanced, draw_long_rare])
def test_balanced_batches_have_no_more_padding_than_others(draw: Callable[[], TokenisedSplit]) -> None:
    split, shares = draw(), {}
    for balanced, grouped in itertools.product((False, True), repeat=2):
        batches = take(split, 300, balanced=balanced, group_by_length=grouped)
        shares[balanced, grouped] = share_padding(batches)
    assert shares[True, True] < shares[False, True] + 0.01
    assert shares[True, True] < 0.03
    assert shares[True, False] < shares[False, False] + 0.01


@pytest.mark.parametrize("balanced", [(True, True, True), (False, True, False), (True, False, True)])
def test_balanced_trainings_side_by_side_with_others_have_the_least_padding(
    balanced: tuple[bool, ...],
) -> None:
    """Batches of one place have one width: the least is the widest with the widest, and so on down."""
    split, settings = draw_long_rare(), {"micro_batch_size": 4, "group_by_length": True}
    streams = [Stream(split, seed, one) for seed, one in enumerate(balanced)]
    batches = [
        *tokens.train_batches_apart(streams, micro_batches=300, padding=Padding(0, "right"), **settings)
    ]
    widths = [
        sorted(
            one["input_ids"].shape[1]
            for one in take(split, 300, seed=stream.seed, balanced=stream.balanced, group_by_length=True)
        )
        for stream in streams
    ]
    least = np.max(widths, axis=0).sum() * 4 * len(streams)
    assert sum(one["input_ids"].numel() for one in batches) < 1.01 * least
    assert share_padding(batches) < (0.03 if len({*balanced}) == 1 else 0.25)


def test_micro_batches_that_are_merged_have_the_rows_of_each() -> None:
    split = make_split(np.random.default_rng(1).integers(3, 60, 41).tolist())
    apart, merged = take(split, 24), take(split, 24, merged=4)
    assert [rows_of(batch) for batch in merged] == [
        [row for batch in apart[start : start + 4] for row in rows_of(batch)] for start in range(0, 24, 4)
    ]
    assert len(merged) == 6
    assert [rows_of(batch) for batch in take(split, 24, merged=4, skipped=8)] == list(
        map(rows_of, merged[2:])
    )


@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=60), size=st.integers(1, 9))
def test_evaluation_sees_every_row_once_and_says_which(lengths: list[int], size: int) -> None:
    split = make_split(lengths)
    seen = []
    for rows, batch in tokens.eval_batches(split, batch_size=size, padding=Padding(0, "left")):
        assert rows.tolist() == rows_of(batch)
        assert batch["labels"].tolist() == split.labels[rows].tolist()
        seen += rows.tolist()
    assert sorted(seen) == list(range(len(lengths)))
    assert [lengths[row] for row in seen] == sorted(lengths, reverse=True)


def test_each_fold_has_tokens_of_its_own(tmp_path: Path) -> None:
    tokenizer = CharacterTokenizer()
    folds = [dataclasses.replace(make_dataset(), fold=fold) for fold in (None, 0, 1)]
    for _ in range(2):
        for one in folds:
            tokens.tokenise(one, tokenizer, max_length=6, cache_dir=tmp_path)
    assert len(list((tmp_path / "tokens").iterdir())) == 3


@given(
    lengths=st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=40), min_size=2, max_size=4),
    size=st.integers(1, 9),
)
def test_evaluation_apart_sees_every_row_of_each_split_once(lengths: list[list[int]], size: int) -> None:
    splits = [make_split(one) for one in lengths]
    seen: list[list[int]] = [[] for _ in splits]
    for rows, batch in tokens.eval_batches_apart(splits, batch_size=size, padding=Padding(0, "left")):
        assert len(batch["input_ids"]) == rows.size
        shown = np.array(rows_of(batch)).reshape(rows.shape).tolist()
        for own, read, found in zip(rows.tolist(), shown, seen, strict=True):
            kept = [row for row in own if row != tokens.FILLER]
            assert read[: len(kept)] == kept
            found += kept
    for found, one in zip(seen, lengths, strict=True):
        assert sorted(found) == list(range(len(one)))
        assert [one[row] for row in found] == sorted(one, reverse=True)


def test_padding_is_the_tokenizers_own() -> None:
    tokenizer = type("Tokenizer", (), {"pad_token_id": 5, "padding_side": "left"})()
    assert Padding.of(tokenizer) == Padding(5, "left")
    tokenizer.pad_token_id = None
    with pytest.raises(ConfigError, match="no pad token"):
        Padding.of(tokenizer)


if __name__ == "__main__":
    tokenise_often(sys.argv[1])


class PairTokenizer(CharacterTokenizer):
    """A tokenizer that parts two texts by a token and says of which each token is, as BERT's."""

    sep_token = "[SEP]"

    def __call__(self, text: list[str], *second: list[str], truncation: bool, **options: Any) -> Any:
        if not second:
            return super().__call__(text, truncation=truncation, **options)
        self.calls += 1
        keep = options.get("max_length", 10**9) - 3 if truncation else 10**9
        rows, types = [], []
        for one, other in zip(text, *second, strict=True):
            first, last = [ord(letter) for letter in one], [ord(letter) for letter in other]
            first = first[: max(keep - len(last), keep - keep // 2)]
            last = last[: keep - len(first)]
            rows.append([START, *first, END, *last, END])
            types.append([0] * (len(first) + 2) + [1] * (len(last) + 1))
        return {"input_ids": rows, "token_type_ids": types}


def make_pairs() -> Dataset:
    columns = {"id": range(2), "text": ["abc", "abcdefgh"], "pair": ["x", "yz"], "label": [0, 1]}
    frame = pd.DataFrame(columns)
    return Dataset(dict.fromkeys(("train", "validation", "test"), frame), ("x", "y"), "pairs", 0)


def test_a_pair_is_the_tokenizers_own_with_the_types_of_its_tokens(tmp_path: Path) -> None:
    for _ in range(2):  # made, and read from disk
        made = tokens.tokenise(make_pairs(), PairTokenizer(), max_length=8, cache_dir=tmp_path, types=True)
    split = made["train"]
    assert split.row(0).tolist() == [START, 97, 98, 99, END, 120, END]
    assert split.row(1).tolist() == [START, 97, 98, 99, END, 121, 122, END]
    assert split.full_lengths.tolist() == [7, 13]
    batches = list(
        tokens.train_batches(
            Stream(split, 0),
            micro_batch_size=2,
            micro_batches=1,
            group_by_length=True,
            padding=Padding(0, "right"),
        )
    )
    assert batches[0]["token_type_ids"].tolist() == [[0, 0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 0, 1, 1, 0]]
    assert "token_type_ids" not in take(make_split([3, 4]), 1)[0]


def test_without_a_token_to_part_them_the_second_text_is_on_the_next_line(tmp_path: Path) -> None:
    split = tokens.tokenise(make_pairs(), CharacterTokenizer(), max_length=20, cache_dir=tmp_path)["train"]
    assert split.row(0).tolist() == [START, *map(ord, "abc\nx"), END]
    assert len(split.types) == 0


@pytest.mark.parametrize("way", ["head_tail", "windows"])
def test_a_long_text_is_read_at_both_ends_or_in_windows(tmp_path: Path, way: str) -> None:
    """With the special tokens around each part; texts that fit are as they were."""
    dataset = make_dataset()
    for _ in range(2):  # made, and read from disk
        made = tokens.tokenise(dataset, ListTokenizer(), max_length=6, cache_dir=tmp_path, long_texts=way)[
            "train"
        ]
    rows = ["".join(map(chr, made.row(row)[1:-1])) for row in range(len(made))]
    assert {(int(made.row(row)[0]), int(made.row(row)[-1])) for row in range(len(made))} == {(START, END)}
    assert made.long_share == pytest.approx(1 / 3)
    assert made.text_labels.tolist() == [0, 1, 1]
    if way == "head_tail":
        assert rows == ["abc", "央行", "abgh"]
        assert (made.truncated_share, len(made.owners)) == (pytest.approx(1 / 3), 0)
    else:
        assert rows == ["abc", "央行", "abcd", "defg", "efgh"]
        assert (made.truncated_share, made.owners.tolist()) == (0, [0, 1, 2, 2, 2])
        assert made.labels.tolist() == [0, 1, 1, 1, 1]
    plain = tokens.tokenise(dataset, ListTokenizer(), max_length=6, cache_dir=tmp_path)["train"]
    assert "".join(map(chr, plain.row(2)[1:-1])) == "abcd"


class ListTokenizer(CharacterTokenizer):
    """A tokenizer that also takes one text, and leaves its special tokens out if asked to."""

    def __call__(
        self, text: Any, *, truncation: bool = False, add_special_tokens: bool = True, **more: Any
    ) -> Any:
        if isinstance(text, str):
            one = self([text], truncation=truncation, add_special_tokens=add_special_tokens, **more)
            return {"input_ids": one["input_ids"][0]}
        rows = super().__call__(text, truncation=truncation, **more)["input_ids"]
        return {"input_ids": rows if add_special_tokens else [row[1:-1] for row in rows]}
