"""The data set behind every comparison: declared labels, stratified splits, a fingerprint of what counts."""

import dataclasses
import hashlib
import logging
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.config.overrides import load_file
from bench.config.schema import DataConfig
from bench.data import dataset as datasets
from bench.data import splits
from bench.data.reading import synthetic
from bench.errors import ConfigError, DataError

FILES = DataConfig(**load_file("data", "files"))
HEADLINES = dataclasses.replace(FILES, source="bbc_headlines", validation_size=400, test_size=400)
FINANCE = dataclasses.replace(
    FILES, source="finance8_synthetic", train_size=80, validation_size=24, test_size=24, noise=0.1
)


def write(path: Path, labels: list[str], *, mark: str = "") -> str:
    rows = [(f"text {mark}{number}", label) for number, label in enumerate(labels)]
    pd.DataFrame(rows, columns=["text", "label"]).to_csv(path, index=False)
    return str(path)


def make_files(folder: Path, **changed: object) -> DataConfig:
    """A config over one file: 60 rows a, 30 rows b, 10 rows c, mixed."""
    train = write(folder / "train.csv", [*"aaaaaabbbc"] * 10)
    return dataclasses.replace(FILES, train=train, **changed)


def names(dataset: datasets.Dataset, split: str) -> list[str]:
    return [dataset.labels[index] for index in dataset.splits[split]["label"]]


def test_headlines_are_split_the_same_on_every_machine() -> None:
    dataset = datasets.load(HEADLINES)
    text = "\n".join(
        f"{split}\t{row.id}\t{row.text}\t{dataset.labels[row.label]}"
        for split, frame in dataset.splits.items()
        for row in frame.itertuples()
    )
    assert {split: len(frame) for split, frame in dataset.splits.items()} == {
        "train": 1296,
        "validation": 400,
        "test": 400,
    }
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "2bcf02f10ff666b3"
    assert dataset.duplicate_rows_across_splits == 0


def test_a_split_has_every_label_in_proportion_and_every_row_goes_somewhere() -> None:
    dataset = datasets.load(HEADLINES)
    every = pd.concat(dataset.splits.values())
    assert every["text"].nunique() == len(every) == 2096
    shares = every["label"].value_counts().sort_index() / len(every)
    for frame in dataset.splits.values():
        counts = frame["label"].value_counts().sort_index()
        assert (counts - shares * len(frame)).abs().max() <= 1
        assert frame["id"].tolist() == list(range(len(frame)))


def test_another_seed_gives_another_split_and_test_does_not_depend_on_the_other_sizes(tmp_path: Path) -> None:
    config = make_files(tmp_path)
    test = datasets.load(config).splits["test"]
    other = datasets.load(dataclasses.replace(config, split_seed=1)).splits["test"]
    smaller = datasets.load(dataclasses.replace(config, validation_size=5, train_size=0.3))
    assert not test.equals(other)
    pd.testing.assert_frame_equal(test, smaller.splits["test"])


@pytest.mark.parametrize("skew", [False, True])
def test_a_larger_train_split_has_the_texts_of_a_smaller_one_and_the_same_are_evaluated(
    tmp_path: Path, skew: bool
) -> None:
    labels = [*"aaaaaaaaaaabbbc"] * 20 if skew else [*"abc"] * 100
    config = dataclasses.replace(FILES, train=write(tmp_path / "all.csv", labels))
    loaded = [datasets.load(dataclasses.replace(config, train_size=size)) for size in (20, 60, 0.5, None)]
    texts = [set(one.splits["train"]["text"]) for one in loaded]
    assert [len(one) for one in texts] == [20, 60, 150, 210]
    for smaller, larger in pairwise(texts):
        assert smaller < larger
    for one in loaded:
        for split in ("validation", "test"):
            pd.testing.assert_frame_equal(one.splits[split], loaded[0].splits[split])


