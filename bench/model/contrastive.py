"""An encoder fine-tuned on pairs of labelled texts, as SetFit does it (Tunstall et al., arXiv:2209.11055).

The library setfit draws the pairs and trains; only this file imports it. Two texts of one label should have a
cosine of 1, two of different labels one of 0, where a text is the mean of its last hidden states.
"""

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PrinterCallback, ProgressCallback

from bench.config.schema import TrainConfig

with warnings.catch_warnings():  # whose filters setfit changes as it is imported
    import setfit
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import InputModule, Pooling

setfit.logging.set_verbosity_error()


class Labelled(NamedTuple):
    """Train texts with their labels and token ids, and how the shorter rows of a batch are filled up."""

    texts: Sequence[str]
    labels: Sequence[int]
    ids: Sequence[npt.NDArray[Any]]  # of each text: (length,)
    pad_token_id: int
    padding_side: str  # left | right


class _States(InputModule):  # type: ignore[misc]
    """The encoder as a module of sentence-transformers, so that whatever bench loads can be tuned."""

    def __init__(self, encoder: nn.Module, texts: Labelled) -> None:
        super().__init__()
        self.encoder, self.texts = encoder, texts
        ids = (torch.from_numpy(row.astype(np.int64)) for row in texts.ids)
        self.ids = dict(zip(texts.texts, ids, strict=True))

    def preprocess(self, inputs: Sequence[str], **_: Any) -> dict[str, torch.Tensor]:
        """Return the texts as a batch. # (rows, longest)"""
        ids = [self.ids[text] for text in inputs]
        fill = partial(pad_sequence, batch_first=True, padding_side=self.texts.padding_side)
        mask = fill([torch.ones_like(row) for row in ids])
        return {"input_ids": fill(ids, padding_value=self.texts.pad_token_id), "attention_mask": mask}

    def forward(self, features: dict[str, torch.Tensor], **_: Any) -> dict[str, torch.Tensor]:
        """Add the last hidden states. # (rows, longest, hidden)"""
        inputs = {name: features[name] for name in ("input_ids", "attention_mask")}
        return {**features, "token_embeddings": self.encoder(**inputs).last_hidden_state}

    def save(self, output_path: str, *_: Any, **__: Any) -> None:
        """Refuse, as nothing of the training is kept."""
        raise NotImplementedError(output_path)


def describe_library() -> str:
    """Return what trains, with its version, for the record."""
    names = ("setfit", "sentence-transformers")
    return ", ".join(f"{name} {metadata.version(name)}" for name in names)


def tune(
    encoder: nn.Module,
    texts: Labelled,
    settings: TrainConfig,
    *,
    steps: int,
    seed: int,
    device: torch.device,
    precision: str,
    folder: Path,
) -> Iterator[tuple[int, dict[str, float]]]:
    """Tune all of the encoder in place; return each logged step with its loss, rate and gradient norm.

    A step is of ``micro_batch_size`` x ``gradient_accumulation_steps`` pairs, half of them of one label.

    Args:
        encoder: with weights in fp32
        folder: that the library wants, and writes nothing to
    """
    accumulation = settings.gradient_accumulation_steps
    body = SentenceTransformer(modules=[_States(encoder, texts), Pooling(1)], device=str(device))
    arguments = setfit.TrainingArguments(
        output_dir=str(folder),
        batch_size=settings.micro_batch_size,
        max_steps=steps * accumulation,  # by which the library counts the pairs to draw
        body_learning_rate=float(settings.lr),
        l2_weight=settings.weight_decay,
        seed=seed,
        logging_steps=settings.log_steps,
        save_strategy="no",
        report_to="none",
        show_progress_bar=False,
    )
    asked = {
        "ACCELERATE_USE_CPU": str(device.type == "cpu"),
        "ACCELERATE_MIXED_PRECISION": {"fp32": "no"}.get(precision, precision),
    }
    with mock.patch.dict(os.environ, asked):  # the library's arguments do not say them
        trainer = setfit.Trainer(setfit.SetFitModel(body), arguments)
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    own = trainer.st_trainer.args
    own.max_steps, own.gradient_accumulation_steps = steps, accumulation
    own.warmup_steps, own.max_grad_norm = settings.warmup_steps, settings.max_grad_norm or 0.0
    own.logging_nan_inf_filter = False
    own.dataloader_pin_memory = device.type == "cuda"
    encoder.requires_grad_(True)
    trainer.train_embeddings(list(texts.texts), list(texts.labels))
    encoder.requires_grad_(False)
    return _read_history(trainer.st_trainer.state.log_history)


def _read_history(rows: Sequence[Mapping[str, float]]) -> Iterator[tuple[int, dict[str, float]]]:
    """Yield the rows of the library's log that have a loss, under bench's names."""
    names = {"loss": "embedding_loss", "lr": "learning_rate", "grad_norm": "grad_norm"}
    for row in rows:
        if "embedding_loss" in row:  # the last row is a summary
            yield int(row["step"]), {name: row[theirs] for name, theirs in names.items()}
