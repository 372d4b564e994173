"""Final seeds in rounds, sweep.final_seeds=auto: more of them for methods that are not told apart yet. Pure.

Whether they are is what the report says of all comparisons, at a level that counts how often it is asked.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from bench.config.schema import LOOKS
from bench.redaction import show
from bench.report.numbers.comparison import Comparison
from bench.sweep.plan import Identify, Point, plan_finals

_SEEDS_HELP = ("first_seeds", "seeds", "either")  # of Needs.kind: the others take more test texts


def train_in_rounds(
    best: Sequence[Point],
    *,
    identify: Identify,
    is_tried: Callable[[Point], bool],
    launch: Callable[[Sequence[Point]], bool],
    compare: Callable[[], Sequence[Comparison]],
) -> None:
    """Train seeds of each best point until its comparisons are decided, LOOKS end, or ``launch`` says so.

    A method that has some of a round's seeds already, as the sweep was stopped, gets the others first: so it
    is looked at only when rounds are whole, as often as in a sweep that nothing stopped.
    """
    owners, rounds = dict[str, Point](), dict[str, int]()
    for point in best:
        seeds = _plan_seeds(point, LOOKS[-1], identify)
        owners |= {one.run_id: point for one in seeds}
        trained = sum(map(is_tried, seeds))
        rounds[point.run_id] = next(place for place, count in enumerate(LOOKS) if count >= trained)
    left = list(best)
    while left:
        new = [one for point in left for one in _plan_seeds(point, LOOKS[rounds[point.run_id]], identify)]
        if not launch(new):
            return
        comparisons = compare()
        left = [point for point in find_open(comparisons, owners) if rounds[point.run_id] + 1 < len(LOOKS)]
        rounds |= {point.run_id: rounds[point.run_id] + 1 for point in left}
        print(show(_tell_round(comparisons, [(point, rounds[point.run_id]) for point in left])), flush=True)


def find_open(comparisons: Iterable[Comparison], owners: Mapping[str, Point]) -> list[Point]:
    """Find the points on which a comparison is open that more seeds may decide.

    Args:
        owners: the point of which each run is a seed, by run_id.
    """
    found = dict[str, Point]()
    for comparison in comparisons:
        helps = comparison.needs is not None and comparison.needs.kind in _SEEDS_HELP
        if helps or comparison.verdict == "one_seed":
            for row in (comparison.one, comparison.other):
                found |= {owners[one].run_id: owners[one] for one in row.run_ids if one in owners}
    return [point for point in found.values() if "seed" in point.identity.canonical]


def list_seeds(point: Point, count: int) -> list[int]:
    """Return the first seeds of a configuration: the one that it was chosen at, then 0, 1, 2 and so on."""
    return list(dict.fromkeys([point.config.seed, *range(LOOKS[-1])]))[:count]


def _plan_seeds(point: Point, count: int, identify: Identify) -> Sequence[Point]:
    return plan_finals([point], list_seeds(point, count), identify).points


def _tell_round(comparisons: Sequence[Comparison], left: Sequence[tuple[Point, int]]) -> str:
    """Tell how many comparisons are decided, and who gets more seeds."""
    decided = sum(comparison.verdict in ("difference", "equal") for comparison in comparisons)
    names = ", ".join(f"{point.config.method.name} ({LOOKS[place]} in all)" for point, place in left)
    goes_on = f"more seeds of {names}" if left else "no more seeds"
    if not left and decided < len(comparisons):
        goes_on += f", as {LOOKS[-1]} are the most, or more test texts would have to decide"
    return f"sweep.final_seeds=auto: {decided} of {len(comparisons)} comparisons are decided; {goes_on}"
