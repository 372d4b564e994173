"""Several seeds of a configuration as one classifier: k adapters on one base, and their mean."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.errors import StoreError
from bench.redaction import show
from bench.report.cells import escape_markdown, to_markdown
from bench.results.confidence import Confidence, Predicted, average, measure_confidence, read_split
from bench.results.marks import find_separator
from bench.results.selection import read_seed
from bench.results.several import choose_thresholds
from bench.results.store import Result, Store
from bench.run import manifest as manifests
from bench.run.manifest import Manifest
from bench.run.teacher import add_seconds
from bench.winner import export, readme

_logger = logging.getLogger(__name__)


def export_seeds(store: Store, results: Sequence[Result], folder: Path) -> Manifest:
    """Write each run's adapter into a folder of its own, and what joins them; return that.

    Raises:
        ConfigError, MissingError, StoreError: as export; or texts may have several labels, and predictions by
            which the mean's thresholds are chosen cannot be read.
    """
    with export.new_folder(folder) as partial:
        return write(store, results, partial)


def write(store: Store, results: Sequence[Result], folder: Path) -> Manifest:
    """Write the export of all seeds into an empty folder."""
    written = {}
    for result in results:
        name = f"seed-{read_seed(result)}"
        (folder / name).mkdir()
        written[name] = export.write(store, result, folder / name).manifest
    first = next(iter(written.values()))
    known: dict[str, Any] = (
        {"confidence": _join_confidence(store, results)}
        if first.thresholds is None
        else {"thresholds": _join_thresholds(store, results)}
    )
    known["seconds"] = add_seconds([one.seconds for one in written.values()])
    manifest = dataclasses.replace(first, members=list(written), **known)
    manifests.write(manifest, folder)
    (folder / readme.NAME).write_text(_describe(results, manifest), encoding="utf-8")
    return manifest


def _join_confidence(store: Store, results: Sequence[Result]) -> Confidence | None:
    """Return how sure the mean of the seeds' probabilities is, by their validation texts; warn without."""
    try:
        return measure_confidence(_average_validation(store, results))
    except StoreError as error:
        _logger.warning("no temperature is fitted to the mean of the seeds (%s)", show(error))
        return None


def _join_thresholds(store: Store, results: Sequence[Result]) -> list[float]:
    """Choose each label's threshold on the mean of the seeds' probabilities of the validation texts."""
    try:
        validation = _average_validation(store, results)
    except StoreError as error:
        raise StoreError(
            f"{error}, nor can a threshold be chosen for all seeds together; bring the file back, or leave "
            "out --seeds, for one seed alone"
        ) from None
    return [*map(float, choose_thresholds(validation.probabilities, validation.labels))]


def _average_validation(store: Store, results: Sequence[Result]) -> Predicted:
    frames = [(one, store.read_predictions(one.run_id)) for one in results]
    return average(
        [
            read_split(frame, one.labels, split="validation", separator=find_separator(one.config))
            for one, frame in frames
        ]
    )


def _describe(results: Sequence[Result], manifest: Manifest) -> str:
    title = escape_markdown(str(results[0].config["method"]["title"]))
    seeds = "".join(
        f"- `{name}`: run `{result.run_id}`\n"
        for name, result in zip(manifest.members or [], results, strict=True)
    )
    code = " and code that loads it without bench" if manifest.experts is None else ""
    return (
        f"# {title} on {escape_markdown(manifest.base.name)}, {len(results)} seeds together\n\n"
        "A text classifier by the mean of the probabilities of several adapters on one base. Each is in a "
        f"folder of its own, with its card{code}:\n\n{seeds}\n{_list_thresholds(manifest)}"
        'With bench: `bench classify DIR "a text"`, or `bench.load(DIR).predict(texts)` in Python. It holds '
        "the base once, and reads a text once for each adapter.\n"
    )


def _list_thresholds(manifest: Manifest) -> str:
    """Tabulate from which mean probability on a text has each label; nothing where it has one label."""
    if manifest.thresholds is None:
        return ""
    pairs = zip(manifest.labels, manifest.thresholds, strict=True)
    rows = [[escape_markdown(label), f"{threshold:.4f}"] for label, threshold in pairs]
    return (
        "A text has every label whose mean probability reaches its threshold, which was chosen on the mean "
        "probabilities of the validation texts. Those in the folders are of a seed alone.\n\n"
        f"{to_markdown(['Label', 'Threshold'], rows, left={0})}\n"
    )
