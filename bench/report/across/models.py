"""Base models side by side: one table of methods and models on one split, led by the best on validation."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from bench.report.across.groups import Split, choose_leader, group_models
from bench.report.blocks import Bullets, Table, make_bullets
from bench.report.cells import UNKNOWN, format_known
from bench.report.language.text import Text
from bench.report.naming import join_titles, name_models, name_row, say_needs
from bench.report.numbers.comparison import Comparison
from bench.report.numbers.contrast import AccuracyGap, find_gap, read_hardware
from bench.report.numbers.equivalence import merge_needs
from bench.report.numbers.evidence import Evidence
from bench.report.numbers.rows import ReportTask, Row
from bench.report.tabulate import tabulate
from bench.report.verdicts.answer import most_accurate, say_least_memory

_MOST_NAMED = 4  # of many methods, in a sentence


@dataclass(frozen=True)
class Panel:
    """The methods of several base models on one split, whose titles name the model."""

    rows: Sequence[Row]  # the best on validation first
    titles: Mapping[str, str]  # of each method, without the model, by a row's title
    models: Mapping[str, str]  # by a row's title; empty: a baseline without a base model
    leader: Row | None  # the trained method that is the best on validation
    gaps: Mapping[str, AccuracyGap]  # from the leader to others, by their titles
    comparisons: Sequence[Comparison]  # within a model, and of the leader with methods of other models

    @property
    def across(self) -> list[Comparison]:
        """The comparisons of two models."""
        return [one for one in self.comparisons if one.is_across]


def list_panels(evidence: Evidence, text: Text) -> dict[Split, Panel]:
    """Return a panel for each split with several base models."""
    panels = {}
    models = name_models(evidence.tasks, text)
    for split, rows in group_models(evidence.rows).items():
        panels[split] = make_panel(rows, evidence.comparisons, models, text)
    return panels


def make_panel(
    rows: Sequence[Row],
    comparisons: Sequence[Comparison],
    models: Mapping[ReportTask, str],
    text: Text,
) -> Panel:
    """Name the model in each row's title, and find what the leader's comparisons say.

    Args:
        rows: from group_models.
        models: the name of each task's base model.
    """
    named = {id(row): name_row(row, models, text) for row in rows}
    renamed = [
        replace(one, one=named[id(one.one)], other=named[id(one.other)])
        for one in comparisons
        if id(one.one) in named and id(one.other) in named
    ]
    leader = choose_leader(named.values())
    gaps = (
        find_gap(leader, row, renamed) for row in named.values() if leader is not None and row is not leader
    )
    return Panel(
        rows=[*named.values()],
        titles={named[id(row)].title: row.title for row in rows},
        models={named[id(row)].title: models.get(row.task, "") if row.has_model else "" for row in rows},
        leader=leader,
        gaps={gap.other.title: gap for gap in gaps if gap},
        comparisons=renamed,
    )


def say_panel(panel: Panel, text: Text) -> str:
    """Say in one sentence which methods and models come first, as the leader's comparisons show it."""
    leader, untrained = panel.leader, [row for row in panel.rows if row.is_untrained]
    best = leader or most_accurate([row for row in panel.rows if not row.is_untrained])
    here = text.format_percent(best.accuracy.mean) if best and best.accuracy else text("unknown")
    if leader:
        parts = [text("models.leader", one=leader.title, here=here), *_say_gaps(panel, leader, text)]
    elif any(row.has_random_weights and row.selection for row in panel.rows):
        parts = [text("answer.no_scores.random")]
    else:
        parts = [
            text("answer.only", one=best.title, here=here) if best else text("answer.no_scores.unscored")
        ]
    if untrained:
        parts.append(text("answer.untrained", titles=_join_some(untrained, text)))
    return text("answer.sentence", parts=text("join.semicolon").join(parts))


