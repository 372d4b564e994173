"""Records of runs whose process died, and so could not write down itself how the run ended."""

import contextlib
import re
from datetime import datetime

from bench.errors import HeldError
from bench.redaction import LONGEST, redact, shorten
from bench.results.store import STARTED, Result, Store, start_record
from bench.sweep.isolate import ProcessError
from bench.sweep.plan import Point

# What bitsandbytes prints where CUDA has no memory left, before it calls exit(1) (csrc/ops.cuh).
_NATIVE_OOM = re.compile(r"Error out of memory at line \d+ in file .*")
_LAST_WORDS = 1000  # bytes of a log


def record_end(point: Point, store: Store, error: Exception | None, *, before: Result | None) -> None:
    """Write how a run ended if it did not say so itself; ``before`` is its record before it was launched.

    Raises:
        StoreError: the disk refused the record.
    """
    record = store.read(point.run_id)
    error = error or ProcessError("the process left no final record", status="crashed")
    status = error.status if isinstance(error, ProcessError) else "failed"
    if record is None or record == before:  # it never began
        if status == "interrupted":
            return
        record = start_record(point.config, point.identity, earlier=record)
    elif record.status != STARTED and (record.status, status) != ("interrupted", "timeout"):
        return
    with contextlib.suppress(HeldError):
        store.end(
            record,
            status=status,
            message=shorten(str(error)) or type(error).__name__,
            traceback_tail=redact("\n".join(getattr(error, "__notes__", [])))[-LONGEST:] or None,
            killed_by=getattr(error, "killed_by", None),
            exit_code=getattr(error, "ended_with", None),
        )


def find_native_oom(run_id: str, store: Store, error: Exception | None) -> Exception | None:
    """Return the error, or an out of memory if bitsandbytes reported that before it ended the process.

    Its kernels write to standard error, and so into the log of a pack's first run.
    """
    if not isinstance(error, ProcessError) or error.status != "crashed":
        return error
    words = _read_native_oom(run_id, store)
    return error if words is None else ProcessError(words, status="oom", ended_with=error.ended_with)


def recover_native_oom(store: Store) -> list[str]:
    """Record out of memory for runs that bitsandbytes ended unwatched; return a line for each."""
    lines = []
    for record in store.read_all()[0]:
        words = _read_native_oom(record.run_id, store) if record.status == STARTED else None
        if words is not None:
            with contextlib.suppress(HeldError):
                store.end(record, status="oom", message=words, ended_at=store.find_last_sign(record.run_id))
                lines.append(f"run {record.run_id}: {words}; it counts as out of memory")
    return lines


def _read_native_oom(run_id: str, store: Store) -> str | None:
    """Return what bitsandbytes said at the end of the log of the run's newest attempt."""
    record, log = store.read(run_id), store.run_folder(run_id) / "log.txt"
    with contextlib.suppress(OSError):
        began = None if record is None else datetime.fromisoformat(record.started_at).timestamp()
        if began is not None and log.stat().st_mtime >= began:
            tail = log.read_bytes()[-_LAST_WORDS:].decode(errors="replace")
            if (words := _NATIVE_OOM.search(tail)) is not None:
                return f"bitsandbytes ended the process: {words[0]}"
    return None
