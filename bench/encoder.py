"""What transformers' encoders compute and nothing reads: the last layer of all tokens but the first."""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

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


def read_first_token_only(model: PreTrainedModel) -> None:
    """Leaves out of the last layer of a classifier what its head does not read, if it is of a known family.

    Keys and values are still those of all tokens, so that the logits stay the same; what follows attention,
    nine twelfths of the layer's products, is computed at the first token.
    """
    if model.config.model_type in FAMILIES and type(model).__name__.endswith("ForSequenceClassification"):
        encoder: Any = model.base_model.get_submodule("encoder")
        encoder.layer[-1].attention.output.register_forward_pre_hook(_take_first)


def _take_first(_: nn.Module, states: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(one[:, :1].contiguous() for one in states)  # of (rows, length, features) each
