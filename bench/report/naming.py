"""How tasks, methods and kinds of memory are named in sentences and above tables."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from bench.report.across.groups import Split
from bench.report.blocks import Block, Bullet, Paragraph, Section
from bench.report.cells import UNKNOWN, format_number
from bench.report.language.text import Text
from bench.report.numbers.collapse import Cause, read_majority
from bench.report.numbers.contrast import Group
from bench.report.numbers.edges import suggest_sweep
from bench.report.numbers.equivalence import Needs
from bench.report.numbers.rows import ReportTask, Row
from bench.report.numbers.traits import DATA, MODEL, TRAINING, Traits, choose_traits

Titles = Mapping[Group | Split, str]  # of each table of table.md

_SWEEP = "bench sweep"
_MOST_MODELS = 4  # that a heading names


def title_tasks(tasks: Sequence[ReportTask], text: Text) -> dict[ReportTask, str]:
    """Return each task's heading; where tasks have the same names, say in what they differ."""
    titles, members = {}, defaultdict[str, list[ReportTask]](list)
    for task in dict.fromkeys(tasks):
        kind = "without_model" if task.model is None else "task"
        members[text(f"heading.{kind}", **{"data": task.data, "model": task.model or ""})].append(task)
    for title, same in members.items():
        traits = [task.traits for task in same]
        models = _tell_contents("model", MODEL, traits, [one.revision for one in same], text)
        data = _tell_contents("data", DATA, traits, [one.fingerprint for one in same], text)
        for task, *words in zip(same, models, data, tell_apart(traits, text, TRAINING), strict=True):
            said, size = text("join.comma").join(filter(None, words)), task.test_size
            named = text("heading.apart", heading=title, words=said) if said else title
            named = text("heading.exact_match", heading=named) if task.multi_label else named
            titles[task] = named if size is None else text("heading.test_size", heading=named, size=size)
    return titles


def title_splits(tasks: Sequence[ReportTask], text: Text) -> dict[str, str]:
    """Return the heading of all base models on each split, by the data's fingerprint."""
    names, members = name_models(tasks, text), defaultdict[str, list[ReportTask]](list)
    for task in dict.fromkeys(tasks):
        members[task.fingerprint].append(task)
    joint = {}
    for fingerprint, (first, *others) in members.items():
        models = [names[task] for task in (first, *others) if task in names]
        many = text("models.many", count=len(models))
        named = (text.join(models) if len(models) <= _MOST_MODELS else many) if models else None
        traits = tuple(trait for trait in first.traits if trait[0] in DATA)
        joint[fingerprint] = replace(first, model=named, revision=None, traits=traits)
    titles = title_tasks([*joint.values()], text)
    return {fingerprint: titles[task] for fingerprint, task in joint.items()}


def name_data(tasks: Sequence[ReportTask], text: Text, *, without: Collection[str] = ()) -> list[str]:
    """Return the name of each task's data; where several have one name, say in what they differ.

    Args:
        without: traits that do not count.
    """
    alone = [
        replace(
            task,
            model=None,
            revision=None,
            test_size=None,
            traits=tuple(trait for trait in task.traits if trait[0] in DATA and trait[0] not in without),
        )
        for task in tasks
    ]
    titles = title_tasks(alone, text)
    return [titles[task] for task in alone]


def name_models(tasks: Sequence[ReportTask], text: Text) -> dict[ReportTask, str]:
    """Return the name of each task's base model; where several have one name, say in what they differ."""
    names, members = {}, defaultdict[str, list[ReportTask]](list)
    for task in dict.fromkeys(tasks):
        if task.model is not None:
            members[task.model].append(task)
    for name, same in members.items():
        traits = [task.traits for task in same]
        words = _tell_contents("model", MODEL, traits, [one.revision for one in same], text)
        for task, said in zip(same, words, strict=True):
            names[task] = text("heading.apart", heading=name, words=said) if said else name
    return names


def name_row(row: Row, models: Mapping[ReportTask, str], text: Text) -> Row:
    """Return the row with its base model in its title."""
    if not row.has_model:
        return row
    return replace(row, title=text("models.row", title=row.title, model=models.get(row.task, "")))


