"""`bench doctor` tries what it says, and a fault is a finding and no traceback."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.config.cards import GIB
from bench.config.schema import Config
from bench.extras import doctor
from bench.run import driver

CPU = torch.device("cpu")


def examine(config: Config) -> dict[str, doctor.Trial]:
    return {one.name: one for one in doctor.examine(config)}


@pytest.fixture
def config(compose: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """No hub and no W&B to be asked."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("WANDB_MODE", "offline")
    return compose("devices=cpu", f"results_dir={tmp_path}/new/results")


def test_what_bench_needs_works_on_this_machine(config: Config, tmp_path: Path) -> None:
    found = examine(config)
    assert {name for name, one in found.items() if one.works is False} == set()
    for name in ("precision", "4-bit weights (NF4)", "8-bit AdamW", "default model", "results"):
        assert found[name].works, found[name]
    for name in ("hub", "W&B", "paged 8-bit AdamW", "GPU"):
        assert (found[name].works, found[name].mark) == (None, "-")
    assert not list(tmp_path.iterdir())  # it looks and makes nothing


def test_arithmetic_that_is_wrong_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from bitsandbytes import functional

    right = functional.dequantize_4bit

    def dequantise(*values: Any, **named: Any) -> torch.Tensor:
        return 1.05 * right(*values, **named)

    monkeypatch.setattr(functional, "dequantize_4bit", dequantise)
    found = {one.name: one for one in doctor.examine_device(CPU)}["4-bit weights (NF4)"]
    assert found.works is False
    assert found.detail.startswith("ArithmeticError: NF4 keeps")


def test_an_optimizer_that_does_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from bitsandbytes.optim import AdamW8bit

    monkeypatch.setattr(AdamW8bit, "step", lambda _: None)
    found = {one.name: one for one in doctor.examine_device(CPU)}["8-bit AdamW"]
    assert (found.works, found.mark) == (False, "NO")


def test_a_place_that_cannot_hold_results_is_found(compose: Callable[..., Config], config: Config) -> None:
    Path(config.results_dir).parents[1].joinpath("file").touch()
    broken = compose("devices=cpu", f"results_dir={Path(config.results_dir).parents[1]}/file/results")
    assert examine(broken)["results"].works is False


def test_a_model_that_is_not_there_is_found(compose: Callable[..., Config], config: Config) -> None:
    elsewhere = compose(
        "devices=cpu", "model=local", "model.path=nowhere", f"results_dir={config.results_dir}"
    )
    found = examine(elsewhere)["default model"]
    assert (found.works, "no such folder" in found.detail) == (False, True)


def test_a_card_that_torch_cannot_use_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    holder = driver.Holder(1200, "Xorg", 2 * GIB)
    card = driver.Device(0, "GPU-0", "NVIDIA L4", 22 * GIB, 20 * GIB, (holder,))
    monkeypatch.setattr(driver, "ask", lambda: driver.Driver("570.1", (12, 8), (card,)))
    monkeypatch.setattr(driver, "read_torch_cuda", lambda: "13.0")
    monkeypatch.delenv(driver.VISIBLE, raising=False)
    found = {one.name: one for one in doctor.examine_cards("auto")}
    assert (found["driver"].works, "update the driver" in found["driver"].detail) == (False, True)
    assert found["card 0"].works is None
    assert "22.0 GiB, 20.0 free; Xorg (pid 1200) holds 2.0 GiB; not used" in found["card 0"].detail
    monkeypatch.setattr(driver, "read_torch_cuda", lambda: "12.6")
    found = {one.name: one for one in doctor.examine_cards("auto")}
    assert found["driver"].detail.startswith("driver 570.1 runs CUDA 12.8 and older, torch")
    assert (found["card 0"].works, "runs get it" in found["card 0"].detail) == (True, True)
