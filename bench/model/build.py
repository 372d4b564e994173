"""The network of a run: base weights, their quantisation and the classification head, perhaps in an adapter.

Branches on the fields of a method, never on its name.
"""

import contextlib
import math
import pickle
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from unittest import mock

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

import bench.model.chatglm  # noqa: F401 (makes the Auto classes know them)
from bench.config.schema import Config, MethodConfig, ModelConfig
from bench.errors import BenchError, ConfigError, first_line
from bench.model import decoder, encoder, gguf, positions, random_weights, trained, weights
from bench.model.adapters.adapter import add_adapter, starts_from_base
from bench.model.adapters.gates import find_gates
from bench.model.trained import DTYPES as DTYPES

HEADS = {
    "sequence_classification": AutoModelForSequenceClassification,
    "label_likelihood": AutoModelForCausalLM,
}
_RESERVED_POSITIONS = 8  # more than any model sets apart, as RoBERTa's first two


@dataclass(frozen=True)
class Base:
    """A model with its head, before anything of it is frozen or adapted."""

    model: PreTrainedModel
    skeleton: PreTrainedModel  # of its shapes, unpacked
    new: list[str]  # modules that are trained from scratch
    choices: dict[str, Any]


@dataclass(frozen=True)
class Network:
    """A model ready to be trained, and what was chosen in making it."""

    model: nn.Module
    trainable_parameters: int
    total_parameters: int  # unpacked: a 4-bit weight counts as one
    choices: dict[str, Any]  # for the record


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Return the model's own tokenizer, with a pad token that the model has.

    Raises:
        ConfigError: the folder holds no tokenizer that loads.
        MissingError: it needs a package that is not installed.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except BenchError:
        raise
    except Exception as error:
        raise ConfigError(f"{folder}: its tokenizer does not load ({first_line(error)})") from None
    # What pads is masked, so that any token serves; one that was added beyond the model's words does not.
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id >= weights.count_words(folder):
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return tokenizer


def find_tokenizer(source: ModelConfig, folder: Path | None) -> Any:
    """Return the model's own tokenizer, or a stand-in for that of a model without files.

    Raises:
        As load_tokenizer.
    """
    return random_weights.make_tokenizer(source) if folder is None else load_tokenizer(folder)


def fit_length(wanted: int, source: ModelConfig, folder: Path | None) -> int:
    """Return the tokens that are wanted, or as many as the model, which is not built, has positions for.

    Raises:
        ConfigError: the model's configuration does not load.
    """
    settings = load_settings(source, folder)
    declared = getattr(settings, "max_position_embeddings", None)
    if isinstance(declared, int) and wanted <= declared - _RESERVED_POSITIONS:  # as nearly always
        return wanted
    try:
        with torch.device("meta"):
            skeleton: nn.Module = AutoModel.from_config(settings)
    except ValueError:  # an architecture that is nothing without a head
        return wanted
    return positions.cut_length(wanted, skeleton)


def build(
    config: Config,
    *,
    folder: Path | None,
    labels: Sequence[str],
    pad_token_id: int | None,
    device: torch.device,
    precision: str,
) -> Network:
    """Return the network that the method trains, its new weights drawn from torch's current seed.

    Without a folder its base weights are random ones of the model's architecture, and on the device ``meta``
    shapes without values. What is trained is held in ``train.weights`` and the frozen base in ``precision``
    (or quantised); autocast computes in ``precision``.

    Raises:
        ConfigError: the architecture has no head for the task here, no default target modules, or not the
            attention that was asked for.
    """
    base = build_base(
        config, folder=folder, labels=labels, pad_token_id=pad_token_id, device=device, precision=precision
    )
    model: nn.Module = base.model
    choices = {**base.choices, "target_modules": None}
    if config.method.trainable == "adapter":
        if config.method.quantization == "none" and starts_from_base(config.method):
            model.to(device)  # which may decompose the weights faster than a CPU
        model, choices["target_modules"] = add_adapter(base.model, config, new=base.new, folder=folder)
    elif config.method.trainable == "head":
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.rpartition(".")[0] in base.new)
    if gates := find_gates(model).values():
        choices["gate_parameters"] = sum(one.numel() for gate in gates for one in gate.parameters())
    weights_trained = trained.find(model)
    trained.hold(weights_trained, DTYPES[config.train.weights])
    trainable, total = trained.count(weights_trained, base.skeleton)
    return Network(model.to(device), trainable, total, choices)