def test_each_seed_may_draw_its_own_train_texts_and_the_same_are_evaluated(tmp_path: Path) -> None:
    config = dataclasses.replace(make_files(tmp_path), train_size=20, resample=True)
    one, again, other = (datasets.load(config, seed=seed) for seed in (1, 1, 2))
    larger = datasets.load(dataclasses.replace(config, train_size=40), seed=1)
    drawn, drawn_again, drawn_other, drawn_more = (
        set(each.splits["train"]["text"]) for each in (one, again, other, larger)
    )
    assert drawn == drawn_again != drawn_other
    assert len(drawn) == len(drawn_other) == 20
    assert drawn < drawn_more
    for each in (other, larger):
        for split in ("validation", "test"):
            pd.testing.assert_frame_equal(one.splits[split], each.splits[split])
    assert one.fingerprint == other.fingerprint
    fixed = datasets.load(dataclasses.replace(config, resample=False), seed=2)
    assert fixed.fingerprint != one.fingerprint
    assert names(fixed, "test") == names(one, "test")


def load_folds(config: DataConfig, count: int) -> list[datasets.Dataset]:
    return [datasets.load(dataclasses.replace(config, folds=count, fold=fold)) for fold in range(count)]


@pytest.mark.parametrize("count", [2, 5])
def test_each_text_outside_test_validates_in_one_fold_and_trains_in_the_others(count: int) -> None:
    folds, plain = load_folds(HEADLINES, count), datasets.load(HEADLINES)
    pool = pd.concat([plain.splits["train"], plain.splits["validation"]])
    all_counts = pool["label"].value_counts().sort_index()
    by_id = dict[int, str]()
    for one in folds:
        train, validation, test = (one.splits[name] for name in ("train", "validation", "test"))
        pd.testing.assert_frame_equal(test, plain.splits["test"])
        both = pd.concat([train, validation])
        assert sorted(both["id"]) == list(range(len(pool)))
        assert sorted(both["text"]) == sorted(pool["text"])
        by_id |= dict(zip(both["id"], both["text"], strict=True)) if not by_id else {}
        assert [by_id[number] for number in both["id"]] == both[
            "text"
        ].tolist()  # in every fold the same text
        for frame, share in ((train, 1 - 1 / count), (validation, 1 / count)):
            assert frame["id"].is_monotonic_increasing
            counts = frame["label"].value_counts().sort_index()
            assert (counts - share * all_counts).abs().max() < 1
        assert abs(len(validation) - len(pool) / count) < 1
        assert one.duplicate_rows_across_splits == 0
    validated = [number for one in folds for number in one.splits["validation"]["id"]]
    assert sorted(validated) == list(range(len(pool)))


def test_folds_are_one_data_set_and_another_seed_or_number_of_them_is_not(tmp_path: Path) -> None:
    config = make_files(tmp_path)
    folds = load_folds(config, 3)
    assert len({one.fingerprint for one in folds}) == 1
    assert [one.fold for one in folds] == [0, 1, 2]
    fewer, other = load_folds(config, 2), load_folds(dataclasses.replace(config, split_seed=1), 3)
    assert len({one[0].fingerprint for one in (folds, fewer, other)} | {datasets.fingerprint(config)}) == 4
    assert not folds[0].splits["validation"].equals(other[0].splits["validation"])
    unused = dataclasses.replace(config, folds=3, fold=0, validation_size=30)
    again = datasets.load(unused)
    assert again.fingerprint == folds[0].fingerprint
    for split, frame in again.splits.items():
        pd.testing.assert_frame_equal(frame, folds[0].splits[split])


def test_equal_texts_are_in_one_fold(tmp_path: Path) -> None:
    rows = [(f"text {number % 30}", "ab"[number % 2]) for number in range(120)]
    path = tmp_path / "twins.csv"
    pd.DataFrame(rows, columns=["text", "label"]).to_csv(path, index=False)
    test = write(tmp_path / "test.csv", ["a", "b"], mark="new")
    for one in load_folds(dataclasses.replace(FILES, train=str(path), test=test), 5):
        assert not set(one.splits["train"]["text"]) & set(one.splits["validation"]["text"])
        assert one.duplicate_rows_across_splits == 0
        assert len(one.splits["validation"]) == 24


