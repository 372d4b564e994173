"""A real decoder, the embedded SmolLM2 of experiment=llm, in all that a run and what it trained can do."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate.state import AcceleratorState
from trainings import forget_temperature
from transformers import AutoModelForCausalLM, AutoTokenizer

import bench
from bench.config.schema import CONF_DIR, Config
from bench.data import dataset
from bench.data import prompt as prompts
from bench.model import weights
from bench.results.store import Result, Store
from bench.run.run import run, run_all
from bench.train.checkpoint import BEST
from bench.winner import agreement, classifier, export
from bench.winner.conversion import convert
from bench.winner.generate import generate

Compose = Callable[..., Config]
pytestmark = pytest.mark.slow


SHORT = (
    *("experiment=llm", "data.train_size=160", "data.validation_size=40", "data.test_size=60"),
    *("train.lr=2e-3", "train.max_steps=16", "train.warmup_steps=2", "train.eval_steps=16"),
    *("train.micro_batch_size=8", "train.log_steps=1", "train.precision=fp32", "train.keep=best"),
    *("lora.dropout=0", "track.mode=disabled", "devices=cpu"),
)  # the experiment's prompt and labels in a short run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This module's results and cache."""
    return tmp_path_factory.mktemp("smollm2")


@pytest.fixture(scope="module")
def compose_llm(compose: Compose, folder: Path) -> Compose:
    """A configuration of a short run, its results in this module's folder."""

    def compose_with(*overrides: str, place: str = "results") -> Config:
        return compose(*SHORT, f"results_dir={folder}/{place}", f"cache_dir={folder}/cache", *overrides)

    return compose_with


@pytest.fixture(scope="module")
def lora(compose_llm: Compose) -> tuple[Store, Result]:
    """A run of LoRA, trained once for all tests of this module."""
    return train(compose_llm("method=lora"))


def train(config: Config) -> tuple[Store, Result]:
    AcceleratorState._reset_state(reset_partial_state=True)
    result = run(config)
    assert result.status == "success", result.error
    return Store(Path(config.results_dir)), result


def read_test(store: Store, result: Result) -> pd.DataFrame:
    found = store.read_predictions(result.run_id)
    return found[found["split"] == "test"].reset_index(drop=True)


def probabilities_of(store: Store, result: Result) -> np.ndarray:
    return read_test(store, result).filter(like="probability_").to_numpy(dtype=float)


def test_it_learns_and_its_record_says_that_its_weights_went_through_4_bits(
    lora: tuple[Store, Result],
) -> None:
    store, result = lora
    history = pd.read_json(store.run_folder(result.run_id) / "history.jsonl", lines=True)
    losses = history["loss"].dropna()
    assert losses.iloc[-4:].mean() < 0.2 * losses.iloc[0]
    assert result.model["dequantised_from"] == "GGUF Q4_1"
    assert result.parameters["total"] > 134_515_008 > 50 * result.parameters["trainable"]


def test_what_is_exported_answers_as_the_run_did(lora: tuple[Store, Result], tmp_path: Path) -> None:
    store, result = lora
    export.export(store, result, tmp_path / "exported")
    texts = agreement.read_test(result).texts
    for found in (bench.load(tmp_path / "exported"), classifier.rebuild(store, result)):
        answers = forget_temperature(found).predict(list(texts))
        assert [one.label for one in answers] == read_test(store, result)["prediction"].tolist()
        values = np.array([list(one.probabilities.values()) for one in answers])
        assert np.abs(values - probabilities_of(store, result)).max() < 1e-4
    assert "apache-2.0" in (tmp_path / "exported" / "README.md").read_text()


def test_it_is_merged_without_a_change_of_its_answers(lora: tuple[Store, Result], tmp_path: Path) -> None:
    options = {"form": "merged", "into": None, "tolerance": 0.0, "force": False}
    _, measured = convert(*lora, tmp_path / "merged", **options)
    rows = {one.form: one for one in measured}
    assert rows["merged, fp32"].accuracy == rows["as trained"].accuracy == lora[1].metrics["test"]["accuracy"]
    again = bench.load(tmp_path / "merged").predict(list(agreement.read_test(lora[1]).texts))
    assert [one.label for one in again] == read_test(*lora)["prediction"].tolist()


def test_it_writes_the_labels_and_stops(lora: tuple[Store, Result]) -> None:
    """Nearly always: labels are compared by their own words alone, and it may write any."""
    found = classifier.rebuild(*lora)
    texts = list(agreement.read_test(lora[1]).texts)[:20]
    settings = {"temperature": 0.0, "top_p": 1.0, "seed": 0, "batch_size": 8}
    written = generate(found, texts, max_new_tokens=6, **settings)
    words = dict(zip(found.manifest.labels, found.manifest.label_words or [], strict=True))
    expected = [words[label] for label in read_test(*lora)["prediction"][:20]]
    assert sum(one == other for one, other in zip(written, expected, strict=True)) >= 17


def test_a_run_that_was_stopped_goes_on_to_the_same_answers(
    lora: tuple[Store, Result], compose_llm: Compose
) -> None:
    _, stopped = train(compose_llm("method=lora", "train.stop_step=8", place="resumed"))
    store, whole = train(compose_llm("method=lora", f"resume_from={stopped.run_id}", place="resumed"))
    assert whole.model["resumed_from_step"] == 8
    assert whole.run_id == lora[1].run_id
    pd.testing.assert_frame_equal(read_test(store, whole), read_test(*lora))