def _say_gaps(panel: Panel, leader: Row, text: Text) -> Iterator[str]:
    """Say which methods are more accurate than the leader, equal to it, undecided, and less accurate."""
    kinds: dict[str, list[AccuracyGap]] = {}
    for gap in panel.gaps.values():
        kinds.setdefault(judge(gap), []).append(gap)

    def say(verdict: str) -> Iterator[str]:
        if gaps := kinds.get(verdict):
            needs = [gap.comparison.needs for gap in gaps if gap.comparison.needs]
            yield text(
                f"models.gaps.{verdict}",
                titles=_join_some([gap.other for gap in gaps], text),
                points=text.format_points(gaps[0].comparison.delta),
                needs=say_needs(merge_needs(needs), text) if needs else "",
            )

    for verdict in ("more", "equal", "undecided"):
        yield from say(verdict)
    same = [leader, *(gap.other for kind in ("equal", "undecided") for gap in kinds.get(kind, []))]
    yield from say_least_memory(same, [row for row in panel.rows if not row.baseline and row.selection], text)
    for verdict in ("less", "one_seed"):
        yield from say(verdict)


def judge(gap: AccuracyGap) -> str:
    """Return what the comparison says of the other: more | less | equal | undecided | one_seed."""
    verdict = gap.comparison.verdict
    if verdict == "difference":
        return "less" if gap.estimate > 0 else "more"
    return verdict


def _join_some(rows: Sequence[Row], text: Text) -> str:
    """Join the titles, as far as a sentence can hold them."""
    if len(rows) <= _MOST_NAMED + 1:
        return join_titles(rows, text)
    named = text("join.comma").join(row.title for row in rows[:_MOST_NAMED])
    return text("models.more_titles", titles=named, count=len(rows) - _MOST_NAMED)


def tabulate_panel(panel: Panel, evidence: Evidence, *, text: Text, is_page: bool) -> tuple[Table, Bullets]:
    """Tabulate every method of every model and how it stands to the leader, and explain these columns."""
    names = text.under("models.columns")
    front = {row.title for row in find_front(panel.rows)}
    more = []
    for row in panel.rows:
        more.append(
            {
                names["model"]: panel.models[row.title] or UNKNOWN,
                names["validation"]: format_known(row.validation, text.format_percent),
                names["verdict"]: _say_cell(row, panel, text),
                names["front"]: text("models.cells.front") if row.title in front else "",
            }
        )
    rows = [replace(row, title=panel.titles[row.title]) for row in panel.rows]
    table, _ = tabulate(rows, evidence, text=text, is_page=is_page, more=more)
    return table, make_bullets([text("models.how"), text("models.front")] if front else [text("models.how")])


def _say_cell(row: Row, panel: Panel, text: Text) -> str:
    """Say in short how the row stands to the leader, or why it does not."""
    if row is panel.leader:
        return text("models.cells.leader")
    if row.selection and row.has_random_weights:
        return text("models.cells.random")
    if row.is_untrained:
        return text("models.cells.untrained")
    gap = panel.gaps.get(row.title)
    return (
        UNKNOWN
        if gap is None
        else text(f"models.cells.{judge(gap)}", points=round(-100 * gap.estimate, 1) + 0.0)
    )


def find_front(rows: Sequence[Row]) -> list[Row]:
    """Return the rows that no other beats in accuracy, memory and time: as good in all, better in one.

    Time counts if all rows ran on the same hardware.
    """
    known = [
        row
        for row in rows
        if row.accuracy and row.peak_memory_bytes is not None and row.train_seconds is not None
    ]
    known = [row for row in known if not (row.has_random_weights or row.is_untrained)]
    hardware = {read_hardware(row) for row in known}
    is_timed = len(hardware) == 1 and None not in hardware

    def measure(row: Row) -> tuple[float, ...]:
        accuracy = round(row.accuracy.mean, 9) if row.accuracy else 0.0
        seconds = (row.train_seconds or 0.0) if is_timed else 0.0
        return -accuracy, row.peak_memory_bytes or 0.0, seconds

    def is_beaten(row: Row) -> bool:
        own = measure(row)
        return any(
            theirs != own and all(one <= other for one, other in zip(theirs, own, strict=True))
            for theirs in map(measure, known)
        )

    return [row for row in known if not is_beaten(row)]
