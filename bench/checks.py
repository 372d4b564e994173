"""Ranges of single fields and rules between fields, collected before anything runs."""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from bench.config import Config, MethodConfig, read_field, uses_lora
from bench.errors import ConfigError
from bench.reporting import ArticleConfig

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


def check(config: Config) -> list[str]:
    """Every range and every rule between fields that the configuration breaks, a message each."""
    return [
        *_check_choices(config),
        *_check_ranges(config),
        *_check_prices(config),
        *_check_rules(config),
        *_check_names(config),
        *_check_texts(config),
        *_check_article(config.report.article),
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
        "train.optimizer": ("adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit"),
        "train.precision": ("auto", "fp32", "bf16", "fp16"),
        "track.mode": ("auto", "online", "offline", "disabled"),
        "sweep.select_by": ("accuracy", "f1_macro"),
        "sweep.strategy": ("grid", "halving"),
    }
    return [
        f"{path}={value}: must be one of {', '.join(choices)}"
        for path, choices in allowed.items()
        if (value := read_field(config, path)) not in choices
    ]


def _check_article(article: ArticleConfig) -> list[str]:
    """What a report can read of the article's claims and advice."""
    methods = [one.method for one in article.table]
    values = [
        *(
            ("claims.measure", one.measure, ("memory", "accuracy", "train_time", "trainable"))
            for one in article.claims
        ),
        *(("claims.bounds", one.bounds, ("both", "low", "high")) for one in article.claims),
        *(("claims.needs", need, ("model", "data", "card")) for one in article.claims for need in one.needs),
        *(("claims.method", one.method, methods) for one in article.claims),
        *(("claims.against", one.against, methods) for one in article.claims if one.measure != "trainable"),
        *(("advice.case", one.case, ("above", "below", "quality", "speed")) for one in article.advice),
    ]
    faults = [
        f"report.article.{name}={value}: must be one of {', '.join(choices)}"
        for name, value, choices in values
        if value not in choices
    ]
    for one in article.advice:
        if (one.memory_gb is not None) != (one.case in ("above", "below")):
            faults.append(
                f"report.article.advice.memory_gb={one.memory_gb}: belongs to the cases above and below"
            )
    return faults


def _check_ranges(config: Config) -> list[str]:
    positive = "must be a positive number"
    count = "must be at least 1"
    rules: dict[str, tuple[Callable[[Any], bool], str]] = {
        "lora.r": (lambda v: v >= 1, "rank must be at least 1; use method=full to train without an adapter"),
        "lora.alpha": (lambda v: 0 < v < math.inf, positive),
        "lora.dropout": (lambda v: 0 <= v < 1, "must lie in [0, 1)"),
        "method.loraplus_lr_ratio": (
            lambda v: v is None or 0 < v < math.inf,
            positive + ", for example 16, or null for one learning rate",
        ),
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
        "train.checkpoint_steps": (lambda v: v is None or v >= 1, count + ", or null for no checkpoints"),
        "train.stop_step": (lambda v: v is None or v >= 1, count + ", or null to train to the end"),
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
        "train.oom_retries": (lambda v: v >= 0, "must be 0 or more"),
        "oom_halvings": (lambda v: v >= 0, "must be 0 or more"),
        "devices": (
            lambda v: re.fullmatch(r"auto|cuda|cpu(\*[1-9]\d*)?|\d+(,\d+)*", v) is not None,
            "must be auto, cpu, cuda, cpu*N (N runs at once) or the numbers of GPUs, 0,1",
        ),
        "device_memory_gib": (lambda v: v is None or 0 < v < math.inf, positive + ", or null for no limit"),
        "sweep.retry": (
            lambda v: set(v) <= set(RETRIED),
            f"must list some of {', '.join(RETRIED)}",
        ),
        "sweep.time_limit_seconds": (
            lambda v: v is None or 0 < v < math.inf,
            positive + ", or null for no limit",
        ),
        "sweep.final_seeds": (lambda v: all(map(_is_seed, v)), "must each lie in [0, 2**32)"),
        "track.probe_seconds": (lambda v: 0 < v <= 30, "must lie in (0, 30]"),
    }
    return [
        f"{path}={value}: {expected}"
        for path, (holds, expected) in rules.items()
        if not holds(value := read_field(config, path))
    ]


def _check_prices(config: Config) -> list[str]:
    return [
        f"{path}={value}: must be 0 or more, or null to show no cost"
        for path in ("report.price_per_hour", "report.price_per_kwh")
        if (value := read_field(config, path)) is not None and not 0 <= value < math.inf
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
