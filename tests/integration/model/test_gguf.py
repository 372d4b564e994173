"""A GGUF file is read once into a folder of safetensors, whole or not at all, with the weights it held."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from bench.config.schema import Config, ModelConfig
from bench.errors import MissingError
from bench.model import build, weights

Compose = Callable[..., Config]

WIDTH, INNER = 64, 96
LAYER = {
    "attn_q": (WIDTH, WIDTH),
    "attn_k": (WIDTH // 2, WIDTH),
    "attn_v": (WIDTH // 2, WIDTH),
    "attn_output": (WIDTH, WIDTH),
    "ffn_gate": (INNER, WIDTH),
    "ffn_up": (INNER, WIDTH),
    "ffn_down": (WIDTH, INNER),
}


def write_gguf(path: Path) -> dict[str, np.ndarray]:
    """Write a Llama of one layer in Q4_1, and return its weights as the format's own package reads them."""
    words = [*bytes_to_unicode().values(), "ab", "<|end|>"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_license("apache-2.0")
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_rope_dimension_count(WIDTH // 2)
    writer.add_vocab_size(len(words))
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_1)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(words)
    writer.add_token_types([gguf.TokenType.NORMAL] * (len(words) - 1) + [gguf.TokenType.CONTROL])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(len(words) - 1)
    writer.add_pad_token_id(len(words) - 1)
    shapes = {f"blk.0.{name}.weight": shape for name, shape in LAYER.items()}
    shapes["token_embd.weight"] = (len(words), WIDTH)
    held, random = {}, np.random.default_rng(0)
    for name, shape in shapes.items():
        kind = gguf.GGMLQuantizationType.Q4_1
        packed = gguf.quants.quantize(random.normal(0, 0.2, shape).astype(np.float32), kind)
        writer.add_tensor(name, packed, raw_dtype=kind)
        held[name] = gguf.quants.dequantize(packed, kind)
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return held


@pytest.fixture
def source(compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelConfig:
    """A GGUF file as a model, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return compose("model=local", f"model.path={tmp_path}/tiny.gguf").model


@pytest.mark.slow
def test_processes_that_convert_at_once_get_one_whole_folder(source: ModelConfig, tmp_path: Path) -> None:
    held = write_gguf(tmp_path / "tiny.gguf")
    revision = weights.revision(source)
    left = (
        tmp_path / "cache" / "bench" / "models" / ".writing-tiny-killed"
    )  # as a killed conversion leaves it
    left.mkdir(parents=True)
    (left / "config.json").write_text("{")
    assert (weights.find(source), weights.is_here(source)) == (None, False)
    with ThreadPoolExecutor(2) as pool:
        folder, other = pool.map(weights.locate, [source, source])
    assert folder == other == weights.find(source)
    assert folder is not None
    assert [path.name for path in folder.parent.iterdir() if path.name != ".lock"] == [folder.name]
    assert weights.revision(source) == revision  # known before, and not that of the folder
    _require_equal(load_file(folder / "model.safetensors"), held)
    settings = json.loads((folder / "config.json").read_text())
    assert (settings["dequantised_from"], "quantization_config" in settings) == ("GGUF Q4_1", False)
    assert build.describe_source(source, folder)["dequantised_from"] == "GGUF Q4_1"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer("aba 1")["input_ids"] == [256, *tokenizer.convert_tokens_to_ids(["a", "Ġ", "1"])]
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|end|>", "<|end|>")


def _require_equal(found: dict[str, np.ndarray], held: dict[str, np.ndarray]) -> None:
    """Hold the weights whose rows no convention of rotary positions permutes against the others."""
    names = {
        "token_embd": "embed_tokens",
        "blk.0.attn_v": "layers.0.self_attn.v_proj",
        "blk.0.ffn_down": "layers.0.mlp.down_proj",
    }
    for name, own in names.items():
        assert found[f"model.{own}.weight"].dtype == np.float32
        np.testing.assert_array_equal(found[f"model.{own}.weight"], held[f"{name}.weight"])


def test_a_file_that_is_no_gguf_is_one_message_and_leaves_nothing(
    source: ModelConfig, tmp_path: Path
) -> None:
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(
        MissingError,
        match=r"tiny\.gguf: cannot be converted to safetensors in .*models \(ValueError: .+\), where",
    ) as caught:
        weights.locate(source)
    assert "\n" not in str(caught.value)
    assert [path.name for path in (tmp_path / "cache" / "bench" / "models").iterdir()] == [".lock"]


@pytest.mark.slow
def test_the_embedded_language_model_knows_what_it_is_asked(compose: Compose) -> None:
    """Converted into this user's cache, as a run would."""
    folder = weights.locate(compose("model=smollm2").model)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.inference_mode():
        logits = model(**tokenizer("The capital of France is", return_tensors="pt")).logits[0, -1]
    assert tokenizer.decode(logits.argmax()) == " Paris"
