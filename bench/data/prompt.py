"""A text as the prompt of a causal language model, and the labels as its possible answers, in token ids."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bench.data.dataset import Dataset
from bench.data.sources import Text, list_texts
from bench.errors import ConfigError

_PLACE, _SECOND = "{text}", "{pair}"  # in a template
_PLACES = re.compile(r"\{text\}|\{pair\}")
_BETWEEN = "\n\n"  # examples, as lm-evaluation-harness has it


@dataclass(frozen=True)
class Prompt:
    """What stands around every text, and what may follow it."""

    before: tuple[int, ...]  # the tokenizer's first special tokens, and the template up to the text
    after: tuple[int, ...]  # the template from the text on, and the tokenizer's last special tokens
    answers: tuple[tuple[int, ...], ...]  # each label's words, and the eos token that ends them
    examples: tuple[int, ...] = ()  # texts with their answers, which stand before every prompt
    between: tuple[int, ...] | None = None  # what parts a text from its second one; None: it has none

    @property
    def room(self) -> int:
        """Tokens that a model reads beside examples and text; an answer's last token is only predicted."""
        around = len(self.before) + len(self.between or ()) + len(self.after)
        return around + max(map(len, self.answers)) - 1

    @property
    def scored(self) -> tuple[tuple[int, ...], ...]:
        """What labels are compared by: their words, and the end too where one's words begin another's.

        If none does, no two labels can both be written, so their likelihoods compete fairly as they are, and
        labels of one token each need no more than the prompt's next token.
        """
        words = tuple(answer[:-1] for answer in self.answers)
        begins = any(word != other and other[: len(word)] == word for word in words for other in words)
        return self.answers if begins else words


def draw_examples(dataset: Dataset, *, shots: int, seed: int) -> list[tuple[Text, str]]:
    """Draw so many texts of each label from the train split, with their labels and in an order drawn too.

    With one seed, fewer texts are a part of more.

    Raises:
        ConfigError: a label has fewer texts.
    """
    random = np.random.default_rng(seed)
    train, drawn = dataset.splits["train"], list[int]()
    for number, label in enumerate(dataset.labels):
        rows = np.flatnonzero(train["label"] == number)
        if len(rows) < shots:
            raise ConfigError(
                f"method.shots={shots}: the train split has {len(rows)} texts of the label {label!r}; set "
                "method.shots to at most that"
            )
        drawn += random.permutation(rows)[:shots].tolist()
    texts, labels = list_texts(train), train["label"].tolist()
    return [(texts[row], dataset.labels[labels[row]]) for row in random.permutation(drawn)]


def make(
    tokenizer: Any,
    *,
    template: str,
    words: Mapping[str, str],
    examples: Sequence[tuple[Text, str]] = (),
    max_length: int = 0,
    pairs: bool = False,
) -> Prompt:
    """Return the template around ``{text}`` and each label's words, in their declared order.

    If texts come in ``pairs``, the second one stands where the template says ``{pair}``, or else on the line
    below the first.

    Each example, a text and its label, is written as a prompt with its answer and followed by an empty line;
    its text is cut so that it takes at most ``max_length`` tokens, as the texts that are asked about are.

    Template, text and words are tokenised apart, so that only the text can be cut and that an answer's tokens
    are the same after every text. The tokenizer's special tokens stand where it puts them around a text, also
    where that is between text and answer (ChatGLM); an eos at the end would end the answer before it begins.

    Raises:
        ConfigError: words without a token, two labels with the same tokens, or a tokenizer without eos.
    """
    name = type(tokenizer).__name__
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            f"{name}: the tokenizer has no eos token, which ends an answer; task=label_likelihood needs a "
            "decoder: use task=sequence_classification, or name one as eos_token in its tokenizer_config.json"
        )
    answers = [(*_encode(tokenizer, word), int(tokenizer.eos_token_id)) for word in words.values()]
    _require_distinct(answers, words, name)
    first, last = find_specials(tokenizer, next(iter(words.values())))
    last = last[:-1] if last[-1:] == [tokenizer.eos_token_id] else last
    if pairs and _SECOND not in template:
        template = template.replace(_PLACE, f"{_PLACE}\n{_SECOND}")
    before, *between, after = (_encode(tokenizer, part) for part in _PLACES.split(template))
    parted = tuple(between[0]) if pairs else None
    prompt = Prompt((*first, *before), (*after, *last), tuple(answers), between=parted)
    if not examples:
        return prompt
    prompt = replace(prompt, before=tuple(before))
    answer_of = dict(zip(words, answers, strict=True))
    end, longest = _encode(tokenizer, _BETWEEN), max(1, max_length - prompt.room)
    texts = encode_texts(tokenizer, [text for text, _ in examples], longest, prompt.between)
    written = [
        (*before, *text, *after, *answer_of[label][:-1], *end)
        for text, (_, label) in zip(texts, examples, strict=True)
    ]
    return replace(prompt, examples=(*first, *(token for one in written for token in one)))


