"""One model of several tasks: a head for each, on texts that each task's own runs have too."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import get_linear_schedule_with_warmup, set_seed

from bench.config.schema import Config
from bench.data import dataset as datasets
from bench.data import tokens
from bench.model import build as builder
from bench.results.store import Result, Store
from bench.run.run import run, run_all

Compose = Callable[..., Config]


@pytest.fixture
def compose_tasks(compose_tiny: Compose, texts: Path, tmp_path: Path) -> Compose:
    """A configuration of a short run on two tasks: a text's topic, and whether it is of shares."""
    frame = pd.read_csv(texts)
    labels = frame["label"].where(frame["label"] == "股市", "其他")
    frame.assign(text=frame["text"] + " 期", label=labels).to_csv(tmp_path / "shares.csv", index=False)
    frame.to_csv(tmp_path / "topics.csv", index=False)
    files = f"data.tasks=[{tmp_path}/topics.csv,{tmp_path}/shares.csv]"

    def compose_with(*overrides: str) -> Config:
        return compose_tiny("data=tasks", files, "data.train=null", *overrides)

    return compose_with


class TwoHeads(nn.Module):
    """The reference: an encoder with a linear head for each of two tasks, in plain torch."""

    def __init__(self, network: Any, counts: list[int]) -> None:
        super().__init__()
        self.encoder, self.dropout = network.bert, network.dropout
        weights, biases = network.classifier.weight.split(counts), network.classifier.bias.split(counts)
        self.heads = nn.ModuleList(nn.Linear(one.shape[1], len(one)) for one in weights)
        for head, weight, bias in zip(self.heads, weights, biases, strict=True):
            head.weight.data, head.bias.data = weight.detach().clone(), bias.detach().clone()

    def forward(self, batch: tokens.Batch) -> torch.Tensor:
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        return self.dropout(self.encoder(**inputs).pooler_output)


def train_reference(config: Config, counts: list[int]) -> tuple[list[float], list[np.ndarray]]:
    """The loss of every step, and afterwards the probabilities of each task's test texts by its own head."""
    set_seed(config.seed)
    dataset = datasets.load(config.data)
    tokenizer = builder.load_tokenizer(Path(str(config.model.path)))
    splits = tokens.tokenise(dataset, tokenizer, max_length=64, cache_dir=config.cache_dir)
    network = builder.build(
        config,
        folder=Path(str(config.model.path)),
        labels=dataset.labels,
        pad_token_id=tokenizer.pad_token_id,
        device=torch.device("cpu"),
        precision="fp32",
    )
    model, settings, padding = TwoHeads(network.model, counts), config.train, tokens.Padding.of(tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), settings.lr, weight_decay=0.0)
    schedule = get_linear_schedule_with_warmup(optimizer, settings.warmup_steps, settings.max_steps or 0)
    batches = tokens.train_batches(
        tokens.Stream(splits["train"], config.seed),
        micro_batch_size=settings.micro_batch_size,
        micro_batches=settings.max_steps or 0,
        group_by_length=True,
        padding=padding,
    )
    losses = []
    for batch in batches:
        states, loss = model(batch), torch.zeros(())
        for task, head in enumerate(model.heads):
            own = batch["task"] == task
            labels = batch["labels"][own] - sum(counts[:task])
            loss = loss + functional.cross_entropy(head(states[own]), labels, reduction="sum")
        loss = loss / len(batch["labels"])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm or math.inf)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    model.eval()
    found: list[list[np.ndarray]] = [[], []]
    test = splits["test"]
    with torch.inference_mode():
        for row in range(len(test)):
            [(_, batch)] = tokens.eval_batches(pick(test, row), batch_size=1, padding=padding)
            task = int(batch["task"])
            found[task].append(model.heads[task](model(batch)).softmax(-1)[0].numpy())
    return losses, [np.stack(one) for one in found]


