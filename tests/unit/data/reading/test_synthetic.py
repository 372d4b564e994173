"""The synthetic data keeps its promises: one true class a text, a known ceiling, the same bytes each time."""

import hashlib
import itertools
import math
import re
from collections.abc import Iterator
from functools import cache

import pandas as pd
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from bench.data.reading import synthetic
from bench.errors import ConfigError

SIZES = {"train": 803, "validation": 200, "test": 205}
DIGIT, NAME = "0", "某"
SLOT = re.compile(r"\{(\w+)\}")


def expand(template: str, slots: synthetic.Slots) -> Iterator[str]:
    """Every string the template can become: an independent reading of the grammar."""
    parts = SLOT.split(template)  # literal, slot, literal, slot, ..., literal
    choices = [
        [part] if place % 2 == 0 else sorted({text for one in slots[part] for text in expand(one, slots)})
        for place, part in enumerate(parts)
    ]
    return map("".join, itertools.product(*choices))


def blur(text: str) -> str:
    """The text with every digit and every company's name made alike; equal texts stay equal."""
    names = "|".join(synthetic.load_grammar().slots["name"])
    return re.sub(names, NAME, re.sub(r"\d", DIGIT, text))


@cache
def blurred_cores() -> dict[str, set[str]]:
    """All clauses that can decide each class, blurred so that there are few enough to list."""
    grammar = synthetic.load_grammar()
    slots = {**grammar.slots, "name": [NAME], "d": [DIGIT], "d1": [DIGIT]}
    return {
        label: {blur(core) for one in templates for core in expand(one, slots)}
        for label, templates in grammar.classes.items()
    }


def true_class(text: str) -> str:
    """A perfect classifier: it looks the clause between the two commas up."""
    _, core, _ = text.split("，")
    (label,) = [label for label, cores in blurred_cores().items() if blur(core) in cores]
    return label


@cache
def clean() -> dict[str, pd.DataFrame]:
    return synthetic.generate(seed=7, sizes=SIZES, noise=0.0)


@cache
def noisy() -> dict[str, pd.DataFrame]:
    return synthetic.generate(seed=7, sizes=SIZES, noise=0.25)


def digest(frames: dict[str, pd.DataFrame]) -> str:
    written = "".join(f"{split}\n{frame.to_csv(index=False)}" for split, frame in frames.items())
    return hashlib.sha256(written.replace("\r\n", "\n").encode()).hexdigest()


def test_labels_are_the_eight_in_declared_order() -> None:
    declared = "宏观政策 股票市场 债券市场 外汇市场 大宗商品 公司新闻 业绩与评级 金融机构"
    assert synthetic.labels() == tuple(declared.split())


@pytest.mark.parametrize("split", SIZES)
def test_sizes_columns_and_balance(split: str) -> None:
    frame = clean()[split]
    assert list(frame.columns) == ["text", "label"]
    assert list(frame.index) == list(range(SIZES[split]))
    counts = frame["label"].value_counts()
    assert set(counts.index) == set(synthetic.labels())
    assert counts.max() - counts.min() <= 1


def test_rows_are_shuffled() -> None:
    head = list(clean()["train"]["label"][:16])
    assert head != list(synthetic.labels()) * 2
    assert head != sorted(head)


def test_splits_come_in_the_order_asked_for() -> None:
    assert list(clean()) == list(SIZES)


def test_texts_are_distinct_over_all_splits_and_short() -> None:
    texts = pd.concat(clean().values())["text"]
    assert texts.is_unique
    assert texts.str.len().between(15, 60).all()


def test_a_repeated_or_long_draw_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    classes = {label: [label] for label in synthetic.labels()}
    numbers = [f"{number:02}" for number in range(40)]
    slots = {"lead": [*numbers, "长" * 60], "number": numbers}
    tiny = synthetic.Grammar(sentence="{lead}{number}{core}", slots=slots, classes=classes)
    monkeypatch.setattr(synthetic, "load_grammar", lambda: tiny)
    texts = synthetic.generate(seed=0, sizes={"train": 1300}, noise=0.0)["train"]["text"]
    assert texts.is_unique
    assert not texts.str.contains("长").any()
    with pytest.raises(ConfigError, match=r"data\.sizes=.*1320 rows in all.* at most 1312 distinct texts"):
        synthetic.generate(seed=0, sizes={"train": 1320}, noise=0.0)


def test_only_the_clause_between_the_two_commas_decides() -> None:
    grammar = synthetic.load_grammar()
    assert re.findall(r"\{\w+\}|，", grammar.sentence) == ["{lead}", "，", "{core}", "，", "{tail}"]
    templates = itertools.chain(*grammar.slots.values(), *grammar.classes.values())
    assert not [template for template in templates if "，" in template or "{core}" in template]


def test_no_clause_belongs_to_two_classes() -> None:
    """Over the whole grammar, not a sample: were two clauses equal, they would be equal blurred."""
    cores = blurred_cores()
    assert min(map(len, cores.values())) > 500
    for one, other in itertools.combinations(cores, 2):
        assert not cores[one] & cores[other], (one, other)


def test_most_subjects_serve_several_classes() -> None:
    """Otherwise a single word would give the class away."""
    grammar = synthetic.load_grammar()
    for subject, classes in {"company": 6, "bank": 5, "authority": 6, "market_move": 4, "deal": 2}.items():
        users = [label for label, ones in grammar.classes.items() if any(f"{{{subject}}}" in o for o in ones)]
        assert len(users) >= classes, subject


