"""A run leaves one honest record, whatever it comes to."""

import errno
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from transformers import DebertaV2Config

from bench.config.identity import hash_canonical
from bench.config.schema import Config
from bench.errors import ConfigError, DataError, MissingError, RunError, StoreError
from bench.model import build, tensors
from bench.results.store import Result, Store
from bench.run import fitting, record
from bench.run.run import run
from bench.run.tracking import wandb_run as tracking
from bench.train import checkpoint, device, loop
from bench.train.device import limit_memory, require_attention
from bench.train.meter import Meter

Compose = Callable[..., Config]


def folder_of(config: Config, result: Result) -> Path:
    return Path(config.results_dir) / "runs" / result.run_id


def test_a_run_leaves_its_record_its_history_and_its_predictions(compose_tiny: Compose) -> None:
    config = compose_tiny("method=qlora", "train.lr=1e-2", "train.max_steps=60")
    result = run(config)
    assert (result.status, result.phase, result.attempt, result.error) == ("success", "save", 1, None)
    assert Store(Path(config.results_dir)).read(result.run_id) == result
    assert result.run_id == hash_canonical(result.canonical_config)
    assert result.labels == ["债券", "外汇", "股市"]
    assert result.metrics["test"]["accuracy"] > 0.5  # three classes
    assert result.data["sizes"] == {"train": 84, "validation": 18, "test": 18}
    assert result.memory["kind"] == "cpu_resident"
    assert result.memory["train"]["peak_resident_bytes"] > 100 * 2**20
    assert result.memory["train"]["peak_allocated_bytes"] is None
    assert "memory.*.peak_allocated_bytes" in result.reasons
    assert result.energy is None
    assert "energy" in result.reasons
    assert result.time["train_seconds"] + result.time["eval_seconds"] < result.time["total_seconds"]
    assert result.throughput["samples_per_second"] > 0
    assert result.model["target_modules"] == ["query", "value"]
    assert result.tracking == {"mode": "disabled", "wandb_run_id": None, "reason": "track.mode=disabled"}
    assert result.provenance["packages"]["peft"]
    written = json.loads((folder_of(config, result) / "result.json").read_text(encoding="utf-8"))
    assert "NaN" not in json.dumps(written)

    lines = (folder_of(config, result) / "history.jsonl").read_text().splitlines()
    history = [json.loads(line) for line in lines]
    assert all(row["resident_bytes"] > 0 for row in history)
    assert [row["step"] for row in history if "loss" in row] == list(range(1, 61))
    assert [row["step"] for row in history if "validation_accuracy" in row] == [10, 20, 30, 40, 50, 60]
    best = max(
        (row for row in history if "validation_accuracy" in row), key=lambda row: row["validation_accuracy"]
    )
    assert result.model["best_step"] == best["step"]
    assert result.metrics["validation"]["accuracy"] == best["validation_accuracy"]

    frame = pd.read_csv(folder_of(config, result) / "predictions.csv")
    assert list(frame.columns[:4]) == ["split", "id", "label", "prediction"]
    test = frame[frame["split"] == "test"]
    assert (test["label"] == test["prediction"]).mean() == result.metrics["test"]["accuracy"]
    assert test.iloc[:, 4:].sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-4)