def pick(split: Any, row: int) -> Any:
    ids = split.row(row)
    return type(split)(
        ids=ids,
        offsets=np.array([0, len(ids)]),
        labels=split.labels[row : row + 1],
        full_lengths=split.full_lengths[row : row + 1],
        tasks=split.tasks[row : row + 1],
    )


def test_a_head_for_each_task_is_two_heads_of_plain_torch(compose_tasks: Compose) -> None:
    """All weights trained; losses step by step, and every test text's probabilities."""
    config = compose_tasks("method=full", "train.lr=1e-3", "train.eval_steps=20")
    result = run(config)
    assert result.status == "success", result.error
    counts = [len(one["labels"]) for one in result.data["tasks"].values()]
    assert counts == [3, 2]
    losses, expected = train_reference(config, counts)
    store = Store(Path(config.results_dir))
    history = [row["loss"] for row in store.read_history(result.run_id) if row.get("loss") is not None]
    assert history == pytest.approx(losses, abs=1e-4)
    test = store.read_predictions(result.run_id).query("split == 'test'")
    found = test.filter(like="probability_").to_numpy(dtype=float)
    for rows, columns, own in ((found[:18], slice(0, 3), 0), (found[18:], slice(3, 5), 1)):
        assert np.abs(rows[:, columns] - expected[own]).max() < 1e-3
        assert np.abs(rows.sum(axis=1) - rows[:, columns].sum(axis=1)).max() == 0


def read_rows(result: Result) -> Iterator[tuple[str, float]]:
    return iter(result.metrics["test"]["accuracy_by_task"].items())


def test_each_task_has_the_texts_of_its_own_run_and_a_score_of_its_own(
    compose_tasks: Compose, compose_tiny: Compose, tmp_path: Path
) -> None:
    config = compose_tasks("method=lora", "lora.r=2", "train.lr=1e-2")
    joined = datasets.load(config.data)
    result = run(config)
    assert result.status == "success", result.error
    predictions = Store(Path(config.results_dir)).read_predictions(result.run_id).query("split == 'test'")
    start = 0
    for number, name in enumerate(("topics", "shares")):
        alone = datasets.load(compose_tiny(f"data.train={tmp_path}/{name}.csv").data)
        described = result.data["tasks"][name]
        assert (described["fingerprint"], described["labels"]) == (alone.fingerprint, [*alone.labels])
        for split, frame in alone.splits.items():
            own = joined.splits[split].query(f"task == {number}")
            assert own["text"].tolist() == frame["text"].tolist()
            assert [joined.labels[label] for label in own["label"]] == [
                f"{name}: {alone.labels[label]}" for label in frame["label"]
            ]
        rows = predictions[start : start + len(alone.splits["test"])]
        start += len(rows)
        assert set(rows["prediction"]) <= {f"{name}: {label}" for label in alone.labels}
        accuracy = float((rows["prediction"] == rows["label"]).mean())
        assert dict(read_rows(result))[name] == pytest.approx(accuracy)


@pytest.mark.slow
def test_runs_on_several_tasks_train_together_as_they_do_alone(
    compose_tasks: Compose, tmp_path: Path
) -> None:
    """Their texts are read in windows, each of which has its text's task."""
    lines = ["lora.r=2", "data.long_texts=windows", "train.max_length=8", "train.max_steps=6"]
    packed = run_all(compose_tasks(*lines, "train.eval_steps=6", "pack=[{lora.r:4}]"))
    for result, rank in zip(packed, (2, 4), strict=True):
        again = compose_tasks(*lines, "train.eval_steps=6", f"lora.r={rank}", f"results_dir={tmp_path}/alone")
        alone = run(again)
        assert (result.run_id, result.status) == (alone.run_id, "success"), result.error
        assert result.metrics["test"]["loss"] == pytest.approx(alone.metrics["test"]["loss"], abs=1e-3)
        assert result.metrics["test"]["accuracy_by_task"] == alone.metrics["test"]["accuracy_by_task"]