def test_a_validation_split_of_the_source_is_folded_too_and_comes_last(tmp_path: Path) -> None:
    texts = {split: write(tmp_path / f"{split}.csv", [*"abc"] * 4, mark=split) for split in datasets.SPLITS}
    folds = load_folds(dataclasses.replace(FILES, **texts), 3)
    for one in folds:
        both = pd.concat([one.splits["train"], one.splits["validation"]]).sort_values("id")
        assert [text.split()[1][:5] for text in both["text"]] == ["train"] * 12 + ["valid"] * 12
        assert [text.split()[1][:4] for text in one.splits["test"]["text"]] == ["test"] * 12
    assert {*map(len, (one.splits["validation"] for one in folds))} == {8}


def test_a_curve_may_be_cross_validated(tmp_path: Path) -> None:
    config = make_files(tmp_path)
    sizes = [load_folds(dataclasses.replace(config, train_size=size), 5) for size in (20, 40, None)]
    for smaller, larger, whole in zip(*sizes, strict=True):
        small, large, every = (set(one.splits["train"]["id"]) for one in (smaller, larger, whole))
        assert small < large < every
        assert [len(one) for one in (small, large, every)] == [20, 40, 68]
        assert smaller.splits["validation"].equals(whole.splits["validation"])
    with pytest.raises(
        DataError, match=r"the 68 rows of the other folds are too few for data\.train_size=80"
    ):
        load_folds(dataclasses.replace(config, train_size=80), 5)


def test_generated_texts_are_folded_and_their_train_size_only_generates_them() -> None:
    folds = load_folds(FINANCE, 4)
    assert [len(one.splits["validation"]) for one in folds] == [26] * 4
    assert [len(one.splits["train"]) for one in folds] == [78] * 4


def test_a_label_with_fewer_texts_than_folds_is_refused(tmp_path: Path) -> None:
    config = make_files(tmp_path)
    message = r"data\.folds=10: too few texts of 'c', as each fold needs one; make fewer folds, add rows or"
    with pytest.raises(DataError, match=message):
        load_folds(config, 10)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({}, (70, 15, 15)),
        ({"test_size": 0.101, "validation_size": 9}, (80, 9, 11)),
        ({"train_size": 20}, (20, 15, 15)),
        ({"train_size": 0.255}, (25, 15, 15)),
        ({"train_size": 3, "validation_size": 94, "test_size": 3}, (3, 94, 3)),
    ],
)
def test_sizes_are_rows_or_shares_as_in_scikit_learn(
    sizes: dict[str, float], expected: tuple[int, ...], tmp_path: Path
) -> None:
    splits = datasets.load(make_files(tmp_path, **sizes)).splits
    assert tuple(len(splits[split]) for split in ("train", "validation", "test")) == expected
    assert all(set(frame["label"]) == {0, 1, 2} for frame in splits.values())


@given(
    counts=st.lists(st.integers(3, 300), min_size=2, max_size=12),
    draw=st.floats(0, 1),
    spare=st.integers(0, 2),
)
def test_a_draw_is_exact_has_every_label_and_leaves_enough(
    counts: list[int], draw: float, spare: int
) -> None:
    total, labels = sum(counts), len(counts)
    size = labels + round(draw * (total - spare * labels - labels))
    allotted = splits.allot(np.array(counts), size, spare=spare)
    assert allotted.sum() == size
    assert all(1 <= drawn <= count - spare for drawn, count in zip(allotted, counts, strict=True))
    if min(counts) * size >= total and all(c * size <= (c - spare) * total for c in counts):
        assert all(abs(n - c * size / total) <= 1 for n, c in zip(allotted, counts, strict=True))


def test_validation_alone_is_cut_where_test_is_given(tmp_path: Path) -> None:
    test = write(tmp_path / "test.csv", [*"abcc"], mark="t")
    config = make_files(tmp_path, test=test, test_size=0.9)
    splits = datasets.load(config).splits
    assert {split: len(frame) for split, frame in splits.items()} == {
        "train": 85,
        "validation": 15,
        "test": 4,
    }
    assert splits["test"]["text"].tolist() == ["text t0", "text t1", "text t2", "text t3"]


