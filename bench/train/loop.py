"""The training loop, explicit and on accelerate; equal to transformers.Trainer's at the same settings."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from accelerate.utils import DeepSpeedPlugin
from torch import nn
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_linear_schedule_with_warmup

from bench.config.schema import Config, TrainConfig
from bench.errors import RunError
from bench.model import trained
from bench.train import optimizers, parallel
from bench.train.meter import Meter
from bench.train.task import Task

Batch = Mapping[str, torch.Tensor]  # input_ids, attention_mask (rows, length); labels (rows,)
Row = dict[str, float | int | None]
Probabilities = npt.NDArray[np.float64]  # (rows, labels)
Log = Callable[[Row, int], None]  # gets the rows of a history as they come, and their steps


SKIPPED_SHARE = 0.1  # of a run's steps that fp16 may skip; the scale of the loss finds its place in a few


class DivergedError(RunError):
    """The loss stopped being a number, or too many steps were skipped."""


@dataclass
class Progress:
    """How far a training came: the history's rows, what was processed, and the best evaluation."""

    history: list[Row] = field(default_factory=list)
    steps: int = 0
    logged: int = 0  # the step whose row has the last loss
    tokens: int = 0  # without padding, and of a prompt without its answer
    samples: int = 0
    skipped_steps: int = 0  # whose gradients overflowed in fp16
    best_step: int | None = None
    best_score: float = -math.inf

    def rates(self, seconds: float) -> dict[str, float | None]:
        """The block ``throughput`` of a record, for so many seconds of training."""
        return {
            "tokens_per_second": self.tokens / seconds,
            "samples_per_second": self.samples / seconds,
        }

    def count(self, micro_batches: Sequence[Batch]) -> None:
        """Adds what one step processed."""
        self.steps += 1
        self.tokens += sum(int(batch["attention_mask"].sum()) for batch in micro_batches)
        self.samples += sum(len(batch["labels"]) for batch in micro_batches)


@dataclass
class Training:
    """A training under way: all that a step changes, and so all that a checkpoint has to keep."""

    model: nn.Module
    task: Task
    optimizer: Any  # accelerate's, around optimizers.make_optimizer's
    schedule: LambdaLR
    accelerator: Accelerator
    settings: TrainConfig
    steps: int  # of the whole schedule
    losses: torch.Tensor  # this process's sum since the last row with a loss; read only there
    progress: Progress = field(default_factory=Progress)
    best: Probabilities | None = None  # what the best evaluation said, if this process made it

    @property
    def scales_loss(self) -> bool:
        """Return whether gradients are of a scaled loss, so that a step is skipped where they overflow."""
        return bool(self.accelerator.mixed_precision == "fp16")

    def evaluates_at(self, step: int) -> bool:
        """Whether the schedule has an evaluation after the step; the end always has one."""
        return step % self.settings.eval_steps == 0 or step == self.steps

    def keeps(self, step: int) -> bool:
        """Whether a checkpoint of the step is wanted; the end needs none, but for one that is asked for."""
        every = self.settings.checkpoint_steps
        regular = every is not None and step % every == 0 and step < self.steps
        return regular or step == self.settings.stop_step

    def next_pause(self, stop: int) -> int:
        """The next step after which something other than training happens."""
        step, intervals = self.progress.steps, (self.settings.eval_steps, self.settings.checkpoint_steps)
        return min(stop, *(step - step % every + every for every in intervals if every is not None))

    def record(self, row: Row, *, meter: Meter, log: Log) -> None:
        """Adds a row to the history, with what the process holds in memory now."""
        row |= meter.read_memory()
        self.progress.history.append({"step": self.progress.steps, **row})
        log(row, self.progress.steps)

    def record_step(self, rate: float, norm: torch.Tensor | None, *, meter: Meter, log: Log) -> None:
        """Adds the mean loss since the last such row, and the last step's learning rate and gradients' norm.

        Raises:
            DivergedError: as mean_loss.
        """
        loss = self.mean_loss()
        self.losses.zero_()
        self.progress.logged = self.progress.steps
        row: Row = {"loss": loss, "lr": rate, "grad_norm": None if norm is None else float(norm)}
        if self.scales_loss:
            row["skipped_steps"] = self.progress.skipped_steps
        self.record(row, meter=meter, log=log)

    def logs_at(self, step: int) -> bool:
        """Whether the step's row has a loss."""
        return step % self.settings.log_steps == 0 or self.evaluates_at(step)

    def is_best(self, found: Probabilities, scores: Mapping[str, float], select_by: str) -> bool:
        """Whether an evaluation now is better than all before, which this then remembers."""
        if scores[select_by] <= self.progress.best_score:
            return False
        self.best = found
        self.progress.best_score, self.progress.best_step = scores[select_by], self.progress.steps
        return True

    def require_few_skipped(self, stop: int) -> None:
        """Raise a DivergedError once more steps were skipped than a training up to ``stop`` may skip."""
        skipped = self.progress.skipped_steps
        if skipped > SKIPPED_SHARE * stop:
            raise DivergedError(
                f"by step {self.progress.steps} of {stop} fp16 had skipped {skipped} steps, as their "
                "gradients overflowed, which is more than a tenth; set train.precision=bf16 or lower train.lr"
            )

    def mean_loss(self) -> float:
        """The mean loss of the steps since the last row with one.

        Raises:
            DivergedError: it is NaN or infinite.
        """
        losses = self.accelerator.reduce(self.losses, reduction="sum")
        return _require_finite(losses / (self.progress.steps - self.progress.logged), self.progress.steps)


