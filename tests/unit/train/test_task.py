"""Loss and scores of both tasks, in closed form, of a model whose next tokens are known."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench.data.prompt import Prompt
from bench.train import task as tasks
from bench.train.task import LabelLikelihood, SequenceClassification

# After each token, the probabilities of the next being 0, 1, 2, 3; the last prompt token is 0 or 1.
NEXT = torch.tensor(
    [[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1], [0.25, 0.25, 0.4, 0.1], [0.7, 0.1, 0.1, 0.1]],
    dtype=torch.float64,
)
END = 3
INPUTS = {
    "input_ids": torch.tensor([[2, 2, 0], [0, 2, 1]]),
    "attention_mask": torch.tensor([[1, 1, 1], [0, 1, 1]]),
}


class Markov(torch.nn.Module):
    """A causal model to which only the last token matters; it remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[list[list[int]], list[list[int]], int]] = []

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, logits_to_keep: int) -> Any:
        self.asked.append((input_ids.tolist(), attention_mask.tolist(), logits_to_keep))
        return SimpleNamespace(logits=NEXT.log()[input_ids[:, -logits_to_keep:]] + 5.0)


def of(*answers: tuple[int, ...]) -> LabelLikelihood:
    return LabelLikelihood(Prompt((), (), tuple((*answer, END) for answer in answers)))


def test_the_loss_is_that_of_every_token_of_the_answer_and_no_other() -> None:
    task, model, labels = of((1,), (2, 0)), Markov(), torch.tensor([0, 1])
    losses = task.losses(model, INPUTS, labels)
    probabilities = [[NEXT[0, 1], NEXT[1, END]], [NEXT[1, 2], NEXT[2, 0], NEXT[0, END]]]
    assert losses.tolist() == pytest.approx([-sum(math.log(one) for one in row) for row in probabilities])
    assert task.count(labels) == 5
    assert model.asked == [
        ([[2, 2, 0, 1, END], [0, 2, 1, 2, 0]], [[1, 1, 1, 1, 1], [0, 1, 1, 1, 1]], 3),
    ]


def test_labels_of_one_token_share_one_sequence() -> None:
    task, model = of((1,), (2,), (0,)), Markov()
    scores = task.score(model, INPUTS)
    assert scores.exp().numpy() == pytest.approx(NEXT[[0, 1]][:, [1, 2, 0]].numpy())
    assert task.sequences == 1
    assert model.asked == [(INPUTS["input_ids"].tolist(), INPUTS["attention_mask"].tolist(), 1)]


def test_labels_share_what_they_have_in_common_but_for_the_last_token() -> None:
    task, model = of((1, 0), (1, 2), (2, 2), (0,)), Markov()
    scores = task.score(model, INPUTS)
    expected = [
        [NEXT[last, 1] * NEXT[1, 0], NEXT[last, 1] * NEXT[1, 2], NEXT[last, 2] * NEXT[2, 2], NEXT[last, 0]]
        for last in (0, 1)
    ]
    assert scores.exp().numpy() == pytest.approx(torch.tensor(expected).numpy())
    assert task.sequences == 3
    ids, mask, kept = model.asked[0]
    assert (len(ids), kept) == (6, 2)
    assert [row[3:] for row in ids] == [[1], [2], [0]] * 2
    assert [row[3:] for row in mask] == [[1], [1], [0]] * 2


def test_a_word_that_begins_another_has_to_end() -> None:
    scores = of((1,), (1, 2)).score(Markov(), INPUTS)
    expected = [[NEXT[last, 1] * NEXT[1, END], NEXT[last, 1] * NEXT[1, 2] * NEXT[2, END]] for last in (0, 1)]
    assert scores.exp().numpy() == pytest.approx(torch.tensor(expected).numpy())


def test_a_heads_outputs_are_scores_and_its_loss_is_over_rows() -> None:
    logits = torch.tensor([[1.0, 2.0], [0.5, 0.0]])
    task, labels = SequenceClassification(), torch.tensor([1, 1])

    def model(**_: Any) -> Any:
        return SimpleNamespace(logits=logits)

    assert task.score(model, INPUTS).equal(logits)  # type: ignore[arg-type]
    losses = task.losses(model, INPUTS, labels)  # type: ignore[arg-type]
    assert losses.tolist() == pytest.approx([math.log1p(math.exp(-1)), math.log1p(math.exp(0.5))])
    assert task.count(labels) == 2


def test_a_prompt_decides_the_task() -> None:
    assert isinstance(tasks.make(None), SequenceClassification)
    assert isinstance(tasks.make(Prompt((), (), ((1, END),))), LabelLikelihood)
