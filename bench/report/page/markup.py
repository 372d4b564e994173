"""Blocks as HTML. Every text in them is escaped here, whoever wrote it."""

from collections.abc import Iterable, Sequence

from markupsafe import Markup

from bench.report.blocks import (
    Block,
    Bullet,
    Bullets,
    Cell,
    Figure,
    Figures,
    Link,
    Paragraph,
    Section,
    Table,
    is_empty,
)
from bench.report.cells import clean
from bench.report.language.text import Text

_LINE = Markup("\n")
_NOTHING = Markup("")


def write_html(blocks: Iterable[Block], *, text: Text, level: int = 3, title: str = "") -> Markup:
    """Write the blocks as HTML; ``level``: of their sections' headings; ``title``: what they stand below."""
    return _LINE.join(_write(block, text, level, title) for block in blocks if not is_empty(block))


def _write(block: Block, text: Text, level: int, title: str) -> Markup:
    match block:
        case Section():
            below = write_html(block.blocks, text=text, level=level + 1, title=block.title)
            return Markup("<h{0}>{1}</h{0}>\n{2}").format(level, clean(block.title), below)
        case Paragraph():
            parts = [clean(block.text)]
            if block.command:
                parts = parts[0].split(block.command)
            said = Markup("<code>{}</code>").format(block.command).join(parts)
            return Markup("<p><strong>{}</strong></p>" if block.strong else "<p>{}</p>").format(said)
        case Bullets():
            return Markup("<ul>\n{}</ul>").format(_NOTHING.join(map(_write_bullet, block.items)))
        case Table():
            table = _write_table(block, block.summary or block.name or title)
            return _fold(block.summary, table) if block.summary else table
        case Figures():
            captions = [None, *(figure.caption for figure in block.figures)]
            drawn = (
                _write_figure(figure, text, is_said=figure.caption == before)
                for figure, before in zip(block.figures, captions, strict=False)
            )
            return Markup('<div class="figures">\n{}\n</div>').format(_LINE.join(drawn))


def _write_bullet(item: Bullet) -> Markup:
    below = _fold(item.label.strip(" :："), clean(item.detail)) if item.detail else _NOTHING
    return Markup("<li>{}{}</li>\n").format(clean(item.text), below)


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
        Markup('<th scope="col"{}>{}</th>').format(kind, clean(cell))
        for kind, cell in zip(kinds, table.header, strict=True)
    )
    return Markup(
        '<div class="scroll" role="region" tabindex="0" aria-label="{}"><table>\n'
        "<thead><tr>{}</tr></thead>\n<tbody>\n{}</tbody></table></div>"
    ).format(clean(name), header, _NOTHING.join(_write_row(row, kinds) for row in table.rows))


def _write_row(row: Sequence[Cell], kinds: Sequence[Markup]) -> Markup:
    first, *others = (
        Markup("{}>{}").format(kind, _write_cell(cell)) for kind, cell in zip(kinds, row, strict=True)
    )
    cells = _NOTHING.join(Markup("<td{}</td>").format(cell) for cell in others)
    return Markup('<tr><th scope="row"{}</th>{}</tr>\n').format(first, cells)


def _write_cell(cell: Cell) -> Markup:
    if isinstance(cell, Link):
        return Markup('<a href="{}">{}</a>').format(cell.path, clean(cell.text))
    return Markup("{}").format(clean(cell))


def _fold(summary: str, below: str) -> Markup:
    """Write a summary that shows the rest on a click."""
    return Markup("<details><summary>{}</summary>{}</details>").format(clean(summary), below)
