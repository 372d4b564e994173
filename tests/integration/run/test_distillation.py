"""A student of a tiny decoder: its parts train, and its loss curve is that of a plain loop."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.functional import cross_entropy, log_softmax, softmax
from transformers import get_linear_schedule_with_warmup, set_seed

import bench
from bench.config.schema import Config
from bench.data import dataset as datasets
from bench.data import tokens
from bench.data.dataset import Dataset
from bench.errors import ConfigError, MissingError
from bench.model import build
from bench.results.store import Result, Store
from bench.run.run import run, run_all
from bench.run.teacher import list_folds
from bench.winner import export

Compose = Callable[..., Config]
SHORT = ("train.max_steps=10", "train.eval_steps=10", "train.lr=1e-2")
WEIGHT, TEMPERATURE = 0.6, 3.0


@pytest.fixture
def unlabelled(tmp_path: Path, texts: Path) -> Path:
    """Texts like those with labels, and one that is among these."""
    known = pd.read_csv(texts)["text"]
    path = tmp_path / "more.csv"
    pd.DataFrame({"text": [*(f"{one} 又" for one in known[:20]), known[0]]}).to_csv(path, index=False)
    return path


@pytest.fixture(params=["distilled", "distilled_lora"])
def student(
    request: pytest.FixtureRequest, compose_tiny: Compose, compose_decoder: Compose, unlabelled: Path
) -> Config:
    """A student whose teacher, LoRA on a decoder, has trained, as have its parts."""
    teacher = run(compose_decoder("llama", "method=lora", *SHORT))
    assert teacher.status == "success", teacher.error
    config = compose_tiny(
        f"method={request.param}",
        f"teacher='{teacher.run_id}'",
        f"data.unlabelled={unlabelled}",
        "distillation.folds=2",
        f"distillation.weight={WEIGHT}",
        f"distillation.temperature={TEMPERATURE}",
        *SHORT,
        "train.lr=1e-3",
    )
    with pytest.raises(MissingError, match="2 of the 2 trainings that predict for its students"):
        run(config)
    first, second = list_folds(config, datasets.load(config.data))
    together = run_all(dataclasses.replace(first, pack=[{"data.held_out": second.data.held_out}]))
    assert [one.status for one in together] == ["success", "success"]
    assert [one.packed["size"] for one in together if one.packed] == [2, 2]
    return config


def read_history(store: Store, result: Result) -> list[float]:
    return [row["loss"] for row in store.read_history(result.run_id) if "loss" in row]


def collect(result: Result, data: Dataset, store: Store) -> np.ndarray:
    """What the teacher's trainings said, read again from their files: of train, then of unlabelled texts."""
    columns = [f"probability_{label}" for label in data.labels]
    files = [
        pd.read_csv(store.run_folder(one) / "predictions.csv") for one in result.data["teacher"]["run_ids"]
    ]
    held = pd.concat([file[file["split"] == "held_out"] for file in files]).sort_values("id")
    asked = [file[file["split"] == "unlabelled"].sort_values("id")[columns].to_numpy() for file in files]
    return np.concatenate([held[columns].to_numpy(), np.mean(asked, axis=0)])


