"""The comparison table: one row per method, from the results alone, as Markdown and CSV.

table.md is for reading: for each task and kind of memory the answer, the table and its figure, then the
sections of sections.py. table.csv has the same columns under the same headers, with plain numbers where a
spreadsheet would calculate (memory in GiB, exact counts, accuracy and F1 as fractions), and more columns
after them: data, model, memory kind, status, bytes, seconds. Both are byte-identical when made again from the
same results. runs.csv and comparisons.csv are for scripts.
"""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from types import MappingProxyType

from bench.config.reporting import ReportConfig
from bench.report.across.datasets import describe_datasets
from bench.report.across.groups import Split
from bench.report.across.models import list_panels, say_panel, tabulate_panel
from bench.report.across.sizes import describe_sizes
from bench.report.across.strategies import describe_multitask
from bench.report.blocks import (
    Beside,
    Block,
    Bullets,
    Figure,
    Figures,
    Paragraph,
    Section,
    Table,
    make_bullets,
    write_markdown,
)
from bench.report.cells import (
    format_number,
)
from bench.report.language.text import Text, read_language
from bench.report.naming import (
    Titles,
    name_columns,
    say_empty,
    title_splits,
    title_tasks,
)
from bench.report.numbers.contrast import Group
from bench.report.numbers.evidence import Evidence, gather
from bench.report.numbers.rows import OVER
from bench.report.runs import render_runs
from bench.report.sections.distillation import describe_distillation
from bench.report.sections.gates import describe_gates
from bench.report.sections.imported import describe_imported
from bench.report.sections.latency import describe_latencies
from bench.report.sections.methods import (
    describe_budgets,
    describe_choices,
    describe_comparisons,
    describe_health,
    describe_pivots,
    render_comparisons,
)
from bench.report.sections.probabilities import describe_probabilities
from bench.report.sections.together import describe_together
from bench.report.sections.updates import describe_updates
from bench.report.tabulate import join_counts, render_csv, shorten, tabulate
from bench.report.verdicts.answer import say_answer
from bench.report.verdicts.claims import describe_claims
from bench.report.verdicts.findings import describe_findings
from bench.results.store import STARTED, Result, Store

MAIN_FIGURES = ("pareto", "speed")  # beside each table

Drawn = Mapping[Group | Split, Sequence[Figure]]  # the figures of each table


def write_tables(store: Store, *, lang: str, report: ReportConfig) -> list[Path]:
    """Write the four files beside runs/, in place of those before; return their paths.

    Raises:
        ConfigError: no such language.
        StoreError: the folder cannot be written.
    """
    text, evidence = read_language(lang), gather(store, report)
    files = render_files(evidence, describe_all(evidence, text=text), text=text)
    return [store.write_report(name, body) for name, body in files.items()]


def write_unfinished(store: Store, *, report: ReportConfig, ended: int, planned: int) -> str:
    """Write the four files of a sweep that still runs, and return its tables so far as Markdown.

    ``ended`` of at least ``planned`` runs have ended; table.md opens with that.

    Raises:
        StoreError: the folder cannot be written.
    """
    text, evidence = read_language("en"), gather(store, report)
    opening = Paragraph(text("table.still_running", ended=ended, planned=planned), strong=True)
    blocks = [opening, *describe_all(evidence, text=text)]
    for name, body in render_files(evidence, blocks, text=text).items():
        store.write_report(name, body)
    tables, _ = describe_tables(evidence, text=text, drawn={})
    return write_markdown([opening, *tables])


def render_files(evidence: Evidence, blocks: Sequence[Block], *, text: Text) -> dict[str, str]:
    """Render the four files by name; ``blocks``: what table.md says."""
    return {
        "table.csv": render_csv(evidence, text=text),
        "table.md": write_markdown(blocks),
        "runs.csv": render_runs(evidence.results),
        "comparisons.csv": render_comparisons(evidence.comparisons),
    }


def describe_all(evidence: Evidence, *, text: Text, drawn: Drawn = MappingProxyType({})) -> list[Block]:
    """Return what table.md says: the answers, tables and their figures, then what follows from them."""
    tables, titles = describe_tables(evidence, text=text, drawn=drawn)
    others = [figure for figures in drawn.values() for figure in figures if figure.kind not in MAIN_FIGURES]
    rest = Section(text("page.sections.figures"), [Figures(others)])
    return [*tables, *describe_sections(evidence, titles=titles, text=text).values(), rest]


def describe_sections(evidence: Evidence, *, titles: Titles, text: Text) -> dict[str, Section]:
    """Describe what follows from the tables, by name and in order; a section may be empty."""
    notes = _explain(evidence, text) + _count_unsuccessful(evidence.results, evidence.bad, text)
    return {
        "datasets": describe_datasets(evidence, text=text),
        "multitask": describe_multitask(evidence, text=text),
        "sizes": describe_sizes(evidence, text=text),
        "updates": describe_updates(evidence, titles=titles, text=text),
        "findings": describe_findings(evidence, titles=titles, text=text),
        "comparisons": describe_comparisons(evidence, titles=titles, text=text),
        "budget": describe_budgets(evidence.rows, titles=titles, text=text),
        "choices": describe_choices(evidence, text=text),
        "pivots": describe_pivots(evidence.rows, titles=titles, text=text),
        "probabilities": describe_probabilities(evidence, titles=titles, text=text),
        "together": describe_together(evidence, titles=titles, text=text),
        "distillation": describe_distillation(evidence, titles=titles, text=text),
        "gates": describe_gates(evidence, titles=titles, text=text),
        "latency": describe_latencies(evidence.latencies, text=text),
        "claims": describe_claims(evidence, titles=titles, text=text),
        "notes": Section(text("notes.title"), [make_bullets(notes)]),
        "imported": describe_imported(evidence.imported, bad=evidence.bad_imported, text=text),
    }


