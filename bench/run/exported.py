"""An exported folder as a teacher: its answers to texts without labels.

A process of its own asks it, so that its memory is not the student's. Answers are kept in cache_dir, where
all students of the folder find them.
"""

import hashlib
import json
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

import bench
from bench.config.identity import split_content
from bench.data.dataset import Dataset
from bench.data.sources import Text
from bench.errors import ConfigError, MissingError
from bench.files import replace_file
from bench.model import weights
from bench.process import guarded
from bench.redaction import show
from bench.run import driver, manifest
from bench.run.manifest import Manifest

BEST = "best:"
_RUN = re.compile(rf"{BEST}.*|[0-9a-f]{{12}}")
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FolderAnswers:
    """What a folder said of texts, and what that took."""

    probabilities: npt.NDArray[np.float64]  # (texts, labels)
    seconds: float


def is_folder(teacher: str) -> bool:
    """Return whether ``teacher`` names a folder; one that was pinned to its content may be gone.

    What reads as a run is none, so that a run stays the teacher whatever folders there are.
    """
    folder, content = split_content(teacher)
    return content is not None or (not _RUN.fullmatch(teacher) and Path(folder).is_dir())


def pin_folder(teacher: str, dataset: Dataset) -> str:
    """Return ``DIR@CONTENT``, the folder with what stands for its content now.

    Raises:
        ConfigError: it cannot teach a student of these texts, or it is not what it was when it was pinned.
    """
    (folder, content), said = split_content(teacher), read_folder(teacher)
    if fault := _find_fault(said, dataset):
        raise ConfigError(f"teacher={folder}: {fault}")
    found = weights.hash_folder(Path(folder))  # last, as a folder that is no export may hold anything
    if content not in (None, found):
        raise ConfigError(
            f"teacher={teacher}: the folder's content is {found} now; bring back what it was, or leave out "
            f"@{content} for another teacher, and so another run"
        )
    if dataset.unlabelled is not None:
        _tell(folder, dataset.unlabelled.counts["used"], is_same=said.fingerprint == dataset.fingerprint)
    return f"{folder}@{found}"


@cache
def _tell(folder: str, count: int, *, is_same: bool) -> None:
    """Say what the folder is asked about and what is not known of it, once however many students it has."""
    _logger.warning(
        "teacher=%s: a folder answers the %d texts without labels alone, as it is too sure of texts that it "
        "was trained on; train texts have their labels and no probabilities of a teacher%s",
        show(folder),
        count,
        ""
        if is_same
        else "; it is not known to be trained on these texts and splits, so it may have seen test texts",
    )


def read_folder(teacher: str) -> Manifest:
    """Return what the folder says of itself.

    Raises:
        ConfigError: bench has not exported it.
    """
    try:
        return manifest.read(Path(split_content(teacher)[0]))
    except ConfigError as error:
        raise ConfigError(f"teacher={error}") from None


def _find_fault(said: Manifest, dataset: Dataset) -> str | None:
    """Say why the folder cannot teach a student of these texts, or return None."""
    if said.thresholds is not None or said.tasks is not None:
        several = "several labels a text" if said.tasks is None else "several tasks"
        return f"it answers with {several}, and a student has one label a text; export another run"
    if said.labels != list(dataset.labels):
        theirs, own = ", ".join(said.labels), ", ".join(dataset.labels)
        return f"its labels are {theirs}, the student's are {own}; both must have the same, in one order"
    if said.pairs != ("pair" in dataset.splits["train"]):
        wanted, given = ("pairs of texts", "one") if said.pairs else ("one text at a time", "pairs")
        return f"it reads {wanted}, the student reads {given}; both must read the same"
    if dataset.unlabelled is None:
        return (
            "a folder holds one model, which is too sure of its own train texts, so it answers texts without "
            "labels alone; give some, data.unlabelled=FILE, or name a run, teacher=RUN_ID or "
            "teacher=best:METHOD, which bench trains again on parts of the texts"
        )
    return None


