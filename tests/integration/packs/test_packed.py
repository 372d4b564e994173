"""Runs that train packed are the runs that train alone."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from accelerate.state import AcceleratorState
from bitsandbytes.nn import Linear4bit
from safetensors.torch import load_file
from torch import nn

from bench.config.packable import cannot_pack, shared_key
from bench.config.schema import Config, replace_values
from bench.data import dataset
from bench.errors import RunError
from bench.packs import frozen, network
from bench.packs.fit import fit_pack
from bench.packs.layers import Adapters
from bench.train import fit
from bench.train.checkpoint import BEST
from bench.train.meter import Meter
from bench.train.training import Networks

Compose = Callable[..., Config]
CPU = torch.device("cpu")
MEMBERS = (
    {"lora.r": 4, "lora.alpha": 8.0, "train.lr": 1e-2},
    {"lora.r": 8, "lora.alpha": 4.0, "train.lr": 3e-3},
    {"lora.r": 2, "lora.alpha": 6.0, "train.lr": 1e-2},
)


@dataclass
class Outcome:
    """What one run left."""

    fitted: fit.Fitted | BaseException
    history: list[dict[str, Any]]
    best: dict[str, torch.Tensor]

    def values(self, name: str) -> list[float]:
        return [row[name] for row in self.history if name in row]


def members_of(config: Config, members: Sequence[dict[str, Any]] = MEMBERS) -> list[Config]:
    return [replace_values(config, values) for values in members]


def train_packed(configs: Sequence[Config], folder: Path) -> list[Outcome]:
    assert len({shared_key(config) for config in configs}) == 1
    assert [cannot_pack(config) for config in configs] == [None] * len(configs)
    histories: list[list[dict[str, Any]]] = [[] for _ in configs]
    folders = [folder / f"packed_{number}" for number in range(len(configs))]
    for one in folders:
        one.mkdir(parents=True)
    fitted = fit_pack(
        configs,
        [dataset.load(config.data, seed=config.seed) for config in configs],
        model_folder=Path(str(configs[0].model.path)),
        run_folders=folders,
        meter=Meter(CPU),
        logs=[log_to(history) for history in histories],
    )
    AcceleratorState._reset_state(reset_partial_state=True)
    return [Outcome(*found, read_best(one)) for *found, one in zip(fitted, histories, folders, strict=True)]


def train_alone(configs: Sequence[Config], folder: Path) -> Iterator[Outcome]:
    for number, config in enumerate(configs):
        history: list[dict[str, Any]] = []
        place = folder / f"alone_{number}"
        place.mkdir()
        found = fit.fit(
            config,
            dataset.load(config.data, seed=config.seed),
            model_folder=Path(str(config.model.path)),
            run_folder=place,
            meter=Meter(CPU),
            log=log_to(history),
        )
        AcceleratorState._reset_state(reset_partial_state=True)
        yield Outcome(found, history, read_best(place))


def log_to(history: list[dict[str, Any]]) -> Callable[[dict[str, Any], int], None]:
    return lambda row, step: history.append({"step": step, **row})


def read_best(folder: Path) -> dict[str, torch.Tensor]:
    path = folder / BEST
    return load_file(path) if path.exists() else {}


def require_same(packed: Outcome, alone: Outcome, *, evaluated: float = 1e-4) -> None:
    """All that a record and its files say, but for time and memory.

    Evaluations are as close as ``evaluated``, and each text's probabilities ten times that.
    """
    assert packed.values("loss") == pytest.approx(alone.values("loss"), abs=1e-4)
    assert packed.values("lr") == alone.values("lr")
    if None not in alone.values("grad_norm"):
        assert packed.values("grad_norm") == pytest.approx(alone.values("grad_norm"), rel=1e-2)
    assert [row["step"] for row in packed.history] == [row["step"] for row in alone.history]
    assert packed.values("validation_loss") == pytest.approx(alone.values("validation_loss"), abs=evaluated)
    ours, other = packed.fitted, alone.fitted
    assert isinstance(ours, fit.Fitted)
    assert isinstance(other, fit.Fitted)
    for split in fit.EVALUATED:
        assert ours.probabilities[split] == pytest.approx(other.probabilities[split], abs=10 * evaluated)
        assert (ours.probabilities[split].argmax(1) == other.probabilities[split].argmax(1)).all()
    assert ours.model == other.model
    assert ours.parameters == other.parameters
    assert ours.truncated_share == other.truncated_share
    assert set(ours.throughput) == set(other.throughput)
    assert {name: one.shape for name, one in packed.best.items()} == {
        name: one.shape for name, one in alone.best.items()
    }


def count_tokens(outcome: Outcome) -> float:
    """How many tokens a text had that was trained on, on average."""
    assert isinstance(outcome.fitted, fit.Fitted)
    rates = outcome.fitted.throughput
    return float(rates["tokens_per_second"] or 0) / float(rates["samples_per_second"] or 0)


def count_answers(outcome: Outcome, split: str) -> int:
    assert isinstance(outcome.fitted, fit.Fitted)
    return len(outcome.fitted.probabilities[split])


def build_layer(configs: Sequence[Config]) -> tuple[Networks, Adapters]:
    """The networks of a pack, and the adapters of their first layer's queries."""
    pack = network.build(
        configs,
        folder=Path(str(configs[0].model.path)),
        labels=["a", "b", "c"],
        pad_token_id=0,
        device=CPU,
        precision="fp32",
    )
    forwards = [module.forward for module in pack.model.modules()]
    found = (getattr(one, "__self__", None) for one in forwards)
    return pack, next(one for one in found if isinstance(one, Adapters))


