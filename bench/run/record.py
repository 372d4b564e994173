"""The record of a run that ended: its status, its scores, its memory and its time."""

import contextlib
import dataclasses
import errno
import logging
import re
import shutil
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
import torch

from bench.config.pack import count_together, describe_pack
from bench.config.schema import SINGLE_LABEL, Config
from bench.data.dataset import Dataset
from bench.errors import ConfigError, DataError, RunError, StoreError
from bench.memory import comparison
from bench.redaction import LONGEST, redact, shorten
from bench.results.store import STARTED, Result, Store, now
from bench.run.fitting import take_from_aside
from bench.run.journal import Journal
from bench.run.preparation import ASIDE, Prepared
from bench.run.tracking.mirror import describe_tracker, flatten
from bench.train import checkpoint, metrics
from bench.train.fit import Fitted, score_all
from bench.train.meter import Meter
from bench.train.resumption import EARLIER

# How CUDA, its libraries and the kernel say that memory is out. A handle of cuBLAS is made once torch has the
# card, so that what it lacks is memory; and torch fails an assertion about NVML while it words an
# OutOfMemoryError where it may not ask, as on a part of a card (its issue 112377).
_OUT_OF_MEMORY = re.compile(
    r"out of memory|can't allocate memory|not enough memory|_STATUS_ALLOC_FAILED"
    r"|CUBLAS_STATUS_NOT_INITIALIZED when calling `?cublasCreate|NVML_SUCCESS == .*CUDACachingAllocator",
    re.IGNORECASE | re.DOTALL,
)
_log = logging.getLogger("bench")


@dataclass(frozen=True)
class _Recorded:
    """One run once its record is on disk."""

    result: Result
    predictions: pd.DataFrame | None
    error: BaseException | None


def record_all(
    journals: Sequence[Journal], ends: Sequence[Fitted | BaseException], prepared: Prepared, store: Store
) -> dict[str, Result]:
    """Score each run and write its record, whose status says how it ended; return the records by run_id.

    Raises:
        KeyboardInterrupt: after the records say ``interrupted``.
        StoreError: the disk is full or not to be written; a record says ``failed``, if it could be written.
    """
    meter = journals[0].meter
    if (size := len(journals) if len(journals) > 1 else meter.runs) > 1:  # now, or up to its checkpoint
        packed = measure_pack(meter, size, journals[0].config)
        journals = [
            dataclasses.replace(journal, started=dataclasses.replace(journal.started, packed=packed))
            for journal in journals
        ]
    recorded = [_record(*pair, prepared, store) for pair in zip(journals, ends, strict=True)]
    with ThreadPoolExecutor(len(journals)) as pool:  # a server that is lost is waited for once
        spread = map if len(journals) == 1 else pool.map
        results = list(spread(partial(_finish_tracker, store), journals, recorded))
    for one in recorded:
        if isinstance(one.error, KeyboardInterrupt | SystemExit | StoreError):
            raise one.error
    return {one.run_id: one for one in results}


@contextlib.contextmanager
def end_unfinished(run_ids: Sequence[str], store: Store) -> Iterator[None]:
    """Leave no record at ``started`` if something ends this process before the runs have their own."""
    try:
        yield
    except BaseException as error:
        for run_id in run_ids:
            record = store.read(run_id)
            if record is not None and record.status == STARTED:
                status, described = classify(error), _describe_error(error)
                store.write(dataclasses.replace(record, status=status, ended_at=now(), error=described))
        raise


def _record(journal: Journal, end: Fitted | BaseException, prepared: Prepared, store: Store) -> _Recorded:
    """Score one run and write its record, its predictions and its history."""
    run_id, meter, folder = journal.run_id, journal.meter, store.run_folder(journal.run_id)
    # A run of a pack that failed by itself failed in training, wherever the others have got to by now.
    phase = "train" if isinstance(end, RunError) and not journal.is_alone else meter.current
    replaces = store.has_success(run_id)
    fitted, predictions, error = None, None, None
    try:
        if isinstance(end, BaseException):
            raise end
        with meter.phase("save"):
            predictions = metrics.predictions_frame(
                end.probabilities, journal.dataset, journal.config.data.label_separator
            )
            store.write_predictions(run_id, predictions)
            if end.gates:
                store.write_gates(run_id, metrics.gates_frame(end.gates, journal.dataset))
            take_from_aside(folder)
        fitted, phase = end, meter.current
    except BaseException as raised:
        error = _explain_full_disk(raised)
        _log.error("the run failed", exc_info=raised, extra={"run_id": run_id})
    shutil.rmtree(folder / ASIDE, ignore_errors=True)
    if error is None or not replaces:
        store.write_history(run_id, journal.history)
    result = finish_record(journal.started, journal.dataset, meter, phase=phase, fitted=fitted, error=error)
    result = dataclasses.replace(result, tracking=describe_tracker(journal.tracker))
    store.write(result)  # before what may take its time
    if journal.is_alone and (error is None or result.status == "oom"):
        result = comparison.compare(
            result, journal.config, journal.dataset, folder=prepared.model_folder, meter=meter
        )
        store.write(result)
    if result.is_success:
        train = journal.config.train
        checkpoint.tidy(folder, policy=train.keep, stopped=train.stop_step is not None)
    return _Recorded(result, predictions, error)