def test_given_splits_are_taken_as_they_are(tmp_path: Path) -> None:
    validation = write(tmp_path / "v.csv", [*"ca"], mark="v")
    test = write(tmp_path / "t.csv", [*"cb"], mark="t")
    config = make_files(tmp_path, validation=validation, test=test)
    dataset = datasets.load(config)
    assert dataset.splits["train"]["text"].tolist() == [f"text {number}" for number in range(100)]
    assert names(dataset, "train") == [*"aaaaaabbbc"] * 10
    assert names(dataset, "validation") == [*"ca"]
    assert names(dataset, "test") == [*"cb"]
    assert len(datasets.load(dataclasses.replace(config, train_size=10)).splits["train"]) == 10


def test_labels_keep_their_declared_order(tmp_path: Path) -> None:
    assert datasets.load(make_files(tmp_path)).labels == ("a", "b", "c")
    dataset = datasets.load(make_files(tmp_path, labels=["c", "a", "b"]))
    assert dataset.labels == ("c", "a", "b")
    assert datasets.describe(dataset)["label_counts"]["train"] == {"c": 7, "a": 42, "b": 21}


def test_labels_can_be_folded(tmp_path: Path) -> None:
    dataset = datasets.load(make_files(tmp_path, label_map={"a": "甲", "b": "乙", "c": "乙", "d": "丙"}))
    assert dataset.labels == ("乙", "甲")
    assert dataset.splits["train"]["label"].value_counts().to_dict() == {0: 28, 1: 42}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"label_map": {"a": "x", "b": "y"}}, r"data.label_map: does not map 'c' \(10 rows\) of train"),
        ({"labels": ["a", "b"]}, r"unseen label 'c' in train \(10 rows\)"),
        ({"labels": ["a", "b", "c", "d"]}, "train has no row of 'd'"),
        ({"label_map": {"a": "x", "b": "x", "c": "x"}}, "train has the one label 'x'"),
        ({"test_size": 2}, "data.test_size: 2 rows for test cannot hold one of each of the 3 labels"),
        ({"validation_size": 0.6, "test_size": 0.6}, "100 rows are too few for 60 for test"),
        ({"train_size": 90}, "100 rows are too few for 15 for test . 15 for validation . 90 for train"),
    ],
)
def test_labels_and_sizes_that_cannot_be_met_are_refused(
    changed: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        datasets.load(make_files(tmp_path, **changed))


def test_a_label_is_declared_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="declared twice"):
        datasets.load(make_files(tmp_path, labels=["a", "b", "c", "a"]))


def test_labels_are_called_as_they_are_written_or_by_their_words(tmp_path: Path) -> None:
    config = make_files(tmp_path, label_words={"c": "see"}, labels=["c", "a", "b"])
    names = datasets.name_labels(datasets.load(config).labels, config)
    assert list(names.items()) == [("c", "see"), ("a", "a"), ("b", "b")]
    with pytest.raises(ConfigError, match=r"data.label_words: there is no label 'd'; there are a, b, c"):
        datasets.load(make_files(tmp_path, label_words={"a": "x", "d": "y"}))


def test_a_label_of_test_alone_is_unseen(tmp_path: Path) -> None:
    test = write(tmp_path / "t.csv", [*"adda"])
    with pytest.raises(
        DataError, match=r"unseen label 'd' in test \(2 rows\): the labels are a, b, c \(those"
    ):
        datasets.load(make_files(tmp_path, test=test))


def test_a_label_too_rare_to_be_split_is_refused(tmp_path: Path) -> None:
    train = write(tmp_path / "rare.csv", [*"aaaaaaaaaabbbbbbbbbbcc"])
    config = dataclasses.replace(FILES, train=train, validation_size=4, test_size=4)
    with pytest.raises(DataError, match=r"too few rows of 'c' \(2 rows\): test, validation, train need one"):
        datasets.load(config)
    Path(train).write_text(Path(train).read_text() + "more,c\n")
    dataset = datasets.load(config)
    assert all(names(dataset, split).count("c") == 1 for split in dataset.splits)


def test_a_list_of_faults_stays_short(tmp_path: Path) -> None:
    labels = [f"label {number}" for number in range(100)]
    many = write(tmp_path / "many.csv", labels)
    for changed in ({"label_map": {"a": "b"}}, {"labels": ["a", "b", "c"], "train_size": None}):
        config = dataclasses.replace(FILES, train=many, **changed)
        with pytest.raises(DataError, match="and 95 more") as caught:
            datasets.load(config)
        assert len(str(caught.value)) < 400
    with pytest.raises(
        DataError, match=r"unseen label 'a' in validation .* the labels are .* and 95 more"
    ) as caught:
        datasets.load(dataclasses.replace(FILES, train=many, validation=write(tmp_path / "v.csv", ["a"])))
    assert len(str(caught.value)) < 400


