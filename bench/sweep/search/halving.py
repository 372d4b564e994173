"""Successive halving: all configurations for a few steps, the better half for more, and so on. Pure.

A configuration is named by the run_id of its whole training. Each of its rungs is a run of its own, which
resumes the rung before and so trains only the difference. Source: Jamieson and Talwalkar, arXiv:1502.07943.
Beside those that leave by rank, those leave that can hardly be the best, by compute_p_values.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import stdtr

from bench.config.identity import describe
from bench.config.overrides import override_line
from bench.config.schema import replace_values
from bench.csv_text import to_csv
from bench.errors import ConfigError
from bench.sweep.plan import Identify, Point

ETA = 2  # each rung trains so many times as long as the one before
KEPT = 4  # of many configurations one in so many goes on by rank; of four or fewer the better half
FIRST_SHARE = 7  # the first rung is the total steps over this
ERROR = 0.01  # at most: the probability that a rung's test drops the configuration that is the best there
VERDICTS = "halving.csv"  # beside runs/: what each rung said of each of its runs
_HEADER = ("run_id", "run", "step", "max_steps", "select_by", "score", "loss", "p_best", "verdict")
GOES_ON, BY_RANK, BY_TEST, FAILED = "goes on", "left by rank", "left by test", "no success"


@dataclass(frozen=True)
class Verdict:
    """What a rung says of a configuration: one of GOES_ON, BY_RANK, BY_TEST, FAILED."""

    score: float | None
    loss: float | None
    p_best: float | None  # of compute_p_values, where it could be made
    says: str


def find_rungs(group: Sequence[Point]) -> list[int]:
    """Return the steps at which the rungs of competing points end; at evaluations, where these come often.

    Raises:
        ConfigError: as rungs.
    """
    train = group[0].config.train
    total = train.max_steps or 0
    first = math.ceil(total / FIRST_SHARE)
    if train.eval_steps <= first:
        first -= first % train.eval_steps
    return rungs(total, first_steps=first)


def rungs(total_steps: int, *, eta: int = ETA, first_steps: int | None = None) -> list[int]:
    """Return the step at which each rung ends, the last at ``total_steps``: 43, 86, 172, 300 for 300.

    ``first_steps`` is a seventh of the total unless it is given.

    Raises:
        ConfigError: no steps, or rungs that would not grow.
    """
    first = math.ceil(total_steps / FIRST_SHARE) if first_steps is None else first_steps
    for name, value, least in (("total_steps", total_steps, 1), ("first_steps", first, 1), ("eta", eta, 2)):
        if value < least:
            raise ConfigError(f"halving {name}={value}: must be at least {least}")
    ends = []
    while first < total_steps:
        ends.append(first)
        first *= eta
    return [*ends, total_steps]


def group_points(points: Sequence[Point]) -> list[list[Point]]:
    """Group the points that compete: those of one method on one task, so that each method keeps a survivor.

    Seeds do not compete, as the luckiest would win, nor do trainings of different lengths, which share no
    last rung. A baseline has no steps to halve: it is a group of its own, and a group of one goes straight to
    the end.
    """
    groups: dict[tuple[Any, ...], list[Point]] = {}
    for point in points:
        groups.setdefault(_rivals(point), []).append(point)
    return list(groups.values())


def count_survivors(count: int) -> int:
    """Return how many of ``count`` go on to the next rung by rank: one in KEPT, but at least two of three."""
    return min(math.ceil(count / 2), max(2, math.ceil(count / KEPT)))


def survivors(
    scores: Mapping[str, float | None], *, keep: int, losses: Mapping[str, float | None] | None = None
) -> list[str]:
    """Return the keys with the highest validation scores, best first; ties go to the lower loss, then key.

    A run that failed has the score None and never survives. At least one other does, so that no method is
    lost.
    """
    losses = losses or {}

    def rank(key: str) -> tuple[float, float, str]:
        score, loss = scores[key], losses.get(key)
        return -(score or 0.0), loss if _is_known(loss) and loss is not None else math.inf, key

    succeeded = sorted((key for key, score in scores.items() if _is_known(score)), key=rank)
    return succeeded[: max(keep, 1)]


def compute_p_values(losses: npt.NDArray[np.float64]) -> list[float]:
    """Test for each configuration that its expected loss is the least, and return the p-values.

    Each is compared with every other by a one-sided t-test of the losses on the same texts, and Bonferroni's
    inequality (Dunn, J. Am. Stat. Assoc. 56 (1961) 52) makes one p-value of its smallest: the best has a
    p-value below ``ERROR`` with at most that probability, however many tie with it, so that what stays is a
    subset that holds the best (Gupta, Technometrics 7 (1965) 225).

    Args:
        losses: of each configuration on the same texts. # (configurations, texts)
    """
    count, texts = losses.shape
    if count < 2 or texts < 2:
        return [1.0] * count
    means, covariance = losses.mean(axis=1), np.cov(losses) / texts  # of the means
    variances = covariance.diagonal()
    squares = variances[:, None] + variances - 2 * covariance  # errors of the differences
    alike = squares <= 1e-12 * variances.max()  # right on the same texts, and wrong
    lags = (means[:, None] - means) / np.sqrt(np.where(alike, np.inf, squares))
    smallest = stdtr(texts - 1, -lags.max(axis=1))
    return [min(1.0, (count - 1) * float(p)) for p in smallest]


def judge(
    scores: Mapping[str, float | None],
    losses: Mapping[str, float | None],
    *,
    keep: int,
    p_best: Mapping[str, float],
) -> dict[str, Verdict]:
    """Judge each configuration of a rung: the ``keep`` best by rank go on unless they can hardly be the best.

    The first by rank always does.

    Args:
        p_best: compute_p_values's values, of those that have one
    """
    ranked = survivors(scores, keep=keep, losses=losses)

    def say(key: str) -> str:
        if not _is_known(scores[key]):
            return FAILED
        if key not in ranked:
            return BY_RANK
        return BY_TEST if key != ranked[0] and p_best.get(key, 1.0) < ERROR else GOES_ON

    return {key: Verdict(scores[key], losses.get(key), p_best.get(key), say(key)) for key in scores}


def tell_rung(rung: Sequence[tuple[Point, Verdict]]) -> list[str]:
    """Tell in lines how many runs of a rung go on, and which left and why."""
    first, says = rung[0][0].config, [verdict.says for _, verdict in rung]
    counts = ", ".join(f"{says.count(word)} {word}" for word in (BY_RANK, BY_TEST, FAILED) if word in says)
    lines = [
        f"halving {first.method.name}, step {first.train.stop_step} of {first.train.max_steps}: "
        f"{says.count(GOES_ON)} of {len(rung)} go on" + (f", {counts}" if counts else "")
    ]
    for run, verdict in rung:
        if verdict.says in (BY_RANK, BY_TEST):
            known = {first.sweep.select_by: verdict.score, "loss": verdict.loss, "p": verdict.p_best}
            numbers = ", ".join(f"{name} {value:.4g}" for name, value in known.items() if value is not None)
            lines.append(f"  {verdict.says}: {run.run_id} {describe(run.config)}: {numbers}")
    return lines


def add_verdicts(before: str, rung: Sequence[tuple[Point, Verdict]]) -> str:
    """Add a rung's verdicts to the rows of ``VERDICTS``, in place of earlier ones of the same runs.

    Rows that name no run are left out: the file was changed.
    """
    earlier = csv.DictReader(before.splitlines())
    rows = {row["run_id"]: [row.get(name) for name in _HEADER] for row in earlier if row.get("run_id")}
    for run, verdict in rung:
        train, named = run.config.train, describe(run.config)
        numbers = (verdict.score, verdict.loss, verdict.p_best)
        rows[run.run_id] = [
            *(run.run_id, named, train.stop_step, train.max_steps, run.config.sweep.select_by),
            *(None if number is None else f"{number:.6g}" for number in numbers),
            verdict.says,
        ]
    return to_csv(_HEADER, rows.values())


def plan_rung(
    points: Sequence[Point],
    *,
    steps: int,
    total_steps: int,
    previous: Mapping[str, str],
    identify: Identify,
) -> list[Point]:
    """Plan the points as runs that end at ``steps``, each from where its run of the rung before stopped.

    ``previous`` maps a point's run_id to that run's; a point that it lacks starts anew. The last rung's
    runs have the points' own run_ids: resumed or not, it is the same training.
    """
    stop = steps if steps < total_steps else None
    planned = []
    for point in points:
        values: dict[str, Any] = {"train.stop_step": stop}
        if point.run_id in previous:
            values["resume_from"] = previous[point.run_id]
        config = replace_values(point.config, values)
        kept = [line for line in point.overrides if line.lstrip("+").partition("=")[0] not in values]
        lines = (*kept, *(override_line(key, value) for key, value in values.items()))
        planned.append(Point(lines, config, identify(config)))
    return planned


def count_by_rung(count: int, *, rungs: Sequence[float]) -> list[int]:
    """Return how many of ``count`` configurations train in each rung, if none fails."""
    counts = [count]
    while len(counts) < len(rungs):
        counts.append(count_survivors(counts[-1]))
    return counts


def budget(rungs: Sequence[float], counts: Sequence[int]) -> float:
    """Count what all rungs cost with ``counts`` runs; a resumed run costs the difference.

    ``rungs`` says what a run costs up to the end of each, in steps or in hours.
    """
    starts = [0.0, *rungs[:-1]]
    return sum(count * (end - start) for count, start, end in zip(counts, starts, rungs, strict=True))


def count_cost(ends: Sequence[float], count: int, *, is_packed: bool) -> float:
    """Count what the rungs of ``count`` configurations cost; the last one left after a pack begins anew.

    ``ends`` says what a run costs up to the end of each rung, in steps or in time.
    """
    if count == 1:
        return ends[-1]
    counts = count_by_rung(count, rungs=ends)
    if not is_packed:
        return budget(ends, counts)
    rivals = [rung for rung in counts if rung > 1]
    return budget(ends[: len(rivals)], rivals) + ends[-1]


def _rivals(point: Point) -> tuple[Any, ...]:
    """Return what the points of a group have in common."""
    config, canonical = point.config, point.identity.canonical
    if config.method.estimator != "network":
        return (point.run_id,)
    task = (canonical["data"]["fingerprint"], canonical["model"]["revision"])
    return (*task, config.method.name, config.seed, config.train.max_steps, config.train.epochs)


def _is_known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
