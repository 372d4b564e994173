"""All numbers of a results folder, gathered once: every sentence of a report rests on them."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from bench.config.reporting import ReportConfig
from bench.errors import StoreError
from bench.files import read_object
from bench.report.across.choices import Alternatives, list_choices
from bench.report.across.curve import Curve, draw_curves
from bench.report.across.groups import part_sizes
from bench.report.across.multitask import Multitask, compare_strategies
from bench.report.across.updates import StreamTable, gather_updates
from bench.report.numbers.budget import UNTRIED, Untried, read_untried
from bench.report.numbers.collapse import Cause, suggest_cause
from bench.report.numbers.columns import add_columns
from bench.report.numbers.comparison import Comparison, Known, LeftOut, compare_methods
from bench.report.numbers.rows import ReportTask, Row, build_rows
from bench.report.numbers.scores import Read
from bench.results.selection import MethodKey, fill_scores, read_criterion
from bench.results.store import BadRecord, Result, Store, find_imported

LATENCY = "latency.json"  # in the folder of a run, from `bench latency`
LATENCY_OF_SEEDS = "latency-seeds.json"  # the same of all seeds together, from `bench latency --seeds`
LATENCY_OF_TASKS = "latency-tasks.json"  # of several adapters on one base, from `bench latency DIR DIR`
_LATENCY_NUMBERS = ("batch_size", "p50_ms", "p95_ms", "texts_per_second")
_DOCS = "../../docs"
_JOULES_PER_KWH = 3.6e6

Move = Callable[[list[Result]], list[Result]]
Latency = Mapping[str, Any]  # what the file holds: {forms: [{form, batch_size, ...}], texts, threads, ...}


@dataclass(frozen=True)
class Evidence:
    """The numbers of one results folder, the same whatever the order of its runs."""

    results: Sequence[Result]
    bad: Sequence[tuple[str, str]]  # path below the folder and reason of records that cannot be trusted
    rows: Sequence[Row]  # of the tables
    comparisons: Sequence[Comparison]
    left_out: Sequence[LeftOut]  # methods that could not be compared
    report: ReportConfig
    imported: Sequence[Result]  # other people's: shown, and part of nothing else
    bad_imported: Sequence[tuple[str, str]]
    latencies: Sequence[tuple[Result, Latency]]  # of the runs that were measured
    untried: Sequence[tuple[str, int]] = ()  # title of each method without a run, and its configurations
    causes: Mapping[str, Cause] = field(default_factory=dict)  # why a chosen run did not train, by run_id
    docs: str = ""  # where the documentation is, from the results folder; empty: not where it usually is
    curves: Sequence[Curve] = ()  # accuracy by the number of train texts
    choices: Sequence[Alternatives] = ()  # what values of a setting bring each method
    # what gates chose, by run_id of each method's first chosen run; a text says why it is not known
    gates: Mapping[str, pd.DataFrame | str] = field(default_factory=dict)
    updates: Sequence[StreamTable] = ()  # what each method on a stream brings, forgets and costs
    multitask: Sequence[Multitask] = ()  # several tasks, learned apart and together
    smaller: Sequence[Row] = ()  # of train sizes that are on a learning curve, and have no table of their own

    @property
    def tasks(self) -> list[ReportTask]:
        """Of all rows, with a table or without."""
        return list(dict.fromkeys(row.task for row in (*self.rows, *self.smaller)))


def gather(store: Store, report: ReportConfig, *, move: Move | None = None) -> Evidence:
    """Read the records, and the predictions of the chosen runs alone.

    Args:
        move: what makes of the runs those on another card.
    """
    results, bad = store.read_all()
    results = fill_scores(results, store, read_criterion(results))
    results = results if move is None else move(results)
    built, without_row = _add_untried(build_rows(results), _read_untried(store, results))
    built = add_columns(built, report.columns, store.read_predictions)
    scored: Known = {}
    every_row, comparisons, left_out = compare_methods(
        built, store.read_predictions, delta=report.delta, known=scored
    )
    rows, smaller = part_sizes(every_row)
    imported, bad_imported = find_imported(store).read_all()

    def name(records: Sequence[BadRecord]) -> list[tuple[str, str]]:
        return sorted((record.path.relative_to(store.folder).as_posix(), record.reason) for record in records)

    return Evidence(
        results=results,
        bad=name(bad),
        rows=rows,
        comparisons=comparisons,
        left_out=left_out,
        report=report,
        imported=imported,
        bad_imported=name(bad_imported),
        latencies=_read_latencies(store, results),
        untried=without_row,
        causes={
            result.run_id: suggest_cause(result, _read_history(store, result.run_id))
            for row in every_row
            for result in row.untrained
        },
        curves=draw_curves(every_row, scored),
        gates={row.run_ids[0]: _read_gates(store, row.run_ids[0]) for row in rows if row.gate_parameters},
        smaller=smaller,
        updates=gather_updates(rows, store.read_predictions),
        multitask=compare_strategies(every_row, store.read_predictions, delta=report.delta),
        choices=list_choices(results, report.columns, store.read_predictions),
        docs=_DOCS if (store.folder / _DOCS / "statistics.md").is_file() else "",
    )


def narrow(evidence: Evidence, results: Sequence[Result], read: Read) -> Evidence:
    """Return what some of the runs say alone, for example those at one size of a learning curve."""
    rows, comparisons, left_out = compare_methods(build_rows(results), read, delta=evidence.report.delta)
    return replace(
        evidence,
        results=results,
        rows=rows,
        comparisons=comparisons,
        left_out=left_out,
        curves=(),
        multitask=(),
        smaller=(),
    )


def _read_untried(store: Store, results: Iterable[Result]) -> list[Untried]:
    """Read the configurations that a sweep left as its hours were used, and that were not tried since."""
    path, tried = store.folder / UNTRIED, {result.run_id for result in results}
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    return [one for one in read_untried(text) if one.run_id not in tried]


def _add_untried(rows: Sequence[Row], untried: Sequence[Untried]) -> tuple[list[Row], list[tuple[str, int]]]:
    """Add to each method's row how many configurations were left; return also the methods that have none."""
    counts = Counter(one.method_key for one in untried)
    titles = {one.method_key: one.title for one in untried}
    keys = [MethodKey(row.task.fingerprint, row.task.revision, row.method) for row in rows]
    counted = [
        replace(row, budget=replace(row.budget, untried=counts[key]))
        for row, key in zip(rows, keys, strict=True)
    ]
    return counted, sorted((titles[key], count) for key, count in counts.items() if key not in keys)