def test_of_evaluations_equally_good_the_record_has_the_first(compose_tiny: Compose) -> None:
    config = compose_tiny("method=lora", "train.lr=1e-5", "train.max_steps=30")
    result = run(config)
    lines = (folder_of(config, result) / "history.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if "validation_loss" in row]
    assert len({row["validation_accuracy"] for row in rows}) == 1
    assert len({row["validation_loss"] for row in rows}) == 3
    assert result.model["best_step"] == 10
    scores = {f"validation_{name}": value for name, value in result.metrics["validation"].items()}
    del scores["validation_f1_by_label"]
    assert scores == {name: rows[0][name] for name in scores}


def test_the_same_run_gives_the_same_numbers_and_a_done_one_is_not_trained_again(
    compose_tiny: Compose, tmp_path: Path
) -> None:
    first = run(compose_tiny("method=lora", "lora.dropout=0.1"))
    other = run(compose_tiny("method=lora", "lora.dropout=0.1", f"results_dir={tmp_path}/other"))
    assert other.run_id == first.run_id
    assert other.metrics == first.metrics
    assert run(compose_tiny("method=lora", "lora.dropout=0.1")) == first
    assert run(compose_tiny("method=lora", "lora.dropout=0.1", "seed=1")).metrics != first.metrics


def test_trainable_parameters_are_counted_by_hand(compose_tiny: Compose) -> None:
    """2 layers x (query, value) x r (64 in + 64 out), the pooler (new here), and a head of 64 x 3 + 3."""
    new = 64 * 64 + 64 + 64 * 3 + 3
    results = {
        method: run(compose_tiny(f"method={method}", "lora.r=4", "train.max_steps=3", "train.warmup_steps=0"))
        for method in ("full", "lora", "qlora")
    }
    assert results["lora"].parameters["trainable"] == 2 * 2 * 4 * (64 + 64) + new
    assert results["qlora"].parameters == results["lora"].parameters
    full = results["full"].parameters
    assert full["trainable"] == full["total"]
    assert results["lora"].parameters["total"] == full["total"] + 2 * 2 * 4 * (64 + 64)


def test_only_what_is_trained_is_saved(compose_tiny: Compose) -> None:
    config = compose_tiny("method=lora", "train.max_steps=3", "train.warmup_steps=0")
    saved = load_file(folder_of(config, run(config)) / checkpoint.BEST)
    assert {name.split(".")[-2] for name in saved if "lora_" in name} == {"default"}
    assert sum("lora_" in name for name in saved) == 8
    assert all("lora_" in name or "classifier" in name or "pooler" in name for name in saved)


@pytest.mark.parametrize(
    ("policy", "weights", "checkpoints"), [("best", True, 0), ("none", False, 0), ("all", True, 2)]
)
def test_a_success_leaves_on_disk_what_the_policy_says(
    compose_tiny: Compose, policy: str, weights: bool, checkpoints: int
) -> None:
    config = compose_tiny(f"train.keep={policy}", "train.checkpoint_steps=5")
    folder = folder_of(config, run(config))
    run(config)  # which finds it done, and leaves as much
    assert (folder / checkpoint.BEST).exists() == weights
    assert len(list((folder / checkpoint.FOLDER).glob("step-*"))) == checkpoints


def test_an_error_in_training_is_recorded_and_a_later_success_takes_its_place(
    compose_tiny: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = compose_tiny("method=lora")

    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("no luck\nat all")

    with monkeypatch.context() as patch:
        patch.setattr(loop, "take_step", fail)
        failed = run(config)
    assert (failed.status, failed.phase, failed.metrics) == ("failed", "train", {})
    assert failed.error is not None
    assert (failed.error["type"], failed.error["message"]) == ("ValueError", "no luck\nat all")
    assert "take_step" in failed.error["traceback_tail"]
    assert "no luck" in (folder_of(config, failed) / "log.txt").read_text()
    assert failed.time["eval_seconds"] is None
    assert "time.eval_seconds" in failed.reasons
    again = run(config)
    assert (again.status, again.attempt, again.error) == ("success", 2, None)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "oom"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"), "oom"),
        (MemoryError(), "oom"),
        (loop.DivergedError("nan"), "diverged"),
        (RunError("probabilities are not finite"), "diverged"),
        (KeyboardInterrupt(), "interrupted"),
        (ConfigError("x"), "invalid"),
        (RuntimeError("shapes do not match"), "failed"),
        (SystemExit(0), "failed"),
    ],
)
def test_an_error_becomes_its_status(error: BaseException, status: str) -> None:
    assert record.classify(error) == status


