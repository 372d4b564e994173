"""An adapter merged into its base: a plain model, as fast as the base."""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from peft.utils.integrations import dequantize_module_weight
from torch import nn

from bench.errors import ConfigError
from bench.model import weights
from bench.run.manifest import Manifest, locate
from bench.winner import classifier
from bench.winner.classifier import Classifier

FULL, FOUR_BIT = "full", "4bit"
IN_FOUR_BIT = ("nf4", "fp4")


def choose_base(manifest: Manifest, into: str | None) -> str:
    """Return what the adapter is merged into; by default what it was trained on.

    Raises:
        ConfigError: there is no adapter, or the base was not in 4 bits.
    """
    if manifest.kind != "adapter":
        raise ConfigError(
            f"{manifest.run_id} ({manifest.method}): no adapter to merge; `bench export` writes what it has"
        )
    if manifest.experts is not None:
        raise ConfigError(
            f"{manifest.run_id} ({manifest.method}): cannot be merged, as its gates weigh each layer's "
            "experts by what the layer reads, so that no one weight does the same; export what was trained, "
            "without --format"
        )
    is_four_bit = manifest.quantization in IN_FOUR_BIT
    if into == FOUR_BIT and not is_four_bit:
        raise ConfigError(
            f"--into {into}: {manifest.run_id} was trained on a base with quantization "
            f"{manifest.quantization}, not in 4 bits; use --into {FULL}"
        )
    return into or (FOUR_BIT if is_four_bit else FULL)


def merge_folder(folder: Path, *, into: str) -> Classifier:
    """Return the exported adapter merged, in memory and in fp32."""
    adapted = load_unquantised(folder, into=into)
    network: Any = adapted.model
    merged = network.merge_and_unload()
    manifest = dataclasses.replace(
        adapted.manifest, kind="full", quantization="none", double_quant=False, merged_into=into
    )
    return dataclasses.replace(adapted, model=merged.eval(), manifest=manifest)


def load_unquantised(folder: Path, *, into: str) -> Classifier:
    """Return the exported adapter in fp32, on the base as it is or on the values that a 4-bit one held."""
    adapted = classifier.load(folder, quantization="none", precision="fp32")
    if into == FOUR_BIT:
        _copy_dequantised(classifier.load(folder).model, adapted.model)
    return adapted


def base_type(manifest: Manifest) -> str:
    """Return what the base's own files hold, and so the merged ones: fp32 or bf16."""
    values = weights.read_config(locate(manifest.base))
    return "fp32" if values.get("dtype", values.get("torch_dtype")) in (None, "float32") else "bf16"


@torch.no_grad()
def _copy_dequantised(source: nn.Module, target: nn.Module) -> None:
    """Put the values that the source's 4-bit layers stand for into the target."""
    for name, layer in source.named_modules():
        if type(layer).__name__ == "Linear4bit" and hasattr(layer, "quant_state"):
            held = dequantize_module_weight(layer)
            place: Any = target.get_submodule(name)
            place.weight.copy_(held)
