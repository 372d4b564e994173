"""The network of a run: base weights, their quantisation, the adapter and the classification head.

Branches on the fields of a method, never on its name.
"""

import dataclasses
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as LORA_TARGETS
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.import_utils import is_flash_attn_2_available

from bench import parallel
from bench.config import Config, LoraConfig, MethodConfig
from bench.errors import ConfigError, MissingError, StoreError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Network:
    """A model ready to be trained, and what was chosen in making it."""

    model: nn.Module
    trainable_parameters: int
    total_parameters: int  # unpacked: a 4-bit weight counts as one
    choices: dict[str, Any]  # for the record


def choose_device(devices: str) -> torch.device:
    """The device that ``devices`` (auto, cpu, cuda) means on this machine.

    Raises:
        ConfigError: cuda where there is none.
    """
    if devices == "cuda" and not torch.cuda.is_available():
        raise ConfigError("devices=cuda: this machine has no CUDA device that torch can use; use devices=cpu")
    return torch.device("cuda" if devices != "cpu" and torch.cuda.is_available() else "cpu")


def choose_precision(requested: str, device: torch.device) -> str:
    """fp32, bf16 or fp16; auto is the fastest that trains well here: bf16 where the chip computes in it.

    Raises:
        ConfigError: fp16 on a CPU, where its gradients cannot be scaled.
    """
    if requested == "fp16" and device.type == "cpu":
        raise ConfigError("train.precision=fp16: needs a CUDA device; use bf16 or fp32 on a CPU")
    if requested != "auto":
        return requested
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() else "fp32"


def require_attention(requested: str, device: torch.device, precision: str) -> None:
    """Raises an error that says what flash attention lacks here: a package, a device or a precision.

    Raises:
        ConfigError: the device or the precision does not have it.
        MissingError: its package is not installed.
    """
    if requested != "flash_attention_2":
        return
    if device.type != "cuda":
        raise ConfigError(f"train.attention={requested}: needs a CUDA device; use auto on a CPU")
    if precision == "fp32":
        raise ConfigError(f"train.attention={requested}: computes in bf16 or fp16; set train.precision=bf16")
    if not is_flash_attn_2_available():
        raise MissingError(
            f"train.attention={requested}: the package flash-attn (2.3.3 or newer) is not installed; "
            "install it, or use sdpa, which has kernels of the same kind"
        )


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The model's own tokenizer, with a pad token even where the model declares none.

    Raises:
        ConfigError: the folder holds no tokenizer that loads.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise ConfigError(f"{folder}: its tokenizer does not load ({_first_line(error)})") from None
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return tokenizer


def build(
    config: Config,
    *,
    folder: Path,
    labels: Sequence[str],
    pad_token_id: int | None,
    device: torch.device,
    precision: str,
) -> Network:
    """The network that the method trains, on its device, its new weights drawn from torch's current seed.

    What is trained is held in ``train.weights`` and the frozen base in ``precision`` (or quantised); autocast
    computes in ``precision``.

    Raises:
        ConfigError: the architecture has no classification head here, no default target modules, or not the
            attention that was asked for.
    """
    method = config.method
    settings = _read_settings(folder, labels, pad_token_id)
    skeleton = _make_skeleton(settings, folder)
    heads = _head_names(skeleton)
    _set_attention(settings, skeleton, config.train.attention)
    base, new = _load_weights(config, folder, settings, heads, device=device, precision=precision)
    if method.quantization != "none" and set(new) > set(heads):
        # What the checkpoint lacks is trained from scratch, so it must not be quantised.
        base, new = _load_weights(config, folder, settings, new, device=device, precision=precision)
    _require_quantised(base, method)
    choices: dict[str, Any] = {
        "architecture": type(base).__name__,
        "precision": precision,
        "attention": base.config._attn_implementation,
        "new_modules": new,
        "target_modules": None,
    }
    if config.train.gradient_checkpointing:
        base.gradient_checkpointing_enable({"use_reentrant": False})
    model: nn.Module = base
    if method.trainable == "adapter":
        model, choices["target_modules"] = _add_adapter(base, method, config.lora, new, settings.model_type)
    elif method.trainable == "head":
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.rpartition(".")[0] in new)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(DTYPES[config.train.weights])
    trainable, total = _count(model, skeleton)
    return Network(model.to(device), trainable, total, choices)


def load_encoder(folder: Path, *, device: torch.device, precision: str) -> nn.Module:
    """The base model without a head, frozen, to be read from only."""
    encoder = AutoModel.from_pretrained(
        folder,
        dtype=DTYPES[precision],
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
    )
    module: nn.Module = encoder.requires_grad_(False).to(device)
    return module


def quantization_config(
    method: MethodConfig, compute_dtype: torch.dtype, skip_modules: Sequence[str]
) -> BitsAndBytesConfig | None:
    """How bitsandbytes holds the frozen weights, or None for a method that does not quantise."""
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
    folder: Path,
    settings: PreTrainedConfig,
    new: Sequence[str],
    *,
    device: torch.device,
    precision: str,
) -> tuple[PreTrainedModel, list[str]]:
    """The checkpoint in memory, and the modules that it lacks, which are ``new`` and perhaps more."""
    method = config.method
    dtype = DTYPES[config.train.weights if method.trainable == "all" else precision]
    model, info = AutoModelForSequenceClassification.from_pretrained(
        folder,
        config=settings,
        dtype=dtype,
        quantization_config=quantization_config(method, DTYPES[precision], new),
        device_map={"": device} if method.quantization != "none" and device.type == "cuda" else None,
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
        ignore_mismatched_sizes=True,  # a head for other labels is replaced by a new one
        output_loading_info=True,
    )
    for module in model.modules():
        # On some CPUs bitsandbytes repacks 4-bit weights when it first evaluates, and then cannot train.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    missing = {name.rpartition(".")[0] for name in info["missing_keys"]}
    return model, sorted({*new, *missing})


