"""What makes two runs the same run, and that a wrong setting is one message."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, get_type_hints

import pytest
from omegaconf import OmegaConf

from bench.config import schema
from bench.config.identity import UNCOUNTED, UNCOUNTED_WHEN, describe, hash_canonical, identify
from bench.config.reporting import ArticleAdvice, ArticleClaim, ArticleMethod
from bench.config.schema import Config, from_hydra, read_field, replace_values, to_dict
from bench.errors import ConfigError

Compose = Callable[..., Config]

# By declared type: another valid value. A field of a new type fails here until somebody decides about it.
OTHER: dict[Any, Callable[[Any], Any]] = {
    Any: lambda _: ["query"],
    bool: lambda value: not value,
    int: lambda value: value + 1,
    int | None: lambda _: 7,
    float: lambda value: value + 0.25,
    float | None: lambda _: 0.25,
    str: lambda value: value + "x",
    str | None: lambda _: "x",
    list[int]: lambda _: [9],
    list[str]: lambda _: ["x"],
    list[str] | None: lambda _: ["x"],
    list[dict[str, Any]]: lambda _: [{"seed": [1]}],
    list[ArticleMethod]: lambda _: [],
    list[ArticleClaim]: lambda _: [],
    list[ArticleAdvice]: lambda _: [],
    dict[str, Any]: lambda value: {**value, "use_dora": True},
    dict[str, str] | None: lambda _: {"a": "b"},
    dict[str, Any] | None: lambda _: {"model_type": "llama"},
}


def fields_of(schema: type = Config, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every dotted path of the schema that holds a value, and its declared type."""
    for name, kind in get_type_hints(schema).items():
        if dataclasses.is_dataclass(kind):
            assert isinstance(kind, type)
            yield from fields_of(kind, f"{prefix}{name}.")
        else:
            yield prefix + name, kind


FIELDS = dict(fields_of())


def is_under(path: str, parents: tuple[str, ...]) -> bool:
    return any(f"{path}.".startswith(f"{parent}.") for parent in parents)


def run_id(config: Config, *, data: str = "texts", model: str = "weights") -> str:
    return identify(config, data_fingerprint=data, model_revision=model).run_id


def change(config: Config, path: str) -> Config:
    """The configuration with another value in the one field."""
    value = read_field(config, path)
    changed = replace_values(config, {path: OTHER[FIELDS[path]](value)})
    assert read_field(changed, path) != value
    return changed


def ignored(config: Config) -> set[str]:
    """The fields outside data and model that change nothing about which run it is."""
    paths = [path for path in FIELDS if not is_under(path, ("data", "model"))]
    return {path for path in paths if run_id(change(config, path)) == run_id(config)}


def under(*parents: str) -> set[str]:
    return {path for path in FIELDS if is_under(path, parents)}


TAUGHT = ("teacher", "distillation")  # which count for a student alone


@pytest.mark.parametrize("path", FIELDS)
def test_a_field_counts_unless_it_is_declared_not_to(compose: Compose, path: str) -> None:
    # The method for which the most fields matter, and the one that has a teacher.
    config = compose("method=distilled" if is_under(path, TAUGHT) else "method=qlora")
    same = run_id(change(config, path)) == run_id(config)
    by_content = is_under(path, ("data", "model")) and path not in ("data.long_texts", "data.held_out")
    assert same == (is_under(path, UNCOUNTED) or by_content)


@pytest.mark.parametrize(
    "line",
    [
        "devices=cpu",
        "results_dir=elsewhere",
        "cache_dir=elsewhere",
        "track.mode=disabled",
        "track.project=other",
        "sweep=article",
        "report.price_per_hour=1",
        "train.log_steps=1",
        "train.eval_batch_size=8",
        "train.checkpoint_steps=7",
        "train.checkpoint_steps=null",
        "train.keep=none",
        "resume_from=0123456789ab",
        "method.title=Mine",
    ],
)
def test_where_and_how_a_run_is_watched_does_not_count(compose: Compose, line: str) -> None:
    assert run_id(compose(line)) == run_id(compose())


