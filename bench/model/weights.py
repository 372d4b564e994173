"""Where a base model's files are and which revision they are. Never imports torch, so that planning is quick.

Only safetensors are loaded, and no code that comes with a model: neither can run anything on this machine.
The one exception is a model that was never released but as pickled shards; of those only tensors are read.
A GGUF file, which is as safe, is read once into a folder of safetensors.
"""

import contextlib
import hashlib
import importlib.util
import json
import math
import os
import re
import shlex
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from bench.config.pins import WITHOUT_HUB
from bench.config.schema import Config, ModelConfig, replace_values
from bench.errors import ConfigError, MissingError
from bench.files import replace_file
from bench.model import gguf

_REMEMBERED_BYTES = 2**20  # a smaller file is read as quickly as what is remembered of it
_SETTLED_NS = 2_000_000_000  # some file systems tell times of change apart by 2 s only
_SHA256 = re.compile(r"[0-9a-f]{64}")
_WITHOUT_CONFIG = "holds no config.json; save it with save_pretrained"
_WANTED = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
_PICKLED = "pytorch_model*.bin"
_RELEASED_PICKLED = ("chatglm",)  # model types whose official weights are pickled shards and nothing else
# Model types that cannot compute in bf16 or fp16, and why (transformers 5.24).
_FP32_ALONE = {
    "deberta": "its attention masks with a number that bf16 and fp16 cannot hold",
    "fnet": "its Fourier transform has no other type",
}


def locate(model: ModelConfig) -> Path | None:
    """Return the folder with config.json, weights and tokenizer; download a hub's, convert a GGUF file.

    Random weights need no folder, only an architecture.

    Raises:
        MissingError: it is not on this machine, and how to get it.
        ConfigError: the folder is there but holds no model that bench loads.
    """
    if model.weights == "random":
        read_architecture(model)
        return None
    return _locate_saved(model)


def find(model: ModelConfig) -> Path | None:
    """Return the folder if it is on this machine already; nothing is downloaded or converted.

    Raises:
        MissingError, ConfigError: as locate, of a folder.
    """
    if model.weights == "random":
        return None
    if model.source == "hub":
        _require_unquantised_on_hub(model)
        return _find_snapshot(model)
    return _locate_saved(model) if is_here(model) else None


def is_here(model: ModelConfig) -> bool:
    """Return whether saved weights can be read at once: a hub's are downloaded, a GGUF file's converted."""
    if model.source == "hub":
        return _find_snapshot(model) is not None
    file = _find_gguf(model)
    return file is None or _name_converted(file).is_dir()


def _locate_saved(model: ModelConfig) -> Path:
    if model.source == "hub":
        _require_unquantised_on_hub(model)
        folder, name = _download(model), f"model.hub_id={model.hub_id}"
        hint = "; if it has one, this machine's copy is not complete and the hub cannot be reached"
    else:
        folder, name, hint = _find_folder(model), f"model.path={model.path}", ""
    if fault := _find_fault(folder):
        raise ConfigError(f"{name}: {fault}{hint}")
    _require_unquantised(name, folder)
    return folder


def _require_unquantised(name: str, folder: Path) -> None:
    """Raise a ConfigError where the checkpoint's weights are quantised already: no method would be itself."""
    settings = read_if_whole(folder)
    held = settings.get("quantization_config")
    if not held:
        return
    kind = str(held.get("quant_method", "an unknown way"))
    architecture = next(iter(settings.get("architectures") or ["AutoModel"]))
    remedy = "give the model's original weights, which method=qlora quantises itself"
    if kind == "bitsandbytes":
        old, new = shlex.quote(str(folder)), shlex.quote(f"{folder.name}-dequantised")
        remedy += (
            ", or dequantise these, which brings back nothing that was lost: "
            "python -c 'import sys, transformers as t; "
            f"t.{architecture}.from_pretrained(sys.argv[1]).dequantize().save_pretrained(sys.argv[2]); "
            f"t.AutoTokenizer.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2])' {old} {new}"
        )
    raise ConfigError(
        f"{name}: its weights are quantised already ({kind}), so that method=full could train only what is "
        f"not, and method=lora would be QLoRA; {remedy}"
    )


def _require_unquantised_on_hub(model: ModelConfig) -> None:
    """Raise that error as soon as the model's config.json is in the cache, where pinning a commit puts it."""
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(str(model.hub_id), "config.json", revision=model.revision)
    if isinstance(cached, str):
        _require_unquantised(f"model.hub_id={model.hub_id}", Path(cached).parent)


def _find_folder(model: ModelConfig) -> Path:
    """Return the folder that model.path means, or that its GGUF file is converted to."""
    if (file := _find_gguf(model)) is not None:
        gguf.convert(file, folder := _name_converted(file))
        return folder
    folder = _find_path(model)
    if not folder.is_dir():
        raise MissingError(
            f"model.path={model.path}: there is no such folder; give the folder of a saved model"
        )
    return folder


