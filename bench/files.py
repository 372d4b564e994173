"""Files that are on disk whole or not at all, whatever happens while they are written."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.errors import StoreError

TEMPORARY = ".writing-"  # begins the name of a file that is not whole yet


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


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """An error of the disk as one message."""
    try:
        yield
    except OSError as error:
        message = f"{path}: {error.strerror or error}; results_dir must be a folder that can be written"
        raise StoreError(message) from None