def test_a_run_that_is_stopped_before_it_trains_says_so(
    compose_tiny: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tracking, "start", interrupt)
    config = compose_tiny("method=majority")
    with pytest.raises(KeyboardInterrupt):
        run(config)
    [found], _ = Store(Path(config.results_dir)).read_all()
    assert (found.status, found.phase) == ("interrupted", "load")
    assert found.error is not None
    assert found.error["type"] == "KeyboardInterrupt"


def test_a_diverging_run_says_so(compose_tiny: Compose) -> None:
    result = run(
        compose_tiny("method=full", "train.lr=1e30", "train.warmup_steps=0", "train.max_grad_norm=null")
    )
    assert result.status == "diverged"
    assert result.error is not None
    assert "lower train.lr" in result.error["message"]


def test_a_model_that_predicts_no_numbers_has_diverged(
    compose_tiny: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "predict", lambda *_, **__: np.full((1, 18, 3), np.nan))
    result = run(compose_tiny("method=lora"))
    assert (result.status, result.phase) == ("diverged", "eval")


@pytest.mark.parametrize(
    ("method", "device"), [("majority", "cpu"), ("tfidf", "cpu"), ("head", "cuda"), ("full", "cuda")]
)
def test_a_baseline_without_a_network_is_measured_on_the_cpu_where_it_runs(
    compose: Compose, monkeypatch: pytest.MonkeyPatch, method: str, device: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    assert fitting.require_device(compose(f"method={method}")) == torch.device(device)


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (["lora.r=0"], ConfigError, r"lora\.r=0: must be at least 1; use method=full"),
        (["data.text_column=body"], DataError, "body.*text, label"),
        (["train.optimizer=paged_adamw"], ConfigError, "needs a CUDA device"),
        (["train.precision=fp16"], ConfigError, "needs a CUDA device"),
        (["devices=cuda"], ConfigError, "no CUDA device"),
        (["device_memory_gib=24"], ConfigError, "only a CUDA device's memory can be limited"),
    ],
)
def test_what_cannot_run_here_is_said_before_anything_is_written(
    compose_tiny: Compose, overrides: list[str], error: type[Exception], message: str
) -> None:
    if "cuda" in " ".join(overrides).lower() and torch.cuda.is_available():
        return
    config = compose_tiny(*overrides)
    with pytest.raises(error, match=message):
        run(config)
    assert not Path(config.results_dir).exists()


