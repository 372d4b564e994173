"""Every range and every rule between fields says what is wrong and what to do, all of them at once."""

import re
from collections.abc import Callable
from dataclasses import replace
from math import inf, nan
from typing import Any

import pytest

from bench.config.checks import check, require_valid
from bench.config.fields import write
from bench.config.overrides import quote_text
from bench.config.schema import RETRIED, Config, replace_values
from bench.errors import ConfigError

Compose = Callable[..., Config]

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CHOICES = {
    "task": "sequence_classification, label_likelihood",
    "method.estimator": "network, setfit, frozen_encoder, zero_shot, few_shot, tfidf, majority",
    "method.trainable": "all, adapter, head",
    "method.quantization": "none, nf4, fp4, int8",
    "model.source": "package, local, hub",
    "model.weights": "saved, random",
    "data.source": "bbc_headlines, bbc_news, files, hub, finance8_synthetic, tasks",
    "data.long_texts": "truncate, head_tail, windows",
    "train.loss": "cross_entropy, weighted, focal, balanced_sampling",
    "train.optimizer": "adamw, adamw_8bit, paged_adamw, paged_adamw_8bit",
    "train.weights": "fp32, bf16",
    "train.distributed": "none, ddp, fsdp2, deepspeed_zero2",
    "train.attention": "auto, eager, sdpa, flash_attention_2",
    "train.precision": "auto, fp32, bf16, fp16",
    "train.keep": "auto, best, chosen, none, all",
    "track.mode": "auto, online, offline, disabled",
    "sweep.select_by": "accuracy, f1_macro, balanced_accuracy, mcc, f1_micro, f1_samples, "
    "mean_average_precision",
    "sweep.strategy": "grid, halving",
}
DEVICES = "must be auto, cpu, cuda, cpu*N (N runs at once) or the numbers of GPUs, 0,1"
COUNT = "must be at least 1"
POSITIVE = "must be a positive number"
RATIO = "or null for one learning rate"
SIZE = "must be a share in (0, 1) or a number of rows"
SEED = "must lie in [0, 2**32)"
# field: values just outside, values just inside, the message
RANGES: dict[str, tuple[list[Any], list[Any], str]] = {
    "lora.r": ([0, -8], [1], "must be at least 1; use method=full to train without an adapter"),
    "lora.alpha": ([0.0, -1.0, inf, nan], [0.5], POSITIVE),
    "method.loraplus_lr_ratio": (
        [0.0, -1.0, inf, nan],
        [None, 0.5, 16.0],
        f"{POSITIVE}, for example 16, {RATIO}",
    ),
    "method.experts": ([0, -1], [None, 1, 2, 8], f"{COUNT}, or null for one LoRA without a gate"),
    "method.shots": ([0, -1], [None], f"{COUNT}, or null for no examples"),
    "lora.dropout": ([1.0, -0.1, nan], [0.0, 0.99], "must lie in [0, 1)"),
    "train.lr": ([0.0, -1e-3, inf, nan], [1e-9], f"{POSITIVE}, for example 1e-4"),
    "train.max_steps": ([0], [31], f"{COUNT}, or null to train by train.epochs"),
    "train.epochs": ([0.0, -1.0, inf, nan], [], f"{POSITIVE}, or null"),
    "train.micro_batch_size": ([0], [1], COUNT),
    "train.gradient_accumulation_steps": ([0], [1], COUNT),
    "train.processes": ([0, -1], [1], COUNT),
    "train.max_length": ([3], [4], "must be at least 4 tokens"),
    "train.warmup_steps": ([-1], [0], "must be 0 or more"),
    "train.weight_decay": ([-0.1, inf, nan], [0.0], "must be 0 or more"),
    "train.max_grad_norm": ([0.0, inf, nan], [None, 0.1], f"{POSITIVE}, or null to clip nothing"),
    "train.eval_steps": ([0], [1], COUNT),
    "train.eval_batch_size": ([0], [1], COUNT),
    "train.log_steps": ([0], [1], COUNT),
    "train.checkpoint_steps": ([0], [None, 1], f"{COUNT}, or null for no checkpoints"),
    "train.stop_step": ([0, -1], [None, 1, 300], f"{COUNT}, or null to train to the end"),
    "resume_from": (
        ["0123456789a", "0123456789abc", "0123456789AB", "../../secret", "0123456789ab\n", ""],
        [None, "0123456789ab"],
        "must be a run_id, 12 hexadecimal digits, or null; `bench status` lists them",
    ),
    "data.train_size": (
        [0.0, -5.0, 10.5, inf, nan],
        [None, 0.5, 1.0, 100.0],
        f"{SIZE}, or null for the rest",
    ),
    "data.validation_size": ([0.0, 10.5, inf, nan], [0.5, 100.0], SIZE),
    "data.test_size": ([0.0, 10.5, inf, nan], [0.5, 100.0], SIZE),
    "data.folds": ([1, 0], [None], "must be at least 2, or null for one validation split"),
    "data.fold": ([-1], [None], "must be 0 or more, or null without data.folds"),
    "data.split_seed": ([-1, 2**32], [0, 2**32 - 1], SEED),
    "seed": ([-1, 2**32], [0, 2**32 - 1], SEED),
    "sweep.final_seeds": (
        [[0, -1], [2**32], ["a"], [True], 3, "all"],
        [[], [0, 1], "auto"],
        "must be auto or list seeds that lie in [0, 2**32), for example [0,1,2]",
    ),
    "sweep.hours": (
        [0, 0.0, -1.0, nan, inf, "0m", "-90m", "nan", "90s", "h", "soon", True, [1]],
        [None, 2, 0.5, "90m", "1.5h", "1e-3"],
        "must be more than 0 hours, as 1.5, 1.5h or 90m, or null for no budget",
    ),
    "sweep.retry": (
        [["nonsense"], ["success"]],
        [[], ["failed", "oom"]],
        f"must list some of {', '.join(RETRIED)}",
    ),
    "sweep.time_limit_seconds": ([0.0, -1.0, inf, nan], [None, 0.5], f"{POSITIVE}, or null for no limit"),
    "model.template": (
        ["", "Topic: ", "{text} {text}", "{TEXT}"],
        ["{text}", "> {text}\nTopic: "],
        "must hold {text} once, where the text goes, and {pair} at most once, after it",
    ),
    "train.oom_retries": ([-1], [0], "must be 0 or more"),
    "oom_halvings": ([-1], [0], "must be 0 or more"),
    "merged_micro_batches": ([0, -1], [1], "must be at least 1"),
    "devices": (["tpu", "cpu*0", "0,", "cpu*2,0"], ["cpu*2", "0", "0,1", "cuda"], DEVICES),
    "report.price_per_hour": ([-1.0, nan], [0.0, 2.5, None], "must be 0 or more, or null to show no cost"),
    "report.price_per_kwh": ([-1.0, inf], [0.0, None], "must be 0 or more, or null to show no cost"),
    "track.probe_seconds": ([0.0, 31.0, nan], [0.5, 30.0], "must lie in (0, 30]"),
}
TOGETHER = "with train.distributed=fsdp2"
IN_BACKWARD = "with train.optimizer_in_backward=true"
HUB_MODEL = {"model.source": "hub", "model.hub_id": "owner/name", "model.revision": COMMIT}
HUB_DATA = {"data.source": "hub", "data.hub_id": "owner/name", "data.revision": COMMIT}
MUTABLE = (
    "must be a full commit of 40 hexadecimal digits, as a name like main can come to mean other {}; "
    "copy it from owner/name's history on the hub, or leave it null to pin what main is at first use"
)
TARGETS = "must be auto, all-linear or a list of module names, [query,value]"
START = "method.adapter.init_lora_weights"
NEEDED = "is needed here; give"
# settings that do not go together, the message
RULES: list[tuple[dict[str, Any], str]] = [
    (
        {"method.trainable": "all", "method.quantization": "nf4"},
        "method.quantization=nf4: quantised weights cannot be trained; use method.trainable=adapter",
    ),
    (
        {"task": "label_likelihood", "method.trainable": "head"},
        "method.trainable=head: task=label_likelihood has no new head to train; use task=sequence_classifica",
    ),
    (
        {"method.estimator": "few_shot", "method.shots": 2},
        "task=sequence_classification: method.estimator=few_shot puts examples with their labels' words into",
    ),
    (
        {"method.estimator": "few_shot", "task": "label_likelihood"},
        "method.shots=null with method.estimator=few_shot: few_shot has 1 or more examples of each label in",
    ),
    (
        {"method.shots": 2},
        "method.shots=2 with method.estimator=network: few_shot has 1 or more examples of each label in its",
    ),
    (
        {"method.estimator": "setfit"},
        "method.trainable=adapter with method.estimator=setfit: it fine-tunes the whole encoder; set all",
    ),
    (
        {"train.max_steps": None},
        "train.max_steps=null and train.epochs=null: set one of them",
    ),
    (
        {"train.epochs": 2.0},
        "train.max_steps=300 and train.epochs=2.0: set one of them, and the other to null",
    ),
    (
        {"train.stop_step": 301},
        "train.stop_step=301: must be at most train.max_steps=300, or null to train to the end",
    ),
    (
        {"sweep.strategy": "halving", "train.max_steps": None, "train.epochs": 2.0},
        "sweep.strategy=halving: needs train.max_steps, not train.epochs=2.0",
    ),
    ({"train.warmup_steps": 300}, "train.warmup_steps=300: must be less than train.max_steps=300"),
    ({"method.adapter.r": 4}, "method.adapter.r=4: set lora.r instead"),
    ({"method.adapter.lora_alpha": 4}, "method.adapter.lora_alpha=4: set lora.alpha instead"),
    ({"method.adapter.lora_dropout": 0}, "method.adapter.lora_dropout=0: set lora.dropout instead"),
    (
        {"method.adapter": {"peft_type": "IA3", "modules_to_save": ["score"]}},
        "method.adapter.modules_to_save=['score']: bench sets this itself; leave it out",
    ),
    ({"method.adapter.target_modules": "q"}, f"method.adapter.target_modules=q: {TARGETS}"),
    ({"method.adapter.init_lora_weights": "eva"}, f"{START}=eva: PEFT would have to see the texts first"),
    (
        {"method.adapter.init_lora_weights": "pissa_niter_4", "method.quantization": "nf4"},
        f"{START}=pissa_niter_4 and method.quantization=nf4: PiSSA takes singular values out of the weights, "
        "which must not be quantised; use method.quantization=none, or loftq",
    ),
    (
        {"method.adapter.init_lora_weights": "loftq"},
        f"{START}=loftq and method.quantization=none: LoftQ makes up for what 4-bit weights lose; use ",
    ),
    (
        {"method.adapter.init_lora_weights": "loftq", "method.quantization": "int8"},
        f"{START}=loftq and method.quantization=int8: LoftQ makes up for what 4-bit weights lose; use ",
    ),
    (
        {"method.adapter": {"init_lora_weights": "loftq", "use_dora": True}, "method.quantization": "nf4"},
        f"{START}=loftq and use_dora=true: DoRA's magnitudes would be those before LoftQ; use one of them",
    ),
    (
        {"lora.r": 10, "method.experts": 4},
        "lora.r=10 with method.experts=4: must be a multiple of it, as each expert has rank lora.r / method."
        "experts; use lora.r=12",
    ),
    (
        {"method.experts": 4, "method.adapter.use_dora": True},
        "method.experts=4 and method.adapter.use_dora=True: experts are plain LoRA, without more; leave out ",
    ),
    (
        {"method.experts": 4, "method.adapter.init_lora_weights": "pissa"},
        f"method.experts=4 and {START}=pissa: experts are plain LoRA, without more; leave out one of the two",
    ),
    (
        {"method.experts": 4, "method.adapter": {"peft_type": "IA3"}},
        "method.experts=4: experts are LoRA's A and B, which this method does not train; set null",
    ),
    (
        {"method.experts": 4, "method.trainable": "all"},
        "method.experts=4: experts are LoRA's A and B, which this method does not train; set null",
    ),
    ({"lora.target_modules": []}, f"lora.target_modules=[]: {TARGETS}"),
    ({"lora.target_modules": "query"}, f"lora.target_modules=query: {TARGETS}"),
    ({"lora.target_modules": [1]}, f"lora.target_modules=[1]: {TARGETS}"),
    ({"model.path": None}, f"model.path=null: {NEEDED} a folder, for example model.path=./my-model"),
    ({"model.source": "local", "model.path": ""}, f"model.path=null: {NEEDED} a folder, for example "),
    (HUB_MODEL | {"model.hub_id": None}, f"model.hub_id=null: {NEEDED} a model's name on the hub"),
    (HUB_MODEL | {"model.revision": "main"}, f"model.revision=main: {MUTABLE.format('weights')}"),
    (HUB_MODEL | {"model.revision": COMMIT[:7]}, f"model.revision={COMMIT[:7]}: {MUTABLE.format('weights')}"),
    (HUB_MODEL | {"model.revision": f"{COMMIT}\n"}, f"model.revision={COMMIT}\n: must be a full commit"),
    ({"data.source": "files"}, f"data.train=null: {NEEDED} a CSV, JSONL or Parquet file"),
    (HUB_DATA | {"data.hub_id": None}, f"data.hub_id=null: {NEEDED} a data set's name on the hub"),
    (HUB_DATA | {"data.revision": ""}, f"data.revision=: {MUTABLE.format('texts')}"),
    (
        HUB_MODEL | {"model.weights": "random"},
        f"model.architecture=null: {NEEDED} the values of a config.json, or choose a preset that has them",
    ),
    ({"model.weights": "random", "model.architecture": {"hidden_size": 8}}, "model.architecture: must name"),
    ({"model.architecture": {"model_type": "bert"}}, "model.architecture={'model_type': 'bert'}: the saved "),
    (
        {"data.folds": 3, "data.fold": 0, "sweep.curve": 4},
        "sweep.curve=4 with data.folds=3: each seed of a curve draws its train texts, and folds already are",
    ),
    ({"data.fold": 0}, "data.fold=0 with data.folds=null: say of how many folds, for example data.folds=5"),
    (
        {"data.folds": 5},
        "data.fold=null with data.folds=5: must be the fold that validates, 0 to 4; a sweep over all of them "
        "sets data.fold=0,1,2,3,4",
    ),
    (
        {"data.folds": 3, "data.fold": 3},
        "data.fold=3 with data.folds=3: must be the fold that validates, 0 t",
    ),
    (
        {"data.folds": 3, "data.fold": 2, "sweep.strategy": "halving"},
        "data.folds=3 with sweep.strategy=halving: each fold would keep other configurations, and none",
    ),
    (
        {"data.folds": 3, "data.fold": 2, "sweep.bracket": True},
        "data.folds=3 with sweep.bracket=true: one fold alone would say which value comes next; set null",
    ),
    (HUB_DATA | {"data.revision": "v1.0"}, f"data.revision=v1.0: {MUTABLE.format('texts')}"),
    ({"data.source": "finance8_synthetic"}, f"data.noise=null: {NEEDED} the share of wrong labels"),
]


