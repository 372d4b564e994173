"""The training loop, explicit and on accelerate; equal to transformers.Trainer's at the same settings."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from torch import nn

from bench.data.tokens import FILLER, eval_batches
from bench.data.windows import pool
from bench.errors import RunError
from bench.model.adapters.gates import find_gates, watch_gates
from bench.train import optimizers, parallel
from bench.train.meter import Meter
from bench.train.task import Inputs, LabelLikelihood, Task, Texts
from bench.train.training import (
    Batch,
    DivergedError,
    EvalBatches,
    Member,
    Probabilities,
    Progress,
    Row,
    Training,
)

SKIPPED_SHARE = 0.1  # of a run's steps that fp16 may skip; the scale of the loss finds its place in a few


def train(
    training: Training,
    batches: Iterable[Batch],
    *,
    meter: Meter,
    predict: Callable[[], Iterable[Probabilities]],
    score: Callable[[Member, Probabilities], Mapping[str, float]],
    select_by: str,
    save_best: Callable[[Member], None],
    save_checkpoints: Callable[[], None],
) -> None:
    """Train up to the stop, and save each member whenever an evaluation of it is better than all before.

    A stop between two evaluations of the schedule is evaluated after its checkpoint, so that a training that
    goes on from there is the same as one that never stopped. A pack goes on without a member that diverges.

    Args:
        batches: at least gradient_accumulation_steps micro-batches for each step that is left
        predict: returns the probabilities of each member that is left

    Raises:
        DivergedError: the loss of a run alone is NaN or infinite, noticed within ``log_steps`` steps, or fp16
            skips more than a tenth of its steps.
    """
    evaluate = partial(
        _evaluate,
        training,
        meter=meter,
        predict=predict,
        score=score,
        select_by=select_by,
        save_best=save_best,
    )
    source = iter(batches)
    while training.running and training.step < training.stop:
        pause = training.next_pause()
        with meter.phase("train"):
            training.model.train()
            while training.running and training.step < pause:
                count = training.settings.gradient_accumulation_steps // training.merged
                take_step(training, [next(source) for _ in range(count)])
                _record_step(training, meter)
        if training.evaluates_at(pause):
            evaluate()
        if training.keeps(pause):
            with meter.phase("save"):
                save_checkpoints()
    if not training.evaluates_at(training.stop):
        evaluate()


def take_step(training: Training, micro_batches: Sequence[Batch]) -> None:
    """Take one optimizer step of each running member."""
    most = training.settings.max_grad_norm
    losses = add_gradients(training, micro_batches)
    tokens = _count(training, micro_batches, lambda batch: int(batch["attention_mask"].sum()))
    samples = _count(training, micro_batches, lambda batch: len(batch["labels"]))
    for member, loss, read, shown in zip(training.running, losses, tokens, samples, strict=True):
        progress = member.progress
        member.rate = float(member.schedule.get_last_lr()[0])
        if most is not None:
            member.norm = training.clip(member, most)
        with optimizers.in_one_piece(member.optimizer):
            member.optimizer.step()
        # The gradients of a pack's members are views of larger ones, and have to stay them.
        member.optimizer.zero_grad(set_to_none=len(training.members) == 1)
        if member.optimizer.step_was_skipped:
            progress.skipped_steps += 1
        else:
            member.schedule.step()
        member.losses += loss
        progress.steps += 1
        progress.tokens += read
        progress.samples += shown


def add_gradients(training: Training, micro_batches: Sequence[Batch]) -> torch.Tensor:
    """Add up the gradients of each running member's loss over the micro-batches. # (members,)

    Processes share the micro-batches out, and the losses that come back are of this one's part of them.
    """
    model, accelerator, task = training.model, training.accelerator, training.task
    members = len(training.running)
    predictions = torch.tensor(
        _count(training, micro_batches, lambda batch: task.count(batch["labels"])), device=accelerator.device
    )
    total = torch.zeros(members, device=accelerator.device)
    part = list(parallel.share(micro_batches, accelerator))
    for number, batch in enumerate(part, start=1):
        inputs = _hand_out(batch, training, streams=training.streams)
        labels = inputs.pop("labels")
        with parallel.synchronised(model, accelerator, now=number == len(part)):
            of_rows = training.weigh(task.losses(model, inputs, labels.clamp(min=0)), labels.clamp(min=0))
            if training.streams > 1:
                of_rows = of_rows * (labels != FILLER)
            losses = of_rows.view(members, -1).sum(1) / predictions
            parallel.backward(training.scale(losses).sum(), accelerator)
        total += losses.detach()
    return total


def _record_step(training: Training, meter: Meter) -> None:
    """Add the mean loss since the last such row to each member's history, if the step has a row."""
    for member in training.running:
        progress = member.progress
        try:
            _require_few_skipped(progress, training.stop)
            if not training.logs_at(progress.steps):
                continue
            loss = training.mean_loss(member)
        except DivergedError as error:
            training.end(member, error)
            continue
        member.losses.zero_()
        progress.logged = progress.steps
        norm = None if member.norm is None else float(member.norm)
        row: Row = {"loss": loss, "lr": member.rate, "grad_norm": norm}
        if training.scales_loss:
            row["skipped_steps"] = progress.skipped_steps
        member.record(row, meter)


