"""Prompts and answers in token ids, for tokenizers that put their special tokens in different places."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from bench.data import prompt as prompts
from bench.data.dataset import Dataset
from bench.data.prompt import Prompt
from bench.errors import ConfigError

BEGIN, EOS, MASK, START = 1, 2, 3, 4


class CharacterTokenizer:
    """Each character's number, with the special tokens of one call around them; spaces have no token."""

    def __init__(self, *, first: list[int], last: list[int], eos_token_id: int | None = EOS) -> None:
        self.first, self.last, self.eos_token_id = first, last, eos_token_id

    def __call__(self, text: str | list[str], *, add_special_tokens: bool = True, **cut: Any) -> Any:
        if isinstance(text, list):
            return {"input_ids": [self(one, add_special_tokens=False, **cut)["input_ids"] for one in text]}
        ids = [ord(character) for character in text if character != " "][: cut.get("max_length")]
        return {"input_ids": [*self.first, *ids, *self.last] if add_special_tokens else ids}


class Joining(CharacterTokenizer):
    """Joins the first special token with the first of the text, so that no text's tokens stay as they are."""

    def __call__(self, text: str, *, add_special_tokens: bool = True, **_: Any) -> Any:
        ids = super().__call__(text, add_special_tokens=False)["input_ids"]
        return {"input_ids": [1000 + ids[0], *ids[1:]] if add_special_tokens else ids}


def make(tokenizer: CharacterTokenizer, words: dict[str, str] | None = None) -> Prompt:
    return prompts.make(tokenizer, template=">{text}:", words=words or {"x": "a", "y": "bc"})


@pytest.mark.parametrize(
    ("first", "last", "before", "after"),
    [
        ([], [], [], []),  # Qwen
        ([BEGIN], [], [BEGIN], []),  # Llama
        ([BEGIN], [EOS], [BEGIN], []),  # an eos there would be the end before the answer
        ([MASK, START], [], [MASK, START], []),  # GLM-4
        ([], [MASK, START], [], [MASK, START]),  # ChatGLM
    ],
)
def test_special_tokens_stand_where_the_tokenizer_puts_them(
    first: list[int], last: list[int], before: list[int], after: list[int]
) -> None:
    prompt = make(CharacterTokenizer(first=first, last=last))
    assert prompt.before == (*before, ord(">"))
    assert prompt.after == (ord(":"), *after)
    assert prompt.answers == ((ord("a"), EOS), (ord("b"), ord("c"), EOS))


def test_the_room_is_for_all_but_the_text_and_the_last_token_that_is_only_predicted() -> None:
    assert make(CharacterTokenizer(first=[BEGIN], last=[MASK, START])).room == 2 + 3 + 2


@pytest.mark.parametrize(
    ("words", "has_end"),
    [
        (["a", "b"], False),
        (["ab", "ac"], False),
        (["a", "ab"], True),
        (["b", "abc", "ab"], True),
        (["ab", "b"], False),  # ends with it, which is no matter
    ],
)
def test_the_end_is_compared_only_where_words_begin_other_words(words: list[str], has_end: bool) -> None:
    prompt = make(CharacterTokenizer(first=[], last=[]), {word: word for word in words})
    expected = [tuple(map(ord, word)) + (EOS,) * has_end for word in words]
    assert list(prompt.scored) == expected


@pytest.mark.parametrize(
    ("tokenizer", "words", "message"),
    [
        (
            CharacterTokenizer(first=[], last=[], eos_token_id=None),
            {"x": "a"},
            "CharacterTokenizer: the tokenizer has no eos token, which ends an answer",
        ),
        (
            CharacterTokenizer(first=[], last=[]),
            {"x": "a", "y": " "},
            "data.label_words: ' ' of the label 'y' has no token in CharacterTokenizer; give it other words",
        ),
        (
            CharacterTokenizer(first=[], last=[]),
            {"x": "a", "y": "b", "z": " a"},
            "data.label_words: ' a' of the label 'z' has the same tokens in CharacterTokenizer as 'a' of 'x'",
        ),
        (
            Joining(first=[], last=[]),
            {"x": "a", "y": "b"},
            "Joining: the tokens of 'a' differ with and without special tokens",
        ),
    ],
)
def test_a_tokenizer_that_cannot_write_the_labels_is_one_message(
    tokenizer: CharacterTokenizer, words: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        make(tokenizer, words)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("first", "last", "begin", "end"), [([BEGIN], [EOS], [BEGIN], []), ([], [MASK, START], [], [MASK, START])]
)
def test_examples_are_prompts_with_their_answers_and_an_empty_line(
    first: list[int], last: list[int], begin: list[int], end: list[int]
) -> None:
    """Texts are cut to what the text that is asked about may have: 9 tokens less 2 and 2 of the answer."""
    tokenizer = CharacterTokenizer(first=first, last=last)
    prompt = prompts.make(
        tokenizer,
        template=">{text}:",
        words={"x": "a", "y": "bc"},
        examples=[("some", "y"), ("longer", "x")],
        max_length=8 + len(end),
    )
    assert prompt.examples == (*begin, *map(ord, ">some:bc\n\n>long:a\n\n"))
    assert (prompt.before, prompt.after) == ((ord(">"),), (ord(":"), *end))
    assert prompt.room == 4 + len(end)


