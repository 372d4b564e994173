"""Every error a user can cause, each with the exit code of the command that raises it.

Message form: what failed, the value, what was expected, what to do, for example
``lora.r=0: must be at least 1; use method=full to train without an adapter``.
"""


class BenchError(Exception):
    """An error bench explains in one message, without a traceback."""

    exit_code = 1


class ConfigError(BenchError):
    """A setting is wrong; nothing was trained and nothing was written."""

    exit_code = 2


class DataError(BenchError):
    """The user's texts or labels are wrong; nothing was trained and nothing was written."""

    exit_code = 2


class MissingError(BenchError):
    """A model, a data set or a package that the run needs is not on this machine."""

    exit_code = 3


class StoreError(BenchError):
    """The results folder cannot be used: unwritable, full, or not bench's."""

    exit_code = 3


class HeldError(StoreError):
    """Another process is training this run."""


class RunError(BenchError):
    """A run ended without success; its record says why."""

    exit_code = 1


def first_line(error: BaseException) -> str:
    """Return an error's first line, or its kind where it says nothing."""
    return next(iter(str(error).splitlines()), type(error).__name__)