def test_folds_of_one_data_set_are_runs_of_their_own(compose: Compose) -> None:
    folds = [compose("data.folds=5", f"data.fold={fold}") for fold in range(5)]
    assert len({run_id(config) for config in [*folds, compose()]}) == 6
    assert [describe(config)[-7:] for config in folds] == [f" fold={fold}" for fold in range(5)]
    assert describe(compose("data.folds=5", "data.fold=2", "method=tfidf")) == "tfidf fold=2"
    assert identify(compose(), data_fingerprint="", model_revision="").canonical["data"].keys() == {
        "fingerprint"
    }


def test_a_run_that_stops_early_is_another_run(compose: Compose) -> None:
    ids = {run_id(compose(f"train.stop_step={step}")) for step in ("null", "50", "100")}
    assert len(ids) == 3
    assert "stop_step" not in identify(compose(), data_fingerprint="", model_revision="").canonical["train"]


@pytest.mark.parametrize(
    "line",
    [
        "train.optimizer_in_backward=true",
        "train.stochastic_rounding=true",
        "train.weights=bf16",
        "train.attention=eager",
    ],
)
def test_a_saving_of_memory_counts_once_it_is_chosen(compose: Compose, line: str) -> None:
    """Runs from before the setting was there keep their ids."""
    name = line.partition("=")[0].removeprefix("train.")
    assert name not in identify(compose(), data_fingerprint="", model_revision="").canonical["train"]
    assert run_id(compose(line)) != run_id(compose())


LOSSES = ("cross_entropy", "weighted", "focal", "balanced_sampling")


@pytest.mark.parametrize(
    ("method", "distinct"),
    [("full", 4), ("lora", 4), ("tfidf", 2), ("head", 2), ("zero_shot", 1), ("majority", 1)],
)
def test_a_loss_counts_where_a_run_is_trained_by_it(compose: Compose, method: str, distinct: int) -> None:
    """A regression knows weights of labels alone, and what trains nothing has no loss."""
    configs = [compose(f"method={method}", f"train.loss={loss}") for loss in LOSSES]
    assert len({run_id(config) for config in configs}) == distinct
    assert run_id(configs[0]) == run_id(compose(f"method={method}"))
    named = [
        loss for loss, config in zip(LOSSES, configs, strict=True) if f" loss={loss}" in describe(config)
    ]
    assert named == [*LOSSES[1:distinct]]


@pytest.mark.parametrize(("method", "distinct"), [("lora", 3), ("head", 3), ("tfidf", 1), ("majority", 1)])
def test_how_long_texts_are_read_counts_for_what_reads_tokens(
    compose: Compose, method: str, distinct: int
) -> None:
    ways = ("truncate", "head_tail", "windows")
    configs = [compose(f"method={method}", f"data.long_texts={way}") for way in ways]
    assert len({run_id(config) for config in configs}) == distinct
    assert run_id(configs[0]) == run_id(compose(f"method={method}"))
    assert (" long_texts=windows" in describe(configs[2])) is (distinct == 3)


def test_how_processes_train_together_counts_once_there_are_several(compose: Compose) -> None:
    alone = identify(compose(), data_fingerprint="", model_revision="").canonical["train"]
    assert not {"distributed", "processes"} & set(alone)
    assert run_id(compose("train=ddp")) != run_id(compose("train=fsdp2"))
    assert run_id(compose("train=ddp")) != run_id(compose("train=ddp", "train.processes=1"))


def test_data_and_model_count_by_content(compose: Compose) -> None:
    lora = compose("method=lora")
    ids = {run_id(lora), run_id(lora, data="other texts"), run_id(lora, model="other weights")}
    assert len(ids) == 3


TEMPLATE, WORDS = {"model.template": "{text}? "}, {"data.label_words": {"a": "b"}}


def test_template_and_words_count_where_labels_are_written(compose: Compose) -> None:
    config = compose("method=lora")
    assert len({run_id(replace_values(config, values)) for values in ({}, TEMPLATE, WORDS)}) == 1
    likelihood = {"task": "label_likelihood"}
    ids = {run_id(replace_values(config, likelihood | values)) for values in ({}, TEMPLATE, WORDS)}
    assert len(ids | {run_id(config)}) == 4


