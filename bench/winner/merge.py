"""An adapter merged into its base: a plain model as fast as the base, and how far it agrees with its run."""

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from peft.utils.integrations import dequantize_module_weight
from torch import nn

from bench.errors import ConfigError, RunError
from bench.model import build, weights
from bench.results.store import Result, Store
from bench.winner import agreement, classifier, export, readme
from bench.winner import manifest as manifests
from bench.winner.agreement import Agreement, Held, Scores
from bench.winner.classifier import Classifier
from bench.winner.manifest import Manifest
from bench.winner.origin import locate

AGREEMENT = "agreement.json"
FULL, FOUR_BIT = "full", "4bit"
_IN_FOUR_BIT = ("nf4", "fp4")


def merge(
    store: Store, result: Result, folder: Path, *, into: str | None, tolerance: float, force: bool
) -> list[Agreement]:
    """Write the merged model, with what it agrees on beside it; a refused merge leaves nothing.

    ``into`` is ``full``, the base as it is, or ``4bit``, the values that a 4-bit base stood for while the
    adapter learned to make up for their error. By default it is what the adapter was trained on.
    Merging is done in fp32, 4 bytes a weight; the files are in the type of the base's own.

    Raises:
        ConfigError: the folder holds something already, or the run has nothing to merge.
        RunError: more predictions than ``tolerance`` of the test split change, and it was not forced.
        MissingError, StoreError: as export.
    """
    with export.new_folder(folder) as partial, tempfile.TemporaryDirectory(prefix="bench-") as other:
        adapter = Path(other)
        trained = export.write(store, result, adapter)
        into = choose_base(trained.manifest, into)
        held = agreement.read_test(result)
        expected = trained.score(held.texts)
        rows = [agreement.compare("as trained", expected, expected, held)]
        del trained
        reloaded = classifier.load(adapter).score(held.texts)
        rows.append(agreement.compare("reloaded adapter", reloaded, expected, held))
        merged = merge_folder(adapter, into=into)
        rows += _write(merged, partial, expected, held)
        saved = next(row for row in rows if row.form == _name_form(base_type(merged.manifest)))
        if saved.changed_share > tolerance and not force:
            raise RunError(
                f"{result.run_id}: merged into {into}, {saved.changed_share:.2%} of {len(held.texts)} test "
                f"predictions change, and {tolerance:.2%} may; nothing was written. Export the adapter "
                "instead, merge into another base (--into), or allow it with --tolerance or --force"
            )
        _describe(partial, result, merged, rows, texts=len(held.texts), tolerance=tolerance)
        return rows


def choose_base(manifest: Manifest, into: str | None) -> str:
    """Return what the adapter is merged into; by default what it was trained on.

    Raises:
        ConfigError: there is no adapter, or the base was not in 4 bits.
    """
    if manifest.kind != "adapter":
        raise ConfigError(
            f"{manifest.run_id} ({manifest.method}): no adapter to merge; `bench export` writes what it has"
        )
    is_four_bit = manifest.quantization in _IN_FOUR_BIT
    if into == FOUR_BIT and not is_four_bit:
        raise ConfigError(
            f"--into {into}: {manifest.run_id} was trained on a base with quantization "
            f"{manifest.quantization}, not in 4 bits; use --into {FULL}"
        )
    return into or (FOUR_BIT if is_four_bit else FULL)


def merge_folder(folder: Path, *, into: str) -> Classifier:
    """Return the exported adapter merged, in memory and in fp32."""
    adapted = classifier.load(folder, quantization="none", precision="fp32")
    network: Any = adapted.model
    if into == FOUR_BIT:
        _copy_dequantised(classifier.load(folder).model, network)
    merged = network.merge_and_unload()
    manifest = dataclasses.replace(
        adapted.manifest, kind="full", quantization="none", double_quant=False, merged_into=into
    )
    return dataclasses.replace(adapted, model=merged.eval(), manifest=manifest)


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


def _write(merged: Classifier, folder: Path, expected: Scores, held: Held) -> list[Agreement]:
    """Save the merged model and its tokenizer: how it agrees in fp32, in bf16, quantised again."""
    rows, saved_as = [], base_type(merged.manifest)
    network: Any = merged.model
    for precision in ("fp32", "bf16"):
        network.to(build.DTYPES[precision])
        scores = dataclasses.replace(merged, precision=precision).score(held.texts)
        rows.append(agreement.compare(_name_form(precision), scores, expected, held))
        if precision == saved_as:
            with classifier.quiet():
                network.save_pretrained(folder)
    export.free_cache(folder)
    merged.tokenizer.save_pretrained(folder)
    manifests.write(merged.manifest, folder)
    again = classifier.load(folder, quantization="nf4").score(held.texts)
    rows.append(agreement.compare("merged, NF4 again", again, expected, held))
    return rows


def _name_form(precision: str) -> str:
    return f"merged, {precision}"


def _describe(
    folder: Path,
    result: Result,
    merged: Classifier,
    rows: list[Agreement],
    *,
    texts: int,
    tolerance: float,
) -> None:
    """Write agreement.json and the card."""
    described = agreement.describe(rows, texts=texts, tolerance=tolerance)
    (folder / AGREEMENT).write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
    bases = {
        FULL: "the base as it is",
        FOUR_BIT: "the values that the 4-bit base stood for in training",
    }
    section = (
        f"## Merged\n\nThe adapter was merged into {bases[str(merged.manifest.merged_into)]}; the files are "
        f"in {base_type(merged.manifest)}. On the {texts} texts of the test split, beside the run as it was "
        f"trained:\n\n{agreement.tabulate(rows)}"
    )
    readme.write(folder, result, merged.manifest, network=merged.model, more=section)