def tell_apart(groups: Sequence[Traits], text: Text, names: Iterable[str]) -> list[str]:
    """Say of each group of runs in which of these traits it differs from the others.

    The words of two groups are equal, or empty, if the records do not say what tells them apart.
    """
    chosen = choose_traits(groups, names)
    return [
        text("join.comma").join(
            text(f"traits.{name}", value=value) for name, value in group if name in chosen
        )
        for group in groups
    ]


def _tell_contents(
    kind: str, names: Iterable[str], traits: Sequence[Traits], hashes: Sequence[str | None], text: Text
) -> list[str]:
    """Say in which of these traits contents differ, and add the hash where the words of two are equal."""
    if len(set(hashes)) < 2:
        return [""] * len(hashes)
    words = tell_apart(traits, text, names)
    contents = {
        said: {one for other, one in zip(words, hashes, strict=True) if other == said} for said in words
    }
    return [
        text("join.comma").join(
            filter(None, [said, text(f"heading.hashes.{kind}", hash=(one or UNKNOWN)[:8])])
        )
        if len(contents[said]) > 1
        else said
        for said, one in zip(words, hashes, strict=True)
    ]


def place(group: Group | Split, titles: Titles, blocks: Sequence[Block]) -> Sequence[Block]:
    """Return the blocks on one table, below its title where there are several tables."""
    return [Section(titles[group], blocks)] if len(titles) > 1 else blocks


def name_columns(kind: str | None, text: Text, *, multi_label: bool) -> dict[str, str]:
    """Return the headers of table.md by column: a peak is never shown without its kind.

    Nor an accuracy that is exact match, as texts have several labels, under another name.
    """
    header = {**text.under("columns"), "cost": text("csv_columns.cost")}
    header |= text.under("exact_match") if multi_label else {}
    header["memory"] = text.under("memory_columns").get(kind or "", header["memory"])
    return header


def name_kind(kind: str | None, text: Text) -> str:
    """Return a kind of memory as a sentence names it."""
    return text(f"memory_kinds.{kind or 'unknown'}")


def name_unit(kind: str | None, text: Text) -> str:
    """Return the unit of a peak with its kind: GiB, CUDA reserved."""
    return text(f"memory_units.{kind or 'unknown'}")


def join_titles(rows: Sequence[Row], text: Text) -> str:
    """Join the methods' titles as a sentence lists them."""
    return text.join([row.title for row in rows])


def join_hyperparameters(row: Row, text: Text) -> str:
    """Join the chosen hyperparameters: r=8, lr=0.001."""
    shown = (f"{name}={format_number(value)}" for name, value in row.hyperparameters.items())
    return ", ".join(shown) or text("table.nothing")


def say_needs(needs: Needs, text: Text) -> str:
    """Say how many texts or seeds would decide between methods."""
    return text(f"needs.{needs.kind}", texts=needs.texts, seeds=needs.seeds)


def say_edges(row: Row, text: Text) -> Bullet:
    """Say which chosen values lie at the edge of what was tried, and what to type to look beyond."""
    said = []
    for end in ("smallest", "largest"):
        if same := [edge.setting for edge in row.edges if edge.end == end]:
            count = "one" if len(same) == 1 else "several"
            said.append(text(f"edges.{count}.{end}", settings=text.join(same)))
    settings = text.join(said)
    command = suggest_sweep(row.selection.candidates[0], row.edges) if row.selection else None
    if command is None:
        return Bullet(text("edges.beyond", title=row.title, settings=settings))
    return Bullet(text("edges.try", title=row.title, settings=settings, command=command), command=command)


def say_untrained(row: Row, causes: Mapping[str, Cause], text: Text) -> str:
    """Say that chosen runs did not train, and the likely cause of the first."""
    first, kind = row.untrained[0], "all" if row.is_untrained else "some"
    cause = causes.get(first.run_id, Cause("none"))
    return text(
        f"untrained.{kind}",
        title=row.title,
        count=len(row.untrained),
        runs=len(row.run_ids),
        percent=text.format_percent(read_majority(first)[0] or 0.0),
        cause=text(f"causes.{cause.name}", **cause.values),
    )


def say_empty(text: Text) -> Paragraph:
    """Say that no run is there, and which command makes them."""
    return Paragraph(text("table.empty", command=_SWEEP), command=_SWEEP)
