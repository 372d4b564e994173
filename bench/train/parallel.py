"""What a training in several processes needs beyond that in a single process, where all of it does nothing.

Micro-batches are shared out, so that settings mean the same for any number of processes. DDP and DeepSpeed
are accelerate's; FSDP2 is torch's own fully_shard, which a CPU has too, where accelerate does not offer it.
"""

import contextlib
import importlib.util
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import DeepSpeedPlugin, DistributedType, gather_object
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from bench.config.schema import CONF_DIR, TrainConfig
from bench.errors import ConfigError, MissingError

Part = TypeVar("Part")


def require_processes(settings: TrainConfig, device: torch.device, precision: str) -> None:
    """Raise an error that says what this machine lacks for the processes that are asked for.

    Raises:
        ConfigError: too few devices, or a device or a precision that the way does not know.
        MissingError: DeepSpeed is not installed.
    """
    if settings.distributed == "deepspeed_zero2":
        if device.type != "cuda":
            raise ConfigError(
                "train.distributed=deepspeed_zero2: needs CUDA devices; use ddp or fsdp2 on a CPU"
            )
        if importlib.util.find_spec("deepspeed") is None:
            raise MissingError(
                "train.distributed=deepspeed_zero2: DeepSpeed is not installed; install the extra, "
                'pip install -e ".[deepspeed]", or use fsdp2'
            )
    if settings.distributed == "fsdp2" and precision == "fp16":
        raise ConfigError(
            "train.distributed=fsdp2: fp16 scales the loss, and a process would see overflow in its own part "
            "only; set train.precision=bf16 or use ddp"
        )
    if device.type == "cuda" and settings.processes > max(1, torch.cuda.device_count()):
        raise ConfigError(
            f"train.processes={settings.processes}: each needs a CUDA device, and this run sees "
            f"{torch.cuda.device_count()}; give it all there are with devices=cuda (a sweep over devices=0,1 "
            "gives a run one)"
        )


def plug_in(settings: TrainConfig, precision: str) -> DeepSpeedPlugin | None:
    """Make DeepSpeed's settings for accelerate; None where it is not used."""
    if settings.distributed != "deepspeed_zero2":
        return None
    return DeepSpeedPlugin(hf_ds_config=read_deepspeed(settings, precision))


def read_deepspeed(settings: TrainConfig, precision: str) -> dict[str, Any]:
    """Read DeepSpeed's file beside the YAML of its name; what it leaves open ("auto") is as in the run.

    Raises:
        ConfigError: the file says otherwise than the run's settings.
    """
    path = CONF_DIR / "train" / f"{settings.distributed}.json"
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    steps, clipping = settings.gradient_accumulation_steps, settings.max_grad_norm
    ours: tuple[tuple[dict[str, Any], str, Any], ...] = (
        (values, "train_micro_batch_size_per_gpu", settings.micro_batch_size),
        (values, "gradient_accumulation_steps", steps // settings.processes),
        (values, "train_batch_size", settings.micro_batch_size * steps),
        (values, "gradient_clipping", 0.0 if clipping is None else clipping),
        (values.setdefault("bf16", {}), "enabled", precision == "bf16"),
        (values.setdefault("fp16", {}), "enabled", precision == "fp16"),
    )
    for section, name, value in ours:
        if section.get(name, "auto") not in ("auto", value):
            raise ConfigError(
                f"{path.name}: {name} is {section[name]}, but the run's settings say {value}; set auto there"
            )
        section[name] = value
    return values


def shard(model: nn.Module, device: torch.device) -> None:
    """Leave each process its part of every weight, on its device (FSDP2, arXiv:2411.00284).

    A layer's weights are brought together while it computes. Layers are what the model keeps in lists.
    """
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    lists = {name: one for name, one in model.named_modules() if isinstance(one, nn.ModuleList)}
    for name, layers in lists.items():
        if not any(name.startswith(f"{outer}.") for outer in lists):
            for layer in layers:
                fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)


def wrap(
    model: nn.Module, optimizers: Sequence[Any], *, distributed: str, accelerator: Accelerator
) -> tuple[nn.Module, list[Any]]:
    """Wrap the model and its optimizers for the loop: in its precision, gradients averaged."""
    if distributed == "fsdp2":  # averages them itself
        model = accelerator.prepare_model(model, evaluation_mode=True)
        return model, [accelerator.prepare_optimizer(optimizer) for optimizer in optimizers]
    model, *wrapped = accelerator.prepare(model, *optimizers)
    return model, wrapped


@contextlib.contextmanager
def synchronised(model: nn.Module, accelerator: Accelerator, *, now: bool) -> Iterator[None]:
    """Let processes average their gradients after a backward inside if it is ``now``, or else later."""
    accelerator.sync_gradients = now  # as accelerator.accumulate does it, for DeepSpeed
    with contextlib.nullcontext() if now else accelerator.no_sync(model):
        yield


def backward(loss: torch.Tensor, accelerator: Accelerator) -> None:
    """Add the gradients of ``loss``, a part of a sum over processes, which average gradients."""
    is_deepspeed = accelerator.distributed_type == DistributedType.DEEPSPEED
    options = {"scale_wrt_gas": False} if is_deepspeed else {}  # it would average over micro-batches too
    accelerator.backward(loss * accelerator.num_processes, **options)


def share(batches: Iterable[Part], accelerator: Accelerator) -> Iterator[Part]:
    """Yield this process's part of the batches, every n-th of them.

    A last round that is not full is filled up with its last one, as all processes must take part in every
    forward pass of a sharded model.
    """
    source = iter(batches)
    while group := list(itertools.islice(source, accelerator.num_processes)):
        yield group[min(accelerator.process_index, len(group) - 1)]


def collect(parts: list[Part]) -> list[Part]:
    """Collect the parts of all processes, in each of them."""
    gathered: list[Part] = gather_object(parts)
    return gathered
