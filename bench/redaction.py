"""What may be shown and written down: no secret of this machine, nothing that steers a terminal."""

import os
import re

_SECRET_NAME = re.compile(r"(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.IGNORECASE)
_CREDENTIALS = re.compile(r"(?<=//)[^/\s@]*@")  # of a URL
LONGEST = 4000  # characters of an error in a record
_SHORTEST = 8  # characters; a shorter value would be found in innocent words
_HALF_CHARACTERS = "\ud800-\udfff"
# Control characters other than tab and newline, and marks that turn the direction of a text.
_STEERING = re.compile(
    rf"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069{_HALF_CHARACTERS}]"
)
_ESCAPE_SEQUENCES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\].*?(?:\x07|\x1b\\)|[@-Z\\^_])", re.DOTALL)


def has_credentials(text: str) -> bool:
    """Tell whether the text holds the user name or password of a URL."""
    return _CREDENTIALS.search(text) is not None


def has_half_characters(text: str) -> bool:
    """Tell whether the text holds bytes that are no UTF-8, as Python reads them from the command line."""
    return re.search(f"[{_HALF_CHARACTERS}]", text) is not None


def redact(text: str) -> str:
    """Write ``***`` for user names and passwords in URLs and for the values of secret variables.

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
    """Return the text as a terminal may get it: redacted, and what would colour, move or turn it escaped."""
    return _STEERING.sub(lambda found: ascii(found[0])[1:-1], redact(str(text)))


def clean(text: str) -> str:
    """Return the text on one line, without terminal escapes, control characters or marks that turn it."""
    if not text.isprintable():  # nearly every text is; what is taken out below is not printable
        text = _STEERING.sub(lambda found: " " if found[0].isspace() else "", _ESCAPE_SEQUENCES.sub("", text))
    return " ".join(text.split())
