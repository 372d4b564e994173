"""Which texts get a label: by the run's validation texts, or a clear refusal."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from records import make_predictions, make_probabilities, make_run

from bench.errors import ConfigError
from bench.results.store import Store
from bench.winner import selective


def describe(store: Store, *, sureness: float = 2.0) -> Any:
    """What a manifest says of a run's answers."""
    run = make_run("lora", test=0.9)
    store.write_predictions(run.run_id, make_probabilities(run, sureness=sureness))
    return SimpleNamespace(
        run_id=run.run_id, kind="full", merged_into=None, confidence=selective.read_confidence(store, run)
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    run = make_run("lora", test=0.9)
    found = Store(tmp_path)
    found.write(run)
    return found


def test_a_threshold_is_said_with_what_it_answers(store: Store) -> None:
    manifest = describe(store)
    threshold = selective.find_threshold(manifest, 0.93)
    said = selective.say_threshold(threshold, manifest)
    assert said.startswith(f"texts are answered from a probability of {threshold.probability:g} on: ")
    assert f"{threshold.coverage:.1%} of the 400 validation texts" in said
    assert said.endswith("that are answered at least 93% are right, with 95% confidence")
    assert threshold.accuracy > 0.93
    lower = selective.find_threshold(manifest, 0.85)
    assert lower.probability < threshold.probability
    assert lower.coverage > threshold.coverage


def test_a_wish_beyond_the_texts_is_refused_with_what_they_show(store: Store) -> None:
    manifest = describe(store)
    with pytest.raises(
        ConfigError, match=r"--min-accuracy 0\.999: the 400 validation texts of run"
    ) as refused:
        selective.find_threshold(manifest, 0.999)
    (shown,) = (word for word in str(refused.value).split() if word.startswith("0.9") and word.endswith(","))
    assert selective.find_threshold(manifest, float(shown[:-1])).coverage > 0
    with pytest.raises(ConfigError):
        selective.find_threshold(manifest, float(shown[:-1]) + 0.001)


def test_a_merged_model_and_a_run_without_predictions_are_refused(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = describe(store)
    manifest.merged_into = "full"
    with pytest.raises(ConfigError, match="a merged model's probabilities are not those of run"):
        selective.find_threshold(manifest, 0.9)
    manifest.kind, manifest.merged_into = "onnx", None
    with pytest.raises(ConfigError, match="an ONNX model's probabilities are not those of run"):
        selective.find_threshold(manifest, 0.9)
    run = make_run("lora", test=0.9)
    store.write_predictions(run.run_id, make_predictions(run))  # as an older run's, without probabilities
    manifest = SimpleNamespace(
        run_id=run.run_id, kind="full", merged_into=None, confidence=selective.read_confidence(store, run)
    )
    assert "no temperature is fitted, so probabilities are as the run predicted them" in caplog.text
    with pytest.raises(ConfigError, match=r"nothing is known of the answers .* or give --min-confidence"):
        selective.find_threshold(manifest, 0.9)
