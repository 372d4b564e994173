"""Predict what recorded runs would reserve on a card that they did not run on, as a plan for it does."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.config.cards import Card
    from bench.results.store import Result


def find_card(name: str) -> "Card":
    """Return the card of this name.

    Raises:
        ConfigError: no card has it.
    """
    from bench.config.cards import read_cards
    from bench.errors import ConfigError
    from bench.spelling import guess

    cards = read_cards()
    if name not in cards:
        raise ConfigError(f"--card {name}: must be one of {', '.join(cards)}{guess(name, cards)}")
    return cards[name]


def predict_peaks(results: "Sequence[Result]", card: str) -> Mapping[str, int]:
    """Return the bytes that runs without a measurement on CUDA would reserve on the card, by run_id.

    One run of each configuration is predicted; what cannot be predicted is left out. Shapes that no plan for
    the card has predicted yet are traced in processes of their own, which takes seconds each.
    """
    from bench.config.identity import Identity
    from bench.config.schema import from_record, replace_values
    from bench.errors import BenchError
    from bench.memory.prediction import Prediction, can_predict
    from bench.results.selection import configuration_key, read_value
    from bench.run import app
    from bench.sweep.isolate import Isolation
    from bench.sweep.plan import Point
    from bench.sweep.predict import find_target, predict_each

    with app.composing() as compose:
        defaults = compose([f"plan.card={card}"])
    runs = {
        configuration_key(result): result
        for result in results
        if result.is_success and read_value(result, "memory.kind") != "cuda"
    }
    points = []
    for result in runs.values():
        try:
            config = replace_values(from_record(defaults, result.config), {"plan.card": card})
        except BenchError:  # a record of another version, whose settings this one does not have
            continue
        if can_predict(config):
            points.append(Point((), config, Identity(result.canonical_config, result.run_id)))
    answers = predict_each(points, find_target(defaults), Isolation()) if points else []
    return {
        point.run_id: answer.peak_bytes
        for point, answer in zip(points, answers, strict=True)
        if isinstance(answer, Prediction)
    }
