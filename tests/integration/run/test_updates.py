"""A run on a stream: what goes on goes on exactly, and one record says what each training knew."""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TOPICS
from safetensors.torch import load_file
from torch.nn import functional
from transformers import AutoModelForSequenceClassification, get_linear_schedule_with_warmup, set_seed

import bench
from bench.config.schema import Config, replace_values
from bench.data import dataset as datasets
from bench.data import tokens
from bench.model import build
from bench.model.adapters import adapter
from bench.results.store import Result, Store
from bench.run import updates
from bench.run.run import run
from bench.train import checkpoint, loop
from bench.train.fit import Fitted
from bench.winner import classifier, export

Compose = Callable[..., Config]
Spied = list[Any]
STEPS = 12  # of each training


@pytest.fixture
def stream(tmp_path: Path) -> str:
    """Two pieces of short Chinese texts; 债券 comes with the second, and sorts before the other labels."""
    paths = []
    for piece, labels in enumerate([("股市", "外汇"), TOPICS]):
        rows = [
            {"text": f"{words[number % 5]}{words[number % 4]} 第{40 * piece + number}期", "label": label}
            for label in labels
            for words in [TOPICS[label].split()]
            for number in range(30)
        ]
        paths.append(tmp_path / f"{piece}.csv")
        pd.DataFrame(rows).to_csv(paths[-1], index=False)
    return f"data.stream=[{','.join(map(str, paths))}]"


@pytest.fixture
def compose_stream(compose_tiny: Compose, stream: str) -> Compose:
    """A short run on the stream; each training is evaluated at its end alone, so that this is its best."""

    def compose_with(*overrides: str) -> Config:
        return compose_tiny(
            "data.train=null",
            stream,
            "data.validation_size=0.2",
            "data.test_size=0.2",
            f"train.max_steps={STEPS}",
            f"train.eval_steps={STEPS}",
            "train.lr=1e-2",
            *overrides,
        )

    return compose_with


def read_test(config: Config, result: Result) -> pd.DataFrame:
    rows = Store(Path(config.results_dir)).read_predictions(result.run_id)
    return rows[rows["split"] == "test"].reset_index(drop=True)


def train_plainly(
    config: Config, dataset: datasets.Dataset
) -> tuple[list[list[float]], np.ndarray[Any, Any]]:
    """Trains all of a BERT on one piece and then on the next, its head grown by hand.

    Returns:
        The accuracy on each piece after each training, and the last probabilities of the test texts.
    """
    folder = Path(str(config.model.path))
    tokenizer = build.load_tokenizer(folder)
    matrix, known = [], list[str]()
    model: Any = None
    for piece in range(2):
        part = datasets.take_piece(dataset, piece, config.method, seed=0)
        texts = tokens.tokenise(part, tokenizer, max_length=64, cache_dir=config.cache_dir)
        set_seed(0)
        before, model = (
            model,
            AutoModelForSequenceClassification.from_pretrained(
                folder, num_labels=len(part.labels), dtype=torch.float32
            ),
        )
        if before is not None:
            state = before.state_dict()
            for name in ("classifier.weight", "classifier.bias"):
                grown = model.state_dict()[name].clone()
                for place, label in enumerate(known):
                    grown[part.labels.index(label)] = state[name][place]
                state[name] = grown
            model.load_state_dict(state)
        known = [*part.labels]
        optimizer = torch.optim.AdamW(model.parameters(), lr=config.train.lr, weight_decay=0.0)
        schedule = get_linear_schedule_with_warmup(optimizer, 2, STEPS)
        padding = tokens.Padding.of(tokenizer)
        for batch in tokens.train_batches(
            tokens.Stream(texts["train"], 0),
            micro_batch_size=8,
            micro_batches=STEPS,
            group_by_length=True,
            padding=padding,
        ):
            model.train()
            labels = batch.pop("labels")
            functional.cross_entropy(model(**batch).logits, labels).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        model.eval()
        found = np.empty((len(texts["test"]), len(known)))
        for rows, batch in tokens.eval_batches(texts["test"], batch_size=64, padding=padding):
            batch.pop("labels")
            with torch.no_grad():
                found[rows] = model(**batch).logits.softmax(-1).numpy()
        test = dataset.splits["test"]
        right = np.array(known)[found.argmax(1)] == np.array(dataset.labels)[test["label"]]
        matrix.append([float(right[test["piece"] == place].mean()) for place in range(2)])
    return matrix, found


