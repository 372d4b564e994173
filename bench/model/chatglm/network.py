"""ChatGLM-6B (arXiv:2103.10360, arXiv:2210.02414) on today's transformers: configuration, network and heads.

Weights have the public checkpoint's names, so that it loads as it is. What is unusual about the network:

- A text before <sop> is read in both directions, what follows <sop> is written causally.
- Each token has two positions, in the text and in the answer; each turns one half of a head's dimensions.
- A block's residual is its normalised input, times a constant.

Positions and masks follow from the ids and the usual two-dimensional attention mask, padded on either side.
"""

from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    CausalLMOutputWithPast,
    SequenceClassifierOutputWithPast,
)
from transformers.modeling_utils import slice_logits_to_keep

Tensor = torch.Tensor
Rotation = tuple[
    Tensor, Tensor
]  # cosines and sines: (rows, 1, length, head size), text half before answer half

RESIDUAL_SCALE = (2 * 28) ** 0.5  # of the 28 layers of the public checkpoint, also where a model has fewer


class ChatGLMConfig(PreTrainedConfig):
    """The sizes and special ids in a checkpoint's config.json; the defaults are ChatGLM-6B's.

    Raises:
        ValueError: the checkpoint is of a variant: int4 and int8 weights in a format of their own, a trained
            prefix, one-dimensional positions.
    """

    model_type = "chatglm"
    attribute_map: ClassVar[dict[str, str]] = {
        "num_hidden_layers": "num_layers",
        "intermediate_size": "inner_hidden_size",
        "max_position_embeddings": "max_sequence_length",
    }

    vocab_size: int = 130528
    hidden_size: int = 4096
    num_layers: int = 28
    num_attention_heads: int = 32
    inner_hidden_size: int = 16384
    layernorm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    max_sequence_length: int = 2048
    position_encoding_2d: bool = True
    use_cache: bool = True
    quantization_bit: int | None = 0
    pre_seq_len: int | None = None
    tie_word_embeddings: bool = False
    pad_token_id: int | None = 3
    mask_token_id: int = 130000
    gmask_token_id: int = 130001
    bos_token_id: int = 130004  # <sop>
    eos_token_id: int = 130005  # <eop>

    def __post_init__(self, **kwargs: Any) -> None:
        """Refuse what the network cannot be."""
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]
        unsupported = {
            "position_encoding_2d": not self.position_encoding_2d,
            "quantization_bit": bool(self.quantization_bit),
            "pre_seq_len": self.pre_seq_len is not None,
        }
        for name in (name for name, is_unsupported in unsupported.items() if is_unsupported):
            raise ValueError(
                f"{name}={getattr(self, name)}: only ChatGLM-6B itself is supported, not its variants"
            )
        if self.hidden_size % (4 * self.num_attention_heads):
            raise ValueError(f"hidden_size={self.hidden_size}: must be a multiple of 4 x num_attention_heads")


def find_positions(input_ids: Tensor, attention_mask: Tensor, config: ChatGLMConfig) -> Tensor:
    """Return each token's position in text and answer, (rows, 2, length).

    Before <sop> tokens are counted in the text, from the first that is not a pad; <sop> and the answer stand
    where the text's [gMASK] (or else [MASK]) does, and are counted from 1 in the answer. Pads have 0 and 0.
    """
    place = (attention_mask.long().cumsum(1) - 1).clamp(min=0)  # (rows, length)
    start = find_answers(input_ids, attention_mask, config)  # (rows, 1)
    slot, has_slot = _find_first(input_ids == config.gmask_token_id, attention_mask)
    infill, has_infill = _find_first(input_ids == config.mask_token_id, attention_mask)
    slot = torch.where(has_slot, slot, infill)
    is_answer = torch.arange(input_ids.shape[1], device=input_ids.device) >= start
    in_slot = is_answer & (has_slot | has_infill)
    in_text = torch.where(in_slot, place.gather(1, slot), place)
    in_answer = torch.where(is_answer, is_answer.long().cumsum(1), 0)
    return torch.stack([in_text, in_answer], dim=1) * attention_mask.long().unsqueeze(1)


def find_answers(input_ids: Tensor, attention_mask: Tensor, config: ChatGLMConfig) -> Tensor:
    """Return the column of each row's first <sop>, or the length. # (rows, 1)"""
    start, has_answer = _find_first(input_ids == config.bos_token_id, attention_mask)
    return torch.where(has_answer, start, input_ids.shape[1])


def find_visible(attention_mask: Tensor, start: Tensor, *, past: int) -> Tensor:
    """Return which tokens each one after ``past`` sees, (rows, 1, length - past, length).

    All see the text; what follows <sop> is seen only from behind. Pads are seen by nobody.
    """
    length = attention_mask.shape[1]
    column = torch.arange(length, device=attention_mask.device)
    is_behind = column <= column[past:, None]  # (length - past, length)
    is_text = (column < start).unsqueeze(1)  # (rows, 1, length)
    return ((is_text | is_behind) & attention_mask.bool().unsqueeze(1)).unsqueeze(1)