def save_trained(model: nn.Module, path: Path, *, writes: bool = True) -> None:
    """Writes the weights that are trained, and no others, to a safetensors file, at once.

    Where processes have a part of them each, all must call this, and one of them ``writes``.

    Raises:
        StoreError: the disk refused it; a file that was there stays.
    """
    whole = ((name, parallel.whole(value.detach())) for name, value in _trained(model).items())
    tensors = {name: value.cpu().contiguous() for name, value in whole if writes}
    if not writes:
        return
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".writing-{path.name}.")
    os.close(handle)
    try:
        save_file(tensors, temporary)
        Path(temporary).replace(path)
    except (OSError, SafetensorError) as error:
        Path(temporary).unlink(missing_ok=True)
        raise StoreError(f"{path}: {error}; free space on that disk, and the same command goes on") from None


def load_trained(model: nn.Module, path: Path) -> None:
    """Puts weights that save_trained wrote back into the same kind of model."""
    saved = load_file(path)
    with torch.no_grad():
        for name, parameter in _trained(model).items():
            parameter.copy_(parallel.spread(saved[name], parameter))


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _read_settings(folder: Path, labels: Sequence[str], pad_token_id: int | None) -> PreTrainedConfig:
    """The model's configuration with these labels on its head."""
    try:
        settings = AutoConfig.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            num_labels=len(labels),
            id2label=dict(enumerate(labels)),
            label2id={label: index for index, label in enumerate(labels)},
        )
    except Exception as error:
        raise ConfigError(f"{folder}: its config.json does not load ({_first_line(error)})") from None
    if settings.pad_token_id is None:  # a decoder's head looks for the last token that is not a pad
        settings.pad_token_id = pad_token_id
    return settings  # type: ignore[no-any-return]


def _make_skeleton(settings: PreTrainedConfig, folder: Path) -> PreTrainedModel:
    """The model without memory for its weights: its modules and their shapes."""
    try:
        with torch.device("meta"):
            return AutoModelForSequenceClassification.from_config(settings)  # type: ignore[no-any-return]
    except ValueError as error:
        raise ConfigError(
            f"{folder}: {settings.model_type} has no sequence-classification head in transformers "
            f"({_first_line(error)})"
        ) from None


def _set_attention(settings: PreTrainedConfig, skeleton: PreTrainedModel, requested: str) -> None:
    """Has the model compute attention as requested; auto leaves it to transformers.

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


def _head_names(skeleton: PreTrainedModel) -> list[str]:
    """The modules with weights outside the base model: the classification head."""
    base = skeleton.base_model_prefix
    return [
        name
        for name, module in skeleton.named_children()
        if name != base and any(True for _ in module.parameters())
    ]


def _add_adapter(
    model: PreTrainedModel, method: MethodConfig, lora: LoraConfig, new: Sequence[str], architecture: str
) -> tuple[nn.Module, Any]:
    """The model inside PEFT, its base frozen, and its target modules; new modules are trained in full."""
    options = dict(method.adapter)
    kind = options.pop("peft_type")
    if kind not in peft.PEFT_TYPE_TO_CONFIG_MAPPING:
        known = ", ".join(sorted(peft.PEFT_TYPE_TO_CONFIG_MAPPING))
        raise ConfigError(f"method.adapter.peft_type={kind}: PEFT knows {known}")
    config_class = peft.PEFT_TYPE_TO_CONFIG_MAPPING[kind]
    targets = lora.target_modules
    if targets == "auto":
        if kind == "LORA" and architecture not in LORA_TARGETS:
            raise ConfigError(
                f"lora.target_modules=auto: PEFT names no modules for the architecture {architecture}; "
                "use all-linear, or name them, for example lora.target_modules=[q_proj,v_proj]"
            )
        targets = None
    values = {
        "r": lora.r,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": targets,
        "modules_to_save": list(new),
        "task_type": "SEQ_CLS",
    } | options
    known_fields = {field.name for field in dataclasses.fields(config_class)}
    if unknown := set(options) - known_fields:
        raise ConfigError(f"method.adapter: {kind} has no option {', '.join(sorted(unknown))}")
    settings = config_class(**{name: value for name, value in values.items() if name in known_fields})
    try:
        adapted = peft.get_peft_model(model, settings)
    except ValueError as error:
        raise ConfigError(f"lora.target_modules={lora.target_modules}: {_first_line(error)}") from None
    chosen = getattr(settings, "target_modules", None)
    return adapted, sorted(chosen) if isinstance(chosen, set | list) else chosen


def _require_quantised(model: nn.Module, method: MethodConfig) -> None:
    """Raises a ConfigError if no weight came out quantised though the method says so."""
    if method.quantization == "none":
        return
    kinds = {"Linear8bitLt"} if method.quantization == "int8" else {"Linear4bit"}
    if not any(type(module).__name__ in kinds for module in model.modules()):
        raise ConfigError(
            f"method.quantization={method.quantization}: bitsandbytes finds no linear layer to quantise in "
            f"{type(model).__name__}; use method.quantization=none"
        )


def _count(model: nn.Module, skeleton: nn.Module) -> tuple[int, int]:
    """Trainable and total parameters: the base model's and the head's, plus what the adapter adds."""
    trained = _trained(model)
    shapes = {name for name, _ in skeleton.named_parameters()}
    added = [
        value.numel()
        for name, value in trained.items()
        if name.removeprefix("base_model.model.").replace(".modules_to_save.default", "") not in shapes
    ]
    total = sum(value.numel() for value in skeleton.parameters()) + sum(added)
    return sum(value.numel() for value in trained.values()), total


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
