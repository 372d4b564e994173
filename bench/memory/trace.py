"""A trace of a run on the device ``meta``: what its tensors take, without one of them.

The network is built and trained by the code that trains it for real, with real optimizers, so that what is
predicted cannot drift from what is done; only the numbers are missing.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import bitsandbytes
import numpy as np
import torch
from accelerate.utils import DistributedType, convert_to_fp32
from peft import PeftModel
from torch import nn
from torch.optim import optimizer as torch_optimizer

from bench.config.schema import AS_IT_IS, Config
from bench.memory.kernels import Kernels, replaced
from bench.memory.recording import Recorder, Recording
from bench.model import attention, build
from bench.train import baselines, loop, optimizers
from bench.train.task import LabelLikelihood, Task
from bench.train.training import Training, build_alone, prepare

META = torch.device("meta")
STEPS = 2  # the first makes the optimizer's states
MICRO_BATCHES = 2  # of a step, if it has more: the second meets the first one's gradients


@dataclass(frozen=True)
class Shapes:
    """What a run's texts and device make of its tensors' shapes."""

    device_type: str  # cuda | cpu
    precision: str  # fp32 | bf16 | fp16
    length: int  # tokens of the longest text that is trained on
    eval_length: int  # and of the longest that is evaluated
    eval_rows: int  # of a batch that is evaluated
    labels: int
    pad_token_id: int | None
    types: bool = False  # whether each token says of which of two texts it is


class UntraceableError(Exception):
    """What a run allocates cannot be known from shapes."""


class _Accelerator:
    """What the training loop uses of accelerate's Accelerator, on ``meta``."""

    device = META
    distributed_type = DistributedType.NO
    num_processes, process_index = 1, 0
    sync_gradients = True

    def __init__(self, precision: str, recorder: Recorder) -> None:
        self.precision = precision
        self.recorder = recorder

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """Enter a CPU's autocast, which leaves ``meta`` alone; Kernels does what the device's would do."""
        with torch.autocast(
            "cpu",
            dtype=build.DTYPES[self.precision] if self.precision != "fp32" else None,
            enabled=self.precision != "fp32",
        ):
            yield

    def prepare(self, network: nn.Module, optimizer: Any) -> tuple[nn.Module, Any]:
        """Let the network compute under autocast."""
        forward = network.forward

        def compute(*args: Any, **options: Any) -> Any:
            with self.autocast():
                outputs = forward(*args, **options)
            return outputs if self.precision == "fp32" else convert_to_fp32(outputs)

        network.forward = compute
        optimizer.step_was_skipped = False  # which accelerate's own says
        optimizer.register_step_pre_hook(lambda *_: self._enter("step"))
        return network, optimizer

    def _enter(self, phase: str) -> None:
        self.recorder.phase = phase

    def no_sync(self, _: nn.Module) -> contextlib.AbstractContextManager[None]:
        """Do nothing, as there is no other process."""
        return contextlib.nullcontext()

    def backward(self, loss: torch.Tensor) -> None:
        """Compute the gradients."""
        self._enter("backward")
        torch.autograd.backward(loss)
        self._enter("forward")

    def clip_grad_norm_(self, parameters: Any, max_norm: float) -> torch.Tensor:
        """Compute the gradients' norm."""
        self._enter("step")
        return nn.utils.clip_grad_norm_(parameters, max_norm)


