"""The notes of a run while it trains: its started record, its log, its history, its W&B run."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers

from bench.config.pack import count_together, describe_pack
from bench.config.schema import Config
from bench.data import dataset as datasets
from bench.data.dataset import Dataset
from bench.redaction import redact
from bench.results.store import Result, Store, start_record
from bench.run import provenance
from bench.run.preparation import Prepared, PreparedRun, adapt
from bench.run.tracking.mirror import start_tracker
from bench.run.tracking.wandb_run import Mode, Tracker
from bench.train.meter import Meter
from bench.train.training import Row

_log = logging.getLogger("bench")


@dataclass(frozen=True)
class Journal:
    """The notes of one run while it trains, alone or with others."""

    config: Config  # as it is trained here
    dataset: Dataset
    started: Result
    tracker: Tracker
    meter: Meter  # of the process, which the runs of a pack share
    history: list[dict[str, Any]] = field(default_factory=list)

    @property
    def run_id(self) -> str:
        """The run's name on disk."""
        return self.started.run_id

    @property
    def is_alone(self) -> bool:
        """Whether memory and time of the process are the run's own."""
        return self.started.packed is None

    def log(self, row: Row, step: int) -> None:
        """Write down a row of the history, without memory that the run shares with others."""
        if not self.is_alone:
            row = {name: value for name, value in row.items() if not name.endswith("_bytes")}
        self.history.append({"step": step, **row})
        self.tracker.log(row, step=step)
        words = ", ".join(f"{name} {value}" for name, value in row.items())
        _log.info("step %d: %s", step, words, extra={"run_id": self.run_id})


@contextlib.contextmanager
def open_all(
    prepared: Prepared, store: Store, *, device: torch.device, mode: Mode
) -> Iterator[list[Journal]]:
    """Put a started record of each run on disk, and open its log and its W&B run."""
    meter = Meter(device)
    started = _start_records(prepared, store)
    for record in started:
        store.write(record)
    with log_to({one.run_id: store.run_folder(one.run_id) / "log.txt" for one in started}):
        yield [
            Journal(adapt(one.config)[0], one.dataset, record, start_tracker(one.config, record, mode), meter)
            for one, record in zip(prepared.members, started, strict=True)
        ]


def _start_records(prepared: Prepared, store: Store) -> list[Result]:
    size = len(prepared.members)
    first, why = adapt(prepared.members[0].config)
    shared = {
        "packed": None if size == 1 else describe_pack(size, micro_batch_size=count_together(first)),
        "provenance": provenance.describe(model_revision=prepared.model_revision),
        "reasons": {} if why is None else {"model.precision": why},
    }
    return [
        start_record(
            one.config,
            one.identity,
            earlier=store.read(one.identity.run_id),
            labels=list(one.dataset.labels),
            data=_describe_data(one),
            **shared,
        )
        for one in prepared.members
    ]


def _describe_data(run: PreparedRun) -> dict[str, Any]:
    """Return the block ``data`` of the run's record, before its texts are cut."""
    unknown = {} if run.unknown_share is None else {"unknown_share": run.unknown_share}
    return {**datasets.describe(run.dataset), "truncated_share": None, **unknown}


@contextlib.contextmanager
def log_to(paths: Mapping[str, Path]) -> Iterator[None]:
    """Write what libraries and bench say to the log of each run, except what concerns another run alone.

    Standard error goes to the first log, as C code writes there.
    """
    root = logging.getLogger()
    level = root.level
    handlers = [_open_log(path, run_id) for run_id, path in paths.items()]
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(logging.INFO)
    transformers.utils.logging.disable_progress_bar()
    sys.stderr.flush()
    kept = os.dup(2)
    with next(iter(paths.values())).open("a") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
        root.setLevel(level)
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()
        for path in paths.values():
            _redact_file(path)


def _open_log(path: Path, run_id: str) -> logging.Handler:
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.addFilter(lambda line: getattr(line, "run_id", run_id) == run_id)
    return handler


def _redact_file(path: Path) -> None:
    """Remove secrets from what libraries said, which C code may have written past any handler."""
    text = path.read_text(encoding="utf-8", errors="surrogateescape")
    if (redacted := redact(text)) != text:
        path.write_text(redacted, encoding="utf-8", errors="surrogateescape")