FIFTY = ("train.max_steps=50", "train.eval_steps=25", "train.warmup_steps=5", "train.micro_batch_size=4")


@pytest.mark.parametrize(
    ("architecture", "overrides"),
    [
        ("bert", ["method=lora"]),
        pytest.param("bert", ["method=qlora", "train.gradient_accumulation_steps=2"], marks=pytest.mark.slow),
        pytest.param("llama", ["method=lora", "train.gradient_accumulation_steps=2"], marks=pytest.mark.slow),
        ("llama", ["method=qlora", "task=label_likelihood"]),
        ("bert", ["method=lora", "train.gradient_accumulation_steps=4", "merged_micro_batches=2"]),
    ],
)
def test_a_packed_run_is_the_run_alone(
    compose_tiny: Compose, compose_decoder: Compose, tmp_path: Path, architecture: str, overrides: list[str]
) -> None:
    compose = compose_tiny if architecture == "bert" else lambda *o: compose_decoder(architecture, *o)
    configs = members_of(compose(*FIFTY, *overrides))
    packed = train_packed(configs, tmp_path)
    for one, alone in zip(packed, train_alone(configs, tmp_path), strict=True):
        assert len(alone.values("loss")) == 50
        assert max(alone.values("loss")) - min(alone.values("loss")) > 0.1  # a curve, not a line
        require_same(one, alone)


SEEDS = (
    {"seed": 0, "data.train_size": 60},
    {"seed": 1, "data.train_size": 60, "lora.r": 4},
    {"seed": 1, "data.train_size": 45},  # whose epochs end in a batch of one text
)


@pytest.mark.parametrize(
    ("architecture", "overrides"),
    [
        ("bert", ["method=qlora", "train.gradient_accumulation_steps=2"]),
        pytest.param("llama", ["method=lora"], marks=pytest.mark.slow),
        ("llama", ["method=lora", "task=label_likelihood"]),
    ],
)
def test_members_of_other_seeds_and_sizes_are_the_runs_alone(
    compose_tiny: Compose, compose_decoder: Compose, tmp_path: Path, architecture: str, overrides: list[str]
) -> None:
    """Each begins where its seed begins alone and has its own texts in its own order."""
    compose = compose_tiny if architecture == "bert" else lambda *o: compose_decoder(architecture, *o)
    configs = members_of(compose(*FIFTY, *overrides, "train.lr=1e-2", "train.group_by_length=false"), SEEDS)
    packed = train_packed(configs, tmp_path)
    for one, alone in zip(packed, train_alone(configs, tmp_path), strict=True):
        assert max(alone.values("loss")) - min(alone.values("loss")) > 0.1
        require_same(one, alone)
        assert count_tokens(one) == pytest.approx(count_tokens(alone))
    assert packed[0].values("loss") != packed[1].values("loss")


