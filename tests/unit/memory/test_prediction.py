"""Which runs share a prediction, and what a prediction says of a card."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.config.cards import GIB, LAUNCH_SECONDS, Card
from bench.config.schema import Config
from bench.memory.prediction import (
    Prediction,
    count_steps,
    make_key,
    read_cached,
    settle,
    write_cached,
)

Compose = Callable[..., Config]

CARD = Card("c", "C", 24 * GIB, 1e12, {"fp32": 1e13, "bf16": 1e14}, 400)
PREDICTION = Prediction(
    device_type="cuda",
    phases={
        "load": {"peak_allocated_bytes": 5, "peak_reserved_bytes": 6},
        "train": {"peak_allocated_bytes": 17, "peak_reserved_bytes": 20},
        "eval": {"peak_allocated_bytes": 18, "peak_reserved_bytes": 19},
    },
    least_bytes=18,
    parts={"weights": 10, "activations": 7},
    paged_bytes=0,
    parameters=1000,
    trained_bytes=400,
    largest_bytes=100,
    optimizer_bytes=800,
    work={
        "micro_batch": [
            [1e14, 8, "bfloat16", 3],  # computes for 1 s
            [0, 2e12, "float32", 2],  # moves for 2 s
            [1e13, 0, "float32", 1],  # computes for 1 s
            [1, 1, "float32", 10],  # takes no time but that of its launch
        ],
        "step": [[0, 1e12, "float32", 1]],
        "eval": [[1e14, 0, "bfloat16", 1]],
    },
    train_rows=100,
    piece_rows=[100],
    batch_tokens=64,
    mean_batch_tokens=32.0,
    eval_batch_tokens=50,
    eval_tokens={"validation": 100, "test": 200},
)


def key(config: Config, **facts: str) -> str:
    named = {"device_type": "cuda", "fingerprint": "texts", "revision": "weights"} | facts
    return make_key(config, **named)


@pytest.mark.parametrize(
    "line",
    [
        "lora.alpha=32",
        "lora.dropout=0.2",
        "train.lr=0.5",
        "train.max_steps=31",
        "train.max_grad_norm=2",
        "train.weight_decay=0.1",
        "seed=7",
        "results_dir=elsewhere",
        "plan.card=l4",
        "+method.adapter.init_lora_weights=pissa",
    ],
)
def test_what_only_decides_values_shares_a_prediction(compose: Compose, line: str) -> None:
    assert key(compose("method=lora", line)) == key(compose("method=lora"))


@pytest.mark.parametrize(
    "line",
    [
        "lora.r=9",
        "lora.dropout=0",
        "lora.target_modules=all-linear",
        "method=qlora",
        "train.micro_batch_size=8",
        "train.max_length=32",
        "train.optimizer=adamw_8bit",
        "train.gradient_checkpointing=true",
        "train.max_grad_norm=null",
        "train.eval_batch_size=8",
        "task=label_likelihood",
        "+method.adapter.use_dora=true",
    ],
)
def test_what_decides_shapes_does_not(compose: Compose, line: str) -> None:
    assert key(compose("method=lora", line)) != key(compose("method=lora"))


def test_texts_weights_and_device_count(compose: Compose) -> None:
    config = compose("method=lora")
    others = {"device_type": "cpu", "fingerprint": "other", "revision": "other"}
    keys = {key(config), *(key(config, **{name: value}) for name, value in others.items())}
    assert len(keys) == 4


def test_full_fine_tuning_has_no_rank(compose: Compose) -> None:
    assert key(compose("method=full", "lora.r=64")) == key(compose("method=full"))


def test_a_prediction_is_kept_and_a_damaged_one_is_made_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert read_cached(str(tmp_path), "k") is None
    write_cached(str(tmp_path), "k", PREDICTION)
    assert read_cached(str(tmp_path), "k") == PREDICTION
    [path] = (tmp_path / "predictions").iterdir()
    path.write_text(path.read_text()[:-9])
    assert read_cached(str(tmp_path), "k") is None
    assert "predicted again" in caplog.text


def test_what_has_to_fit_is_reserved_on_a_card_and_tensors_on_a_cpu() -> None:
    assert PREDICTION.peak_bytes == 20
    assert dataclasses.replace(PREDICTION, device_type="cpu").peak_bytes == 18


def test_an_operation_computes_or_moves_or_is_launched_whichever_takes_longer() -> None:
    whole = dataclasses.replace(PREDICTION, mean_batch_tokens=64.0)
    launches = 10 * LAUNCH_SECONDS
    assert whole.train_seconds(CARD, steps=1, accumulation=1) == pytest.approx(3 + 4 + 1 + launches + 1)
    assert whole.train_seconds(CARD, steps=3, accumulation=2) == pytest.approx(3 * (2 * (8 + launches) + 1))
    # Half as many tokens take half as long, but a launch takes its time.
    assert PREDICTION.train_seconds(CARD, steps=1, accumulation=1) == pytest.approx(4 + launches + 1)
    assert PREDICTION.eval_seconds(CARD, "test") == pytest.approx(4.0)
    assert PREDICTION.train_flops == pytest.approx((3e14 + 1e13 + 10) / 2)


def test_steps_are_those_that_the_run_will_take(compose: Compose) -> None:
    epochs = ("train.max_steps=null", "train.epochs=2", "train.micro_batch_size=8")
    assert count_steps(compose("train.max_steps=40"), 100) == 40
    assert count_steps(compose("train.max_steps=40", "train.stop_step=10"), 100) == 10
    assert count_steps(compose(*epochs), 100) == 26
    assert count_steps(compose(*epochs, "train.gradient_accumulation_steps=4"), 100) == 7


def test_a_card_decides_what_auto_computes_in(compose: Compose) -> None:
    old = dataclasses.replace(CARD, flops_per_second={"fp32": 1e13, "fp16": 5e13})
    assert settle(compose(), CARD).train.precision == "bf16"
    assert settle(compose(), old).train.precision == "fp16"
    assert settle(compose(), None).train.precision == "auto"
    assert settle(compose("train.precision=fp32"), CARD).train.precision == "fp32"


def test_a_model_that_is_not_here_is_known_by_its_architecture(
    compose: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = {"there": False}
    monkeypatch.setattr("bench.model.weights.is_here", lambda _: here["there"])
    config = compose("model=qwen3-0.6b", f"model.revision={'0' * 40}")
    assert settle(config, None).model.weights == "random"
    here["there"] = True
    assert settle(config, None).model.weights == "saved"
