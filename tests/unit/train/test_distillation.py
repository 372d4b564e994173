"""What a student learns: labels and its teacher's probabilities, of texts without labels these alone."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bench.config.schema import DistillationConfig
from bench.data.teaching import Teaching
from bench.data.tokenised import TokenisedSplit
from bench.train.task import NOTHING, Distillation, distil

LABELS = np.array([0, 2, NOTHING])
TAUGHT = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.0, 0.05, 0.95]])
SCORES = torch.tensor([[1.0, -0.5, 0.25], [0.0, 2.0, 1.0], [0.3, 0.2, -1.0]])


class Scored(nn.Module):
    """A model that scores the texts so, whatever it reads."""

    def __init__(self, scores: torch.Tensor = SCORES) -> None:
        super().__init__()
        self.scores = scores

    def forward(self, rows: torch.Tensor) -> Any:
        return SimpleNamespace(logits=self.scores[rows])


def temper(scores: list[float], temperature: float) -> list[float]:
    exponents = [math.exp(score / temperature) for score in scores]
    return [one / sum(exponents) for one in exponents]


def compute_by_hand(place: int, weight: float, temperature: float) -> float:
    """Hinton et al., arXiv:1503.02531, section 2, for one text."""
    scores = SCORES[place].tolist()
    logits = [math.log(max(one, 1e-15)) for one in TAUGHT[place]]
    teacher, student = temper(logits, temperature), temper(scores, temperature)
    divergence = sum(p * math.log(p / q) for p, q in zip(teacher, student, strict=True) if p)
    label = LABELS[place]
    hard = 0.0 if label == NOTHING else -math.log(temper(scores, 1.0)[label])
    return (1 - weight) * hard + weight * temperature**2 * divergence


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_loss_is_that_of_the_formula_and_of_unlabelled_texts_the_teachers_part(
    weight: float, temperature: float
) -> None:
    task = Distillation(LABELS, TAUGHT, weight, temperature)
    rows = torch.tensor([2, 0, 1])
    losses = task.losses(Scored(), {"rows": rows}, rows)
    expected = [compute_by_hand(int(place), weight, temperature) for place in rows]
    assert losses.tolist() == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_a_text_that_the_teacher_was_not_asked_about_has_its_label_alone_and_a_gradient() -> None:
    taught = np.where(np.arange(3)[:, None] == 0, np.nan, TAUGHT)
    task = Distillation(LABELS, taught, 0.3, 2.0)
    scores, rows = SCORES.clone().requires_grad_(), torch.tensor([0, 1])
    losses = task.losses(Scored(scores), {"rows": rows}, rows)
    alone = -0.7 * math.log(temper(SCORES[0].tolist(), 1.0)[0])
    assert losses.tolist() == pytest.approx([alone, compute_by_hand(1, 0.3, 2.0)], rel=1e-5)
    losses.sum().backward()
    assert scores.grad is not None
    assert scores.grad.isfinite().all()


def make_split(texts: list[list[int]], labels: list[int], owners: list[int] | None = None) -> TokenisedSplit:
    ids = np.array([token for text in texts for token in text], dtype=np.int32)
    offsets = np.concatenate([[0], np.cumsum([len(text) for text in texts])])
    more = {} if owners is None else {"owners": np.array(owners)}
    return TokenisedSplit(ids, offsets, np.array(labels), np.diff(offsets), **more)


def learn(train: TokenisedSplit, asked: TokenisedSplit | None, texts: int) -> tuple[TokenisedSplit, Any]:
    splits = {"train": train, "validation": train} | ({} if asked is None else {"unlabelled": asked})
    teaching = Teaching(np.full((texts, 2), 0.5), {})
    found, task = distil(splits, teaching, DistillationConfig(weight=0.5, temperature=2.0, folds=2))
    assert set(found) == {"train", "validation"}
    return found["train"], task


def test_unlabelled_texts_stand_behind_those_of_train_and_each_row_names_its_text() -> None:
    train, task = learn(make_split([[5, 6], [7]], [1, 0]), make_split([[8, 9, 10]], [0]), 3)
    assert [train.row(place).tolist() for place in range(3)] == [[5, 6], [7], [8, 9, 10]]
    assert train.labels.tolist() == [0, 1, 2]
    assert task.labels.tolist() == [1, 0, NOTHING]
    alone, task = learn(make_split([[5, 6], [7]], [1, 0]), None, 2)
    assert alone.labels.tolist() == [0, 1]
    assert task.labels.tolist() == [1, 0]


def test_windows_of_a_text_have_its_teachers_probabilities() -> None:
    windows = make_split([[5], [6], [7]], [1, 1, 0], owners=[0, 0, 1])
    train, task = learn(windows, make_split([[8]], [0]), 3)
    assert train.labels.tolist() == train.owners.tolist() == [0, 0, 1, 2]
    assert task.labels.tolist() == [1, 0, NOTHING]
