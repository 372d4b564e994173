"""Where a base model's files are and which revision they are. Never imports torch, so that planning is quick.

Only safetensors are loaded, and no code that comes with a model: neither can run anything on this machine.
"""

import contextlib
import hashlib
import importlib.util
import json
from functools import cache
from pathlib import Path
from typing import Any

from bench.config import ModelConfig
from bench.errors import ConfigError, MissingError

_SAMPLE_BYTES = 65_536
_SAMPLES = 64
_WANTED = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]


def locate(model: ModelConfig) -> Path:
    """The folder with config.json, safetensors and the tokenizer; a hub model is downloaded into its cache.

    Raises:
        MissingError: it is not on this machine, and how to get it.
        ConfigError: the folder is there but holds no model that bench loads.
    """
    if model.source == "hub":
        folder, name = _download(model), f"model.hub_id={model.hub_id}"
        hint = "; if it has one, this machine's copy is not complete and the hub cannot be reached"
    else:
        folder = _package_folder(str(model.path)) if model.source == "package" else Path(str(model.path))
        name, hint = f"model.path={model.path}", ""
    if not folder.is_dir():
        raise MissingError(f"{name}: there is no such folder; give the folder of a saved model")
    if fault := _find_fault(folder):
        raise ConfigError(f"{name}: {fault}{hint}")
    return folder


def revision(model: ModelConfig) -> str:
    """What identifies the weights by content: hub name and commit, or a hash of the files.

    Raises:
        MissingError, ConfigError: as locate.
    """
    if model.source == "hub":
        return f"{model.hub_id}@{model.revision}"
    folder = locate(model).resolve()
    files = sorted(path for pattern in _WANTED for path in folder.glob(pattern))
    return _hash_files(tuple((path, path.stat().st_size, path.stat().st_mtime_ns) for path in files))


def read_config(folder: Path) -> dict[str, Any]:
    """The model's config.json."""
    values: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return values


def _find_fault(folder: Path) -> str | None:
    """Why the folder holds no model that bench loads, or None."""
    if not (folder / "config.json").is_file():
        return "holds no config.json; save it with save_pretrained"
    if not list(folder.glob("*.safetensors")):
        return (
            "holds no .safetensors file, the only format that cannot run code; "
            "convert it with transformers' save_pretrained"
        )
    return None


def _package_folder(path: str) -> Path:
    """The folder inside an installed package, found without importing it."""
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


def _download(model: ModelConfig) -> Path:
    """The snapshot of the pinned commit, from the cache where it is there."""
    from huggingface_hub import snapshot_download

    def fetch(*, local_files_only: bool) -> Path:
        return Path(
            snapshot_download(
                str(model.hub_id),
                revision=model.revision,
                allow_patterns=_WANTED,
                local_files_only=local_files_only,
            )
        )

    with contextlib.suppress(Exception):  # not in the cache; the hub's own errors differ by version
        folder = fetch(local_files_only=True)
        if _find_fault(folder) is None:  # a cache may hold the tokenizer alone
            return folder
    try:
        return fetch(local_files_only=False)
    except Exception as error:
        raise MissingError(
            f"model.hub_id={model.hub_id} model.revision={model.revision}: not on this machine and cannot be "
            f"downloaded ({type(error).__name__}); check the name and the network, "
            "or use model=local model.path=DIR"
        ) from None


@cache
def _hash_files(files: tuple[tuple[Path, int, int], ...]) -> str:
    """A hash of names, sizes and contents; of a file over 4 MiB, of 64 samples spread over it."""
    digest = hashlib.sha256()
    for path, size, _ in files:
        digest.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            if size <= _SAMPLES * _SAMPLE_BYTES:
                digest.update(file.read())
                continue
            for index in range(_SAMPLES):
                file.seek(index * (size - _SAMPLE_BYTES) // (_SAMPLES - 1))
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:16]
