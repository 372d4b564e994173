"""Bytes as text: in the encoding that is named, or in the one that fits, which is said."""

import re

_BYTE_ORDER_MARKS = (b"\xff\xfe", b"\xfe\xff")
_LATIN_SHARE = 0.3  # of a file's letters: more letters beyond ASCII are hardly Western European
_CHINESE_SHARE = 0.5  # of its characters beyond ASCII: fewer common Chinese ones are hardly Chinese


def decode(content: bytes, encoding: str) -> tuple[str, str]:
    """Return the text and the encoding it was read in; ``auto`` takes the first that fits.

    Raises:
        ValueError: the bytes are not in that encoding, or in none that bench guesses; the message says so.
    """
    if encoding != "auto":
        return _decode_as(content, encoding), encoding
    if content.startswith(_BYTE_ORDER_MARKS) or _alternates_with_nul(content):
        return _decode_as(content, "utf-16"), "utf-16"
    for guessed, fits in (("utf-8", None), ("gb18030", _looks_chinese), ("latin-1", _looks_western)):
        try:
            text = _decode_as(content, guessed)
        except ValueError:
            continue
        if fits is None or fits(text):
            return text, guessed
    raise ValueError(
        "is in none of the encodings utf-8, utf-16, gb18030 and latin-1 as far as its characters say; "
        "save it as UTF-8, or name one of them, for example data.encoding=latin-1"
    )


def show_example(text: str) -> str:
    """Return the first character beyond ASCII and what is around it, by which a guess is judged."""
    match = re.search(r".{0,10}[^\x00-\x7f].{0,20}", text) or re.search(r".{1,30}", text)
    return repr("" if match is None else match[0])


def _decode_as(content: bytes, encoding: str) -> str:
    try:
        if encoding == "utf-16" and not content.startswith(_BYTE_ORDER_MARKS):
            return content.decode("utf-16-be" if content[:1] == b"\0" else "utf-16-le")
        if encoding == "latin-1":  # as browsers read it: Windows' quotes and dashes instead of control codes
            return content.decode("cp1252")
        return content.decode("utf-8-sig" if encoding == "utf-8" else encoding)
    except UnicodeDecodeError as error:
        if encoding == "latin-1":
            return content.decode("latin-1")
        raise ValueError(
            f"byte {error.start} is not {encoding}; save the file as UTF-8, or leave data.encoding=auto"
        ) from None


def _alternates_with_nul(content: bytes) -> bool:
    """Return whether every other byte is NUL, as in UTF-16 of Western letters."""
    sample = content[:4096]
    return any(sample[start::2].count(0) > 0.4 * len(sample) / 2 for start in (0, 1))


def _looks_chinese(text: str) -> bool:
    """Return whether the characters beyond ASCII are mostly common Chinese ones (GB 2312's first level)."""
    beyond = re.findall(r"[^\x00-\x7f]", text[:100_000])
    common = sum(_lead_byte(one) in range(0xB0, 0xD8) or _lead_byte(one) in (0xA1, 0xA3) for one in beyond)
    return common >= _CHINESE_SHARE * len(beyond)


def _lead_byte(character: str) -> int:
    return character.encode("gb2312", errors="replace")[0]


def _looks_western(text: str) -> bool:
    """Return whether most letters are ASCII, as in Western European languages."""
    letters = [one for one in text[:100_000] if one.isalpha()]
    return sum(not letter.isascii() for letter in letters) <= _LATIN_SHARE * len(letters)