def _find_gguf(model: ModelConfig) -> Path | None:
    """Return the GGUF file that model.path means, or None where it means a folder."""
    path = _find_path(model)
    return path if path.suffix == gguf.SUFFIX and path.is_file() else None


def _find_path(model: ModelConfig) -> Path:
    return _package_folder(str(model.path)) if model.source == "package" else Path(str(model.path))


def _name_converted(file: Path) -> Path:
    """Return where the GGUF file's weights are as safetensors: one folder for each content."""
    if (place := find_cache()) is None:
        raise MissingError(f"{file}: this user has no home to convert it in; set XDG_CACHE_HOME to a folder")
    return place / "models" / f"{file.stem}-{_hash_paths([file.resolve()])}"


def revision(model: ModelConfig) -> str:
    """Return what identifies the weights: hub name and commit, or a hash of files or architecture.

    Raises:
        MissingError, ConfigError: as locate.
    """
    if model.weights == "random":
        text = json.dumps(read_architecture(model), sort_keys=True)
        return f"random:{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    if model.source == "hub":
        return f"{model.hub_id}@{model.revision}"
    if (file := _find_gguf(model)) is not None:
        return _hash_paths([file.resolve()])
    folder = _locate_saved(model).resolve()
    patterns = [*_WANTED, _PICKLED] if is_pickled(folder) else _WANTED
    return _hash_paths(sorted(path for pattern in patterns for path in folder.glob(pattern)))


def hash_folder(folder: Path) -> str:
    """Return what stands for all that a folder holds, but for its card."""
    files = (path for path in folder.resolve().rglob("*") if path.is_file() and path.name != "README.md")
    return _hash_paths(sorted(files))


def read_architecture(model: ModelConfig) -> dict[str, Any]:
    """Return the architecture of random weights: the one declared, else the folder's.

    Raises:
        MissingError, ConfigError: as locate.
    """
    if model.architecture is not None:
        return model.architecture
    folder = _find_folder(model)
    if not (folder / "config.json").is_file():
        raise ConfigError(f"model.path={model.path}: {_WITHOUT_CONFIG}")
    return read_config(folder)


def read_config(folder: Path) -> dict[str, Any]:
    """Read the model's config.json."""
    values: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return values


def read_if_whole(folder: Path) -> dict[str, Any]:
    """Return the model's config.json, or nothing where it is damaged, which loading the model says better."""
    try:
        values = read_config(folder)
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def count_words(folder: Path) -> float:
    """Return the rows of the model's embedding of words, infinity where its config.json does not say."""
    settings = read_if_whole(folder)
    count = settings.get("vocab_size") or (settings.get("text_config") or {}).get("vocab_size")
    return math.inf if count is None else int(count)


def settle_precision(config: Config) -> tuple[Config, str | None]:
    """Return the configuration with fp32 where its architecture computes in nothing else, and why.

    Raises:
        ConfigError: another precision is asked for.
    """
    kind, requested = _read_model_type(config.model), config.train.precision
    reason = _FP32_ALONE.get(kind)
    if reason is None or requested == "fp32" or config.method.estimator in ("tfidf", "majority"):
        return config, None
    reason = f"{kind} computes in fp32 alone: {reason}"
    if requested != "auto":
        raise ConfigError(f"train.precision={requested}: {reason}; use auto or fp32")
    return replace_values(config, {"train.precision": "fp32"}), reason


def _read_model_type(model: ModelConfig) -> str:
    """Return the architecture's name, empty where neither the preset nor this machine has it."""
    if model.architecture is not None:
        return str(model.architecture.get("model_type", ""))
    folder = _find_folder(model) if model.source != "hub" else _find_snapshot(model)
    return "" if folder is None else str(read_if_whole(folder).get("model_type", ""))


def is_pickled(folder: Path) -> bool:
    """Return whether the weights are read from pickled shards, as there is no other release."""
    has_safetensors = any(folder.glob("*.safetensors"))
    return not has_safetensors and _is_released_pickled(folder) and any(folder.glob(_PICKLED))


def _is_released_pickled(folder: Path) -> bool:
    """Return whether the model is of a type whose official weights are pickled."""
    return read_if_whole(folder).get("model_type") in _RELEASED_PICKLED


def _find_fault(folder: Path) -> str | None:
    """Return why the folder holds no model that bench loads, or None."""
    if not (folder / "config.json").is_file():
        return _WITHOUT_CONFIG
    if is_pickled(folder):
        return _find_missing_shard(folder)
    if not list(folder.glob("*.safetensors")):
        also = f" (this type of model may have {_PICKLED} instead)" if _is_released_pickled(folder) else ""
        return (
            f"holds no .safetensors file, the only format that cannot run code{also}; "
            "convert it with transformers' save_pretrained"
        )
    return None