@pytest.mark.parametrize("lines", [(), ("data=finance8_synthetic",), ("data=bbc_news", "sweep=article")])
def test_what_conf_sets_is_right(compose: Compose, lines: tuple[str, ...]) -> None:
    assert check(compose(*lines)) == []


@pytest.mark.parametrize(
    ("line", "missing"),
    [
        ("data=files", ["data.train"]),
        ("data=hub", ["data.hub_id"]),
        ("model=local", ["model.path"]),
        ("model=hub", ["model.hub_id"]),
    ],
)
def test_what_only_the_user_knows_is_asked_for(compose: Compose, line: str, missing: list[str]) -> None:
    faults = check(compose(line))
    assert [fault.partition("=")[0] for fault in faults] == missing
    assert all("null: is needed here; give " in fault for fault in faults)


@pytest.mark.parametrize("path", CHOICES)
def test_a_word_that_is_no_choice_names_the_choices(compose: Compose, path: str) -> None:
    faults = check(replace_values(compose(), {path: "nonsense"}))
    assert faults == [f"{path}=nonsense: must be one of {CHOICES[path]}"]


@pytest.mark.parametrize(
    ("path", "value"), [(path, value) for path, (outside, _, _) in RANGES.items() for value in outside]
)
def test_a_number_out_of_range_is_named_with_its_range(compose: Compose, path: str, value: Any) -> None:
    faults = check(replace_values(compose(), {path: value}))
    assert f"{path}={write(value)}: {RANGES[path][2]}" in faults
    assert {fault.partition("=")[0] for fault in faults} <= {path, "train.max_steps", "train.warmup_steps"}


