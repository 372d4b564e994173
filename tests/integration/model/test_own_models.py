"""Models as people bring them: each trains, or is refused beforehand with a remedy that works."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from bitsandbytes.nn import Linear4bit
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BitsAndBytesConfig,
)

from bench import load
from bench.config.schema import Config, replace_values
from bench.errors import ConfigError
from bench.model import build
from bench.results.store import Store
from bench.run.run import run
from bench.winner import choose
from bench.winner.export import export

pytestmark = pytest.mark.filterwarnings("ignore:fan_in_fan_out")  # GPT-2, which PEFT sets itself

Compose = Callable[..., Config]
On = Callable[..., Config]
WORDS = {"vocab_size": 30522, "pad_token_id": 0}
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    **WORDS,
}
EXPERTS = {"num_key_value_heads": 2, "num_local_experts": 4}
GPT2 = {"n_positions": 48, "n_embd": 32, "n_layer": 2, "n_head": 2, **WORDS, "eos_token_id": 102}
QUICK = ("train.max_steps=2", "train.warmup_steps=0", "train.eval_steps=2", "train.keep=best")


@pytest.fixture
def on(compose_tiny: Compose, tiny_bert: Path, tmp_path: Path) -> On:
    """A short run's configuration on a new random model of a family, with further overrides."""

    def make(family: str, sizes: dict[str, Any], *overrides: str, pad: str | None = None) -> Config:
        folder = tmp_path / family
        tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
        if pad is not None:
            tokenizer.add_special_tokens({"pad_token": pad, "eos_token": "[SEP]"})
        tokenizer.save_pretrained(folder)
        torch.manual_seed(0)
        settings = AutoConfig.for_model(family, **sizes)
        kind = (
            AutoModelForCausalLM if family in ("gpt2", "falcon", "mixtral", "llama") else AutoModelForMaskedLM
        )
        kind.from_config(settings).save_pretrained(folder)
        return compose_tiny(*QUICK, f"model.path={folder}", *overrides)

    return make


@pytest.fixture
def long_texts(tmp_path: Path) -> Path:
    """Texts of 8 words, and one in each label of 600."""
    rows = [(" ".join([f"{label}{n}"] * (600 if n == 0 else 8)), label) for n in range(12) for label in "ab"]
    path = tmp_path / "long.csv"
    pd.DataFrame(rows, columns=["text", "label"]).to_csv(path, index=False)
    return path


@pytest.mark.parametrize(
    ("family", "sizes", "overrides", "positions"),
    [
        ("bert", {**SIZES, "max_position_embeddings": 40}, ["method=lora"], 40),
        ("roberta", {**SIZES, "max_position_embeddings": 40, "pad_token_id": 1}, ["method=full"], 38),
        ("gpt2", GPT2, ["method=lora", "task=label_likelihood"], 48),
        ("bert", {**SIZES, "max_position_embeddings": 40}, ["method=head"], 40),
    ],
)
def test_texts_are_cut_at_the_positions_of_the_model(
    family: str, sizes: dict[str, Any], overrides: list[str], positions: int, on: On, long_texts: Path
) -> None:
    pad = "[NEW PAD]" if family == "gpt2" else None
    config = on(family, sizes, f"data.train={long_texts}", "train.max_length=1000", *overrides, pad=pad)
    result = run(config)
    assert result.status == "success", result.error
    assert result.model["max_length"] == positions
    assert result.reasons["model.max_length"].endswith(
        f"positions for {positions} tokens, so texts are cut there"
    )
    assert result.data["truncated_share"] > 0
    assert result.config["train"]["max_length"] == 1000
    if result.config["method"]["estimator"] == "network":
        store = Store(Path(config.results_dir))
        folder = Path(config.results_dir).parent / "exported"
        export(store, choose.find_run(store, result.run_id), folder)
        assert len(load(folder).predict(["word " * 900])) == 1  # the exported one cuts there too


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_pad_token_beyond_the_words_of_the_model_is_replaced(method: str, on: On) -> None:
    config = on("gpt2", GPT2, f"method={method}", "train.micro_batch_size=4", pad="[NEW PAD]")
    assert json.loads((Path(str(config.model.path)) / "config.json").read_text())["vocab_size"] == 30522
    result = run(config)
    assert result.status == "success", result.error
    assert build.load_tokenizer(Path(str(config.model.path))).pad_token == "[SEP]"


