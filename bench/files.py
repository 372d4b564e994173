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


def replace_file(path: Path, body: str | bytes, *, durable: bool = True) -> None:
    """Replace the file at once; a durable one survives a loss of power from then on."""
    with replacing(path, durable=durable) as temporary:
        temporary.write_bytes(body.encode() if isinstance(body, str) else body)


@contextlib.contextmanager
def replacing(path: Path, *, durable: bool) -> Iterator[Path]:
    """Yield an empty file to write to; at the end it takes the path, and after an error it is removed."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{TEMPORARY}{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        if durable:
            flush(temporary)
        temporary.replace(path)
        if durable:
            flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Make sure that the file's content, or the folder's names, survive a loss of power."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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
    """Read the JSON object that the file holds, or None where there is no such file.

    Raises:
        StoreError: it cannot be read, or holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    if not isinstance(value, dict):
        raise StoreError(f"{path}: holds no object; it was changed")
    return value


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an error of the disk into one message."""
    try:
        yield
    except OSError as error:
        message = f"{path}: {error.strerror or error}; results_dir must be a folder that can be written"
        raise StoreError(message) from None
