"""Tiny decoders of the architectures that people train, with random weights and a tokenizer of their own."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from tokenizers.decoders import ByteLevel
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

# What the architectures' own tokenizers put before a text, and whether word vectors serve as output layer.
DECODERS = {
    "llama": (["<s>"], False),
    "qwen3": ([], True),
    "qwen2": ([], False),
    "mistral": (["<s>"], False),
    "glm": (["[gMASK]", "<sop>"], False),
    "gpt2": ([], True),  # absolute positions
}

EOS = "<|endoftext|>"  # number 0


def save_decoder(architecture: str, folder: Path, texts: list[str]) -> None:
    """Writes two layers without dropout, and a tokenizer of these texts that has no pad token."""
    specials, tied = DECODERS[architecture]
    tokenizer = train_tokenizer(texts, specials)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    if architecture == "gpt2":
        own = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    else:
        own = {"num_key_value_heads": 2, "head_dim": 16, "attention_dropout": 0.0}
    settings = AutoConfig.for_model(
        architecture,
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        initializer_range=0.2,  # random features that can be told apart
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=0 if architecture == "qwen2" else None,  # Qwen2's own would be 151643
        **own,
    )
    AutoModelForCausalLM.from_config(settings).save_pretrained(folder)


def train_tokenizer(texts: list[str], specials: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 300 tokens with an eos token, and the special tokens before each text."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = ByteLevel()
    backend.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=300,
            special_tokens=[EOS, *specials],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    if specials:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{' '.join(specials)} $A",
            special_tokens=[(one, backend.token_to_id(one)) for one in specials],
        )
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=EOS)
