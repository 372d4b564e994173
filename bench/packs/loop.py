"""The training loop of a pack: one forward and backward pass for all members, an optimizer step for each."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from torch import nn
from transformers import get_linear_schedule_with_warmup

from bench.config.schema import Config
from bench.errors import RunError
from bench.packs.network import Member, Pack
from bench.train import loop, optimizers
from bench.train.loop import Probabilities
from bench.train.meter import Meter
from bench.train.task import Task


@dataclass
class MemberTraining:
    """One member's training, as if it were alone, and the error that ended it."""

    member: Member
    training: loop.Training
    log: loop.Log
    error: RunError | None = None


@dataclass(frozen=True)
class PackTraining:
    """A pack's training under way."""

    pack: Pack
    model: nn.Module  # the pack's, as the loop uses it
    task: Task
    accelerator: Accelerator
    trainings: list[MemberTraining]
    steps: int  # of the whole schedule

    @property
    def running(self) -> list[MemberTraining]:
        """The trainings that did not diverge, in the order of the batch."""
        return [one for one in self.trainings if one.error is None]

    def end(self, ended: MemberTraining, error: RunError) -> None:
        """Takes a member out; the others go on."""
        ended.error = error
        self.pack.drop(ended.member)


def prepare(
    pack: Pack,
    configs: Sequence[Config],
    *,
    task: Task,
    steps: int,
    accelerator: Accelerator,
    logs: Sequence[loop.Log],
) -> PackTraining:
    """A training of so many optimizer steps for each member, before its first.

    Raises:
        ConfigError: the optimizer does not work on the device.
    """
    model = accelerator.prepare_model(pack.model)
    trainings = []
    for member, config, log in zip(pack.members, configs, logs, strict=True):
        settings = config.train
        groups = optimizers.group_parameters(
            member.trained, settings, loraplus_lr_ratio=config.method.loraplus_lr_ratio
        )
        optimizer = optimizers.make_optimizer(groups, settings, accelerator.device)
        schedule = get_linear_schedule_with_warmup(optimizer, settings.warmup_steps, steps)
        losses = torch.zeros((), device=accelerator.device)
        training = loop.Training(model, task, optimizer, schedule, accelerator, settings, steps, losses)
        trainings.append(MemberTraining(member, training, log))
    return PackTraining(pack, model, task, accelerator, trainings, steps)


def train(
    packed: PackTraining,
    batches: Iterable[loop.Batch],
    *,
    meter: Meter,
    predict: Callable[[], Sequence[Probabilities]],
    score: Callable[[Probabilities], Mapping[str, float]],
    select_by: str,
    save_best: Callable[[Member], None],
) -> None:
    """Trains to the end, as trainer.train does each member; one that diverges keeps its error.

    ``predict`` gives the probabilities of each member that is left, and ``save_best`` runs for each whose
    score is better than before. ``batches`` holds the micro-batches of every step.
    """
    source = iter(batches)
    while running := packed.running:
        training = running[0].training  # whose steps are those of all
        if training.progress.steps == packed.steps:
            return
        pause = training.next_pause(packed.steps)
        with meter.phase("train"):
            packed.model.train()
            while packed.running and training.progress.steps < pause:
                count = training.settings.gradient_accumulation_steps
                taken = advance(packed, [next(source) for _ in range(count)])
                if training.logs_at(training.progress.steps):
                    for one, (rate, norm) in zip(packed.running, taken, strict=True):
                        _record_step(packed, one, rate, norm, meter=meter)
        if packed.running and training.evaluates_at(pause):
            _evaluate(
                packed, meter=meter, predict=predict, score=score, select_by=select_by, save_best=save_best
            )


def _record_step(
    packed: PackTraining, one: MemberTraining, rate: float, norm: torch.Tensor | None, *, meter: Meter
) -> None:
    try:
        one.training.record_step(rate, norm, meter=meter, log=one.log)
    except RunError as error:
        packed.end(one, error)


def _evaluate(
    packed: PackTraining,
    *,
    meter: Meter,
    predict: Callable[[], Sequence[Probabilities]],
    score: Callable[[Probabilities], Mapping[str, float]],
    select_by: str,
    save_best: Callable[[Member], None],
) -> None:
    with meter.phase("eval"):
        found = predict()
    better = []
    for one, probabilities in zip(packed.running, found, strict=True):
        try:
            scores = score(probabilities)
        except RunError as error:
            packed.end(one, error)
            continue
        one.training.record(loop.name_scores(scores), meter=meter, log=one.log)
        if one.training.is_best(probabilities, scores, select_by):
            better.append(one.member)
    with meter.phase("save"):
        for member in better:
            save_best(member)


def advance(
    packed: PackTraining, micro_batches: Sequence[loop.Batch]
) -> list[tuple[float, torch.Tensor | None]]:
    """One optimizer step of each running member: its learning rate and its gradients' norm."""
    running = packed.running
    losses = take_gradients(packed, micro_batches)
    taken = []
    for one, loss in zip(running, losses, strict=True):
        training, parameters = one.training, list(one.member.trained.values())
        rate, norm = float(training.schedule.get_last_lr()[0]), None
        if training.settings.max_grad_norm is not None:
            norm = nn.utils.clip_grad_norm_(parameters, training.settings.max_grad_norm)
        training.optimizer.step()
        training.schedule.step()
        training.losses += loss
        training.progress.count(micro_batches)
        taken.append((rate, norm))
    packed.pack.clear()
    return taken


def take_gradients(packed: PackTraining, micro_batches: Sequence[loop.Batch]) -> torch.Tensor:
    """Each running member's loss; its parameters have the gradients. # (members,)"""
    members, accelerator, task = len(packed.running), packed.accelerator, packed.task
    predictions = sum(task.count(batch["labels"]) for batch in micro_batches)
    total = torch.zeros(members, device=accelerator.device)
    for batch in micro_batches:
        inputs = _replicate(batch, members, accelerator.device)
        labels = inputs.pop("labels")
        losses = task.losses(packed.model, inputs, labels).view(members, -1).sum(1) / predictions
        accelerator.backward(losses.sum())
        total += losses.detach()
    return total


def predict(
    packed: PackTraining, batches: Iterator[tuple[npt.NDArray[np.int64], loop.Batch]]
) -> list[Probabilities]:
    """Of each running member: each row's probabilities, in the split's order. # (rows, labels)"""
    members, device = len(packed.running), packed.accelerator.device

    def replicated() -> Iterator[tuple[npt.NDArray[np.int64], loop.Batch]]:
        for rows, batch in batches:
            yield rows, _replicate(batch, members, device)

    found = loop.predict_batches(packed.model, replicated(), task=packed.task, accelerator=packed.accelerator)
    order = np.argsort(np.concatenate([rows for rows, _ in found]))
    whole = np.concatenate([values.reshape(members, len(rows), -1) for rows, values in found], axis=1)
    return list(whole[:, order])


def _replicate(batch: loop.Batch, members: int, device: torch.device) -> dict[str, torch.Tensor]:
    """The batch once for each member, one after the other. # (members x rows, ...)"""
    return {
        name: tensor.to(device, non_blocking=True).repeat(members, *[1] * (tensor.ndim - 1))
        for name, tensor in batch.items()
    }
