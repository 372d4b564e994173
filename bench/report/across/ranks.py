"""Methods over several data sets: mean ranks, and whether these differ by more than chance; pure numbers.

Each data set counts once, however many texts it has: the question is what to expect of another data set.
Source: Demsar, "Statistical comparisons of classifiers over multiple data sets", JMLR 7 (2006).
"""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.report.numbers.rows import ReportTask, Row
from bench.report.numbers.statistics import LEVEL, Floats

FEWEST = 6  # data sets: with five even a method that is ahead on all is so by chance with p = 6 %
_MOST_EXACT = 12  # data sets, of whose differences all signs are tried
_ROUNDING = 9  # decimals of an accuracy, so that only a true difference shows

Name = tuple[str, str | None]  # method and revision of its base model; None: it has none


@dataclass(frozen=True)
class RankTest:
    """A test of the hypothesis that all methods have the same mean rank."""

    name: str  # friedman | wilcoxon, which is for two methods
    p_value: float
    statistic: float | None  # Friedman's chi squared
    critical: float | None  # Nemenyi: mean ranks further apart than this differ


@dataclass(frozen=True)
class Contender:
    """One method, with one base model, on all data sets."""

    rows: Sequence[Row]  # on each data set
    mean_rank: float  # 1 is the best; equals share the mean of their ranks
    wins: int  # data sets on which no other is more accurate


@dataclass(frozen=True)
class Ranking:
    """The methods that have results on all data sets, the best mean rank first."""

    tasks: Sequence[ReportTask]  # one of each data set
    contenders: Sequence[Contender]
    left_out: Sequence[Row]  # one row of each trained method that lacks a data set
    test: RankTest | None  # None: there are fewer than FEWEST data sets, or than two methods


def rank_methods(rows: Sequence[Row]) -> Ranking | None:
    """Rank the methods that have results on several data sets; None if there is only one data set."""
    tasks = _choose_splits(rows)
    if len(tasks) < 2:
        return None
    places = {task.fingerprint: place for place, task in enumerate(tasks)}
    found: dict[Name, dict[int, Row]] = defaultdict(dict)
    shown: dict[Name, Row] = {}
    for row in rows:
        name = (row.method, row.task.revision if row.has_model else None)
        if row.task.fingerprint in places and _is_known(row):
            found[name].setdefault(places[row.task.fingerprint], row)
        if not row.baseline:
            shown.setdefault(name, row)
    members_of = [
        [members[place] for place in range(len(tasks))]
        for members in found.values()
        if len(members) == len(tasks)
    ]
    whole = _keep_best_baseline(members_of)
    left_out = [row for name, row in shown.items() if len(found[name]) < len(tasks)]
    if not whole:
        return Ranking(tasks, [], left_out, None)
    scores = np.array([[row.accuracy.mean if row.accuracy else 0.0 for row in same] for same in whole])
    scores = scores.round(_ROUNDING)  # (methods, data sets)
    ranks, best = rank_scores(scores), scores.max(axis=0)
    contenders = [
        Contender(same, mean_rank=float(own.mean()), wins=int((score == best).sum()))
        for same, own, score in zip(whole, ranks, scores, strict=True)
    ]
    contenders.sort(key=lambda one: one.mean_rank)
    return Ranking(tasks, contenders, left_out, compare_ranks(scores))


def _choose_splits(rows: Sequence[Row]) -> list[ReportTask]:
    """Choose one split of each data set, that of the most methods: splits of the same texts are not apart."""
    counts = Counter(row.task.fingerprint for row in rows if _is_known(row))
    chosen: dict[str, ReportTask] = {}
    for row in rows:
        best = chosen.setdefault(row.task.origin.data_set, row.task)
        if counts[row.task.fingerprint] > counts[best.fingerprint]:
            chosen[row.task.origin.data_set] = row.task
    return list(chosen.values())


def _is_known(row: Row) -> bool:
    return row.accuracy is not None and not row.has_random_weights and not row.is_untrained


def _keep_best_baseline(whole: Sequence[Sequence[Row]]) -> list[Sequence[Row]]:
    """Keep of the methods that fit no network the best on validation, and the base model as it is."""

    def validate(rows: Sequence[Row]) -> float:
        return math.fsum(row.validation or 0.0 for row in rows)

    baselines = [same for same in whole if same[0].baseline and not same[0].as_it_is]
    best = max(baselines, key=validate, default=None)
    return [same for same in whole if same not in baselines or same is best]


def rank_scores(scores: Floats) -> Floats:
    """Rank the methods on each data set, the highest score first. # (methods, data sets)"""
    from scipy import stats

    ranks: Floats = stats.rankdata(-scores, axis=0)
    return ranks


def compare_ranks(scores: Floats) -> RankTest | None:
    """Test whether methods differ over data sets, if these are enough for a difference to show.

    Two methods by Wilcoxon's signed-rank test, more by Friedman's test and, if it rejects, by Nemenyi's
    critical difference of mean ranks.

    Args:
        scores: of each method on each data set. # (methods, data sets)
    """
    methods, count = scores.shape
    if methods < 2 or count < FEWEST:
        return None
    from scipy import stats

    if methods == 2:
        return RankTest("wilcoxon", find_wilcoxon_p(scores[0] - scores[1]), None, None)
    if (scores == scores[0]).all():
        return RankTest("friedman", 1.0, 0.0, None)
    friedman = stats.friedmanchisquare(*scores)
    quantile = stats.studentized_range.ppf(LEVEL, methods, math.inf) / math.sqrt(2)
    critical = float(quantile) * math.sqrt(methods * (methods + 1) / (6 * count))
    p_value = float(friedman.pvalue)
    return RankTest("friedman", p_value, float(friedman.statistic), critical if p_value < 1 - LEVEL else None)


def find_wilcoxon_p(differences: Floats) -> float:
    """Return the two-sided p of Wilcoxon's signed-rank test; of few data sets exactly, also with equals."""
    from scipy import stats

    differences = differences[differences != 0]
    if not len(differences):
        return 1.0
    exact = stats.PermutationMethod(n_resamples=2**_MOST_EXACT)
    method = exact if len(differences) <= _MOST_EXACT else "auto"
    return float(stats.wilcoxon(differences, method=method).pvalue)


def find_least_p(count: int) -> float:
    """Return the least p that two methods can have on so many data sets: one is ahead on all of them."""
    return float(2.0 ** (1 - count))