def make_rotation(position_ids: Tensor, head_size: int, dtype: torch.dtype) -> Rotation:
    """Return the cosines and sines that turn queries and keys to their two positions.

    The public checkpoint was trained with frequencies, and in float16 with angles too, rounded to float16.
    """
    size = head_size // 2  # of the half that one of the two positions turns
    powers = torch.arange(0, size, 2, dtype=torch.float64, device=position_ids.device) / size
    frequencies = (10000.0**-powers).half()
    angle_dtype = torch.float16 if dtype == torch.float16 else torch.float32
    angles = position_ids.to(angle_dtype).unsqueeze(-1) * frequencies.to(
        angle_dtype
    )  # (rows, 2, length, size / 2)
    angles = torch.cat([angles, angles], dim=-1)
    cosines, sines = (
        torch.cat([table[:, :1], table[:, 1:]], dim=-1).to(dtype) for table in (angles.cos(), angles.sin())
    )
    return cosines, sines


def _find_first(is_wanted: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Find each row's first wanted token that is no pad, if it has one. # both (rows, 1)"""
    is_wanted = is_wanted & attention_mask.bool()
    return is_wanted.int().argmax(1, keepdim=True), is_wanted.any(1, keepdim=True)


def _rotate(states: Tensor, rotation: Rotation) -> Tensor:
    """Turn the heads' two halves by the token's two positions. # (rows, heads, length, head size)"""
    cosines, sines = (table.to(states.dtype) for table in rotation)
    quarters = states.chunk(4, dim=-1)
    turned = torch.cat([-quarters[1], quarters[0], -quarters[3], quarters[2]], dim=-1)
    return states * cosines + turned * sines


class ChatGLMAttention(nn.Module):
    """Attention with query, key and value of one head side by side in one weight."""

    is_causal = True  # transformers' mark of a decoder; only the text before sop sees all of itself

    def __init__(self, config: ChatGLMConfig, index: int) -> None:
        super().__init__()
        self.config = config
        self.index = index
        self.query_key_value = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, states: Tensor, visible: Tensor, rotation: Rotation, cache: Cache | None) -> Tensor:
        """Return (rows, length, hidden) from the same; ``visible`` says what sees what."""
        heads = (*states.shape[:2], self.config.num_attention_heads, -1)
        query, key, value = self.query_key_value(states).view(heads).transpose(1, 2).chunk(3, dim=-1)
        query, key = _rotate(query, rotation), _rotate(key, rotation)
        if cache is not None:
            key, value = cache.update(key, value, self.index)
        if self.config._attn_implementation == "eager":
            scores = (query @ key.transpose(2, 3)).float() / query.shape[-1] ** 0.5
            scores = scores.masked_fill(~visible, torch.finfo(scores.dtype).min)
            mixed = scores.softmax(-1).to(value.dtype) @ value
        else:
            mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=visible)
        attended: Tensor = self.dense(mixed.transpose(1, 2).flatten(2))
        return attended


class ChatGLMMLP(nn.Module):
    """Two layers around a GELU."""

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__()
        self.dense_h_to_4h = nn.Linear(config.hidden_size, config.inner_hidden_size)
        self.dense_4h_to_h = nn.Linear(config.inner_hidden_size, config.hidden_size)

    def forward(self, states: Tensor) -> Tensor:
        """Return (rows, length, hidden) from the same."""
        out: Tensor = self.dense_4h_to_h(functional.gelu(self.dense_h_to_4h(states), approximate="tanh"))
        return out


class ChatGLMBlock(GradientCheckpointingLayer):
    """Attention, then an MLP, each added to its own normalised and scaled input."""

    def __init__(self, config: ChatGLMConfig, index: int) -> None:
        super().__init__()
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)
        self.attention = ChatGLMAttention(config, index)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)
        self.mlp = ChatGLMMLP(config)

    def forward(
        self, states: Tensor, visible: Tensor, rotation: Rotation, cache: Cache | None = None
    ) -> Tensor:
        """Return (rows, length, hidden) from the same."""
        states = self.input_layernorm(states)
        states = RESIDUAL_SCALE * states + self.attention(states, visible, rotation, cache)
        states = self.post_attention_layernorm(states)
        out: Tensor = RESIDUAL_SCALE * states + self.mlp(states)
        return out


class ChatGLMPreTrainedModel(PreTrainedModel):
    """What transformers needs to know to load, place, quantise and checkpoint the network."""

    base_model_prefix = "transformer"
    supports_gradient_checkpointing = True
    config: ChatGLMConfig
    _no_split_modules = ["ChatGLMBlock"]  # noqa: RUF012 (as transformers declares it)
    _supports_sdpa = True
    _input_embed_layer = "word_embeddings"
    _keys_to_ignore_on_load_unexpected = [r"rotary_emb\.inv_freq$"]  # noqa: RUF012