def test_a_text_in_two_splits_is_counted_and_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    letters = {"train": "pqqr", "validation": "qst", "test": "ttur"}
    frames = {split: [f"text {letter}" for letter in written] for split, written in letters.items()}
    paths = {}
    for split, texts in frames.items():
        paths[split] = str(tmp_path / f"{split}.csv")
        pd.DataFrame({"text": texts, "label": [*"abab"][: len(texts)]}).to_csv(paths[split], index=False)
    with caplog.at_level(logging.WARNING):
        dataset = datasets.load(dataclasses.replace(FILES, **paths))
    assert dataset.duplicate_rows_across_splits == 5  # q, t of validation; t, t, r of test
    assert {split: frame["text"].tolist() for split, frame in dataset.splits.items()} == frames
    warnings = [record.message for record in caplog.records if "with few rows" not in record.message]
    assert len(warnings) == 1
    assert "5 rows of validation and test" in warnings[0]
    # q is a and b in train; t is a in validation, a and b in test: three rows of q, three of t; r is b twice
    assert datasets.describe(dataset)["conflicting_labels"] == 6


def test_a_record_says_what_the_data_were() -> None:
    dataset = datasets.load(FINANCE)
    block = datasets.describe(dataset)
    assert block["sizes"] == {"train": 80, "validation": 24, "test": 24}
    assert [sum(counts.values()) for counts in block["label_counts"].values()] == [80, 24, 24]
    assert tuple(block["label_counts"]["test"]) == dataset.labels
    assert block["fingerprint"] == datasets.fingerprint(FINANCE)
    assert block["duplicate_rows_across_splits"] == 0
    assert block["conflicting_labels"] == 0


def test_generated_texts_are_those_of_the_generator() -> None:
    dataset = datasets.load(dataclasses.replace(FINANCE, labels=list(synthetic.labels()), split_seed=3))
    expected = synthetic.generate(seed=3, sizes={"train": 80, "validation": 24, "test": 24}, noise=0.1)
    for split, frame in expected.items():
        assert dataset.splits[split]["text"].tolist() == frame["text"].tolist()
        assert names(dataset, split) == frame["label"].tolist()


@pytest.mark.parametrize(
    "changed",
    [
        {"split_seed": 1},
        {"test_size": 0.2},
        {"validation_size": 10},
        {"train_size": 20},
        {"labels": ["a", "b", "c"]},
        {"label_map": {"a": "x", "b": "x", "c": "y"}},
        {"text_column": "body"},
        {"label_column": "topic"},
    ],
)
def test_a_setting_that_counts_changes_the_fingerprint(changed: dict[str, object], tmp_path: Path) -> None:
    config = make_files(tmp_path)
    assert datasets.fingerprint(dataclasses.replace(config, **changed)) != datasets.fingerprint(config)


def test_content_counts_and_its_place_does_not(tmp_path: Path) -> None:
    config = make_files(tmp_path, train_size=20, test_size=15)
    moved = tmp_path / "elsewhere" / "other.csv"
    moved.parent.mkdir()
    Path(str(config.train)).rename(moved)
    same = dataclasses.replace(
        config, train=str(moved), name="renamed", noise=0.3, test_size=15.0, train_size=20.0
    )
    before = datasets.fingerprint(same)
    assert before == datasets.fingerprint(make_files(tmp_path, train_size=20, test_size=15))
    moved.write_bytes(moved.read_bytes() + b"x,a\n")
    assert datasets.fingerprint(same) != before


def test_a_size_or_seed_that_is_not_used_does_not_count(tmp_path: Path) -> None:
    test = write(tmp_path / "test.csv", [*"abc"])
    config = make_files(tmp_path, test=test, validation=test)
    unused = dataclasses.replace(config, test_size=0.4, validation_size=9, split_seed=7)
    assert datasets.fingerprint(unused) == datasets.fingerprint(config)
    swapped = dataclasses.replace(config, train=config.test, test=config.train)
    assert datasets.fingerprint(swapped) != datasets.fingerprint(config)


