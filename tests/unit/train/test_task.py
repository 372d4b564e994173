"""Loss and scores of both tasks, in closed form, of a model whose next tokens are known."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from transformers import DynamicCache, LlamaConfig

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


def test_a_weighted_loss_counts_each_label_alike() -> None:
    counts, labels = np.array([80, 16, 4]), torch.arange(3).repeat_interleave(torch.tensor([80, 16, 4]))
    weigh = tasks.choose_weights("weighted", counts, torch.device("cpu"))
    assert weigh is not None
    weights = weigh(torch.ones(100), labels)
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels.numpy())
    assert weights[[0, 80, 99]].tolist() == pytest.approx(expected.tolist())
    assert float(weights.mean()) == pytest.approx(1.0)


def test_a_focal_loss_counts_texts_less_the_surer_the_right_answer_is() -> None:
    shares = torch.tensor([0.01, 0.5, 0.9, 1.0], dtype=torch.float64, requires_grad=True)
    weigh = tasks.choose_weights("focal", np.ones(2), torch.device("cpu"))
    assert weigh is not None
    losses = weigh(-shares.log(), torch.zeros(4, dtype=torch.int64))
    closed = [-((1 - share) ** 2) * math.log(share) for share in (0.01, 0.5, 0.9, 1.0)]
    assert losses.tolist() == pytest.approx(closed)
    losses.sum().backward()
    slopes = [2 * (1 - p) * math.log(p) - (1 - p) ** 2 / p for p in (0.01, 0.5, 0.9, 1.0)]
    assert shares.grad.tolist() == pytest.approx(slopes)  # type: ignore[union-attr]


class Markov(torch.nn.Module):
    """A causal model to which only the last token matters; it remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[list[list[int]], list[list[int]], int]] = []

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, logits_to_keep: int, **options: Any
    ) -> Any:
        self.asked.append((input_ids.tolist(), attention_mask.tolist(), logits_to_keep))
        cache = options.get("cache") or DynamicCache()
        cache.update(*2 * [torch.zeros(*input_ids.shape, 1).unsqueeze(1)], 0)
        return SimpleNamespace(logits=NEXT.log()[input_ids[:, -logits_to_keep:]] + 5.0, cache=cache)

    def prepare_inputs_for_generation(
        self, input_ids: torch.Tensor, *, next_sequence_length: int, **options: Any
    ) -> dict[str, Any]:
        return {"input_ids": input_ids[:, -next_sequence_length:], **options}


def of(*answers: tuple[int, ...], keeps_keys: bool = True) -> LabelLikelihood:
    return LabelLikelihood(Prompt((), (), tuple((*answer, END) for answer in answers)), keeps_keys)


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
    assert (task.readings, task.sequences, task.answer_tokens) == (1, 1, 0)
    assert model.asked == [(INPUTS["input_ids"].tolist(), INPUTS["attention_mask"].tolist(), 1)]


@pytest.mark.parametrize("keeps_keys", [True, False])
def test_labels_share_what_they_have_in_common_but_for_the_last_token(*, keeps_keys: bool) -> None:
    task, model = of((1, 0), (1, 2), (2, 2), (0,), keeps_keys=keeps_keys), Markov()
    scores = task.score(model, INPUTS)
    expected = [
        [NEXT[last, 1] * NEXT[1, 0], NEXT[last, 1] * NEXT[1, 2], NEXT[last, 2] * NEXT[2, 2], NEXT[last, 0]]
        for last in (0, 1)
    ]
    assert scores.exp().numpy() == pytest.approx(torch.tensor(expected).numpy())
    ids, mask, kept = model.asked[-1]
    assert len(ids) == 6
    assert [row[-1:] for row in ids] == [[1], [2], [0]] * 2
    assert [row[3:] for row in mask] == [[1], [1], [0]] * 2
    if keeps_keys:
        assert model.asked[0] == (INPUTS["input_ids"].tolist(), INPUTS["attention_mask"].tolist(), 1)
        assert (kept, len(ids[0])) == (1, 1)
    else:
        assert (kept, len(ids[0]), len(model.asked)) == (2, 4, 1)


@pytest.mark.parametrize(
    ("stems", "keeps_keys", "expected"),
    [(8, True, (1, 1, 16)), (8, False, (8, 8, 2)), (2, True, (1, 1, 4)), (9, True, (1, 2, 18))],
)
def test_rows_are_as_many_as_memory_allows(
    stems: int, expected: tuple[int, int, int], *, keeps_keys: bool
) -> None:
    """Eight stems, each of two tokens here, take no more memory than a sequence that is read whole."""
    task = of(*((first, 0, 1) for first in range(stems)), keeps_keys=keeps_keys)
    assert (task.readings, task.sequences, task.answer_tokens) == expected


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
    llama = LlamaConfig(num_hidden_layers=1)
    assert isinstance(tasks.make(None, llama), SequenceClassification)
    assert tasks.make(Prompt((), (), ((1, END),)), llama) == of((1,))


class Head(torch.nn.Module):
    """A classifier whose outputs are its inputs."""

    def forward(self, input_ids: torch.Tensor) -> Any:
        return SimpleNamespace(logits=input_ids)


def test_the_loss_of_several_labels_is_their_mean_binary_cross_entropy() -> None:
    sets = np.array([[False, False, False], [True, False, True], [False, True, True]])
    outputs, labels = torch.tensor([[0.5, -1.0, 2.0], [3.0, 0.0, -0.5]]), torch.tensor([2, 0])
    task = tasks.make(None, LlamaConfig(), sets)
    targets = sets[labels.numpy()].astype(float)
    p = 1 / (1 + np.exp(-outputs.numpy()))
    expected = -(targets * np.log(p) + (1 - targets) * np.log(1 - p)).mean(axis=1)
    assert task.losses(Head(), {"input_ids": outputs}, labels).tolist() == pytest.approx(
        expected.tolist(), abs=1e-6
    )
    assert task.normalise(outputs).numpy() == pytest.approx(p, abs=1e-6)
    assert task.count(labels) == 2
    one = tasks.make(None, LlamaConfig())
    assert one.normalise(outputs).sum(-1).tolist() == pytest.approx([1.0, 1.0])
