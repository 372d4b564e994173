"""A configuration with a pack asks for several runs, each as if it were asked for alone."""

from collections.abc import Callable

import pytest

from bench.config.checks import check
from bench.config.identity import identify
from bench.config.pack import describe_others, unpack
from bench.config.schema import Config
from bench.errors import ConfigError

Compose = Callable[..., Config]


def run_id(config: Config) -> str:
    return identify(config, data_fingerprint="texts", model_revision="weights").run_id


def test_each_run_of_a_pack_is_the_run_that_it_would_be_alone(compose: Compose) -> None:
    packed = compose("lora.r=4", "pack=[{lora.r:8,train.lr:0.01},{lora.alpha:8}]")
    alone = [compose("lora.r=4"), compose("lora.r=8", "train.lr=0.01"), compose("lora.r=4", "lora.alpha=8")]
    assert unpack(packed) == alone
    assert list(map(run_id, unpack(packed))) == list(map(run_id, alone))
    assert run_id(packed) == run_id(alone[0])  # who trains beside it does not make it another run
    assert describe_others(*alone) == packed.pack
    assert check(packed) == []


@pytest.mark.parametrize(
    ("pack", "more", "fault"),
    [
        ("[{train.max_steps:1}]", (), "train.max_steps must be the same for all runs of a pack"),
        ("[{seed:1}]", ("model.weights=random",), "do not share base weights"),
        ("[{lora.r:x}]", (), "lora.r=x: Value 'x'"),
        ("[{}]", (), "two of its runs are the same"),
        ("[{lora.r:2},{lora.r:2}]", (), "two of its runs are the same"),
        ("[{lora.r:2}]", ("method=full",), "set pack=[]"),
        ("[{resume_from:'0123456789ab'}]", (), "two of its runs are the same"),
    ],
)
def test_what_cannot_train_together_is_refused(
    compose: Compose, pack: str, more: tuple[str, ...], fault: str
) -> None:
    faults = check(compose(f"pack={pack}", *more))
    assert len(faults) == 1
    assert faults[0].startswith("pack=[{")
    assert fault in faults[0]


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        (("pack=[{lora.r:2}]", "train.gradient_accumulation_steps=4"), None),
        (("pack=[{lora.r:2}]", "train.gradient_accumulation_steps=3"), "must divide train.gradient_accumul"),
        (("train.gradient_accumulation_steps=4",), "a run alone is computed as it was asked for"),
    ],
)
def test_only_a_pack_computes_whole_micro_batches_as_one(
    compose: Compose, lines: tuple[str, ...], fault: str | None
) -> None:
    faults = check(compose("merged_micro_batches=2", *lines))
    assert len(faults) == (fault is not None)
    assert all(one.startswith("merged_micro_batches=2: ") and str(fault) in one for one in faults)


def test_a_field_that_there_is_not_is_named(compose: Compose) -> None:
    with pytest.raises(ConfigError, match=r"^lora\.rank=2: there is no such setting"):
        unpack(compose("pack=[{lora.rank:2}]"))


@pytest.mark.parametrize("value", ["auto", "off", "false", "2", "16"])
def test_sweep_pack_is_auto_off_or_a_number(compose: Compose, value: str) -> None:
    assert check(compose(f"sweep.pack={value}")) == []


@pytest.mark.parametrize("value", ["on", "true", "1", "0", "-2", "2.5", "[2]"])
def test_any_other_sweep_pack_is_refused(compose: Compose, value: str) -> None:
    (fault,) = check(compose(f"sweep.pack={value}"))
    assert fault.endswith("must be auto, off or a number of runs from 2 on")
