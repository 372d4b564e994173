"""Models of a true architecture with random weights: memory and time without a hub, and no scores.

Each module is drawn, cast and quantised before the next one is, on the device where it will stay. No more
than one is ever there in full precision, so that a model is built wherever its quantised weights fit.
"""

import contextlib
import ctypes
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import (
    AutoConfig,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizer,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.quantizers.auto import AutoHfQuantizer

from bench.config.schema import ModelConfig
from bench.errors import ConfigError
from bench.model.weights import read_architecture

_PIECE = re.compile(r"[\u3400-\u9fff]|[^\W\d_\u3400-\u9fff]{1,8}|\d{1,3}|[^\w\s]|_")
_NUMBERED = re.compile(r"<\|(\d+)\|>")


def read_settings(model: ModelConfig, **more: Any) -> PreTrainedConfig:
    """Return the architecture as transformers' configuration.

    Raises:
        ConfigError: transformers does not know it, or one of its values is wrong.
    """
    architecture = read_architecture(model)
    if (kind := architecture["model_type"]) not in CONFIG_MAPPING:
        raise ConfigError(f"model.architecture.model_type={kind}: transformers has no such architecture")
    try:
        return AutoConfig.for_model(**architecture | more)
    except Exception as error:  # each architecture checks its values in its own way
        reason = (str(error).splitlines() or [type(error).__name__])[-1].strip()
        raise ConfigError(f"model.architecture: transformers refuses it ({reason})") from None


def make_model(
    auto_class: Any,
    settings: PreTrainedConfig,
    *,
    new: Sequence[str],
    dtype: torch.dtype,
    device: torch.device,
    quantization_config: BitsAndBytesConfig | None,
) -> PreTrainedModel:
    """Return the model as from_pretrained would, its weights drawn as its library draws them.

    Base weights depend on their names alone, so that all runs share one base; those of the modules ``new``
    are drawn from torch's current seed.
    """
    with init_empty_weights(include_buffers=False):
        model = auto_class.from_config(settings, dtype=dtype)
    quantizer: Any = None
    if quantization_config is not None:
        quantizer = AutoHfQuantizer.from_config(quantization_config, pre_quantized=False)
        quantizer.preprocess_model(model=model, device_map=None)
    tied = set(getattr(model, "all_tied_weights_keys", {}))
    for name, module in model.named_modules():
        empty = {
            path: parameter
            for path, parameter in module.named_parameters(prefix=name, recurse=False)
            if parameter.is_meta and path not in tied
        }
        is_new = any(name == one or name.startswith(f"{one}.") for one in new)
        with contextlib.nullcontext() if is_new else _seeded(name, device):
            _draw(model, module, empty, device)
        for path, parameter in empty.items():
            key = path.rpartition(".")[2]
            value = getattr(module, key).data.to(dtype)
            if quantizer is not None and quantizer.param_needs_quantization(model, path):
                module.register_parameter(key, parameter)  # its attributes say how it is quantised
                made = quantizer.get_quantize_ops().convert({path: value}, model=model)[path]
                if device.type == "meta":  # to which bitsandbytes moves weights without quantising them
                    made = made._quantize(device)
            else:
                made = nn.Parameter(value, requires_grad=parameter.requires_grad)
            module.register_parameter(key, made)
        for key, buffer in module.named_buffers(recurse=False):
            setattr(module, key, buffer.to(device))
        _return_freed_memory(device)
    if tied:
        model.tie_weights()
    if quantizer is not None:
        quantizer.postprocess_model(model)
    return model.eval()  # type: ignore[no-any-return]


def _draw(
    model: PreTrainedModel, module: nn.Module, empty: Mapping[str, nn.Parameter], device: torch.device
) -> None:
    """Give the module's own parameters random values in fp32, as the model's library does."""
    for path, parameter in empty.items():
        zeros = torch.zeros(parameter.shape, dtype=torch.float32, device=device)
        module.register_parameter(path.rpartition(".")[2], nn.Parameter(zeros, requires_grad=False))
    with torch.no_grad():
        model._init_weights(module)


def _return_freed_memory(device: torch.device) -> None:
    """Have no allocator keep what drawing took: glibc would hold a lot (measured)."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return
    with contextlib.suppress(AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


@contextlib.contextmanager
def _seeded(name: str, device: torch.device) -> Iterator[None]:
    """Draw random numbers that the name decides; torch's own state is as before afterwards."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(zlib.crc32(name.encode()))
        yield


def make_tokenizer(model: ModelConfig) -> PreTrainedTokenizerBase:
    """Return a tokenizer whose ids are the architecture's.

    Raises:
        ConfigError: as read_settings.
    """
    return HashTokenizer(read_settings(model))


class HashTokenizer(PreTrainedTokenizer):
    """Texts as ids without a vocabulary file: each word or Chinese character is hashed into the model's ids.

    There are about as many as the model's own tokenizer would find, so that time is real; which ids they are
    does not matter to weights that know nothing. Token ``<|7|>`` is id 7.
    """

    vocab_files_names: dict[str, str] = {}  # noqa: RUF012 (transformers' own way)
    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012

    def __init__(self, settings: PreTrainedConfig, **options: Any) -> None:
        declared = {name: value for name, value in vars(settings).items() if name.endswith("_token_id")}
        reserved = {0, *(one for value in declared.values() for one in _as_list(value))}
        self.ids = [number for number in range(settings.vocab_size) if number not in reserved]
        self.special = {
            f"{kind}_token": number
            for kind, otherwise in (("pad", [0]), ("eos", []))
            for number in (_as_list(declared.get(f"{kind}_token_id")) or otherwise)[:1]
        }
        named = {name: f"<|{number}|>" for name, number in self.special.items()}
        # A text that reads like a special token is text.
        super().__init__(**named, split_special_tokens=True, **options)  # type: ignore[no-untyped-call]

    @property
    def vocab_size(self) -> int:
        """The number of ids that words are hashed into."""
        return len(self.ids)

    def get_vocab(self) -> dict[str, int]:
        """Return pad and eos, and every token that a word can be."""
        return {f"<|{number}|>": number for number in (*self.special.values(), *self.ids)}

    def _tokenize(self, text: str, **_: Any) -> list[str]:
        return _PIECE.findall(text)

    def _convert_token_to_id(self, token: str) -> int:
        if match := _NUMBERED.fullmatch(token):
            return int(match[1])
        return self.ids[zlib.crc32(token.encode()) % len(self.ids)]

    def _convert_id_to_token(self, index: int) -> str:
        return f"<|{index}|>"


def _as_list(value: Any) -> list[int]:
    return value if isinstance(value, list) else [] if value is None else [value]
