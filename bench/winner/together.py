"""Several seeds of a configuration as one classifier: k adapters on one base, and their mean."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

from bench.errors import ConfigError, StoreError
from bench.redaction import show
from bench.report.cells import escape_markdown
from bench.results.confidence import Confidence, average, measure_confidence, read_split
from bench.results.selection import read_seed
from bench.results.store import Result, Store
from bench.run import manifest as manifests
from bench.run.manifest import Manifest
from bench.run.teacher import add_seconds
from bench.winner import export, readme

_logger = logging.getLogger(__name__)


def export_seeds(store: Store, results: Sequence[Result], folder: Path) -> Manifest:
    """Write each run's adapter into a folder of its own, and what joins them; return that.

    Raises:
        ConfigError, MissingError, StoreError: as export.
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
    if first.thresholds is not None:
        raise ConfigError(
            f"{first.run_id} ({first.method}): its texts may have several labels (data.multi_label), and "
            "each seed has thresholds of its own; export one seed, without --seeds"
        )
    manifest = dataclasses.replace(
        first,
        members=list(written),
        confidence=_join_confidence(store, results),
        seconds=add_seconds([one.seconds for one in written.values()]),
    )
    manifests.write(manifest, folder)
    (folder / readme.NAME).write_text(_describe(results, manifest), encoding="utf-8")
    return manifest


def _join_confidence(store: Store, results: Sequence[Result]) -> Confidence | None:
    """Return how sure the mean of the seeds' probabilities is, by their validation texts; warn without."""
    try:
        validation = [
            read_split(store.read_predictions(one.run_id), one.labels, split="validation") for one in results
        ]
        return measure_confidence(average(validation))
    except StoreError as error:
        _logger.warning("no temperature is fitted to the mean of the seeds (%s)", show(error))
        return None


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
        f"folder of its own, with its card{code}:\n\n{seeds}\n"
        'With bench: `bench classify DIR "a text"`, or `bench.load(DIR).predict(texts)` in Python. It holds '
        "the base once, and reads a text once for each adapter.\n"
    )