def test_continuing_is_a_plain_script_that_trains_on_one_piece_and_then_on_the_next(
    compose_stream: Compose,
) -> None:
    config = compose_stream("method=full_continued", "train.lr=1e-3")
    result = run(config)
    dataset = datasets.load(config.data)
    matrix, probabilities = train_plainly(config, dataset)
    assert result.status == "success"
    assert result.updates is not None
    assert result.updates["accuracy"] == matrix
    rows = read_test(config, result)
    found = rows[[f"probability_{label}" for label in dataset.labels]].to_numpy()
    np.testing.assert_allclose(found, probabilities, atol=1e-5)
    assert result.labels == ["债券", "外汇", "股市"]


def test_the_record_says_what_each_training_knew_and_took(compose_stream: Compose) -> None:
    config = compose_stream("method=lora_replay20")
    result = run(config)
    found = result.updates
    assert found is not None
    assert found["tests"] == [12, 18]
    assert found["new_labels"] == [["外汇", "股市"], ["债券"]]
    assert found["train_texts"] == [36, 54 + 7]  # 20 % of 36
    assert found["accuracy"][0][1] <= 2 / 3  # a third of the texts have a label that it could not know
    share = np.average(found["accuracy"][1], weights=found["tests"])
    assert result.metrics["test"]["accuracy"] == pytest.approx(share)
    assert sum(found["train_seconds"]) == pytest.approx(result.time["train_seconds"])
    assert min(found["train_seconds"]) > 0
    assert result.model["steps"] == 2 * STEPS
    assert result.model["resumed_from_step"] is None
    folder = Path(config.results_dir) / "runs" / result.run_id
    history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in history if "loss" in row] == list(range(1, 2 * STEPS + 1))
    assert not (folder / checkpoint.FOLDER).exists()
    assert not [*folder.glob("piece-*")]
    samples = result.throughput["samples_per_second"] * result.time["train_seconds"]
    assert 2 * STEPS * 8 - 6 * 4 <= samples <= 2 * STEPS * 8  # the last batch of an epoch is smaller


def test_a_baseline_is_fitted_anew_and_cannot_know_what_is_yet_to_come(compose_stream: Compose) -> None:
    anew = run(compose_stream("method=tfidf"))
    assert anew.updates is not None
    assert anew.updates["train_texts"] == [36, 90]
    assert anew.updates["accuracy"][0][1] <= 2 / 3
    assert anew.updates["accuracy"][1] == [1.0, 1.0]
    assert anew.model == {}
    lora = run(compose_stream("method=lora"))
    assert lora.updates is not None
    assert lora.updates["train_texts"] == [36, 90]


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spied:
    """What each training ended with, and a copy of the network that the next began with."""
    seen, fit, build_after = Spied(), updates.fit, updates._build_after

    def remember_fit(config: Config, part: datasets.Dataset, **options: Any) -> Fitted:
        fitted = fit(config, part, **options)
        seen.append((part, fitted.probabilities["test"]))
        return fitted

    def remember_network(*arguments: Any, **options: Any) -> Any:
        networks = build_after(*arguments, **options)
        seen.append(copy.deepcopy(networks.model))
        return networks

    monkeypatch.setattr(updates, "fit", remember_fit)
    monkeypatch.setattr(updates, "_build_after", remember_network)
    return seen


@pytest.mark.parametrize(
    "method", ["full_continued", "lora_merged", pytest.param("lora_continued", marks=pytest.mark.slow)]
)
def test_an_update_begins_with_the_function_that_the_last_training_ended_with(
    compose_stream: Compose, spy: Spied, method: str
) -> None:
    """The head has a row more for the new label; among the old ones nothing changes, merged or not."""
    config = compose_stream(f"method={method}")
    run(config)
    _, (first, probabilities), began, (second, _) = spy
    assert len(first.labels) == 2
    assert len(second.labels) == 3
    tokenizer = build.load_tokenizer(Path(str(config.model.path)))
    split = tokens.tokenise(second, tokenizer, max_length=64, cache_dir=config.cache_dir)["test"]
    logits = np.empty((len(split), 3))
    for rows, batch in tokens.eval_batches(split, batch_size=64, padding=tokens.Padding.of(tokenizer)):
        batch.pop("labels")
        with torch.no_grad():
            logits[rows] = began.eval()(**batch).logits.numpy()
    old = torch.from_numpy(logits[:, [second.labels.index(label) for label in first.labels]])
    np.testing.assert_allclose(old.softmax(-1).numpy(), probabilities, atol=1e-5)
    if method == "lora_merged":  # the new adapter adds nothing yet
        lower = [value for name, value in began.named_parameters() if "lora_B" in name]
        assert lower
        assert all(float(value.detach().abs().max()) == 0 for value in lower)