@pytest.mark.parametrize(
    ("path", "value"), [(path, value) for path, (_, inside, _) in RANGES.items() for value in inside]
)
def test_a_number_at_the_edge_of_its_range_is_right(compose: Compose, path: str, value: Any) -> None:
    assert check(replace_values(compose(), {path: value})) == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"train.weights": "fp32"},
            "train.weights=fp32 with train.stochastic_rounding=true: only weights in bf16",
        ),
        (
            {"train.gradient_accumulation_steps": 2},
            f"train.gradient_accumulation_steps=2 {IN_BACKWARD}: a gradient",
        ),
        (
            {"train.max_grad_norm": 1.0},
            f"train.max_grad_norm=1.0 {IN_BACKWARD}: clipping needs all gradients",
        ),
        ({"train.oom_retries": 2}, f"train.oom_retries=2 {IN_BACKWARD}: a micro-batch halved"),
        ({"oom_halvings": 1}, f"oom_halvings=1 {IN_BACKWARD}: a micro-batch halved"),
        (
            {"train.weights": "fp32", "train.stochastic_rounding": False, "train.precision": "fp16"},
            f"train.precision=fp16 {IN_BACKWARD}: fp16, which auto may come to, scales the loss",
        ),
        (
            {"train.optimizer_in_backward": False},
            "train.optimizer_in_backward=false with train.stochastic_rounding=true: it is part of the update",
        ),
        (
            {
                "train.optimizer_in_backward": False,
                "train.stochastic_rounding": False,
                "train.precision": "auto",
            },
            "train.precision=auto with train.weights=bf16: bf16 is what is computed in then; set bf16",
        ),
    ],
)
def test_what_full_fine_tuning_in_24_gb_does_without(
    compose: Compose, values: dict[str, Any], message: str
) -> None:
    config = compose("method=full", "train=full_24gb")
    assert check(config) == []
    (fault,) = check(replace_values(config, values))
    assert fault.startswith(message)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"train.processes": 1},
            "train.processes=1 with train.distributed=fsdp2: must be at least 2, or set none",
        ),
        (
            {"train.distributed": "none"},
            "train.processes=2 with train.distributed=none: say how they train together",
        ),
        (
            {"train.processes": 3},
            "train.gradient_accumulation_steps=2: must be a multiple of train.processes=3, that share",
        ),
        (
            {"train.checkpoint_steps": 100},
            f"train.checkpoint_steps=100 {TOGETHER}: a checkpoint is of one process",
        ),
        ({"train.stop_step": 100}, f"train.stop_step=100 {TOGETHER}: a checkpoint is of one process"),
        (
            {"resume_from": "0123456789ab"},
            f"resume_from=0123456789ab {TOGETHER}: a checkpoint is of one process",
        ),
        (
            {"sweep.strategy": "halving"},
            f"sweep.strategy=halving {TOGETHER}: halving goes on from checkpoints",
        ),
        (
            {"train.optimizer": "adamw_8bit"},
            f"train.optimizer=adamw_8bit {TOGETHER}: states in 8 bits or paged",
        ),
        (
            {"train.weights": "bf16", "train.precision": "bf16"},
            f"train.weights=bf16 {TOGETHER}: the optimizer needs weights in fp32",
        ),
        (
            {
                "method.quantization": "nf4",
                "method.trainable": "adapter",
                "method.adapter": {"peft_type": "LORA"},
            },
            f"method.quantization=nf4 {TOGETHER}: 4-bit and 8-bit weights have constants",
        ),
    ],
)
def test_what_processes_that_train_one_model_do_without(
    compose: Compose, values: dict[str, Any], message: str
) -> None:
    config = compose("method=full", "train=fsdp2")
    assert check(config) == []
    (fault,) = check(replace_values(config, values))
    assert fault.startswith(message)


