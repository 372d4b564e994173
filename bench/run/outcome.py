"""What an attempt at a run came to, as the blocks of its record: how it ended, scores, what it took."""

import dataclasses
import re
import traceback
from typing import Any

import torch

from bench.config.pack import describe_pack
from bench.data.dataset import Dataset
from bench.errors import ConfigError, DataError, RunError
from bench.redaction import redact
from bench.results.store import Result, now
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


def finish_record(
    started: Result,
    dataset: Dataset,
    meter: Meter,
    *,
    phase: str,
    fitted: Fitted | None,
    error: BaseException | None,
) -> Result:
    """The record of a run that ended, well or not, with what was measured up to there."""
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
    return dataclasses.replace(
        started,
        status="success",
        metrics=score_all(fitted.probabilities, dataset),
        parameters=fitted.parameters,
        throughput=measured.pop("throughput", fitted.throughput),
        model=fitted.model,
        data={**started.data, "truncated_share": fitted.truncated_share},
        reasons=reasons | fitted.reasons,
        **measured,
    )


def measure_pack(meter: Meter, size: int) -> dict[str, Any]:
    """The block ``packed`` of each of a pack's records: what all of them took together."""
    kind = "peak_reserved_bytes" if meter.device.type == "cuda" else "peak_resident_bytes"
    peaks = [one for found in meter.peaks.values() if (one := found[kind]) is not None]
    seconds = meter.time_record()["total_seconds"]
    return describe_pack(size, peak_bytes=max(peaks, default=None), seconds=seconds)


def _measure_alone(started: Result, meter: Meter) -> tuple[dict[str, Any], dict[str, str]]:
    """The blocks of a record that say what the run took, and why what of them is null is unknown."""
    times = meter.time_record()
    times["total_seconds"] = (times["total_seconds"] or 0.0) + meter.seconds.get(EARLIER, 0.0)
    reasons = meter.null_reasons()
    if (count := started.config["train"]["processes"]) > 1:
        reasons["memory"] = reasons["energy"] = f"of the first of {count} processes, as only it is measured"
    return {"memory": meter.memory_record(), "time": times, "energy": meter.energy_record()}, reasons


def _measure_packed(started: Result, meter: Meter) -> tuple[dict[str, Any], dict[str, str]]:
    """The same blocks of a run of a pack: null, as nothing of what the pack took is one run's own."""
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
    """The status of a run that ended with this error."""
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


def flatten(result: Result) -> dict[str, object]:
    """The table's columns of a record, as W&B's summary."""
    train_memory = result.memory.get("train") or {}
    return {
        "status": result.status,
        "train_seconds": result.time.get("train_seconds"),
        "pack_size": (result.packed or {}).get("size"),
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
