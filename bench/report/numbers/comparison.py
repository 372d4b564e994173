"""Which methods differ, from the predictions of their chosen runs: paired, as all saw the same texts."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from bench.config.schema import LOOKS
from bench.errors import StoreError
from bench.report.across.groups import choose_leader, find_smaller, group_models
from bench.report.numbers.equivalence import Needs, find_equivalence_p, find_needs
from bench.report.numbers.rows import ReportTask, Row
from bench.report.numbers.scores import FEWEST_SEEDS, Read, Scored, bound_rows, score_method
from bench.report.numbers.statistics import (
    LEVEL,
    Difference,
    Score,
    adjust_holm,
    bound_difference,
    find_detectable,
    find_p,
    subtract,
)
from bench.results.selection import read_value

FEWEST_DISCORDANT = 6  # with five no test can find a difference: all five on one side are likely enough, 6 %
VERDICTS = ("difference", "one_seed", "equal", "undecided")
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Comparison:
    """Two methods on the same texts; differences are ``one`` less ``other``, and of means over seeds."""

    one: Row
    other: Row
    rows: int  # texts of the test split
    accuracy: Difference
    f1_macro: Difference
    told_apart: int  # texts that a larger share of one's seeds has right than of the other's, or a smaller
    discordant: float  # mean square of a text's difference; for one seed each, the share of texts told apart
    error_texts: float  # standard error of the difference in accuracy over texts
    error_seeds: float | None  # over seeds; None: a method with randomness has one seed
    p_value: float  # of no difference, for other texts and other seeds
    adjusted_p: float  # Holm, over all comparisons of the report
    detectable: float | None  # in accuracy, with power 80 %; None: none, as too few texts tell the two apart
    delta: float  # within which two accuracies count as equal
    equal_p: float  # of a true difference of delta or more
    adjusted_equal_p: float  # Holm, over all comparisons of the report
    verdict: str  # one of VERDICTS
    needs: Needs | None  # what would decide; None: it is decided

    @property
    def is_alike(self) -> bool:
        """Whether no text tells the two apart, so that there is nothing to detect."""
        return self.told_apart == 0

    @property
    def is_across(self) -> bool:
        """Whether the two have different base models."""
        return self.one.task != self.other.task

    @property
    def is_slight(self) -> bool:
        """Whether the two differ, but by less than delta."""
        return self.verdict == "difference" and self.adjusted_equal_p < 1 - LEVEL


@dataclass(frozen=True)
class LeftOut:
    """A method that could not be compared, and why."""

    row: Row
    reason: str


Member = Scored | LeftOut
Known = dict[tuple[str, ...], Member]  # by the chosen runs
Pair = tuple[Scored, Scored]


def compare_methods(
    rows: Sequence[Row], read: Read, *, delta: float, known: Known | None = None
) -> tuple[list[Row], list[Comparison], list[LeftOut]]:
    """Return the rows with their intervals, and the comparisons of every two methods of a table.

    Of the baselines only the base model as it is and the best on validation of the others are compared.
    Across base models on one split, the best on validation is compared with the methods of all others, as far
    as their tables are shown. Methods of different splits had other texts and are never compared; neither are
    random weights, whose answers mean nothing, nor methods that did not train. p values are adjusted over all
    comparisons of the report, those of a difference and those of equality together, and over all looks.

    Args:
        delta: the difference in accuracy within which two methods count as equal, a share.
        known: scores of earlier calls, by the runs that have them; those of this call are added.
    """
    known = {} if known is None else known
    bound, pairs, left_out = list(rows), list[Pair](), list[LeftOut]()
    judged, smaller = list[Member](), find_smaller(rows)
    tables: dict[tuple[ReportTask, str | None], list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        tables[row.task, row.memory_kind].append(place)
    for (task, _), places in tables.items():
        table = [rows[place] for place in places]
        tried = [_try_scoring(row, read, known) for row in table]
        table = bound_rows(table, [one if isinstance(one, Scored) else None for one in tried])
        for place, row in zip(places, table, strict=True):
            bound[place] = row
        members = [replace(one, row=row) for one, row in zip(tried, table, strict=True) if one]
        if task not in smaller:
            able = [member for member in members if not member.row.is_untrained]
            judged += able
            same, excluded = _choose_members(able)
            pairs += [(later, earlier) for earlier, later in combinations(same, 2)]
            left_out += excluded
    pairs += _pair_models(judged, left_out)
    return bound, compare_pairs(pairs, delta=delta, looks=count_looks(rows)), left_out


def compare_pairs(pairs: Sequence[Pair], *, delta: float, looks: int) -> list[Comparison]:
    """Compare the two methods of each pair, with p values that hold for all pairs and looks at once."""
    tests = [_test(*pair, delta=delta) for pair in pairs]
    level = 1 - (1 - LEVEL) / looks / max(1, len(pairs))
    adjusted = adjust_holm([[min(1.0, looks * p_value) for p_value in both] for both in tests])
    return [
        _compare(*pair, p_values=p_values, adjusted=both, delta=delta, level=level)
        for pair, p_values, both in zip(pairs, tests, adjusted, strict=True)
    ]


def _choose_members(members: Sequence[Member]) -> tuple[list[Scored], list[LeftOut]]:
    """Return the methods that are compared, and those that cannot be."""
    judged = _keep_best_baseline(members)
    if len(judged) < 2:
        return [], []
    same, other = _split_by_texts([one for one in judged if isinstance(one, Scored)])
    reason = "its test texts are not those of the other methods"
    excluded = [one for one in judged if isinstance(one, LeftOut)]
    return same, [*excluded, *(LeftOut(one.row, reason) for one in other)]


def _pair_models(members: Sequence[Member], left_out: list[LeftOut]) -> list[Pair]:
    """Pair the best method on validation of each split with those of other base models."""
    pairs, by_row = list[Pair](), {id(member.row): member for member in members}
    for rows in group_models([member.row for member in members]).values():
        same, excluded = _choose_members([by_row[id(row)] for row in rows])
        left_out += [one for one in excluded if one not in left_out]
        leader = choose_leader([one.row for one in same])
        for best in (one for one in same if one.row is leader):
            others = [one for one in same if one.row.has_model and one.row.task != best.row.task]
            pairs += [(one, best) for one in others]
    return pairs


def count_looks(rows: Sequence[Row]) -> int:
    """Count how often the verdicts may have been looked at while seeds were added: once where none were.

    Each p value is multiplied by it, so that no look together with the others is wrong more often than one
    alone may be (Bonferroni), whatever the verdicts before made of the seeds.

    Source: Dunn, "Multiple comparisons among means", JASA 56 (1961); its use for looks at data that come in,
    Jennison and Turnbull, Group Sequential Methods (2000), chapter 2.
    """
    chosen = (result for row in rows if row.selection for result in row.selection.results)
    in_rounds = any(read_value(result, "config.sweep.final_seeds") == "auto" for result in chosen)
    return len(LOOKS) if in_rounds else 1


def _try_scoring(row: Row, read: Read, known: Known) -> Member | None:
    """Return the method's scores, or why they are missing; None if it has none that say anything."""
    if not row.selection or row.has_random_weights:
        return None
    if row.run_ids not in known:
        try:
            known[row.run_ids] = score_method(row, read)
        except StoreError as error:
            known[row.run_ids] = LeftOut(row, str(error))
    return known[row.run_ids]


