"""Rules between fields, collected with the ranges of single fields before anything runs."""

import re
from collections.abc import Collection, Sequence
from typing import Any

from bench.config.cards import read_cards
from bench.config.fields import TARGETS, find_faults, one_of, write
from bench.config.identity import is_stream, uses_lora, writes_labels
from bench.config.pack import check_pack
from bench.config.packable import find_variant
from bench.config.reporting import check_article
from bench.config.schema import (
    CRITERIA,
    LONG_TEXTS,
    LOSSES,
    METRICS,
    MULTI_LABEL,
    SINGLE_LABEL,
    TRAINED,
    Config,
    MethodConfig,
    PlanConfig,
    TrainConfig,
    read_field,
)
from bench.config.tasks import check_tasks
from bench.config.template import list_columns
from bench.errors import ConfigError
from bench.redaction import has_credentials, has_half_characters

# What report.columns may name: scores that are not in the main table anyway, and the F1 of each label.
COLUMNS = (*(name for name in METRICS if name not in ("accuracy", "f1_macro")), "f1_by_label")
_COMMIT = re.compile(r"[0-9a-f]{40}")

# PEFT's options that settings of bench stand for.
_SET_BY_LORA = {"r": "lora.r", "lora_alpha": "lora.alpha", "lora_dropout": "lora.dropout"}
_NEEDS_TEXTS = ("eva", "corda", "lora_ga")  # starts for which PEFT must see the data first

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
_SEVERAL = ("data.multi_label", True)
_MULTI_LABEL: tuple[tuple[str, tuple[Any, ...], str], ...] = (
    ("data.source", ("files", "hub"), "its texts have one label each; set false, or use data=files"),
    (
        "method.estimator",
        ("network", "frozen_encoder", "tfidf", "majority"),
        "it gives a text exactly one label; use another method, for example method=head",
    ),
    (
        "task",
        ("sequence_classification",),
        "a decoder's answers exclude each other; set sequence_classification",
    ),
    ("train.loss", LOSSES[:1], "it weighs a text by its one label; set cross_entropy"),
    ("method.distils", (False,), "a student learns which one label a text has; use method=full"),
    ("data.folds", (None,), "folds are dealt label by label, and a text is in one of them; set null"),
    ("sweep.strategy", ("grid",), "halving compares the losses of one label a text; set grid"),
    (
        "sweep.select_by",
        tuple(name for name in CRITERIA if name not in SINGLE_LABEL),
        "it is not defined where a text has several labels; set f1_macro",
    ),
)
# What each must be where a teacher's probabilities are learned, or this is why not and what to do.
_TAUGHT: tuple[tuple[str, tuple[Any, ...], str], ...] = (
    ("method.estimator", ("network",), "a student is trained in steps; set network"),
    ("task", ("sequence_classification",), "a student has a head to learn with; set sequence_classification"),
    ("train.loss", LOSSES[:1], "a student's loss has the teacher's part already; set cross_entropy"),
    ("train.distributed", ("none",), "a teacher's probabilities are handed to one process; set none"),
    ("data.held_out", (None,), "a student is no teacher; set null"),
)
# What each must be where texts come as a stream, or this is why not and what to do.
_STREAM: tuple[tuple[str, tuple[Any, ...], str], ...] = (
    ("data.validation", (None,), "each piece is split by itself; set null"),
    ("data.test", (None,), "each piece is split by itself; set null"),
    ("data.train_size", (None,), "all train texts of each piece are trained on; set null"),
    ("data.folds", (None,), "each piece has one validation split; set null"),
    ("data.multi_label", (False,), "which labels a model knows is told by the one of each text; set false"),
    ("sweep.curve", (None,), "pieces already are numbers of labels, one after the other; set null"),
    ("sweep.strategy", ("grid",), "halving stops one training halfway, and a stream has several; set grid"),
    ("train.stop_step", (None,), "it stops one training halfway, and a stream has several; set null"),
    ("train.distributed", ("none",), "the trainings of a stream are of one process; set none"),
    ("method.experts", (None,), "what gates choose is counted for all labels; use a method without gates"),
    ("method.distils", (False,), "a teacher's held-out parts are of one data set; use another method"),
    ("data.cross_fit", (None,), "parts are held out for a student, and none learns on a stream; set null"),
    ("resume_from", (None,), "a run on a stream goes on from its own checkpoints alone; set null"),
    (
        "method.estimator",
        (*TRAINED, "frozen_encoder", "tfidf", "majority"),
        "it is not trained, so there is nothing to update; choose another method, for example method=head",
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
    ("method.estimator", "setfit", "method.trainable", ("all",), "it fine-tunes the whole encoder; set all"),
    ("method.estimator", "setfit", "data.text_pair_column", (None,), "it makes pairs of its own; set null"),
    (
        "method.estimator",
        "setfit",
        "data.long_texts",
        tuple(way for way in LONG_TEXTS if way != "windows"),
        "it reads a text as a whole; set truncate or head_tail",
    ),
    (
        "sweep.strategy",
        "halving",
        "data.folds",
        (None,),
        "each fold would keep other configurations, and none would have all folds; set null, or "
        "sweep.strategy=grid",
    ),
    (
        "sweep.bracket",
        True,
        "data.folds",
        (None,),
        "one fold alone would say which value comes next; set null, or sweep.bracket=false",
    ),
    (
        "data.resample",
        True,
        "data.folds",
        (None,),
        "folds already are other train texts; set null, or data.resample=false",
    ),
    (
        "data.source",
        "finance8_synthetic",
        "data.resample",
        (False,),
        "it makes as many texts as data.train_size says, and none to choose from; set false",
    ),
    *(
        (
            "data.long_texts",
            way,
            "data.text_pair_column",
            (None,),
            "a pair has two texts to cut; set truncate",
        )
        for way in LONG_TEXTS[1:]
    ),
    *((*_SEVERAL, *rule) for rule in _MULTI_LABEL),
    *(("method.distils", True, *rule) for rule in _TAUGHT),
    (
        "data.multi_label",
        False,
        "data.label_columns",
        (None,),
        "a text then has one label, in data.label_column; set null, or data.multi_label=true",
    ),
    (
        "data.multi_label",
        False,
        "sweep.select_by",
        tuple(name for name in CRITERIA if name not in MULTI_LABEL),
        "it is of texts with several labels; set accuracy or f1_macro",
    ),
    *((*way, *rule) for way in _TOGETHER for rule in _ALONE),
    *((*way, *rule) for way in _TOGETHER[1:] for rule in _UNSHARDED),
)


def check(config: Config) -> list[str]:
    """Name every range and every rule between fields that the configuration breaks, a message each."""
    outside = list(find_faults(config, hidden=_holds_credentials))
    return [
        *outside,
        *_check_card(config.plan),
        *_check_method(config),
        *_check_rules(config),
        *_check_needs(config, outside={fault.partition("=")[0] for fault in outside}),
        *_check_processes(config.train),
        *_check_folds(config),
        *_check_teaching(config),
        *_check_stream(config),
        *_check_update(config),
        *check_tasks(config),
        *_check_columns_of_texts(config),
        *_check_texts(config),
        *check_article(config.report.article),
        *_check_columns(config.report.columns),
        *check_pack(config),
    ]


def require_valid(configs: Sequence[Config]) -> None:
    """Raise one ConfigError that names every fault of every configuration, before anything runs."""
    faults = dict.fromkeys(fault for config in configs for fault in check(config))
    if faults:
        raise ConfigError("\n".join(faults))


def _check_columns(columns: Sequence[str]) -> list[str]:
    """Ask for scores that the main table has not got already."""
    known = one_of(*COLUMNS)
    return [
        f"report.columns={name}: {known.expected}{known.near(name)}"
        for name in columns
        if not known.holds(name)
    ]


def _check_card(plan: PlanConfig) -> list[str]:
    known = one_of(*read_cards())
    if plan.card is None or known.holds(plan.card):
        return []
    return [f"plan.card={plan.card}: {known.expected}, or null for this machine's own{known.near(plan.card)}"]


def _holds_credentials(value: Any) -> bool:
    return isinstance(value, str) and has_credentials(value)


def _check_method(config: Config) -> list[str]:
    method, faults = config.method, list[str]()
    if method.quantization != "none" and method.trainable == "all":
        faults.append(
            f"method.quantization={method.quantization}: quantised weights cannot be trained; "
            "use method.trainable=adapter"
        )
    if method.trainable == "adapter":
        faults += _check_adapter(method)
    faults += _check_experts(config)
    if (config.task, method.trainable, method.estimator) == ("label_likelihood", "head", "network"):
        faults.append(
            "method.trainable=head: task=label_likelihood has no new head to train; "
            "use task=sequence_classification"
        )
    if method.estimator == "few_shot" and config.task != "label_likelihood":
        faults.append(
            f"task={config.task}: method.estimator=few_shot puts examples with their labels' words into the "
            "prompt of a decoder; use task=label_likelihood, or method=zero_shot"
        )
    if (method.estimator == "few_shot") != (method.shots is not None):
        faults.append(
            f"method.shots={write(method.shots)} with method.estimator={method.estimator}: few_shot has 1 or "
            "more examples of each label in its prompts, others have none; set null, or method=few_shot"
        )
    return faults


def _check_rules(config: Config) -> list[str]:
    train, data, model = config.train, config.data, config.model
    faults = []
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
    needed = {
        "model.path": (model.source in ("package", "local"), "a folder, for example model.path=./my-model"),
        "model.hub_id": (model.source == "hub", "a model's name on the hub"),
        "model.architecture": (
            model.source == "hub" and model.weights == "random",
            "the values of a config.json, or choose a preset that has them, for example model=qwen3-0.6b",
        ),
        "data.train": (data.source == "files" and data.stream is None, "a CSV, JSONL or Parquet file"),
        "data.hub_id": (data.source == "hub", "a data set's name on the hub"),
        "data.noise": (data.source == "finance8_synthetic", "the share of wrong labels"),
    }
    may_be_absent = model.source == "hub" or str(model.path).endswith(".gguf")  # where plans know no other
    if model.architecture is not None and not may_be_absent and model.weights == "saved":
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


def _check_needs(config: Config, *, outside: Collection[str]) -> list[str]:
    """Name every pair of settings that cannot go together, with the reason and the way out.

    Args:
        outside: settings whose values are out of range, of which no more need be said.
    """
    return [
        f"{path}={write(given)} with {setting}={write(value)}: {reason}"
        for setting, value, path, allowed, reason in _NEEDS
        if read_field(config, setting) == value and (given := read_field(config, path)) not in allowed
        if path not in outside
    ]


def _check_processes(train: TrainConfig) -> list[str]:
    """Ask for as many micro-batches of a step for every process, as they are shared out."""
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


def _check_folds(config: Config) -> list[str]:
    """Ask for one of the folds where there are any, and for none where there are not."""
    folds, fold, curve = config.data.folds, config.data.fold, config.sweep.curve
    if folds is not None and curve is not None:
        return [
            f"sweep.curve={curve} with data.folds={folds}: each seed of a curve draws its train texts, and "
            "folds already are other ones; leave out one of the two"
        ]
    if folds is None and fold is not None:
        return [f"data.fold={fold} with data.folds=null: say of how many folds, for example data.folds=5"]
    if folds is None or folds < 2 or (fold is not None and fold < folds):
        return []
    every = ",".join(map(str, range(folds)))
    return [
        f"data.fold={write(fold)} with data.folds={folds}: must be the fold that validates, 0 to "
        f"{folds - 1}; a sweep over all of them sets data.fold={every}"
    ]


def _check_teaching(config: Config) -> list[str]:
    """Ask a student for its teacher, and one of the held-out parts where there are any."""
    faults, parts, part = list[str](), config.data.cross_fit, config.data.held_out
    if config.method.distils and config.teacher is None:
        faults.append(
            f"teacher=null: method={config.method.name} learns from another run's probabilities; say whose, "
            "for example teacher=best:lora, a run_id that `bench status` lists, or an exported folder"
        )
    if part is not None and parts is None:
        faults.append(
            f"data.held_out={part} with data.cross_fit=null: say of how many parts, data.cross_fit=5"
        )
    if parts is not None and (part is None or part >= parts):
        faults.append(
            f"data.held_out={write(part)} with data.cross_fit={parts}: must be the part of the train texts "
            f"that is held out, 0 to {parts - 1}; a sweep over all of them sets data.held_out="
            + ",".join(map(str, range(parts)))
        )
    return faults


def _check_stream(config: Config) -> list[str]:
    """Ask for pieces that can be told, and for nothing that a run of several trainings does not have."""
    data, faults = config.data, list[str]()
    if data.stream is not None:
        given = f"data.stream={write(data.stream)}"
        if data.source != "files":
            faults.append(f"{given} with data.source={data.source}: it lists files; use data=files")
        if len(data.stream) < 2:
            faults.append(f"{given}: must list two files or more, the oldest first, [a.csv,b.csv]")
        faults += [
            f"{given} with data.{name}={write(value)}: each file is a piece already; leave one of them out"
            for name in ("train", "pieces")
            if (value := getattr(data, name)) is not None
        ]
    if data.date_column is not None and data.pieces is None:
        faults.append(
            f"data.date_column={data.date_column} with data.pieces=null: say into how many pieces dates are "
            "cut, for example data.pieces=3"
        )
    if data.date_column is not None and data.source not in ("files", "hub"):
        faults.append(
            f"data.date_column={data.date_column} with data.source={data.source}: its texts have no columns; "
            "set null"
        )
    if data.late_labels is not None and (data.pieces is None or data.date_column is not None):
        faults.append(
            f"data.late_labels={write(data.late_labels)}: is for pieces that are drawn, and here files or "
            "dates say when a label comes; set null"
        )
    if data.pieces is not None and data.source == "finance8_synthetic":
        faults.append(
            f"data.pieces={data.pieces} with data.source={data.source}: it makes splits, not a stream"
        )
    if is_stream(data):
        faults += [
            f"{path}={write(given)} with a stream of texts: {reason}"
            for path, allowed, reason in _STREAM
            if (given := read_field(config, path)) not in allowed
        ]
    return faults


def _check_update(config: Config) -> list[str]:
    """Ask for a stream where a method has a way to update, and for what that way can do."""
    method, faults = config.method, list[str]()
    given = f"method.update={write(method.update)}"
    if method.replay is not None and method.update is None:
        faults.append(
            f"method.replay={method.replay:g} with {given}: without an update all old texts are trained on; "
            "set null, or method.update=continue"
        )
    if method.update is None:
        return faults
    if not is_stream(config.data):
        faults.append(
            f"{given}: there is nothing to update without a stream; list files in data.stream, oldest first, "
            "or set data.pieces"
        )
    if method.estimator != "network":
        faults.append(f"{given} with method.estimator={method.estimator}: it is fitted anew; set null")
    if method.update == "merge":
        faults += [f"{given}: {reason}" for reason in _list_unmerged(method)]
    return faults


def _list_unmerged(method: MethodConfig) -> list[str]:
    """Say why adapters cannot be merged into the base one after another, a reason each."""
    if not uses_lora(method):
        return ["only LoRA's matrices are merged into the base; use method.update=continue"]
    reasons = []
    if method.quantization != "none":
        reasons.append(
            f"method.quantization={method.quantization} would round what is merged; use "
            "method.quantization=none, or method.update=continue"
        )
    if (option := find_variant(method)) is not None:
        reasons.append(f"{option} is not plain LoRA; leave it out, or use method.update=continue")
    return reasons


def _check_columns_of_texts(config: Config) -> list[str]:
    """Ask for columns where there are any, and for a template that can be filled in."""
    data, faults = config.data, list[str]()
    for name in ("text_pair_column", "text_template"):
        given = getattr(data, name)
        if given is not None and data.source not in ("files", "hub"):
            faults.append(
                f"data.{name}={write(given)} with data.source={data.source}: its texts have no columns; set "
                "null, or use data=files or data=hub"
            )
    try:
        if data.text_template is not None:
            list_columns(data.text_template)
    except ConfigError as error:
        faults.append(str(error))
    if data.text_pair_column is None and writes_labels(config) and "{pair}" in config.model.template:
        faults.append(
            f"model.template={write(config.model.template)}: {{pair}} stands for a second text, and there is "
            "none; name its column in data.text_pair_column, or leave {pair} out"
        )
    return faults


def _check_commits(config: Config) -> list[str]:
    return [
        f"{kind}.revision={source.revision}: must be a full commit of 40 hexadecimal digits, as a name like "
        f"main can come to mean other {content}; copy it from {source.hub_id}'s history on the hub, or leave "
        "it null to pin what main is at first use"
        for kind, source, content in (("model", config.model, "weights"), ("data", config.data, "texts"))
        if source.source == "hub" and source.revision is not None and not _COMMIT.fullmatch(source.revision)
    ]


def _check_texts(value: Any, path: str = "") -> list[str]:
    """Refuse bytes that are no text, and passwords, as settings are written down; no fault repeats one."""
    if isinstance(value, str):
        faults = []
        if has_credentials(value):
            faults.append(
                f"{path}: holds the user name or password of a URL, and settings are written down; "
                "give it without"
            )
        if has_half_characters(value):
            faults.append(f"{path}={value!r}: holds bytes that are not UTF-8; rename it")
        return faults
    if isinstance(value, list):
        inner = dict(enumerate(value))
    else:
        inner = value if isinstance(value, dict) else getattr(value, "__dict__", {})
    return [fault for key, item in inner.items() for fault in _check_texts(item, f"{path}.{key}".lstrip("."))]


def _check_adapter(method: MethodConfig) -> list[str]:
    """Refuse what PEFT would ignore, or fail on only when the model is loaded."""
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
    if "target_modules" in options and not TARGETS.holds(options["target_modules"]):
        faults.append(f"{at}target_modules={options['target_modules']}: {TARGETS.expected}")
    return faults + _check_start(method)


def _check_experts(config: Config) -> list[str]:
    """Ask for experts that are LoRA's A and B and share its rank out."""
    method, experts, rank = config.method, config.method.experts, config.lora.r
    given = f"method.experts={experts}"
    if experts is None or experts < 1:
        return []
    if not uses_lora(method):
        return [f"{given}: experts are LoRA's A and B, which this method does not train; set null"]
    if (option := find_variant(method)) is not None:
        return [f"{given} and {option}: experts are plain LoRA, without more; leave out one of the two"]
    if rank % experts:
        return [
            f"lora.r={rank} with {given}: must be a multiple of it, as each expert has rank lora.r / "
            f"method.experts; use lora.r={experts * -(-rank // experts)}"
        ]
    return []


def _check_start(method: MethodConfig) -> list[str]:
    """Ask for a start of the adapter's weights that fits how the frozen weights are held."""
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