def _require_few_skipped(progress: Progress, stop: int) -> None:
    """Raise a DivergedError once more steps were skipped than a training up to ``stop`` may skip."""
    if progress.skipped_steps > SKIPPED_SHARE * stop:
        raise DivergedError(
            f"by step {progress.steps} of {stop} fp16 had skipped {progress.skipped_steps} steps, as their "
            "gradients overflowed, which is more than a tenth; set train.precision=bf16 or lower train.lr"
        )


def _evaluate(
    training: Training,
    *,
    meter: Meter,
    predict: Callable[[], Iterable[Probabilities]],
    score: Callable[[Member, Probabilities], Mapping[str, float]],
    select_by: str,
    save_best: Callable[[Member], None],
) -> None:
    """Score each running member, and save those that are better than before."""
    if not training.running:
        return
    evaluated, better = [], []
    with meter.phase("eval"):
        for member, probabilities in zip(training.running, predict(), strict=True):
            try:
                evaluated.append((member, probabilities, score(member, probabilities)))
            except RunError as error:
                training.end(member, error)
    for member, probabilities, scores in evaluated:
        member.record({f"validation_{name}": value for name, value in scores.items()}, meter)
        if member.is_best(probabilities, scores[select_by]):
            better.append(member)
    if better:
        with meter.phase("save"):
            for member in better:
                save_best(member)


def predict(
    training: Training, batches: EvalBatches, *, owners: Sequence[npt.NDArray[Any]] = ()
) -> list[Probabilities]:
    """Predict the probabilities of each running member, in its split's order. # (texts, labels) each

    Processes share the batches out, and each gets all the probabilities.

    Args:
        batches: of one split for all members, or of one for each stream, as tokens.eval_batches_apart
        owners: of each split, if rows are windows of texts, whose scores are averaged. # (rows,) each
    """
    accelerator, members = training.accelerator, len(training.running)
    pooled = any(map(len, owners))
    parts = []
    training.model.eval()
    with torch.inference_mode(), accelerator.autocast():
        for rows, batch in parallel.share(batches, accelerator):
            rows = np.atleast_2d(rows)  # (splits, rows)
            texts = {name: tensor for name, tensor in batch.items() if name != "labels"}
            inputs = _hand_out(texts, training, streams=len(rows))
            scores = training.task.score(training.model, inputs).double()
            scores = scores if pooled else training.task.normalise(scores)
            parts.append((rows, scores.view(members, rows.shape[1], -1).cpu().numpy()))
    parts = parallel.collect(parts)
    rows = np.concatenate([rows for rows, _ in parts], axis=1)
    found = np.concatenate([scores for _, scores in parts], axis=1)
    own = [
        _sort(rows[member.stream % len(rows)], own)
        for member, own in zip(training.running, found, strict=True)
    ]
    if not pooled:
        return own
    places = [member.stream % len(owners) for member in training.running]
    return [settle(scores, owners[place], training.task) for place, scores in zip(places, own, strict=True)]


def settle(scores: npt.NDArray[np.float64], owners: npt.NDArray[Any], task: Task) -> Probabilities:
    """Average the scores of each text's windows, and return the texts' probabilities. # (texts, labels)"""
    return np.asarray(task.normalise(torch.from_numpy(pool(scores, owners))).numpy())


def _sort(rows: npt.NDArray[Any], probabilities: Probabilities) -> Probabilities:
    """Put what was predicted in the order of the split, each row once and none that fills a batch up."""
    numbers, order = np.unique(rows, return_index=True)
    return np.asarray(probabilities[order[numbers != FILLER]])


def _count(training: Training, micro_batches: Sequence[Batch], count: Callable[[Batch], int]) -> list[int]:
    """Count something of a step's rows for each running member, whose rows are those of its stream."""
    counts = [
        sum(count(part) for part in parts)
        for parts in zip(*(_divide(batch, training.streams) for batch in micro_batches), strict=True)
    ]
    return [counts[member.stream] for member in training.running]


def _divide(batch: Batch, streams: int) -> list[Batch]:
    """Return the rows of each stream, without those that only fill the batch up."""
    if streams == 1:
        return [batch]
    parts = [
        dict(zip(batch, tensors, strict=True))
        for tensors in zip(*(tensor.chunk(streams) for tensor in batch.values()), strict=True)
    ]
    return [{name: tensor[part["labels"] != FILLER] for name, tensor in part.items()} for part in parts]