@pytest.mark.parametrize("train", ["article", "ddp", "fsdp2", "deepspeed_zero2"])
def test_every_file_of_train_is_right_for_full_fine_tuning_and_lora(compose: Compose, train: str) -> None:
    assert check(compose("method=full", f"train={train}")) == []
    assert check(compose("method=lora", f"train={train}")) == []
    assert check(compose("method=qlora", "train=ddp")) == []


@pytest.mark.parametrize(("values", "message"), RULES, ids=[message[:40] for _, message in RULES])
def test_settings_that_do_not_go_together(compose: Compose, values: dict[str, Any], message: str) -> None:
    (fault,) = check(replace_values(compose(), values))
    assert fault.startswith(message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"measure": "speed"},
            "claims.measure=speed: must be one of memory, accuracy, train_time, trainable",
        ),
        ({"method": "dora"}, "claims.method=dora: must be one of full, lora, qlora"),
        ({"against": None}, "claims.against=None: must be one of full, lora, qlora"),
        ({"bounds": "left"}, "claims.bounds=left: must be one of both, low, high"),
        ({"needs": ["luck"]}, "claims.needs=['luck']: must list some of model, data, card"),
    ],
)
def test_a_claim_of_the_article_must_be_one_that_can_be_judged(
    compose: Compose, change: dict[str, Any], message: str
) -> None:
    config = compose()
    article = config.report.article
    changed = replace(article, claims=[replace(article.claims[0], **change)])
    assert check(replace(config, report=replace(config.report, article=changed))) == [
        f"report.article.{message}"
    ]