def test_a_label_gets_its_words_on_the_command_line(compose: Compose) -> None:
    plain = compose("task=label_likelihood")
    named = compose("task=label_likelihood", "+data.label_words={a: b, c: d}")
    assert named.data.label_words == {"a": "b", "c": "d"}
    assert run_id(replace_values(plain, {"data.label_words": None})) == run_id(plain) != run_id(named)


@pytest.mark.parametrize("method", ["majority", "tfidf", "head", "setfit"])
def test_a_baseline_writes_no_labels(compose: Compose, method: str) -> None:
    config = compose(f"method={method}")
    changed = replace_values(config, {"task": "label_likelihood", **TEMPLATE, **WORDS})
    assert run_id(changed) == run_id(config)


@pytest.mark.parametrize("task", ["sequence_classification", "label_likelihood"])
def test_zero_shot_reads_the_labels_words_whatever_the_task(compose: Compose, task: str) -> None:
    config = compose("method=zero_shot", f"task={task}")
    assert run_id(replace_values(config, WORDS)) != run_id(config)
    assert run_id(replace_values(config, {"train.lr": 1.0, "seed": 7})) == run_id(config)
    is_other = run_id(replace_values(config, TEMPLATE)) != run_id(config)
    assert is_other is (task == "label_likelihood")


@pytest.mark.parametrize(("method", "counts"), [("tfidf", True), ("head", True), ("zero_shot", False)])
def test_a_seed_that_draws_the_train_texts_counts_for_what_reads_them(
    compose: Compose, method: str, counts: bool
) -> None:
    drawn = compose(f"method={method}", "data.train_size=100", "data.resample=true")
    seeds = [run_id(replace_values(drawn, {"seed": seed})) for seed in (0, 1)]
    assert (seeds[0] != seeds[1]) is counts
    whole = compose(f"method={method}", "data.resample=true")
    assert run_id(whole) == run_id(replace_values(whole, {"seed": 1})) == run_id(compose(f"method={method}"))


def test_a_run_keeps_the_id_that_its_records_have(compose: Compose) -> None:
    """Ids of results from before there was another task than a head's; a new field must not change them."""
    ids = [run_id(compose(f"method={method}")) for method in ("full", "lora", "qlora", "head", "tfidf")]
    assert ids == ["580f1350437b", "e35d791c503e", "7a9a60be0802", "723711a831f2", "ff995e630978"]


@pytest.mark.parametrize(
    ("experiment", "ids"),
    [
        ("quickstart", ["580f1350437b", "e35d791c503e", "7a9a60be0802", "0a12cc4465a7", "723711a831f2"]),
        ("rtx4090", ["452ed497afb1", "a2ee7ab370c5", "44f2ad8e0dd6", "0d035896adb9", "1de57c6b9a0a"]),
        ("article", ["5177b8d44ff1", "02204ad70898", "2cc837ef779c", "defd5f18e095", "1de57c6b9a0a"]),
    ],
)
def test_an_experiments_runs_keep_their_ids(compose: Compose, experiment: str, ids: list[str]) -> None:
    methods = ("full", "lora", "qlora", "dora", "head")
    assert [run_id(compose(f"experiment={experiment}", f"method={one}")) for one in methods] == ids


def test_what_is_declared_not_to_count_exists() -> None:
    conditional = [(field, *paths) for field, _, paths in UNCOUNTED_WHEN]
    declared = {*UNCOUNTED, *(path for paths in conditional for path in paths)}
    assert [path for path in declared if not under(path)] == []


UNUSED_WITHOUT_ADAPTER = {
    "method.double_quant",
    "method.adapter",
    "method.loraplus_lr_ratio",
    *under("lora"),
}


ON_PAIRS = {
    *("train.lr", "train.micro_batch_size", "train.gradient_accumulation_steps", "train.warmup_steps"),
    *("train.weight_decay", "train.max_grad_norm", "train.max_length", "train.precision"),
    *("train.max_steps", "train.epochs"),
}


