"""What a person sees in a terminal: tables that lose nothing however narrow it is; what is piped is plain."""

import html
import re
from collections.abc import Collection, Iterable, Sequence
from typing import Literal

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from bench.redaction import show

_LONGEST = 24  # characters of a word that is kept whole; a longer one, a path say, may be broken
_RULE = re.compile(r"\|(\s*:?-+:?\s*\|)+$")  # the line below a Markdown table's header
_CELL = re.compile(r"(?<!\\)\|")
_ESCAPED = re.compile(r"\\([\\`*_|\[\]~])")
_STYLES = {"yes": "green", "NO": "bold red", "fits": "green", "tight": "yellow", "does not fit": "bold red"}


def is_terminal() -> bool:
    """Whether standard output is looked at by a person."""
    return Console().is_terminal


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, right: Collection[int] = ()) -> None:
    """A table whose cells wrap between words; where the terminal is too narrow for them, lines for each row.

    Columns in ``right`` are numbers.
    """
    console = Console()
    rows = [[show(cell) for cell in row] for row in rows]
    widths = share_width(list(zip(header, *rows, strict=True)), console.width - 3 * len(header))
    if widths is None:
        for first, *others in rows:
            console.print(Text(first, style="bold"), overflow="fold")
            for name, cell in zip(header[1:], others, strict=True):
                console.print(Padding(Text(f"{name}: {cell}", overflow="fold"), (0, 0, 0, 2)))
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for place, (name, width) in enumerate(zip(header, widths, strict=True)):
        justify: Literal["left", "right"] = "right" if place in right else "left"
        table.add_column(Text(name), justify=justify, overflow="fold", width=width)
    for row in rows:
        table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    console.print(table)


def share_width(columns: Sequence[Sequence[str]], room: int) -> list[int] | None:
    """How wide each column of cells is to be in so much room, or None if their words do not fit.

    rich's own sharing breaks words of some columns while others have room.
    """
    words = [
        max(min(cell_len(word), _LONGEST) for cell in one for word in cell.split() or [""]) for one in columns
    ]
    needs = [max(map(cell_len, one)) - width for one, width in zip(columns, words, strict=True)]
    left = room - sum(words)
    if left < 0:
        return None
    for done, place in enumerate(sorted(range(len(words)), key=needs.__getitem__)):
        more = min(max(needs[place], 0), left // (len(words) - done))
        words[place] += more
        left -= more
    return words


def print_lines(lines: Iterable[str]) -> None:
    """Lines of text, wrapped where the terminal ends."""
    for line in lines:
        Console().print(Text(show(line)), overflow="fold")


def print_markdown(text: str) -> None:
    """A report of bench's as a person reads it: its tables drawn, its headings bold, its escapes resolved."""
    lines = text.splitlines()
    while lines:
        if len(lines) > 1 and lines[0].startswith("|") and _RULE.match(lines[1]):
            header, rule = _split(lines[0]), _split(lines[1])
            count = next((n for n, line in enumerate(lines) if not line.startswith("|")), len(lines))
            right = [place for place, cell in enumerate(rule) if cell.endswith(":")]
            print_table(header, map(_split, lines[2:count]), right=right)
            del lines[:count]
            continue
        line = lines.pop(0)
        style = "bold" if line.startswith("#") else ""
        Console().print(
            Text(show(_unescape(line.lstrip("# ") if style else line)), style=style), overflow="fold"
        )


def _split(line: str) -> list[str]:
    """The cells of a Markdown table's line."""
    return [_unescape(cell.strip()) for cell in _CELL.split(line)[1:-1]]


def _unescape(text: str) -> str:
    """The text that bench.report.cells.escape_markdown was given."""
    return html.unescape(_ESCAPED.sub(r"\1", text))