def test_words_that_the_model_does_not_have_are_refused(on: On, tmp_path: Path) -> None:
    path = tmp_path / "new.csv"
    pd.DataFrame({"text": [f"a [NEW] text {n}" for n in range(24)], "label": [*"ab"] * 12}).to_csv(path)
    config = on("bert", SIZES, f"data.train={path}")
    tokenizer = AutoTokenizer.from_pretrained(config.model.path)
    tokenizer.add_tokens(["[NEW]"])
    tokenizer.save_pretrained(config.model.path)
    result = run(config)
    assert result.status == "invalid"
    assert result.error is not None
    assert (
        "gives texts the word 30522, and the model has 30522 words; save the model again"
        in result.error["message"]
    )


@pytest.mark.parametrize("family", ["deberta", "fnet"])
def test_an_architecture_without_bf16_computes_in_fp32_by_itself_and_says_why(
    family: str, on: On, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    sizes = SIZES | ({} if family == "fnet" else {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]})
    targets = "lora.target_modules=[dense]"
    result = run(on(family, sizes, "train.precision=auto", targets))
    assert result.status == "success", result.error
    assert result.model["precision"] == "fp32"
    assert result.reasons["model.precision"].startswith(f"{family} computes in fp32 alone: ")
    assert result.config["train"]["precision"] == "auto"  # as asked for, so that its id is the same
    with pytest.raises(
        ConfigError, match=f"train.precision=bf16: {family} computes in fp32 alone: .*use auto"
    ):
        run(on(family, sizes, "train.precision=bf16", targets))


def test_an_architecture_with_bf16_keeps_it(on: On, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    result = run(on("bert", SIZES, "train.precision=auto"))
    assert (result.model["precision"], result.reasons.get("model.precision")) == ("bf16", None)


def test_falcon_is_quantised(on: On) -> None:
    config = on("falcon", {**SIZES, "new_decoder_architecture": False}, "method=qlora")
    network = build.build(
        config,
        folder=Path(str(config.model.path)),
        labels=["a", "b"],
        pad_token_id=0,
        device=torch.device("cpu"),
        precision="fp32",
    )
    held = [name for name, module in network.model.named_modules() if isinstance(module, Linear4bit)]
    assert len(held) == 2 * 4  # of each layer all four
    result = run(config)
    assert result.status == "success", result.error


@pytest.mark.filterwarnings("ignore:.*_pattern keys")  # PEFT sets them itself
def test_experts_are_adapted_as_the_message_says(on: On) -> None:
    sizes = {**SIZES, **EXPERTS}
    refused = run(on("mixtral", sizes, "lora.target_modules=all-linear", "lora.dropout=0.05"))
    assert refused.error is not None
    remedies = re.findall(
        r"lora\.(?:dropout|target_modules)=\S+", refused.error["message"].partition("use ")[2]
    )
    assert remedies == ["lora.dropout=0,", "lora.target_modules=[q_proj,k_proj,v_proj,o_proj]"]
    for remedy, others in zip(
        remedies, (["lora.target_modules=all-linear"], ["lora.dropout=0.05"]), strict=True
    ):
        result = run(on("mixtral", sizes, *others, remedy.rstrip(",")))
        assert result.status == "success", result.error


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
def test_a_checkpoint_that_is_quantised_is_refused_before_anything_is_written(
    method: str, on: On, tmp_path: Path
) -> None:
    config = on("bert", SIZES, f"method={method}")
    path = Path(str(config.model.path)) / "config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "quantization_config": {"quant_method": "gptq", "bits": 4}}))
    with pytest.raises(
        ConfigError, match=r"quantised already \(gptq\).*give the model's original weights, .*qlora"
    ) as caught:
        run(config)
    assert "python -c" not in str(caught.value)  # which bitsandbytes' own can be
    assert not (tmp_path / "results").exists()


@pytest.mark.slow  # a new interpreter imports transformers
def test_the_command_that_dequantises_gives_a_model_that_trains(on: On, tmp_path: Path) -> None:
    config = on("llama", {**SIZES, "num_key_value_heads": 2}, "method=full")
    folder = Path(str(config.model.path))
    quantised = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=BitsAndBytesConfig(load_in_4bit=True)
    )
    quantised.save_pretrained(folder)
    with pytest.raises(ConfigError, match=r"quantised already \(bitsandbytes\)") as caught:
        run(config)
    command = shlex.split(str(caught.value).partition("that was lost: ")[2])
    subprocess.run([sys.executable, *command[1:]], check=True, cwd=tmp_path, capture_output=True)
    result = run(replace_values(config, {"model.path": str(tmp_path / command[-1])}))
    assert result.status == "success", result.error
    assert result.parameters["trainable"] == result.parameters["total"]
