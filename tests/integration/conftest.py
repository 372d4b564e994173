"""Short runs of tiny models, in this process."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from accelerate.state import AcceleratorState
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from bench.config import Config

Compose = Callable[..., Config]

# What the architectures' own tokenizers put before a text, and whether word vectors serve as output layer.
DECODERS = {
    "llama": (["<s>"], False),
    "qwen3": ([], True),
    "qwen2": ([], False),
    "mistral": (["<s>"], False),
    "glm": (["[gMASK]", "<sop>"], False),
    "gpt2": ([], True),  # absolute positions
}


@pytest.fixture(autouse=True)
def _fresh_accelerator() -> None:
    """accelerate keeps one precision per process; a run has its own process, a test does not."""
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def compose_tiny(compose: Compose, tiny_bert: Path, texts: Path, tmp_path: Path) -> Compose:
    """A configuration of a short run of the tiny model on the tiny texts, with further overrides."""

    def compose_with(*overrides: str) -> Config:
        return compose(
            "model=local",
            f"model.path={tiny_bert}",
            "data=files",
            f"data.train={texts}",
            f"results_dir={tmp_path}/results",
            f"cache_dir={tmp_path}/cache",
            "track.mode=disabled",
            "train.max_steps=20",
            "train.warmup_steps=2",
            "train.eval_steps=10",
            "train.micro_batch_size=8",
            "train.log_steps=1",
            "train.precision=fp32",
            "lora.dropout=0",
            "devices=cpu",
            *overrides,
        )

    return compose_with


@pytest.fixture(scope="session")
def tiny_decoder(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Saves a two-layer decoder of an architecture, with random weights and a tokenizer without a pad token."""
    made: dict[str, Path] = {}

    def make(architecture: str) -> Path:
        if architecture not in made:
            made[architecture] = folder = tmp_path_factory.mktemp(architecture)
            specials, tied = DECODERS[architecture]
            tokenizer = train_tokenizer(pd.read_csv(texts)["text"].tolist(), specials)
            tokenizer.save_pretrained(folder)
            torch.manual_seed(0)
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
                pad_token_id=None,
                **{"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
                if architecture == "gpt2"
                else {"num_key_value_heads": 2, "head_dim": 16, "attention_dropout": 0.0},
            )
            AutoModelForCausalLM.from_config(settings).save_pretrained(folder)
        return made[architecture]

    return make


def train_tokenizer(texts: list[str], specials: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 300 tokens with an eos token, and the special tokens before each text."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=300,
            special_tokens=[*specials, "</s>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    if specials:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{' '.join(specials)} $A",
            special_tokens=[(one, backend.token_to_id(one)) for one in specials],
        )
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