def test_merged_adapters_are_of_the_classifier_and_of_its_export(
    compose_stream: Compose, tmp_path: Path
) -> None:
    config = compose_stream("method=lora_merged")
    result = run(config)
    store = Store(Path(config.results_dir))
    held = load_file(store.run_folder(result.run_id) / checkpoint.BEST)
    assert list(adapter.count_merged(held)) == [0]
    rows, texts = read_test(config, result), datasets.load(config.data).splits["test"]["text"].tolist()
    columns = [name for name in rows if name.startswith("probability_")]
    rebuilt = classifier.rebuild(store, result)
    plain = replace(rebuilt, manifest=replace(rebuilt.manifest, confidence=None))
    found = [list(one.probabilities.values()) for one in plain.predict(texts)]
    np.testing.assert_allclose(found, rows[columns].to_numpy(), atol=1e-5)
    export.export(store, result, tmp_path / "exported")
    answers = bench.load(tmp_path / "exported").predict(texts)
    assert [one.label for one in answers] == rows["prediction"].tolist()
    own = [list(one.probabilities.values()) for one in rebuilt.predict(texts)]
    np.testing.assert_allclose([list(one.probabilities.values()) for one in answers], own, atol=1e-5)
    settings = json.loads((tmp_path / "exported" / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"]) == (16, 32)


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes a run end as on SIGINT before its n-th optimizer step, over all trainings; 0 lets it be."""
    take_step, left = loop.take_step, [0]

    def stop_there(*arguments: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        take_step(*arguments)

    monkeypatch.setattr(loop, "take_step", stop_there)
    return lambda step: left.__setitem__(0, step)


@pytest.mark.parametrize(
    ("method", "step"),
    [
        ("lora_merged", STEPS + 9),
        pytest.param("lora_merged", 9, marks=pytest.mark.slow),
        pytest.param("lora_replay5", STEPS + 2, marks=pytest.mark.slow),
    ],
)
def test_a_run_that_was_killed_goes_on_in_its_piece_and_has_the_same_numbers(
    compose_stream: Compose, interrupt: Callable[[int], None], tmp_path: Path, method: str, step: int
) -> None:
    given = (f"method={method}", "lora.dropout=0.2", "train.checkpoint_steps=5")
    whole = run(compose_stream(*given, f"results_dir={tmp_path}/whole"))
    config = compose_stream(*given)
    interrupt(step)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    interrupt(0)
    result = run(config)
    assert (result.status, result.attempt) == ("success", 2)
    assert result.metrics == whole.metrics
    assert result.updates is not None
    assert whole.updates is not None
    for name in ("accuracy", "train_texts", "new_labels"):
        assert result.updates[name] == whole.updates[name]
    assert result.model["resumed_from_step"] == step - 1 - (step - 1 - STEPS * (step > STEPS)) % 5
    assert sum(result.updates["train_seconds"]) == pytest.approx(result.time["train_seconds"])

    def read(folder: str) -> tuple[list[int], bytes]:
        run_folder = tmp_path / folder / "runs" / result.run_id
        rows = [json.loads(line) for line in (run_folder / "history.jsonl").read_text().splitlines()]
        return [row["step"] for row in rows], (run_folder / checkpoint.BEST).read_bytes()

    assert read("results") == read("whole")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora_merged", "lora_replay20"])
def test_a_decoder_that_writes_labels_learns_new_ones_in_a_stream(
    compose_stream: Compose, tiny_decoder: Callable[[str], Path], method: str
) -> None:
    words = {"股市": " 股", "外汇": " 外", "债券": " 债"}
    config = compose_stream(
        f"method={method}",
        "task=label_likelihood",
        f"model.path={tiny_decoder('llama')}",
    )
    config = replace_values(config, {"data.label_words": words})
    result = run(config)
    assert result.updates is not None
    assert result.updates["new_labels"] == [["外汇", "股市"], ["债券"]]
    assert result.updates["accuracy"][0][1] <= 2 / 3
    store = Store(Path(config.results_dir))
    rebuilt = classifier.rebuild(store, result)
    texts = datasets.load(config.data).splits["test"]["text"].tolist()
    rows = read_test(config, result)
    assert [one.label for one in rebuilt.predict(texts)] == rows["prediction"].tolist()