def _finish_tracker(store: Store, journal: Journal, recorded: _Recorded) -> Result:
    """End the run's W&B run; return the record, which says what became of it."""
    result, tracker = recorded.result, journal.tracker
    tracker.finish(summary=flatten(result), predictions=recorded.predictions, success=recorded.error is None)
    if describe_tracker(tracker) != result.tracking:
        result = dataclasses.replace(result, tracking=describe_tracker(tracker))
        store.write(result)
    return result


def _explain_full_disk(error: BaseException) -> BaseException:
    """Return a StoreError for a disk that takes no more, whoever met it, as no later run can be recorded."""
    if not isinstance(error, OSError) or error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return error
    place = f"{error.filename}: " if error.filename else ""
    return StoreError(f"{place}{error.strerror}; free space on that disk, and the same command goes on")


def finish_record(
    started: Result,
    dataset: Dataset,
    meter: Meter,
    *,
    phase: str,
    fitted: Fitted | None,
    error: BaseException | None,
) -> Result:
    """Return the record of a run that ended, well or not, with what was measured up to there."""
    measured, reasons = (_measure_alone if started.packed is None else _measure_packed)(started, meter)
    measured |= {"phase": phase, "ended_at": now()}
    reasons = started.reasons | reasons
    if fitted is None or error is not None:
        return dataclasses.replace(
            started,
            status=classify(error),
            error=_describe_error(error),
            reasons=reasons,
            **measured,
        )
    thresholds, said = _describe_thresholds(fitted, dataset)
    return dataclasses.replace(
        started,
        status="success",
        metrics=score_all(fitted.probabilities, dataset),
        parameters=fitted.parameters,
        throughput=measured.pop("throughput", fitted.throughput),
        updates=fitted.updates,
        model={**fitted.model, **thresholds},
        data={
            **started.data,
            "truncated_share": fitted.truncated_share,
            "long_share": fitted.long_share,
        },
        reasons=reasons | fitted.reasons | said,
        **measured,
    )


def _describe_thresholds(fitted: Fitted, dataset: Dataset) -> tuple[dict[str, Any], dict[str, str]]:
    """Return each label's threshold for the record, and why scores of several labels leave something out."""
    thresholds = metrics.find_thresholds(fitted.probabilities, dataset)
    if thresholds is None:
        return {}, {}
    reasons = dict.fromkeys(
        (f"metrics.*.{name}" for name in SINGLE_LABEL), "not defined where a text has several labels"
    )
    for split in fitted.probabilities:
        counts = zip(dataset.labels, dataset.count_labels(split), strict=True)
        if absent := [label for label, count in counts if not count]:
            reasons[f"metrics.{split}.mean_average_precision"] = (
                f"the mean over the other labels, as no text has {', '.join(map(repr, absent))}"
            )
    return {"thresholds": dict(zip(dataset.labels, map(float, thresholds), strict=True))}, reasons


def measure_pack(meter: Meter, size: int, config: Config) -> dict[str, Any]:
    """Return the block ``packed`` of each of a pack's records: what all of them took together."""
    kind = "peak_reserved_bytes" if meter.device.type == "cuda" else "peak_resident_bytes"
    peaks = [peak for phase in meter.peaks.values() if (peak := phase[kind]) is not None]
    seconds = (meter.time_record()["total_seconds"] or 0.0) + meter.seconds.get(EARLIER, 0.0)
    together = count_together(config)
    return describe_pack(
        size, micro_batch_size=together, peak_bytes=max(peaks, default=None), seconds=seconds
    )


def _measure_alone(started: Result, meter: Meter) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the blocks of a record that say what the run took, and why a null in them is unknown."""
    times = meter.time_record()
    times["total_seconds"] = (times["total_seconds"] or 0.0) + meter.seconds.get(EARLIER, 0.0)
    reasons = meter.null_reasons()
    if (count := started.config["train"]["processes"]) > 1:
        reasons["memory"] = reasons["energy"] = f"of the first of {count} processes, as only it is measured"
    return {"memory": meter.memory_record(), "time": times, "energy": meter.energy_record()}, reasons


def _measure_packed(started: Result, meter: Meter) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the same blocks for a run of a pack: null, as the pack's memory and time are shared."""
    memory = meter.memory_record()
    measured = {
        "memory": {name: value if name == "kind" else None for name, value in memory.items()},
        "time": dict.fromkeys(meter.time_record()),
        "energy": None,
        "throughput": {"tokens_per_second": None, "samples_per_second": None},
    }
    size = (started.packed or {}).get("size")
    reason = f"shared by a pack of {size}; measured alone once it is chosen"
    return measured, dict.fromkeys([*measured, "prediction"], reason)


def classify(error: BaseException | None) -> str:
    """Return the status of a run that ended with this error."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, RunError):  # a loss or probabilities that are no numbers
        return "diverged"
    if isinstance(error, ConfigError | DataError):
        return "invalid"
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error))
    ):
        return "oom"
    return "failed"


def _describe_error(error: BaseException | None) -> dict[str, Any] | None:
    """Return the block ``error`` of a record."""
    if error is None:
        return None
    return {
        "type": type(error).__name__,
        "message": shorten(str(error)) or type(error).__name__,
        "traceback_tail": redact("".join(traceback.format_exception(error)))[-LONGEST:],
        "signal": "SIGTERM" if type(error).__name__ == "Terminated" else None,
        "exit_code": error.code if isinstance(error, SystemExit) else None,
    }
