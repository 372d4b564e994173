"""The pieces of `make benchmark`: what its naive side trains on, a step's FLOPs, the grid."""

from argparse import Namespace
from functools import partialmethod
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from bench.model import encoder
from benchmarks import grid, inside, naive, step
from benchmarks.__main__ import parse, renew
from benchmarks.forecasts import Case, cut, find_noise, read


def test_the_naive_side_pads_each_text_to_the_longest_of_its_thousand(tiny_bert: Path) -> None:
    texts = ["short"] * 1000 + ["five words of this text"] + ["word " * 600] + ["short"] * 3
    frame = pd.DataFrame({"text": texts, "label": 0})
    found = naive.prepare_dataset(frame, AutoTokenizer.from_pretrained(tiny_bert), max_length=512)
    lengths = [len(ids) for ids in found["input_ids"]]
    assert set(lengths[:1000]) == {3}  # [CLS] short [SEP]
    assert set(lengths[1000:]) == {512}


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("method", ["full", "lora", None])
def test_the_flops_of_a_step_are_those_that_torch_counts(method: str | None, whole: bool) -> None:
    settings = BertConfig(
        hidden_size=64, intermediate_size=256, num_hidden_layers=2, num_attention_heads=2, num_labels=5
    )
    with torch.device("meta"):
        model = BertForSequenceClassification._from_config(settings, attn_implementation="eager")
        ids = torch.zeros(4, 32, dtype=torch.long)
    if not whole:
        encoder.read_first_token_only(model)
    for name, parameter in model.named_parameters():  # adapted: what adapters add to has gradients
        adapted = name.endswith(("query.bias", "value.bias")) or name.startswith("classifier")
        parameter.requires_grad_(method == "full" or (method == "lora" and adapted))
    with FlopCounterMode(display=False) as counter:
        loss = model(ids).logits.sum()
        if method is not None:
            loss.backward()
    counted = step.count_flops(settings, 4, 32, method=method, whole=whole)
    assert counted == pytest.approx(counter.get_total_flops(), rel=0.02)


@pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")  # the Trainer's default, on a CPU
def test_a_naive_point_learns_and_says_what_it_took(tiny_bert: Path, texts: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(texts)
    frame["label"] = pd.factorize(frame["label"])[0]
    for split in ("train", "validation", "test"):
        frame.to_csv(tmp_path / f"{split}.csv", index=False)
    found = naive.train_point(
        Namespace(
            **{"model": tiny_bert, "data": tmp_path, "max_length": 64, "steps": 20, "batch": 8, "warmup": 2},
            **{"eval_steps": 10, "seed": 0, "r": 8, "alpha": 16.0, "dropout": 0.0, "lr": 1e-2},
        )
    )
    assert found["accuracy"] > 0.6  # a third by chance
    assert 0 < found["train_seconds"] < found["total_seconds"]


def test_the_sample_lies_in_the_grid_of_24() -> None:
    whole, sample = grid.points(grid.AXES), grid.points(grid.CORNERS)
    assert len(set(whole)) == 24
    assert set(sample) < set(whole)


def test_an_unknown_section_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["benchmarks", "speed"])
    with pytest.raises(SystemExit, match="2"):
        parse()
    assert (
        "no such section: speed; there are step, inside, grid, choice, kinds, forecasts, engine, scale"
        in capsys.readouterr().err
    )


def test_a_section_measured_again_takes_the_place_of_the_old_one_and_says_where() -> None:
    written = "# Benchmark\n\nall\n\n## One\n\nold 1\n\n## Two\n\nold 2\n\n## Two more\n\nold 3\n"
    found = renew(written, ["## Two\n\nnew \\2"], [("Commit", "abc"), ("Python", "3.11")])
    assert found == written.replace(
        "old 2", "Measured again, without the other sections: Commit abc.\n\nnew \\2"
    )
    assert renew(found, ["## Two more\n\nnewer"], [("Commit", "def")]).endswith("Commit def.\n\nnewer\n")


def test_the_noise_of_a_forecast_is_that_of_texts_which_earlier_sizes_do_not_tell() -> None:
    """Answers that are independent at each size leave all of it, those that stay as they were none."""
    random = np.random.default_rng(0)
    alone = random.random((4, 10_000)) < 0.8
    noise = find_noise(Case("", "", [1, 2, 4, 8], alone, 1), 3)
    assert noise == pytest.approx(np.sqrt(0.8 * 0.2 / 10_000 * 2 / np.pi), rel=0.03)
    assert find_noise(Case("", "", [1, 2, 4, 8], np.repeat(alone[:1], 4, axis=0), 1), 3) < 1e-6


def test_a_forecast_knows_the_sizes_up_to_a_part_of_the_largest() -> None:
    case = Case("", "", [20, 41, 80, 163, 325], np.ones((5, 10)), 1)
    for times, sizes in ((2, [20, 41, 80, 163]), (4, [20, 41, 80])):
        known, last = cut(read(case), times)
        assert ([one.size for one in known], last.size) == (sizes, 325)


@pytest.mark.slow
def test_what_is_trained_alone_can_be_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the last stage, which writes kernels for a minute."""
    monkeypatch.setattr(inside, "WARM", 1)
    monkeypatch.setattr(inside, "MEASURED", 1)
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="aot_eager"))
    assert all(seconds > 0 for seconds in inside.measure_compiled(step.CASES["lora-4x64"]).values())
