"""ChatGLM-6B's tokenizer, with a sentencepiece model trained here on a few sentences."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from chatglm_folder import SPECIAL, save_tokenizer
from sentencepiece.sentencepiece_model_pb2 import ModelProto

from bench.data.tokens import Padding, identify_tokenizer
from bench.errors import ConfigError, MissingError
from bench.model.build import load_tokenizer
from bench.model.chatglm.tokenizer import ChatGLMTokenizer

TEXT = "股票 指数 上涨"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tokenizer(tmp_path_factory.mktemp("tokenizer"), num_image_tokens=0)


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return load_tokenizer(folder)


def pieces_of(tokenizer: Any, text: str) -> list[str]:
    return tokenizer.convert_ids_to_tokens(tokenizer(text, add_special_tokens=False)["input_ids"])


def test_the_official_files_load_without_their_code(tokenizer: Any) -> None:
    assert type(tokenizer) is ChatGLMTokenizer
    assert Padding.of(tokenizer) == Padding(3, "left")


def test_a_text_ends_with_gmask_and_sop(tokenizer: Any) -> None:
    ids = tokenizer(TEXT)["input_ids"]
    assert ids[:-2] == tokenizer.sp_model.encode(TEXT)
    assert tokenizer.convert_ids_to_tokens(ids[-2:]) == ["[gMASK]", "<sop>"]
    assert ids[-2:] == [tokenizer.gmask_token_id, tokenizer.bos_token_id]


def test_an_answer_follows_and_ends_with_eop(tokenizer: Any) -> None:
    ids = tokenizer("上涨", "下跌")["input_ids"]
    question, answer = tokenizer.sp_model.encode("上涨"), tokenizer.sp_model.encode("下跌")
    assert ids == [*question, *tokenizer.suffix_tokens, *answer, tokenizer.eos_token_id]


@pytest.mark.parametrize("max_length", [2, 3, 5])
def test_a_cut_text_keeps_gmask_and_sop(tokenizer: Any, max_length: int) -> None:
    whole = tokenizer(TEXT)["input_ids"]
    ids = tokenizer(TEXT, truncation=True, max_length=max_length)["input_ids"]
    assert len(ids) == max_length < len(whole)
    assert ids == whole[: max_length - 2] + whole[-2:]


def test_a_batch_is_padded_on_the_left(tokenizer: Any) -> None:
    batch = tokenizer(["上涨", TEXT], padding=True)
    short, long = batch["input_ids"]
    alone = tokenizer("上涨")["input_ids"]
    pads = len(long) - len(alone)
    assert pads > 0
    assert short == [3] * pads + alone
    assert batch["attention_mask"] == [[0] * pads + [1] * len(alone), [1] * len(long)]


@pytest.mark.parametrize(
    ("text", "symbol"),
    [("a\nb", "<n>"), ("a\tb", "<|tab|>"), ("a  b", "<|blank_2|>"), ("a" + " " * 80 + "b", "<|blank_80|>")],
)
def test_white_space_is_one_symbol_and_comes_back(tokenizer: Any, text: str, symbol: str) -> None:
    assert pieces_of(tokenizer, text).count(symbol) == 1
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_more_blanks_than_a_symbol_stands_for_are_several(tokenizer: Any) -> None:
    text = "a" + " " * 163 + "b"
    symbols = [piece for piece in pieces_of(tokenizer, text) if piece.startswith("<|blank_")]
    assert symbols == ["<|blank_80|>", "<|blank_80|>", "<|blank_3|>"]
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_the_first_release_has_ids_of_images_before_all_others(tmp_path: Path, tokenizer: Any) -> None:
    first = load_tokenizer(save_tokenizer(tmp_path, num_image_tokens=20000))
    assert first(TEXT)["input_ids"] == [index + 20000 for index in tokenizer(TEXT)["input_ids"]]
    assert first.pad_token_id == 20003
    assert len(first) == first.vocab_size == tokenizer.vocab_size + 20000
    assert first.convert_ids_to_tokens(7) == "<image_7>"
    assert first.decode(first(TEXT)["input_ids"], skip_special_tokens=True) == TEXT


def test_what_is_saved_loads_again_as_the_same(tmp_path: Path, tokenizer: Any) -> None:
    tokenizer.save_pretrained(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again(TEXT)["input_ids"] == tokenizer(TEXT)["input_ids"]
    assert again.get_vocab() == tokenizer.get_vocab()
    assert identify_tokenizer(again) == identify_tokenizer(tokenizer)


def test_identity_covers_what_decides_the_cuts(tmp_path: Path, tokenizer: Any) -> None:
    other = load_tokenizer(save_tokenizer(tmp_path / "offset", num_image_tokens=5))
    assert identify_tokenizer(other) != identify_tokenizer(tokenizer)
    path = save_tokenizer(tmp_path / "rules", num_image_tokens=0) / "ice_text.model"
    model = ModelProto()
    model.ParseFromString(path.read_bytes())
    model.normalizer_spec.add_dummy_prefix = False
    path.write_bytes(model.SerializeToString())
    other_rules = load_tokenizer(path.parent)
    assert other_rules.get_vocab() == tokenizer.get_vocab()
    assert other_rules(TEXT)["input_ids"] != tokenizer(TEXT)["input_ids"]
    assert identify_tokenizer(other_rules) != identify_tokenizer(tokenizer)


@pytest.mark.parametrize("name", ["do_lower_case", "remove_space"])
def test_other_preprocessing_is_refused(tmp_path: Path, name: str) -> None:
    path = save_tokenizer(tmp_path, num_image_tokens=0) / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {name: True}), encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"its tokenizer does not load \({name}=true: "):
        load_tokenizer(tmp_path)


def test_a_model_without_the_symbols_is_refused(tmp_path: Path) -> None:
    save_tokenizer(tmp_path, num_image_tokens=0, special=[one for one in SPECIAL if one != "<sop>"])
    with pytest.raises(ConfigError, match=r"ice_text\.model has no <sop>; it is not ChatGLM's"):
        load_tokenizer(tmp_path)


def test_a_damaged_model_is_one_message(tmp_path: Path) -> None:
    (save_tokenizer(tmp_path, num_image_tokens=0) / "ice_text.model").write_bytes(b"not a model")
    with pytest.raises(ConfigError, match="its tokenizer does not load"):
        load_tokenizer(tmp_path)


def test_without_sentencepiece_the_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(MissingError, match=r'install the extra, pip install -e "\.\[chatglm\]"$'):
        load_tokenizer(folder)
