"""`make gpu-check` says what it proved and what it left out, and needs neither W&B nor datasets."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import gpu_check
from bench.checks import check
from bench.config import Config
from bench.gpu_check import PARTS, Outcome, Part

LORA = next(part for part in PARTS if part.name == "lora, small decoder")


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    return gpu_check.write_texts(tmp_path / "texts.csv")


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_every_part_is_a_right_configuration(compose: Callable[..., Config], part: Part, texts: Path) -> None:
    config = compose(*part.overrides, *gpu_check.FOR_ALL, f"data.train={texts}")
    assert check(config) == []
    assert (config.model.weights, config.track.mode) == ("random", "disabled")
    if part.needs_gpu:
        assert (config.train.micro_batch_size, config.train.max_length) == (4, 256)
        assert config.device_memory_gib == 24


def test_a_part_is_measured_without_wandb_and_datasets(
    tmp_path: Path, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("wandb", "datasets"):
        (tmp_path / "traps" / package).mkdir(parents=True)
        (tmp_path / "traps" / package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "traps"))
    outcome = gpu_check.run_part(LORA, tmp_path / "run", texts=texts, seconds=120)
    assert (outcome.status, outcome.reason) == ("passed", None)
    numbers = outcome.numbers
    assert numbers["loss_last_quarter"] < 0.8 * numbers["loss_first_quarter"]
    assert numbers["steps"] == 80
    assert 0 < numbers["seconds_per_step"] < 120 / 80
    assert numbers["peak_resident_bytes"] > 2**27


@pytest.mark.slow
def test_a_loss_that_does_not_fall_and_an_error_are_failures(tmp_path: Path, texts: Path) -> None:
    idle = Part("idle", [*LORA.overrides, "train.lr=1e-12", "train.max_steps=8"], falls=True)
    wrong = Part("wrong", [*LORA.overrides, "lora.r=0"])
    found = [
        gpu_check.run_part(part, tmp_path / part.name, texts=texts, seconds=120) for part in (idle, wrong)
    ]
    assert [one.status for one in found] == ["failed", "failed"]
    assert str(found[0].reason).startswith("the loss went from 2.")
    assert "exit code 2: lora.r=0: rank must be at least 1" in str(found[1].reason)


def test_what_is_left_out_is_named_with_its_reason(tmp_path: Path) -> None:
    over = time.monotonic() - gpu_check.LIMIT_SECONDS
    (tmp_path / "parts").mkdir()
    found = list(gpu_check.run_parts(tmp_path / "parts", has_gpu=False, started=over))
    assert {one.status for one in found} == {"skipped"}
    assert [one.name for one in found if "CUDA" in str(one.reason)] == [
        part.name for part in PARTS if part.needs_gpu
    ]


def test_the_report_is_for_people_and_for_scripts(tmp_path: Path) -> None:
    numbers = {
        **{
            f"peak_{kind}_bytes": size
            for kind, size in zip(("allocated", "reserved"), (2**33, 2**34), strict=True)
        },
        **{"peak_resident_bytes": None, "predicted_reserved_bytes": 2**34 + 2**30, "seconds_per_step": 1.25},
        **{"loss_first_quarter": 2.0, "loss_last_quarter": 1.0},
    }
    parts = [Outcome("lora", "passed", None, numbers), Outcome("full", "skipped", "no time")]
    report = gpu_check.describe([], parts, seconds=1.0, on_gpu=True)
    report["provenance"]["hardware"]["gpu"] = "NVIDIA GeForce RTX 4090"
    paths = gpu_check.write_report(report, folder=tmp_path)
    assert [path.name for path in paths] == ["nvidia-geforce-rtx-4090.json", "nvidia-geforce-rtx-4090.md"]
    assert json.loads(paths[0].read_text())["parts"][0]["numbers"]["seconds_per_step"] == 1.25
    lines = paths[1].read_text().splitlines()
    assert lines[-2:] == [
        "| lora | passed | 8.00 | 16.00 | — | 17.00 | 1.250 | 2.000, 1.000 |",
        "| full | skipped | no time |  |  |  |  |  |",
    ]
