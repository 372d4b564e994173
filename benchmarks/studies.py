"""Simulated studies whose truth is known: do the intervals hold it, are the verdicts right, and how often?"""

import math
import statistics
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations, product
from multiprocessing import get_context

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from bench.config.schema import LOOKS
from bench.report.numbers.equivalence import find_equivalence_p_values
from bench.report.numbers.statistics import (
    LEVEL,
    Floats,
    Score,
    adjust_holm,
    bound_share,
    find_detectable,
    find_margin,
    find_margins,
    find_p_values,
    score_answers,
    subtract,
)
from bench.sweep.search.halving import ERROR, compute_p_values
from benchmarks.settings import ROOT, table

DOCS = ROOT / "docs" / "statistics.md"
STUDIES = 2000
ACCURACY = 0.87
# Of the variance behind an answer: what the text is to all methods, to one of them, and to one of its seeds.
# Two seeds of a method then differ in whether 5 % of the texts are right, two methods in 8 %.
PARTS = (0.89, 0.065, 0.045)
TEXTS, SEEDS, DEVIATIONS = (200, 400, 2000, 5000), (3, 5, 10, 20), (0.002, 0.01, 0.04)
METHODS = (2, 4, 8)
_MOST = max(METHODS)
HEAD = ["texts", "seeds", "deviation", "accuracy held", "difference held"]
HEAD += [f"false difference of {methods}" for methods in METHODS]
FOUND_HEAD = ["seeds", "deviation", "methods", "true difference", "found", "found, variance known"]
FOUND_HEAD += ["said to be detected", "found"]
STOPPING = list(product((2, 6, 24), (100, 400, 2000)))  # configurations and validation texts of a rung
# Between which shares of the best's expected loss those of the others exceed it.
LAGS = {"none": (0.0, 0.0), "small": (0.0, 0.05), "any": (0.0, 0.4)}
STOPPING_HEAD = ["configurations", "texts", "lag", "best dropped", "others dropped"]
DELTA = 0.01  # within which two methods count as equal
PLANTED, AMONG = (0.0, 0.01, 0.02, 0.03, 0.05), (3, 5, 10)
# Seeds of each method and how much they vary; with one seed the truth is that of the trained models.
SPREADS = ((1, 0.0), (3, 0.002), (3, 0.01))
VERDICT_HEAD = ["texts", "seeds", "deviation", "methods", "planted", "wrong better", "wrong equal"]
VERDICT_HEAD += ["any wrong", "decided among equals", "decided for the other"]
ROUNDS_HEAD = [name for name in VERDICT_HEAD if name != "seeds"] + ["seeds trained"]
_ANSWERS_AT_ONCE = 8_000_000
_LARGEST_SHIFT = 3  # deviations, to both sides: the mean over seeds stays what it is


@dataclass(frozen=True)
class Setting:
    """Studies of one kind: methods of one accuracy, but for the last, on the same texts."""

    texts: int
    seeds: Sequence[int]  # of each method; 0: it has no randomness
    deviations: Sequence[float]  # of each method's accuracy over its seeds
    worse: float = 0.0  # by which the last method is less accurate


@dataclass(frozen=True)
class Kind:
    """A setting and its first cells in a table."""

    setting: Setting
    names: Sequence[str]


def draw(setting: Setting, random: np.random.Generator) -> list[Score]:
    """Draw one study: texts, methods and seeds anew, scored as bench does."""
    common, own, single = (math.sqrt(part) for part in PARTS)
    size, scores = setting.texts, list[Score]()
    ease = common * random.standard_normal(size, dtype=np.float32)
    for place, (seeds, deviation) in enumerate(zip(setting.seeds, setting.deviations, strict=True), start=1):
        shifts = random.standard_normal(max(1, seeds)).clip(-_LARGEST_SHIFT, _LARGEST_SHIFT)
        accuracies = (
            ACCURACY - setting.worse * (place == len(setting.seeds)) + shifts * deviation * bool(seeds)
        )
        skill = ease + own * random.standard_normal(size, dtype=np.float32)
        skill = skill + single * random.standard_normal((len(shifts), size), dtype=np.float32)
        scores.append(score_answers(skill < ndtri(accuracies)[:, None]))
    return scores


