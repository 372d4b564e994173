"""A run in another form than it was trained in, merged or as ONNX, and how far that agrees with the run."""

import dataclasses
import functools
import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bench.errors import ConfigError, RunError
from bench.model import build, onnx
from bench.results.store import Result, Store
from bench.run import manifest as manifests
from bench.run.manifest import Manifest
from bench.winner import agreement, classifier, export, readme
from bench.winner.agreement import Agreement
from bench.winner.classifier import Classifier
from bench.winner.merge import (
    FOUR_BIT,
    FULL,
    IN_FOUR_BIT,
    base_type,
    choose_base,
    load_unquantised,
    merge_folder,
)

MERGED, ONNX, ONNX_INT8 = "merged", "onnx", "onnx-int8"
FORMS = (MERGED, ONNX, ONNX_INT8)
AGREEMENT = "agreement.json"
_BASES = {FULL: "the base as it is", FOUR_BIT: "the values that the 4-bit base stood for in training"}

Measure = Callable[[str, Classifier], Agreement]  # of a form's name and the classifier in it


class Converted(NamedTuple):
    """What was written, and how each form that was measured on the way agrees with the run."""

    classifier: Classifier  # the model in torch
    rows: list[Agreement]
    saved: Agreement  # the row of what is in the folder


def convert(
    store: Store, result: Result, folder: Path, *, form: str, into: str | None, tolerance: float, force: bool
) -> tuple[Manifest, list[Agreement]]:
    """Write the run in the form, with its agreement beside it, and return both; a refused one leaves nothing.

    An adapter is merged first: ``into`` is ``full``, the base as it is, or ``4bit``, the values that a 4-bit
    base stood for while the adapter learned to make up for their error; by default what it was trained on.
    That is done in fp32, 4 bytes a weight.

    Raises:
        ConfigError: the folder holds something already, or the run cannot take the form.
        RunError: more predictions than ``tolerance`` of the test split change, and it was not forced.
        MissingError: as export, or the form needs packages that are not installed.
        StoreError: as export.
    """
    if form != MERGED:
        onnx.require_packages()
    with export.new_folder(folder) as partial, tempfile.TemporaryDirectory(prefix="bench-") as other:
        plain = Path(other)
        trained = export.write(store, result, plain)
        base = _choose_base(trained, form, into)
        held = agreement.read_test(result)
        expected = trained.score(held.texts, tasks=held.tasks)
        del trained

        def measure(name: str, made: Classifier) -> Agreement:
            return agreement.compare(name, made.score(held.texts, tasks=held.tasks), expected, held)

        write = _write_merged if form == MERGED else functools.partial(_write_onnx, form=form)
        made, rows, saved = write(plain, partial, base, measure)
        rows = [agreement.compare("as trained", expected, expected, held), *rows]
        count = len(held.texts)
        if saved.changed_share > tolerance and not force:
            raise RunError(_refuse(made.manifest, form, saved, texts=count, tolerance=tolerance))
        described = agreement.describe(rows, texts=count, tolerance=tolerance)
        (partial / AGREEMENT).write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
        section = _explain(made, rows, texts=count)
        readme.write(partial, result, made.manifest, network=made.model, more=section)
        return made.manifest, rows


def name_onnx(manifest: Manifest) -> str:
    """Return what an ONNX folder is called in tables."""
    return "ONNX" if manifest.quantization == "none" else f"ONNX, {manifest.quantization}"


def _choose_base(trained: Classifier, form: str, into: str | None) -> str | None:
    """Return what the run's adapter is merged into, None where it has none.

    Raises:
        ConfigError: the run cannot take the form.
    """
    manifest = trained.manifest
    if form == MERGED:
        return choose_base(manifest, into)
    if manifest.prompt is not None:
        raise ConfigError(
            f"--format {form}: {manifest.run_id} was trained with task={manifest.task}, which reads a text "
            "once for each label's words; ONNX is for a head (task=sequence_classification), so use "
            f"--format {MERGED}"
        )
    if type(trained.base).__module__.startswith("bench."):
        raise ConfigError(
            f"--format {form}: {type(trained.base).__name__} is bench's own code, which torch's exporter was "
            f"never tried with; use --format {MERGED}"
        )
    is_merged = manifest.kind == "adapter" and manifest.experts is None
    return choose_base(manifest, into) if is_merged or into else None