def _find_missing_shard(folder: Path) -> str | None:
    """Return which pickled shard, or their index, is not there or not whole, or None."""
    if (folder / "pytorch_model.bin").is_file():
        return None
    index = folder / "pytorch_model.bin.index.json"
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"holds {_PICKLED} but no whole {index.name}, which says what is in them; copy it again"
    missing = sorted(name for name in names if not (folder / name).is_file())
    return f"lacks {missing[0]}, which {index.name} names; copy it again" if missing else None


def _package_folder(path: str) -> Path:
    """Return the folder inside an installed package, found without importing it."""
    package, _, inner = path.partition("/")
    if not package.isidentifier():
        raise ConfigError(
            f"model.path={path}: must be an installed package and a folder in it; "
            "for a folder of your own add model=local"
        )
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingError(f"model.path={path}: the package {package} is not installed; run `make setup`")
    return Path(next(iter(spec.submodule_search_locations))) / inner


def _find_snapshot(model: ModelConfig) -> Path | None:
    """Return the pinned commit's snapshot in the cache, None if it is not there or not whole."""
    with contextlib.suppress(Exception):  # the hub's own errors differ by version
        folder = _fetch(model, local_files_only=True)
        if _find_fault(folder) is None:  # a cache may hold the tokenizer alone
            return folder
    return None


def _fetch(model: ModelConfig, *more: str, local_files_only: bool) -> Path:
    from huggingface_hub import snapshot_download

    return Path(
        snapshot_download(
            str(model.hub_id),
            revision=model.revision,
            allow_patterns=[*_WANTED, *more],
            local_files_only=local_files_only,
        )
    )


def _download(model: ModelConfig) -> Path:
    """Return the snapshot of the pinned commit, from the cache where it is there."""
    if (folder := _find_snapshot(model)) is not None:
        return folder
    try:
        folder = _fetch(model, local_files_only=False)
        if not any(folder.glob("*.safetensors")) and _is_released_pickled(folder):
            folder = _fetch(model, _PICKLED, local_files_only=False)
        return folder
    except Exception as error:
        raise MissingError(
            f"model.hub_id={model.hub_id} model.revision={model.revision}: not on this machine and cannot be "
            f"downloaded ({type(error).__name__}); check the name and the network, "
            f"or use model=local model.path=DIR; {WITHOUT_HUB}"
        ) from None


def _hash_paths(paths: Sequence[Path]) -> str:
    """Hash the files as they are now."""
    return _hash_files(tuple((path, path.stat().st_size, path.stat().st_mtime_ns) for path in paths))


@cache
def _hash_files(files: tuple[tuple[Path, int, int], ...]) -> str:
    """Hash the names and every byte of the files."""
    digest = hashlib.sha256()
    for path, size, changed_ns in files:
        digest.update(os.fsencode(path.name) + b"\0" + _hash_file(path, size, changed_ns).encode())
    return digest.hexdigest()[:16]


def _hash_file(path: Path, size: int, changed_ns: int) -> str:
    """Return the file's SHA-256; a big one's is remembered on disk, so that it is read once.

    A file that changed a moment ago may change again within the clock's resolution, so it is not remembered.
    """
    note = _find_note(path) if size >= _REMEMBERED_BYTES else None
    stated = [str(path), size, changed_ns]
    if note is not None and (noted := _read_note(note, stated)):
        return noted
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    after = path.stat()
    is_same = (after.st_size, after.st_mtime_ns) == (size, changed_ns)
    if note is not None and is_same and time.time_ns() - changed_ns > _SETTLED_NS:
        _write_note(note, [*stated, digest])
    return digest


def _find_note(path: Path) -> Path | None:
    """Return where the file's hash is remembered: one place a path, so that none pile up."""
    if (place := find_cache()) is None:
        return None
    return place / "hashes" / f"{hashlib.sha256(os.fsencode(path)).hexdigest()}.json"


def find_cache() -> Path | None:
    """Return the folder of what any run may use again, or None where this user has no home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bench"
    except RuntimeError:
        return None


def _read_note(note: Path, stated: list[Any]) -> str | None:
    """Return the remembered hash, if path, size and time of change are as stated."""
    try:
        values = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(values, list) or values[:-1] != stated:
        return None
    return values[-1] if isinstance(values[-1], str) and _SHA256.fullmatch(values[-1]) else None


def _write_note(note: Path, values: list[Any]) -> None:
    """Remember the hash; a cache that cannot be written is no cache."""
    with contextlib.suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        replace_file(note, json.dumps(values), durable=False)
