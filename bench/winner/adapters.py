"""Several adapters on one base as one classifier, each for a task of its own; a batch may hold texts of all.

The base is held and read once: PEFT gives each row of a batch its own adapter (its ``adapter_names``).
"""

import dataclasses
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import peft
import torch
from peft.utils import load_peft_weights
from safetensors import SafetensorError
from torch import nn

from bench.data.tasks import name_labels
from bench.data.tokens import TASK
from bench.errors import ConfigError, first_line
from bench.model import build
from bench.run import manifest as manifests
from bench.run.manifest import Manifest
from bench.train.device import choose_device
from bench.train.task import Inputs
from bench.winner import classifier
from bench.winner.classifier import Classifier

# What the adapters of one batch have in common: they read one base, and texts alike.
_SHARED = (
    *("task", "precision", "quantization", "double_quant", "max_length", "long_texts", "pairs"),
    "new_modules",
)
_MIXED_HEADS = (nn.Linear, nn.Embedding)  # of which PEFT takes each row's own in a batch


@dataclass(frozen=True)
class MixedAdapters:
    """What each task's adapter and its head make of a batch of texts of any tasks."""

    names: tuple[str, ...]  # PEFT's, by the number of a task
    counts: tuple[int, ...]  # labels of each task
    temperatures: tuple[float, ...]  # that each task's scores are divided by
    sequences: int = 1

    def score(self, model: nn.Module, inputs: Inputs) -> torch.Tensor:
        """Compute the outputs of each row's own head; those of others are minus infinity. # (rows, labels)"""
        owners = inputs[TASK]  # (rows,)
        of_texts = {name: value for name, value in inputs.items() if name != TASK}
        found = model(**of_texts, adapter_names=[self.names[number] for number in owners.tolist()])
        logits = found.logits.float()  # (rows, labels of the task that has most)
        scores: torch.Tensor = logits.new_full((len(owners), sum(self.counts)), -math.inf)
        starts = accumulate(self.counts, initial=0)
        for number, (start, count) in enumerate(zip(starts, self.counts, strict=False)):
            own = owners == number
            scores[own, start : start + count] = logits[own, :count] / self.temperatures[number]
        return scores


def load(folders: Sequence[Path]) -> Classifier:
    """Return the classifier of several exported adapters, each a task by the name of its folder.

    Raises:
        ConfigError: they do not belong on one base, or PEFT cannot read them in one batch.
        MissingError: the base is not on this machine.
    """
    if len({folder.name for folder in folders}) < len(folders):
        raise ConfigError(
            f"{', '.join(map(str, folders))}: a folder's name is its task, and two have one name; rename one"
        )
    made = {folder.name: manifests.read(folder) for folder in folders}
    _require_alike(folders, made)
    first, device = next(iter(made.values())), choose_device("auto")
    precision = classifier.fitting_precision(first.precision, device)
    names = tuple(f"task_{number}" for number in range(len(folders)))
    try:
        with classifier.quiet():
            network = _load_network(dict(zip(names, folders, strict=True)), made, device, precision)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        named = ", ".join(map(str, folders))
        raise ConfigError(
            f"{named}: do not load on one base ({first_line(error)}); export them again"
        ) from None
    mixed = MixedAdapters(
        names,
        counts=tuple(len(one.labels) for one in made.values()),
        temperatures=tuple(one.temperature for one in made.values()),
    )
    tokenizer = build.load_tokenizer(folders[0])
    return Classifier(network, tokenizer, _join(made), precision, device, mixed=mixed)


def _require_alike(folders: Sequence[Path], made: Mapping[str, Manifest]) -> None:
    """Raise a ConfigError unless the folders hold adapters that one batch can have."""
    first = next(iter(made.values()))
    for folder, manifest in zip(folders, made.values(), strict=True):
        is_plain = manifest.kind == "adapter" and manifest.experts is None
        settings = peft.PeftConfig.from_pretrained(str(folder)) if is_plain else None
        if settings is None or manifest.members or manifest.tasks:
            raise ConfigError(
                f"{folder}: holds no single adapter without gates; serve it alone, or export one "
                "for each task"
            )
        if manifest.prompt is not None or manifest.thresholds is not None:
            raise ConfigError(f"{folder}: only heads with one label a text share a batch; serve it alone")
        if settings.peft_type != "LORA" or getattr(settings, "use_dora", False):
            raise ConfigError(
                f"{folder}: PEFT gives each text of a batch its own adapter for plain LoRA alone, and method "
                f"{manifest.method} is another; serve it alone"
            )
        if manifest.base.content != first.base.content:
            raise ConfigError(
                f"{folder}: its base is {manifest.base.name}, another than that of {folders[0]}"
            )
        for name in _SHARED:
            own, others = getattr(manifest, name), getattr(first, name)
            if own != others:
                raise ConfigError(
                    f"{folder}: has {name}={own}, and {folders[0]} has {others}; train both alike, or serve "
                    "each alone"
                )


def _load_network(
    folders: Mapping[str, Path], made: Mapping[str, Manifest], device: torch.device, precision: str
) -> nn.Module:
    """Load the base and all adapters, their heads with as many outputs as the largest has."""
    largest = max(made, key=lambda task: len(made[task].labels))
    by_name = dict(zip(folders, made, strict=True))
    order = sorted(folders, key=lambda name: by_name[name] != largest)  # whose head the base then has
    base = classifier.load_base(folders[order[0]], made[largest], device=device, precision=precision)
    network = peft.PeftModel.from_pretrained(base, folders[order[0]], adapter_name=order[0])
    for name in order:
        if name != order[0]:
            with warnings.catch_warnings():  # of a head that is smaller, which follows
                warnings.filterwarnings("ignore", "Some weights of .* were not initialized", UserWarning)
                network.load_adapter(str(folders[name]), adapter_name=name, ignore_mismatched_sizes=True)
        _fill_heads(base, made[largest].new_modules, folders[name], name)
    classifier.cast_products(network, build.DTYPES[precision])
    placed: nn.Module = network.to(device)
    return placed.requires_grad_(False).eval()


def _fill_heads(base: nn.Module, modules: Sequence[str], folder: Path, name: str) -> None:
    """Put an adapter's own head into the first outputs of one that may have more, which say nothing."""
    state = load_peft_weights(str(folder), device="cpu")
    for module in modules:
        wrapper: Any = base.get_submodule(module)
        head = wrapper.modules_to_save[name]
        if not isinstance(head, _MIXED_HEADS):
            raise ValueError(f"PEFT takes no head of the type {type(head).__name__} for each text of a batch")
        for kind, held in head.named_parameters():
            own = state[f"base_model.model.{module}.{kind}"]
            with torch.no_grad():
                held.zero_()
                held[: len(own)] = own


def _join(made: Mapping[str, Manifest]) -> Manifest:
    """Return what the adapters together say of themselves."""
    first = next(iter(made.values()))
    labels = {task: one.labels for task, one in made.items()}
    return dataclasses.replace(
        first,
        run_id="+".join(one.run_id for one in made.values()),
        method="+".join(dict.fromkeys(one.method for one in made.values())),
        labels=list(name_labels(labels)),
        tasks={task: list(name_labels({task: own})) for task, own in labels.items()},
        confidence=None,  # each task has its own temperature
    )