def make_dataset(counts: dict[str, int]) -> Dataset:
    numbers = np.repeat(np.arange(len(counts)), list(counts.values()))
    frame = pd.DataFrame({"text": [f"text {row}" for row in range(len(numbers))], "label": numbers})
    return Dataset({"train": frame}, tuple(counts), "", 0)


def test_as_many_examples_of_each_label_are_drawn_by_the_seed() -> None:
    dataset = make_dataset({"x": 30, "y": 10, "z": 20})
    drawn = {seed: prompts.draw_examples(dataset, shots=4, seed=seed) for seed in range(8)}
    assert drawn[0] == prompts.draw_examples(dataset, shots=4, seed=0)
    assert len({tuple(examples) for examples in drawn.values()}) == 8
    orders = {tuple(label for _, label in examples) for examples in drawn.values()}
    assert {tuple(sorted(order)) for order in orders} == {tuple("xxxxyyyyzzzz")}
    assert len(orders) > 4
    truth = {f"text {row}": "xyz"[(row >= 30) + (row >= 40)] for row in range(60)}
    assert all(truth[text] == label for examples in drawn.values() for text, label in examples)
    assert all(len(set(examples)) == 12 for examples in drawn.values())
    assert set(prompts.draw_examples(dataset, shots=2, seed=3)) < set(drawn[3])


def test_more_examples_than_a_label_has_texts_is_one_message() -> None:
    with pytest.raises(ConfigError, match=r"method\.shots=3: the train split has 2 texts of the label 'y'"):
        prompts.draw_examples(make_dataset({"x": 3, "y": 2}), shots=3, seed=0)


@pytest.mark.parametrize(
    ("template", "before", "between", "after"),
    [(">{text}:", ">", "\n", ":"), (">{text}|{pair}:", ">", "|", ":"), ("{text}{pair}", "", "", "")],
)
def test_a_second_text_stands_where_the_template_says_or_below_the_first(
    template: str, before: str, between: str, after: str
) -> None:
    words, tokenizer = {"x": "a", "y": "bc"}, CharacterTokenizer(first=[BEGIN], last=[])
    prompt = prompts.make(tokenizer, template=template, words=words, pairs=True)
    found = (prompt.before, prompt.between, prompt.after)
    assert found == ((BEGIN, *map(ord, before)), tuple(map(ord, between)), tuple(map(ord, after)))
    assert prompt.room == 1 + len(before + between + after) + 2


@pytest.mark.parametrize(
    ("longest", "expected"),
    [(None, "abcdef|xyz"), (9, "abcdef|xyz"), (8, "abcde|xyz"), (6, "abc|xyz"), (4, "ab|xy"), (3, "ab|x")],
)
def test_of_a_pair_the_longer_text_is_cut_first(longest: int | None, expected: str) -> None:
    tokenizer = CharacterTokenizer(first=[BEGIN], last=[])
    [ids] = prompts.encode_texts(tokenizer, [("abcdef", "xyz")], longest, [ord("|")])
    assert "".join(map(chr, ids)) == expected
    [swapped] = prompts.encode_texts(tokenizer, [("xyz", "abcdef")], longest, [ord("|")])
    assert len(swapped) == len(ids)


def test_examples_are_pairs_too() -> None:
    prompt = prompts.make(
        CharacterTokenizer(first=[BEGIN], last=[]),
        template="{text}|{pair}:",
        words={"x": "a", "y": "bc"},
        examples=[(("p", "q"), "y")],
        max_length=20,
        pairs=True,
    )
    assert prompt.examples == (BEGIN, *map(ord, "p|q:bc\n\n"))
