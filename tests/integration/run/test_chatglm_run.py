"""bench trains ChatGLM-6B from files laid out as the official ones, safetensors or pickled shards."""

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from chatglm_folder import save_checkpoint

from bench.config.schema import Config
from bench.errors import ConfigError
from bench.model import build as builder
from bench.run.run import run

Compose = Callable[..., Config]


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("chatglm")
    return {
        "safetensors": save_checkpoint(folder / "safetensors"),
        "shards": save_checkpoint(folder / "shards", shards=3),
    }


class Trap:
    """Something that runs when a pickle is loaded, and the mark that it leaves."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def build(config: Config, folder: Path) -> Any:
    torch.manual_seed(0)
    return builder.build(
        config,
        folder=folder,
        labels=["a", "b", "c"],
        pad_token_id=3,
        device=torch.device("cpu"),
        precision="fp32",
    )


@pytest.mark.parametrize(("method", "lr"), [("full", "3e-3"), ("lora", "1e-2"), ("qlora", "1e-2")])
def test_labels_are_answers_after_sop(
    compose_tiny: Compose, official: dict[str, Path], method: str, lr: str
) -> None:
    files = (f"model.path={official['shards']}", "model.template='{text}'", "task=label_likelihood")
    adapter = ("lora.target_modules=all-linear", "lora.r=16")
    options = (*files, *adapter, f"method={method}", f"train.lr={lr}", "train.max_steps=100")
    result = run(compose_tiny(*options))
    assert (result.status, result.error) == ("success", None)
    assert result.metrics["test"]["accuracy"] > 0.5  # of three classes
    assert result.model["architecture"] == "ChatGLMForCausalLM"
    one_by_one = run(compose_tiny(*options, "train.eval_batch_size=1"))
    assert one_by_one.metrics["test"]["loss"] == pytest.approx(result.metrics["test"]["loss"], abs=1e-5)


@pytest.mark.parametrize("files", ["safetensors", "shards"])
@pytest.mark.parametrize(("method", "lr"), [("full", "1e-3"), ("lora", "1e-2"), ("qlora", "1e-2")])
def test_each_method_trains_on_the_official_layout(
    compose_tiny: Compose, official: dict[str, Path], method: str, lr: str, files: str
) -> None:
    config = compose_tiny(
        f"model.path={official[files]}", f"method={method}", f"train.lr={lr}", "train.max_steps=40"
    )
    result = run(config)
    assert (result.status, result.error) == ("success", None)
    assert result.metrics["test"]["accuracy"] > 0.5  # of three classes
    assert result.model["architecture"] == "ChatGLMForSequenceClassification"
    assert result.model["attention"] == "sdpa"
    assert result.model["new_modules"] == ["score"]
    assert result.model["target_modules"] == (None if method == "full" else ["query_key_value"])


def test_gradient_checkpointing_changes_no_number(compose_tiny: Compose, official: dict[str, Path]) -> None:
    options = (
        f"model.path={official['shards']}",
        "method=qlora",
        "train.max_steps=4",
        "train.precision=bf16",
    )
    plain = run(compose_tiny(*options))
    checkpointed = run(compose_tiny(*options, "train.gradient_checkpointing=true"))
    assert checkpointed.metrics == plain.metrics


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
def test_shards_hold_what_safetensors_hold(
    compose_tiny: Compose, official: dict[str, Path], method: str
) -> None:
    ids = torch.tensor([[5, 6, 7, 8]])
    config = compose_tiny(f"method={method}")
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    logits = [build(config, folder).model(**inputs).logits for folder in official.values()]
    assert torch.equal(*logits)


def test_predictions_do_not_depend_on_padding(compose_tiny: Compose, official: dict[str, Path]) -> None:
    options = (f"model.path={official['safetensors']}", "method=lora", "train.max_steps=10")
    in_batches = run(compose_tiny(*options))
    one_by_one = run(compose_tiny(*options, "train.eval_batch_size=1"))
    assert one_by_one.metrics["test"]["loss"] == pytest.approx(in_batches.metrics["test"]["loss"], abs=1e-5)


def test_only_the_base_is_4_bit(compose_tiny: Compose, official: dict[str, Path]) -> None:
    network = build(compose_tiny("method=qlora"), official["shards"]).model
    kinds = {name: type(module).__name__ for name, module in network.named_modules()}
    assert kinds["base_model.model.transformer.layers.0.mlp.dense_h_to_4h"] == "Linear4bit"
    assert kinds["base_model.model.transformer.layers.0.attention.query_key_value.base_layer"] == "Linear4bit"
    assert kinds["base_model.model.score.modules_to_save.default"] == "Linear"


@pytest.mark.parametrize("whole_file", [False, True])
@pytest.mark.parametrize("as_torch_saves", [True, False])
def test_a_shard_that_would_run_something_is_refused(
    compose_tiny: Compose,
    official: dict[str, Path],
    tmp_path: Path,
    *,
    as_torch_saves: bool,
    whole_file: bool,
) -> None:
    folder, trap = shutil.copytree(official["shards"], tmp_path / "model"), Trap(tmp_path / "executed")
    path = folder / "pytorch_model-00002-of-00003.bin"
    if whole_file:
        for shard in folder.glob("pytorch_model*"):
            shard.unlink()
        path = folder / "pytorch_model.bin"
    if as_torch_saves:
        torch.save({"transformer.final_layernorm.weight": trap}, path)
    else:
        path.write_bytes(pickle.dumps(trap, protocol=2))
    with pytest.raises(
        ConfigError, match=r"\.bin files hold more than tensors, .*; use the official files$"
    ) as caught:
        build(compose_tiny("method=lora"), folder)
    assert len(str(caught.value).splitlines()) == 1
    assert not trap.mark.exists()


@pytest.mark.parametrize("content", [b"", b"PK", b"not a pickle"])
def test_a_shard_that_is_nothing_is_one_message(
    compose_tiny: Compose, official: dict[str, Path], tmp_path: Path, content: bytes
) -> None:
    folder = shutil.copytree(official["shards"], tmp_path / "model")
    (folder / "pytorch_model-00002-of-00003.bin").write_bytes(content)
    with pytest.raises(ConfigError, match=r"or are damaged; nothing of them was run"):
        build(compose_tiny("method=lora"), folder)