def trace(config: Config, shapes: Shapes, *, task: Task, folder: Path | None) -> Recording:
    """Trace what the run allocates and computes in loading, training and evaluating.

    Raises:
        UntraceableError: shapes alone do not say what is computed; the message says why.
        ConfigError: the run could not be trained either.
    """
    if reason := _find_obstacle(config, shapes):
        raise UntraceableError(reason)
    config = _shape_only(config)
    recorder = Recorder(shapes.device_type)
    if config.method.estimator in AS_IT_IS:
        _trace_answers(recorder, config, shapes, task=task, folder=folder)
        return recorder.recording
    codes = {"dynamic": torch.empty(256, device=META)}  # which bitsandbytes would compute
    with replaced(bitsandbytes.functional, "name2qmap", codes):
        networks = build_alone(
            [config],
            folder=folder,
            labels=[str(number) for number in range(shapes.labels)],
            pad_token_id=shapes.pad_token_id,
            device=META,
            precision=shapes.precision,
        )
    owner = "weights" if config.method.trainable == "all" else "adapters"
    network, [part] = networks.model, networks.parts
    hold_weights(recorder, network, trained=owner)
    sizes = [one.nbytes for one in part.find().values()]
    recorder.recording.parameters = part.total_parameters
    recorder.recording.trained_bytes, recorder.recording.largest_bytes = sum(sizes), max(sizes)
    if shapes.device_type == "cpu":
        attention.install(network, networks.members)
    kernels = Kernels(shapes.device_type)
    if config.train.gradient_checkpointing:
        _recompute_within(network, kernels)
    with kernels.active(), recorder, _meta_optimizers(recorder):
        accelerator: Any = _Accelerator(shapes.precision, recorder)
        recorder.phase = "forward"
        for parameter in part.find().values():
            hook = _hold_gradient(recorder)
            parameter.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]
        training = prepare(
            networks,
            [config],
            task=task,
            label_counts=[np.ones(shapes.labels)],
            steps=STEPS,
            accelerator=accelerator,
            logs=[lambda *_: None],
        )
        _take_steps(recorder, training, shapes)
        _hold_states(recorder, training.members[0].optimizer)
        recorder.phase = "eval"
        rows = shapes.eval_rows
        loop.predict(training, [(np.arange(rows), make_batch(rows, shapes.eval_length, types=shapes.types))])
    return recorder.recording


def _trace_answers(
    recorder: Recorder, config: Config, shapes: Shapes, *, task: Task, folder: Path | None
) -> None:
    """Trace what a base that answers as it is allocates and computes, on a batch as the run's longest."""
    assert isinstance(task, LabelLikelihood)
    base = baselines.load_base(
        config,
        labels=[str(number) for number in range(shapes.labels)],
        pad_token_id=shapes.pad_token_id,
        folder=folder,
        device=META,
        precision=shapes.precision,
    ).eval()
    hold_weights(recorder, base, trained="weights")
    recorder.recording.parameters = sum(parameter.numel() for parameter in base.parameters())
    accelerator: Any = _Accelerator(shapes.precision, recorder)
    with Kernels(shapes.device_type).active(), recorder:
        recorder.phase = "forward"  # of examples, which are all that such a run learns from
        with torch.inference_mode(), accelerator.autocast():
            task = task.read_examples(base)
        recorder.phase = "eval"
        batch = make_batch(shapes.eval_rows, shapes.eval_length)
        loop.ask(base, [(np.arange(shapes.eval_rows), batch)], task=task, accelerator=accelerator)


def _hold_states(recorder: Recorder, optimizer: Any) -> None:
    """Count the optimizer's states, and those that are not paged as on the device."""
    values = [value for state in optimizer.state.values() for value in state.values()]
    states = [value for value in values if isinstance(value, torch.Tensor) and value.is_meta]
    recorder.recording.optimizer_bytes = sum(state.nbytes for state in states)
    for one in states:
        if not optimizers.is_paged(one):
            recorder.hold(one, "optimizer")


def _find_obstacle(config: Config, shapes: Shapes) -> str | None:
    """Say why the run's memory cannot be known from its shapes; None if it can."""
    if config.method.quantization == "int8":
        return "method.quantization=int8 computes outliers apart, and how many there are only the texts say"
    if shapes.device_type == "cpu" and config.train.optimizer != "adamw":
        return (
            f"train.optimizer={config.train.optimizer}: what bitsandbytes takes for it on a CPU is not known"
        )
    if config.train.distributed != "none":
        return f"train.distributed={config.train.distributed}: what several processes share is not traced"
    if config.train.attention == "flash_attention_2":
        return (
            "train.attention=flash_attention_2: what its package takes is not known; sdpa takes about as much"
        )
    return None


