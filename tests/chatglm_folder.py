"""A folder as ChatGLM-6B's official one, but tiny: its files, their names and keys, no trained weight."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import sentencepiece
import torch
from safetensors.torch import save_file

from bench.model.chatglm.network import ChatGLMConfig, ChatGLMForCausalLM

SENTENCES = [
    "股票 指数 上涨 下跌 收盘",
    "国债 收益率 发行 利率 到期",
    "美元 人民币 汇率 央行 干预",
    "第 0 1 2 3 4 5 6 7 8 9 期 a b",
]
SPECIAL = ["[MASK]", "[gMASK]", "[sMASK]", "<unused_0>", "<sop>", "<eop>", "<ENC>", "<dBLOCK>"]
BLANKS = ["<n>", "<|tab|>", *(f"<|blank_{length}|>" for length in range(2, 81))]
AUTO_MAP = "tokenization_chatglm.ChatGLMTokenizer"


def save_tokenizer(folder: Path, *, num_image_tokens: int, special: Sequence[str] = SPECIAL) -> Path:
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


def save_checkpoint(folder: Path, *, shards: int = 0) -> Path:
    """A whole checkpoint of two layers with random weights: safetensors, or so many pickled shards of it."""
    save_tokenizer(folder, num_image_tokens=0)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "ice_text.model"))
    settings = {
        "architectures": ["ChatGLMModel"],
        "auto_map": {
            "AutoConfig": "configuration_chatglm.ChatGLMConfig",
            "AutoModel": "modeling_chatglm.ChatGLMForConditionalGeneration",
        },
        "bos_token_id": pieces.piece_to_id("<sop>"),
        "eos_token_id": pieces.piece_to_id("<eop>"),
        "gmask_token_id": pieces.piece_to_id("[gMASK]"),
        "hidden_size": 64,
        "inner_hidden_size": 128,
        "layernorm_epsilon": 1e-05,
        "mask_token_id": pieces.piece_to_id("[MASK]"),
        "max_sequence_length": 2048,
        "model_type": "chatglm",
        "num_attention_heads": 2,
        "num_layers": 2,
        "pad_token_id": 3,
        "position_encoding_2d": True,
        "torch_dtype": "float16",
        "use_cache": True,
        "vocab_size": len(pieces) + 8,
    }
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    torch.manual_seed(0)
    model = ChatGLMForCausalLM(ChatGLMConfig(**settings, initializer_range=0.2))
    tensors = {name: value.detach().half().contiguous() for name, value in model.state_dict().items()}
    for layer in range(2):  # public checkpoints have them and nobody reads them
        tensors[f"transformer.layers.{layer}.attention.rotary_emb.inv_freq"] = torch.ones(8).half()
    if not shards:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    names = [f"pytorch_model-{number + 1:05}-of-{shards:05}.bin" for number in range(shards)]
    for number, name in enumerate(names):
        torch.save(dict(list(tensors.items())[number::shards]), folder / name)
    index = {name: names[number % shards] for number, name in enumerate(tensors)}
    (folder / "pytorch_model.bin.index.json").write_text(
        json.dumps({"metadata": {"total_size": 1}, "weight_map": index}), encoding="utf-8"
    )
    return folder