def test_members_whose_seeds_draw_their_texts_are_the_runs_alone(
    compose_tiny: Compose, tmp_path: Path
) -> None:
    lines = ("method=lora", "train.lr=1e-2", "train.group_by_length=false")
    drawn = ("data.train_size=30", "data.resample=true")
    configs = members_of(compose_tiny(*FIFTY, *lines, *drawn), ({"seed": 0}, {"seed": 1}, {"seed": 2}))
    packed = train_packed(configs, tmp_path)
    for one, alone in zip(packed, train_alone(configs, tmp_path), strict=True):
        require_same(one, alone)
        assert count_tokens(one) == pytest.approx(count_tokens(alone))


FOLDS = (
    {"data.fold": 0},
    {"data.fold": 1, "lora.r": 4},
    {"data.fold": 4, "seed": 1},  # which validates on a text less
)


@pytest.mark.parametrize(
    ("architecture", "overrides"),
    [
        ("bert", ["method=qlora", "train.eval_batch_size=9"]),
        pytest.param(
            "llama",
            ["method=lora", "task=label_likelihood", "train.group_by_length=false"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_members_of_other_folds_are_the_runs_alone(
    compose_tiny: Compose, compose_decoder: Compose, tmp_path: Path, architecture: str, overrides: list[str]
) -> None:
    """Each is validated on the texts of its own fold, and all are tested on the same."""
    compose = compose_tiny if architecture == "bert" else lambda *o: compose_decoder(architecture, *o)
    lines = ("train.lr=1e-2", "data.folds=5", "data.fold=0", "train.group_by_length=false")
    configs = members_of(compose(*FIFTY, *lines, *overrides), FOLDS)
    packed = train_packed(configs, tmp_path)
    for one, alone in zip(packed, train_alone(configs, tmp_path), strict=True):
        assert max(alone.values("loss")) - min(alone.values("loss")) > 0.1
        require_same(one, alone)
        assert count_tokens(one) == pytest.approx(count_tokens(alone))
    counts = {split: [count_answers(one, split) for one in packed] for split in fit.EVALUATED}
    assert counts == {"validation": [21, 21, 20], "test": [18, 18, 18]}


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """120 pairs of which the first says nothing: which of two words comes first decides the label."""
    rows = [(f"das {number}", f"a b {number}" if number % 2 else f"b a {number}") for number in range(120)]
    frame = pd.DataFrame(rows, columns=["one", "two"]).assign(label=["x", "y"] * 60)
    frame.to_csv(tmp_path / "pairs.csv", index=False)
    return tmp_path / "pairs.csv"


@pytest.mark.parametrize("overrides", [["method=lora"], ["method=lora", "task=label_likelihood"]])
def test_pairs_are_read_alike_in_a_pack_and_alone(
    compose_tiny: Compose, compose_decoder: Compose, pairs: Path, tmp_path: Path, overrides: list[str]
) -> None:
    compose = compose_tiny if len(overrides) == 1 else lambda *o: compose_decoder("llama", *o)
    columns = ("data.text_column=one", "data.text_pair_column=two", f"data.train={pairs}")
    configs = members_of(compose(*FIFTY, *columns, *overrides), MEMBERS[:2])
    packed = train_packed(configs, tmp_path)
    for one, alone in zip(packed, train_alone(configs, tmp_path), strict=True):
        assert max(alone.values("loss")) - min(alone.values("loss")) > 0.1
        require_same(one, alone)


@pytest.mark.parametrize("way", [pytest.param("head_tail", marks=pytest.mark.slow), "windows"])
@pytest.mark.parametrize("overrides", [["method=lora"], ["method=lora", "task=label_likelihood"]])
def test_long_texts_are_read_alike_in_a_pack_and_alone(
    compose_tiny: Compose,
    compose_decoder: Compose,
    texts: Path,
    tmp_path: Path,
    overrides: list[str],
    way: str,
) -> None:
    """The members of other seeds draw other texts, of which other ones are long."""
    frame = pd.read_csv(texts)
    frame["text"] = [f"第 {'期 ' * (number % 30)}{text}" for number, text in enumerate(frame["text"])]
    frame.to_csv(tmp_path / "long.csv", index=False)
    compose = compose_tiny if len(overrides) == 1 else lambda *o: compose_decoder("llama", *o)
    lines = (
        "train.max_length=16",
        f"data.long_texts={way}",
        f"data.train={tmp_path}/long.csv",
        "train.lr=1e-2",
    )
    drawn = ("data.train_size=50", "data.resample=true", "train.group_by_length=false")
    template = "model.template='{text}?'"
    configs = members_of(compose(*FIFTY, *lines, *drawn, template, *overrides), ({"seed": 0}, {"seed": 1}))
    packed = train_packed(configs, tmp_path)
    for one, alone in zip(packed, train_alone(configs, tmp_path), strict=True):
        require_same(one, alone)
        assert isinstance(one.fitted, fit.Fitted)
        assert (one.fitted.truncated_share == 0) is (way == "windows")
        assert (one.fitted.long_share or 0) > 0.3
        assert [count_answers(one, split) for split in fit.EVALUATED] == [18, 18]


LOSSES = tuple({"train.loss": loss} for loss in ("weighted", "cross_entropy", "focal", "balanced_sampling"))


@pytest.mark.parametrize(
    ("architecture", "overrides"),
    [
        ("bert", ["method=lora", "train.gradient_accumulation_steps=2"]),
        pytest.param("llama", ["method=lora", "task=label_likelihood"], marks=pytest.mark.slow),
    ],
)
def test_members_of_other_losses_are_the_runs_alone(
    compose_tiny: Compose,
    compose_decoder: Compose,
    texts: Path,
    tmp_path: Path,
    architecture: str,
    overrides: list[str],
) -> None:
    compose = compose_tiny if architecture == "bert" else lambda *o: compose_decoder(architecture, *o)
    frame = pd.read_csv(texts)
    place = frame.groupby("label").cumcount()
    frame[(frame["label"] != "外汇") | (place < 12)].to_csv(tmp_path / "rare.csv", index=False)
    lines = ("train.lr=1e-2", "train.group_by_length=false", f"data.train={tmp_path}/rare.csv")
    configs = members_of(compose(*FIFTY, *lines, *overrides), LOSSES)
    packed = train_packed(configs, tmp_path)
    for one, alone in zip(packed, train_alone(configs, tmp_path), strict=True):
        require_same(one, alone)
        assert count_tokens(one) == pytest.approx(count_tokens(alone))
    assert len({tuple(one.values("loss")) for one in packed}) == 4


def test_a_fold_that_diverges_leaves_the_others(compose_tiny: Compose, tmp_path: Path) -> None:
    members = [{"data.fold": 0}, {"data.fold": 1, "train.lr": 1e30}, {"data.fold": 2}]
    lines = ("method=lora", "data.folds=5", "data.fold=0", "train.group_by_length=false")
    configs = members_of(compose_tiny(*lines, "train.max_grad_norm=null"), members)
    first, second, third = train_packed(configs, tmp_path)
    assert isinstance(second.fitted, RunError)
    for one, alone in zip((first, third), train_alone([configs[0], configs[2]], tmp_path), strict=True):
        require_same(one, alone)


@pytest.mark.parametrize(
    "overrides",
    [
        ["method=int8_lora", "train.eval_batch_size=8"],  # as many rows as alone, which decide its rounding
        pytest.param(
            ["method=qlora", "method.quantization=fp4", "method.double_quant=false"], marks=pytest.mark.slow
        ),
        pytest.param(["method=lora_plus", "train.gradient_checkpointing=true"], marks=pytest.mark.slow),
        pytest.param(["method=rslora", "lora.target_modules=all-linear"], marks=pytest.mark.slow),
        pytest.param(
            ["method=lora", "train.max_grad_norm=null", "train.weight_decay=0.1"], marks=pytest.mark.slow
        ),
        ["method=lora", "lora.target_modules=[query,word_embeddings]"],  # with PEFT's own layer for tables
    ],
)
def test_every_variant_of_lora_is_the_same_packed(
    compose_tiny: Compose, tmp_path: Path, overrides: list[str]
) -> None:
    configs = members_of(compose_tiny(*overrides), MEMBERS[:2])
    packed = train_packed(configs, tmp_path)
    # An activation halfway between two of int8's values may be rounded either way: one text tells.
    evaluated = 1e-3 if "method=int8_lora" in overrides else 1e-4
    for one, alone in zip(packed, train_alone(configs, tmp_path), strict=True):
        require_same(one, alone, evaluated=evaluated)


def test_adapters_in_bf16_are_those_of_runs_alone(compose_tiny: Compose, tmp_path: Path) -> None:
    """Evaluation rounds a batch of other rows in other places, by far more than training does."""
    lines = ("method=lora", "train.weights=bf16", "train.precision=bf16")
    configs = members_of(compose_tiny(*lines), MEMBERS[:2])
    packed = train_packed(configs, tmp_path)
    for one, alone in zip(packed, train_alone(configs, tmp_path), strict=True):
        assert one.values("loss") == pytest.approx(alone.values("loss"), abs=1e-3)
        assert one.values("validation_loss") == pytest.approx(alone.values("validation_loss"), abs=1e-2)
        assert {tensor.dtype for tensor in one.best.values()} == {torch.bfloat16}


@pytest.mark.parametrize("optimizer", ["adamw_8bit"])
def test_members_have_optimizers_in_8_bits(compose_tiny: Compose, tmp_path: Path, optimizer: str) -> None:
    """Of B and A, which have 4,096 weights or more, as fewer are held in 32 bits."""
    members = [{**MEMBERS[0], "lora.r": 64}, {**MEMBERS[1], "lora.r": 128}, {**MEMBERS[2], "train.lr": 1e30}]
    configs = members_of(
        compose_tiny("method=lora", f"train.optimizer={optimizer}", "train.weight_decay=0.1"), members
    )
    first, second, third = train_packed(configs, tmp_path)
    for one, alone in zip((first, second), train_alone(configs[:2], tmp_path), strict=True):
        require_same(one, alone)
        for name, weight in alone.best.items():
            far = (one.best[name] - weight).abs() > 1e-3  # where a state of 8 bits was rounded the other way
            assert float(far.double().mean()) < 1e-3
    assert isinstance(third.fitted, RunError)  # left out, so that the others' weights moved


def test_a_member_that_diverges_is_left_out_and_each_is_clipped_by_itself(
    compose_tiny: Compose, tmp_path: Path
) -> None:
    """The second member's gradients and rate are absurd; had they been clipped together, all would stand."""
    absurd = {"lora.r": 8, "train.lr": 1e30}
    clipped = ("train.max_grad_norm=0.1", "train.log_steps=2", "train.checkpoint_steps=4")
    config = compose_tiny("method=lora", *clipped)
    configs = members_of(config, [MEMBERS[0], absurd, MEMBERS[2]])
    first, second, third = train_packed(configs, tmp_path)
    alone = list(train_alone([configs[0], configs[2]], tmp_path))
    require_same(first, alone[0])
    require_same(third, alone[1])
    assert isinstance(second.fitted, RunError)
    assert "by step" in str(second.fitted)
    assert len(second.history) < 10
    assert all(norm > 0.1 for norm in first.values("grad_norm"))  # so that clipping did something
    kept = [path.parent.parent.name for path in tmp_path.glob("packed_*/checkpoints/step-000016")]
    assert sorted(kept) == ["packed_0", "packed_2"]


def test_a_pack_whose_members_all_diverge_ends(compose_tiny: Compose, tmp_path: Path) -> None:
    absurd = [{"train.lr": 1e30}, {"train.lr": 1e32}]
    packed = train_packed(members_of(compose_tiny("method=lora"), absurd), tmp_path)
    assert all(isinstance(one.fitted, RunError) for one in packed)
    assert all(len(one.history) < 20 for one in packed)


@pytest.mark.parametrize(
    ("overrides", "members", "rows"),
    [
        (["method=lora"], MEMBERS, 4),
        (["method=qlora"], MEMBERS, 4),
        (["method=lora", "lora.target_modules=[query,word_embeddings]"], MEMBERS, 12),
        (["method=lora"], [{"seed": 0}, {"seed": 0}, {"seed": 1}], 12),  # each has its own texts
    ],
)
def test_the_base_computes_equal_rows_once_up_to_the_first_adapters(
    compose_tiny: Compose,
    monkeypatch: pytest.MonkeyPatch,
    overrides: list[str],
    members: list[dict[str, Any]],
    rows: int,
) -> None:
    seen: dict[nn.Module, list[int]] = {}

    def count(forward: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def counted(module: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
            seen.setdefault(module, []).append(len(inputs))
            return forward(module, inputs)

        return counted

    monkeypatch.setattr(frozen, "apply", count(frozen.apply))
    monkeypatch.setattr(Linear4bit, "forward", count(Linear4bit.forward))
    pack, _ = build_layer(members_of(compose_tiny(*overrides), members))
    ids = torch.randint(5, 60, (4, 7)).repeat(3, 1)
    for training in (True, False):
        pack.model.train(training)
        pack.model(input_ids=ids, attention_mask=torch.ones_like(ids))
    names = {module: name for name, module in pack.model.named_modules()}
    first = [counts for module, counts in seen.items() if ".layer.0.attention.self." in names[module]]
    later = [counts for module, counts in seen.items() if ".layer.1.attention.self." in names[module]]
    assert first == [[rows, rows]] * 3  # query, key and value, two of which have adapters
    assert later == [[12, 12]] * 3


def test_the_scale_of_an_adapter_in_bf16_is_exact(compose_tiny: Compose) -> None:
    """alpha / r = 1.325, which bf16 has as 1.328, a bias of 0.24 % in all that the adapter adds."""
    configs = members_of(
        compose_tiny("method=lora", "train.weights=bf16"), [{"lora.r": 4, "lora.alpha": 5.3}] * 2
    )
    torch.manual_seed(0)
    pack, layer = build_layer(configs)
    pack.model.eval()
    inputs = torch.randn(8, 64, 64)
    with torch.no_grad():
        layer.up.normal_()
        layer.layer.base_layer.weight.zero_()
        layer.layer.base_layer.bias.zero_()
        added = layer.forward(inputs).double()[:4]
        halfway = inputs[:4].bfloat16() @ layer.down[0].T
        exact = halfway.double() @ layer.up[0].double() * 1.325
    assert float((added * exact).sum() / exact.square().sum()) == pytest.approx(1, abs=5e-4)


def test_dropout_keeps_each_adapters_mean(compose_tiny: Compose) -> None:
    """Of the first layer's queries, over many draws; a member without dropout is the same in each of them."""
    rates = (0.0, 0.1, 0.5)
    configs = members_of(compose_tiny("method=lora"), [{"lora.dropout": rate} for rate in rates])
    torch.manual_seed(0)
    pack, layer = build_layer(configs)
    with torch.no_grad():
        layer.up.normal_()
        inputs = torch.randn(4, 6, 64).repeat(3, 1, 1)
        base = layer.layer.base_layer(inputs)
        exact = (layer.forward(inputs) - base).view(3, -1) if not pack.model.eval().training else None
        pack.model.train()
        drawn = torch.stack([(layer.forward(inputs) - base).view(3, -1) for _ in range(400)])
    assert exact is not None
    for member, rate in enumerate(rates):
        spread = drawn[:, member].std(0)
        assert float(spread.max()) == 0 if rate == 0 else float(spread.min()) > 0
        error = (drawn[:, member].mean(0) - exact[member]).abs()
        assert float((error - 6 * spread / 20).max()) <= 1e-5


@pytest.mark.parametrize(
    "overrides",
    [
        ["train.gradient_accumulation_steps=2"],
        ["method=qlora", "merged_micro_batches=2", "train.gradient_accumulation_steps=2"],
    ],
)
def test_several_labels_are_learned_alike_in_a_pack_and_alone(
    compose_tiny: Compose, texts: Path, tmp_path: Path, overrides: list[str]
) -> None:
    """Each text is two, with the labels of both; members of other seeds read them in another order."""
    frame = pd.read_csv(texts)
    joined = frame["text"] + " " + frame["text"].sample(frac=1, random_state=0).to_numpy()
    labels = frame["label"] + "|" + frame["label"].sample(frac=1, random_state=0).to_numpy()
    path = tmp_path / "two.csv"
    pd.DataFrame({"text": joined, "label": labels}).to_csv(path, index=False)
    lines = ("data.multi_label=true", f"data.train={path}", "train.lr=1e-2", "train.group_by_length=false")
    configs = members_of(compose_tiny(*FIFTY, *lines, *overrides), ({"seed": 0}, {"seed": 1, "lora.r": 4}))
    packed = train_packed(configs, tmp_path)
    for one, alone in zip(packed, train_alone(configs, tmp_path), strict=True):
        assert alone.values("loss")[0] == pytest.approx(0.69, abs=0.3)  # log 2, of each label
        assert alone.values("loss")[-1] < 0.45
        assert alone.values("validation_mean_average_precision")[-1] > 0.8
        require_same(one, alone)
