"""A training under way: a run alone, or the runs of a pack as its members, over one model.

Members share the model and the steps, and with one seed and the same texts the batches. What the model gets
holds as many rows for each member, one member after the other.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from accelerate.utils import DeepSpeedPlugin
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_linear_schedule_with_warmup

from bench.config.schema import Config, TrainConfig
from bench.errors import RunError
from bench.model import attention, build, trained
from bench.train import optimizers, parallel
from bench.train.meter import Meter
from bench.train.task import Task, Weigh, choose_weights

Batch = Mapping[str, torch.Tensor]  # input_ids, attention_mask (rows, length); labels (rows,)
EvalBatches = Iterable[tuple[npt.NDArray[Any], Batch]]  # each with the places of its rows in their split
Row = dict[str, float | int | None]
Probabilities = npt.NDArray[np.float64]  # (rows, labels)
FIRST = "default"  # PEFT's name for an only adapter, as it stands in the weights of a run of its own
Log = Callable[[Row, int], None]  # gets the rows of a history as they come, and their steps


class DivergedError(RunError):
    """The loss stopped being a number, or too many steps were skipped."""


@dataclass(frozen=True)
class Part:
    """What one run trains of a model."""

    # By the names in a run alone. Asked for anew each time, as FSDP2 puts other parameters in their place.
    find: Callable[[], dict[str, nn.Parameter]]
    trainable_parameters: int
    total_parameters: int


@dataclass(frozen=True)
class Networks:
    """A model, and each run's part of it."""

    model: nn.Module
    parts: Sequence[Part]
    choices: dict[str, Any]  # for the record
    members: Sequence[str] = (FIRST,)  # PEFT's names of their adapters; without those that were dropped
    drop: Callable[[int], None] = lambda _: None  # leaves out the part at this place of those left


@dataclass
class Progress:
    """How far a run came: the history's rows, what was processed, and the best evaluation."""

    history: list[Row] = field(default_factory=list)
    steps: int = 0
    logged: int = 0  # the step whose row has the last loss
    tokens: int = 0  # without padding, and of a prompt without its answer
    samples: int = 0
    skipped_steps: int = 0  # whose gradients overflowed in fp16
    best_step: int | None = None
    best_score: float = -math.inf

    def rates(self, seconds: float) -> dict[str, float | None]:
        """Return the block ``throughput`` of a record, for so many seconds of training."""
        return {
            "tokens_per_second": self.tokens / seconds,
            "samples_per_second": self.samples / seconds,
        }


@dataclass(eq=False)
class Member:
    """One run in a training: all that a step changes of it, and so all that a checkpoint has to keep."""

    part: Part
    optimizer: Any  # accelerate's, around optimizers.make_optimizer's
    schedule: LambdaLR
    log: Log
    losses: torch.Tensor  # this process's sum since the last row with a loss; read only there
    progress: Progress = field(default_factory=Progress)
    rate: float = 0.0  # that the last step was taken with
    norm: torch.Tensor | None = None  # of the last step's gradients before clipping
    best: Probabilities | None = None  # what the best evaluation said, if this process made it
    error: RunError | None = None  # that ended it, while others of its pack go on
    scaler: torch.amp.GradScaler | None = None  # of a pack's member in fp16; a run alone has accelerate's
    stream: int = 0  # whose rows of a batch it trains on
    weigh: Weigh | None = None  # how each row's loss counts; None: all rows alike

    def record(self, row: Row, meter: Meter) -> None:
        """Add a row to the history, with what the process holds in memory now."""
        row |= meter.read_memory()
        self.progress.history.append({"step": self.progress.steps, **row})
        self.log(row, self.progress.steps)

    def is_best(self, probabilities: Probabilities, score: float) -> bool:
        """Return whether an evaluation now is better than all before, and remember it if so."""
        if score <= self.progress.best_score:
            return False
        self.best = probabilities
        self.progress.best_score, self.progress.best_step = score, self.progress.steps
        return True


