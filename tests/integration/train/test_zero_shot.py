"""The base model as it is gives the answers that it gives before any training, by no example or by a few."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from bench.config.schema import Config, replace_values
from bench.data import dataset
from bench.data import prompt as prompts
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
    assert result.time["eval_seconds"] > 0.0 < result.memory["eval"]["peak_resident_bytes"]
    assert "time.eval_seconds" not in result.reasons
    assert result.model["prompt_readings"] == 1
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

    rows = {
        split: torch.stack([embed(text) for text in frame["text"]]) for split, frame in data.splits.items()
    }
    ways = [
        torch.stack([embed(phrase.format(words[label])) for label in data.labels])
        for phrase in ("{}", "This text is about {}.")
    ]
    true = torch.tensor(data.splits["validation"]["label"].to_numpy())
    right = [int(((rows["validation"] @ way.T).argmax(-1) == true).sum()) for way in ways]
    best = ways[right[1] > right[0]]
    np.testing.assert_allclose(found, (20 * rows["test"] @ best.T).softmax(-1), atol=1e-4)
    assert result.model["weights"] == "saved"
    assert min(result.time["train_seconds"], result.time["eval_seconds"]) > 0


def test_other_label_words_are_other_answers(compose_tiny: Compose) -> None:
    config = compose_tiny("method=zero_shot")
    _, plain = run_and_read(config)
    _, named = run_and_read(name_words(config, {"股市": "利率"}))
    assert np.abs(plain.to_numpy() - named.to_numpy()).max() > 0.01


FEW_SHOT = ("method=few_shot", "task=label_likelihood", "train.max_length=40")
WORDS = {"股市": "a", "债券": "b", "外汇": "c"}  # a token each, so that none is out of the question


@pytest.mark.parametrize(
    "architecture", ["llama", "mistral"]
)  # one shares its examples, one reads them again
def test_a_few_examples_stand_before_every_prompt(
    compose_decoder: Compose, tiny_decoder: Callable[[str], Path], architecture: str
) -> None:
    config = name_words(compose_decoder(architecture, *FEW_SHOT, "method.shots=2", "seed=3"), WORDS)
    result, found = run_and_read(config)
    data, folder = dataset.load(config.data), tiny_decoder(architecture)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)

    def write(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    prefix = [tokenizer.convert_tokens_to_ids("<s>")]
    for text, label in prompts.draw_examples(data, shots=2, seed=3):
        prefix += [*write(text), *write("\nCategory:\n"), *write(WORDS[label]), *write("\n\n")]
    scores = []
    for text in data.splits["test"]["text"]:
        asked = [*prefix, *write(text), *write("\nCategory:\n")]
        answers = [write(WORDS[label]) for label in data.labels]
        with torch.inference_mode():
            of_answers = [
                model.eval()(torch.tensor([[*asked, *answer]])).logits[0, len(asked) - 1 : -1].log_softmax(-1)
                for answer in answers
            ]
        scores.append(
            [
                sum(row[token] for row, token in zip(*pair, strict=True))
                for pair in zip(of_answers, answers, strict=True)
            ]
        )
    np.testing.assert_allclose(found, torch.tensor(scores).softmax(-1), atol=1e-5)
    assert result.model["example_tokens"] == len(prefix)
    assert ("model.example_tokens" in result.reasons) == (architecture == "mistral")
    assert min(result.time["train_seconds"], result.time["eval_seconds"]) > 0
    assert result.canonical_config["seed"] == 3
    assert result.parameters["trainable"] == 0


def test_another_seed_or_number_of_examples_is_another_run(compose_decoder: Compose) -> None:
    lines = [("method.shots=1",), ("method.shots=2",), ("method.shots=1", "seed=1")]
    runs = [run_and_read(name_words(compose_decoder("llama", *FEW_SHOT, *some), WORDS)) for some in lines]
    assert len({result.run_id for result, _ in runs}) == 3
    assert min(np.abs(found.to_numpy() - runs[0][1].to_numpy()).max() for _, found in runs[1:]) > 1e-3


def test_examples_that_leave_no_room_are_one_message(compose_decoder: Compose) -> None:
    few = compose_decoder("gpt2", *FEW_SHOT, "method.shots=24", "train.max_length=64")
    result = run(name_words(few, WORDS))
    assert result.status == "invalid"
    message = result.error["message"]
    assert message.startswith(
        "method.shots=24: with its examples a text of train.max_length=64 tokens takes "
    )
    assert message.endswith("the model has positions for 1024; lower method.shots or train.max_length")
