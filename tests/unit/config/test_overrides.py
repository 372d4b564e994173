"""What a person types for a text arrives as that text, whatever Hydra's grammar makes of it."""

from collections.abc import Callable

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import assume, given
from hypothesis import strategies as st

from bench.config.overrides import quote_text
from bench.config.schema import Config


@pytest.mark.parametrize(
    "name",
    [
        "it's",
        'a "b" c',
        "my results",
        " leading and trailing ",
        "a=b",
        "(1)",
        "it's 标题",
        "1e3",
        "007",
        "true",
        "100% [sure",
        "c:\\d",
        "a'b'",
        "{",
        "#1",
    ],
)
def test_a_folder_may_have_any_name(compose: Callable[..., Config], name: str) -> None:
    assert compose(quote_text(f"results_dir={name}")).results_dir == name


@given(st.text(alphabet=" '\"()[]=:{}#%a1é标\\", min_size=1))
def test_any_text_arrives(name: str) -> None:
    whole = name.strip()
    assume(whole and whole[0] + whole[-1] not in ("''", '""', "[]", "{}") and "\\" not in name)
    override = OverridesParser.create().parse_override(quote_text(f"results_dir={name}"))
    read = override.value()
    assert getattr(read, "text", read) == name


@pytest.mark.parametrize(
    "argument",
    [
        "results_dir='quoted already'",
        "results_dir=results/mine",
        "results_dir=null",
        "results_dir=",
        "results_dir=results/${data.name}",
        "train.lr=1e-3,2e-3",
        "train.precision=bf16,fp32",
        "devices=0,1",
        "lora.r=[8",
        "lora.target_modules=[query,value]",
        "--help",
    ],
)
def test_what_hydra_reads_rightly_stays_as_it_is(argument: str) -> None:
    assert quote_text(argument) == argument


def test_values_beyond_ascii_are_quoted_one_by_one() -> None:
    assert quote_text("model.path=模型/a,模型/b") == "model.path='模型/a','模型/b'"
    assert quote_text("model=null") == "model='null'"
