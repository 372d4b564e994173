"""How long a classifier takes over a text, from text to probabilities, in each form it can be used in."""

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from bench.data.sources import Text
from bench.report.cells import to_markdown
from bench.report.language.text import ENGLISH
from bench.report.sections.latency import list_forms
from bench.run import manifest as manifests
from bench.run import provenance
from bench.train.meter import Meter
from bench.winner import classifier, export
from bench.winner.classifier import Classifier
from bench.winner.conversion import name_onnx
from bench.winner.merge import choose_base, merge_folder

ALL_ADAPTERS = "base + all adapters"
_SINGLES = 100  # texts that are timed one by one
_WARM_UP = 3
_BATCH_SIZES = (8, 16, 32, 64, 128)


@dataclass(frozen=True)
class Latency:
    """One form of the classifier at one batch size; milliseconds are per text."""

    form: str
    batch_size: int
    p50_ms: float
    p95_ms: float
    texts_per_second: float


def measure(folder: Path, texts: Sequence[Text], tasks: Sequence[str] | None = None) -> list[Latency]:
    """Measure each form of the exported classifier, at batch 1 and at its fastest batch size.

    Of a classifier of several tasks ``tasks`` says each text's.

    Raises:
        DataError: a text is empty.
    """
    rows = []
    for form, loaded in _make_forms(folder):
        rows += measure_form(form, loaded, texts, tasks)
    return rows


def measure_together(folder: Path, texts: Sequence[Text]) -> tuple[list[Latency], dict[str, Any]]:
    """Measure the export of several seeds, and the peak memory while it answers.

    Returns:
        The rows, and {kind: cuda|cpu_resident, peak_bytes}.
    """
    [(form, loaded)] = _make_forms(folder)
    return measure_peak(form, loaded, texts)


def measure_peak(
    form: str, loaded: Classifier, texts: Sequence[Text], tasks: Sequence[str] | None = None
) -> tuple[list[Latency], dict[str, Any]]:
    """Measure the form, and the peak memory while it answers, as measure_together returns them."""
    meter = Meter(loaded.device)
    with meter.phase("eval"):
        rows = measure_form(form, loaded, texts, tasks)
    record = meter.memory_record()
    peak = "peak_reserved_bytes" if record["kind"] == "cuda" else "peak_resident_bytes"
    return rows, {"kind": record["kind"], "peak_bytes": record["eval"][peak]}


def measure_form(
    form: str, loaded: Classifier, texts: Sequence[Text], tasks: Sequence[str] | None = None
) -> list[Latency]:
    """Measure the form at batch 1, and at the best of some batch sizes.

    Texts are taken in their order, so a batch is as mixed in length as they are; those of several tasks in
    turn, so that a batch is of all.
    """
    if tasks is not None:
        order = pd.DataFrame({"task": tasks}).groupby("task").cumcount().argsort(kind="stable")
        texts, tasks = [texts[place] for place in order], [tasks[place] for place in order]
    for place in range(min(_WARM_UP, len(texts))):
        loaded.score(texts[place : place + 1], tasks=tasks and tasks[place : place + 1])
    single = _time(form, loaded, texts[:_SINGLES], 1, tasks)
    sizes = [size for size in _BATCH_SIZES if size <= len(texts)]
    batches = [_time(form, loaded, texts[: 4 * max(sizes)], size, tasks) for size in sizes]
    best = max([single, *batches], key=lambda one: one.texts_per_second)
    return [single] if best is single else [single, best]


def describe(rows: Sequence[Latency], folder: Path, texts: int) -> dict[str, Any]:
    """Return evidence.LATENCY: the rows, and on what they were measured."""
    manifest = manifests.read(folder)
    facts = provenance.describe(model_revision=manifest.base.content)
    runtime = {"onnxruntime": metadata.version("onnxruntime")} if manifest.kind == "onnx" else {}
    return {
        "run_id": manifest.run_id,
        "kind": manifest.kind,
        "texts": texts,
        "max_length": manifest.max_length,
        "threads": torch.get_num_threads(),
        "hardware": facts["hardware"],
        "packages": facts["packages"] | runtime,
        "forms": [asdict(row) for row in rows],
    }


def tabulate(rows: Sequence[Latency]) -> str:
    """Write the forms as a Markdown table."""
    cells = list_forms(map(asdict, rows), ENGLISH)
    return to_markdown([*ENGLISH.under("latency.columns").values()], cells, left={0})


def _make_forms(folder: Path) -> Iterator[tuple[str, Classifier]]:
    """Yield it as it is, merged if it is an adapter, and in 4 bits, one at a time."""
    manifest = manifests.read(folder)
    held = "" if manifest.quantization == "none" else f"{manifest.quantization} "
    if manifest.members:
        yield f"{held}{ALL_ADAPTERS}", classifier.load(folder)
        return
    if manifest.kind == "onnx":
        yield name_onnx(manifest), classifier.load(folder)
        return
    if manifest.kind != "adapter":
        yield "whole model", classifier.load(folder)
        yield "quantised to nf4", classifier.load(folder, quantization="nf4")
        return
    yield f"{held}base + adapter", classifier.load(folder)
    if manifest.experts is not None:  # which cannot be merged
        return
    merged = merge_folder(folder, into=choose_base(manifest, None))
    with tempfile.TemporaryDirectory(prefix="bench-") as other:
        export.save(merged, Path(other))
        del merged
        yield "merged", classifier.load(other)
        yield "merged, quantised to nf4", classifier.load(other, quantization="nf4")


def _time(
    form: str, loaded: Classifier, texts: Sequence[Text], size: int, tasks: Sequence[str] | None
) -> Latency:
    """Return the seconds of each batch, by a monotonic clock, without a smaller last one."""
    seconds = []
    for start in range(0, len(texts) - size + 1, size):
        own = tasks and tasks[start : start + size]
        began = time.perf_counter()
        loaded.score(texts[start : start + size], tasks=own, batch_size=size * loaded.task.sequences)
        seconds.append(time.perf_counter() - began)
    per_text = 1000 * np.array(seconds) / size  # ms, (batches,)
    p50, p95 = np.percentile(per_text, [50, 95])
    return Latency(form, size, float(p50), float(p95), float(size * len(seconds) / sum(seconds)))
