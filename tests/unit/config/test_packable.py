"""Which runs may share a pack: by their fields alone."""

from collections.abc import Callable

import pytest

from bench.config.packable import OWN, cannot_pack, shared_key
from bench.config.schema import Config

Compose = Callable[..., Config]


@pytest.mark.parametrize(
    "lines",
    [
        ["method=lora"],
        ["method=qlora"],
        ["method=rslora"],
        ["method=lora_plus"],
        ["method=int8_lora"],
        ["method=lora_all_linear"],
        ["method=lora", "train.gradient_checkpointing=true"],
        ["method=lora", "task=label_likelihood"],
        ["method=lora", "train.stop_step=10", "resume_from=0123456789ab"],
        ["method=lora", "train.precision=fp16"],
        ["method=lora", "train.weights=bf16"],
        ["method=lora", "train.optimizer=paged_adamw_8bit"],
    ],
)
def test_plain_lora_can_be_packed(compose: Compose, lines: list[str]) -> None:
    assert cannot_pack(compose(*lines)) is None


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["method=full"], "only LoRA's"),
        (["method=tfidf"], "only LoRA's"),
        (["method=head"], "only LoRA's"),
        (["method=ia3"], "only LoRA's"),
        (["method=dora"], "method.adapter.use_dora=True"),
        (["method=pissa"], "method.adapter.init_lora_weights=pissa"),
        (["method=loftq"], "method.adapter.init_lora_weights=loftq"),
        (["method=routed_lora"], "method.experts=4: gates are not batched"),
        (["method=distilled_lora"], "its texts have a teacher's probabilities"),
        (["train.distributed=ddp", "train.processes=2"], "train.distributed=ddp"),
        (["train.optimizer_in_backward=true"], "train.optimizer_in_backward=True"),
        (["train.stochastic_rounding=true"], "train.stochastic_rounding=True"),
    ],
)
def test_what_needs_a_base_or_a_loop_of_its_own_cannot(
    compose: Compose, lines: list[str], reason: str
) -> None:
    assert str(cannot_pack(compose("method=lora", *lines))).startswith(reason)


def test_members_differ_in_the_adapter_its_rate_the_seed_train_texts_and_what_they_go_on_from(
    compose: Compose,
) -> None:
    values = {"lora.r": 64, "lora.alpha": 3, "lora.dropout": 0.5, "train.lr": 0.1}
    values |= {
        "train.loss": "focal",
        "seed": 1,
        "data.train_size": 200,
        "data.fold": 1,
        "data.held_out": 1,
        "resume_from": "'0123456789ab'",
    }
    assert set(values) == set(OWN)
    changed = compose(*(f"{name}={value}" for name, value in values.items()))
    assert shared_key(changed) == shared_key(compose())


@pytest.mark.parametrize(
    "line",
    [
        "method=qlora",
        "method=lora_plus",
        "model=bert-base-chinese",
        "data=bbc_news",
        "train.max_steps=301",
        "train.micro_batch_size=8",
        "train.eval_steps=25",
        "train.stop_step=25",
        "train.max_grad_norm=null",
        "lora.target_modules=all-linear",
        "results_dir=elsewhere",
        "data.folds=5",
        "oom_halvings=1",
    ],
)
def test_all_else_is_shared(compose: Compose, line: str) -> None:
    assert shared_key(compose(line)) != shared_key(compose())


@pytest.mark.parametrize(
    ("line", "path"),
    [
        ("model.weights=random", "seed"),  # whose base weights it decides
        ("train.epochs=2", "data.train_size"),  # which decides the steps
        ("train.epochs=2", "data.fold"),  # as one may have a text more
        ("data=finance8_synthetic", "data.train_size"),  # and there which texts are evaluated
    ],
)
def test_what_decides_more_than_a_member_is_shared(compose: Compose, line: str, path: str) -> None:
    lines = [line, "train.max_steps=null"] if "epochs" in line else [line]
    keys = [shared_key(compose(*lines, f"{path}={value}")) for value in (100, 200)]
    assert keys[0] != keys[1]


def test_a_methods_name_is_not_what_it_does(compose: Compose) -> None:
    named = compose("method.name=other", "method.title=Other", "method.default_lr=1.0", "train.lr=1e-3")
    assert shared_key(named) == shared_key(compose())