# The command `bench`, which kills itself after a step, or with all of a checkpoint written but its manifest.
KILLED = """
import os, signal, sys
from bench import cli
from bench.train import loop, state

name, step = sys.argv.pop(1).split(":")
module = {"take_step": loop, "save": state}[name]
call = getattr(module, name)

def call_and_die(training, *rest):
    call(training, *rest)
    if training.step == int(step):
        os.kill(os.getpid(), signal.SIGKILL)

setattr(module, name, call_and_die)
cli.main()
"""


def test_a_run_that_was_killed_goes_on_to_the_same_bits(compose_llm: Compose, folder: Path) -> None:
    """Twice, the second time while it wrote a checkpoint, which is none until it is whole."""
    lines = ("method=lora", "train.max_steps=6", "train.eval_steps=3", "train.micro_batch_size=4")
    lines += ("train.checkpoint_steps=2", "data.validation_size=20", "data.test_size=20")
    calm, expected = train(compose_llm(*lines, place="calm"))
    command = ["run", *SHORT, *lines, f"results_dir={folder}/killed", f"cache_dir={folder}/cache"]
    for moment in ("take_step:3", "save:4"):
        child = subprocess.run([sys.executable, "-c", KILLED, moment, *command], cwd=CONF_DIR.parent)
        assert child.returncode == -signal.SIGKILL
    store, result = train(compose_llm(*lines, place="killed"))
    assert (result.run_id, result.attempt) == (expected.run_id, 3)
    assert result.model["resumed_from_step"] == 2
    pd.testing.assert_frame_equal(*(one.read_predictions(result.run_id) for one in (store, calm)))
    weights_of = [(one.run_folder(result.run_id) / BEST).read_bytes() for one in (store, calm)]
    assert weights_of[0] == weights_of[1]
    losses = [
        [row["loss"] for row in one.read_history(result.run_id) if "loss" in row] for one in (store, calm)
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 6


def test_runs_of_a_pack_answer_as_alone(lora: tuple[Store, Result], compose_llm: Compose) -> None:
    config = compose_llm("method=lora", "pack=[{lora.r:4,train.lr:1e-3}]", place="packed")
    AcceleratorState._reset_state(reset_partial_state=True)
    first, second = run_all(config)
    assert (first.run_id, first.status, second.status) == (lora[1].run_id, "success", "success")
    found, alone = probabilities_of(Store(Path(config.results_dir)), first), probabilities_of(*lora)
    assert np.abs(found - alone).max() < 2e-3
    assert second.metrics != first.metrics


def test_half_the_micro_batch_twice_is_the_same_training(compose_llm: Compose) -> None:
    """As a sweep trains a run again that was out of memory."""
    lines = ("method=lora", "train.max_steps=8", "train.eval_steps=8", "train.group_by_length=false")
    whole = train(compose_llm(*lines, place="whole"))
    halved = train(compose_llm(*lines, "oom_halvings=1", place="halved"))
    assert halved[1].run_id == whole[1].run_id
    assert np.abs(probabilities_of(*halved) - probabilities_of(*whole)).max() < 2e-3


def test_a_base_in_4_bits_answers_nearly_as_in_full_precision(
    lora: tuple[Store, Result], compose_llm: Compose
) -> None:
    store, quantised = train(compose_llm("method=qlora", place="nf4"))
    same = (read_test(store, quantised)["prediction"] == read_test(*lora)["prediction"]).mean()
    assert same >= 0.75
    assert np.abs(probabilities_of(store, quantised) - probabilities_of(*lora)).max() > 1e-3
    assert quantised.parameters == lora[1].parameters
    assert quantised.metrics["test"]["loss"] < 1.5 * lora[1].metrics["test"]["loss"]


def test_it_answers_by_a_few_examples_as_if_they_stood_before_each_text(compose_llm: Compose) -> None:
    config = compose_llm("method=few_shot", "method.shots=2", "seed=1", place="few_shot")
    store, result = train(config)
    tokenizer = AutoTokenizer.from_pretrained(weights.locate(config.model))
    model = AutoModelForCausalLM.from_pretrained(weights.locate(config.model), dtype=torch.float32).eval()
    data, words = dataset.load(config.data), config.data.label_words or {}
    drawn = prompts.draw_examples(data, shots=2, seed=1)
    before = [
        token
        for text, label in drawn
        for part in (text, "\nCategory:", words[label], "\n\n")
        for token in tokenizer(part)["input_ids"]
    ]
    after, answers = (
        tokenizer(part)["input_ids"] for part in ("\nCategory:", [words[one] for one in data.labels])
    )
    texts = data.splits["test"]["text"].tolist()[:12]
    for text, found in zip(texts, probabilities_of(store, result), strict=False):
        with torch.inference_mode():
            ids = torch.tensor([[*before, *tokenizer(text)["input_ids"], *after]])
            expected = model(ids).logits[0, -1, [token for (token,) in answers]].softmax(-1)
        assert np.abs(found - expected.numpy()).max() < 1e-5
    assert result.model["example_tokens"] == len(before)
