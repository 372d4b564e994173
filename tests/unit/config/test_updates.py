"""What cannot go together with a stream of texts, or with a way to update."""

import re
from collections.abc import Callable

import pytest

from bench.config.checks import check
from bench.config.schema import Config

Compose = Callable[..., Config]
STREAM = ("data=files", "data.stream=[a.csv,b.csv]")
DRAWN = ("data.pieces=3",)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["method=lora_continued"], "method.update=continue: there is nothing to update without a stream"),
        ([*DRAWN, "method=tfidf", "method.update=continue"], "method.estimator=tfidf: it is fitted anew"),
        ([*DRAWN, "method=lora", "method.replay=0.1"], "method.replay=0.1 with method.update=null"),
        ([*DRAWN, "method=lora_replay5", "method.replay=1.5"], r"method.replay=1.5: must lie in \(0, 1\]"),
        ([*DRAWN, "method=full_continued", "method.update=merge"], "only LoRA's matrices are merged"),
        ([*DRAWN, "method=qlora", "method.update=merge"], "quantization=nf4 would round what is merged"),
        ([*DRAWN, "method=dora", "method.update=merge"], "method.adapter.use_dora=True is not plain LoRA"),
        ([*DRAWN, "method=pissa", "method.update=merge"], "init_lora_weights=pissa is not plain LoRA"),
        ([*DRAWN, "method=routed_lora"], "method.experts=4 with a stream of texts: what gates choose"),
        ([*DRAWN, "method=zero_shot"], "it is not trained, so there is nothing to update"),
        ([*DRAWN, "data.train_size=100"], "data.train_size=100.0 with a stream of texts: all train texts"),
        ([*DRAWN, "data.folds=3", "data.fold=0"], "data.folds=3 with a stream of texts: each piece has one"),
        ([*DRAWN, "sweep.strategy=halving"], "sweep.strategy=halving with a stream of texts: .* set grid"),
        ([*DRAWN, "train.stop_step=5"], "train.stop_step=5 with a stream of texts"),
        ([*DRAWN, "train=ddp"], "train.distributed=ddp with a stream of texts"),
        (["data.stream=[a.csv,b.csv]"], "data.source=bbc_headlines: it lists files; use data=files"),
        (["data=files", "data.stream=[a.csv]"], "must list two files or more"),
        ([*STREAM, "data.train=c.csv"], "data.train=c.csv: each file is a piece already"),
        (
            [*STREAM, "data.test=c.csv"],
            "data.test=c.csv with a stream of texts: each piece is split by itself",
        ),
        (
            ["data=files", "data.train=a.csv", "data.date_column=date"],
            "say into how many pieces dates are cut",
        ),
        (["data.pieces=2", "data.date_column=date"], "data.source=bbc_headlines: its texts have no columns"),
        ([*STREAM, "data.late_labels=[x]"], "is for pieces that are drawn"),
        (["data.pieces=1"], "data.pieces=1: must be at least 2"),
        (["data=finance8_synthetic", "data.pieces=2"], "it makes splits, not a stream"),
    ],
)
def test_what_a_stream_cannot_have_is_refused(compose: Compose, overrides: list[str], said: str) -> None:
    assert re.search(said, "\n".join(check(compose(*overrides))))


@pytest.mark.parametrize(
    "overrides",
    [
        (*STREAM, "method=lora_merged"),
        (*DRAWN, "method=qlora", "method.update=continue"),
        ("data=files", "data.train=a.csv", "data.date_column=date", "data.pieces=4", "method=full_continued"),
        (
            "experiment=updates",
            "method=setfit",
            "train.max_steps=5",
            "train.warmup_steps=1",
            "train.epochs=null",
        ),
    ],
)
def test_what_a_stream_can_have_is_not(compose: Compose, overrides: tuple[str, ...]) -> None:
    assert check(compose(*overrides)) == []