def _keep_best_baseline(members: Sequence[Member]) -> list[Member]:
    baselines = [member for member in members if member.row.baseline and not member.row.as_it_is]
    best = max(baselines, key=lambda baseline: baseline.row.validation or 0.0, default=None)
    return [member for member in members if member not in baselines or member is best]


def _split_by_texts(scored: Sequence[Scored]) -> tuple[list[Scored], list[Scored]]:
    """Split the methods into those with the most common test texts, and the others."""
    counts = Counter(one.texts for one in scored)
    usual = max(counts, key=lambda texts: counts[texts], default=None)
    return [one for one in scored if one.texts == usual], [one for one in scored if one.texts != usual]


def _test(scored: Scored, other: Scored, *, delta: float) -> tuple[float, float]:
    """Return p for no difference, and p for one of delta or more.

    The former is 1 if the two differ on too few texts for any test.
    """
    estimate, texts, seeds = subtract(scored.accuracy, other.accuracy)
    is_testable = count_apart(scored.accuracy, other.accuracy) >= FEWEST_DISCORDANT
    return (
        find_p(estimate, texts, seeds, rows=scored.rows) if is_testable else 1.0,
        find_equivalence_p(estimate, texts, seeds, rows=scored.rows, delta=delta),
    )


def count_apart(score: Score, other: Score) -> int:
    """Count the texts that one method's seeds have right more often, or less often, than the other's."""
    return int(np.count_nonzero(np.abs(score.spread - other.spread) > _ROUNDING))


def _compare(
    scored: Scored,
    other: Scored,
    *,
    p_values: Sequence[float],
    adjusted: Sequence[float],
    delta: float,
    level: float,
) -> Comparison:
    """Compare two methods; ``level`` is that of each test alone, as strict as Holm's first step."""
    rows, told_apart = scored.rows, count_apart(scored.accuracy, other.accuracy)
    estimate, texts, seeds = subtract(scored.accuracy, other.accuracy)
    accuracy = bound_difference(scored.accuracy, other.accuracy, rows=rows)
    f1_macro = bound_difference(scored.f1_macro, other.f1_macro, rows=rows)
    detectable = find_detectable(texts, seeds, rows=rows, level=level)
    if told_apart < FEWEST_DISCORDANT:
        accuracy, f1_macro = (replace(estimate, low=None, high=None) for estimate in (accuracy, f1_macro))
        detectable = None
    has_one_seed = 1 in (len(scored.row.seeds), len(other.row.seeds))
    verdict = _judge(*adjusted, has_one_seed=has_one_seed, is_alike=told_apart == 0)
    needs = None
    if verdict == "undecided" and has_one_seed:
        needs = Needs("first_seeds", seeds=FEWEST_SEEDS)
    elif verdict == "undecided":
        needs = find_needs(estimate, texts, seeds, rows=rows, delta=delta, level=level)
    return Comparison(
        one=scored.row,
        other=other.row,
        rows=rows,
        accuracy=accuracy,
        f1_macro=f1_macro,
        told_apart=told_apart,
        discordant=float(np.square(scored.accuracy.spread - other.accuracy.spread).mean()),
        error_texts=math.sqrt(texts),
        error_seeds=None if has_one_seed else math.sqrt(sum(each.error for each in seeds)),
        p_value=p_values[0],
        adjusted_p=adjusted[0],
        detectable=detectable,
        delta=delta,
        equal_p=p_values[1],
        adjusted_equal_p=adjusted[1],
        verdict=verdict,
        needs=needs,
    )


def _judge(adjusted_p: float, adjusted_equal_p: float, *, has_one_seed: bool, is_alike: bool) -> str:
    """Return the verdict; one seed of a method cannot show that it equals another."""
    if is_alike:
        return "equal"
    if adjusted_p < 1 - LEVEL:
        return "one_seed" if has_one_seed else "difference"
    return "equal" if adjusted_equal_p < 1 - LEVEL and not has_one_seed else "undecided"