def _write_merged(plain: Path, folder: Path, base: str | None, measure: Measure) -> Converted:
    """Save the merged model in the type of the base's own files; measure it in fp32, bf16 and NF4 again."""
    rows = [measure("reloaded adapter", classifier.load(plain))]
    merged = merge_folder(plain, into=str(base))
    saved_as = base_type(merged.manifest)
    network: Any = merged.model
    for precision in ("fp32", "bf16"):
        network.to(build.DTYPES[precision])
        rows.append(measure(f"merged, {precision}", dataclasses.replace(merged, precision=precision)))
        if precision == saved_as:
            export.save(merged, folder)
    saved = next(row for row in rows if row.form == f"merged, {saved_as}")
    rows.append(measure("merged, NF4 again", classifier.load(folder, quantization="nf4")))
    return Converted(merged, rows, saved)


def _write_onnx(plain: Path, folder: Path, base: str | None, measure: Measure, *, form: str) -> Converted:
    """Save the model as ONNX, perhaps in int8; measure it in torch, as ONNX and as it is saved."""
    source = _load_plain(plain) if base is None else merge_folder(plain, into=base)
    network: Any = source.model.float()
    rows = [measure("reloaded, fp32" if base is None else "merged, fp32", source)]
    held = "int8" if form == ONNX_INT8 else "none"
    manifest = dataclasses.replace(source.manifest, kind="onnx", precision="fp32", quantization=held)
    made = Classifier(network.cpu(), source.tokenizer, manifest, "fp32", torch.device("cpu"))
    network.config.architectures = [type(network).__name__]
    network.config.save_pretrained(folder)
    export.save_beside(made, folder)
    if form == ONNX_INT8:
        onnx.write(network, plain / onnx.NAME, types=made.reads_types)
        rows.append(measure("ONNX", dataclasses.replace(made, model=onnx.load(plain))))
        onnx.quantise(plain / onnx.NAME, folder / onnx.NAME)
    else:
        onnx.write(network, folder / onnx.NAME, types=made.reads_types)
    saved = measure(name_onnx(manifest), classifier.load(folder))
    return Converted(made, [*rows, saved], saved)


def _load_plain(folder: Path) -> Classifier:
    """Return what has no adapter to merge, or one with gates, in fp32."""
    manifest = manifests.read(folder)
    if manifest.experts is None:
        return classifier.load(folder, precision="fp32")
    return load_unquantised(folder, into=FOUR_BIT if manifest.quantization in IN_FOUR_BIT else FULL)


def _refuse(manifest: Manifest, form: str, saved: Agreement, *, texts: int, tolerance: float) -> str:
    """Say how many predictions change, and what can be done."""
    what = f"merged into {manifest.merged_into}" if form == MERGED else f"as {saved.form}"
    others = {
        MERGED: "Export the adapter instead, merge into another base (--into)",
        ONNX: "Export what was trained instead, merge into another base (--into)",
        ONNX_INT8: "Take --format onnx instead",
    }
    least = math.ceil(saved.changed_share * 1e4) / 1e4
    return (
        f"{manifest.run_id}: {what}, {saved.changed} of {texts} test predictions change "
        f"({saved.changed_share:.2%}), and {tolerance:.2%} may; nothing was written. {others[form]}, or "
        f"allow it with --tolerance {least:g} or --force"
    )


def _explain(made: Classifier, rows: list[Agreement], *, texts: int) -> str:
    """Write the card's section: what was made of what, and the table."""
    manifest = made.manifest
    merged = f"The adapter was merged into {_BASES[manifest.merged_into]}" if manifest.merged_into else ""
    if manifest.kind != "onnx":
        title, how = "Merged", f"{merged}; the files are in {base_type(manifest)}."
    else:
        title = name_onnx(manifest)
        how = f"{merged}. " if merged else ""
        taken = ", ".join(f"`{name}`" for name in onnx.list_inputs(types=made.reads_types))
        how += f"`{onnx.NAME}` takes {taken}, of any size, and gives `logits`."
        if manifest.quantization == "int8":
            how += (
                " Its weights and the activations of its products are in int8; another processor may round "
                "them otherwise."
            )
    return (
        f"## {title}\n\n{how} On the {texts} texts of the test split, beside the run as it was trained:\n\n"
        f"{agreement.tabulate(rows, multi_label=manifest.thresholds is not None)}"
    )
