"""The adapter around a frozen base: what PEFT is asked for, and where its weights start.

Branches on the fields of a method, never on its name.
"""

import dataclasses
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import peft
import torch
from peft.utils import constants
from peft.utils.integrations import dequantize_module_weight
from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel

from bench.config.identity import uses_lora
from bench.config.schema import Config, LoraConfig, MethodConfig
from bench.errors import ConfigError, first_line
from bench.model import trained
from bench.model.adapters.gates import ATTENTION, add_gates

_TASKS = {"sequence_classification": "SEQ_CLS", "label_likelihood": "CAUSAL_LM"}  # PEFT's names
_DEFAULT_TARGETS: dict[peft.PeftType, dict[str, Any]] = {  # PEFT's choice of modules by architecture
    peft.PeftType.LORA: constants.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING,
    peft.PeftType.IA3: constants.TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING,
}
MERGED = "merged."  # before the numbers and names of adapters that are in the base of the weights beside them


def add_adapter(
    model: PreTrainedModel, config: Config, *, new: Sequence[str], folder: Path | None
) -> tuple[nn.Module, Any]:
    """Return the model inside PEFT, its base frozen, and its target modules.

    PEFT changes the base itself for some starts: PiSSA takes what the adapter holds out of the weights. The
    start is a function of the weights and of torch's seed, so that building again makes the same base.

    Raises:
        ConfigError: PEFT does not know an option, would ignore it, or finds no module to adapt.
    """
    settings, starts_from_loss = _choose(model, config, new)
    try:
        adapted = peft.get_peft_model(model, settings)
    except (ValueError, TypeError, Warning) as error:
        raise _explain_refusal(error, config) from None
    if starts_from_loss:
        if folder is None:
            raise ConfigError(
                "method.adapter.init_lora_weights=loftq: starts from saved weights; with random ones "
                "use method=qlora, which costs the same memory and time"
            )
        _start_from_loss(adapted, folder)
    if config.method.experts is not None:
        add_gates(adapted, config.method.experts)
    chosen = getattr(settings, "target_modules", None)
    return adapted, sorted(chosen) if isinstance(chosen, set | list) else chosen


def starts_from_base(method: MethodConfig) -> bool:
    """Return whether the adapter starts from a decomposition of the base's weights, which PEFT makes."""
    return str(method.adapter.get("init_lora_weights")).lower().startswith(("pissa", "olora"))


def add_member(model: peft.PeftModel, config: Config, *, name: str, new: Sequence[str]) -> None:
    """Add an adapter of that name to a base that has some, drawn as if it were the only one.

    Raises:
        ConfigError: as add_adapter.
    """
    settings, _ = _choose(model.get_base_model(), config, new)
    first: Any = next(iter(model.peft_config.values()))
    settings.target_modules = first.target_modules  # found in the base as it was before it had adapters
    try:
        model.add_adapter(name, settings)
    except (ValueError, TypeError, Warning) as error:
        raise _explain_refusal(error, config) from None


@torch.no_grad()
def merge(model: nn.Module, path: Path) -> None:
    """Add to the base what the adapters in a file do, the oldest first; the model's own stays as it is.

    The base then holds them in its own precision.

    Args:
        path: weights that a run trained, behind them those of MERGED.
    """
    own = {name: value for name, value in trained.find(model).items() if is_low_rank(name)}
    kept = {name: value.clone() for name, value in own.items()}
    with safe_open(path, framework="pt") as file:
        for number in count_merged(file.keys()):
            for name, value in own.items():
                value.copy_(file.get_tensor(f"{MERGED}{number}.{name}"))
            for layer in model.modules():
                if isinstance(layer, peft.tuners.lora.LoraLayer):
                    layer.merge()
                    layer.merged_adapters.clear()  # it is the base's now, and the layer's own comes on top
    for name, value in own.items():
        value.copy_(kept[name])


def is_low_rank(name: str) -> bool:
    """Tell whether it is the name of LoRA's A or B."""
    return ".lora_" in name


def count_merged(names: Iterable[str]) -> range:
    """Return the numbers of the adapters that tensors of these names belong to, the oldest first."""
    return range(len({name.split(".")[1] for name in names if name.startswith(MERGED)}))


def _explain_refusal(error: Exception, config: Config) -> ConfigError:
    """Return PEFT's refusal of a model as an error that names the settings and, where known, what to do."""
    remedy = ""
    if "ParamWrapper" in str(error) and "lora_dropout" in str(error):
        remedy = (
            " The model's experts are adapted without dropout alone: use lora.dropout=0, or leave them out "
            f"with {ATTENTION}"
        )
    elif isinstance(error, peft.NoMatchingPeftModuleError):
        remedy = f" Use lora.target_modules=all-linear lora.dropout=0, or {ATTENTION}"
    return ConfigError(f"{_name_options(config.method, config.lora)}: {first_line(error)}{remedy}")