def _take_steps(recorder: Recorder, training: Training, shapes: Shapes) -> None:
    """Take the steps that are traced, on batches as the run's longest."""
    settings = training.settings
    training.model.train()
    for _ in range(STEPS):
        recorder.phase = "forward"
        batches = [
            make_batch(settings.micro_batch_size, shapes.length, types=shapes.types)
            for _ in range(min(settings.gradient_accumulation_steps, MICRO_BATCHES))
        ]
        loop.take_step(training, batches)


def make_batch(rows: int, length: int, *, types: bool = False) -> dict[str, torch.Tensor]:
    """Make a batch like the run's longest, on the CPU as there."""
    return {
        **({"token_type_ids": torch.zeros(rows, length, dtype=torch.int64)} if types else {}),
        "input_ids": torch.zeros(rows, length, dtype=torch.int64),
        "attention_mask": torch.ones(rows, length, dtype=torch.int64),
        "labels": torch.zeros(rows, dtype=torch.int64),
    }


def _shape_only(config: Config) -> Config:
    """Return the configuration without what only decides values: an adapter's start and the learning rate."""
    options = config.method.adapter
    if options.get("peft_type") == "LORA":
        options = {**options, "init_lora_weights": False}
    method = replace(config.method, adapter=options)
    return replace(config, method=method, train=replace(config.train, lr=1.0))


def _recompute_within(network: nn.Module, kernels: Kernels) -> None:
    """Let checkpointed layers recompute with the device's kernels: modes end where backward begins."""
    base: Any = network.get_base_model() if isinstance(network, PeftModel) else network
    contexts = lambda: (contextlib.nullcontext(), kernels)  # noqa: E731
    base.gradient_checkpointing_enable({"use_reentrant": False, "context_fn": contexts})


def hold_weights(recorder: Recorder, network: nn.Module, *, trained: str) -> None:
    """Hold the weights one after another, as they arrive; those quantised on the device arrive whole."""
    for module in network.modules():
        for parameter in module.parameters(recurse=False):
            state = getattr(parameter, "quant_state", None)
            whole = [] if state is None else [state.shape.numel() * state.dtype.itemsize]
            with recorder.occupied(whole):
                for constant in _constants(state) if state is not None else []:
                    recorder.hold(constant, "weights")
                recorder.hold(parameter, trained if parameter.requires_grad else "weights")
        for buffer in module.buffers(recurse=False):
            recorder.hold(buffer, "weights")


def _constants(state: Any) -> list[torch.Tensor]:
    """Find the tensors that a 4-bit weight is dequantised with."""
    inner = [] if state.state2 is None else _constants(state.state2)
    own = [state.absmax, state.code, getattr(state, "offset", None)]
    return [one for one in [*own, *inner] if isinstance(one, torch.Tensor) and one.is_meta]


def _hold_gradient(recorder: Recorder) -> Callable[[torch.Tensor], None]:
    def hold(parameter: torch.Tensor) -> None:
        if parameter.grad is not None:
            recorder.hold(parameter.grad, "gradients")

    return hold


@contextlib.contextmanager
def _meta_optimizers(recorder: Recorder) -> Iterator[None]:
    """Let fused and bitsandbytes' optimizers work on ``meta``; paged states are not on the device."""
    from bitsandbytes.optim.optimizer import Optimizer8bit

    make_buffer: Any = Optimizer8bit.get_state_buffer

    def make(self: Any, parameter: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        if not self.is_paged or parameter.numel() < 1e5:
            return make_buffer(self, parameter, dtype)  # type: ignore[no-any-return]
        with recorder.paused():
            buffer = torch.zeros_like(parameter, dtype=dtype)
        recorder.recording.paged_bytes += buffer.nbytes
        buffer.is_paged = True  # type: ignore[attr-defined]
        return buffer

    # torch's list of devices with a fused AdamW is behind a private name alone.
    fused = "_get_fused_kernels_supported_devices"
    with (
        replaced(torch_optimizer, fused, lambda: ["meta"]),
        replaced(Optimizer8bit, "get_state_buffer", make),
        replaced(Optimizer8bit, "prefetch_state", lambda *_: None),
    ):
        yield
