"""What transformers' encoders compute and nothing reads: the last layer of all tokens but the first."""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

# Families of modeling_bert.py's layers whose classification head reads the first token alone.
FAMILIES = (
    "bert",
    "camembert",
    "deberta",
    "deberta-v2",
    "electra",
    "ernie",
    "roberta",
    "xlm-roberta",
    "xlm-roberta-xl",
)


def takes_types(architecture: PreTrainedConfig) -> bool:
    """Return whether the model is told of which of two texts each token is."""
    return int(getattr(architecture, "type_vocab_size", None) or 0) > 1


def read_first_token_only(model: PreTrainedModel) -> None:
    """Leave out of a classifier's last layer what its head does not read.

    Keys and values are still those of all tokens, so that the logits stay the same; all else of the layer is
    computed at the first token, by transformers' cross-attention, whose queries may be fewer. DeBERTa has
    none: its attention is computed whole.
    """
    if model.config.model_type in FAMILIES and type(model).__name__.endswith("ForSequenceClassification"):
        encoder: Any = model.base_model.get_submodule("encoder")
        attention = encoder.layer[-1].attention
        modeling = sys.modules[type(attention.self).__module__]
        name = type(attention.self).__name__.replace("SelfAttention", "CrossAttention")
        if cross := getattr(modeling, name, None):
            attention.self.forward = partial(_ask_first, cross.forward, attention.self)
        attention.output.register_forward_pre_hook(_take_first)


def _ask_first(
    forward: Callable[..., Any],
    attention: nn.Module,
    hidden_states: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    **options: Any,
) -> Any:
    """Compute the attention of the first token to all. # hidden_states: (rows, length, features)"""
    if attention_mask is not None and attention_mask.dim() == 4:  # (rows, 1, length, keys); else (rows, keys)
        attention_mask = attention_mask[:, :, :1]
    options["encoder_hidden_states"] = hidden_states
    return forward(attention, hidden_states[:, :1].contiguous(), attention_mask=attention_mask, **options)


def _take_first(_: nn.Module, states: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(state[:, :1].contiguous() for state in states)  # of (rows, length or 1, features) each
