"""Blocks as HTML. Every text in them is escaped here, whoever wrote it."""

import re
from collections.abc import Iterable, Sequence

from markupsafe import Markup

from bench.report.blocks import (
    Bar,
    Beside,
    Block,
    Bullet,
    Bullets,
    Cell,
    Figure,
    Figures,
    Link,
    Paragraph,
    Section,
    Stack,
    Table,
    is_empty,
    read_cell,
)
from bench.report.cells import clean
from bench.report.language.text import Text

_LINE = Markup("\n")
_NOTHING = Markup("")
_UNIT = re.compile(r"(?<=\d) (?=(?:%|s|h|GiB)(?!\w))")
_DISC = "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0 -10 0z"
_MARKS = {"disc": _DISC, "ring": _DISC, "diamond": "M-6.5 0L0 -6.5L6.5 0L0 6.5z", "square": "M-5 -5H5V5H-5z"}


def write_html(blocks: Iterable[Block], *, text: Text, level: int = 3, title: str = "") -> Markup:
    """Write the blocks as HTML; ``level``: of their sections' headings; ``title``: what they stand below."""
    return _LINE.join(_write(block, text, level, title) for block in blocks if not is_empty(block))


def _write(block: Block, text: Text, level: int, title: str) -> Markup:
    match block:
        case Section():
            below = write_html(block.blocks, text=text, level=level + 1, title=block.title)
            if block.is_folded:
                return _fold(block.title, below)
            return Markup("<h{0}>{1}</h{0}>\n{2}").format(level, _tie(block.title), below)
        case Paragraph():
            parts = [_tie(block.text)]
            if block.command:
                parts = parts[0].split(block.command)
            command = Markup("<code>{}</code>").format(block.command)
            if block.link:
                command = Markup('<a href="{}">{}</a>').format(block.link, block.command)
            return Markup('<p class="strong">{}</p>' if block.strong else "<p>{}</p>").format(
                command.join(parts)
            )
        case Bullets():
            return Markup("<ul>\n{}</ul>").format(_NOTHING.join(map(_write_bullet, block.items)))
        case Table():
            return _write_table(block, block.name or title)
        case Beside():
            return Markup('<div class="beside">\n{}\n</div>').format(
                write_html(block.blocks, text=text, level=level, title=title)
            )
        case Figures():
            captions = [None, *(figure.caption for figure in block.figures)]
            drawn = (
                _write_figure(figure, text, is_said=figure.caption == before)
                for figure, before in zip(block.figures, captions, strict=False)
            )
            return Markup('<div class="figures">\n{}\n</div>').format(_LINE.join(drawn))


def _write_bullet(item: Bullet) -> Markup:
    below = _fold(item.label.strip(" :："), clean(item.detail)) if item.detail else _NOTHING
    text = Markup("{}").format(_tie(item.text))
    if item.command:
        command = Markup("<code>{}</code>").format(item.command)
        text = command.join(_tie(item.text).split(item.command))
    return Markup("<li>{}{}</li>\n").format(text, below)


def _write_figure(figure: Figure, text: Text, *, is_said: bool) -> Markup:
    """Write the chart's place and its numbers; ``is_said``: the figure before has the same caption."""
    numbers = Table(figure.header, figure.rows)
    return Markup(
        '<figure class="{kind}">\n<figcaption><strong>{title}</strong>{caption}</figcaption>\n'
        '<div class="chart" data-lang="{lang}" data-chart="{name}"></div>\n{numbers}\n</figure>'
    ).format(
        kind=figure.kind,
        title=figure.title,
        caption="" if is_said else f" {figure.caption}",
        lang=text.lang,
        name=figure.name,
        numbers=_fold(text("figures.numbers"), _write_table(numbers, figure.title)),
    )


def _write_table(table: Table, name: str) -> Markup:
    """Write the table in a box that scrolls, named for those who cannot see it."""
    left = range(len(table.header)) if table.left is None else table.left
    kinds = [_NOTHING if place in left else Markup(' class="number"') for place in range(len(table.header))]
    header = _NOTHING.join(
        Markup('<th scope="col"{}>{}</th>').format(kind, _write_cell(cell))
        for kind, cell in zip(kinds, table.header, strict=True)
    )
    if table.has_cards:  # which name each cell, as no header stands above them
        kinds = [
            Markup('{} data-name="{}"').format(kind, clean(read_cell(cell)))
            for kind, cell in zip(kinds, table.header, strict=True)
        ]
    return Markup(
        '{}<div class="scroll{}" role="region" tabindex="0" aria-label="{}"><table>\n'
        "<thead><tr>{}</tr></thead>\n<tbody>\n{}</tbody></table></div>"
    ).format(
        Markup('<p class="legend">{}</p>\n').format(table.legend) if table.legend else _NOTHING,
        " cards" if table.has_cards else "",
        clean(name),
        header,
        _NOTHING.join(_write_row(row, kinds) for row in table.rows),
    )


def _write_row(row: Sequence[Cell], kinds: Sequence[Markup]) -> Markup:
    first, *others = (
        Markup("{}>{}").format(kind, _write_cell(cell)) for kind, cell in zip(kinds, row, strict=True)
    )
    cells = _NOTHING.join(Markup("<td{}</td>").format(cell) for cell in others)
    return Markup('<tr><th scope="row"{}</th>{}</tr>\n').format(first, cells)


def _write_cell(cell: Cell) -> Markup:
    match cell:
        case Link():
            return Markup('<a href="{}">{}</a>').format(cell.path, clean(cell.text))
        case Stack():
            below = Markup("<small>{}</small>").format(_tie(cell.below)) if cell.below else _NOTHING
            return Markup("<span>{}{}</span>").format(_tie(cell.text), below)
        case Bar():
            return Markup("<span>{}<small>{}</small></span>").format(_draw_bar(cell), clean(cell.text))
        case str():
            return Markup("{}").format(_tie(cell))


def _draw_bar(bar: Bar) -> Markup:
    """Draw the interval over its axis; all places are percent, so that it is as wide as there is room."""
    start, end = bar.ticks[0], bar.ticks[-1]

    def place(value: float) -> str:
        return f"{100 * (value - start) / (end - start):.2f}%"

    ticks = _NOTHING.join(
        Markup(
            '<line class="{}" x1="{}" x2="{}" y1="0" y2="100%"/><text x="{}" y="100%" dy="11">{}</text>'
        ).format(
            "tick" if value else "zero",
            place(value),
            place(value),
            place(value),
            f"{value:+g}" if value else "0",
        )
        for value in bar.ticks
    )
    low, high = max(start, -bar.band), min(end, bar.band)
    band = Markup('<rect class="band" x="{}" width="{:.2f}%" y="0" height="100%"/>').format(
        place(low), 100 * (high - low) / (end - start)
    )
    line = _NOTHING
    if bar.interval:
        line = Markup('<line class="interval" x1="{}" x2="{}" y1="50%" y2="50%"/>').format(
            *map(place, bar.interval)
        )
    mark = Markup('<svg x="{}" y="50%"><path d="{}"/></svg>').format(place(bar.estimate), _MARKS[bar.mark])
    return Markup('<svg class="bar {}" aria-hidden="true">{}{}{}{}</svg>').format(
        bar.mark, band, ticks, line, mark
    )


def _tie(text: str) -> str:
    """Clean the text, and let no line end between a number and its unit."""
    return _UNIT.sub("\N{NO-BREAK SPACE}", clean(text))


def _fold(summary: str, below: str) -> Markup:
    """Write a summary that shows the rest on a click."""
    return Markup("<details><summary>{}</summary>{}</details>").format(clean(summary), below)
