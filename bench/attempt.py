"""One attempt at a run: fit, measure, score, record. Imports torch and all else that training needs."""

import contextlib
import dataclasses
import errno
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers

from bench import (
    checkpoint,
    metrics,
    optimizers,
    parallel,
    processes,
    provenance,
    tracking,
    trainer,
    weights,
)
from bench.config import Config
from bench.data import Dataset
from bench.device import choose_device, choose_precision, limit_memory, require_attention
from bench.errors import ConfigError, DataError, RunError, StoreError
from bench.fit import EARLIER, Fitted, fit, score_all
from bench.identity import describe
from bench.measure import Meter
from bench.memory import comparison
from bench.redaction import redact
from bench.store import Result, Store, now
from bench.tracking import Mode, Tracker

_log = logging.getLogger("bench")


def require_device(config: Config) -> torch.device:
    """The device that the run will use, or a ConfigError that says what this machine cannot do."""
    device = choose_device(config.devices)
    if config.device_memory_gib is not None:
        limit_memory(device, config.device_memory_gib)
    if config.method.estimator in ("tfidf", "majority"):  # scikit-learn's, whose memory no device sees
        return torch.device("cpu")
    if config.method.estimator == "network":
        precision = choose_precision(config.train.precision, device)
        require_attention(config.train.attention, device, precision)
        optimizers.require_optimizer(config.train.optimizer, device)
        parallel.require_processes(config.train, device, precision)
    return device


@contextlib.contextmanager
def log_to(path: Path) -> Iterator[None]:
    """What libraries and bench say goes to the file; standard error too, as C code writes there."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    transformers.utils.logging.disable_progress_bar()
    sys.stderr.flush()
    kept = os.dup(2)
    with path.open("a") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
        root.setLevel(level)
        root.removeHandler(handler)
        handler.close()
        _redact_file(path)


def _redact_file(path: Path) -> None:
    """Takes secrets out of what libraries said, which C code may have written past any handler."""
    text = path.read_text(encoding="utf-8", errors="surrogateescape")
    if (redacted := redact(text)) != text:
        path.write_text(redacted, encoding="utf-8", errors="surrogateescape")


def attempt(
    config: Config, dataset: Dataset, *, model_folder: Path | None, store: Store, started: Result, mode: Mode
) -> Result:
    """Fits, scores and records; an error becomes the record's status.

    Raises:
        KeyboardInterrupt: after the record says ``interrupted``.
        StoreError: the disk is full or not to be written; the record says ``failed``, if it could be written.
    """
    meter = Meter(require_device(config))
    started = dataclasses.replace(
        started, provenance=provenance.describe(model_revision=weights.revision(config.model))
    )
    tracker = _start_tracker(config, started, mode)
    history: list[dict[str, Any]] = []

    def log(row: trainer.Row, step: int) -> None:
        history.append({"step": step, **row})
        tracker.log(row, step=step)
        _log.info("step %d: %s", step, ", ".join(f"{name} {value}" for name, value in row.items()))

    fitted, predictions, error = None, None, None
    try:
        fit_here = partial(
            fit, config, dataset, model_folder=model_folder, run_folder=store.run_folder(started.run_id)
        )
        count = config.train.processes if config.method.estimator == "network" else 1
        with processes.gather(count, meter.device, partial(_follow, config, fit_here)):
            fitted = fit_here(meter=meter, log=log)
        with meter.phase("save"):
            predictions = metrics.predictions_frame(fitted.probabilities, dataset)
            store.write_predictions(started.run_id, predictions)
    except BaseException as raised:
        error = _explain_full_disk(raised)
        _log.error("the run failed", exc_info=raised)
    store.write_history(started.run_id, history)
    result = _finish_record(started, dataset, meter, fitted=fitted, error=error)
    result = dataclasses.replace(result, tracking=_describe_tracker(tracker))
    store.write(result)  # before what may take its time
    if error is None or result.status == "oom":
        result = comparison.compare(result, config, dataset, folder=model_folder, meter=meter)
        store.write(result)
    tracker.finish(summary=flatten(result), predictions=predictions, success=error is None)
    if _describe_tracker(tracker) != result.tracking:
        result = dataclasses.replace(result, tracking=_describe_tracker(tracker))
        store.write(result)
    if result.status == "success":
        stopped = config.train.stop_step is not None
        checkpoint.tidy(store.run_folder(started.run_id), policy=config.train.keep, stopped=stopped)
    if isinstance(error, KeyboardInterrupt | SystemExit | StoreError):
        raise error
    return result


def _follow(config: Config, fit_here: Callable[..., Fitted]) -> None:
    """What a run's further processes do: all that the run does, but for writing it down."""
    fit_here(meter=Meter(require_device(config)), log=lambda *_: None)