def test_more_memory_than_the_card_has_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    card = SimpleNamespace(total_memory=8 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    with pytest.raises(ConfigError, match=r"device_memory_gib=8\.1: this device has 8.0 GiB; ask for less"):
        limit_memory(torch.device("cuda"), 8.1)


def test_target_modules_that_are_not_there_make_the_run_invalid(compose_tiny: Compose) -> None:
    result = run(compose_tiny("lora.target_modules=[q_proj]"))
    assert result.status == "invalid"
    assert result.error is not None
    assert result.error["message"].startswith("lora.target_modules=['q_proj']: No modules were targeted")


def test_a_disk_that_fills_leaves_a_failed_record_and_no_part_of_a_file(
    compose_tiny: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = compose_tiny("method=lora", "train.max_steps=4", "train.warmup_steps=0")
    whole = tensors.whole
    asked: list[torch.Tensor] = []

    def fill(tensor: torch.Tensor) -> torch.Tensor:
        asked.append(tensor)
        if len(asked) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return whole(tensor)

    monkeypatch.setattr(tensors, "whole", fill)

    with pytest.raises(StoreError, match="No space left on device"):
        run(config)
    (folder,) = (Path(config.results_dir) / "runs").iterdir()
    found = Store(Path(config.results_dir)).read(folder.name)
    assert found is not None
    assert found.status == "failed"
    assert not list(folder.glob(".writing-*"))
    monkeypatch.undo()
    assert run(config).status == "success"


def test_a_results_folder_that_is_a_file_costs_no_training(compose_tiny: Compose, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="must be a folder that can be written"):
        run(compose_tiny(f"results_dir={tmp_path}/file"))


@pytest.mark.parametrize("method", ["majority", "tfidf", "head"])
def test_baselines_are_runs_too(compose_tiny: Compose, method: str) -> None:
    result = run(compose_tiny(f"method={method}"))
    assert result.status == "success"
    assert result.metrics["test"]["accuracy"] >= (0.3 if method == "majority" else 0.7)
    assert result.memory["kind"] == "cpu_resident"
    assert result.throughput["tokens_per_second"] is None
    assert "throughput" in result.reasons
    assert math.isfinite(result.time["train_seconds"])


def test_a_phase_shows_the_memory_it_took_and_no_other() -> None:
    meter = Meter(torch.device("cpu"))
    with meter.phase("train"):
        block = torch.ones(64 * 2**20)  # 256 MiB
        del block
    with meter.phase("eval"):
        pass
    peaks = {name: meter.memory_record()[name]["peak_resident_bytes"] for name in ("train", "eval")}
    assert peaks["train"] - meter.baseline_bytes > 240 * 2**20
    assert peaks["eval"] - meter.baseline_bytes < 64 * 2**20


def test_a_run_does_not_begin_with_what_one_before_it_has_freed() -> None:
    first = Meter(torch.device("cpu"))
    with first.phase("train"):
        block = torch.ones(64 * 2**20)  # 256 MiB
        del block
    second = Meter(torch.device("cpu"))
    assert second.baseline_bytes - first.baseline_bytes < 64 * 2**20


def test_the_attention_that_is_asked_for_is_used_and_recorded(compose_tiny: Compose) -> None:
    found = [
        run(compose_tiny("train.max_steps=3", *lines)).model["attention"]
        for lines in ((), ("train.attention=eager",))
    ]
    assert found == ["sdpa", "eager"]


def test_attention_that_is_not_there_is_refused_with_what_it_lacks(
    compose_tiny: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = compose_tiny("train.attention=flash_attention_2")
    with pytest.raises(
        ConfigError, match="attention=flash_attention_2: needs a CUDA device; use auto on a CPU"
    ):
        run(config)
    assert not Path(config.results_dir).exists()
    monkeypatch.setattr(device, "is_flash_attn_2_available", lambda: False)
    cuda = torch.device("cuda")
    with pytest.raises(ConfigError, match=r"computes in bf16 or fp16; set train\.precision=bf16"):
        require_attention("flash_attention_2", cuda, "fp32")
    with pytest.raises(
        MissingError, match=r"the package flash-attn .* is not installed; install it, or use sdpa"
    ):
        require_attention("flash_attention_2", cuda, "bf16")
    settings = DebertaV2Config(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=9)
    settings.save_pretrained(config.cache_dir)
    with pytest.raises(
        ConfigError, match="attention=sdpa: transformers' deberta-v2 does not have it; use eager"
    ):
        build.build(
            compose_tiny("train.attention=sdpa"),
            folder=Path(config.cache_dir),
            labels=["a", "b"],
            pad_token_id=0,
            device=torch.device("cpu"),
            precision="fp32",
        )


def test_bytes_that_are_paged_to_the_machines_memory_are_in_the_record(
    compose_tiny: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bitsandbytes marks states that CUDA pages; here what it would page there is marked on a CPU."""
    from bitsandbytes.optim.optimizer import Optimizer8bit

    make = Optimizer8bit.get_state_buffer
    sizes: list[int] = []

    def make_paged(self: Any, weight: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        state = make(self, weight, dtype)
        if weight.numel() >= 1e5:
            state.is_paged = True
            sizes.append(state.nbytes)
        return state

    monkeypatch.setattr(Optimizer8bit, "get_state_buffer", make_paged)
    short = ("method=full", "train.max_steps=2", "train.warmup_steps=0", "train.eval_steps=2")
    paged = run(compose_tiny(*short, "train.optimizer=adamw_8bit")).memory
    assert len(sizes) == 2
    assert (paged["load"]["paged_bytes"], paged["train"]["paged_bytes"]) == (0, sum(sizes))
    assert run(compose_tiny(*short, "train.optimizer=adamw")).memory["train"]["paged_bytes"] == 0
