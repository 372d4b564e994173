"""What a run on an NVIDIA card records and refuses, shown by emulated cards (tests/emulation)."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from emulated import ROOT, Machine
from transformers import get_linear_schedule_with_warmup

STEPS = 20  # as in on_card.py


def call_on_card(name: str, folder: Path, *arguments: Path) -> Any:
    """What the function of on_card.py comes to in a process of a machine with a card."""
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "on_card.py", name, *map(str, arguments)],
        env={**os.environ, **Machine(log=folder / "log").environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def trained(tiny_bert: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("fp16")
    return call_on_card("train_in_fp16", folder, tiny_bert, texts, folder)


@pytest.fixture(scope="module")
def found(tiny_bert: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("card")
    return call_on_card("look_at_card", folder, tiny_bert, texts, folder)


def test_steps_that_fp16_skips_are_counted_over_a_resumed_training(trained: Any) -> None:
    assert trained["stopped"]["model"]["skipped_steps"] == 1
    whole = trained["whole"]
    assert whole["status"] == "success"
    assert (whole["model"]["resumed_from_step"], whole["model"]["skipped_steps"]) == (10, 2)  # of 20: a tenth
    assert "model.skipped_steps" not in whole["reasons"]
    counts = {row["step"]: row["skipped_steps"] for row in trained["rows"]}
    assert counts == {step: (step >= 3) + (step >= 13) for step in range(1, STEPS + 1)}
    assert trained["scale"] == 2.0**16 / 4  # halved at each, also before the checkpoint


def test_a_skipped_step_does_not_advance_the_schedule(trained: Any) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=trained["whole"]["config"]["train"]["lr"])
    schedule = get_linear_schedule_with_warmup(optimizer, 2, STEPS)
    for row in trained["rows"]:
        assert row["lr"] == pytest.approx(schedule.get_last_lr()[0], rel=1e-9)
        if row["step"] not in (3, 13):
            optimizer.step()
            schedule.step()


def test_a_run_that_skips_more_than_a_tenth_of_its_steps_is_diverged(trained: Any) -> None:
    record = trained["diverged"]
    assert (record["status"], record["phase"]) == ("diverged", "train")
    assert record["error"]["message"] == (
        "by step 9 of 20 fp16 had skipped 3 steps, as their gradients overflowed, which is more than "
        "a tenth; set train.precision=bf16 or lower train.lr"
    )


def test_a_run_without_a_scaled_loss_says_why_it_counts_no_skipped_step(
    train: Callable[..., tuple[Any, Any]],
) -> None:
    _, result = train("method=lora")
    assert result.model["skipped_steps"] is None
    assert result.reasons["model.skipped_steps"].endswith("the run computes in fp32")


def test_a_phase_does_not_inherit_what_the_one_before_reserved(found: Any) -> None:
    assert found["peaks"] == {"eval": 100, "train": 10}


def test_the_driver_s_number_or_the_reason_why_there_is_none(found: Any) -> None:
    assert found["nvml"]["listed"] == [5, None]
    expected = {
        "elsewhere": "in a container it has the host's numbers",
        "untold": "its driver does not say what it holds",
        "wsl": "WSL2",
        "mig": "divided (MIG)",
        "no driver": "NVML cannot be started",
        "unknown card": "does not know the card",
    }
    assert {*expected, "listed"} == set(found["nvml"])
    for name, words in expected.items():
        value, reason = found["nvml"][name]
        assert (value, words in reason) == (None, True), reason


def test_pissa_decomposes_the_weights_on_the_card(found: Any) -> None:
    assert found["pissa"]["events"][:2] == ["move", "svd"]
    assert found["pissa"]["equal"]


def test_doctor_tries_paging_with_states_that_are_paged(found: Any) -> None:
    assert found["doctor"]["paged"] == [
        "yes",
        "works; its states are held in 8 bits, in memory that CUDA pages",
    ]
    mark, detail = found["doctor"]["plain"]
    assert (mark, "not in memory that CUDA can page" in detail) == ("NO", True)
    mark, detail = found["doctor"]["wsl"]
    assert (mark, "train=full_24gb cannot run" in detail) == ("-", True)


def test_paged_optimizers_are_refused_on_wsl(found: Any) -> None:
    refused = found["wsl"]
    assert (refused["exit_code"], refused["written"]) == (3, False)
    assert refused["message"].startswith("train.optimizer=paged_adamw_8bit: this is WSL2")
    assert "train.optimizer=adamw_8bit" in refused["message"]


@pytest.mark.slow
def test_members_of_a_pack_scale_their_losses_by_themselves(
    tiny_bert: Path, texts: Path, tmp_path: Path
) -> None:
    """The same as alone in fp16; and one that overflows skips its steps, and the others do not know."""
    found = call_on_card("pack_in_fp16", tmp_path, tiny_bert, texts, tmp_path)
    for packed, alone in zip(found["packed"], found["alone"], strict=True):
        assert packed["status"] == "success"
        assert packed["model"] == alone["model"]
        losses, expected = ([row["loss"] for row in one["rows"]] for one in (packed, alone))
        assert losses == pytest.approx(expected, abs=2e-3)
        assert max(losses) - min(losses) > 0.1
    first, second, third = found["overflowing"]
    assert [first, third] == [found["packed"][0], found["packed"][2]]
    assert second["status"] == "success"
    assert second["model"]["skipped_steps"] == 2
    counts = {row["step"]: row["skipped_steps"] for row in second["rows"]}
    assert counts == {step: (step >= 3) + (step >= 13) for step in range(1, STEPS + 1)}
    rates = {row["step"]: row["lr"] for row in second["rows"]}
    assert rates[4] == rates[3]  # the schedule stands still with the weights