# Without steps, epochs and double_quant only what a method's own fields make unused.
@pytest.mark.parametrize(
    ("method", "unused"),
    [
        ("qlora", set()),
        ("lora", {"method.double_quant"}),
        ("full", UNUSED_WITHOUT_ADAPTER),
        ("setfit", UNUSED_WITHOUT_ADAPTER | ({"task", *under("train")} - ON_PAIRS)),
        (
            "head",
            (UNUSED_WITHOUT_ADAPTER | {"seed", "task", *under("train")})
            - {"train.max_length", "train.precision"},
        ),
        (
            "zero_shot",
            (UNUSED_WITHOUT_ADAPTER | {"seed", *under("train")}) - {"train.max_length", "train.precision"},
        ),
        (
            "few_shot",
            (UNUSED_WITHOUT_ADAPTER | under("train")) - {"train.max_length", "train.precision"},
        ),
        ("tfidf", UNUSED_WITHOUT_ADAPTER | {"seed", "task", *under("train")}),
        ("majority", UNUSED_WITHOUT_ADAPTER | {"seed", "task", *under("train")}),
        ("ia3", UNUSED_WITHOUT_ADAPTER - {"method.adapter"}),
        ("lora_all_linear", {"method.double_quant", "lora.target_modules"}),
    ],
)
def test_a_method_ignores_what_it_does_not_use(compose: Compose, method: str, unused: set[str]) -> None:
    unused = unused | under(*TAUGHT)
    assert ignored(compose(f"method={method}")) - under(*UNCOUNTED) == unused - under(*UNCOUNTED)


def test_a_student_is_another_run_with_another_teacher_or_other_unlabelled_texts(compose: Compose) -> None:
    lines = ("method=distilled", "data.unlabelled=texts.csv")
    by_teacher = {run_id(compose(*lines, f"teacher='{one * 12}'")) for one in ("1", "2")}
    assert len(by_teacher) == 2
    student, full = compose(*lines, "teacher='111111111111'"), compose("method=full", *lines[1:])

    def name(config: Config, unlabelled: str) -> str:
        return identify(config, data_fingerprint="t", model_revision="w", unlabelled=unlabelled).run_id

    assert name(student, "a") != name(student, "b")
    assert name(full, "a") == name(full, "b") == run_id(compose("method=full"), data="t", model="w")


@pytest.mark.parametrize("method", ["tfidf", "majority"])
def test_a_baseline_without_a_base_model_is_the_same_for_every_model(compose: Compose, method: str) -> None:
    config = compose(f"method={method}")
    assert run_id(config, model="other weights") == run_id(config)
    assert run_id(config, data="other texts") != run_id(config)


def test_a_method_counts_by_what_it_does_not_by_its_name(compose: Compose) -> None:
    quantised = compose("method=lora", "method.quantization=nf4", "method.double_quant=true")
    assert run_id(quantised) == run_id(compose("method=qlora"))


@pytest.mark.parametrize("method", ["full", "lora", "tfidf"])
def test_a_ratio_that_is_not_set_leaves_older_runs_their_ids(compose: Compose, method: str) -> None:
    canonical = identify(compose(f"method={method}"), data_fingerprint="", model_revision="").canonical
    assert "loraplus_lr_ratio" not in canonical["method"]


def test_a_learning_rate_ratio_for_b_is_another_run(compose: Compose) -> None:
    ids = {run_id(compose("method=lora", f"method.loraplus_lr_ratio={ratio}")) for ratio in ("null", 4, 16)}
    assert len(ids) == 3
    plus = compose("method=lora_plus", "train.lr=1e-3")
    assert run_id(plus) == run_id(compose("method=lora", "method.loraplus_lr_ratio=16"))


def test_target_modules_of_the_method_are_those_of_lora(compose: Compose) -> None:
    named = compose("method=lora_all_linear", "lora.target_modules=[query]")
    assert run_id(named) == run_id(compose("method=lora", "lora.target_modules=all-linear"))


