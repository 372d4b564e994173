"""Runs' records on disk: the only file that touches results/, which is the truth of every report.

A run is a folder ``<results_dir>/runs/<run_id>``; it counts as done only once its ``result.json`` is on disk.
"""

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_type_hints

import pandas as pd
import yaml

from bench.config.identity import Identity, hash_canonical
from bench.config.pack import find_fault
from bench.config.schema import Config, to_dict
from bench.csv_text import to_exact_csv
from bench.errors import HeldError, StoreError
from bench.files import TEMPORARY, explained, replace_file
from bench.results import validity

SCHEMA_VERSION = 1
STATUSES = ("success", "failed", "oom", "diverged", "timeout", "interrupted", "crashed", "invalid")
STARTED = "started"  # on disk before work begins; what a run that vanished leaves
PHASES = ("load", "data", "train", "eval", "save")
RECORD = "result.json"
_RUN_ID = re.compile(r"[0-9a-f]{12}")


@dataclass(frozen=True)
class Result:
    """One run's record, as in result.json; a value that could not be measured is None and has a reason."""

    run_id: str
    status: str  # one of STATUSES, or STARTED
    attempt: int
    phase: str  # where it ended, one of PHASES
    started_at: str  # UTC, ISO 8601
    ended_at: str | None
    config: dict[str, Any]
    canonical_config: dict[str, Any]
    labels: list[str] = field(default_factory=list)  # in the declared order
    metrics: dict[str, Any] = field(default_factory=dict)  # {validation, test: METRICS and f1_by_label}
    memory: dict[str, Any] = field(default_factory=dict)  # {kind, baseline_bytes, load, train, eval}
    time: dict[str, Any] = field(default_factory=dict)  # {load_, train_, eval_, total_seconds}
    parameters: dict[str, Any] = field(default_factory=dict)  # {trainable, total}
    throughput: dict[str, Any] = field(default_factory=dict)  # {tokens_per_second, samples_per_second}
    energy: dict[str, Any] | None = None  # {joules, source}
    prediction: dict[str, Any] = field(default_factory=dict)  # of the peak memory, and how far off it was
    data: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)  # what was chosen: target_modules, precision, ...
    packed: dict[str, Any] | None = None  # of config.pack.describe_pack; None: trained alone
    provenance: dict[str, Any] = field(default_factory=dict)
    tracking: dict[str, Any] = field(default_factory=dict)  # {mode, wandb_run_id, reason}
    updates: dict[str, Any] | None = None  # of results.forgetting; None: the texts are no stream
    error: dict[str, Any] | None = None
    reasons: dict[str, str] = field(
        default_factory=dict
    )  # dotted path of a null, or of bench's own choice -> why
    attempts: list[dict[str, Any]] = field(default_factory=list)  # those before this one, in short
    schema_version: int = SCHEMA_VERSION

    @property
    def is_success(self) -> bool:
        """Whether the run counts as done."""
        return self.status == "success"


_KINDS = get_type_hints(Result)  # once: a report reads thousands of records


@dataclass(frozen=True)
class BadRecord:
    """A result.json that cannot be trusted, and why."""

    path: Path
    reason: str