@dataclass(frozen=True)
class Training:
    """A training under way."""

    model: nn.Module  # as accelerate wraps it
    task: Task
    accelerator: Accelerator
    settings: TrainConfig  # of any member: they differ in their learning rates and losses alone
    steps: int  # of the whole schedule
    members: Sequence[Member]
    drop: Callable[[int], None]  # as that of Networks
    merged: int = 1  # micro-batches that are computed as one

    @property
    def running(self) -> list[Member]:
        """The members that did not diverge, in the order of the batch."""
        return [member for member in self.members if member.error is None]

    @property
    def streams(self) -> int:
        """How many of the members' batches differ; a batch holds the rows of one stream after another's."""
        return 1 + max(member.stream for member in self.members)

    @property
    def step(self) -> int:
        """The steps taken so far."""
        return max(member.progress.steps for member in self.members)

    @property
    def stop(self) -> int:
        """The last step to take."""
        return self.settings.stop_step or self.steps

    @property
    def scales_loss(self) -> bool:
        """Return whether gradients are of a scaled loss, so that a step is skipped where they overflow."""
        return bool(self.accelerator.mixed_precision == "fp16")

    def scale(self, losses: torch.Tensor) -> torch.Tensor:
        """Scale the loss of each running member of a pack in fp16 by its own scale. # (members,)"""
        pairs = zip(self.running, losses, strict=True)
        scaled = [member.scaler.scale(loss) for member, loss in pairs if member.scaler is not None]
        return torch.stack(scaled) if scaled else losses

    def weigh(self, losses: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Let each row's loss count as its member's ``train.loss`` says. # (members x rows,)"""
        chosen = [member.weigh for member in self.running]
        if not any(chosen):
            return losses
        parts = zip(chosen, losses.chunk(len(chosen)), labels.chunk(len(chosen)), strict=True)
        return torch.cat([own if weigh is None else weigh(own, right) for weigh, own, right in parts])

    def clip(self, member: Member, most: float) -> torch.Tensor:
        """Clip the member's gradients by themselves, and return their norm before."""
        weights = member.part.find().values()
        if member.scaler is None:
            norm: torch.Tensor = self.accelerator.clip_grad_norm_(weights, most)
            return norm
        member.scaler.unscale_(member.optimizer.optimizer)
        return nn.utils.clip_grad_norm_(weights, most)

    def evaluates_at(self, step: int) -> bool:
        """Return whether the schedule has an evaluation after the step; the end always has one."""
        return step % self.settings.eval_steps == 0 or step == self.steps

    def logs_at(self, step: int) -> bool:
        """Return whether the step's row has a loss."""
        return step % self.settings.log_steps == 0 or self.evaluates_at(step)

    def keeps(self, step: int) -> bool:
        """Return whether to write a checkpoint after the step; the end needs none unless it is a stop."""
        every = self.settings.checkpoint_steps
        regular = every is not None and step % every == 0 and step < self.steps
        return regular or step == self.settings.stop_step

    def next_pause(self) -> int:
        """Return the next step after which something other than training happens."""
        intervals = (self.settings.eval_steps, self.settings.checkpoint_steps)
        nexts = [self.step - self.step % every + every for every in intervals if every is not None]
        return min(self.stop, *nexts)

    def mean_loss(self, member: Member) -> float:
        """Return the mean loss of the member's steps since the last row with one.

        Raises:
            DivergedError: it is NaN or infinite.
        """
        progress = member.progress
        losses = self.accelerator.reduce(member.losses, reduction="sum")
        loss = float(losses / (progress.steps - progress.logged))
        require_finite(loss, progress.steps)
        return loss

    def end(self, member: Member, error: RunError) -> None:
        """Leave the member out, while the others of its pack go on.

        Raises:
            RunError: the error, where there is no other.
        """
        if len(self.members) == 1:
            raise error
        place = self.running.index(member)
        member.error = error
        if self.running:
            self.drop(place)


def find_stream(config: Config) -> tuple[Any, ...]:
    """Return what decides which rows a member of a pack is trained and validated on, and in which order."""
    return config.seed, config.data.train_size, config.data.fold, config.data.held_out, is_balanced(config)


def is_balanced(config: Config) -> bool:
    """Tell whether batches are drawn so that labels are equally frequent."""
    return config.train.loss == "balanced_sampling"


def list_streams(configs: Iterable[Config]) -> list[tuple[Any, ...]]:
    """List the streams of the members' rows, in the order in which a batch holds them."""
    return list(dict.fromkeys(map(find_stream, configs)))


def make_accelerator(
    device: torch.device, precision: str, plugin: DeepSpeedPlugin | None = None
) -> Accelerator:
    """Make accelerate's object for this device and precision; it scales the loss where fp16 needs that."""
    return Accelerator(
        cpu=device.type == "cpu",
        mixed_precision={"fp32": "no"}.get(precision, precision),
        deepspeed_plugin=plugin,
    )


def require_finite(loss: float, step: int) -> None:
    """Require a loss that is a number.

    Raises:
        DivergedError: it is NaN or infinite.
    """
    if not math.isfinite(loss):
        raise DivergedError(f"the loss became {loss} by step {step}; lower train.lr or raise warmup_steps")


def build_alone(configs: Sequence[Config], **options: Any) -> Networks:
    """Build the network of the one run, as model.build does it with the options.

    Raises:
        ConfigError: as model.build.
    """
    [config] = configs
    network = build.build(config, **options)
    find = partial(trained.find, network.model)
    part = Part(find, network.trainable_parameters, network.total_parameters)
    return Networks(network.model, [part], network.choices)


def prepare(
    networks: Networks,
    configs: Sequence[Config],
    *,
    task: Task,
    label_counts: Iterable[npt.NDArray[Any]],
    steps: int,
    accelerator: Accelerator,
    logs: Sequence[Log],
) -> Training:
    """Prepare a training of so many optimizer steps, before its first.

    Args:
        label_counts: rows of each label that each run trains on. # (labels,) each

    Raises:
        ConfigError: the optimizer does not work on the device.
    """
    shared, device = configs[0].train, accelerator.device
    if device.type == "cpu":
        attention.install(networks.model, networks.members)
    if shared.distributed == "fsdp2":
        parallel.shard(networks.model, device)
    groups = [
        optimizers.group_parameters(
            part.find(), config.train, loraplus_lr_ratio=config.method.loraplus_lr_ratio
        )
        for part, config in zip(networks.parts, configs, strict=True)
    ]
    made = [
        optimizers.make_optimizer(group, config.train, device)
        for group, config in zip(groups, configs, strict=True)
    ]
    schedules = [get_linear_schedule_with_warmup(one, shared.warmup_steps, steps) for one in made]
    model, wrapped = parallel.wrap(
        networks.model, made, distributed=shared.distributed, accelerator=accelerator
    )
    streams = list_streams(configs)
    members = [
        Member(*parts, torch.zeros((), device=device))
        for parts in zip(networks.parts, wrapped, schedules, logs, strict=True)
    ]
    for member, config, counts in zip(members, configs, label_counts, strict=True):
        member.stream = streams.index(find_stream(config))
        member.weigh = choose_weights(config.train.loss, counts, device)
    if len(members) > 1 and accelerator.scaler is not None:
        _scale_apart(members, accelerator)
    merged = configs[0].merged_micro_batches if len(members) > 1 else 1
    return Training(model, task, accelerator, shared, steps, members, networks.drop, merged)


def _scale_apart(members: Iterable[Member], accelerator: Accelerator) -> None:
    """Let each member scale its loss by itself, so that it alone skips a step that overflows."""
    accelerator.scaler = None
    for member in members:
        member.scaler = member.optimizer.scaler = torch.amp.GradScaler(accelerator.device.type)
