"""Ranges of single fields and rules between fields, collected before anything runs."""

import json
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from bench.config.cards import read_cards
from bench.config.identity import uses_lora
from bench.config.pack import check_pack
from bench.config.reporting import check_report
from bench.config.schema import Config, MethodConfig, TrainConfig, read_field
from bench.errors import ConfigError
from bench.spelling import guess

_COMMIT = re.compile(r"[0-9a-f]{40}")
_RUN_ID = re.compile(r"[0-9a-f]{12}")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", re.ASCII)
_CREDENTIALS = re.compile(r"//[^/\s]*@")
_HALF_CHARACTER = re.compile(r"[\ud800-\udfff]")
_LONGEST_NAME = 100

# PEFT's options that settings of bench stand for.
_SET_BY_LORA = {"r": "lora.r", "lora_alpha": "lora.alpha", "lora_dropout": "lora.dropout"}
_NEEDS_TEXTS = ("eva", "corda", "lora_ga")  # starts for which PEFT must see the data first

# Statuses after which a run may be trained again.
RETRIED = ("failed", "oom", "diverged", "timeout", "interrupted", "crashed", "invalid")

_IN_BACKWARD = ("train.optimizer_in_backward", True)
_ROUNDED = ("train.stochastic_rounding", True)
_NO_HALVING = "a micro-batch halved is made up for by accumulation, which there cannot be; set 0"
_TOGETHER = tuple(("train.distributed", way) for way in ("ddp", "fsdp2", "deepspeed_zero2"))
_ONE_STATE = "a checkpoint is of one process, with its random numbers; set null"
_ALONE: tuple[tuple[str, tuple[Any, ...], str], ...] = (
    ("train.optimizer_in_backward", (False,), "gradients are averaged over processes first; set false"),
    ("train.checkpoint_steps", (None,), _ONE_STATE),
    ("train.stop_step", (None,), _ONE_STATE),
    ("resume_from", (None,), _ONE_STATE),
    ("sweep.strategy", ("grid",), "halving goes on from checkpoints, which are of one process; set grid"),
)
_UNSHARDED: tuple[tuple[str, tuple[Any, ...], str], ...] = (
    ("train.optimizer", ("adamw",), "states in 8 bits or paged cannot be cut up; set adamw, or use ddp"),
    ("train.weights", ("fp32",), "the optimizer needs weights in fp32; set fp32, or use ddp"),
    (
        "method.quantization",
        ("none",),
        "4-bit and 8-bit weights have constants that cannot be cut up; use ddp",
    ),
)
# With the setting at the value the field must be one of these, or this is why not and what to do.
_NEEDS: tuple[tuple[str, Any, str, tuple[Any, ...], str], ...] = (
    ("train.weights", "bf16", "train.precision", ("bf16",), "bf16 is what is computed in then; set bf16"),
    (*_ROUNDED, "train.weights", ("bf16",), "only weights in bf16 are rounded; set bf16"),
    (*_ROUNDED, "train.optimizer_in_backward", (True,), "it is part of the update in backward; set true"),
    (*_IN_BACKWARD, "train.gradient_accumulation_steps", (1,), "a gradient is used and freed at once; set 1"),
    (*_IN_BACKWARD, "train.max_grad_norm", (None,), "clipping needs all gradients at once; set null"),
    (
        *_IN_BACKWARD,
        "train.precision",
        ("bf16", "fp32"),
        "fp16, which auto may come to, scales the loss, and all gradients have to be looked at before any "
        "is used; set bf16",
    ),
    (*_IN_BACKWARD, "train.oom_retries", (0,), _NO_HALVING),
    (*_IN_BACKWARD, "oom_halvings", (0,), _NO_HALVING),
    ("train.distributed", "none", "train.processes", (1,), "say how they train together; set ddp or fsdp2"),
    *((*way, *rule) for way in _TOGETHER for rule in _ALONE),
    *((*way, *rule) for way in _TOGETHER[1:] for rule in _UNSHARDED),
)


def check(config: Config) -> list[str]:
    """Every range and every rule between fields that the configuration breaks, a message each."""
    return [
        *_check_choices(config),
        *_check_ranges(config),
        *_check_rules(config),
        *_check_needs(config),
        *_check_processes(config.train),
        *_check_names(config),
        *_check_texts(config),
        *check_report(config.report),
        *check_pack(config),
    ]


def require_valid(configs: Sequence[Config]) -> None:
    """Raises one ConfigError that names every fault of every configuration, before anything runs."""
    faults = dict.fromkeys(fault for config in configs for fault in check(config))
    if faults:
        raise ConfigError("\n".join(faults))


