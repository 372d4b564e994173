"""A folder as ChatGLM-6B's official one, but tiny: its files, their names and keys, no trained weight."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from safetensors.torch import save_file

SENTENCES = [
    "股票 指数 上涨 下跌 收盘",
    "国债 收益率 发行 利率 到期",
    "美元 人民币 汇率 央行 干预",
    "第 0 1 2 3 4 5 6 7 8 9 期 a b",
]
SPECIAL = ["[MASK]", "[gMASK]", "[sMASK]", "<unused_0>", "<sop>", "<eop>", "<ENC>", "<dBLOCK>"]
BLANKS = ["<n>", "<|tab|>", *(f"<|blank_{length}|>" for length in range(2, 81))]
AUTO_MAP = "tokenization_chatglm.ChatGLMTokenizer"


def save_tokenizer(
    folder: Path, *, num_image_tokens: int, special: Sequence[str] = SPECIAL, **options: Any
) -> Path:
    """The tokenizer's files, around a sentencepiece model of a few sentences."""
    folder.mkdir(exist_ok=True)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_writer=model,
        vocab_size=180,
        hard_vocab_limit=False,
        pad_id=3,
        user_defined_symbols=[*BLANKS, *special],
        remove_extra_whitespaces=False,
        minloglevel=2,
        **options,
    )
    (folder / "ice_text.model").write_bytes(model.getvalue())
    settings = {
        "name_or_path": "THUDM/chatglm-6b",
        "bos_token": "<sop>",
        "eos_token": "<eop>",
        "end_token": "</s>",
        "gmask_token": "[gMASK]",
        "mask_token": "[MASK]",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "remove_space": False,
        "do_lower_case": False,
        "tokenizer_class": "ChatGLMTokenizer",
        "num_image_tokens": num_image_tokens,
        "auto_map": {"AutoTokenizer": [AUTO_MAP, None]},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder
