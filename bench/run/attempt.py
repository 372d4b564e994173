"""One attempt at a run: fit, measure, score, record. Imports torch and all else that training needs."""

import contextlib
import dataclasses
import errno
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import transformers

from bench.config.identity import describe
from bench.config.pack import check_pack
from bench.config.schema import Config, replace_values
from bench.data.dataset import Dataset
from bench.errors import ConfigError, RunError, StoreError
from bench.memory import comparison
from bench.model import weights
from bench.packs.fit import fit_pack
from bench.redaction import redact
from bench.results.store import Result, Store
from bench.run import provenance, tracking
from bench.run.outcome import finish_record, flatten, measure_pack
from bench.run.tracking import Mode, Tracker
from bench.train import checkpoint, metrics, optimizers, parallel, processes
from bench.train.checkpoint import BEST
from bench.train.device import (
    choose_device,
    choose_precision,
    limit_memory,
    require_attention,
    require_no_broken_card,
)
from bench.train.fit import Fitted, fit
from bench.train.meter import Meter
from bench.train.training import Row

ASIDE = "alone"  # in a run's folder: the weights of a run that is trained again
_log = logging.getLogger("bench")


def require_device(config: Config) -> torch.device:
    """The device that the run will use, or a ConfigError that says what this machine cannot do."""
    require_no_broken_card(config.devices)
    device = choose_device(config.devices)
    if config.device_memory_gib is not None:
        limit_memory(device, config.device_memory_gib)
    if config.method.estimator in ("tfidf", "majority"):  # scikit-learn's, whose memory no device sees
        return torch.device("cpu")
    if config.method.estimator == "network":
        precision = choose_precision(config.train.precision, device)
        for fault in check_pack(replace_values(config, {"train.precision": precision})):
            raise ConfigError(fault)
        require_attention(config.train.attention, device, precision)
        optimizers.require_optimizer(config.train.optimizer, device)
        parallel.require_processes(config.train, device, precision)
    return device


@contextlib.contextmanager
def log_to(paths: Mapping[str, Path]) -> Iterator[None]:
    """What libraries and bench say goes to the file of each run, but for what is of another run alone.

    Standard error goes to the first file, as C code writes there.
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
    """Takes secrets out of what libraries said, which C code may have written past any handler."""
    text = path.read_text(encoding="utf-8", errors="surrogateescape")
    if (redacted := redact(text)) != text:
        path.write_text(redacted, encoding="utf-8", errors="surrogateescape")


@dataclass(frozen=True)
class _Diary:
    """What is written down of one run while it trains, alone or with others."""

    config: Config
    started: Result
    tracker: Tracker
    history: list[dict[str, Any]] = field(default_factory=list)

    def log(self, row: Row, step: int) -> None:
        """A row of the run's history; memory that it shares is not its own."""
        if self.started.packed is not None:
            row = {name: value for name, value in row.items() if not name.endswith("_bytes")}
        self.history.append({"step": step, **row})
        self.tracker.log(row, step=step)
        words = ", ".join(f"{name} {value}" for name, value in row.items())
        _log.info("step %d: %s", step, words, extra={"run_id": self.started.run_id})


@dataclass(frozen=True)
class _Recorded:
    """What one run came to, once its record is on disk."""

    result: Result
    predictions: pd.DataFrame | None
    error: BaseException | None


def attempt(
    configs: Sequence[Config],
    dataset: Dataset,
    *,
    model_folder: Path | None,
    store: Store,
    started: Sequence[Result],
    mode: Mode,
) -> list[Result]:
    """Fits, scores and records a run, or several as a pack; an error becomes the record's status.

    Raises:
        KeyboardInterrupt: after the records say ``interrupted``.
        StoreError: the disk is full or not to be written; a record says ``failed``, if it could be written.
    """
    meter = Meter(require_device(configs[0]))
    facts = provenance.describe(model_revision=weights.revision(configs[0].model))
    diaries = []
    for config, record in zip(configs, started, strict=True):
        known = dataclasses.replace(record, provenance=facts)
        diaries.append(_Diary(config, known, _start_tracker(config, known, mode)))
    ends: Sequence[Fitted | BaseException]
    try:
        ends = _fit_all(diaries, dataset, model_folder=model_folder, store=store, meter=meter)
    except BaseException as raised:
        ends = [raised] * len(diaries)
    if len(diaries) > 1:
        packed = measure_pack(meter, len(diaries))
        diaries = [
            dataclasses.replace(one, started=dataclasses.replace(one.started, packed=packed))
            for one in diaries
        ]
    recorded = [
        _record(diary, end, dataset, folder=model_folder, store=store, meter=meter)
        for diary, end in zip(diaries, ends, strict=True)
    ]
    with ThreadPoolExecutor(len(diaries)) as pool:  # a server that is lost is waited for once
        spread = map if len(diaries) == 1 else pool.map
        results = list(spread(partial(_finish_tracker, store), diaries, recorded))
    for one in recorded:
        if isinstance(one.error, KeyboardInterrupt | SystemExit | StoreError):
            raise one.error
    return results


def _fit_all(
    diaries: Sequence[_Diary], dataset: Dataset, *, model_folder: Path | None, store: Store, meter: Meter
) -> Sequence[Fitted | BaseException]:
    """What each run came to; the error of one alone stands in its place, that of all is raised."""
    folders = [_find_place(diary, store) for diary in diaries]
    if len(diaries) > 1:
        return fit_pack(
            [diary.config for diary in diaries],
            dataset,
            model_folder=model_folder,
            run_folders=folders,
            meter=meter,
            logs=[diary.log for diary in diaries],
        )
    [diary], [folder] = diaries, folders
    fit_here = partial(fit, diary.config, dataset, model_folder=model_folder, run_folder=folder)
    count = diary.config.train.processes if diary.config.method.estimator == "network" else 1
    with processes.gather(count, meter.device, partial(_follow, diary.config, fit_here)):
        return [fit_here(meter=meter, log=diary.log)]


def _find_place(diary: _Diary, store: Store) -> Path:
    """Where the run's weights go: aside while a success has its own, which this attempt may not replace.

    There it begins anew, without checkpoints, as it is there to be measured from its first step on.
    """
    folder = store.run_folder(diary.started.run_id)
    if _has_success(diary.started.run_id, store):
        folder = folder / ASIDE
        shutil.rmtree(folder, ignore_errors=True)  # a killed attempt may have left it
        folder.mkdir()
    return folder


def _take_from_aside(folder: Path) -> None:
    """Puts the weights of a run that does replace a success in the place of that one's."""
    if (folder / ASIDE / BEST).exists():
        (folder / ASIDE / BEST).replace(folder / BEST)


def _has_success(run_id: str, store: Store) -> bool:
    found = store.read(run_id)
    return found is not None and found.status == "success"


def _record(
    diary: _Diary,
    end: Fitted | BaseException,
    dataset: Dataset,
    *,
    folder: Path | None,
    store: Store,
    meter: Meter,
) -> _Recorded:
    """Scores one run and writes down all that it came to."""
    run_id, config = diary.started.run_id, diary.config
    alone, replaces = diary.started.packed is None, _has_success(run_id, store)
    # One of a pack that failed by itself did so in training, wherever the others have got to by now.
    phase = "train" if isinstance(end, RunError) and not alone else meter.current
    fitted, predictions, error = None, None, None
    try:
        if isinstance(end, BaseException):
            raise end
        with meter.phase("save"):
            predictions = metrics.predictions_frame(end.probabilities, dataset)
            store.write_predictions(run_id, predictions)
            _take_from_aside(store.run_folder(run_id))
        fitted, phase = end, meter.current
    except BaseException as raised:
        error = _explain_full_disk(raised)
        _log.error("the run failed", exc_info=raised, extra={"run_id": run_id})
    shutil.rmtree(store.run_folder(run_id) / ASIDE, ignore_errors=True)
    if error is None or not replaces:
        store.write_history(run_id, diary.history)
    result = finish_record(diary.started, dataset, meter, phase=phase, fitted=fitted, error=error)
    result = dataclasses.replace(result, tracking=_describe_tracker(diary.tracker))
    store.write(result)  # before what may take its time
    if alone and (error is None or result.status == "oom"):
        result = comparison.compare(result, config, dataset, folder=folder, meter=meter)
        store.write(result)
    if result.status == "success":
        stopped = config.train.stop_step is not None
        checkpoint.tidy(store.run_folder(run_id), policy=config.train.keep, stopped=stopped)
    return _Recorded(result, predictions, error)


def _finish_tracker(store: Store, diary: _Diary, recorded: _Recorded) -> Result:
    """Ends the run's W&B run; the record, with what became of that in it."""
    result, tracker = recorded.result, diary.tracker
    tracker.finish(summary=flatten(result), predictions=recorded.predictions, success=recorded.error is None)
    if _describe_tracker(tracker) != result.tracking:
        result = dataclasses.replace(result, tracking=_describe_tracker(tracker))
        store.write(result)
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