class ChatGLMModel(ChatGLMPreTrainedModel):
    """The network without a head."""

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__(config)
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(ChatGLMBlock(config, index) for index in range(config.num_layers))
        self.final_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        **_: Any,
    ) -> BaseModelOutputWithPast:
        """Return the hidden states after the last norm, (rows, length, hidden).

        ``attention_mask`` is 1 for a real token, (rows, past + length), or boolean and True where a token
        must not look, (rows, 1, length, past + length). ``position_ids`` are (rows, 2, length). A cache is
        made only where one is asked for, as classifying has no use for its memory.

        Raises:
            ValueError: there are no positions, and with a cache not the whole text that they follow from.
        """
        if use_cache and cache is None:
            cache = DynamicCache(config=self.config)
        past = 0 if cache is None else cache.get_seq_length()
        is_real, visible = self._read_mask(input_ids, attention_mask, past)
        if position_ids is None:
            if past:
                raise ValueError(
                    "position_ids: must be given with a cache, as they follow from the whole text"
                )
            position_ids = find_positions(input_ids, is_real, self.config)
        states = self.word_embeddings(input_ids)
        head_size = self.config.hidden_size // self.config.num_attention_heads
        rotation = make_rotation(position_ids, head_size, states.dtype)
        inputs = []
        for layer in self.layers:
            inputs.append(states)
            states = layer(states, visible, rotation, cache=cache)
        states = self.final_layernorm(states)
        return BaseModelOutputWithPast(
            last_hidden_state=states,
            cache=cache,
            hidden_states=(*inputs, states) if output_hidden_states else None,
        )

    def _read_mask(self, input_ids: Tensor, mask: Tensor | None, past: int) -> tuple[Tensor, Tensor]:
        """Return which tokens are real, (rows, past + length), and what each one sees."""
        rows, length = input_ids.shape
        if mask is not None and mask.ndim == 4:
            is_real = input_ids.new_ones(rows, past + length)
            visible = ~mask
        else:
            is_real = input_ids.new_ones(rows, past + length) if mask is None else mask
            # What comes after a cache is an answer: the text before it has to be read at once.
            start = is_real.new_zeros(rows, 1) if past else find_answers(input_ids, is_real, self.config)
            visible = find_visible(is_real, start, past=past)
        # Attention to nothing would be NaN, and 0 times NaN reaches the other rows' gradients.
        return is_real, visible | ~visible.any(-1, keepdim=True)


class ChatGLMForCausalLM(ChatGLMPreTrainedModel, GenerationMixin):
    """The network with a head that writes the next token."""

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__(config)
        self.transformer = ChatGLMModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        **options: Any,
    ) -> CausalLMOutputWithPast:
        """Return the next token's logits at each place, (rows, places, vocabulary), and the mean loss.

        ``logits_to_keep`` is transformers': so many of the last places, or their indices, as the logits of
        all would take more memory than the network. Labels need them all; -100 has no part in the loss.
        """
        output = self.transformer(
            input_ids, attention_mask=attention_mask, position_ids=position_ids, cache=cache, **options
        )
        logits = self.lm_head(slice_logits_to_keep(output.last_hidden_state, logits_to_keep))
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size)
        return CausalLMOutputWithPast(
            loss=loss, logits=logits, cache=output.cache, hidden_states=output.hidden_states
        )

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, *, attention_mask: Tensor | None = None, **options: Any
    ) -> dict[str, Any]:
        """Return a step's inputs, with the positions that follow."""
        is_real = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        options["position_ids"] = find_positions(input_ids, is_real, self.config)
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(
            input_ids, attention_mask=attention_mask, **options
        )
        return inputs


class ChatGLMForSequenceClassification(ChatGLMPreTrainedModel):
    """The network with a head that scores labels from the state of each row's last real token."""

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels or 0
        self.transformer = ChatGLMModel(config)
        self.score = nn.Linear(config.hidden_size, self.num_labels, bias=False)
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        **options: Any,
    ) -> SequenceClassifierOutputWithPast:
        """Return the labels' logits, (rows, labels), and their loss.

        Where no mask says which tokens are real, those that are not the pad token are.
        """
        output = self.transformer(
            input_ids, attention_mask=attention_mask, position_ids=position_ids, **options
        )
        is_real: Tensor = input_ids != self.config.pad_token_id  # type: ignore[assignment]
        if attention_mask is not None and attention_mask.ndim == 2:
            is_real = attention_mask.bool()
        columns = torch.arange(input_ids.shape[1], device=input_ids.device)
        last = (columns * is_real).argmax(1)  # (rows,)
        states = output.last_hidden_state[torch.arange(len(last), device=last.device), last]
        logits = self.score(states)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, pooled_logits=logits, config=self.config)
        return SequenceClassifierOutputWithPast(
            loss=loss, logits=logits, cache=output.cache, hidden_states=output.hidden_states
        )