def test_advice_of_the_article_has_memory_where_its_case_needs_it(compose: Compose) -> None:
    config = compose()
    advice = [replace(config.report.article.advice[0], memory_gb=None)]
    article = replace(config.report.article, advice=advice)
    (fault,) = check(replace(config, report=replace(config.report, article=article)))
    assert fault.startswith("report.article.advice.memory_gb=None: ")


def test_an_adapter_must_say_which_kind_it_is(compose: Compose) -> None:
    faults = check(replace_values(compose("method=full"), {"method.trainable": "adapter"}))
    assert faults == ["method.adapter={}: must name a peft_type, for example LORA"]


@pytest.mark.parametrize(
    "values",
    [
        {"train.max_steps": None, "train.epochs": 0.5},
        {"train.warmup_steps": 299},
        {"train.max_steps": None, "train.epochs": 1.0, "train.stop_step": 10_000},
        {"train.max_steps": None, "train.epochs": 1.0, "train.warmup_steps": 10_000},
        {"lora.target_modules": "all-linear"},
        {"method.adapter.target_modules": ["query"]},
        {"method.adapter": {"peft_type": "IA3", "target_modules": "regex.*"}},
        {"method.adapter.init_lora_weights": "pissa"},
        {"method.adapter.init_lora_weights": "loftq", "method.quantization": "fp4"},
        {"lora.target_modules": ["query", "value"]},
        {"method.trainable": "adapter", "method.quantization": "int8"},
        {"method.trainable": "head", "method.adapter": {}},
        {"model.source": "local", "model.path": "./my-model"},
        {"model.revision": "main"},  # says nothing outside the hub
        HUB_MODEL,
        HUB_DATA,
        HUB_MODEL | {"model.revision": None},
        HUB_DATA | {"data.revision": None},
        {"data.folds": 2, "data.fold": 1},
        {"model.weights": "random"},
        {"model.weights": "random", "model.architecture": {"model_type": "bert"}},
    ],
)
def test_settings_that_go_together(compose: Compose, values: dict[str, Any]) -> None:
    assert check(replace_values(compose(), values)) == []


