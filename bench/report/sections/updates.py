"""The section of table.md on a stream of texts: what each way to update brings, forgets and costs."""

from collections.abc import Sequence

from bench.report.across.updates import PartDifference, StreamTable, UpdatedPair, UpdatedRow
from bench.report.blocks import Block, Bullet, Bullets, Paragraph, Section, Table
from bench.report.cells import UNKNOWN, clean
from bench.report.language.text import Text
from bench.report.naming import Titles, place
from bench.report.numbers.evidence import Evidence
from bench.report.numbers.rows import Row
from bench.report.sections.methods import say_points
from bench.results.selection import read_value


def describe_updates(evidence: Evidence, *, titles: Titles, text: Text) -> Section:
    """Tabulate each method on new and old texts after each piece, and the pairs of methods."""
    blocks = list[Block]()
    for stream in evidence.updates:
        first = stream.rows[0].row
        pairs = [_tabulate_pairs(stream.pairs, text)] if stream.pairs else []
        parts: list[Block] = [Paragraph(_say_pieces(stream, text)), _tabulate(stream.rows, text), *pairs]
        blocks += place((first.task, first.memory_kind), titles, parts)
    notes = [Bullet(sentence) for sentence in text.under("updates.notes").values()]
    return Section(text("updates.title"), [*blocks, Bullets(notes)] if blocks else [])


def _say_pieces(stream: StreamTable, text: Text) -> str:
    """Say how many test texts each piece has, and which labels come later than the first."""
    counts = text("join.comma").join(map(str, stream.tests))
    said = [text("updates.pieces", count=len(stream.tests), tests=counts)]
    for number, labels in enumerate(stream.new_labels[1:], start=2):
        if labels:
            named = text("join.comma").join(clean(label) for label in labels)
            said.append(text("updates.new_labels", piece=number, labels=named))
    return " ".join(said)


def _name(row: Row, text: Text) -> str:
    """Name the method, and say if it does not update but is trained anew."""
    first = row.selection.results[0] if row.selection else None
    updates = first is not None and read_value(first, "config.method.update") is not None
    return row.title if updates else text("updates.anew", title=row.title)


def _tabulate(rows: Sequence[UpdatedRow], text: Text) -> Table:
    columns = text.under("updates.columns")
    after = [text("updates.after", piece=number) for number in range(2, len(rows[0].new) + 2)]
    header = [columns["method"], *after, *(columns[name] for name in ("forgetting", "transfer", "cost"))]
    lines = [
        [
            _name(one.row, text),
            *(
                text("updates.cell", new=100 * new, old=100 * old)
                for new, old in zip(one.new, one.old, strict=True)
            ),
            text("updates.points", points=100 * one.forgetting.mean),
            text("updates.points", points=100 * one.backward_transfer.mean),
            UNKNOWN
            if one.seconds is None
            else text("updates.cost", duration=text.format_duration(one.seconds), texts=round(one.texts)),
        ]
        for one in rows
    ]
    return Table(header, lines, left=[0], has_cards=True)


def _tabulate_pairs(pairs: Sequence[UpdatedPair], text: Text) -> Table:
    lines = [
        [
            text("comparisons.pair", one=_name(pair.one, text), other=_name(pair.other, text)),
            _say_difference(pair.new, text),
            _say_difference(pair.old, text),
        ]
        for pair in pairs
    ]
    return Table([*text.under("updates.pairs").values()], lines, left=[0], has_cards=True)


def _say_difference(found: PartDifference, text: Text) -> str:
    points = say_points(found.accuracy, text)
    if not found.is_told:
        return points
    return text(f"updates.told.{'one_seed' if found.has_one_seed else 'seeds'}", points=points)
