"""A text as the prompt of a causal language model, and the labels as its possible answers, in token ids."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.errors import ConfigError

_PLACE = "{text}"  # in a template


@dataclass(frozen=True)
class Prompt:
    """What stands around every text, and what may follow it."""

    before: tuple[int, ...]  # the tokenizer's first special tokens, and the template up to the text
    after: tuple[int, ...]  # the template from the text on, and the tokenizer's last special tokens
    answers: tuple[tuple[int, ...], ...]  # each label's words, and the eos token that ends them

    @property
    def room(self) -> int:
        """Tokens that a model reads beside the text; an answer's last token is only predicted."""
        return len(self.before) + len(self.after) + max(map(len, self.answers)) - 1

    @property
    def scored(self) -> tuple[tuple[int, ...], ...]:
        """What labels are compared by: their words, and the end too where one's words begin another's.

        If none does, no two labels can both be written, so their likelihoods compete fairly as they are, and
        labels of one token each need no more than the prompt's next token.
        """
        words = tuple(answer[:-1] for answer in self.answers)
        begins = any(word != other and other[: len(word)] == word for word in words for other in words)
        return self.answers if begins else words


def make(tokenizer: Any, *, template: str, words: Mapping[str, str]) -> Prompt:
    """Return the template around ``{text}`` and each label's words, in their declared order.

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
    first, last = _find_specials(tokenizer, next(iter(words.values())))
    before, after = template.split(_PLACE)
    return Prompt(
        before=(*first, *_encode(tokenizer, before)),
        after=(*_encode(tokenizer, after), *last),
        answers=tuple(answers),
    )


def _encode(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
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


def _find_specials(tokenizer: Any, text: str) -> tuple[list[int], list[int]]:
    """Return the tokens that the tokenizer adds before and after a text, without a last eos."""
    bare, whole = _encode(tokenizer, text), tokenizer(text)["input_ids"]
    starts = [start for start in range(len(whole)) if whole[start : start + len(bare)] == bare]
    if not starts:
        raise ConfigError(
            f"{type(tokenizer).__name__}: the tokens of {text!r} differ with and without special tokens, so "
            "a prompt cannot be made; use task=sequence_classification"
        )
    first, last = whole[: starts[0]], whole[starts[0] + len(bare) :]
    return first, last[:-1] if last[-1:] == [tokenizer.eos_token_id] else last
