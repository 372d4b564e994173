"""What may be shown and written down: no secret of this machine, nothing that steers a terminal."""

import os
import re

_SECRET_NAME = re.compile(r"(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.IGNORECASE)
_CREDENTIALS = re.compile(r"(?<=//)[^/\s@]*@")  # of a URL
LONGEST = 4000  # characters of an error in a record
_SHORTEST = 8  # characters; a shorter value would be found in innocent words
_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def redact(text: str) -> str:
    """The text with ``***`` for user names and passwords in URLs and for the values of secret variables.

    A library's error quotes its proxy, its key or its environment; records and logs are shared.
    """
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST and _SECRET_NAME.search(name):
            text = text.replace(value, "***")
    return _CREDENTIALS.sub("***@", text)


def shorten(text: str) -> str:
    """Return an error's words, redacted, with the middle left out where they are too many for a record."""
    text = redact(text)
    if (left_out := len(text) - LONGEST) <= 0:
        return text
    return f"{text[: LONGEST // 2]} [{left_out} characters left out] {text[-LONGEST // 2 :]}"


def show(text: object) -> str:
    """The text as a terminal may get it: redacted, and what would colour, move or turn it escaped."""
    return _STEERING.sub(lambda found: ascii(found[0])[1:-1], redact(str(text)))