def build_base(
    config: Config,
    *,
    folder: Path | None,
    labels: Sequence[str],
    pad_token_id: int | None,
    device: torch.device,
    precision: str,
) -> Base:
    """Return what ``build`` begins with, the same for runs that differ in their adapter alone.

    Raises:
        ConfigError: as build.
    """
    method = config.method
    settings = _read_settings(config.model, folder, labels, pad_token_id)
    skeleton = _make_skeleton(settings, config.task)
    heads = head_names(skeleton)
    _set_attention(settings, skeleton, config.train.attention)
    base, missing = _load_weights(config, folder, settings, heads, device=device, precision=precision)
    if config.task == "label_likelihood":
        new: list[str] = _require_complete(missing, folder)
        decoder.join_states(base)
    else:
        new = sorted({*heads, *missing})
    if method.quantization != "none" and set(new) > set(heads):
        # What the checkpoint lacks is trained from scratch, so it must not be quantised.
        base, _ = _load_weights(config, folder, settings, new, device=device, precision=precision)
    _require_quantised(base, method)
    decoder.ignore_padding(base)
    encoder.read_first_token_only(base)
    choices: dict[str, Any] = {
        "architecture": type(base).__name__,
        **describe_source(config.model, folder),
        "precision": precision,
        "attention": base.config._attn_implementation,
        "new_modules": new,
        "max_length": positions.cut_length(config.train.max_length, skeleton),
    }
    if config.train.gradient_checkpointing:
        base.gradient_checkpointing_enable({"use_reentrant": False})
    return Base(base, skeleton, new, choices)


def describe_source(source: ModelConfig, folder: Path | None) -> dict[str, str]:
    """Return where weights and tokens came from, and what the weights were held in before, for the record."""
    if folder is None:
        return {"weights": source.weights, "tokenizer": "words hashed into the vocabulary"}
    origin = weights.read_if_whole(folder).get(gguf.ORIGIN)
    lossy = {} if origin is None else {gguf.ORIGIN: str(origin)}
    return {"weights": source.weights, "tokenizer": "its own", **lossy}


def load_encoder(
    source: ModelConfig, folder: Path | None, *, device: torch.device, precision: str
) -> nn.Module:
    """Return the base model without a head, frozen, to be read from only."""
    encoder: Any
    if folder is None:
        encoder = random_weights.make_model(
            AutoModel,
            random_weights.read_settings(source),
            new=[],
            dtype=DTYPES[precision],
            device=device,
            quantization_config=None,
        )
    else:
        encoder = read_checkpoint(AutoModel, folder, dtype=DTYPES[precision])
    module: nn.Module = encoder.requires_grad_(False).to(device)
    return module


class Quantised(Protocol):
    """Whatever says how frozen weights are held: a method, or what a run was exported as."""

    @property
    def quantization(self) -> str:
        """none | nf4 | fp4 | int8."""

    @property
    def double_quant(self) -> bool:
        """Whether the quantisation constants are quantised too."""


def quantization_config(
    method: Quantised, compute_dtype: torch.dtype, skip_modules: Sequence[str]
) -> BitsAndBytesConfig | None:
    """Return how bitsandbytes holds the frozen weights, None where it does not."""
    skip = list(skip_modules)
    if method.quantization == "none":
        return None
    if method.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skip)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=method.quantization,
        bnb_4bit_use_double_quant=method.double_quant,
        bnb_4bit_compute_dtype=compute_dtype,
        llm_int8_skip_modules=skip,  # a head that is trained cannot be 4-bit
    )


def _load_weights(
    config: Config,
    folder: Path | None,
    settings: PreTrainedConfig,
    unquantised: Sequence[str],
    *,
    device: torch.device,
    precision: str,
) -> tuple[PreTrainedModel, set[str]]:
    """Return the base weights in memory, and the modules that the checkpoint lacks."""
    method = config.method
    options: dict[str, Any] = {
        "dtype": DTYPES[config.train.weights if method.trainable == "all" else precision],
        "quantization_config": quantization_config(method, DTYPES[precision], unquantised),
    }
    model: Any
    if folder is None or device.type == "meta":
        new = unquantised if config.task == "sequence_classification" else []
        kind = HEADS[config.task]
        with plain_linear_layers(settings.model_type):
            model = random_weights.make_model(kind, settings, new=new, device=device, **options)
        missing = set()
    else:
        model, info = read_checkpoint(
            HEADS[config.task],
            folder,
            config=settings,
            device_map={"": device} if method.quantization != "none" and device.type == "cuda" else None,
            # A head for other labels is replaced by a new one.
            ignore_mismatched_sizes=config.task == "sequence_classification",
            output_loading_info=True,
            **options,
        )
        missing = {name.rpartition(".")[0] for name in info["missing_keys"]}
    keep_unpacked(model)
    return model, missing


def keep_unpacked(model: nn.Module) -> None:
    """Keep bitsandbytes from repacking 4-bit weights at the first evaluation on some CPUs.

    Repacked ones can neither train nor be dequantised, and compute slightly other numbers.
    """
    layers: Iterable[Any] = model.modules()
    for layer in layers:
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False


def read_checkpoint(kind: Any, folder: Path, **options: Any) -> Any:
    """Read the checkpoint by one of transformers' Auto classes, without running its code.

    Raises:
        ConfigError: pickled weights hold more than tensors, or are damaged.
    """
    try:
        with plain_linear_layers(weights.read_if_whole(folder).get("model_type")):
            return kind.from_pretrained(
                folder,
                use_safetensors=not weights.is_pickled(folder),
                weights_only=True,  # of pickled shards
                local_files_only=True,
                trust_remote_code=False,
                **options,
            )
    except (pickle.UnpicklingError, EOFError):  # torch's message says how to run it all the same
        raise ConfigError(
            f"{folder}: its .bin files hold more than tensors, which could run code, or are damaged; "
            "nothing of them was run; use the official files"
        ) from None