def now() -> str:
    """Return the time in UTC, ISO 8601, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def start_record(config: Config, identity: Identity, *, earlier: Result | None, **more: Any) -> Result:
    """Make the record that precedes an attempt at a run, after the ``earlier`` attempts at it."""
    attempts = []
    if earlier is not None:
        kept = ("attempt", "status", "phase", "started_at", "ended_at", "error", "packed")
        summary = {name: getattr(earlier, name) for name in kept}
        summary["validation"] = earlier.metrics.get("validation")  # by which it may have been chosen
        attempts = [*earlier.attempts, {**summary, "oom_halvings": earlier.config.get("oom_halvings")}]
    return Result(
        run_id=identity.run_id,
        status=STARTED,
        attempt=1 if earlier is None else earlier.attempt + 1,
        phase="load",
        started_at=now(),
        ended_at=None,
        config=to_dict(config, without=["report"]),  # which is for tables alone
        canonical_config=dict(identity.canonical),
        attempts=attempts,
        **more,
    )


@dataclass(frozen=True)
class Store:
    """The records of one results folder."""

    folder: Path

    def run_folder(self, run_id: str) -> Path:
        """Return the folder of a run's files.

        Raises:
            StoreError: not a run_id, so that no name can lead out of the folder.
        """
        if not _RUN_ID.fullmatch(run_id):
            raise StoreError(f"run_id={run_id!r}: must be 12 hexadecimal digits; `bench status` lists them")
        return self.folder / "runs" / run_id

    def prepare(self) -> None:
        """Make the folder and prove that it can be written.

        Raises:
            StoreError: it cannot.
        """
        with explained(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass

    def recover(self) -> list[str]:
        """Put right what dead owners left, and say what: unfinished runs become crashed, bad records go.

        A record that cannot be trusted is moved to ``quarantine``; no run of a living process is touched.
        """
        good, bad = self.read_all()
        lines = []
        for record in bad:
            with contextlib.suppress(StoreError), self.claim(record.path.parent.name):
                self.quarantine(record.path)
                lines.append(f"{record.path}: {record.reason}; moved to {self.folder / 'quarantine'}")
        for result in good:
            if result.status == STARTED:
                with contextlib.suppress(HeldError):
                    said = "its process vanished without a word"
                    self.end(
                        result, status="crashed", message=said, ended_at=self.find_last_sign(result.run_id)
                    )
                    lines.append(f"run {result.run_id}: its process had vanished; it counts as crashed")
        return lines

    def end(
        self,
        started: Result,
        *,
        status: str,
        message: str,
        traceback_tail: str | None = None,
        killed_by: str | None = None,
        exit_code: int | None = None,
        ended_at: str | None = None,
    ) -> None:
        """Write the final record of a run whose process is dead; it ended now unless ``ended_at`` says when.

        Raises:
            HeldError: it lives.
            StoreError: the disk refused the record.
        """
        error = {
            "type": "ProcessError",
            "message": message,
            "traceback_tail": traceback_tail,
            "signal": killed_by,
            "exit_code": exit_code,
        }
        with self.claim(started.run_id):
            self.write(dataclasses.replace(started, status=status, ended_at=ended_at or now(), error=error))

    def find_last_sign(self, run_id: str) -> str:
        """Return when a run last wrote a file, UTC: so long a process that vanished was alive."""
        paths = (self.run_folder(run_id) / name for name in (RECORD, "log.txt"))
        seconds = max(path.stat().st_mtime for path in paths if path.exists())
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")

    def is_held(self, run_id: str) -> bool:
        """Tell whether a living process has claimed the run."""
        try:
            with (self.run_folder(run_id) / ".lock").open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    @contextlib.contextmanager
    def claim(self, run_id: str) -> Iterator[Path]:
        """Hold the run's folder for this process until it ends or lets go; no lock outlives its holder.

        Temporary files that a dead holder left are removed.

        Raises:
            HeldError: another process holds the run.
        """
        folder = self.run_folder(run_id)
        with explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock = (folder / ".lock").open("w")
        held = f"run {run_id}: another process is training it; wait for it to end"
        with lock:
            for tries_left in reversed(range(30)):
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if not tries_left:
                        raise HeldError(held) from None
                    time.sleep(0.01)  # is_held of another sweep takes the lock for a moment
            for left in folder.glob(f"{TEMPORARY}*"):
                left.unlink(missing_ok=True)
            yield folder

    def write(self, result: Result) -> None:
        """Put the record on disk, atomically and durably; a success is never replaced by anything less.

        Only within a claim: of two writers without one, the slower could undo a success.

        Raises:
            StoreError: the disk refused it.
        """
        folder = self.run_folder(result.run_id)
        if not result.is_success and self.has_success(result.run_id):
            return
        with explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
            replace_file(folder / "config.yaml", _to_yaml(finite(result.config)))
            replace_file(folder / RECORD, _to_json(_with_checksum(dataclasses.asdict(result))))

    def has_success(self, run_id: str) -> bool:
        """Tell whether the run has a record that counts as done."""
        record = self.read(run_id)
        return record is not None and record.is_success

    def write_predictions(self, run_id: str, predictions: pd.DataFrame) -> None:
        """Write predictions.csv: split, id, label, prediction and a probability column per label."""
        self._write_file(run_id, "predictions.csv", to_exact_csv(predictions, float_format="%.6g"))

    def write_gates(self, run_id: str, gates: pd.DataFrame) -> None:
        """Write gates.csv: layer, label, texts, largest and the mean weight of each expert."""
        self._write_file(run_id, "gates.csv", to_exact_csv(gates, float_format="%.6g"))

    def write_history(self, run_id: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write history.jsonl: a line for each logged step."""
        lines = [json.dumps(finite(row), ensure_ascii=False, allow_nan=False) for row in rows]
        self._write_file(run_id, "history.jsonl", "".join(f"{line}\n" for line in lines))

    def read(self, run_id: str) -> Result | None:
        """Read the run's record; return None without one that can be trusted."""
        record = read_record(self.run_folder(run_id) / RECORD)
        return record if isinstance(record, Result) else None

    def read_all(self) -> tuple[list[Result], list[BadRecord]]:
        """Read every record in order of run_id, and those that cannot be trusted."""
        runs = self.folder / "runs"
        if runs.exists() and not os.access(runs, os.R_OK | os.X_OK):  # which glob takes for an empty folder
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(runs))
        records = [read_record(path) for path in sorted(runs.glob(f"*/{RECORD}"))]
        good = [record for record in records if isinstance(record, Result)]
        return good, [record for record in records if isinstance(record, BadRecord)]

    def read_predictions(self, run_id: str) -> pd.DataFrame:
        """Read predictions.csv of a run; labels stay text, whatever they look like.

        Raises:
            StoreError: it is not there, or is not what a run writes.
        """
        path = self.run_folder(run_id) / "predictions.csv"
        try:
            frame = pd.read_csv(path, dtype={"label": str, "prediction": str}, keep_default_na=False)
        except (OSError, ValueError) as error:  # pandas' own are ValueErrors
            reason = getattr(error, "strerror", None) or error
            raise StoreError(
                f"runs/{run_id}/predictions.csv: {reason}; without it the run cannot be compared"
            ) from None
        if missing := [name for name in ("split", "id", "label", "prediction") if name not in frame]:
            raise StoreError(f"runs/{run_id}/predictions.csv: has no column {missing[0]}; it was changed")
        return frame

    def read_gates(self, run_id: str) -> pd.DataFrame:
        """Read gates.csv of a run; labels stay text.

        Raises:
            StoreError: it is not there, or is not what a run writes.
        """
        name = f"runs/{run_id}/gates.csv"
        try:
            path, texts = self.run_folder(run_id) / "gates.csv", dict.fromkeys(("layer", "label"), str)
            frame = pd.read_csv(path, converters=texts)
        except (OSError, ValueError) as error:
            raise StoreError(f"{name}: {getattr(error, 'strerror', None) or error}") from None
        numbers = frame.select_dtypes("number")
        if missing := {"texts", "largest", "expert_1"} - {*numbers} | {*texts} - {*frame}:
            raise StoreError(f"{name}: has no column {min(missing)} as it was written; it was changed")
        return frame

    def read_history(self, run_id: str) -> list[dict[str, Any]]:
        """Read history.jsonl of a run, a row for each logged step; empty for a run that logs none.

        Raises:
            StoreError: it is not there, or is not what a run writes.
        """
        name = f"runs/{run_id}/history.jsonl"
        try:
            lines = (self.run_folder(run_id) / "history.jsonl").read_text(encoding="utf-8").splitlines()
            rows = [json.loads(line) for line in lines]
        except (OSError, ValueError, RecursionError) as error:
            raise StoreError(f"{name}: {getattr(error, 'strerror', None) or error}") from None
        if not all(isinstance(row, dict) for row in rows):
            raise StoreError(f"{name}: holds a line that is no object; it was changed")
        return rows

    def write_report(self, name: str, body: str | bytes) -> Path:
        """Write a file that is made from the records beside runs/, in place of the one before."""
        path = self.folder / name
        with explained(path):
            path.parent.mkdir(exist_ok=True)
            replace_file(path, body)
        return path

    def keep_reports(self, folder: str, names: Sequence[str]) -> None:
        """Remove the files of a folder of reports that were made before and are not made now."""
        with explained(self.folder / folder):
            for path in sorted((self.folder / folder).glob("*.*")):
                if path.name not in names and path.suffix in (".svg", ".png"):
                    path.unlink(missing_ok=True)

    def quarantine(self, path: Path) -> None:
        """Move a record that does not count out of the way, beside runs/."""
        folder = self.folder / "quarantine"
        with explained(folder):
            folder.mkdir(exist_ok=True)
            name = f"{path.parent.name}-{datetime.now(UTC):%Y%m%dT%H%M%S%f}.json"
            path.replace(folder / name)

    def _write_file(self, run_id: str, name: str, text: str) -> None:
        path = self.run_folder(run_id) / name
        with explained(path):
            replace_file(path, text)