def ask(teacher: str, texts: Sequence[Text], *, labels: int, devices: str, cache_dir: str) -> FolderAnswers:
    """Return what the pinned folder says of the texts, as it said before where it was asked already.

    Raises:
        MissingError: it cannot answer here.
    """
    folder, content = split_content(teacher)
    given = json.dumps(texts)  # ASCII, whatever encoding the process has
    path = Path(cache_dir) / "answers" / f"{hashlib.sha256(f'{content} {given}'.encode()).hexdigest()}.json"
    if (known := _read_kept(path, (len(texts), labels))) is not None:
        return known
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "answers.json"
        command = [sys.executable, "-m", "bench.run.exported", str(os.getpid()), folder, devices, str(out)]
        ended = subprocess.run(command, input=given, capture_output=True, text=True, errors="replace")
        if ended.returncode != 0:
            raise MissingError(
                f"teacher={folder}: cannot answer the texts of data.unlabelled: {show(_say_why(ended))}"
            )
        probabilities = np.array(json.loads(out.read_text(encoding="utf-8")))
    if not are_probabilities(probabilities):
        raise MissingError(
            f"teacher={folder}: gives texts of data.unlabelled other than probabilities, as damaged "
            "weights do; export the run again"
        )
    answers = FolderAnswers(probabilities, time.monotonic() - begun)
    _keep(path, answers)
    return answers


def _say_why(ended: subprocess.CompletedProcess[str]) -> str:
    """Say why the process that was to answer did not."""
    if ended.returncode < 0:
        return f"its process was killed by {signal.Signals(-ended.returncode).name}"
    return ended.stderr.strip().rpartition("\n")[2] or f"its process ended with {ended.returncode}"


def are_probabilities(values: npt.NDArray[np.float64]) -> bool:
    """Return whether each row sums to 1, as none does that has a NaN. # values: (texts, labels)"""
    return bool((np.abs(values.sum(axis=1) - 1) < 1e-3).all())


def _read_kept(path: Path, shape: tuple[int, int]) -> FolderAnswers | None:
    """Read answers that were kept; None if there are none, or they are damaged and have to be made again."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        answers = FolderAnswers(np.array(kept["probabilities"], dtype=np.float64), float(kept["seconds"]))
        if answers.probabilities.shape != shape:
            raise ValueError(f"it has the shape {answers.probabilities.shape} in place of {shape}")
        if not are_probabilities(answers.probabilities):
            raise ValueError("it holds other than probabilities")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        _logger.warning("%s: cannot be read (%s); the teacher is asked again", path, error)
        return None
    return answers


def _keep(path: Path, answers: FolderAnswers) -> None:
    """Keep the answers for other students; warn where the folder cannot be written."""
    kept = {"seconds": answers.seconds, "probabilities": answers.probabilities.tolist()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, json.dumps(kept), durable=False)
    except OSError as error:
        place = path.parent.parent
        _logger.warning("cache_dir %s: cannot be written (%s); each student asks anew", place, error.strerror)


def main(student: str, folder: str, devices: str, out: str) -> None:
    """Write the folder's probabilities of the texts on standard input, a row a text, both as JSON.

    Args:
        student: the process that asks; with it this one ends
    """
    threading.Thread(target=_end_with, args=(int(student),), daemon=True).start()
    driver.take(devices)
    if devices.startswith("cpu"):
        os.environ[driver.VISIBLE] = ""  # or bench.load would take a card
    texts = [one if isinstance(one, str) else tuple(one) for one in json.load(sys.stdin)]
    said = bench.load(folder).predict(texts)
    Path(out).write_text(json.dumps([[*one.probabilities.values()] for one in said]), encoding="utf-8")


def _end_with(student: int) -> None:
    """Wait for the student's process, and end where it was killed: nobody would read the answers."""
    while os.getppid() == student:
        time.sleep(1)
    os._exit(1)


if __name__ == "__main__":
    with guarded():
        main(*sys.argv[1:])
