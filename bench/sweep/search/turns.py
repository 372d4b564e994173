"""Turns: which configuration trains next while a sweep's hours last. Pure.

What trains nothing goes first, as it takes next to no time. Then it is always the turn of the method on which
the least time was spent so far, so that none is searched for longer than another by more than a turn. Each
begins in the middle of its axes and goes outwards. A turn is one run, or a pack of as many as fit into the
method's share of what is left.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from bench.config.identity import describe
from bench.report.cells import flatten
from bench.report.numbers.budget import Untried, read_untried, write_untried
from bench.results.selection import MethodKey
from bench.sweep.packing import FEWEST
from bench.sweep.plan import Plan, Point
from bench.sweep.search import halving
from bench.sweep.search.hours import Taken, TimeBudget

Queues = dict[MethodKey, list[Point]]  # of each method what it has not tried, in the order of its turns
Launch = Callable[[Sequence[Point]], bool]  # given points: whether the sweep goes on


def queue_points(plan: Plan, tried: Collection[str] = ()) -> Queues:
    """Queue the points of each method: what the plan puts first, then from the middle of its axes outwards.

    Those in ``tried``, run_ids, come last: they were tried before, without success.
    """
    ahead = {point.run_id for point in plan.points[: plan.first]}
    queues: Queues = {}
    for point in plan.points:
        queues.setdefault(point.method_key, []).append(point)
    for points in queues.values():
        distances = measure_distances(points)
        points.sort(
            key=lambda point: (point.run_id in tried, point.run_id not in ahead, distances[point.run_id])
        )
    return queues


def measure_distances(points: Sequence[Point]) -> dict[str, float]:
    """Measure how far each of a method's points is from the middle of the axes, by run_id.

    On each axis of numbers the distance is that of its places in order, 0 in the middle and 1 at both ends.
    Seeds and folds are no axes.
    """
    leaves = [flatten(point.identity.canonical) for point in points]
    distances = dict.fromkeys((point.run_id for point in points), 0.0)
    for path in leaves[0]:
        numbers = [leaf.get(path) for leaf in leaves]
        if path in ("seed", "data.fold") or not all(type(number) in (int, float) for number in numbers):
            continue
        values = sorted({float(number) for number in numbers if number is not None})
        middle = (len(values) - 1) / 2
        for point, number in zip(points, numbers, strict=True):
            distances[point.run_id] += abs(values.index(float(number or 0)) - middle) / (middle or 1.0)
    return distances


def search(
    queues: Queues, budget: TimeBudget, *, limits: Mapping[str, int], launch: Launch, halve: Launch
) -> bool:
    """Search within the hours: one run of each method, then turns or halving; return False as take_turns.

    What was tried leaves its queue.

    Args:
        limits: by run_id, how many runs may train together with a run.
        launch, halve: train the points to the end, or those that do well on the way.
    """
    if budget.settings.strategy != "halving":
        return take_turns(queues, budget, limits=limits, launch=launch)
    return take_turns(queues, budget, limits=limits, launch=launch, once=True) and halve_in_turn(
        queues, budget, limits=limits, halve=halve
    )


def take_turns(
    queues: Queues, budget: TimeBudget, *, limits: Mapping[str, int], launch: Launch, once: bool = False
) -> bool:
    """Launch turn after turn as long as the next one ends in time; return False if a launch ends the sweep.

    Args:
        once: only the first turn of each method.
    """
    baselines = budget.afford(point for queue in queues.values() for point in queue if not point.is_trained)
    leave(queues, baselines)
    go_on = launch(baselines)
    while go_on and (wave := choose_wave(queues, budget, limits=limits, once=once)):
        leave(queues, wave)
        go_on = launch(wave)
    return go_on


def choose_wave(
    queues: Mapping[MethodKey, Sequence[Point]],
    budget: TimeBudget,
    *,
    limits: Mapping[str, int],
    once: bool = False,
) -> list[Point]:
    """Choose the points of the next turns, as many as train at once; none if nothing more ends in time."""
    spent, wave, taken = budget.count_spent(), list[Point](), set[str]()
    for _ in range(budget.slots):
        waiting = {
            key: left
            for key, queue in queues.items()
            if (left := [point for point in queue if point.is_trained and point.run_id not in taken])
            and not (once and key in spent)
        }
        for key in _order(waiting, budget, spent):
            turn = _fit_turn(
                waiting[key], budget, limits=limits, is_first=key not in spent, share=1 / len(waiting)
            )
            if turn:
                wave += turn
                taken |= {point.run_id for point in turn}
                spent[key] = spent.get(key, 0.0) + sum(budget.expect(point) or 0.0 for point in turn)
                break
    return wave


def _order(
    waiting: Mapping[MethodKey, Sequence[Point]], budget: TimeBudget, spent: Mapping[MethodKey, float]
) -> list[MethodKey]:
    """Order methods by the time spent on them; before these come untried ones, by what they compute."""

    def rank(key: MethodKey) -> tuple[bool, float]:
        return key in spent, spent[key] if key in spent else budget.count_work(waiting[key][0]) or 0.0

    return sorted(waiting, key=rank)


def _fit_turn(
    queue: Sequence[Point], budget: TimeBudget, *, limits: Mapping[str, int], is_first: bool, share: float
) -> list[Point]:
    """Return the method's next turn, or nothing if it would not end in time.

    Its first run comes before what is kept for the final seeds, which have to be of something.
    """
    first, left = queue[0], budget.left
    seconds, room = budget.expect(first), left if is_first else left - budget.reserve()
    if room <= 0 or (seconds or 0.0) > room:
        return []
    if is_first or not seconds:
        return [first]
    room = share * (left - budget.reserve(packed=first.method_key))
    members, limit = list[Point](), limits.get(first.run_id, 1)
    for point in queue[:limit]:
        room -= budget.expect(point) or seconds
        if room < 0:
            break
        members.append(point)
    return members if limit > 1 and len(members) >= min(FEWEST, limit) else [first]


def halve_in_turn(queues: Queues, budget: TimeBudget, *, limits: Mapping[str, int], halve: Launch) -> bool:
    """Halve what is queued, the same time for each group of rivals; return False as in take_turns.

    Of each group as many as are expected to fit into its time take part, those nearest to the middle.
    """
    groups = halving.group_points([point for queue in queues.values() for point in queue if point.is_trained])
    for place, group in enumerate(groups):
        share = (budget.left - budget.reserve()) * budget.slots / (len(groups) - place)
        chosen = group if share > 0 else []
        while chosen and _count_cost(chosen, budget, limits) > share:
            chosen = chosen[:-1]
        leave(queues, chosen)
        if chosen and not halve(chosen):
            return False
    return True


def _count_cost(group: Sequence[Point], budget: TimeBudget, limits: Mapping[str, int]) -> float:
    """Return the seconds that the rungs of a group take, one run after the other; 0 where it is unknown."""
    first, ends = group[0], halving.find_rungs(group)
    whole = budget.expect(first) or 0.0
    times = [whole * steps / ends[-1] for steps in ends]
    return halving.count_cost(times, len(group), is_packed=limits.get(first.run_id, 1) > 1)


def rehearse(plan: Plan, budget: TimeBudget, *, limits: Mapping[str, int]) -> Queues | None:
    """Return what would stay untried if each run took as long as expected; None if that is unknown of one.

    ``budget`` knows what its runs took before; it is left as if the sweep had ended.
    """
    now = budget.clock()
    budget.clock = lambda: now
    queues, before = queue_points(plan, budget.taken), [one.point for one in budget.taken.values()]
    leave(queues, [one.point for one in budget.taken.values() if one.score is not None])
    teachers = [point for point in plan.teachers if not _is_done(point, budget)]
    trained = [point for queue in queues.values() for point in queue if point.is_trained]
    if any(budget.expect(point) is None for point in (*teachers, *trained)):
        return None

    def launch(points: Sequence[Point]) -> bool:
        nonlocal now
        seconds = [budget.expect(point) or 0.0 for point in points]
        for point, one in zip(points, seconds, strict=True):
            budget.taken[point.run_id] = Taken(point, one, whole=one or None, score=0.0)
        now += max([sum(seconds) / budget.slots, *seconds])
        return True

    def halve(points: Sequence[Point]) -> bool:
        nonlocal now
        now += _count_cost(points, budget, limits) / budget.slots
        return True

    launch(teachers)
    search(queues, budget, limits=limits, launch=launch, halve=halve)
    leave(queues, before)
    return queues


def _is_done(point: Point, budget: TimeBudget) -> bool:
    return point.run_id in budget.taken and budget.taken[point.run_id].score is not None


def add_untried(before: str, plan: Plan, untried: Iterable[Point]) -> str:
    """Add what a sweep left to UNTRIED, in place of what it says of the same plan; return it, or nothing."""
    planned = {point.run_id for point in plan.points}
    others = [one for one in read_untried(before) if one.run_id not in planned]
    left = [
        Untried(point.run_id, point.method_key, point.config.method.title, describe(point.config))
        for point in untried
    ]
    return write_untried([*others, *left]) if others or left else ""


def leave(queues: Queues, points: Iterable[Point]) -> None:
    """Take the points out of their queues."""
    gone = {point.run_id for point in points}
    for queue in queues.values():
        queue[:] = [point for point in queue if point.run_id not in gone]
