"""The section on several tasks: what each strategy reaches and serves, and where one model does harm."""

from collections.abc import Sequence

from bench.config.cards import GIB
from bench.report.across.multitask import Multitask, Strategy
from bench.report.blocks import Block, Bullet, Bullets, Cell, Section, Table, make_bullets
from bench.report.cells import UNKNOWN, clean, format_gib, format_known
from bench.report.language.text import Text
from bench.report.naming import join_hyperparameters, name_models, name_unit
from bench.report.numbers.comparison import Comparison
from bench.report.numbers.evidence import Evidence
from bench.report.sections.methods import say_points

_COMMAND = "bench sweep data=A,B method=lora"
_LEAST_P = 0.001


def describe_multitask(evidence: Evidence, *, text: Text) -> Section:
    """Tabulate the strategies over the same tasks, and name where one model of all is worse than apart."""
    models, blocks = name_models(evidence.tasks, text), list[Block]()
    for found in evidence.multitask:
        parts: list[Block] = [_tabulate(found, evidence, text), _say_transfer(found, text)]
        model = models.get(found.strategies[0].rows[0].task, "")
        blocks += [Section(model, parts)] if len(evidence.multitask) > 1 else parts
    how = [make_bullets([text("multitask.how")])] if blocks else []
    return Section(text("multitask.title"), [*blocks, *how])


def _tabulate(found: Multitask, evidence: Evidence, text: Text) -> Table:
    names = text.under("multitask.columns")
    tasks = [clean(task) for task in found.tasks]
    header: list[Cell] = [names["strategy"], names["settings"]]
    header += [text("multitask.columns.accuracy", task=task) for task in tasks]
    header += [names["bytes"], names["seconds"]]
    header += [text("multitask.columns.points", task=task) for task in tasks] if found.reference else []
    lines: list[list[Cell]] = [
        [
            _name(one, text),
            " / ".join(dict.fromkeys(join_hyperparameters(row, text) for row in one.rows)),
            *(format_known(accuracy, text.format_percent) for accuracy in one.accuracies),
            _say_bytes(one, evidence, text),
            format_known(one.train_seconds, text.format_duration),
            *(_list_cells(one, found, text) if found.reference else []),
        ]
        for one in found.strategies
    ]
    return Table(header, lines, left=[0, 1], has_cards=True)


def _name(strategy: Strategy, text: Text) -> str:
    return text(f"multitask.kinds.{strategy.kind}", title=strategy.rows[0].title)


def _say_bytes(strategy: Strategy, evidence: Evidence, text: Text) -> str:
    """Write the weights' GiB, with the peak while all adapters answer where it was measured."""
    weights = format_known(strategy.weight_bytes, format_gib)
    own = [set(row.run_ids) for row in strategy.rows]
    for _, found in evidence.latencies:
        runs, memory = list((found.get("tasks") or {}).values()), found.get("memory") or {}
        is_own = len(runs) == len(own) and all(any(run in some for run in runs) for some in own)
        if is_own and memory.get("peak_bytes") is not None:
            unit = name_unit(memory.get("kind"), text)
            return text("multitask.measured", gib=weights, peak=memory["peak_bytes"] / GIB, unit=unit)
    return weights


def _list_cells(strategy: Strategy, found: Multitask, text: Text) -> list[str]:
    """Write each task's difference from the reference and what it shows."""
    if not strategy.comparisons:
        return [text("multitask.reference"), *[""] * (len(found.tasks) - 1)]
    return [
        UNKNOWN
        if one is None
        else text(
            "multitask.cell",
            points=say_points(one.accuracy, text),
            verdict=text(f"multitask.verdicts.{judge(one)}"),
        )
        for one in strategy.comparisons
    ]


def judge(comparison: Comparison) -> str:
    """Return what the comparison says of its first: better | worse | equal | one_seed | undecided."""
    if comparison.verdict != "difference":
        return comparison.verdict
    return "better" if comparison.accuracy.estimate > 0 else "worse"


def _say_transfer(found: Multitask, text: Text) -> Bullets:
    """Name each task on which one model of all is worse or better than an adapter each, if there is one."""
    reference = found.reference
    if reference is None:
        return Bullets([Bullet(text("multitask.no_reference", command=_COMMAND), command=_COMMAND)])
    joint = [one for one in found.strategies if one.kind == "joint"]
    pairs = [
        (one, clean(task), compared)
        for one in joint
        for task, compared in zip(found.tasks, one.comparisons, strict=True)
        if compared
    ]
    said = [
        text(
            f"multitask.transfer.{'negative' if judge(compared) == 'worse' else 'positive'}",
            task=task,
            strategy=_name(one, text),
            reference=_name(reference, text),
            points=f"{abs(100 * compared.accuracy.estimate):.1f}",
            p=_say_p(compared.adjusted_p),
        )
        for one, task, compared in pairs
        if judge(compared) in ("worse", "better")
    ]
    return make_bullets([*said, *_say_rest([judge(compared) for *_, compared in pairs], text)])


def _say_rest(verdicts: Sequence[str], text: Text) -> list[str]:
    """Say that no harm is shown, and what one seed cannot show."""
    none = [text("multitask.no_negative")] if verdicts and "worse" not in verdicts else []
    return none + ([text("multitask.one_seed")] if "one_seed" in verdicts else [])


def _say_p(p_value: float) -> str:
    return f"< {_LEAST_P}" if p_value < _LEAST_P else f"= {p_value:.3f}"
