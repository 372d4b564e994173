"""A training of a model that a test has built, as bench prepares it for a run alone on a CPU."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import nn

from bench.config.schema import Config
from bench.model import trained
from bench.train.task import SequenceClassification, Task
from bench.train.training import Log, Networks, Part, Training, make_accelerator, prepare
from bench.winner.classifier import Classifier


def prepare_alone(
    model: nn.Module,
    config: Config,
    *,
    task: Task | None = None,
    steps: int = 20,
    precision: str = "fp32",
    label_counts: Sequence[int] = (1, 1),
    log: Log = lambda *_: None,
) -> Training:
    """Prepare a training of the model before its first step."""
    return prepare(
        Networks(model, [Part(partial(trained.find, model), 0, 0)], {}),
        [config],
        task=task or SequenceClassification(),
        label_counts=[np.array(label_counts)],
        steps=steps,
        accelerator=make_accelerator(torch.device("cpu"), precision),
        logs=[log],
    )


def forget_temperature(classifier: Classifier) -> Classifier:
    """Let the classifier say the probabilities that its run predicted."""
    return replace(classifier, manifest=replace(classifier.manifest, confidence=None))
