"""What transformers' decoders need so that predictions depend on texts and not on a batch's padding."""

import inspect
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutputWithPast

from bench.errors import ConfigError


def is_decoder(model: nn.Module) -> bool:
    """Return whether all attention looks back only, by transformers' mark ``is_causal``."""
    marks = {mark for module in model.modules() if (mark := getattr(module, "is_causal", None)) is not None}
    return marks == {True}


def require_causal(model: PreTrainedModel) -> None:
    """Raise a ConfigError unless the model predicts the next token, where it is asked to."""
    if not is_decoder(model) or "logits_to_keep" not in inspect.signature(model.forward).parameters:
        raise ConfigError(
            f"task=label_likelihood: {model.config.model_type} is no decoder with a causal head in "
            "transformers; use task=sequence_classification"
        )


def ignore_padding(model: PreTrainedModel) -> None:
    """Make a decoder's predictions those of its texts alone, on whichever side they are padded."""
    if not is_decoder(model):
        return
    if isinstance(getattr(model, "score", None), nn.Module):
        model.forward = MethodType(_classify_last_token, model)
    tables = [module for module in model.base_model.modules() if isinstance(module, nn.Embedding)]
    if len(tables) > 1:  # one of words, one of absolute positions; rotary positions are relative
        model.base_model.register_forward_pre_hook(_count_positions, with_kwargs=True)


def join_states(model: PreTrainedModel) -> None:
    """Hand the layer of words its states in one piece of memory.

    Of a frozen layer and the last states of each row torch makes a batched product, and on a CPU copies the
    layer's weights for it, once a row: 57 MB each for 49,152 words of width 576, and ten times the time.
    """
    layer: nn.Module | None = model.get_output_embeddings()
    if layer is not None:
        layer.register_forward_pre_hook(_make_contiguous)


def _make_contiguous(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(one.contiguous() for one in inputs)


def _classify_last_token(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    labels: torch.Tensor | None = None,
    **options: Any,
) -> SequenceClassifierOutputWithPast:
    """Return the head's outputs at the last token that is attended to.

    transformers' own (modeling_layers.py, GenericForSequenceClassification) looks for the last token that is
    not the pad token, and so overlooks the end of a text that ends in it, as every text does where eos serves
    as pad token; and it applies the head to the whole sequence.
    """
    states = model.base_model(input_ids=input_ids, attention_mask=attention_mask, **options).last_hidden_state
    numbers = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    last = (numbers * attention_mask).argmax(dim=1)  # (rows,)
    picked = states[torch.arange(len(states), device=states.device), last]  # (rows, hidden)
    logits = model.get_submodule("score")(picked)  # (rows, labels)
    loss = None if labels is None else functional.cross_entropy(logits, labels)
    return SequenceClassifierOutputWithPast(loss=loss, logits=logits)


def _count_positions(
    _: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Give positions that begin at the first real token, those of the new tokens alone."""
    positions = (options["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
    new = next(one for one in (options.get("input_ids"), *arguments) if one is not None)
    return arguments, {**options, "position_ids": positions[:, -new.shape[1] :]}