def test_every_fault_of_every_run_is_said_once(compose: Compose) -> None:
    first = replace_values(compose(), {"lora.r": 0, "train.lr": -1.0, "devices": "tpu"})
    second = replace_values(compose(), {"lora.r": 0, "train.max_steps": None})
    with pytest.raises(ConfigError) as caught:
        require_valid([compose(), first, second])
    assert str(caught.value).splitlines() == [
        "lora.r=0: must be at least 1; use method=full to train without an adapter",
        "train.lr=-1.0: must be a positive number, for example 1e-4",
        f"devices=tpu: {DEVICES}",
        "train.max_steps=null and train.epochs=null: set one of them",
    ]
    assert caught.value.exit_code == 2


def test_right_configurations_pass(compose: Compose) -> None:
    require_valid([])
    require_valid([compose(), compose("method=full")])


def test_every_override_that_a_message_names_can_be_pasted(compose: Compose) -> None:
    cases = [values for values, _ in RULES]
    cases += [{path: value} for path, (outside, _, _) in RANGES.items() for value in outside]
    faults = [fault for values in cases for fault in check(replace_values(compose(), values))]
    remedies = [fault.split(": ", 1)[1] for fault in faults]
    lines = {line for text in remedies for line in re.findall(r"(?<![\w.])([a-z][a-z_.]+=[^\s,;]+)", text)}
    assert len(lines) > 8
    for line in lines:
        assert compose(quote_text(line.strip("`()")))


