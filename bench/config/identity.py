"""What makes two runs the same run: the fields of a configuration that count, and their hash."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.config import fields
from bench.config.fields import list_marked, read_marks
from bench.config.schema import (
    AS_IT_IS,
    LONG_TEXTS,
    LOSSES,
    TRAINED,
    Config,
    DataConfig,
    MethodConfig,
    drop,
    read_field,
    to_dict,
)

# Sections and fields that cannot change a run's result, so they are not part of its identity.
UNCOUNTED = list_marked(Config, fields.UNCOUNTED)
# Fields that cannot matter given another field's value: (field, value, fields).
UNCOUNTED_WHEN = (
    *(
        (path, mark.value, (path,))
        for path, marks in read_marks(Config).items()
        for mark in marks
        if isinstance(mark, fields.Off)
    ),
    ("method.distils", False, ("teacher", "distillation")),
    ("method.trainable", "all", ("method.adapter",)),
    ("method.trainable", "head", ("method.adapter",)),
    ("method.quantization", "none", ("method.double_quant",)),
    ("method.quantization", "int8", ("method.double_quant",)),
    ("task", "sequence_classification", ("model.template", "data.label_words")),
    (
        "method.estimator",
        "majority",
        ("seed", "model", "train", "task", "data.label_words", "data.long_texts"),
    ),
    ("method.estimator", "tfidf", ("seed", "model", "train", "task", "data.label_words", "data.long_texts")),
    ("method.estimator", "setfit", ("task", "model.template", "data.label_words")),
    ("method.estimator", "frozen_encoder", ("seed", "task", "model.template", "data.label_words")),
    ("method.estimator", "zero_shot", ("seed",)),
)
UNCOUNTED_WITHOUT_LORA = ("lora", "method.loraplus_lr_ratio")  # where nothing has a rank
_FITTED_WITHOUT_STEPS = ("train.max_length", "train.precision")  # all that a frozen base uses of train
_FITTED_ON_PAIRS = (  # all that the library setfit uses of train
    *("lr", "max_steps", "epochs", "micro_batch_size", "gradient_accumulation_steps", "warmup_steps"),
    *("weight_decay", "max_grad_norm", "max_length", "precision"),
)
_PINNED = re.compile(r"(?P<folder>.+)@(?P<content>[0-9a-f]{16})")
REGRESSIONS = ("tfidf", "frozen_encoder")  # estimators that are a logistic regression of features


@dataclass(frozen=True)
class Identity:
    """The part of a configuration that decides a run's result, and its short hash."""

    canonical: Mapping[str, Any]
    run_id: str  # 12 hexadecimal digits


def identify(
    config: Config, *, data_fingerprint: str, model_revision: str, unlabelled: str | None = None
) -> Identity:
    """Collect the fields that make a run this run, data and model by content, and hash them.

    Args:
        unlabelled: the hash of the texts without labels, if there are any.
    """
    canonical = to_dict(config, without=UNCOUNTED)
    canonical["method"]["adapter"] = _whole(config.method.adapter)
    canonical["data"] = {"fingerprint": data_fingerprint, "label_words": config.data.label_words or None}
    canonical["data"]["long_texts"] = config.data.long_texts  # of the model's inputs, and not of the texts
    if None not in (config.data.folds, config.data.fold):  # folds of one data set have one fingerprint
        canonical["data"]["fold"] = config.data.fold
    if (content := split_content(config.teacher or "")[1]) is not None:  # of a folder, wherever it is
        canonical["teacher"] = content
        drop(canonical, "distillation.folds")
    if teaches(config):
        canonical["data"] |= {"cross_fit": config.data.cross_fit, "held_out": config.data.held_out}
    if reads_unlabelled(config):
        canonical["data"]["unlabelled"] = unlabelled
    canonical["model"] = {"revision": model_revision, "template": config.model.template}
    for field, value, paths in UNCOUNTED_WHEN:
        if read_field(config, field) == value:
            for path in paths:
                drop(canonical, path)
    if not uses_lora(config.method):
        for path in UNCOUNTED_WITHOUT_LORA:
            drop(canonical, path)
    elif "target_modules" in config.method.adapter:  # the method's own win, and are the same run as lora's
        canonical["lora"]["target_modules"] = canonical["method"]["adapter"].pop("target_modules")
    if draws_texts(config.data) and config.method.estimator != "zero_shot":  # which reads none of them
        canonical["seed"] = config.seed
    if config.method.estimator == "zero_shot":  # which compares texts with the labels' words in either task
        canonical["data"]["label_words"] = config.data.label_words or None
    if config.method.estimator in ("frozen_encoder", *AS_IT_IS):
        canonical["train"] = {path.split(".")[1]: read_field(config, path) for path in _FITTED_WITHOUT_STEPS}
    if config.method.estimator == "setfit":
        train = canonical["train"]
        canonical["train"] = {name: train[name] for name in _FITTED_ON_PAIRS if name in train}
    if config.method.estimator in REGRESSIONS and (loss := find_loss(config)) != LOSSES[0]:
        canonical["train"] = {**canonical.get("train", {}), "loss": loss}
    return Identity(canonical, hash_canonical(canonical))