def make_accelerator(
    device: torch.device, precision: str, plugin: DeepSpeedPlugin | None = None
) -> Accelerator:
    """accelerate for this device and precision; it scales the loss where fp16 needs that."""
    return Accelerator(
        cpu=device.type == "cpu",
        mixed_precision={"fp32": "no"}.get(precision, precision),
        deepspeed_plugin=plugin,
    )


def prepare(
    model: nn.Module, config: Config, *, task: Task, steps: int, accelerator: Accelerator
) -> Training:
    """A training of so many optimizer steps, before its first.

    Raises:
        ConfigError: the optimizer does not work on the device.
    """
    settings = config.train
    if settings.distributed == "fsdp2":
        parallel.shard(model, accelerator.device)
    groups = optimizers.group_parameters(
        trained.find(model), settings, loraplus_lr_ratio=config.method.loraplus_lr_ratio
    )
    optimizer = optimizers.make_optimizer(groups, settings, accelerator.device)
    schedule = get_linear_schedule_with_warmup(optimizer, settings.warmup_steps, steps)
    model, optimizer = parallel.wrap(
        model, optimizer, distributed=settings.distributed, accelerator=accelerator
    )
    losses = torch.zeros((), device=accelerator.device)
    return Training(model, task, optimizer, schedule, accelerator, settings, steps, losses)


def train(
    training: Training,
    batches: Iterable[Batch],
    *,
    stop: int,
    meter: Meter,
    predict: Callable[[], Probabilities],
    score: Callable[[Probabilities], Mapping[str, float]],
    select_by: str,
    save_best: Callable[[], None],
    save_checkpoint: Callable[[], None],
    log: Log,
) -> Progress:
    """Trains up to the step ``stop`` and evaluates; ``save_best`` runs whenever that is better than before.

    ``batches`` holds at least gradient_accumulation_steps micro-batches for each step that is left. A stop
    between two evaluations of the schedule is evaluated after its checkpoint, so that a training that goes
    on from there is the same as one that never stopped.

    Raises:
        DivergedError: the loss is NaN or infinite, noticed within ``log_steps`` steps, or fp16 skips more
            than a tenth of the steps.
    """
    settings, progress, source = training.settings, training.progress, iter(batches)

    def evaluate() -> None:
        with meter.phase("eval"):
            found = predict()
            scores = score(found)
        training.record(name_scores(scores), meter=meter, log=log)
        if training.is_best(found, scores, select_by):
            with meter.phase("save"):
                save_best()

    while progress.steps < stop:
        pause = training.next_pause(stop)
        with meter.phase("train"):
            training.model.train()
            while progress.steps < pause:
                micro_batches = [next(source) for _ in range(settings.gradient_accumulation_steps)]
                rate, norm = advance(training, micro_batches)
                training.require_few_skipped(stop)
                if training.logs_at(progress.steps):
                    training.record_step(rate, norm, meter=meter, log=log)
        if training.evaluates_at(pause):
            evaluate()
        if training.keeps(pause):
            with meter.phase("save"):
                save_checkpoint()
    if not training.evaluates_at(stop):
        evaluate()
    return progress