def test_an_adapter_without_a_rank_is_one_run_whatever_the_rank(compose: Compose) -> None:
    ids = {run_id(compose("method=ia3", line)) for line in ("lora.r=8", "lora.r=16", "lora.alpha=1")}
    assert len(ids) == 1
    named = compose("method=ia3", "+method.adapter.target_modules=[key]")
    assert run_id(named) not in ids


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("lora.r", [8, 8.0, "8"]),
        ("lora.alpha", [8, 8.0, "8", "8.0"]),
        ("train.lr", [1e-4, 0.0001, "1e-4", "0.0001"]),
        ("train.max_steps", [20, 20.0, "20"]),
        ("seed", [3, 3.0, "3"]),
        ("method.adapter", [{"option": 8}, {"option": 8.0}]),
        ("method.adapter.options", [[1, {"of": 2.0}], [1.0, {"of": 2}]]),
    ],
)
def test_equal_numbers_are_the_same_run_however_written(
    compose: Compose, key: str, values: list[Any]
) -> None:
    base = compose("method=lora")
    assert len({run_id(replace_values(base, {key: value})) for value in values}) == 1


@pytest.mark.parametrize(
    "lines",
    [
        ("lora.alpha=8", "lora.alpha=8.0", "lora.alpha='8'"),
        ("train.lr=1e-4", "train.lr=0.0001", "train.lr='1e-4'", "train.lr=0.1e-3"),
        ("lora.r=8", "lora.r='8'", "seed=0"),
    ],
)
def test_equal_overrides_are_the_same_run(compose: Compose, lines: tuple[str, ...]) -> None:
    assert len({run_id(compose(line)) for line in lines}) == 1


def test_a_run_id_is_short_and_does_not_depend_on_the_order_of_keys() -> None:
    assert hash_canonical({"a": 1, "b": 2}) == hash_canonical({"b": 2, "a": 1})
    assert hash_canonical({"a": 1, "b": 2}) != hash_canonical({"a": 2, "b": 1})
    assert len(hash_canonical({})) == 12


def test_the_canonical_part_has_no_path_and_no_account(compose: Compose) -> None:
    config = compose("results_dir=/secret", "cache_dir=/secret", "track.entity=secret")
    assert "secret" not in repr(identify(config, data_fingerprint="d", model_revision="m").canonical)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("lora.r", "16", 16),
        ("lora.r", 16.0, 16),
        ("lora.alpha", 32, 32.0),
        ("train.max_steps", None, None),
        ("train.max_steps", 30.0, 30),
        ("train.group_by_length", "false", False),
        ("devices", "cpu", "cpu"),
        ("data.hub_id", 7, "7"),
        ("data.labels", ["a", 1], ["a", "1"]),
        ("lora.target_modules", ["query", "value"], ["query", "value"]),
        ("method.adapter.use_dora", True, True),
        ("method.adapter.deep.er", 1, 1),
        ("method.adapter", {"use_dora": True}, {"peft_type": "LORA", "use_dora": True}),
        ("data.label_map", {"a": "b"}, {"a": "b"}),
    ],
)
def test_a_value_is_set_as_its_fields_type(compose: Compose, key: str, value: Any, expected: Any) -> None:
    found = read_field(replace_values(compose("method=lora"), {key: value}), key)
    assert (found, type(found)) == (expected, type(expected))