def train_plainly(config: Config, data: Dataset, taught: np.ndarray) -> list[float]:
    """The loss of each step of a loop in plain torch, on bench's network and batches."""
    set_seed(config.seed)
    folder = Path(str(config.model.path))
    tokenizer = build.load_tokenizer(folder)
    padding = tokens.Padding.of(tokenizer)
    network = build.build(
        config,
        folder=folder,
        labels=data.labels,
        pad_token_id=tokenizer.pad_token_id,
        device=torch.device("cpu"),
        precision="fp32",
    ).model
    frames = [data.splits["train"], data.asked["unlabelled"]]
    rows = pd.concat(frames, ignore_index=True)
    split = tokens.tokenise_texts(
        rows["text"].tolist(),
        np.arange(len(rows)),
        tokenizer,
        max_length=config.train.max_length,
        prompt=None,
        split="train",
    )
    settings = config.train
    steps = settings.max_steps or 0
    batches = tokens.train_batches(
        tokens.Stream(split, config.seed),
        micro_batch_size=settings.micro_batch_size,
        micro_batches=steps,
        group_by_length=settings.group_by_length,
        padding=padding,
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.lr, weight_decay=0.0)
    schedule = get_linear_schedule_with_warmup(optimizer, settings.warmup_steps, steps)
    losses = []
    for batch in batches:
        places = batch.pop("labels")
        network.train()
        scores = network(**batch).logits
        was_asked = ~torch.tensor(np.isnan(taught[places]).any(axis=1))
        teacher = softmax(torch.tensor(taught[places]).clamp(min=1e-15).log() / TEMPERATURE, -1)[was_asked]
        student = log_softmax(scores.double() / TEMPERATURE, -1)[was_asked]
        total = torch.zeros(len(scores), dtype=torch.float64)
        total[was_asked] = WEIGHT * TEMPERATURE**2 * (teacher * (teacher.log() - student)).sum(-1)
        for place, number in enumerate(places.tolist()):
            if number < len(frames[0]):
                label = torch.tensor([frames[0]["label"][number]])
                total[place] += (1 - WEIGHT) * cross_entropy(scores[place : place + 1], label)
        loss = total.mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), settings.max_grad_norm or 0.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def test_a_student_trains_as_a_plain_loop_does_and_its_record_says_what_its_teacher_cost(
    student: Config, compose_tiny: Compose
) -> None:
    result = run(student)
    assert result.status == "success", result.error
    store, data = Store(Path(student.results_dir)), datasets.load(student.data)
    taught = collect(result, data, store)
    assert len(taught) == 84 + 20
    assert read_history(store, result) == pytest.approx(train_plainly(student, data, taught), rel=1e-4)

    described: dict[str, Any] = result.data["teacher"]
    right = taught[:84].argmax(1) == data.splits["train"]["label"]
    assert described["accuracy"] == pytest.approx(right.mean())
    assert (described["run_id"], described["method"]) == (student.teacher, "LoRA")
    assert described["seconds"] > 0
    assert described["fold_seconds"] > 0
    counts = result.data["unlabelled"]
    assert (counts["given"], counts["used"]) == (21, 20)
    assert counts["test"] + counts["validation"] + counts["train"] == 1
    assert "NaN" not in json.dumps(described)

    # Labels alone are another run, in the same table, and read no unlabelled text.
    alone = "full" if student.method.trainable == "all" else "lora"
    full = run(
        compose_tiny(f"method={alone}", f"data.unlabelled={student.data.unlabelled}", *SHORT, "train.lr=1e-3")
    )
    assert full.canonical_config["data"]["fingerprint"] == result.canonical_config["data"]["fingerprint"]
    assert full.run_id != result.run_id
    assert read_history(store, full) != pytest.approx(read_history(store, result), rel=1e-3)


def test_students_do_not_train_in_packs(compose_tiny: Compose) -> None:
    config = compose_tiny("method=distilled_lora", "teacher=best:lora", "pack=[{lora.r: 4}]")
    with pytest.raises(ConfigError, match="have a teacher's probabilities, and a pack's batches have labels"):
        run(config)
    assert not Path(config.results_dir).exists()


def test_an_exported_folder_teaches_texts_without_labels_and_is_known_by_its_content(
    compose_tiny: Compose, unlabelled: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    teacher = run(compose_tiny("method=lora", *SHORT, "seed=3"))
    assert teacher.status == "success", teacher.error
    store, folder = Store(Path(compose_tiny().results_dir)), tmp_path / "exports" / "teacher"
    export.export(store, teacher, folder)

    def compose_student(path: Path) -> Config:
        return compose_tiny(
            "method=distilled",
            f"teacher={path}",
            f"data.unlabelled={unlabelled}",
            f"distillation.weight={WEIGHT}",
            f"distillation.temperature={TEMPERATURE}",
            *SHORT,
            "train.lr=1e-3",
        )

    student = compose_student(folder)
    result = run(student)
    assert result.status == "success", result.error
    data = datasets.load(student.data)
    said = bench.load(folder).predict(data.asked["unlabelled"]["text"].tolist())
    answers = [[one.probabilities[label] for label in data.labels] for one in said]
    taught = np.concatenate([np.full((84, len(data.labels)), np.nan), answers])
    assert read_history(store, result) == pytest.approx(train_plainly(student, data, taught), rel=1e-4)

    described: dict[str, Any] = result.data["teacher"]
    assert (described["run_id"], described["method"]) == (teacher.run_id, "lora")
    assert described["seconds"] == pytest.approx(teacher.time["total_seconds"])
    assert described["answer_seconds"] > 0
    assert described["fingerprint"] == result.data["fingerprint"]
    assert "accuracy" not in described  # on texts that it has not seen: there are none with labels
    assert result.canonical_config["teacher"] == described["content"]
    assert "answers the 20 texts without labels alone" in caplog.text

    elsewhere = Path(shutil.copytree(folder, tmp_path / "elsewhere"))
    (elsewhere / "README.md").write_text("another card")
    assert run(compose_student(elsewhere)) == result  # done already
    with pytest.raises(ConfigError, match="the folder's content is"):
        run(dataclasses.replace(student, teacher=f"{folder}@{'0' * 16}"))
    settings = json.loads((elsewhere / "bench.json").read_text())
    (elsewhere / "bench.json").write_text(json.dumps({**settings, "max_length": 8}))
    assert run(compose_student(elsewhere)).run_id != result.run_id