def test_every_slot_is_defined_and_used() -> None:
    grammar = synthetic.load_grammar()
    templates = [grammar.sentence, *itertools.chain(*grammar.slots.values(), *grammar.classes.values())]
    used = {name for template in templates for name in SLOT.findall(template)}
    assert used == {*grammar.slots, "core"}


def test_a_perfect_classifier_is_always_right_without_noise() -> None:
    rows = pd.concat(clean().values())
    assert [true_class(text) for text in rows["text"]] == list(rows["label"])


def test_a_perfect_classifier_reaches_best_accuracy() -> None:
    rows = pd.concat(noisy().values())
    right = sum(true_class(text) == label for text, label in zip(rows["text"], rows["label"], strict=True))
    best = synthetic.best_accuracy(0.25)
    assert abs(right - best * len(rows)) < 4 * math.sqrt(len(rows) * best * (1 - best))


@pytest.mark.parametrize("split", SIZES)
def test_noise_moves_labels_in_every_split_and_never_the_texts(split: str) -> None:
    before, after = clean()[split], noisy()[split]
    assert list(before["text"]) == list(after["text"])
    moved = (before["label"] != after["label"]).sum()
    assert abs(moved - 0.25 * len(after)) < 4 * math.sqrt(len(after) * 0.25 * 0.75)


def test_a_replaced_label_is_never_the_true_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "MAX_NOISE", 1.0)
    replaced = synthetic.generate(seed=7, sizes=SIZES, noise=1.0)
    assert not any((replaced[split]["label"] == clean()[split]["label"]).any() for split in SIZES)


def test_a_wrong_label_is_any_of_the_other_seven_alike() -> None:
    before, after = (pd.concat(frames.values())["label"] for frames in (clean(), noisy()))
    order = {label: place for place, label in enumerate(synthetic.labels())}
    steps = (after.map(order) - before.map(order)) % 8
    wrong = steps[steps != 0]
    counts = wrong.value_counts()
    assert set(counts.index) == set(range(1, 8))
    chi_squared = ((counts - len(wrong) / 7) ** 2 / (len(wrong) / 7)).sum()
    assert chi_squared < 22.5  # 99.9 % point with 6 degrees of freedom


def test_same_seed_same_bytes_other_seed_other_texts() -> None:
    sizes = {"train": 40, "test": 16}
    first = synthetic.generate(seed=1, sizes=sizes, noise=0.1)
    again = synthetic.generate(seed=1, sizes=dict(reversed(sizes.items())), noise=0.1)
    other = synthetic.generate(seed=2, sizes=sizes, noise=0.1)
    assert all(first[split].equals(again[split]) for split in sizes)
    assert not set(first["train"]["text"]) & set(other["train"]["text"])


def test_golden_bytes() -> None:
    """A change of the grammar or of the drawing changes every published figure: make it on purpose."""
    frames = synthetic.generate(seed=0, sizes={"train": 64, "validation": 16, "test": 16}, noise=0.08)
    assert digest(frames) == "f5d2b38fa52d31df3361d2f25a962907adc6245250a88c8bf4aaa6f75c48a3e3"


@pytest.mark.parametrize(("noise", "best"), [(0.0, 1.0), (0.08, 0.92), (0.5, 0.5)])
def test_best_accuracy(noise: float, best: float) -> None:
    assert synthetic.best_accuracy(noise) == pytest.approx(best)


@pytest.mark.parametrize("noise", [-0.01, 0.51, math.nan])
def test_noise_out_of_range(noise: float) -> None:
    with pytest.raises(ConfigError, match=rf"^data\.noise={noise}: "):
        synthetic.generate(seed=0, sizes=SIZES, noise=noise)
    with pytest.raises(ConfigError, match=rf"^data\.noise={noise}: "):
        synthetic.best_accuracy(noise)


def test_a_split_smaller_than_the_classes() -> None:
    with pytest.raises(ConfigError, match=r"^data\.sizes\.test=7: .*at least 8 rows"):
        synthetic.generate(seed=0, sizes={"train": 8, "test": 7}, noise=0.0)


def test_more_rows_than_the_grammar_has_texts() -> None:
    with pytest.raises(ConfigError, match=r"^data\.sizes=.*ask for fewer"):
        synthetic.generate(seed=0, sizes={"train": 10**22}, noise=0.0)


def test_derivations_is_a_product_of_sums() -> None:
    slots = {"a": ["x", "y{b}"], "b": ["1", "2", "3"]}
    assert synthetic.derivations("{a}-{b}", slots) == (1 + 3) * 3
    assert synthetic.derivations("plain", slots) == 1


def test_single_characters_teach_much_but_not_all() -> None:
    """Trained on 2,000 clean rows, a bag of characters reaches 0.836 where the best is 1."""
    frames = synthetic.generate(seed=0, sizes={"train": 2000, "test": 1000}, noise=0.0)
    vectors = TfidfVectorizer(analyzer="char", sublinear_tf=True)
    model = LogisticRegression(C=10, max_iter=1000)
    model.fit(vectors.fit_transform(frames["train"]["text"]), frames["train"]["label"])
    accuracy = model.score(vectors.transform(frames["test"]["text"]), frames["test"]["label"])
    assert 0.8 < accuracy < 0.9