def hold(setting: Setting, studies: int = STUDIES) -> list[float]:
    """Count how often the intervals hold the truth, and how often there is a false difference.

    Returns:
        Shares of the studies: the last method's accuracy is in its interval; the difference of the first and
        the last is in its; and for each of METHODS, two of so many methods are said to differ.
    """
    random, texts = np.random.default_rng(0), setting.texts
    held = np.zeros((studies, 2 + len(METHODS)))
    for study in range(studies):
        scores = draw(setting, random)
        last = scores[-1]
        low, high = bound_share(last.mean, rows=texts, texts=last.error, seeds=last.seeds)
        wrong = [
            any(is_found(*pair, texts, among) for pair in combinations(scores[:among], 2))
            for among in METHODS
        ]
        held[study] = low <= ACCURACY <= high, not is_found(scores[0], last, texts, 2), *wrong
    shares: list[float] = held.mean(axis=0).tolist()
    return shares


def find(setting: Setting, among: int, studies: int = STUDIES) -> list[float]:
    """Count how often a true difference of two methods among so many is found, and by whom.

    Returns:
        The difference; the share of the studies that find it; that of a test as strict to which the variance
        is known; the difference that bench says to find in four of five studies, as the median of them says;
        and the share of studies of such a difference that find it.
    """
    random, level = np.random.default_rng(1), raise_level(among)
    quantile = -float(ndtri((1 - level) / 2))
    same = [subtract(*draw(setting, random)) for _ in range(studies)]
    worse = (quantile - float(ndtri(0.2))) * statistics.stdev(estimate for estimate, *_ in same)
    stated = [
        find_detectable(texts, seeds, rows=setting.texts, level=level) or 1.0
        for _, texts, seeds in same[: studies // 4]
    ]
    promised = statistics.median(stated)
    found = []
    for true in (worse, promised):
        pairs = [draw(replace(setting, worse=true), random) for _ in range(studies)]
        estimates = np.array([one.mean - other.mean for one, other in pairs])
        known = np.abs(estimates) > quantile * estimates.std()
        tested = [is_found(*pair, setting.texts, among) for pair in pairs]
        found.append((float(np.mean(tested)), float(np.mean(known))))
    return [worse, *found[0], promised, found[1][0]]


def stop(members: int, texts: int, lag: str, studies: int = STUDIES) -> list[float]:
    """How often a rung's test drops the best configuration, and the share of the others that it drops."""
    random, dropped = np.random.default_rng(2), np.zeros((studies, members))
    for study in range(studies):
        worse = random.uniform(*LAGS[lag], members)
        worse[0] = 0.0
        dropped[study] = np.array(compute_p_values(draw_losses(worse, texts, random))) < ERROR
    # The first is the best; where all are equal, each is, and the mean over them says it more exactly.
    best = dropped if lag == "none" else dropped[:, :1]
    return [float(best.mean()), float(dropped[:, 1:].mean())]


def draw_losses(
    worse: Sequence[float] | npt.NDArray[np.float64], texts: int, random: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Losses of configurations whose margins share the texts' difficulty. # (configurations, texts)

    A configuration that is worse has a higher loss on each text, in proportion to what it has anyway.
    """
    shape = (len(worse), texts)
    margins = 1.0 + 1.5 * random.standard_normal(texts) + 0.7 * random.standard_normal(shape)
    losses = np.logaddexp(0.0, -2.0 * margins)
    found: npt.NDArray[np.float64] = losses * (1 + np.asarray(worse)[:, None])
    return found


def is_found(one: Score, other: Score, texts: int, among: int) -> bool:
    """Tell whether the verdict on two of so many methods is a difference, at Holm's first step."""
    estimate, error, seeds = subtract(one, other)
    return abs(estimate) > find_margin(error, seeds, rows=texts, level=raise_level(among))


def judge(setting: Setting, studies: int = STUDIES) -> list[float]:
    """Count how often a report on methods, of which the last is less accurate, says something wrong.

    Returns:
        Shares of the studies: a method is said to be better that is not; two are said to be equal, or to
        differ by less than DELTA, that differ by DELTA or more; one of both. Then shares of the comparisons
        that are decided: among the equal methods, and of these with the last.
    """
    random, judged = np.random.default_rng(2), []
    size = max(1, _ANSWERS_AT_ONCE // (setting.texts * len(setting.seeds) * max(1, *setting.seeds)))
    for start in range(0, studies, size):
        judged.append(_judge(setting, min(size, studies - start), random))
    shares: list[float] = np.concatenate(judged).mean(axis=0).tolist()
    return shares


def _judge(setting: Setting, studies: int, random: np.random.Generator) -> Floats:
    """Return what judge averages, for each of the studies, all of them at once. # (studies, 5)"""
    methods, level = len(setting.seeds), 1 - LEVEL
    estimates, variances, seeds = _measure(setting, studies, random)
    tested = _test(estimates.ravel(), variances.ravel(), seeds, setting.texts)
    adjusted = np.array([adjust_holm(one) for one in tested.reshape(studies, -1, 2).tolist()])
    differ, equal = adjusted[..., 0] < level, adjusted[..., 1] < level
    if max(setting.seeds) == 1:
        equal[:] = False  # which one seed cannot show
    with_last = np.array([other == methods - 1 for _, other in combinations(range(methods), 2)])
    truth = setting.worse * with_last  # of the first less the second
    better = differ & (np.sign(estimates) != np.sign(truth))
    same = equal & (truth >= DELTA)
    wrong = [better.any(axis=1), same.any(axis=1), (better | same).any(axis=1)]
    decided = differ | equal
    return np.stack([*wrong, *(decided[:, part].mean(axis=1) for part in (~with_last, with_last))], axis=1)


def _test(estimates: Floats, variances: Floats, seeds: tuple[Floats, Floats, Floats], texts: int) -> Floats:
    """Return both p values of each comparison, 1 in place of those that cannot be rejected. # (cases, 2)"""
    sizes, p_values, level = np.abs(estimates), np.ones((len(estimates), 2)), 1 - LEVEL
    errors, residuals, freedom = seeds
    equality = partial(find_equivalence_p_values, delta=DELTA)
    for place, (tail, room, find) in enumerate(
        ((level / 2, sizes, find_p_values), (level, DELTA - sizes, equality))
    ):
        small = find_margins(tail, variances, *seeds, rows=texts) < room
        numbers = estimates[small], variances[small], errors[small], residuals[small]
        own = freedom[small] if len(freedom) == len(estimates) else freedom
        p_values[small, place] = find(*numbers, own, rows=texts)
    return p_values


def judge_rounds(setting: Setting, studies: int = STUDIES, looks: Sequence[int] = LOOKS) -> list[float]:
    """Judge as judge does, where methods that are not told apart get more seeds, up to the last of ``looks``.

    They get them also where no number of seeds may decide, which bench does not do: it looks less often.

    Returns:
        judge's shares, and the mean number of seeds of a method, by the number that it may have at most.
    """
    random, judged = np.random.default_rng(3), []
    size = max(1, _ANSWERS_AT_ONCE // (setting.texts * len(setting.seeds) * looks[-1]))
    for start in range(0, studies, size):
        judged.append(_judge_rounds(setting, min(size, studies - start), looks, random))
    shares: list[float] = np.concatenate(judged).mean(axis=0).tolist()
    return shares


def _judge_rounds(
    setting: Setting, studies: int, looks: Sequence[int], random: np.random.Generator
) -> Floats:
    """Return what judge_rounds averages, for each of the studies, all of them at once. # (studies, 6)"""
    methods, level = len(setting.seeds), (1 - LEVEL) / len(looks)
    measured = _measure_looks(draw_answers(setting, looks[-1], studies, random), looks)
    one, other = map(np.array, zip(*combinations(range(methods), 2), strict=True))
    places, last = np.zeros((studies, methods), dtype=np.int64), len(looks) - 1  # of each method in looks
    shape = (studies, len(one))
    estimates, differ, equal = np.zeros(shape), np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    for _ in looks:
        left = np.flatnonzero(~(differ | equal).all(axis=1))
        estimates[left], tested = _test_looks(measured, left, places, (one, other), setting.texts, looks)
        adjusted = np.array([adjust_holm(pairs) for pairs in tested.tolist()]).reshape(-1, len(one), 2)
        differ[left], equal[left] = adjusted[..., 0] < level, adjusted[..., 1] < level
        undecided = ~(differ | equal)
        more = np.stack(
            [undecided[:, (one == method) | (other == method)].any(axis=1) for method in range(methods)],
            axis=1,
        )
        places = np.minimum(places + more, last)
    with_last, truth = other == methods - 1, setting.worse * (other == methods - 1)
    better, same = differ & (np.sign(estimates) != np.sign(truth)), equal & (truth >= DELTA)
    wrong = [better.any(axis=1), same.any(axis=1), (better | same).any(axis=1)]
    decided = [(differ | equal)[:, part].mean(axis=1) for part in (~with_last, with_last)]
    return np.stack([*wrong, *decided, np.array(looks)[places].mean(axis=1) / looks[-1]], axis=1)


def draw_answers(
    setting: Setting, seeds: int, studies: int, random: np.random.Generator
) -> npt.NDArray[np.bool_]:
    """Draw whether answers are right, of methods with so many seeds. # (studies, methods, seeds, texts)"""
    common, own, single = (math.sqrt(part) for part in PARTS)
    methods, size = len(setting.seeds), setting.texts

    def normal(*shape: int) -> npt.NDArray[np.float32]:
        return random.standard_normal(shape, dtype=np.float32)

    shifts = random.standard_normal((studies, methods, seeds)).clip(-_LARGEST_SHIFT, _LARGEST_SHIFT)
    accuracies = ACCURACY + shifts * np.array(setting.deviations)[:, None]
    accuracies[:, -1] -= setting.worse
    skill = single * normal(studies, methods, seeds, size)
    skill += common * normal(studies, 1, 1, size) + own * normal(studies, methods, 1, size)
    return skill < ndtri(accuracies)[..., None].astype(np.float32)


@dataclass(frozen=True)
class Looks:
    """What studies measured of each method with as many seeds as each look has."""

    means: Floats  # (studies, looks, methods)
    products: (
        Floats  # of the methods' shares of each text, about their means # (studies, looks * methods, same)
    )
    errors: Floats  # (studies, looks, methods)
    residuals: Floats  # (studies, looks, methods)


def _measure_looks(right: npt.NDArray[np.bool_], looks: Sequence[int]) -> Looks:
    studies, methods, _, size = right.shape
    scores = right.mean(axis=3)  # (studies, methods, seeds)
    shares = np.stack([right[:, :, :count].mean(axis=2, dtype=np.float32) for count in looks], axis=1)
    flat = shares.reshape(studies, -1, size)  # (studies, looks * methods, texts)
    flat -= flat.mean(axis=2, keepdims=True)
    products = (flat @ flat.swapaxes(1, 2)).astype(np.float64) / (size - 1)
    own = np.einsum("sll->sl", products).reshape(studies, len(looks), methods)
    means, errors, residuals = [], [], []
    for place, count in enumerate(looks):
        some = scores[:, :, :count]
        means.append(some.mean(axis=2))
        errors.append(some.var(axis=2, ddof=1) / count)
        chance = (some * (1 - some)).mean(axis=2) / (size - 1) - own[:, place] / size
        residuals.append(np.maximum(0, chance) / (count - 1))
    return Looks(np.stack(means, axis=1), products, np.stack(errors, axis=1), np.stack(residuals, axis=1))


def _test_looks(
    measured: Looks,
    left: npt.NDArray[np.int64],
    places: npt.NDArray[np.int64],
    pairs: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]],
    texts: int,
    looks: Sequence[int],
) -> tuple[Floats, Floats]:
    """Return the differences in some of the studies, and both p values. # (left, pairs), (left, pairs, 2)"""
    methods, rows = measured.means.shape[2], left[:, None]
    chosen = [(places[rows, side], side) for side in pairs]  # of each side its look, and which method it is
    (look, one), (other_look, other) = chosen
    flat = [look * methods + one, other_look * methods + other]
    products = measured.products
    variances = sum(products[rows, side, side] for side in flat) - 2 * products[rows, flat[0], flat[1]]
    estimates = measured.means[rows, look, one] - measured.means[rows, other_look, other]
    both = [
        np.stack([part[rows, place, side] for place, side in chosen], axis=2).reshape(-1, 2)
        for part in (measured.errors, measured.residuals)
    ]
    freedom = np.stack([np.array(looks)[place] - 1.0 for place, _ in chosen], axis=2).reshape(-1, 2)
    tested = _test(estimates.ravel(), variances.ravel() / texts, (both[0], both[1], freedom), texts)
    return estimates, tested.reshape(*estimates.shape, 2)


def _measure(
    setting: Setting, studies: int, random: np.random.Generator
) -> tuple[Floats, Floats, tuple[Floats, Floats, Floats]]:
    """Return the differences of all pairs of methods in each study, with their variances as estimated.

    Returns:
        The difference and its variance over texts; and of the seeds of both methods error, residual and
        degrees of freedom, as find_margins takes them. # (studies, pairs) twice, (studies * pairs, 2) thrice
    """
    methods, count, size = len(setting.seeds), setting.seeds[0], setting.texts
    right = draw_answers(setting, count, studies, random)
    scores, shares = right.mean(axis=3), right.mean(axis=2, dtype=np.float32)
    shares -= shares.mean(axis=2, keepdims=True)
    products = (shares @ shares.swapaxes(1, 2)).astype(np.float64) / (size - 1)  # (studies, methods, methods)
    own_variances = np.einsum("smm->sm", products)
    one, other = map(list, zip(*combinations(range(methods), 2), strict=True))
    variances = own_variances[:, one] + own_variances[:, other] - 2 * products[:, one, other]
    means = scores.mean(axis=2)
    estimates = means[:, one] - means[:, other]
    if count == 1:
        none = np.zeros((estimates.size, 0))
        return estimates, variances / size, (none, none, none[:1])
    chance = (scores * (1 - scores)).mean(axis=2) / (size - 1) - own_variances / size
    errors, residuals = scores.var(axis=2, ddof=1) / count, np.maximum(0, chance) / (count - 1)
    both = [np.stack([part[:, one], part[:, other]], axis=2).reshape(-1, 2) for part in (errors, residuals)]
    return estimates, variances / size, (*both, np.full((1, 2), count - 1.0))


def raise_level(among: int) -> float:
    """Return the level of one comparison among those of so many methods."""
    return 1 - (1 - LEVEL) / math.comb(among, 2)


def report(*, short: bool) -> str:
    """Write the section; a run that is not short writes the tables into docs/statistics.md, their page."""
    studies = STUDIES // 20 if short else STUDIES
    alike, unlike = _list_alike(), _list_unlike()
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        held = list(pool.map(partial(hold, studies=studies), [one.setting for one in (*alike, *unlike)]))
        parts = {
            "alike": _tabulate_holding(alike, held[: len(alike)]),
            "unlike": _tabulate_holding(unlike, held[len(alike) :]),
            "power": _tabulate_finding(pool, studies),
            "stopping": _tabulate_stopping(pool, studies),
        }
        kinds = _list_verdicts()
        judged = list(pool.map(partial(judge, studies=studies), [one.setting for one in kinds]))
        parts["verdicts"] = _tabulate_holding(kinds, judged, head=VERDICT_HEAD)
        in_rounds = _list_rounds()
        judged_rounds = list(
            pool.map(partial(judge_rounds, studies=studies), [one.setting for one in in_rounds])
        )
        parts["rounds"] = _tabulate_holding(in_rounds, judged_rounds, head=ROUNDS_HEAD)
    if not short:
        page = DOCS.read_text(encoding="utf-8")
        for name, part in parts.items():
            page = fill(page, name, part)
        DOCS.write_text(page, encoding="utf-8")
    count = len(held) + len(judged) + len(judged_rounds)
    said = [f"{studies:,} studies of each of {count} kinds; docs/statistics.md has them all. In percent:"]
    rows = [
        [name, f"{100 * min(some):.1f}", f"{100 * max(some):.1f}"]
        for head, shares in (
            (HEAD[3:], held),
            (VERDICT_HEAD[5:], judged),
            ([f"{name}, seeds in rounds" for name in ROUNDS_HEAD[4:]], judged_rounds),
        )
        for name, some in zip(head, zip(*shares, strict=True), strict=True)
    ]
    said.append(table(["", "least", "most"], rows))
    return "\n\n".join(["## Intervals and verdicts", *said, *(parts.values() if short else ())])


def fill(page: str, name: str, part: str) -> str:
    """Return the page with the part between the comments of this name."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, begun, rest = page.partition(begin)
    _, ended, after = rest.partition(end)
    if not begun or not ended:
        raise SystemExit(f"docs/statistics.md: has no {begin} ... {end} to write between")
    return f"{before}{begin}\n{part}\n{end}{after}"


def _list_alike() -> list[Kind]:
    """List studies whose methods have as many seeds, which vary as much."""
    return [
        Kind(
            Setting(texts, [seeds] * _MOST, [deviation] * _MOST),
            [f"{texts:,}", str(seeds), f"{100 * deviation:.1f}"],
        )
        for texts, seeds, deviation in product(TEXTS, SEEDS, DEVIATIONS)
    ]


def _list_unlike() -> list[Kind]:
    """List studies whose methods differ in their seeds, or how much these vary."""
    half, (low, middle, high) = _MOST // 2, DEVIATIONS
    designs: Sequence[tuple[str, str, Sequence[int], Sequence[float]]] = [
        ("3", "0.2, 4.0, ...", [3] * _MOST, [low, high] * half),
        ("3", "0.5, 1.5, ...", [3] * _MOST, [0.005, 0.015] * half),
        ("3", "1.0, ..., 3.0", [3] * _MOST, [middle] * (_MOST - 1) + [0.03]),
        ("10", "0.2, 4.0, ...", [10] * _MOST, [low, high] * half),
        ("3, 20, ...", "1.0", [3, 20] * half, [middle] * _MOST),
        ("3, 20, ...", "4.0", [3, 20] * half, [high] * _MOST),
        ("20, 3, ...", "0.2, 4.0, ...", [20, 3] * half, [low, high] * half),
        ("any, 3, ..., 3", "1.0", [0] + [3] * (_MOST - 1), [middle] * _MOST),
        ("any, 3, ..., 3", "4.0", [0] + [3] * (_MOST - 1), [high] * _MOST),
    ]
    return [
        Kind(Setting(texts, seeds, deviations), [f"{texts:,}", said, varying])
        for texts in (200, 2000)
        for said, varying, seeds, deviations in designs
    ]


def _tabulate_holding(
    kinds: Sequence[Kind], held: Sequence[Sequence[float]], head: Sequence[str] = HEAD
) -> str:
    rows = [
        [*kind.names, *(f"{100 * share:.1f}" for share in shares)]
        for kind, shares in zip(kinds, held, strict=True)
    ]
    return table(head, rows)


def _tabulate_finding(pool: ProcessPoolExecutor, studies: int) -> str:
    kinds = list(product(SEEDS, DEVIATIONS, METHODS))
    settings = [Setting(1000, [seeds] * 2, [deviation] * 2) for seeds, deviation, _ in kinds]
    found = pool.map(partial(find, studies=studies), settings, [among for *_, among in kinds])
    rows = [
        [
            *(str(seeds), f"{100 * deviation:.1f}", str(among)),
            *(f"{100 * number:.{digits}f}" for number, digits in zip(numbers, (1, 0, 0, 1, 0), strict=True)),
        ]
        for (seeds, deviation, among), numbers in zip(kinds, found, strict=True)
    ]
    return table(FOUND_HEAD, rows)


def _tabulate_stopping(pool: ProcessPoolExecutor, studies: int) -> str:
    kinds = [(members, texts, lag) for members, texts in STOPPING for lag in LAGS]
    found = pool.map(partial(stop, studies=studies), *zip(*kinds, strict=True))
    rows = [
        [*map(str, kind), *(f"{100 * share:.1f}" for share in shares)]
        for kind, shares in zip(kinds, found, strict=True)
    ]
    return table(STOPPING_HEAD, rows)


def _list_verdicts() -> list[Kind]:
    """List studies of methods of which the last is less accurate by a planted difference."""
    kinds = list(product(SPREADS, (400, 2000), AMONG, PLANTED))
    # with fewer texts hardly anything can be shown to be equal
    kinds += product(SPREADS[1:2], (20_000,), AMONG[:1], PLANTED[:2])
    return [
        Kind(
            Setting(texts, [seeds] * among, [deviation] * among, worse=planted),
            [f"{texts:,}", str(seeds), f"{100 * deviation:.1f}", str(among), f"{100 * planted:.0f}"],
        )
        for (seeds, deviation), texts, among, planted in kinds
    ]


def _list_rounds() -> list[Kind]:
    """List the studies of _list_verdicts that have several seeds, which come in rounds here."""
    return [
        Kind(one.setting, [name for place, name in enumerate(one.names) if place != 1])
        for one in _list_verdicts()
        if one.setting.seeds[0] > 1
    ]
