"""What makes two runs the same run: the fields of a configuration that count, and their hash."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.config.schema import Config, MethodConfig, read_field, to_dict

# Fields that cannot change a run's result, so they are not part of its identity.
UNCOUNTED = (
    "method.name",
    "method.title",
    "method.default_lr",
    "train.log_steps",
    "train.eval_batch_size",
    "train.checkpoint_steps",
    "train.keep",
    "train.oom_retries",
    "oom_halvings",
    "track",
    "sweep",
    "report",
    "plan",
    "devices",
    "device_memory_gib",
    "resume_from",
    "pack",
    "results_dir",
    "cache_dir",
)
# Fields that cannot matter given another field's value: (field, value, fields).
UNCOUNTED_WHEN = (
    ("method.trainable", "all", ("method.adapter",)),
    ("method.trainable", "head", ("method.adapter",)),
    ("method.quantization", "none", ("method.double_quant",)),
    ("method.quantization", "int8", ("method.double_quant",)),
    ("method.loraplus_lr_ratio", None, ("method.loraplus_lr_ratio",)),
    ("train.epochs", None, ("train.epochs",)),
    ("train.max_steps", None, ("train.max_steps",)),
    ("train.stop_step", None, ("train.stop_step",)),
    ("train.optimizer_in_backward", False, ("train.optimizer_in_backward",)),
    ("train.stochastic_rounding", False, ("train.stochastic_rounding",)),
    ("train.weights", "fp32", ("train.weights",)),
    ("train.attention", "auto", ("train.attention",)),
    ("train.distributed", "none", ("train.distributed",)),
    ("train.processes", 1, ("train.processes",)),
    ("task", "sequence_classification", ("task", "model.template", "data.label_words")),
    ("method.estimator", "majority", ("seed", "model", "train", "task", "data.label_words")),
    ("method.estimator", "tfidf", ("seed", "model", "train", "task", "data.label_words")),
    ("method.estimator", "frozen_encoder", ("seed", "task", "model.template", "data.label_words")),
)
UNCOUNTED_WITHOUT_LORA = ("lora", "method.loraplus_lr_ratio")  # where nothing has a rank
_FITTED_WITHOUT_STEPS = ("train.max_length", "train.precision")  # all that a frozen encoder uses of train


@dataclass(frozen=True)
class Identity:
    """The part of a configuration that decides a run's result, and its short hash."""

    canonical: Mapping[str, Any]
    run_id: str  # 12 hexadecimal digits


def identify(config: Config, *, data_fingerprint: str, model_revision: str) -> Identity:
    """What makes a run this run: the fields that count, with data and model by content, and their hash."""
    canonical = to_dict(config, without=UNCOUNTED)
    canonical["method"]["adapter"] = _whole(config.method.adapter)
    canonical["data"] = {"fingerprint": data_fingerprint, "label_words": config.data.label_words or None}
    canonical["model"] = {"revision": model_revision, "template": config.model.template}
    for path in UNCOUNTED:
        _drop(canonical, path)
    for field, value, paths in UNCOUNTED_WHEN:
        if read_field(config, field) == value:
            for path in paths:
                _drop(canonical, path)
    if not uses_lora(config.method):
        for path in UNCOUNTED_WITHOUT_LORA:
            _drop(canonical, path)
    elif "target_modules" in config.method.adapter:  # the method's own win, and are the same run as lora's
        canonical["lora"]["target_modules"] = canonical["method"]["adapter"].pop("target_modules")
    if config.method.estimator == "frozen_encoder":
        canonical["train"] = {path.split(".")[1]: read_field(config, path) for path in _FITTED_WITHOUT_STEPS}
    return Identity(canonical, hash_canonical(canonical))


def uses_lora(method: MethodConfig) -> bool:
    """Whether the method trains LoRA's A and B, plain or a variant, so that ``lora.*`` matters."""
    is_adapted = method.estimator == "network" and method.trainable == "adapter"
    return is_adapted and method.adapter.get("peft_type") == "LORA"


def describe(config: Config) -> str:
    """The run's name for people: the method and the hyperparameters that count for it."""
    name = config.method.name
    if config.method.estimator != "network":
        return name
    if uses_lora(config.method):
        lora = config.lora
        name += f" r={lora.r} alpha={lora.alpha:g} dropout={lora.dropout:g}"
    if config.task != "sequence_classification":
        name += f" {config.task}"
    return f"{name} lr={config.train.lr:g} seed={config.seed}"


def hash_canonical(canonical: Mapping[str, Any]) -> str:
    """The run_id of a canonical configuration, whatever the order of its keys."""
    text = json.dumps(canonical, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _drop(tree: dict[str, Any], path: str) -> None:
    """Removes the dotted path from the tree, if it is there."""
    *folders, name = path.split(".")
    for folder in folders:
        tree = tree.get(folder, {})
    tree.pop(name, None)


def _whole(value: Any) -> Any:
    """The value with whole floats as integers, where no type of the schema has made them one."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {key: _whole(inner) for key, inner in value.items()}
    return [_whole(inner) for inner in value] if isinstance(value, list) else value