def _check_choices(config: Config) -> list[str]:
    allowed = {
        "task": ("sequence_classification", "label_likelihood"),
        "method.estimator": ("network", "frozen_encoder", "tfidf", "majority"),
        "method.trainable": ("all", "adapter", "head"),
        "method.quantization": ("none", "nf4", "fp4", "int8"),
        "model.source": ("package", "local", "hub"),
        "model.weights": ("saved", "random"),
        "data.source": ("bbc_headlines", "bbc_news", "files", "hub", "finance8_synthetic"),
        "data.encoding": ("auto", "utf-8", "gb18030", "utf-16", "latin-1"),
        "train.optimizer": ("adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit"),
        "train.weights": ("fp32", "bf16"),
        "train.attention": ("auto", "eager", "sdpa", "flash_attention_2"),
        "train.distributed": ("none", "ddp", "fsdp2", "deepspeed_zero2"),
        "train.keep": ("auto", "best", "chosen", "none", "all"),
        "train.precision": ("auto", "fp32", "bf16", "fp16"),
        "track.mode": ("auto", "online", "offline", "disabled"),
        "plan.card": (None, *read_cards()),
        "sweep.select_by": ("accuracy", "f1_macro"),
        "sweep.strategy": ("grid", "halving"),
    }
    return [
        f"{path}={value}: must be one of {', '.join('null' if one is None else one for one in choices)}"
        + guess(str(value), (one for one in choices if one is not None))
        for path, choices in allowed.items()
        if (value := read_field(config, path)) not in choices
    ]