def read_record(path: Path) -> Result | BadRecord:
    """Read the record in the file; it is bad unless its schema, id, checksum and values are right."""
    try:
        if not path.is_file():  # reading a pipe would wait for ever
            return BadRecord(path, "cannot be read (it is not a file)")
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        return BadRecord(path, f"cannot be read ({error})")
    if not isinstance(values, dict):
        return BadRecord(path, "is not an object")
    names = {one.name for one in dataclasses.fields(Result)} | {"checksum"}
    if set(values) | {"prediction", "packed", "updates"} != names:  # which records of earlier versions lack
        return BadRecord(path, f"has other fields: {', '.join(sorted(set(values) ^ names))}")
    try:
        checksum = values.pop("checksum")
        summed = _checksum(values)
    except ValueError as error:  # text that UTF-8 cannot hold, or a number that is none
        return BadRecord(path, f"cannot be read ({error})")
    if checksum != summed:
        return BadRecord(path, "its checksum does not match; it was changed or is damaged")
    result = Result(**values)
    if result.schema_version != SCHEMA_VERSION:
        return BadRecord(path, f"has schema_version {result.schema_version}, expected {SCHEMA_VERSION}")
    if result.status not in (*STATUSES, STARTED):
        return BadRecord(path, f"has the unknown status {result.status!r}")
    if not result.run_id == hash_canonical(result.canonical_config) == path.parent.name:
        return BadRecord(path, "its run_id is not the hash of its configuration and the folder's name")
    for name, kind in _KINDS.items():
        if not validity.fits(getattr(result, name), kind):
            return BadRecord(path, f"its {name} is not of the type {kind}")
    fault = validity.find_fault(values) or find_fault(result.packed, memory=result.memory, time=result.time)
    return result if fault is None else BadRecord(path, fault)


def finite(value: Any) -> Any:
    """Make a value that JSON can hold: NaN and infinities as None, half characters escaped."""
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if isinstance(value, Mapping):
        return {finite(key): finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return value


def _with_checksum(values: Mapping[str, Any]) -> dict[str, Any]:
    """Add the checksum of all fields to a record."""
    body = finite(values)
    return {**body, "checksum": _checksum(body)}


def _checksum(body: Mapping[str, Any]) -> str:
    """Compute the SHA-256 of a record's fields, in any order."""
    text = json.dumps(body, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _to_json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _to_yaml(values: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(values), allow_unicode=True, sort_keys=False)


def find_imported(store: Store) -> Store:
    """Return the store of imported records, which lies beside runs/ and out of every report's count."""
    return Store(store.folder / "imported")
