"""The base model as it is gives the answers that it gives before any training, and by no example."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from transformers import AutoModel, AutoTokenizer

from bench.config.schema import Config, replace_values
from bench.data import dataset
from bench.results.store import Result, Store
from bench.run.run import run

Compose = Callable[..., Config]


def run_and_read(config: Config) -> tuple[Result, pd.DataFrame]:
    """A run's record and its probabilities of the test split."""
    result = run(config)
    assert result.status == "success", result.error
    found = Store(Path(config.results_dir)).read_predictions(result.run_id)
    return result, found[found["split"] == "test"].filter(like="probability_")


def name_words(config: Config, words: dict[str, str]) -> Config:
    return replace_values(config, {"data.label_words": words})


def test_a_decoder_answers_as_before_its_first_step(compose_decoder: Compose) -> None:
    """LoRA's B is zero then; a rate of nearly nothing keeps it so."""
    lines = ("task=label_likelihood", "train.lr=1e-12", "train.max_steps=1", "train.warmup_steps=0")
    words = {"股市": "stocks", "债券": "bonds", "外汇": "fx"}
    result, found = run_and_read(name_words(compose_decoder("llama", "method=zero_shot", *lines), words))
    untrained, expected = run_and_read(name_words(compose_decoder("llama", "method=lora", *lines), words))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert result.metrics["test"]["loss"] != np.log(3)
    base = untrained.parameters["total"] - untrained.parameters["trainable"]
    assert result.parameters == {"trainable": 0, "total": base}
    assert result.time["train_seconds"] > 0
    assert result.reasons["throughput"] == "a baseline is fitted without training steps"


def test_an_encoder_compares_texts_with_the_labels_words(compose_tiny: Compose, tiny_bert: Path) -> None:
    words = {"股市": "股票", "债券": "国债", "外汇": "美元"}
    config = name_words(compose_tiny("method=zero_shot"), words)
    result, found = run_and_read(config)
    data = dataset.load(config.data)
    tokenizer, encoder = AutoTokenizer.from_pretrained(tiny_bert), AutoModel.from_pretrained(tiny_bert).eval()

    def embed(text: str) -> torch.Tensor:
        with torch.inference_mode():
            states = encoder(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        return torch.nn.functional.normalize(states.mean(0), dim=0)

    rows = torch.stack([embed(text) for text in data.splits["test"]["text"]])
    labels = torch.stack([embed(words[label]) for label in data.labels])
    np.testing.assert_allclose(found, (20 * rows @ labels.T).softmax(-1), atol=1e-4)
    assert result.model["weights"] == "saved"


def test_other_label_words_are_other_answers(compose_tiny: Compose) -> None:
    config = compose_tiny("method=zero_shot")
    _, plain = run_and_read(config)
    _, named = run_and_read(name_words(config, {"股市": "利率"}))
    assert np.abs(plain.to_numpy() - named.to_numpy()).max() > 0.01