def encode_texts(
    tokenizer: Any, texts: Sequence[Text], longest: int | None, between: Sequence[int] | None
) -> list[list[int]]:
    """Return the tokens of each text, cut to ``longest``, or of both of a pair with what is between them.

    ``longest`` does not count what is between. Of a pair the longer text is cut first, as tokenizers do it.
    """
    options: dict[str, Any] = {"add_special_tokens": False, "verbose": False}
    if between is None:
        cut = {"truncation": False} if longest is None else {"truncation": True, "max_length": longest}
        ids: list[list[int]] = tokenizer(list(texts), **cut, **options)["input_ids"]
        return ids
    first, second = (
        tokenizer(list(side), truncation=False, **options)["input_ids"] for side in zip(*texts, strict=True)
    )
    return [_join(*pair, longest, between) for pair in zip(first, second, strict=True)]


def _join(first: list[int], second: list[int], longest: int | None, between: Sequence[int]) -> list[int]:
    if longest is not None:
        half = longest // 2
        first = first[: max(longest - len(second), longest - half)]
        second = second[: longest - len(first)]
    return [*first, *between, *second] if first and second else []


def _encode(tokenizer: Any, text: str, **cut: int) -> list[int]:
    """Return the text's tokens, with ``max_length`` no more than so many of them."""
    options = {"truncation": True, **cut} if cut else {}
    if not text:
        return []
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False, **options)["input_ids"]
    return ids


def _require_distinct(answers: Sequence[tuple[int, ...]], words: Mapping[str, str], name: str) -> None:
    """Raise a ConfigError that names labels whose words cannot be written or told apart."""
    seen: dict[tuple[int, ...], str] = {}
    for label, answer in zip(words, answers, strict=True):
        said = f"data.label_words: {words[label]!r} of the label {label!r}"
        if len(answer) == 1:
            raise ConfigError(f"{said} has no token in {name}; give it other words")
        if (other := seen.setdefault(answer, label)) != label:
            raise ConfigError(
                f"{said} has the same tokens in {name} as {words[other]!r} of {other!r}; give one other words"
            )


def find_specials(tokenizer: Any, text: str) -> tuple[list[int], list[int]]:
    """Return the tokens that the tokenizer adds before and after a text.

    Raises:
        ConfigError: they change the text's own tokens.
    """
    bare, whole = _encode(tokenizer, text), tokenizer(text, verbose=False)["input_ids"]
    starts = [start for start in range(len(whole)) if whole[start : start + len(bare)] == bare]
    if not starts:
        raise ConfigError(
            f"{type(tokenizer).__name__}: the tokens of {text!r} differ with and without special tokens, so "
            "a prompt cannot be made; use task=sequence_classification"
        )
    return whole[: starts[0]], whole[starts[0] + len(bare) :]
