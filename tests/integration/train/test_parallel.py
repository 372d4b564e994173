"""Several processes train one model as one process does, and leave one run that nobody can tell apart."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DeepSpeedPlugin
from safetensors.torch import load_file

from bench.config.schema import Config
from bench.errors import ConfigError, MissingError
from bench.results.store import Result
from bench.run import fitting
from bench.run.run import run
from bench.train import parallel

Compose = Callable[..., Config]

# Of 84 rows some micro-batches are smaller, and 18 rows are three batches of evaluation for two processes.
COMMON = (
    "train.micro_batch_size=8",
    "train.gradient_accumulation_steps=2",
    "train.max_steps=12",
    "train.eval_steps=6",
    "train.eval_batch_size=6",
    "train.checkpoint_steps=null",
    "train.max_grad_norm=0.5",
    "train.lr=1e-2",
)
TOLERANCE = 1e-5


def train(config: Config) -> tuple[Result, list[dict[str, Any]], Path]:
    """The run's record, history and folder."""
    AcceleratorState._reset_state(reset_partial_state=True)
    result = run(config)
    assert result.error is None
    folder = Path(config.results_dir) / "runs" / result.run_id
    return result, [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()], folder


@pytest.mark.parametrize(
    ("distributed", "overrides"),
    [
        ("ddp", ["method=full"]),
        ("ddp", ["method=lora", "train.gradient_accumulation_steps=4", "train.micro_batch_size=4"]),
        ("ddp", ["method=qlora"]),
        ("fsdp2", ["method=full", "train.gradient_checkpointing=true"]),
        ("fsdp2", ["method=lora", "train.gradient_accumulation_steps=4", "train.micro_batch_size=4"]),
        pytest.param("ddp", ["method=routed_lora", "method.experts=2"], marks=pytest.mark.slow),
        ("fsdp2", ["method=routed_lora", "method.experts=2"]),
    ],
)
def test_two_processes_come_to_what_one_does(
    compose_tiny: Compose, distributed: str, overrides: list[str]
) -> None:
    alone, expected, place = train(compose_tiny(*COMMON, *overrides))
    two = (f"train.distributed={distributed}", "train.processes=2")
    together, found, folder = train(compose_tiny(*COMMON, *overrides, *two))
    assert [row.keys() for row in found] == [row.keys() for row in expected]
    for name in ("step", "loss", "grad_norm", "lr", "validation_loss", "validation_accuracy"):
        ours, theirs = ([row[name] for row in rows if name in row] for rows in (found, expected))
        assert ours == pytest.approx(theirs, rel=TOLERANCE, abs=TOLERANCE), name
    assert together.parameters == alone.parameters
    theirs = {name: value for name, value in alone.metrics["test"].items() if name != "f1_by_label"}
    assert {name: together.metrics["test"][name] for name in theirs} == pytest.approx(theirs, abs=TOLERANCE)
    assert (together.model["processes"], alone.model["processes"]) == (2, 1)
    assert together.reasons["memory"].startswith("of the first of 2 processes")
    assert "memory" not in alone.reasons
    assert {path.name for path in folder.iterdir()} == {path.name for path in place.iterdir()}
    ours, theirs = (load_file(one / "best.safetensors") for one in (folder, place))
    assert {name: one.shape for name, one in ours.items()} == {
        name: one.shape for name, one in theirs.items()
    }
    for name in ("predictions.csv", "gates.csv"):
        if (place / name).exists():
            ours, theirs = (pd.read_csv(one / name) for one in (folder, place))
            pd.testing.assert_frame_equal(ours, theirs, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("distributed", ["ddp", "fsdp2"])
def test_two_processes_answer_prompts_as_one_does(compose_decoder: Compose, distributed: str) -> None:
    """A loss over answers of unlike length, and an output layer that is the embedding."""
    overrides = ("method=full", "task=label_likelihood", *COMMON)
    _, expected, _ = train(compose_decoder("qwen3", *overrides))
    two = (f"train.distributed={distributed}", "train.processes=2")
    _, found, _ = train(compose_decoder("qwen3", *overrides, *two))
    for name in ("loss", "validation_loss"):
        ours, theirs = ([row[name] for row in rows if name in row] for rows in (found, expected))
        assert ours == pytest.approx(theirs, rel=TOLERANCE, abs=TOLERANCE), name


def test_processes_start_alike_and_drop_out_other_values(
    compose_tiny: Compose, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Dropout draws from torch's generator, whose seed the second process tells here."""
    told, follow = tmp_path / "seed", fitting._follow

    def follow_and_tell(*arguments: Any) -> None:
        follow(*arguments)
        told.write_text(str(torch.initial_seed()))

    monkeypatch.setattr(fitting, "_follow", follow_and_tell)
    train(compose_tiny(*COMMON, "train.distributed=ddp", "train.processes=2", "seed=7"))
    assert torch.initial_seed() == 7
    assert int(told.read_text()) == 7 + 2**32


def test_a_run_fails_with_the_error_of_any_of_its_processes(
    compose_tiny: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    def follow(*_: Any, **__: Any) -> None:
        raise MemoryError("that device is full")

    monkeypatch.setattr(fitting, "_follow", follow)
    config = compose_tiny(*COMMON, "train.distributed=ddp", "train.processes=2")
    result = run(config)
    assert (result.status, (result.error or {})["message"]) == ("oom", "that device is full")
    assert "in process 1 of 2" in (result.error or {})["traceback_tail"]


def test_each_process_must_have_a_device(compose: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name in ("ddp", "fsdp2"):
        with pytest.raises(
            ConfigError, match=r"train.processes=2: each needs a CUDA device, and this run sees 1"
        ):
            parallel.require_processes(compose(f"train={name}").train, cuda, "bf16")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    parallel.require_processes(compose("train=ddp").train, cuda, "fp16")
    with pytest.raises(ConfigError, match="fsdp2: fp16 scales the loss"):
        parallel.require_processes(compose("train=fsdp2").train, cuda, "fp16")


def test_deepspeed_says_what_it_lacks(compose_tiny: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose_tiny(*COMMON, "train.distributed=deepspeed_zero2", "train.processes=2")
    with pytest.raises(ConfigError, match="deepspeed_zero2: needs CUDA devices; use ddp or fsdp2 on a CPU"):
        run(config)
    assert not Path(config.results_dir).exists()
    monkeypatch.setattr(parallel.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingError, match=r'pip install -e ".\[deepspeed\]"'):
        parallel.require_processes(config.train, torch.device("cuda"), "bf16")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_deepspeeds_file_says_what_the_run_says(
    compose: Compose, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, precision: str
) -> None:
    settings = compose("train=deepspeed_zero2", "train.gradient_accumulation_steps=6").train
    plugin = parallel.plug_in(settings, precision)
    assert isinstance(plugin, DeepSpeedPlugin)
    values = plugin.deepspeed_config
    assert values["train_batch_size"] == 48  # of two GPUs, each three times 8
    assert (values["train_micro_batch_size_per_gpu"], values["gradient_accumulation_steps"]) == (8, 3)
    assert (values["gradient_clipping"], values["zero_optimization"]["stage"]) == (1.0, 2)
    assert [values[name]["enabled"] for name in ("bf16", "fp16")] == [
        precision == "bf16",
        precision == "fp16",
    ]
    assert "auto" not in json.dumps(values)
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "deepspeed_zero2.json").write_text('{"gradient_clipping": 5.0}')
    monkeypatch.setattr(parallel, "CONF_DIR", tmp_path)
    with pytest.raises(
        ConfigError, match=r"gradient_clipping is 5.0, but the run's settings say 1.0; set auto"
    ):
        parallel.read_deepspeed(settings, precision)
    assert parallel.plug_in(compose("train=ddp").train, precision) is None
