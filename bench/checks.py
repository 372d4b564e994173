"""Ranges of single fields and rules between fields, collected before anything runs."""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from bench.config import Config, read_field
from bench.errors import ConfigError

_COMMIT = re.compile(r"[0-9a-f]{40}")


def check(config: Config) -> list[str]:
    """Every range and every rule between fields that the configuration breaks, a message each."""
    return [*_check_choices(config), *_check_ranges(config), *_check_rules(config)]


def require_valid(configs: Sequence[Config]) -> None:
    """Raises one ConfigError that names every fault of every configuration, before anything runs."""
    faults = dict.fromkeys(fault for config in configs for fault in check(config))
    if faults:
        raise ConfigError("\n".join(faults))


def _check_choices(config: Config) -> list[str]:
    allowed = {
        "method.estimator": ("network", "frozen_encoder", "tfidf", "majority"),
        "method.trainable": ("all", "adapter", "head"),
        "method.quantization": ("none", "nf4", "fp4", "int8"),
        "model.source": ("package", "local", "hub"),
        "data.source": ("bbc_headlines", "bbc_news", "files", "hub", "finance8_synthetic"),
        "train.optimizer": ("adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit"),
        "train.precision": ("auto", "fp32", "bf16", "fp16"),
        "track.mode": ("auto", "online", "offline", "disabled"),
        "sweep.select_by": ("accuracy", "f1_macro"),
        "devices": ("auto", "cpu", "cuda"),
    }
    return [
        f"{path}={value}: must be one of {', '.join(choices)}"
        for path, choices in allowed.items()
        if (value := read_field(config, path)) not in choices
    ]


def _check_ranges(config: Config) -> list[str]:
    positive = "must be a positive number"
    count = "must be at least 1"
    rules: dict[str, tuple[Callable[[Any], bool], str]] = {
        "lora.r": (lambda v: v >= 1, "rank must be at least 1; use method=full to train without an adapter"),
        "lora.alpha": (lambda v: 0 < v < math.inf, positive),
        "lora.dropout": (lambda v: 0 <= v < 1, "must lie in [0, 1)"),
        "train.lr": (lambda v: 0 < v < math.inf, positive + ", for example 1e-4"),
        "train.max_steps": (lambda v: v is None or v >= 1, count + ", or null to train by train.epochs"),
        "train.epochs": (lambda v: v is None or 0 < v < math.inf, positive + ", or null"),
        "train.micro_batch_size": (lambda v: v >= 1, count),
        "train.gradient_accumulation_steps": (lambda v: v >= 1, count),
        "train.max_length": (lambda v: v >= 4, "must be at least 4 tokens"),
        "train.warmup_steps": (lambda v: v >= 0, "must be 0 or more"),
        "train.weight_decay": (lambda v: 0 <= v < math.inf, "must be 0 or more"),
        "train.max_grad_norm": (
            lambda v: v is None or 0 < v < math.inf,
            positive + ", or null to clip nothing",
        ),
        "train.eval_steps": (lambda v: v >= 1, count),
        "train.eval_batch_size": (lambda v: v >= 1, count),
        "train.log_steps": (lambda v: v >= 1, count),
        "data.train_size": (_is_size, "must be null, a share in (0, 1) or a number of rows"),
        "data.validation_size": (_is_size, "must be a share in (0, 1) or a number of rows"),
        "data.test_size": (_is_size, "must be a share in (0, 1) or a number of rows"),
        "data.split_seed": (_is_seed, "must lie in [0, 2**32)"),
        "seed": (_is_seed, "must lie in [0, 2**32)"),
        "sweep.final_seeds": (lambda v: all(map(_is_seed, v)), "must each lie in [0, 2**32)"),
        "track.probe_seconds": (lambda v: 0 < v <= 30, "must lie in (0, 30]"),
    }
    return [
        f"{path}={value}: {expected}"
        for path, (holds, expected) in rules.items()
        if not holds(value := read_field(config, path))
    ]


def _check_rules(config: Config) -> list[str]:
    method, train, data, model = config.method, config.train, config.data, config.model
    faults = []
    if method.quantization != "none" and method.trainable == "all":
        faults.append(
            f"method.quantization={method.quantization}: quantised weights cannot be trained; "
            "use method.trainable=adapter"
        )
    if method.trainable == "adapter" and "peft_type" not in method.adapter:
        faults.append(f"method.adapter={method.adapter}: must name a peft_type, for example LORA")
    if train.max_steps is None and train.epochs is None:
        faults.append("train.max_steps=null and train.epochs=null: set one of them")
    if train.max_steps is not None and train.epochs is not None:
        faults.append(
            f"train.max_steps={train.max_steps} and train.epochs={train.epochs}: set one of them, "
            "and the other to null"
        )
    if train.max_steps is not None and train.warmup_steps >= train.max_steps:
        faults.append(
            f"train.warmup_steps={train.warmup_steps}: must be less than train.max_steps={train.max_steps}"
        )
    faults += _check_targets(config.lora.target_modules)
    needed = {
        "model.path": (model.source in ("package", "local"), "a folder, for example model.path=./my-model"),
        "model.hub_id": (model.source == "hub", "a model's name on the hub"),
        "model.revision": (model.source == "hub", "a commit, so that the weights cannot change"),
        "data.train": (data.source == "files", "a CSV, JSONL or Parquet file"),
        "data.hub_id": (data.source == "hub", "a data set's name on the hub"),
        "data.revision": (data.source == "hub", "a commit, so that the texts cannot change"),
        "data.noise": (data.source == "finance8_synthetic", "the share of wrong labels"),
    }
    for path, (is_needed, what) in needed.items():
        if is_needed and read_field(config, path) in (None, ""):
            faults.append(f"{path}=null: is needed here; give {what}")
    return [*faults, *_check_commits(config)]


def _check_commits(config: Config) -> list[str]:
    return [
        f"{kind}.revision={found.revision}: must be a full commit of 40 hexadecimal digits, as a name like "
        f"main can come to mean other {content}; copy it from {found.hub_id}'s history on the hub"
        for kind, found, content in (("model", config.model, "weights"), ("data", config.data, "texts"))
        if found.source == "hub" and found.revision and not _COMMIT.fullmatch(found.revision)
    ]


def _check_targets(targets: Any) -> list[str]:
    names = isinstance(targets, list) and targets and all(isinstance(name, str) for name in targets)
    if names or targets in ("auto", "all-linear"):
        return []
    return [
        f"lora.target_modules={targets}: must be auto, all-linear or a list of module names, [query,value]"
    ]


def _is_size(value: float | None) -> bool:
    return value is None or 0 < value < 1 or (1 <= value < math.inf and float(value).is_integer())


def _is_seed(value: int) -> bool:
    return 0 <= value < 2**32
