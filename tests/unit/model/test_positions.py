"""As many tokens as the model itself reads, and not one more: each count is held against the model."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel

from bench.model.positions import count_positions, cut_length

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
FAMILIES: dict[str, tuple[dict[str, Any], int]] = {
    "bert": ({"max_position_embeddings": 20}, 20),
    "roberta": ({"max_position_embeddings": 20}, 18),
    "xlm-roberta": ({"max_position_embeddings": 20, "pad_token_id": 3}, 16),
    "mpnet": ({"max_position_embeddings": 20}, 18),
    "nystromformer": ({"max_position_embeddings": 20, "num_landmarks": 2, "segment_means_seq_len": 20}, 20),
    "electra": ({"max_position_embeddings": 20, "embedding_size": 16}, 20),
    "deberta-v2": ({"max_position_embeddings": 20}, 20),
    "fnet": ({"max_position_embeddings": 20}, 20),
    "distilbert": (
        {"max_position_embeddings": 20, "dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16},
        20,
    ),
    "gpt2": ({"n_positions": 20, "n_embd": 16, "n_layer": 1, "n_head": 2}, 20),
    "openai-gpt": ({"n_positions": 20, "n_embd": 16, "n_layer": 1, "n_head": 2}, 20),
    "gpt_neo": (
        {
            "max_position_embeddings": 20,
            "num_layers": 1,
            "num_heads": 2,
            "attention_types": [[["global"], 1]],
        },
        20,
    ),
    "gptj": ({"n_positions": 20, "n_embd": 16, "n_layer": 1, "n_head": 2, "rotary_dim": 4}, 20),
    "opt": ({"max_position_embeddings": 20, "ffn_dim": 16, "word_embed_proj_dim": 16}, 20),
    "roformer": ({"max_position_embeddings": 20, "embedding_size": 16}, 20),
}


def make(family: str, **values: Any) -> torch.nn.Module:
    settings = AutoConfig.for_model(family, **{"vocab_size": 50, **SIZES, **values})
    return AutoModel.from_config(settings).eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_position_is_read_and_none_after_it(family: str) -> None:
    values, expected = FAMILIES[family]
    model = make(family, **values)
    assert count_positions(model) == expected
    assert cut_length(100, model) == expected
    assert cut_length(7, model) == 7
    model(input_ids=torch.full((1, expected), 7))
    with pytest.raises((IndexError, RuntimeError, ValueError)):
        model(input_ids=torch.full((1, expected + 1), 7))


@pytest.mark.parametrize("family", ["llama", "qwen3", "t5", "modernbert", "bloom"])
def test_relative_and_rotary_positions_have_no_end(family: str) -> None:
    values = {"llama": {"max_position_embeddings": 20}, "qwen3": {"max_position_embeddings": 20}}
    with torch.device("meta"):
        model = make(family, **{"pad_token_id": 0, **values.get(family, {})})
    assert count_positions(model) is None
    assert cut_length(100, model) == 100