def name_scores(scores: Mapping[str, float]) -> Row:
    """Scores of the validation split as a row of the history."""
    return {f"validation_{name}": value for name, value in scores.items()}


def advance(training: Training, micro_batches: Sequence[Batch]) -> tuple[float, torch.Tensor | None]:
    """One optimizer step of the training: the learning rate it was taken with and its gradients' norm."""
    rate = float(training.schedule.get_last_lr()[0])
    loss, norm = take_step(
        training.model,
        micro_batches,
        training.optimizer,
        training.accelerator,
        task=training.task,
        max_grad_norm=training.settings.max_grad_norm,
    )
    if training.accelerator.optimizer_step_was_skipped:
        training.progress.skipped_steps += 1
    else:
        training.schedule.step()
    training.losses += loss
    training.progress.count(micro_batches)
    return rate, norm


def take_step(
    model: nn.Module,
    micro_batches: Sequence[Batch],
    optimizer: Any,
    accelerator: Accelerator,
    *,
    task: Task,
    max_grad_norm: float | None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """One optimizer step over the micro-batches: its loss and the norm of its gradients, on the device.

    Processes share the micro-batches out, and the loss is of this one's part of them.
    """
    predictions = sum(task.count(batch["labels"]) for batch in micro_batches)
    total = torch.zeros((), device=accelerator.device)
    part = list(parallel.share(micro_batches, accelerator))
    for number, batch in enumerate(part, start=1):
        inputs = {name: tensor.to(accelerator.device, non_blocking=True) for name, tensor in batch.items()}
        labels = inputs.pop("labels")
        with parallel.synchronised(model, accelerator, now=number == len(part)):
            loss = task.losses(model, inputs, labels).sum() / predictions
            parallel.backward(loss, accelerator)
        total += loss.detach()
    norm = None
    if max_grad_norm is not None:
        norm = accelerator.clip_grad_norm_(model.parameters(), max_grad_norm)
    optimizer.step()
    optimizer.zero_grad()
    return total, norm


def predict(
    model: nn.Module,
    batches: Iterator[tuple[npt.NDArray[Any], Batch]],
    *,
    task: Task,
    accelerator: Accelerator,
) -> Probabilities:
    """Each row's probabilities in the split's order, (rows, labels); a batch says which rows it holds.

    Processes share the batches out, and each gets all the probabilities.
    """
    shared = parallel.share(batches, accelerator)
    parts = parallel.collect(predict_batches(model, shared, task=task, accelerator=accelerator))
    found = {int(row): one for rows, values in parts for row, one in zip(rows, values, strict=True)}
    return np.stack([found[row] for row in sorted(found)])


def predict_batches(
    model: nn.Module,
    batches: Iterable[tuple[npt.NDArray[Any], Batch]],
    *,
    task: Task,
    accelerator: Accelerator,
) -> list[tuple[npt.NDArray[Any], Probabilities]]:
    """Of each batch: the rows that it names, and the probabilities of those that it holds, (rows, labels)."""
    model.eval()
    parts = []
    with torch.inference_mode(), accelerator.autocast():
        for rows, batch in batches:
            inputs = {
                name: tensor.to(accelerator.device) for name, tensor in batch.items() if name != "labels"
            }
            parts.append((rows, functional.softmax(task.score(model, inputs).double(), dim=-1).cpu().numpy()))
    return parts


def embed(
    encoder: nn.Module, batches: Iterator[tuple[npt.NDArray[Any], Batch]], *, accelerator: Accelerator
) -> npt.NDArray[np.float64]:
    """Each row's last hidden states averaged over its tokens, in the split's order, (rows, hidden)."""
    encoder.eval()
    places, parts = [], []
    with torch.inference_mode():
        for rows, batch in batches:
            ids, mask = (batch[name].to(accelerator.device) for name in ("input_ids", "attention_mask"))
            states = encoder(input_ids=ids, attention_mask=mask).last_hidden_state.double()
            weight = mask.unsqueeze(-1).double()  # (rows, length, 1)
            parts.append(((states * weight).sum(1) / weight.sum(1)).cpu().numpy())
            places.append(rows)
    return np.concatenate(parts)[np.argsort(np.concatenate(places))]


def _require_finite(loss: torch.Tensor, step: int) -> float:
    value = float(loss)
    if not math.isfinite(value):
        raise DivergedError(f"the loss became {value} by step {step}; lower train.lr or raise warmup_steps")
    return value
