"""Output for a person at a terminal: tables that lose nothing, however narrow. Piped output is plain."""

from collections.abc import Collection, Iterable, Sequence
from typing import Literal

from rich import box
from rich import table as rich_tables
from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from bench.redaction import show
from bench.report.blocks import (
    Beside,
    Block,
    Bullets,
    Figures,
    Paragraph,
    Section,
    Table,
    is_empty,
    read_cell,
)
from bench.report.cells import clean

_LONGEST = 24  # characters of a word that is kept whole; a longer one, a path say, may be broken
_STYLES = {"yes": "green", "NO": "bold red", "fits": "green", "tight": "yellow", "does not fit": "bold red"}


def is_terminal() -> bool:
    """Return whether a person looks at standard output."""
    return Console().is_terminal


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, right: Collection[int] = ()) -> None:
    """Print a table whose cells wrap between words, or lines for each row where the terminal is too narrow.

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
    table = rich_tables.Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for place, (name, width) in enumerate(zip(header, widths, strict=True)):
        justify: Literal["left", "right"] = "right" if place in right else "left"
        table.add_column(Text(name), justify=justify, overflow="fold", width=width)
    for row in rows:
        table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    console.print(table)


def share_width(columns: Sequence[Sequence[str]], room: int) -> list[int] | None:
    """Return the width of each column of cells in so much room, or None if their words do not fit.

    rich alone breaks words of some columns while others have room.
    """
    words = [
        max(min(cell_len(word), _LONGEST) for cell in column for word in cell.split() or [""])
        for column in columns
    ]
    needs = [max(map(cell_len, column)) - width for column, width in zip(columns, words, strict=True)]
    left = room - sum(words)
    if left < 0:
        return None
    for done, place in enumerate(sorted(range(len(words)), key=needs.__getitem__)):
        more = min(max(needs[place], 0), left // (len(words) - done))
        words[place] += more
        left -= more
    return words


def print_lines(lines: Iterable[str]) -> None:
    """Print lines of text, wrapped where the terminal ends."""
    for line in lines:
        Console().print(Text(show(line)), overflow="fold")


def print_blocks(blocks: Iterable[Block]) -> None:
    """Print a report's blocks for a person: tables drawn, titles bold, an empty line between two blocks."""
    for place, block in enumerate(one for one in blocks if not is_empty(one)):
        if place:
            print()
        match block:
            case Section():
                Console().print(Text(show(clean(block.title)), style="bold"), overflow="fold")
                print()
                print_blocks(block.blocks)
            case Paragraph():
                print_lines([clean(block.text)])
            case Bullets():
                for item in block.items:
                    line = Text(show(f"- {clean(item.text)}"))
                    Console().print(line, overflow="fold", soft_wrap=bool(item.command))
                    print_lines([f"  - {item.label}{clean(item.detail)}"] if item.detail else [])
            case Table():
                columns = range(len(block.header))
                right = [] if block.left is None else [place for place in columns if place not in block.left]
                header, *rows = (list(map(read_cell, row)) for row in [block.header, *block.rows])
                print_table(header, rows, right=right)
            case Beside():
                print_blocks(block.blocks)
            case Figures():
                print_lines(f"{clean(figure.title)}: figures/{figure.name}.png" for figure in block.figures)