def _check_ranges(config: Config) -> list[str]:
    return [
        f"{path}={value}: {expected}"
        for path, (holds, expected) in (_TRAIN_RANGES | _OTHER_RANGES).items()
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
    if method.trainable == "adapter":
        faults += _check_adapter(method)
    if (config.task, method.trainable, method.estimator) == ("label_likelihood", "head", "network"):
        faults.append(
            "method.trainable=head: task=label_likelihood has no new head to train; "
            "use task=sequence_classification"
        )
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
    if config.sweep.strategy == "halving" and train.max_steps is None:
        faults.append(f"sweep.strategy=halving: needs train.max_steps, not train.epochs={train.epochs}")
    if train.stop_step is not None and train.max_steps is not None and train.stop_step > train.max_steps:
        faults.append(
            f"train.stop_step={train.stop_step}: must be at most train.max_steps={train.max_steps}, "
            "or null to train to the end"
        )
    faults += _check_targets("lora.target_modules", config.lora.target_modules)
    needed = {
        "model.path": (model.source in ("package", "local"), "a folder, for example model.path=./my-model"),
        "model.hub_id": (model.source == "hub", "a model's name on the hub"),
        "model.architecture": (
            model.source == "hub" and model.weights == "random",
            "the values of a config.json, or choose a preset that has them, for example model=qwen3-0.6b",
        ),
        "data.train": (data.source == "files", "a CSV, JSONL or Parquet file"),
        "data.hub_id": (data.source == "hub", "a data set's name on the hub"),
        "data.noise": (data.source == "finance8_synthetic", "the share of wrong labels"),
    }
    if model.architecture is not None and model.source != "hub" and model.weights == "saved":
        faults.append(
            f"model.architecture={model.architecture}: the saved weights have their own; set null, or "
            "model.weights=random"
        )
    if model.weights == "random" and model.architecture and "model_type" not in model.architecture:
        faults.append("model.architecture: must name its model_type, for example llama")
    for path, (is_needed, what) in needed.items():
        if is_needed and read_field(config, path) in (None, "", {}):
            faults.append(f"{path}=null: is needed here; give {what}")
    return [*faults, *_check_commits(config)]


def _check_needs(config: Config) -> list[str]:
    """Every pair of settings that cannot go together, with the reason and the way out."""
    return [
        f"{path}={_write(found)} with {setting}={_write(value)}: {reason}"
        for setting, value, path, allowed, reason in _NEEDS
        if read_field(config, setting) == value and (found := read_field(config, path)) not in allowed
    ]


def _check_processes(train: TrainConfig) -> list[str]:
    """The micro-batches of a step are shared out, so that all processes must get as many."""
    count, steps = train.processes, train.gradient_accumulation_steps
    if train.distributed in ("ddp", "fsdp2", "deepspeed_zero2") and count == 1:
        return [
            f"train.processes=1 with train.distributed={train.distributed}: must be at least 2, or set none"
        ]
    if count >= 1 and steps % count:
        return [
            f"train.gradient_accumulation_steps={steps}: must be a multiple of train.processes={count}, that "
            "share its micro-batches out; for the same batch raise it and lower train.micro_batch_size"
        ]
    return []


def _write(value: Any) -> str:
    """The value as an override has it."""
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def _check_commits(config: Config) -> list[str]:
    return [
        f"{kind}.revision={found.revision}: must be a full commit of 40 hexadecimal digits, as a name like "
        f"main can come to mean other {content}; copy it from {found.hub_id}'s history on the hub, or leave "
        "it null to pin what main is at first use"
        for kind, found, content in (("model", config.model, "weights"), ("data", config.data, "texts"))
        if found.source == "hub" and found.revision is not None and not _COMMIT.fullmatch(found.revision)
    ]


def _check_names(config: Config) -> list[str]:
    """Names stand in tables, on the terminal and, those of data, in the name of a folder."""
    names = ("method.name", "method.title", "model.name", "data.name", "track.project", "track.entity")
    faults = [
        f"{path}={value[:_LONGEST_NAME]!r}: must be one line of 1 to {_LONGEST_NAME} printable characters"
        for path in names
        if (value := read_field(config, path)) is not None and not _is_name(value)
    ]
    name = config.data.name
    if ("/" in name or name.startswith(".")) and not _CREDENTIALS.search(name):
        faults.append(
            f"data.name={name[:_LONGEST_NAME]!r}: must hold no / and not begin with a point, as a folder has "
            "this name; put results elsewhere with results_dir"
        )
    for path in ("model.hub_id", "data.hub_id"):
        value = read_field(config, path)
        if value and not _HUB_ID.fullmatch(value) and not _CREDENTIALS.search(value):
            faults.append(f"{path}={value!r}: must be a name on the hub, OWNER/NAME")
    return faults


def _is_name(value: str) -> bool:
    return bool(value.strip()) and len(value) <= _LONGEST_NAME and value.isprintable()


def _check_texts(value: Any, path: str = "") -> list[str]:
    """Settings are written down, so that each must be text and none a password, which no fault repeats."""
    if isinstance(value, str):
        faults = []
        if _CREDENTIALS.search(value):
            faults.append(
                f"{path}: holds the user name or password of a URL, and settings are written down; "
                "give it without"
            )
        if _HALF_CHARACTER.search(value):
            faults.append(f"{path}={value!r}: holds bytes that are not UTF-8; rename it")
        return faults
    if isinstance(value, list):
        inner = dict(enumerate(value))
    else:
        inner = value if isinstance(value, dict) else getattr(value, "__dict__", {})
    return [fault for key, one in inner.items() for fault in _check_texts(one, f"{path}.{key}".lstrip("."))]


def _check_targets(path: str, targets: Any) -> list[str]:
    names = isinstance(targets, list) and targets and all(isinstance(name, str) for name in targets)
    if names or targets in ("auto", "all-linear"):
        return []
    return [f"{path}={targets}: must be auto, all-linear or a list of module names, [query,value]"]


def _check_adapter(method: MethodConfig) -> list[str]:
    """What PEFT would ignore, or fail on only when the model is loaded."""
    options, at = method.adapter, "method.adapter."
    if "peft_type" not in options:
        return [f"method.adapter={options}: must name a peft_type, for example LORA"]
    faults = []
    for name in ("modules_to_save", "task_type", "inference_mode"):
        if name in options:
            faults.append(f"{at}{name}={options[name]}: bench sets this itself; leave it out")
    if not uses_lora(method):
        return faults
    for name, path in _SET_BY_LORA.items():
        if name in options:
            faults.append(f"{at}{name}={options[name]}: set {path} instead")
    if "target_modules" in options:
        faults += _check_targets(f"{at}target_modules", options["target_modules"])
    return faults + _check_start(method)


def _check_start(method: MethodConfig) -> list[str]:
    """Where the adapter's weights start, which must fit how the frozen weights are held."""
    start, quantization = method.adapter.get("init_lora_weights"), method.quantization
    given = f"method.adapter.init_lora_weights={start}"
    if start in _NEEDS_TEXTS:
        return [
            f"{given}: PEFT would have to see the texts first, which bench does not do; use true or pissa"
        ]
    if str(start).startswith("pissa") and quantization != "none":
        return [
            f"{given} and method.quantization={quantization}: PiSSA takes singular values out of the "
            "weights, which must not be quantised; use method.quantization=none, or loftq"
        ]
    if start == "loftq" and quantization not in ("nf4", "fp4"):
        return [
            f"{given} and method.quantization={quantization}: LoftQ makes up for what 4-bit weights lose; "
            "use method.quantization=nf4, or true"
        ]
    if start == "loftq" and method.adapter.get("use_dora"):
        return [f"{given} and use_dora=true: DoRA's magnitudes would be those before LoftQ; use one of them"]
    return []


def _is_size(value: float | None) -> bool:
    return value is None or 0 < value < 1 or (1 <= value < math.inf and float(value).is_integer())


def _is_seed(value: int) -> bool:
    return 0 <= value < 2**32


Rules = dict[str, tuple[Callable[[Any], bool], str]]  # field -> what holds of its value, and that in words
_POSITIVE = "must be a positive number"
_COUNT = "must be at least 1"
_TRAIN_RANGES: Rules = {
    "train.lr": (lambda v: 0 < v < math.inf, _POSITIVE + ", for example 1e-4"),
    "train.max_steps": (lambda v: v is None or v >= 1, _COUNT + ", or null to train by train.epochs"),
    "train.epochs": (lambda v: v is None or 0 < v < math.inf, _POSITIVE + ", or null"),
    "train.micro_batch_size": (lambda v: v >= 1, _COUNT),
    "train.gradient_accumulation_steps": (lambda v: v >= 1, _COUNT),
    "train.processes": (lambda v: v >= 1, _COUNT),
    "train.max_length": (lambda v: v >= 4, "must be at least 4 tokens"),
    "train.warmup_steps": (lambda v: v >= 0, "must be 0 or more"),
    "train.weight_decay": (lambda v: 0 <= v < math.inf, "must be 0 or more"),
    "train.max_grad_norm": (
        lambda v: v is None or 0 < v < math.inf,
        _POSITIVE + ", or null to clip nothing",
    ),
    "train.eval_steps": (lambda v: v >= 1, _COUNT),
    "train.eval_batch_size": (lambda v: v >= 1, _COUNT),
    "train.log_steps": (lambda v: v >= 1, _COUNT),
    "train.checkpoint_steps": (lambda v: v is None or v >= 1, _COUNT + ", or null for no checkpoints"),
    "train.stop_step": (lambda v: v is None or v >= 1, _COUNT + ", or null to train to the end"),
    "train.oom_retries": (lambda v: v >= 0, "must be 0 or more"),
}
_OTHER_RANGES: Rules = {
    "lora.r": (lambda v: v >= 1, "rank must be at least 1; use method=full to train without an adapter"),
    "lora.alpha": (lambda v: 0 < v < math.inf, _POSITIVE),
    "lora.dropout": (lambda v: 0 <= v < 1, "must lie in [0, 1)"),
    "method.loraplus_lr_ratio": (
        lambda v: v is None or 0 < v < math.inf,
        _POSITIVE + ", for example 16, or null for one learning rate",
    ),
    "resume_from": (
        lambda v: v is None or _RUN_ID.fullmatch(v) is not None,
        "must be a run_id, 12 hexadecimal digits, or null; `bench status` lists them",
    ),
    "data.train_size": (_is_size, "must be null, a share in (0, 1) or a number of rows"),
    "data.validation_size": (_is_size, "must be a share in (0, 1) or a number of rows"),
    "data.test_size": (_is_size, "must be a share in (0, 1) or a number of rows"),
    "data.split_seed": (_is_seed, "must lie in [0, 2**32)"),
    "seed": (_is_seed, "must lie in [0, 2**32)"),
    "model.template": (
        lambda v: v.count("{text}") == 1,
        "must hold {text} once, where the text goes",
    ),
    "oom_halvings": (lambda v: v >= 0, "must be 0 or more"),
    "devices": (
        lambda v: re.fullmatch(r"auto|cuda|cpu(\*[1-9]\d*)?|\d+(,\d+)*", v) is not None,
        "must be auto, cpu, cuda, cpu*N (N runs at once) or the numbers of GPUs, 0,1",
    ),
    "device_memory_gib": (lambda v: v is None or 0 < v < math.inf, _POSITIVE + ", or null for no limit"),
    "sweep.retry": (
        lambda v: set(v) <= set(RETRIED),
        f"must list some of {', '.join(RETRIED)}",
    ),
    "sweep.time_limit_seconds": (
        lambda v: v is None or 0 < v < math.inf,
        _POSITIVE + ", or null for no limit",
    ),
    "sweep.pack": (
        lambda v: v in ("auto", "off") or (isinstance(v, int) and (v is False or v > 1)),
        "must be auto, off or a number of runs from 2 on",
    ),
    "sweep.final_seeds": (lambda v: all(map(_is_seed, v)), "must each lie in [0, 2**32)"),
    "track.probe_seconds": (lambda v: 0 < v <= 30, "must lie in (0, 30]"),
}
