"""Files that are on disk whole or not at all, whatever happens while they are written."""

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.errors import StoreError

TEMPORARY = ".writing-"  # begins the name of a file that is not whole yet
ABANDONED_SECONDS = 60  # after its last byte nobody goes on with a file, which takes milliseconds to write


def replace_file(path: Path, body: str | bytes) -> None:
    """Replaces the file at once: a temporary file, flushed to the disk, renamed, and the folder flushed."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{TEMPORARY}{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(body.encode() if isinstance(body, str) else body)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def remove_temporary(folder: Path) -> None:
    """Remove what a killed process left of files in the folder; another process may be writing newer ones."""
    for path in folder.glob(f"{TEMPORARY}*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
                path.unlink()


def can_write(folder: Path) -> bool:
    """Return whether the folder could be made and written, without making it."""
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return place.is_dir() and os.access(place, os.W_OK)


def read_object(path: Path) -> dict[str, Any] | None:
    """The JSON object that the file holds, or None where there is no such file.

    Raises:
        StoreError: it cannot be read, or holds something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    if not isinstance(found, dict):
        raise StoreError(f"{path}: holds no object; it was changed")
    return found


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """An error of the disk as one message."""
    try:
        yield
    except OSError as error:
        message = f"{path}: {error.strerror or error}; results_dir must be a folder that can be written"
        raise StoreError(message) from None