def _explain_full_disk(error: BaseException) -> BaseException:
    """A disk that takes no more is the store's error, whoever met it: no later run could be recorded."""
    if not isinstance(error, OSError) or error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return error
    place = f"{error.filename}: " if error.filename else ""
    return StoreError(f"{place}{error.strerror}; free space on that disk, and the same command goes on")


def _describe_tracker(tracker: Tracker) -> dict[str, Any]:
    """The block ``tracking`` of a record."""
    return {"mode": tracker.mode, "wandb_run_id": tracker.wandb_run_id, "reason": tracker.reason}


def _start_tracker(config: Config, started: Result, mode: Mode) -> Tracker:
    """W&B's run beside this one: what it is, for the dashboards."""
    folder = Path(config.results_dir)
    return tracking.start(
        mode,
        project=config.track.project,
        entity=config.track.entity,
        folder=folder,
        run_id=started.run_id,
        name=describe(config),
        group=folder.name,
        tags=[config.method.name, config.model.name, config.data.name],
        config=started.config,
    )


def _finish_record(
    started: Result,
    dataset: Dataset,
    meter: Meter,
    *,
    fitted: Fitted | None,
    error: BaseException | None,
) -> Result:
    """The record of a run that ended, well or not, with what was measured up to there."""
    times = meter.time_record()
    times["total_seconds"] = (times["total_seconds"] or 0.0) + meter.seconds.get(EARLIER, 0.0)
    measured: dict[str, Any] = {
        "phase": meter.current,
        "ended_at": now(),
        "memory": meter.memory_record(),
        "time": times,
        "energy": meter.energy_record(),
    }
    reasons = meter.null_reasons()
    if (count := started.config["train"]["processes"]) > 1:
        reasons["memory"] = reasons["energy"] = f"of the first of {count} processes, as only it is measured"
    if fitted is None or error is not None:
        return dataclasses.replace(
            started,
            status=classify(error),
            error=_describe_error(error),
            reasons=reasons,
            **measured,
        )
    return dataclasses.replace(
        started,
        status="success",
        metrics=score_all(fitted.probabilities, dataset),
        parameters=fitted.parameters,
        throughput=fitted.throughput,
        model=fitted.model,
        data={**started.data, "truncated_share": fitted.truncated_share},
        reasons=reasons | fitted.reasons,
        **measured,
    )


def classify(error: BaseException | None) -> str:
    """The status of a run that ended with this error."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, RunError):  # a loss or probabilities that are no numbers
        return "diverged"
    if isinstance(error, ConfigError | DataError):
        return "invalid"
    out_of_memory = ("out of memory", "can't allocate memory", "not enough memory")
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error).lower() for words in out_of_memory)
    ):
        return "oom"
    return "failed"


def flatten(result: Result) -> dict[str, object]:
    """The table's columns of a record, as W&B's summary."""
    train_memory = result.memory.get("train") or {}
    return {
        "status": result.status,
        "train_seconds": result.time.get("train_seconds"),
        **{f"train_{name}": value for name, value in train_memory.items()},
        **{
            f"{split}_{name}": value
            for split, scores in result.metrics.items()
            for name, value in scores.items()
        },
        **{f"{name}_parameters": value for name, value in result.parameters.items()},
        **result.throughput,
    }


def _describe_error(error: BaseException | None) -> dict[str, Any] | None:
    """The block ``error`` of a record."""
    if error is None:
        return None
    return {
        "type": type(error).__name__,
        "message": redact(str(error)) or type(error).__name__,
        "traceback_tail": redact("".join(traceback.format_exception(error)))[-4000:],
        "signal": "SIGTERM" if type(error).__name__ == "Terminated" else None,
        "exit_code": error.code if isinstance(error, SystemExit) else None,
    }
