"""Which tables belong together: those of several base models on one split, those of one learning curve."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from bench.report.numbers.rows import ReportTask, Row

Split = tuple[str, str | None]  # fingerprint of the data, and the kind of memory that runs were measured in


def group_models(rows: Iterable[Row]) -> dict[Split, list[Row]]:
    """Group the rows of each split that several base models were trained on, the best on validation first.

    A baseline without a base model is in the table of each model, and here once: as in the leader's table.
    """
    splits: dict[Split, list[Row]] = defaultdict(list)
    for row in rows:
        splits[row.task.fingerprint, row.memory_kind].append(row)
    groups = {}
    for split, same in splits.items():
        if len({row.task.revision for row in same}) < 2:
            continue
        leader = choose_leader(same)
        others_first = sorted(same, key=lambda row: leader is not None and row.task == leader.task)
        once = {row.method: row for row in others_first}
        kept = [row for row in same if row.has_model or row is once[row.method]]
        groups[split] = sorted(kept, key=lambda row: (row.validation is None, -(row.validation or 0.0)))
    return groups


def choose_leader(rows: Iterable[Row]) -> Row | None:
    """Return the trained row of the best validation score, with which rows of other models are compared."""
    able = [row for row in rows if row.validation is not None and not row.baseline and not row.is_untrained]
    return max(
        (row for row in able if not row.has_random_weights),
        key=lambda row: row.validation or 0.0,
        default=None,
    )


def group_sizes(rows: Iterable[Row]) -> list[list[Row]]:
    """Group the rows of each learning curve: data that differ in nothing but how many texts train has."""
    members: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.task.origin.split is not None and row.task.origin.train_rows is not None:
            members[row.task.origin.split].append(row)
    return [same for same in members.values() if _is_curve([row.task for row in same])]


def _is_curve(tasks: Sequence[ReportTask]) -> bool:
    """Tell whether the tasks have several train sizes, one for each fingerprint, and one test split."""
    sizes = {(task.fingerprint, task.origin.train_rows) for task in tasks}
    tested_on = {task.origin.tested_on for task in tasks} - {None}
    return len(sizes) == len({size for _, size in sizes}) > 1 and len(tested_on) < 2


def find_smaller(rows: Sequence[Row]) -> set[ReportTask]:
    """Return the tasks of learning curves that have no table of their own.

    Of each base model one size has a table: the one at which the most methods succeeded, and of equals the
    largest.
    """
    smaller = set[ReportTask]()
    counts = Counter(row.task for row in rows if row.selection)

    def order(task: ReportTask) -> tuple[int, int]:
        return counts[task], task.origin.train_rows or 0

    for same in group_sizes(rows):
        tasks = list(dict.fromkeys(row.task for row in same))
        revisions = {task.revision for task in tasks} - {None} or {None}
        shown = {
            max((task for task in tasks if task.revision == revision), key=order) for revision in revisions
        }
        smaller |= set(tasks) - shown
    return smaller


def part_sizes(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Return the rows that have a table, and those of the smaller sizes of learning curves."""
    smaller = find_smaller(rows)
    return [row for row in rows if row.task not in smaller], [row for row in rows if row.task in smaller]
