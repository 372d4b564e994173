"""How tasks, methods and kinds of memory are named in sentences and above tables."""

from collections import Counter
from collections.abc import Mapping, Sequence

from bench.report.blocks import Block, Paragraph, Section
from bench.report.cells import UNKNOWN, format_number
from bench.report.language.text import Text
from bench.report.numbers.contrast import Group
from bench.report.numbers.rows import ReportTask, Row

Titles = Mapping[Group, str]  # of each table of table.md

_SWEEP = "bench sweep"


def title_tasks(tasks: Sequence[ReportTask], text: Text) -> dict[ReportTask, str]:
    """Return each task's heading; add the content's hashes where tasks have the same names."""
    titles = {}
    for task in dict.fromkeys(tasks):
        kind = "without_model" if task.model is None else "task"
        names = {"data": task.data, "model": task.model or ""}
        titles[task] = text(f"heading.{kind}", **names)
    counts = Counter(titles.values())
    for task, title in titles.items():
        if counts[title] > 1:
            title = text(
                "heading.of_content",
                heading=title,
                fingerprint=task.fingerprint[:8],
                revision=(task.revision or UNKNOWN)[:8],
            )
        if task.test_size is not None:
            title = text("heading.test_size", heading=title, size=task.test_size)
        titles[task] = title
    return titles


def place(group: Group, titles: Titles, blocks: Sequence[Block]) -> Sequence[Block]:
    """Return the blocks on one table, below its title where there are several tables."""
    return [Section(titles[group], blocks)] if len(titles) > 1 else blocks


def name_columns(kind: str | None, text: Text) -> dict[str, str]:
    """Return the headers of table.md by column: a peak is never shown without its kind."""
    header = {**text.under("columns"), "cost": text("csv_columns.cost")}
    header["memory"] = text.under("memory_columns").get(kind or "", header["memory"])
    return header


def name_kind(kind: str | None, text: Text) -> str:
    """Return a kind of memory as a sentence names it."""
    return text(f"memory_kinds.{kind or 'unknown'}")


def join_titles(rows: Sequence[Row], text: Text) -> str:
    """Join the methods' titles as a sentence lists them: A, B and C."""
    titles = [row.title for row in rows]
    return text("join.and").join(filter(None, [text("join.comma").join(titles[:-1]), titles[-1]]))


def join_hyperparameters(row: Row, text: Text) -> str:
    """Join the chosen hyperparameters: r=8, lr=0.001."""
    shown = (f"{name}={format_number(value)}" for name, value in row.hyperparameters.items())
    return ", ".join(shown) or text("table.nothing")


def say_empty(text: Text) -> Paragraph:
    """Say that no run is there, and which command makes them."""
    return Paragraph(text("table.empty", command=_SWEEP), command=_SWEEP)