def uses_lora(method: MethodConfig) -> bool:
    """Tell whether the method trains LoRA's A and B, plain or a variant, so that ``lora.*`` matters."""
    is_adapted = method.estimator == "network" and method.trainable == "adapter"
    return is_adapted and method.adapter.get("peft_type") == "LORA"


def teaches(config: Config) -> bool:
    """Tell whether the run predicts train texts that it was not trained on, for a student."""
    return config.data.held_out is not None


def split_content(teacher: str) -> tuple[str, str | None]:
    """Split ``DIR@CONTENT``, a teacher's folder pinned to what it holds; None where nothing is pinned."""
    found = _PINNED.fullmatch(teacher)
    return (teacher, None) if found is None else (found["folder"], found["content"])


def reads_unlabelled(config: Config) -> bool:
    """Tell whether the run learns from texts without labels, or predicts them for a student."""
    return config.data.unlabelled is not None and (config.method.distils or teaches(config))


def draws_texts(data: DataConfig) -> bool:
    """Tell whether the seed decides which train texts the run has."""
    return data.resample and data.train_size is not None


def is_stream(data: DataConfig) -> bool:
    """Tell whether the texts come in pieces, after each of which the run trains."""
    return data.stream is not None or data.pieces is not None


def find_loss(config: Config) -> str:
    """Return the loss that the run is trained by; a regression has cross-entropy, weighted or not."""
    if config.method.estimator == "network":
        return config.train.loss
    return (
        "weighted"
        if config.method.estimator in REGRESSIONS and config.train.loss == "weighted"
        else LOSSES[0]
    )


def writes_labels(config: Config) -> bool:
    """Tell whether the method reads prompts, after which labels are more or less likely."""
    return config.method.estimator in ("network", *AS_IT_IS) and config.task == "label_likelihood"


def describe(config: Config) -> str:
    """Name the run for people, by its method and the hyperparameters that count for it."""
    name, method = config.method.name, config.method
    if uses_lora(method):
        lora = config.lora
        name += f" r={lora.r} alpha={lora.alpha:g} dropout={lora.dropout:g}"
    if method.experts is not None:
        name += f" experts={method.experts}"
    if method.estimator in TRAINED:
        task = f" {config.task}" if writes_labels(config) else ""
        name += f"{task} lr={config.train.lr:g} seed={config.seed}"
    if method.distils:
        taught = config.distillation
        name += f" weight={taught.weight:g} temperature={taught.temperature:g} teacher={config.teacher}"
    if config.data.long_texts != LONG_TEXTS[0] and config.method.estimator not in ("tfidf", "majority"):
        name += f" long_texts={config.data.long_texts}"
    if (loss := find_loss(config)) != LOSSES[0]:
        name += f" loss={loss}"
    if method.estimator == "few_shot":
        name += f" shots={method.shots} seed={config.seed}"
    if draws_texts(config.data):
        drawn = f" seed={config.seed}" * ("seed=" not in name and method.estimator != "zero_shot")
        name += f" train_size={config.data.train_size:g}{drawn}"
    name += "" if config.data.fold is None else f" fold={config.data.fold}"
    return f"{name} held_out={config.data.held_out}" if teaches(config) else name


def hash_canonical(canonical: Mapping[str, Any]) -> str:
    """Return the run_id of a canonical configuration, whatever the order of its keys."""
    text = json.dumps(canonical, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _whole(value: Any) -> Any:
    """Turn whole floats into integers, where no type of the schema has done so."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {key: _whole(inner) for key, inner in value.items()}
    return [_whole(inner) for inner in value] if isinstance(value, list) else value
