"""SetFit's way gives what a plain script of its library gives, as a run like any other."""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from bench.config.schema import Config
from bench.data import dataset
from bench.errors import ConfigError
from bench.results.store import Result, Store
from bench.run.run import run
from bench.winner import choose

Compose = Callable[..., Config]

SETFIT = ("method=setfit", "train.lr=1e-3")


def run_and_read(config: Config) -> tuple[Result, pd.DataFrame]:
    """A run's record and its probabilities of the test split."""
    result = run(config)
    assert result.status == "success", result.error
    found = Store(Path(config.results_dir)).read_predictions(result.run_id)
    return result, found[found["split"] == "test"].filter(like="probability_")


def write_plain_script(
    config: Config, folder: Path, place: Path, splits: Mapping[str, pd.DataFrame] | None = None
) -> np.ndarray:
    """What a user of the library writes, with the logistic regression of method=head; test probabilities."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from setfit import SetFitModel, Trainer, TrainingArguments

    splits = splits or dataset.load(config.data, seed=config.seed).splits
    encoder = Transformer(str(folder), max_seq_length=config.train.max_length)
    body = SentenceTransformer(modules=[encoder, Pooling(encoder.get_embedding_dimension())])
    arguments = TrainingArguments(
        output_dir=str(place),
        batch_size=8,
        max_steps=20,
        body_learning_rate=1e-3,
        l2_weight=0.0,
        warmup_proportion=0.1,
        seed=config.seed,
        report_to="none",
        save_strategy="no",
    )
    trainer = Trainer(SetFitModel(body), arguments)
    train, validation = splits["train"], splits["validation"]
    with warnings.catch_warnings(action="ignore"):  # of pinned memory, which a CPU has no use for
        trainer.train_embeddings(train["text"].tolist(), train["label"].tolist())
    features = {name: body.encode(frame["text"].tolist()) for name, frame in splits.items()}
    scaler = StandardScaler().fit(features["train"])
    scaled = {name: scaler.transform(values) for name, values in features.items()}
    models = [
        LogisticRegression(C=c, max_iter=10_000).fit(scaled["train"], train["label"])
        for c in (0.01, 0.1, 1.0, 10.0, 100.0)
    ]
    best = max(models, key=lambda model: model.score(scaled["validation"], validation["label"]))
    return best.predict_proba(scaled["test"])


def test_it_answers_as_a_plain_script_of_the_library(
    compose_tiny: Compose, tiny_bert: Path, tmp_path: Path
) -> None:
    config = compose_tiny(*SETFIT, "seed=3")
    _, found = run_and_read(config)
    np.testing.assert_allclose(found, write_plain_script(config, tiny_bert, tmp_path / "plain"), atol=1e-3)
    _, frozen = run_and_read(compose_tiny("method=head"))
    assert np.abs(found.to_numpy() - frozen.to_numpy()).max() > 0.01
    _, untrained = run_and_read(compose_tiny("method=setfit", "train.lr=1e-12"))
    np.testing.assert_allclose(untrained, frozen, atol=1e-5)


def test_its_record_says_what_was_trained_and_what_is_unknown(compose_tiny: Compose) -> None:
    config = compose_tiny(*SETFIT)
    result, _ = run_and_read(config)
    head, _ = run_and_read(compose_tiny("method=head"))
    assert result.parameters == {"trainable": head.parameters["total"], "total": head.parameters["total"]}
    assert result.model["steps"] == 20
    assert result.model["library"].startswith("setfit ")
    assert result.time["train_seconds"] > 0 < result.memory["train"]["peak_resident_bytes"]
    assert result.prediction is None or not result.prediction
    assert result.reasons["prediction"] == "the library setfit trains, and what it does is not traced"
    assert result.reasons["throughput"] == "the library setfit counts no tokens"
    history = Store(Path(config.results_dir)).read_history(result.run_id)
    assert [row["step"] for row in history] == list(range(1, 21))
    assert history[-1]["loss"] < history[0]["loss"]
    assert history[0]["lr"] < max(row["lr"] for row in history) <= 1e-3


def test_a_seed_decides_all(compose_tiny: Compose, tmp_path: Path) -> None:
    _, first = run_and_read(compose_tiny(*SETFIT))
    _, again = run_and_read(compose_tiny(*SETFIT, f"results_dir={tmp_path}/again"))
    _, other = run_and_read(compose_tiny(*SETFIT, "seed=1"))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first.to_numpy() - other.to_numpy()).max() > 1e-4


def test_accumulation_takes_the_same_steps(compose_tiny: Compose) -> None:
    """What a sweep falls back to when memory is out."""
    _, whole = run_and_read(compose_tiny(*SETFIT))
    result, halves = run_and_read(
        compose_tiny(*SETFIT, "train.micro_batch_size=4", "train.gradient_accumulation_steps=2")
    )
    np.testing.assert_allclose(halves, whole, atol=1e-3)
    assert result.model["steps"] == 20


def test_it_computes_in_the_precision_that_is_asked_for(compose_tiny: Compose) -> None:
    results = [run_and_read(compose_tiny(*SETFIT, f"train.precision={one}"))[0] for one in ("fp32", "bf16")]
    store = Store(Path(compose_tiny().results_dir))
    exact, rounded = ([row["loss"] for row in store.read_history(one.run_id)] for one in results)
    np.testing.assert_allclose(rounded, exact, atol=0.1)
    assert exact != rounded


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_decoder_can_be_tuned_as_well(compose_decoder: Compose, architecture: str) -> None:
    result, _ = run_and_read(compose_decoder(architecture, *SETFIT))
    assert result.parameters["trainable"] == result.parameters["total"]


def test_a_loss_that_is_no_number_is_a_divergence(compose_tiny: Compose) -> None:
    result = run(compose_tiny("method=setfit", "train.lr=1e30", "train.max_grad_norm=null"))
    assert result.status == "diverged"
    assert "lower train.lr or raise warmup_steps" in result.error["message"]


def test_it_keeps_no_weights_to_use(compose_tiny: Compose) -> None:
    config = compose_tiny(*SETFIT)
    result, _ = run_and_read(config)
    store = Store(Path(config.results_dir))
    assert not list(store.run_folder(result.run_id).rglob("*.safetensors"))
    with pytest.raises(ConfigError, match="method setfit keeps no weights"):
        choose.find_weights(store, result)


@pytest.mark.slow
def test_forty_headlines_are_enough_to_beat_a_bag_of_words(compose: Compose, tmp_path: Path) -> None:
    lines = ("data.train_size=40", "data.resample=true", "track.mode=disabled", "devices=cpu")
    lines += ("train.max_steps=50", "train.warmup_steps=5", f"results_dir={tmp_path}/results")
    accuracy = {
        method: run(compose(f"method={method}", *lines)).metrics["test"]["accuracy"]
        for method in ("tfidf", "head", "setfit")
    }
    assert accuracy["setfit"] > 0.65
    assert accuracy["setfit"] > accuracy["tfidf"] + 0.2
    assert accuracy["setfit"] > accuracy["head"] - 0.03


@pytest.mark.slow
def test_on_a_stream_it_is_tuned_anew_on_all_texts_so_far(
    compose_tiny: Compose, tiny_bert: Path, texts: Path, tmp_path: Path
) -> None:
    rows = pd.read_csv(texts)
    is_first = (rows["label"] != "债券") & (rows.index % 2 == 0)
    for name, piece in (("a", rows[is_first]), ("b", rows[~is_first])):
        piece.to_csv(tmp_path / f"{name}.csv", index=False)
    config = compose_tiny(
        *SETFIT,
        "data.train=null",
        f"data.stream=[{tmp_path}/a.csv,{tmp_path}/b.csv]",
        "data.validation_size=0.2",
        "data.test_size=0.2",
    )
    result, found = run_and_read(config)
    part = dataset.take_piece(dataset.load(config.data), 1, config.method, seed=config.seed)
    plain = write_plain_script(config, tiny_bert, tmp_path / "plain", part.splits)
    np.testing.assert_allclose(found, plain, atol=1e-3)
    assert result.updates is not None
    assert result.updates["train_texts"][1] == len(part.splits["train"]) > result.updates["train_texts"][0]
    assert result.updates["new_labels"] == [["外汇", "股市"], ["债券"]]
    assert sum(result.updates["train_seconds"]) == pytest.approx(result.time["train_seconds"])
    folder = Store(Path(config.results_dir)).run_folder(result.run_id)
    assert not [path for path in folder.iterdir() if path.is_dir()]  # what each training kept has gone
