"""Names that people know from elsewhere are answered with bench's own, in words that can be pasted."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.config.names import _ELSEWHERE, suggest_option, suggest_setting
from bench.config.overrides import quote_text
from bench.config.schema import CONF_DIR, Config, explain_unknown, list_paths, read_field

Compose = Callable[..., Config]


@pytest.mark.parametrize(
    ("key", "own"),
    [
        ("learning_rate", "train.lr"),
        ("train.learning_rate", "train.lr"),
        ("per_device_train_batch_size", "train.micro_batch_size"),
        ("warmup_ratio", "train.warmup_steps, which counts steps"),
        ("LOAD_IN_4BIT", "method=qlora"),
        ("lora_r", "lora.r"),
        ("lr", "train.lr"),
    ],
)
def test_a_setting_of_another_tool_is_answered_with_bench_s_own(key: str, own: str) -> None:
    assert explain_unknown(key).startswith(f"{key}: there is no such setting; did you mean {own}? ")


@pytest.mark.parametrize("name", _ELSEWHERE)
def test_what_is_suggested_exists_and_is_no_name_of_bench_s(name: str) -> None:
    assert name not in {path.rpartition(".")[2] for path in list_paths()}
    for word in re.findall(r"[\w.]+=?[\w.-]*", _ELSEWHERE[name].partition(" ")[0]):
        key, equals, option = word.strip(",").partition("=")
        assert key in list_paths() or (equals and (CONF_DIR / key / f"{option}.yaml").is_file())


@pytest.mark.parametrize(
    ("group", "name", "field"),
    [
        ("model", "Qwen/Qwen9-1B", "model.hub_id"),
        ("model", "./my model", "model.path"),
        ("model", "/models/mine", "model.path"),
        ("data", "my.csv", "data.train"),
        ("data", "/data/My Texts.JSONL", "data.train"),
        ("data", "owner/texts", "data.hub_id"),
    ],
)
def test_a_name_or_a_file_instead_of_an_option_is_answered_with_overrides(
    compose: Compose, group: str, name: str, field: str
) -> None:
    words = suggest_option(group, name, ["minilm"]).rstrip(";").partition(": ")[2]
    assert read_field(compose(*map(quote_text, shlex.split(words))), field) == name


def test_an_option_that_is_nearly_right_is_named() -> None:
    assert suggest_option("model", "minilmm", ["minilm", "hub"]) == "; did you mean minilm?"
    assert suggest_setting("xyzzy", list_paths()) == ""


def test_a_folder_that_is_there_is_a_model_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    assert suggest_option("model", "mine", []) == "; for a folder: model=local model.path=mine;"


@pytest.mark.parametrize(
    "line",
    [
        "method.adapter.target_modules=[query]",
        "method.adapter={target_modules: [query]}",
        "++method.adapter.target_modules=[query]",
    ],
)
def test_an_option_of_peft_is_set_as_a_message_says(compose: Compose, line: str) -> None:
    assert compose("method=ia3", quote_text(line)).method.adapter == {
        "peft_type": "IA3",
        "target_modules": ["query"],
    }
