"""What an encoder leaves out changes nothing that it says or learns."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from bench.config.schema import Config
from bench.model import build, encoder

Compose = Callable[..., Config]


def make(family: str) -> PreTrainedModel:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    if family == "distilbert":
        sizes = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
    if family == "modernbert":  # whose head reads the mean of all tokens
        sizes |= {"classifier_pooling": "mean", "pad_token_id": 0, "global_attn_every_n_layers": 1}
    settings = AutoConfig.for_model(family, vocab_size=100, num_labels=3, initializer_range=0.2, **sizes)
    return AutoModelForSequenceClassification.from_config(settings).eval()


def read(network: PreTrainedModel) -> tuple[torch.Tensor, list[torch.Tensor], int]:
    """Its logits of a padded batch, the gradients of all its weights, and the FLOPs of both."""
    ids = torch.randint(5, 100, (3, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[0, 6:] = 0
    with FlopCounterMode(display=False) as counter:
        logits = network(input_ids=ids, attention_mask=mask).logits
        functional.cross_entropy(logits, torch.tensor([0, 1, 2])).backward()
    return (
        logits,
        [one.grad for one in network.parameters() if one.grad is not None],
        counter.get_total_flops(),
    )


@pytest.mark.parametrize("family", encoder.FAMILIES)
def test_the_last_layer_computes_what_the_head_reads_and_the_same(family: str) -> None:
    whole = make(family)
    short = deepcopy(whole)
    encoder.read_first_token_only(short)
    expected, expected_slopes, all_flops = read(whole)
    logits, slopes, flops = read(short)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    assert logits.std() > 0.01  # texts that can be told apart
    assert len(slopes) == len(expected_slopes)
    for slope, other in zip(slopes, expected_slopes, strict=True):
        torch.testing.assert_close(slope, other, rtol=1e-3, atol=1e-5)
    assert flops < 0.75 * all_flops  # of two layers


@pytest.mark.parametrize("family", ["distilbert", "modernbert"])
def test_another_family_stays_as_it_is(family: str) -> None:
    whole = make(family)
    short = deepcopy(whole)
    encoder.read_first_token_only(short)
    assert read(short)[2] == read(whole)[2]


def test_a_run_leaves_it_out(compose_tiny: Compose, tiny_bert: Path) -> None:
    built = build.build(
        compose_tiny("method=full"),
        folder=tiny_bert,
        labels=["a", "b", "c"],
        pad_token_id=0,
        device=torch.device("cpu"),
        precision="fp32",
    ).model
    plain = AutoModelForSequenceClassification.from_pretrained(tiny_bert, num_labels=3)
    assert read(built)[2] < 0.75 * read(plain)[2]
