"""Asks once whether a server answers, within a time that nothing exceeds."""

import queue
import threading
import urllib.error
import urllib.request


def probe(url: str, seconds: float) -> str | None:
    """Return None if the server answers in time, else what it did.

    A thread keeps the deadline, as looking up a name, or an answer that drips in, has no timeout.
    """
    answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    threading.Thread(target=lambda: answers.put(_ask(url, 2 * seconds)), daemon=True).start()
    try:
        return answers.get(timeout=seconds)
    except queue.Empty:
        return f"did not answer within {seconds:g} s"


def _ask(url: str, timeout: float) -> str | None:
    """Return None if the server gives any HTTP answer below 500, else what it did."""
    try:
        with urllib.request.urlopen(url, timeout=timeout):
            return None
    except urllib.error.HTTPError as answer:
        with answer:
            return None if answer.code < 500 else f"answered HTTP {answer.code}"
    except Exception as error:
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        return f"cannot be reached ({getattr(cause, 'strerror', None) or type(cause).__name__})"
