"""Methods over all data sets: mean ranks, wins, and which differ."""

from collections.abc import Sequence
from itertools import combinations

from bench.report.across.multitask import read_parts
from bench.report.across.ranks import FEWEST, Contender, Ranking, find_least_p, rank_methods
from bench.report.blocks import Block, Paragraph, Section, Table, make_bullets
from bench.report.cells import UNKNOWN
from bench.report.language.text import Text
from bench.report.naming import join_titles, name_data, name_models, name_row
from bench.report.numbers.evidence import Evidence
from bench.report.numbers.statistics import LEVEL

_LEAST_P = 0.001
_MOST_PAIRS = 12


def describe_datasets(evidence: Evidence, *, text: Text) -> Section:
    """Tabulate mean rank and wins of each method over all data sets, and say which methods differ."""
    ranking = rank_methods([row for row in evidence.rows if not read_parts(row)])  # which are no further data
    title = text("datasets.title")
    if ranking is None:
        return Section(title, [])
    names = _name_contenders(ranking, evidence, text)
    blocks = list[Block]()
    if ranking.contenders:
        blocks += [_tabulate(ranking, names, text), make_bullets(_say_test(ranking, names, text))]
    else:
        blocks.append(Paragraph(text("datasets.nothing")))
    if ranking.left_out:
        models = name_models(evidence.tasks, text) if _has_models(ranking, evidence) else {}
        left_out = [name_row(row, models, text) if models else row for row in ranking.left_out]
        blocks.append(make_bullets([text("datasets.left_out", titles=join_titles(left_out, text))]))
    return Section(title, blocks)


def _has_models(ranking: Ranking, evidence: Evidence) -> bool:
    """Tell whether the methods' titles have to say the base model."""
    fingerprints = {task.fingerprint for task in ranking.tasks}
    revisions = {row.task.revision for row in evidence.rows if row.task.fingerprint in fingerprints}
    return len(revisions - {None}) > 1


def _name_contenders(ranking: Ranking, evidence: Evidence, text: Text) -> list[str]:
    models = name_models(evidence.tasks, text)
    has_models = _has_models(ranking, evidence)
    rows = [one.rows[0] for one in ranking.contenders]
    return [name_row(row, models, text).title if has_models else row.title for row in rows]


def _tabulate(ranking: Ranking, names: Sequence[str], text: Text) -> Table:
    data = name_data(ranking.tasks, text)
    header = [text("columns.method"), *text.under("datasets.columns").values(), *data]
    rows = [
        [name, f"{one.mean_rank:.2f}", str(one.wins), *_list_accuracies(one, text)]
        for name, one in zip(names, ranking.contenders, strict=True)
    ]
    return Table(header, rows, left=[0])


def _list_accuracies(contender: Contender, text: Text) -> list[str]:
    return [text.format_percent(row.accuracy.mean) if row.accuracy else UNKNOWN for row in contender.rows]


def _say_test(ranking: Ranking, names: Sequence[str], text: Text) -> list[str]:
    """Say which methods differ over data sets, or why so few cannot say it."""
    count, test = len(ranking.tasks), ranking.test
    said = [text("datasets.how")]
    if len(ranking.contenders) < 2:
        return said
    if test is None:
        return [*said, text("datasets.few", count=count, p=find_least_p(count), fewest=FEWEST)]
    p_value = f"< {_LEAST_P}" if test.p_value < _LEAST_P else f"= {test.p_value:.3f}"
    differ = test.p_value < 1 - LEVEL
    if test.name == "wilcoxon":
        verdict = text("datasets.ahead", title=names[0]) if differ else text("datasets.open")
        return [*said, text("datasets.wilcoxon", count=count, p=p_value, verdict=verdict)]
    verdict = text("datasets.differ") if differ else text("datasets.open")
    numbers = {"statistic": test.statistic, "p": p_value, "count": count, "methods": len(names)}
    said.append(text("datasets.friedman", verdict=verdict, **numbers))
    if test.critical is not None:
        said.append(_say_pairs(ranking, names, test.critical, text))
    return said


def _say_pairs(ranking: Ranking, names: Sequence[str], critical: float, text: Text) -> str:
    """Say which mean ranks are further apart than the critical difference."""
    pairs = [
        text("datasets.pair", one=names[one], other=names[other])
        for one, other in combinations(range(len(names)), 2)
        if ranking.contenders[other].mean_rank - ranking.contenders[one].mean_rank > critical
    ]
    if not pairs:
        return text("datasets.nemenyi_none", critical=critical)
    more = text("datasets.further", count=len(pairs) - _MOST_PAIRS) if len(pairs) > _MOST_PAIRS else ""
    shown = text("join.semicolon").join(pairs[:_MOST_PAIRS])
    return text("datasets.nemenyi", critical=critical, pairs=shown + more)
