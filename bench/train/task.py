"""The two ways to classify with a network: a head on top of it, or the likelihood of the labels' words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import nn
from torch.nn import functional

from bench.data.prompt import Prompt

_NOTHING = -100  # in place of a token where an answer is over; what cross_entropy ignores

Inputs = Mapping[str, torch.Tensor]  # input_ids, attention_mask: (rows, length)


class Task(Protocol):
    """What the training loop asks of a way to classify, of texts or, padded on the left, of prompts."""

    @property
    def sequences(self) -> int:
        """Sequences that ``score`` lets the model read for each row."""

    def count(self, labels: torch.Tensor) -> int:
        """Count the predictions over which the loss of these rows is averaged. # labels: (rows,)"""

    def losses(self, model: nn.Module, inputs: Inputs, labels: torch.Tensor) -> torch.Tensor:
        """Compute each row's loss, summed over its predictions. # (rows,)"""

    def score(self, model: nn.Module, inputs: Inputs) -> torch.Tensor:
        """Compute numbers whose softmax over the labels is their probabilities. # (rows, labels)"""


@dataclass(frozen=True)
class SequenceClassification:
    """A head with one output for each label."""

    sequences: int = 1

    def count(self, labels: torch.Tensor) -> int:
        """Count the rows."""
        return len(labels)

    def losses(self, model: nn.Module, inputs: Inputs, labels: torch.Tensor) -> torch.Tensor:
        """Compute the cross-entropy of the head's outputs."""
        return functional.cross_entropy(self.score(model, inputs), labels, reduction="none")

    def score(self, model: nn.Module, inputs: Inputs) -> torch.Tensor:
        """Return the head's outputs."""
        logits: torch.Tensor = model(**inputs).logits.float()
        return logits


@dataclass(frozen=True)
class LabelLikelihood:
    """A causal language model that writes the label's words after the prompt (PEFT's CAUSAL_LM).

    The loss is that of the answer's tokens alone, averaged over the answers' tokens of a whole step as
    transformers.Trainer does it: up to that scale the likelihood of the labels. A label's score is the sum
    of its tokens' log-probabilities, not their mean: the sum is the logarithm of the probability that the
    model writes this label, so the softmax is the probability of each label given that it writes one of them.

    The output layer sees an answer's positions only, as many as the longest answer has tokens: over a
    vocabulary of 130,000 words the logits of a whole prompt would take more memory than the rest.
    """

    prompt: Prompt

    @property
    def sequences(self) -> int:
        """One for each way that an answer can begin, up to its last token."""
        return len(self._stems)

    def count(self, labels: torch.Tensor) -> int:
        """Count the tokens of the rows' answers."""
        return int((self._taught[labels] != _NOTHING).sum())

    def losses(self, model: nn.Module, inputs: Inputs, labels: torch.Tensor) -> torch.Tensor:
        """Compute the cross-entropy of the answers' tokens, the end included."""
        targets = self._taught.to(labels.device)[labels]  # (rows, tokens)
        logits = _predict(model, inputs, targets[:, :-1])  # (rows, tokens, vocabulary)
        of_tokens = functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), reduction="none", ignore_index=_NOTHING
        )
        return of_tokens.view(targets.shape).sum(-1)

    def score(self, model: nn.Module, inputs: Inputs) -> torch.Tensor:
        """Compute each label's log-likelihood; labels alike up to their last token share a sequence."""
        device, rows = inputs["input_ids"].device, len(inputs["input_ids"])
        targets = _pad_right(self.prompt.scored).to(device)  # (labels, tokens)
        stems = _pad_right(self._stems, length=targets.shape[1] - 1).to(device)  # (stems, tokens - 1)
        stem = torch.tensor([self._stems.index(one[:-1]) for one in self.prompt.scored], device=device)
        repeated = {name: value.repeat_interleave(len(stems), 0) for name, value in inputs.items()}
        logits = _predict(model, repeated, stems.repeat(rows, 1))  # (rows x stems, tokens, vocabulary)
        logits = logits.view(rows, len(stems), *logits.shape[1:])
        place = torch.arange(targets.shape[1], device=device)
        chosen = logits[:, stem[:, None], place, targets.clamp(min=0)]  # (rows, labels, tokens)
        log_probabilities: torch.Tensor = chosen - logits.logsumexp(-1)[:, stem]
        return log_probabilities.masked_fill(targets == _NOTHING, 0.0).sum(-1)

    @cached_property
    def _taught(self) -> torch.Tensor:
        return _pad_right(self.prompt.answers)  # (labels, tokens)

    @cached_property
    def _stems(self) -> list[tuple[int, ...]]:
        return list(dict.fromkeys(answer[:-1] for answer in self.prompt.scored))


def make(prompt: Prompt | None) -> Task:
    """Make the task of inputs that are such prompts, or of texts as they are."""
    return SequenceClassification() if prompt is None else LabelLikelihood(prompt)


def _pad_right(answers: Sequence[tuple[int, ...]], *, length: int | None = None) -> torch.Tensor:
    """Put the answers in rows, the shorter ones filled up with _NOTHING. # (answers, length)"""
    length = max(map(len, answers)) if length is None else length
    rows = [[*answer, *[_NOTHING] * (length - len(answer))] for answer in answers]
    return torch.tensor(rows, dtype=torch.int64).reshape(len(rows), length)


def _predict(model: nn.Module, inputs: Inputs, stems: torch.Tensor) -> torch.Tensor:
    """Compute the logits from the prompt's last token on, where each prompt is followed by its stem.

    Args:
        stems: what is read after each prompt, an answer without its last token. # (rows, tokens - 1)
    """
    logits: torch.Tensor = model(
        input_ids=torch.cat([inputs["input_ids"], stems.clamp(min=0)], dim=1),
        attention_mask=torch.cat([inputs["attention_mask"], (stems != _NOTHING).long()], dim=1),
        logits_to_keep=stems.shape[1] + 1,
    ).logits
    return logits.float()  # (rows, tokens, vocabulary)