def describe_tables(
    evidence: Evidence, *, text: Text, drawn: Drawn, is_page: bool = False
) -> tuple[list[Block], Titles]:
    """Return a section of tables for each task, each below its answer, and each table's title.

    Before them stands a table of all base models for each split that has several. Each table is followed by
    its main figures, if there are any, and the notes that its cells refer to. On the page it is narrower, so
    that a figure has room beside it: settings and intervals are second lines.
    """
    blocks: list[Block] = [] if evidence.rows else [say_empty(text)]
    headings = title_tasks(evidence.tasks, text)
    titles: dict[Group | Split, str] = {}
    panels = list_panels(evidence, text)

    def show(
        group: Group | Split, heading: str, answer: str, tabulated: tuple[Table, Bullets]
    ) -> list[Block]:
        titles[group] = f"{heading}, {name_columns(group[1], text, multi_label=False)['memory']}"
        figures = Figures([figure for figure in drawn.get(group, ()) if figure.kind in MAIN_FIGURES])
        table, notes = tabulated
        if isinstance(group[0], str):  # which is wider
            return [Paragraph(answer, strong=True), table, notes, figures]
        return [Paragraph(answer, strong=True), Beside([table, figures]), notes]

    of_splits = title_splits(evidence.tasks, text)
    for fingerprint in dict.fromkeys(first for first, _ in panels):
        parts, heading = list[Block](), of_splits[fingerprint]
        for split, panel in panels.items():
            if split[0] == fingerprint:
                tabulated = tabulate_panel(panel, evidence, text=text, is_page=is_page)
                parts += show(split, heading, say_panel(panel, text), tabulated)
        blocks.append(Section(heading, parts))
    for task, of_task in groupby(evidence.rows, key=lambda row: row.task):
        parts = []
        for kind, of_kind in groupby(of_task, key=lambda row: row.memory_kind):
            rows = list(of_kind)
            answer = say_answer(rows, evidence.comparisons, text)
            tabulated = tabulate(rows, evidence, text=text, is_page=is_page)
            parts += show((task, kind), headings[task], answer, tabulated)
        blocks.append(Section(headings[task], parts))
    return blocks, titles


def _explain(evidence: Evidence, text: Text) -> list[str]:
    """Explain where the numbers come from, and what of the data could mislead."""
    rows = evidence.rows
    health = [describe_health(task, text) for task in dict.fromkeys(row.task for row in rows)]
    health += [text("notes.none_tried", title=title, count=count) for title, count in evidence.untried]
    selections = [row.selection for row in rows if row.selection]
    if not selections:
        return [note for note in health if note]
    seeds = sorted({selection.seed for selection in selections if selection.seed is not None})
    at_seed = text("notes.at_seed", seeds=text("join.or").join(map(str, seeds))) if seeds else ""
    metric = text.name_metric(selections[0].select_by)
    kinds = dict.fromkeys(row.memory_kind for row in rows if row.memory_kind)
    notes = [text("notes.choice", metric=metric, at_seed=at_seed), text("notes.numbers")]
    if any(row.as_it_is for row in rows):
        notes.append(text("notes.as_it_is"))
    notes += [text(f"notes.memory.{kind}") for kind in kinds]
    if any(row.paged_bytes for row in rows):
        notes.append(text("notes.paged"))
    errors = [
        abs(result.prediction["error"])
        for result in evidence.results
        if result.prediction.get("error") is not None
    ]
    if errors:
        figures = {"median": statistics.median(errors), "worst": max(errors), "runs": len(errors)}
        notes.append(text("notes.predicted", **figures))
    notes.append(text("notes.interval"))
    if any(row.task.multi_label for row in rows):
        notes.append(text("notes.exact_match"))
    if evidence.report.columns:
        notes.append(text("notes.columns"))
    marked = {row.interval.over for row in rows if row.interval}
    notes += [
        text(f"notes.intervals.{over}")
        for over in OVER
        if over in marked and over in text.under("notes.intervals")
    ]
    if any(row.selection and not row.seeds for row in rows):
        notes.append(text("notes.any_seed"))
    if any(row.folds for row in rows):
        notes.append(text("notes.folds"))
    prices = {name: getattr(evidence.report, name) for name in text.under("notes.prices")}
    if set(prices.values()) != {None}:
        said = (
            text(f"notes.prices.{name}", price=format_number(price))
            for name, price in prices.items()
            if price is not None
        )
        notes.append(text("notes.cost", prices=text("join.comma").join(said)))
    return notes + [note for note in health if note]


def _count_unsuccessful(results: Sequence[Result], bad: Sequence[tuple[str, str]], text: Text) -> list[str]:
    """Say what the numbers leave out: runs by status, and records that cannot be trusted by name."""
    statuses = Counter(result.status for result in results if not result.is_success)
    notes = [text("notes.unsuccessful", counts=join_counts(statuses, text))] if statuses else []
    if statuses[STARTED]:
        notes.append(text("notes.unfinished"))
    if bad:
        records = [text("notes.bad_one", path=path, reason=shorten(reason)) for path, reason in bad]
        notes.append(text("notes.bad", records=text("join.comma").join(records)))
    return notes