SEVERAL = {"data.source": "files", "data.train": "a.csv", "data.multi_label": True}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"method.estimator": "zero_shot"},
            "method.estimator=zero_shot with data.multi_label=true: it gives a",
        ),
        (
            {"task": "label_likelihood"},
            "task=label_likelihood with data.multi_label=true: a decoder's answers",
        ),
        ({"train.loss": "focal"}, "train.loss=focal with data.multi_label=true: it weighs a text by its one"),
        (
            {"data.folds": 5, "data.fold": 0},
            "data.folds=5 with data.multi_label=true: folds are dealt label by",
        ),
        (
            {"sweep.strategy": "halving"},
            "sweep.strategy=halving with data.multi_label=true: halving compares",
        ),
        (
            {"sweep.select_by": "mcc"},
            "sweep.select_by=mcc with data.multi_label=true: it is not defined where",
        ),
        ({"data.source": "bbc_news"}, "data.source=bbc_news with data.multi_label=true: its texts have one"),
        (
            {"data.multi_label": False, "sweep.select_by": "f1_micro"},
            "sweep.select_by=f1_micro with data.multi_label=false: it is of texts with several labels; set",
        ),
        (
            {"data.multi_label": False, "data.label_columns": ["a", "b"]},
            "data.label_columns=['a', 'b'] with data.multi_label=false: a text then has one label, in data.",
        ),
        ({"data.label_separator": " |"}, "data.label_separator= |: must be printable, without blanks at its"),
    ],
)
def test_what_several_labels_a_text_cannot_go_with(
    compose: Compose, values: dict[str, Any], message: str
) -> None:
    (fault,) = check(replace_values(compose(), SEVERAL | values))
    assert fault.startswith(message)


@pytest.mark.parametrize(
    "select_by", ["accuracy", "f1_macro", "f1_micro", "f1_samples", "mean_average_precision"]
)
def test_several_labels_a_text_are_selected_by_their_own_scores(compose: Compose, select_by: str) -> None:
    assert check(replace_values(compose(), SEVERAL | {"sweep.select_by": select_by})) == []