@contextlib.contextmanager
def plain_linear_layers(architecture: str | None) -> Iterator[None]:
    """Inside, make Falcon of torch's linear layers instead of its own, which compute the same.

    bitsandbytes replaces layers of exactly that type.
    """
    if architecture != "falcon":
        yield
        return
    from transformers.models.falcon import modeling_falcon

    with mock.patch.object(modeling_falcon, "FalconLinear", nn.Linear):
        yield


def save_trained(model: nn.Module, path: Path, *, writes: bool = True) -> None:
    """Write the weights that are trained; where processes share them, all must call this.

    Raises:
        StoreError: the disk refused it; a file that was there stays.
    """
    trained.write(trained.find(model), path, writes=writes)


def load_trained(model: nn.Module, path: Path) -> None:
    """Put weights that save_trained wrote back into the same kind of model."""
    trained.read(trained.find(model), path)


def _read_settings(
    source: ModelConfig, folder: Path | None, labels: Sequence[str], pad_token_id: int | None
) -> PreTrainedConfig:
    """Return the model's configuration with these labels on its head."""
    head = {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
    }
    settings = load_settings(source, folder, **head)
    words = getattr(settings, "vocab_size", math.inf)
    if settings.pad_token_id is None or settings.pad_token_id >= words:  # which a decoder's head looks for
        settings.pad_token_id = pad_token_id
    if pad_token_id is not None and pad_token_id >= words:
        raise ConfigError(
            f"{folder}: the pad token has the number {pad_token_id}, and the model has {words} words; name "
            "one of them as pad_token in tokenizer_config.json"
        )
    settings.use_cache = False  # a decoder keeps keys and values to go on writing, which nothing here does
    return settings


def load_settings(source: ModelConfig, folder: Path | None, **more: Any) -> PreTrainedConfig:
    """Return the model's configuration, with ``more`` values put over it.

    Raises:
        ConfigError: it does not load, or transformers does not know the architecture.
    """
    if folder is None:
        return random_weights.read_settings(source, **more)
    try:
        settings: PreTrainedConfig = AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, **more
        )
    except Exception as error:
        raise ConfigError(f"{folder}: its config.json does not load ({first_line(error)})") from None
    return settings


def _make_skeleton(settings: PreTrainedConfig, task: str) -> PreTrainedModel:
    """Return the model without memory for its weights: its modules and their shapes."""
    try:
        with torch.device("meta"):
            skeleton: PreTrainedModel = HEADS[task].from_config(settings)
    except ValueError as error:
        raise ConfigError(
            f"model: {settings.model_type} has no head for task={task} in transformers ({first_line(error)})"
        ) from None
    if task == "label_likelihood":
        decoder.require_causal(skeleton)
    return skeleton


def _require_complete(missing: set[str], folder: Path | None) -> list[str]:
    """Return no new modules, or raise a ConfigError where a language model lacks some."""
    if missing:
        raise ConfigError(
            f"{folder}: the checkpoint lacks {', '.join(sorted(missing))}, which task=label_likelihood "
            "needs; use task=sequence_classification, or weights saved with their causal head"
        )
    return []


def _set_attention(settings: PreTrainedConfig, skeleton: PreTrainedModel, requested: str) -> None:
    """Have the model compute attention as requested; auto leaves it to transformers.

    Raises:
        ConfigError: the architecture has it not.
    """
    if requested == "auto":
        return
    supported = {
        "eager": True,
        "sdpa": skeleton._supports_sdpa,
        "flash_attention_2": skeleton._supports_flash_attn,
    }
    if not supported[requested]:
        known = ", ".join(name for name, holds in supported.items() if holds)
        raise ConfigError(
            f"train.attention={requested}: transformers' {settings.model_type} does not have it; use {known}"
        )
    settings._attn_implementation = requested


def head_names(skeleton: PreTrainedModel) -> list[str]:
    """Return the modules with weights outside the base model: a head, of labels or of words."""
    base = skeleton.base_model_prefix
    return [
        name
        for name, module in skeleton.named_children()
        if name != base and any(True for _ in module.parameters())
    ]


def _require_quantised(model: nn.Module, method: MethodConfig) -> None:
    """Raise a ConfigError if no weight came out quantised though the method says so."""
    if method.quantization == "none":
        return
    kinds = {"Linear8bitLt"} if method.quantization == "int8" else {"Linear4bit"}
    if not any(type(module).__name__ in kinds for module in model.modules()):
        raise ConfigError(
            f"method.quantization={method.quantization}: bitsandbytes finds no linear layer to quantise in "
            f"{type(model).__name__}; use method.quantization=none"
        )
