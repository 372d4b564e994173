"""The files that a training leaves: checkpoints, each there as a whole or not at all, and its best weights.

A checkpoint is a folder ``<run folder>/checkpoints/step-000100`` with the files that the training needs and a
manifest, written last, of their SHA-256. Knows nothing of what is in them and never imports torch, so that a
sweep can remove them.
"""

import hashlib
import json
import logging
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.files import flush

FOLDER = "checkpoints"
BEST = "best.safetensors"  # in a run's folder: what was trained, at its best validation score
MANIFEST = "manifest.json"
LARGE_BYTES = (
    10**9
)  # of weights: so large ones are kept of the chosen runs alone, unless train.keep says more
KEPT = 2  # the newest, and the one before in case the newest gets damaged
_STEP = re.compile(r"step-(\d{6,})")
_PARTIAL = ".partial-"
_logger = logging.getLogger(__name__)


def write(run_folder: Path, *, step: int, lineage: Mapping[str, Any], save: Callable[[Path], None]) -> None:
    """Put a checkpoint of the step on disk, durably, and remove all but the newest two.

    ``save`` writes the files into the folder it is given. ``lineage`` says what training this is, in values
    of JSON: only one of the same lineage may go on from here.

    Raises:
        OSError: the disk refused it; the checkpoints before are as they were.
    """
    folder = run_folder / FOLDER
    folder.mkdir(exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=folder, prefix=_PARTIAL))
    try:
        partial.chmod(0o755)
        save(partial)
        files = sorted(partial.iterdir())
        for path in files:
            flush(path)
        manifest = {"step": step, "lineage": lineage, "files": {path.name: _hash(path) for path in files}}
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")
        flush(partial / MANIFEST)
        flush(partial)
        place = folder / f"step-{step:06d}"
        if place.exists():  # one that could not be used
            shutil.rmtree(place)
        partial.rename(place)
        flush(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    remove(run_folder, keep=KEPT)


def find(run_folder: Path, *, lineage: Mapping[str, Any], last_step: int) -> Iterator[Path]:
    """Find the run's valid checkpoints of this lineage up to a step, newest first; log why others are not."""
    for step, path in reversed(_list(run_folder)):
        if step > last_step:
            continue
        if fault := _find_fault(path, step, lineage):
            _logger.warning("%s: %s; it is not used", path, fault)
        else:
            yield path


def remove(run_folder: Path, *, keep: int) -> None:
    """Remove the run's checkpoints except the newest ``keep``."""
    checkpoints = _list(run_folder)
    for _, path in checkpoints[: max(len(checkpoints) - keep, 0)]:
        _remove(path)
    if keep == 0:
        shutil.rmtree(run_folder / FOLDER, ignore_errors=True)


def tidy(run_folder: Path, *, policy: str, stopped: bool) -> None:
    """Keep of a success what ``train.keep`` says: its best weights, nothing, or the last checkpoints too.

    Under auto and chosen a sweep removes more, once a method's best is known.
    A training that was ``stopped`` early keeps its newest checkpoint, as it is there to be gone on from.
    """
    if policy != "all":
        remove(run_folder, keep=1 if stopped else 0)
    if policy == "none":
        (run_folder / BEST).unlink(missing_ok=True)


def is_for_chosen(policy: str, *, trainable: str, weights_bytes: int) -> bool:
    """Return whether a run's weights go once another run of its method is chosen (``train.keep``)."""
    return policy == "chosen" or (policy == "auto" and trainable == "all" and weights_bytes > LARGE_BYTES)


def measure_disk(run_folder: Path) -> dict[str, int]:
    """Measure the bytes of the run's best weights and of its checkpoints: {weights, checkpoints}."""
    kinds = {"weights": [run_folder / BEST], "checkpoints": [*(run_folder / FOLDER).rglob("*")]}
    return {
        kind: sum(path.stat().st_size for path in paths if path.is_file()) for kind, paths in kinds.items()
    }


def remove_after(run_folder: Path, step: int) -> None:
    """Remove what a training that goes on from the step has no use for: later checkpoints, and partial ones.

    Only the process that holds the run may do this, as a partial one may be in the making.
    """
    for path in (run_folder / FOLDER).glob(f"{_PARTIAL}*"):
        _remove(path)
    for saved_step, path in _list(run_folder):
        if saved_step > step:
            _remove(path)


def _list(run_folder: Path) -> list[tuple[int, Path]]:
    """List the steps and folders of the checkpoints, the oldest first."""
    matches = ((_STEP.fullmatch(path.name), path) for path in (run_folder / FOLDER).glob("*"))
    return sorted((int(name[1]), path) for name, path in matches if name)


def _find_fault(path: Path, step: int, lineage: Mapping[str, Any]) -> str | None:
    """Say why a training cannot go on from the checkpoint; None if it can."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        if manifest["step"] != step:
            return f"its manifest is of step {manifest['step']}"
        saved = manifest["lineage"]
        if other := sorted(key for key in {*saved, *lineage} if saved.get(key) != lineage.get(key)):
            return f"is of a training with another {', '.join(other)}"
        for name, digest in manifest["files"].items():
            if _hash(path / name) != digest:
                return f"{name} is damaged, its checksum does not match"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"is damaged ({type(error).__name__}: {error})"
    return None


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove(path: Path) -> None:
    """Remove a checkpoint, its manifest first, so that what is half removed is no checkpoint."""
    (path / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)
