"""What a report says, before it is a file, a page or a screen: sections of blocks of plain text.

Three renderers show blocks, and each makes other people's texts harmless for its medium: Markdown here, HTML
in ``page/markup.py``, the terminal in ``cli/terminal.py``.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bench.report.cells import escape_markdown, to_markdown


@dataclass(frozen=True)
class Paragraph:
    text: str
    command: str = ""  # a part of the text that is to be typed, or a file
    link: str = ""  # where that file is, from the results folder
    strong: bool = False


@dataclass(frozen=True)
class Bullet:
    text: str
    command: str = ""  # a part of the text that is to be typed
    label: str = ""  # opens the detail
    detail: str = ""  # below the text; the page shows it on demand


@dataclass(frozen=True)
class Bullets:
    items: Sequence[Bullet]


@dataclass(frozen=True)
class Link:
    """A cell that leads to a file of the results folder."""

    text: str
    path: str


@dataclass(frozen=True)
class Stack:
    """A cell with a quieter second line."""

    text: str
    below: str


@dataclass(frozen=True)
class Bar:
    """A cell whose interval the page also draws, as one row of a forest plot."""

    text: str
    estimate: float
    interval: tuple[float, float] | None
    ticks: Sequence[float]  # of the axis, from its start to its end with 0 among them; equal in all rows
    mark: str  # disc | diamond | square | ring
    band: float = 0.0  # to both sides of 0, where two methods count as equal


Cell = str | Link | Stack | Bar


@dataclass(frozen=True)
class Table:
    header: Sequence[Cell]
    rows: Sequence[Sequence[Cell]]
    left: Collection[int] | None = None  # columns of words, the others are numbers; None: all are words
    name: str = ""  # for those who cannot see it
    legend: str = ""  # of what the page draws in the cells
    has_cards: bool = False  # on a narrow screen each row is a card


@dataclass(frozen=True)
class Figure:
    """One chart, and in words and numbers what it shows."""

    kind: str  # a key of the words' figures.titles
    name: str  # of its files
    title: str
    caption: str
    spec: dict[str, Any]  # Vega-Lite
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Figures:
    """Figures side by side."""

    figures: Sequence[Figure]


@dataclass(frozen=True)
class Beside:
    """Blocks side by side, where there is room."""

    blocks: Sequence["Block"]


@dataclass(frozen=True)
class Section:
    title: str
    blocks: Sequence["Block"]
    is_folded: bool = False  # the page shows the blocks on demand


Block = Paragraph | Bullets | Table | Figures | Beside | Section


def make_bullets(lines: Iterable[str]) -> Bullets:
    """Return a list of plain lines."""
    return Bullets([Bullet(line) for line in lines])


def is_empty(block: Block) -> bool:
    """Return whether the block says nothing, so that nobody shows it: a section without blocks, say."""
    if isinstance(block, Section | Beside):
        return all(map(is_empty, block.blocks))
    if isinstance(block, Figures):
        return not block.figures
    return isinstance(block, Bullets) and not block.items


def write_markdown(blocks: Iterable[Block], *, level: int = 2) -> str:
    """Write the blocks as Markdown; ``level`` is that of their sections' headings."""
    return "\n".join(_write(block, level) for block in blocks if not is_empty(block))


def _write(block: Block, level: int) -> str:
    match block:
        case Section():
            body = write_markdown(block.blocks, level=level + 1)
            return f"{'#' * level} {escape_markdown(block.title)}\n\n{body}"
        case Paragraph():
            text = escape_markdown(block.text)
            if block.command:
                link = f"[{block.command}]({block.link})"
                text = text.replace(block.command, link if block.link else f"`{block.command}`")
            return f"**{text}**\n" if block.strong else f"{text}\n"
        case Bullets():
            return "".join(map(_write_bullet, block.items))
        case Table():
            left = range(len(block.header)) if block.left is None else block.left
            rows = [[escape_markdown(read_cell(cell)) for cell in row] for row in block.rows]
            return to_markdown([escape_markdown(read_cell(cell)) for cell in block.header], rows, left=left)
        case Figures():
            shown = (
                f"![{escape_markdown(figure.title)}](figures/{figure.name}.png)\n" for figure in block.figures
            )
            return "\n".join(shown)
        case Beside():
            return write_markdown(block.blocks, level=level)


def _write_bullet(item: Bullet) -> str:
    text = escape_markdown(item.text)
    if item.command:
        text = text.replace(escape_markdown(item.command), f"`{item.command}`")
    below = f"  - {item.label}{escape_markdown(item.detail)}\n" if item.detail else ""
    return f"- {text}\n{below}"


def read_cell(cell: Cell) -> str:
    """Return what the cell says, in one line."""
    if isinstance(cell, Stack):
        return f"{cell.text} ({cell.below})" if cell.below else cell.text
    return cell if isinstance(cell, str) else cell.text