def _hand_out(batch: Batch, training: Training, *, streams: int) -> dict[str, torch.Tensor]:
    """Put each running member's rows on the device, one member's after another's. # (members x rows, ...)"""
    running, device = training.running, training.accelerator.device
    if streams == 1:
        return _repeat(batch, len(running), device)
    places = [member.stream for member in running]
    return {
        name: torch.cat([tensor.chunk(streams)[place] for place in places]).to(device)
        for name, tensor in batch.items()
    }


def _repeat(batch: Batch, members: int, device: torch.device) -> dict[str, torch.Tensor]:
    """Put the batch on the device, once for each member; one alone gets no copy. # (members x rows, ...)"""
    return {
        name: tensor.to(device, non_blocking=True).expand(members, *tensor.shape).flatten(0, 1)
        for name, tensor in batch.items()
    }


def embed(encoder: nn.Module, batches: EvalBatches, *, accelerator: Accelerator) -> npt.NDArray[np.float64]:
    """Average each row's last hidden states over its tokens, in the split's order. # (rows, hidden)"""

    def average(inputs: Inputs) -> torch.Tensor:
        states = encoder(**inputs).last_hidden_state.double()
        weight = inputs["attention_mask"].unsqueeze(-1).double()  # (rows, length, 1)
        averages: torch.Tensor = (states * weight).sum(1) / weight.sum(1)
        return averages

    return _read(encoder, batches, average, device=accelerator.device)


def read_gates(training: Training, texts: Texts) -> dict[str, npt.NDArray[np.float64]]:
    """Average over each test text's tokens what gates give each expert, and what they give any at most.

    A prompt is read without an answer. A layer that does not see all tokens of each row is left out, but for
    one that sees the first alone.

    Returns:
        By layer; empty without gates, and of a training that was stopped. # (texts, experts + 1)
    """
    if training.settings.stop_step is not None or not find_gates(training.model):
        return {}
    options = {"logits_to_keep": 1} if isinstance(training.task, LabelLikelihood) else {}
    test, layers = texts.splits["test"], list[str]()
    rows = max(1, training.settings.eval_batch_size // training.task.sequences)
    batches = eval_batches(test, batch_size=rows, padding=texts.padding)

    def average(inputs: Inputs) -> torch.Tensor:
        with training.accelerator.autocast():
            training.model(**inputs, **options)
        mask = inputs["attention_mask"].unsqueeze(-1).float()  # (rows, length, 1)
        rows, length = mask.shape[:2]
        sizes = {layer: one.numel() // one.shape[-1] for layer, one in said.items()}
        layers[:] = [layer for layer, size in sizes.items() if size in (rows, rows * length)]
        means = []
        for layer in layers:
            weights = said[layer].reshape(rows, -1, said[layer].shape[-1])  # (rows, length or 1, experts)
            weights = torch.cat([weights, weights.amax(-1, keepdim=True)], dim=-1)
            seen = mask if weights.shape[1] == length else mask[:, :1]
            means.append((weights * seen).sum(1) / seen.sum(1))
        return torch.stack(means, dim=1).double()  # (rows, layers, experts + 1)

    with watch_gates(training.model) as said:
        found = _read(training.model, batches, average, device=training.accelerator.device)
    found = pool(found, test.owners)
    return {layer: found[:, place] for place, layer in enumerate(layers)}


def ask(
    model: nn.Module,
    batches: EvalBatches,
    *,
    task: Task,
    accelerator: Accelerator,
    owners: npt.NDArray[Any] | None = None,
) -> npt.NDArray[np.float64]:
    """Return each label's probability by a model as it is, in the split's order. # (texts, labels)

    Args:
        owners: as of predict
    """
    pooled = owners is not None and len(owners) > 0

    def answer(inputs: Inputs) -> torch.Tensor:
        with accelerator.autocast():
            scores = task.score(model, inputs).double()
            return scores if pooled else task.normalise(scores)

    found = _read(model, batches, answer, device=accelerator.device)
    return settle(found, owners, task) if owners is not None and pooled else found


def _read(
    model: nn.Module,
    batches: EvalBatches,
    compute: Callable[[Inputs], torch.Tensor],
    *,
    device: torch.device,
) -> npt.NDArray[np.float64]:
    """Collect what is computed of each batch, in the split's order. # (rows, ...)"""
    model.eval()
    places, parts = [], []
    with torch.inference_mode():
        for rows, batch in batches:
            inputs = {name: value.to(device) for name, value in batch.items() if name != "labels"}
            parts.append(compute(inputs).cpu().numpy())
            places.append(rows)
    return np.concatenate(parts)[np.argsort(np.concatenate(places))]