def test_setting_values_leaves_all_others(compose: Compose) -> None:
    base = compose("method=lora")
    before = to_dict(base)
    values = {"lora.r": 32, "lora.alpha": 64, "seed": 5, "method.adapter.use_dora": True}
    expected = to_dict(base)
    expected["lora"] |= {"r": 32, "alpha": 64.0}
    expected["method"]["adapter"] = {"peft_type": "LORA", "use_dora": True}
    assert to_dict(replace_values(base, values)) == expected | {"seed": 5}
    assert to_dict(base) == before


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("lora.r", 8.5, "lora.r=8.5: Value '8.5' of type 'float' could not be converted to Integer"),
        ("lora.r", None, "lora.r=None: field 'r' is not Optional"),
        ("seed", True, "seed=True: Value 'True' of type 'bool' could not be converted to Integer"),
        ("train.lr", "fast", "train.lr=fast: Value 'fast' of type 'str' could not be converted to Float"),
        (
            "lora.rank",
            8,
            "lora.rank=8: there is no such setting; did you mean lora.r? lora has r, alpha, dro",
        ),
        ("lora.r.x", 8, "lora.r.x=8: there is no such setting; did you mean lora.r? lora.r has no fields"),
        (
            "loar.r",
            8,
            "loar.r=8: there is no such setting; did you mean lora.r? there are method, lora, model",
        ),
        (
            "sede",
            8,
            "sede=8: there is no such setting; did you mean seed? there are method, lora, model",
        ),
        ("sweep", "none", "sweep=none: is a group of settings; set one of grids, first, select_by"),
        ("lora.r", "???", "lora.r=???: "),
    ],
)
def test_a_value_that_does_not_fit_is_one_message(
    compose: Compose, key: str, value: Any, message: str
) -> None:
    replace_values(compose(), {"seed": 1})  # True equals 1, and must not pass for it
    with pytest.raises(ConfigError) as caught:
        replace_values(compose(), {key: value})
    assert str(caught.value).startswith(message)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("lora.r", "many", "lora.r: Value 'many' of type 'str' could not be converted to Integer"),
        ("lora.rank", 8, "lora.rank: Key 'rank' not in 'LoraConfig'"),
        ("seed", "???", "seed: Structured config of type `Config` has missing mandatory value: seed"),
        ("seed", "${nowhere}", "seed: Interpolation key 'nowhere' not found"),
        ("extra", 1, "extra: there is no such setting; there are method, lora, model"),
    ],
)
def test_a_composed_configuration_that_does_not_fit_is_one_message(
    compose: Compose, key: str, value: Any, message: str
) -> None:
    composed = OmegaConf.create(to_dict(compose()))
    OmegaConf.update(composed, key, value)
    with pytest.raises(ConfigError) as caught:
        from_hydra(composed)
    assert str(caught.value).startswith(message)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=???", "seed: Missing mandatory value: seed"),
        ("lora.r=${method.name}", "lora.r: While dereferencing interpolation '${method.name}': Value 'lora'"),
        ("+extra=1", "extra: there is no such setting; there are method, lora, model"),
    ],
)
def test_what_hydra_itself_composes_is_checked_as_well(compose: Compose, override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose(override)
    assert str(caught.value).startswith(message)


def test_a_record_of_the_configuration_makes_the_same_configuration(compose: Compose) -> None:
    config = compose("method=qlora", "lora.target_modules=[query,value]", "experiment=quickstart")
    assert from_hydra(OmegaConf.create(to_dict(config))) == config


def test_hydras_own_settings_are_no_part_of_it(compose: Compose) -> None:
    composed = OmegaConf.create({**to_dict(compose()), "hydra": {"job": {"name": "bench"}}})
    assert from_hydra(composed) == compose()


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("lora", "lora r=8 alpha=16 dropout=0.05 lr=0.001 seed=0"),
        ("full", "full lr=5e-05 seed=0"),
        ("ia3", "ia3 lr=0.01 seed=0"),
        ("setfit", "setfit lr=2e-05 seed=0"),
        ("majority", "majority"),
    ],
)
def test_a_run_is_described_by_what_counts(compose: Compose, method: str, name: str) -> None:
    assert describe(compose(f"method={method}")) == name


def test_a_path_inside_the_adapters_options_is_no_field() -> None:
    assert schema.is_field("lora.r")
    assert schema.is_field("lora.target_modules")
    assert not schema.is_field("method.adapter.use_dora")


@pytest.mark.parametrize("experiment", ["article", "rtx4090"])
def test_the_large_models_compute_in_bf16_unless_fp16_is_asked_for(compose: Compose, experiment: str) -> None:
    lines = [f"experiment={experiment}", "method=lora"]
    assert compose(*lines).train.precision == "bf16"
    assert compose(*lines, "train.precision=fp16").train.precision == "fp16"
    assert run_id(compose(*lines)) != run_id(compose(*lines, "train.precision=fp16"))
