"""Wrong labels are found by a finished cross-validation, and without one the command for it is said."""

import csv
import dataclasses
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from sklearn.metrics import roc_auc_score

from bench.config.schema import Config
from bench.data import dataset
from bench.errors import ConfigError
from bench.extras import audit
from bench.results.store import Store
from bench.run.run import run

pytestmark = pytest.mark.slow
Compose = Callable[..., Config]
Command = Callable[..., tuple[int, str, str]]
GENERATED = (
    "data=finance8_synthetic",
    "data.train_size=1600",
    "data.validation_size=400",
    "data.test_size=80",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("audit")


@pytest.fixture(scope="module")
def compose_tfidf(compose: Compose, folder: Path) -> Compose:
    lines = (
        "method=tfidf",
        *GENERATED,
        f"results_dir={folder}/results",
        "track.mode=disabled",
        "devices=cpu",
    )
    return lambda *more: compose(*lines, *more)


@pytest.fixture(scope="module")
def store(compose_tfidf: Compose, folder: Path) -> Store:
    """TF-IDF in four folds of generated texts, a tenth of whose labels are wrong."""
    for fold in range(4):
        assert run(compose_tfidf("data.folds=4", f"data.fold={fold}")).is_success
    return Store(folder / "results")


def test_planted_errors_stand_first_and_their_share_is_estimated(
    store: Store, compose_tfidf: Compose, command: Command
) -> None:
    code, out, err = command("audit", "--results", store.folder)
    assert (code, err) == (0, "")
    with (store.folder / audit.FILE).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    clean = dataset.load(dataclasses.replace(compose_tfidf("data.folds=4", "data.fold=0").data, noise=0.0))
    true = pd.concat([clean.splits["train"], clean.splits["validation"]]).set_index("text")["label"]
    wrong = np.array([row["label"] != clean.labels[true[row["text"]]] for row in rows])
    assert len(rows) == len(true) == 2000
    assert [int(row["rank"]) for row in rows] == list(range(1, 2001))
    scores = np.array([float(row["score"]) for row in rows])
    assert (np.diff(scores) <= 0).all()
    assert roc_auc_score(wrong, scores) > 0.95
    flagged = np.array([row["is_issue"] == "true" for row in rows])  # which counts the model's errors too
    assert 0.4 < wrong[flagged].mean() < wrong[scores > 0.5].mean()
    assert wrong[flagged].sum() > 0.7 * wrong.sum()
    assert wrong[scores > 0.5].mean() > 0.8
    suggested = np.array([row["suggested_label"] == clean.labels[true[row["text"]]] for row in rows])
    assert suggested[wrong & (scores > 0.5)].mean() > 0.8
    found = audit.measure_noise(audit.gather(store, "tfidf", compose_tfidf()))
    assert found.low < wrong.mean() < found.high
    assert found.high - found.low < 0.06
    assert found.wrong.mean() == pytest.approx(found.share, abs=1e-3)
    share, low, high = (100 * value for value in (found.share, found.low, found.high))
    assert f"labels that are wrong: {share:.1f} % ({low:.1f} to {high:.1f} %)" in out
    assert "which answer as labelled on" in out
    assert "rests on little" not in out
    assert f"labels like these is {100 - share:.1f} % ({100 - high:.1f} to {100 - low:.1f} %)" in out


def test_without_whole_folds_the_command_for_them_is_said(
    compose_tfidf: Compose, store: Store, tmp_path: Path
) -> None:
    place = f"results_dir={tmp_path}/plain"
    assert run(compose_tfidf(place)).is_success
    plain = Store(tmp_path / "plain")
    with pytest.raises(ConfigError, match="no run has out-of-fold predictions") as caught:
        audit.gather(plain, None, compose_tfidf())
    require_sweep(str(caught.value), compose_tfidf(place), folds=5)
    assert run(compose_tfidf("data.folds=3", "data.fold=1", place)).is_success
    with pytest.raises(ConfigError, match="1 of 3 folds have a success") as caught:
        audit.gather(plain, "tfidf", compose_tfidf())
    require_sweep(str(caught.value), compose_tfidf(place, "data.folds=3"), folds=3)
    with pytest.raises(ConfigError, match=r"lora: .* has no success of it; it has runs of tfidf"):
        audit.gather(store, "lora", compose_tfidf())


def test_a_curve_is_followed_by_whole_folds_and_weak_models_are_doubted(
    compose_tfidf: Compose, store: Store, tmp_path: Path, texts: Path
) -> None:
    sizes = ("data.validation_size=20", "data.test_size=20")
    place = (f"results_dir={tmp_path}/curve", "data=files", f"data.train={texts}", *sizes)
    assert run(compose_tfidf(*place, "data.train_size=20", "data.resample=true")).is_success
    with pytest.raises(ConfigError, match="To make them") as caught:
        audit.gather(Store(tmp_path / "curve"), None, compose_tfidf())
    assert "data.train_size" not in str(caught.value)
    assert "data.resample" not in str(caught.value)
    found = audit.gather(store, "tfidf", compose_tfidf())
    guesses = np.roll(found.probabilities, 1, axis=1)  # of other texts
    weak = dataclasses.replace(found, probabilities=guesses)
    noise = dataclasses.replace(audit.measure_noise(found), share=0.4)
    assert "rests on little" in audit.summarise(weak, noise, np.zeros(len(found.texts), dtype=bool))


def require_sweep(message: str, config: Config, *, folds: int) -> None:
    """The message ends in a sweep of all folds of this configuration."""
    words = shlex.split(message.rpartition("To make them: ")[2])
    assert words[:2] == ["bench", "sweep"]
    parsed = {one.key_or_group: one for one in OverridesParser.create().parse_overrides(words[2:])}
    assert list(parsed["data.fold"].sweep_iterator()) == list(range(folds))
    assert parsed["data.folds"].value() == folds
    assert parsed["data.train_size"].value() == config.data.train_size
    assert parsed["results_dir"].value() == config.results_dir