def _choose(model: Any, config: Config, new: Sequence[str]) -> tuple[Any, bool]:
    """Return PEFT's configuration of the adapter, and whether its start is bench's own.

    Raises:
        ConfigError: PEFT does not know an option or would ignore it.
    """
    method, lora = config.method, config.lora
    options = dict(method.adapter)
    kind = _find_kind(options.pop("peft_type"))
    starts_from_loss = options.get("init_lora_weights") == "loftq"
    if starts_from_loss:  # PEFT's own would put unquantised weights back, as large as before
        options["init_lora_weights"] = True
    if uses_lora(method):
        options = {"target_modules": lora.target_modules} | options
        options |= {"r": lora.r, "lora_alpha": lora.alpha, "lora_dropout": lora.dropout}
    if options.get("target_modules") in (None, "auto"):
        _require_default_targets(kind, model.config.model_type)
        options["target_modules"] = None
    try:
        settings = _make_settings(kind, options, modules_to_save=list(new), task_type=_TASKS[config.task])
    except (ValueError, TypeError, Warning) as error:
        raise ConfigError(f"{_name_options(method, lora)}: {first_line(error)}") from None
    return settings, starts_from_loss


def _find_kind(name: Any) -> peft.PeftType:
    """Return PEFT's type of that name.

    Raises:
        ConfigError: there is none.
    """
    try:
        return peft.PeftType(name)
    except ValueError:
        known = ", ".join(sorted(peft.PEFT_TYPE_TO_CONFIG_MAPPING))
        raise ConfigError(f"method.adapter.peft_type={name}: PEFT knows {known}") from None


def _require_default_targets(kind: peft.PeftType, architecture: str) -> None:
    """Raise a ConfigError where PEFT chooses no modules for the architecture."""
    if architecture in _DEFAULT_TARGETS.get(kind, [architecture]):
        return
    if kind == peft.PeftType.LORA:
        raise ConfigError(
            f"lora.target_modules=auto: PEFT names no modules for the architecture {architecture}; "
            "use all-linear, or name them, for example lora.target_modules=[q_proj,v_proj]"
        )
    extra = (
        " and, of these, method.adapter.feedforward_modules=[down_proj]" if kind == peft.PeftType.IA3 else ""
    )
    raise ConfigError(
        f"method.adapter.peft_type={kind.value}: PEFT names no modules for the architecture {architecture}; "
        f"name them, for example method.adapter.target_modules=[k_proj,v_proj,down_proj]{extra}"
    )


def _make_settings(kind: peft.PeftType, options: Mapping[str, Any], **ours: Any) -> peft.PeftConfig:
    """Return PEFT's configuration.

    Raises:
        ConfigError: an option that the type does not have.
        ValueError, TypeError, Warning: PEFT refuses an option, or warns that it ignores it.
    """
    config_class = peft.PEFT_TYPE_TO_CONFIG_MAPPING[kind]
    known = {field.name for field in dataclasses.fields(config_class)}
    if unknown := set(options) - known - {"target_modules"}:
        raise ConfigError(f"method.adapter: {kind.value} has no option {', '.join(sorted(unknown))}")
    values = ours | dict(options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return config_class(**{name: value for name, value in values.items() if name in known})


def _name_options(method: MethodConfig, lora: LoraConfig) -> str:
    """Write the settings that a complaint of PEFT's can be about, as they are overridden."""
    if not uses_lora(method) or "target_modules" in method.adapter:
        return f"method.adapter={method.adapter}"
    targets = f"lora.target_modules={lora.target_modules}"
    return targets if len(method.adapter) == 1 else f"{targets} method.adapter={method.adapter}"


@torch.no_grad()
def _start_from_loss(model: peft.PeftModel, folder: Path) -> None:
    """Set each A and B to the closest that rank r comes to what quantising its layer lost.

    One step of LoftQ's alternation (arXiv:2311.08659, algorithm 1): the 4-bit weights stay as they are, so
    memory does too. peft.replace_lora_weights_loftq does the same but for needing a GPU and for leaving out
    that B A is multiplied by alpha / r.

    Raises:
        ConfigError: the checkpoint does not hold a layer under its name.
    """
    files = _find_tensors(folder)
    base: Any = model.get_base_model()
    for name, layer in base.named_modules():
        if not isinstance(layer, peft.tuners.lora.Linear4bit):
            continue
        keys = (f"{name}.weight", f"{name.removeprefix(base.base_model_prefix + '.')}.weight")
        key = next((one for one in keys if one in files), None)
        if key is None:
            raise ConfigError(
                f"method.adapter.init_lora_weights=loftq: {folder} holds no tensor {keys[0]}; "
                "save the model with transformers' save_pretrained, or use method=qlora"
            )
        held = dequantize_module_weight(layer.base_layer).float()  # (out, in)
        with safe_open(files[key], framework="pt", device=str(held.device)) as file:
            lost = file.get_tensor(key).float() - held
        left, values, right = torch.linalg.svd(lost, full_matrices=False)
        for adapter, rank in layer.r.items():
            root = values[:rank].sqrt()
            a, b = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
            a[: len(root)] = root[:, None] * right[:rank]
            b[:, : len(root)] = left[:, :rank] * root / layer.scaling[adapter]


def _find_tensors(folder: Path) -> dict[str, Path]:
    """Return which of a checkpoint's files holds each tensor."""
    files: dict[str, Path] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            files |= dict.fromkeys(file.keys(), path)
    return files
