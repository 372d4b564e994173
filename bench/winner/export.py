"""A run's trained weights as a folder that plain transformers and PEFT code can load."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors.torch import load_file, save_file

from bench.errors import ConfigError, StoreError
from bench.files import writing_folder
from bench.model import build
from bench.results.store import Result, Store
from bench.winner import classifier, readme
from bench.winner import manifest as manifests
from bench.winner.choose import find_weights
from bench.winner.classifier import Classifier
from bench.winner.manifest import Manifest, locate

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
    start = _remember_start(network)
    build.load_trained(network, weights)
    network.requires_grad_(False).eval()
    if manifest.kind == "adapter":
        _name_base(network, manifest)
        with classifier.quiet():
            network.save_pretrained(folder, save_embedding_layers=False)
        exported.base.config.save_pretrained(folder)
        if start:
            _widen(folder, start)
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


def _remember_start(network: Any) -> dict[str, torch.Tensor]:
    """Return the adapter's A and B as training begins, if they were taken out of the base."""
    if not isinstance(network, peft.PeftModel):
        return {}
    began = str(getattr(network.peft_config["default"], "init_lora_weights", "")).lower()
    if not began.startswith(_CHANGES_BASE):
        return {}
    state = peft.get_peft_model_state_dict(network, save_embedding_layers=False)
    return {name: value.clone() for name, value in state.items() if "lora_A" in name or "lora_B" in name}


def _widen(folder: Path, start: dict[str, torch.Tensor]) -> None:
    """Make a saved adapter whose start was taken out of the base one for the base as it is.

    With the trained A and B the weights are W - s B0 A0 + s B A, which is an adapter of twice the rank on W
    (PiSSA, arXiv:2404.02948, appendix C). PEFT's own path_initial_model_for_weight_conversion does the same
    but loses the modules that are trained in full.
    """
    path = folder / "adapter_model.safetensors"
    state = load_file(path)
    for name, began in start.items():
        parts = (state[name], began) if "lora_A" in name else (state[name], -began)
        state[name] = torch.cat(parts, dim=0 if "lora_A" in name else 1).contiguous()
    save_file(state, path, metadata={"format": "pt"})
    path = folder / "adapter_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    wider = 2**0.5 if settings["use_rslora"] else 2  # of alpha, so that what B A is multiplied by stays
    settings |= {"init_lora_weights": True, "r": 2 * settings["r"]}
    settings["lora_alpha"] *= wider
    settings["rank_pattern"] = {name: 2 * value for name, value in settings["rank_pattern"].items()}
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