def _read_history(store: Store, run_id: str) -> Sequence[Mapping[str, Any]]:
    """Return the run's history, empty where it cannot be read: it is only looked at for a cause."""
    try:
        return store.read_history(run_id)
    except StoreError:
        return ()


def _read_gates(store: Store, run_id: str) -> pd.DataFrame | str:
    """Return what the run's gates chose, or why that is not known."""
    try:
        return store.read_gates(run_id)
    except StoreError as error:
        return str(error)


def _read_latencies(store: Store, results: Iterable[Result]) -> list[tuple[Result, Latency]]:
    """Return each run whose latency was measured, with what its file says.

    Raises:
        StoreError: a file of that name is not what ``bench latency`` writes.
    """
    measured = list[tuple[Result, Latency]]()
    places = ((result, name) for result in results for name in (LATENCY, LATENCY_OF_SEEDS, LATENCY_OF_TASKS))
    for result, name in places:
        path = store.run_folder(result.run_id) / name
        latency = read_object(path)
        if latency is not None and not _is_whole(latency):
            what = {LATENCY_OF_SEEDS: f"{result.run_id} --seeds", LATENCY_OF_TASKS: "DIR DIR"}
            again = what.get(name, result.run_id)
            raise StoreError(f"{path}: was changed; `bench latency {again}` writes it anew")
        if latency is not None:
            measured.append((result, latency))
    return measured


def _is_whole(latency: Latency) -> bool:
    forms = latency.get("forms")
    return isinstance(forms, list) and all(
        isinstance(form, dict)
        and isinstance(form.get("form"), str)
        and all(type(form.get(name)) in (int, float) for name in _LATENCY_NUMBERS)
        for form in forms
    )


def price_training(row: Row, report: ReportConfig) -> float | None:
    """Price one training of the chosen configuration, in the currency of the report's prices.

    Return None without a price, or if the time or energy that has a price is unknown.
    """
    parts = []
    if report.price_per_hour is not None:
        parts.append((row.train_seconds, report.price_per_hour / 3600))
    if report.price_per_kwh is not None:
        parts.append((row.joules, report.price_per_kwh / _JOULES_PER_KWH))
    costs = [amount * price for amount, price in parts if amount is not None]
    return sum(costs) if costs and len(costs) == len(parts) else None