@pytest.mark.parametrize(
    ("config", "changed"),
    [
        (HEADLINES, {"source": "bbc_news"}),
        (HEADLINES, {"split_seed": 1}),
        (FINANCE, {"noise": 0.2}),
        (FINANCE, {"split_seed": 1}),
        (FINANCE, {"test_size": 32}),
        (dataclasses.replace(FILES, source="hub", hub_id="a/b", revision="1", train="x"), {"revision": "2"}),
        (dataclasses.replace(FILES, source="hub", hub_id="a/b", revision="1", train="x"), {"train": "y"}),
        (dataclasses.replace(FILES, source="hub", hub_id="a/b", revision="1", train="x"), {"subset": "y"}),
    ],
)
def test_every_source_has_a_fingerprint_of_its_own(config: DataConfig, changed: dict[str, object]) -> None:
    renamed = dataclasses.replace(config, name="another", label_map={})
    assert datasets.fingerprint(renamed) == datasets.fingerprint(config)
    assert datasets.fingerprint(dataclasses.replace(config, **changed)) != datasets.fingerprint(config)


def test_another_grammar_is_other_data(monkeypatch: pytest.MonkeyPatch) -> None:
    before = datasets.fingerprint(FINANCE)
    monkeypatch.setattr(synthetic, "MAX_CHARACTERS", 50)
    assert datasets.fingerprint(FINANCE) != before


def test_reading_data_never_loads_torch() -> None:
    code = "import sys, bench.data.dataset, bench.train.metrics; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"torch", "transformers", "datasets"} & set(done.stdout.split()) == set()


def test_labels_with_few_rows_are_said_before_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    counts = {"a": 60, "b": 34, "c": 13, "d": 12}  # of b 23 are in train and 5 in test
    texts = [f"{label} number {row}" for label, count in counts.items() for row in range(count)]
    labels = [label for label, count in counts.items() for _ in range(count)]
    pd.DataFrame({"text": texts, "label": labels}).to_csv(tmp_path / "rows.csv", index=False)
    config = dataclasses.replace(
        FILES, train=str(tmp_path / "rows.csv"), test_size=0.15, validation_size=0.15
    )
    with caplog.at_level(logging.WARNING):
        dataset = datasets.load(config)
    sizes = {split: np.bincount(dataset.splits[split]["label"]).tolist() for split in ("train", "test")}
    assert sizes["train"][2] < 10 > sizes["test"][2]
    [message] = [record.getMessage() for record in caplog.records]
    assert "fewer than 10 to learn from or 5 to be tested on" in message
    assert f"'c' ({sizes['train'][2]} in train, {sizes['test'][2]} in test), 'd'" in message
    assert "'a'" not in message
    assert "'b'" not in message


def test_pairs_are_equal_if_both_texts_are(tmp_path: Path) -> None:
    """In folds, for duplicates across splits and for conflicting labels."""
    rows = [(f"text {number // 2}", f"pair {number % 2}", "ab"[number % 2]) for number in range(80)]
    rows += [rows[0], ("text 0", "pair 0", "b")]
    frame = pd.DataFrame(rows, columns=["text", "pair", "label"])
    frame.to_csv(tmp_path / "rows.csv", index=False)
    config = dataclasses.replace(FILES, train=str(tmp_path / "rows.csv"), text_pair_column="pair")
    dataset = datasets.load(config)
    assert datasets.describe(dataset)["conflicting_labels"] == 3
    assert dataset.duplicate_rows_across_splits < 3
    assert sorted(dataset.splits["train"]) == ["id", "label", "pair", "text"]
    folds = dataclasses.replace(config, folds=4, fold=0)
    held = [
        {*zip(one["text"], one["pair"], strict=True)}
        for fold in range(4)
        for one in [datasets.load(dataclasses.replace(folds, fold=fold)).splits["validation"]]
    ]
    assert all(not one & other for place, one in enumerate(held) for other in held[:place])
    assert datasets.fingerprint(config) != datasets.fingerprint(
        dataclasses.replace(config, text_pair_column=None)
    )
