"""A run's trained weights as a folder that plain transformers and PEFT code can load."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from bench.errors import ConfigError, StoreError
from bench.files import writing_folder
from bench.model import build
from bench.model.adapters import adapter, gates
from bench.results.store import Result, Store
from bench.run import manifest as manifests
from bench.run.manifest import Manifest, locate
from bench.winner import classifier, readme
from bench.winner.choose import find_weights
from bench.winner.classifier import Classifier

LENGTHS = "sentence_bert_config.json"  # where vLLM and text-embeddings-inference look for the longest text
# Starts of an adapter that take what it holds out of the base; the same list is in peft's LoraModel.
_CHANGES_BASE = ("pissa", "corda", "olora", "lora_ga")


def export(store: Store, result: Result, folder: Path) -> Classifier:
    """Write what the run trained, as an adapter or a whole model, with all that reading it needs.

    The folder appears as a whole or not at all.

    Raises:
        ConfigError: the folder holds something already, or the run cannot be exported.
        MissingError: the weights were not kept, or the base is not on this machine.
        StoreError: the disk refused it.
    """
    with new_folder(folder) as partial:
        return write(store, result, partial)


def write(store: Store, result: Result, folder: Path) -> Classifier:
    """Write the export into an empty folder, and return the run's classifier as rebuilt."""
    weights = find_weights(store, result)
    exported = classifier.begin(store, result)
    manifest = exported.manifest
    if manifest.kind == "full" and manifest.quantization != "none":
        raise ConfigError(
            f"{result.run_id}: a head trained on {manifest.quantization} weights cannot be exported, as PEFT "
            "knows adapters only; use `bench classify` with the run, or train with method.quantization=none"
        )
    network: Any = exported.model
    more = _find_more(network, weights)
    build.load_trained(network, weights)
    network.requires_grad_(False).eval()
    if manifest.kind == "adapter":
        _name_base(network, manifest)
        with classifier.quiet():
            network.save_pretrained(folder, save_embedding_layers=False)
        if manifest.experts is not None:
            gates.mark_routed(folder)
        exported.base.config.save_pretrained(folder)
        if more:
            _widen(folder, more)
        save_beside(exported, folder)
    else:
        save(exported, folder)
    readme.write(folder, result, manifest, network=exported.base)
    return exported


def save(made: Classifier, folder: Path) -> None:
    """Write a whole model into the folder as transformers does, with all that reading it needs."""
    network: Any = made.model
    with classifier.quiet():
        network.save_pretrained(folder)
    save_beside(made, folder)


def save_beside(made: Classifier, folder: Path) -> None:
    """Put the tokenizer and bench.json beside a saved model, and what servers read beside its config.json."""
    _settle_config(folder, made.manifest)
    if made.manifest.kind != "adapter" and made.manifest.prompt is None:
        lengths = {"max_seq_length": made.manifest.max_length, "do_lower_case": False}
        (folder / LENGTHS).write_text(json.dumps(lengths, indent=2) + "\n", encoding="utf-8")
    made.tokenizer.save_pretrained(folder)
    manifests.write(made.manifest, folder)


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Give a folder to write into, which takes the name only once it is whole.

    Raises:
        ConfigError: there is something of that name.
        StoreError: the disk refused it.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder}: is not empty; give a new folder, or remove this one first")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with writing_folder(folder) as partial:
            yield partial
    except OSError as error:
        raise StoreError(f"{folder}: {error.strerror or error}; give a folder that can be written") from None


def _find_more(network: Any, weights: Path) -> dict[str, torch.Tensor]:
    """Return A and B by which the base that the adapter is for differs from the base as it is, if it does.

    Its own as training begins, negative, if they were taken out of the base; or those of earlier pieces of a
    stream, one below the other, if they were merged into it.
    """
    if not isinstance(network, peft.PeftModel):
        return {}
    with safe_open(weights, framework="pt") as file:
        names = [name for name in file.keys() if name.startswith(adapter.MERGED)]  # noqa: SIM118 (no mapping)
        if names:
            return _join_merged({name: file.get_tensor(name) for name in names})
    began = str(getattr(network.peft_config["default"], "init_lora_weights", "")).lower()
    if not began.startswith(_CHANGES_BASE):
        return {}
    state = peft.get_peft_model_state_dict(network, save_embedding_layers=False)
    start = {name: value.clone() for name, value in state.items() if adapter.is_low_rank(name)}
    return {name: value if "lora_A" in name else -value for name, value in start.items()}


def _join_merged(held: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Join merged adapters' A and B, by the names that a saved adapter has for them."""
    parts: dict[str, list[torch.Tensor]] = {}
    for name in sorted(held):  # in the same order for A and B
        own = name.removeprefix(adapter.MERGED).partition(".")[2].replace(".default.", ".")
        parts.setdefault(own, []).append(held[name])
    return {name: torch.cat(some, dim=_rank_of(name)) for name, some in parts.items()}


def _rank_of(name: str) -> int:
    """Return which dimension of A or of B is the rank."""
    return 0 if "lora_A" in name else 1


def _widen(folder: Path, more: Mapping[str, torch.Tensor]) -> None:
    """Make a saved adapter one for the base as it is, by A and B of how its own base differs from that.

    If these were taken out, the weights are W - s B0 A0 + s B A, which is an adapter of twice the rank on W
    (PiSSA, arXiv:2404.02948, appendix C). PEFT's own path_initial_model_for_weight_conversion does the same
    but loses the modules that are trained in full.
    """
    path = folder / "adapter_model.safetensors"
    state = load_file(path)
    name = next(iter(more))
    times = 1 + more[name].shape[_rank_of(name)] // state[name].shape[_rank_of(name)]  # as wide as before
    for name, value in more.items():
        state[name] = torch.cat([state[name], value.to(state[name])], dim=_rank_of(name)).contiguous()
    save_file(state, path, metadata={"format": "pt"})
    path = folder / "adapter_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    wider = times**0.5 if settings["use_rslora"] else times  # of alpha, so that B A is multiplied by the same
    settings |= {"init_lora_weights": True, "r": times * settings["r"]}
    settings["lora_alpha"] *= wider
    settings["rank_pattern"] = {name: times * value for name, value in settings["rank_pattern"].items()}
    settings["alpha_pattern"] = {name: wider * value for name, value in settings["alpha_pattern"].items()}
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _name_base(network: Any, manifest: Manifest) -> None:
    """Have adapter_config.json say where the base is: its hub name, or its folder here."""
    settings, base = network.peft_config["default"], manifest.base
    settings.base_model_name_or_path = base.hub_id if base.source == "hub" else str(locate(base).resolve())
    settings.revision = base.revision if base.source == "hub" else None


def _settle_config(folder: Path, manifest: Manifest) -> None:
    """Have config.json say what this folder's model is for and how its own weights are held.

    A head chooses one label. A decoder may remember tokens, for which only writing has a use. How the base
    was quantised goes.
    """
    path = folder / "config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings.pop("quantization_config", None)
    if manifest.prompt is None and len(manifest.labels) > 1:
        count = "single" if manifest.thresholds is None else "multi"
        settings["problem_type"] = f"{count}_label_classification"
    if "use_cache" in settings:
        settings["use_cache"] = True
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
