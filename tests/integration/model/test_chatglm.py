"""ChatGLM-6B's network equals the public implementation, whose numbers assets/chatglm/ holds: three layers of
random weights under the public names, run in float32 on a CPU (PyTorch 2.1.2, transformers 4.30.2)."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
)

from bench.config import overrides
from bench.config.schema import Config, MethodConfig
from bench.model.build import load_encoder, quantization_config
from bench.model.chatglm import network

ASSETS = Path(__file__).parents[2] / "assets" / "chatglm"
STEP = "decode_step"
OTHER = ("model", "rotary_half_dim64", STEP)
CASES = sorted(path.stem for path in ASSETS.glob("*.safetensors") if path.stem not in OTHER)
PAD, GMASK, SOP = 3, 901, 904
ATTENTION = ["sdpa", "eager"]
QLORA = MethodConfig(**overrides.load_file("method", "qlora"))
LOCAL = {"local_files_only": True, "trust_remote_code": False, "use_safetensors": True}


def load(kind: Any = AutoModelForCausalLM, **options: Any) -> Any:
    return kind.from_pretrained(ASSETS, **{"dtype": torch.float32, **LOCAL, **options}).eval()


def read(case: str) -> dict[str, torch.Tensor]:
    return load_file(ASSETS / f"{case}.safetensors")


def mask_of(case: str, ids: torch.Tensor) -> torch.Tensor:
    """1 for a real token, as bench's batches have it; one case was run as if its pads were text."""
    return torch.ones_like(ids) if "without_mask" in case else (ids != PAD).long()


def largest(difference: torch.Tensor) -> float:
    return float(difference.detach().abs().max())


def classifier(**options: Any) -> Any:
    torch.manual_seed(0)
    return load(AutoModelForSequenceClassification, num_labels=3, **options)


@pytest.fixture(scope="module")
def model() -> Any:
    return load()


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("case", CASES)
def test_states_logits_loss_and_gradients_are_the_references(case: str, attention: str) -> None:
    model, expected = load(attn_implementation=attention), read(case)
    ids = expected["input_ids"]
    mask = mask_of(case, ids)
    found = model(ids, attention_mask=mask, labels=expected.get("labels"), output_hidden_states=True)
    kept = expected["logits"].shape[1]  # of the long one only the end was stored
    is_real = mask[:, -kept:].bool()
    states = {"last_hidden_state": found.hidden_states[-1]}
    states |= {f"hidden_states.{layer}": state for layer, state in enumerate(found.hidden_states)}
    for name in states.keys() & expected.keys():
        assert largest((states[name][:, -kept:] - expected[name])[is_real]) < 2e-5, name
    assert largest((found.logits[:, -kept:] - expected["logits"])[is_real]) < 2e-5
    if "labels" in expected:
        found.loss.backward()
        weight = model.transformer.layers[1].attention.query_key_value
        embedded = model.transformer.word_embeddings.weight.grad.sum(1)
        assert largest(found.loss - expected["loss"]) < 1e-5
        assert largest(weight.weight.grad - expected["grad.layers.1.query_key_value.weight"]) < 2e-6
        assert largest(weight.bias.grad - expected["grad.layers.1.query_key_value.bias"]) < 2e-6
        assert largest(embedded - expected["grad.word_embeddings.weight.sum_over_hidden"]) < 2e-6


@pytest.mark.parametrize("case", CASES)
def test_positions_and_masks_are_exactly_the_references(model: Any, case: str) -> None:
    expected = read(case)
    ids = expected["input_ids"]
    mask = mask_of(case, ids)
    assert torch.equal(network.find_positions(ids, mask, model.config), expected["position_ids"])
    start = network.find_answers(ids, mask, model.config)
    visible = network.find_visible(mask, start, past=0)  # (rows, 1, length, length)
    if "attention_mask" in expected:
        rows, columns = mask.bool().nonzero(as_tuple=True)
        assert torch.equal(~visible[rows, 0, columns], expected["attention_mask"][rows, 0, columns])


def test_a_text_without_an_answer_is_read_in_both_directions(model: Any) -> None:
    ids, mask = torch.tensor([[5, 6, 7]]), torch.ones(1, 3)
    start = network.find_answers(ids, mask, model.config)
    assert network.find_visible(mask, start, past=0).all()
    assert network.find_positions(ids, mask, model.config).tolist() == [[[0, 1, 2], [0, 0, 0]]]


def test_pads_stand_nowhere_on_either_side(model: Any) -> None:
    row = [5, 6, GMASK, SOP, 7]
    places = [[0, 1, 2, 2, 2], [0, 0, 0, 1, 2]]
    for before, after in ((2, 0), (0, 2), (1, 1)):
        ids = torch.tensor([[PAD] * before + row + [PAD] * after])
        found = network.find_positions(ids, (ids != PAD).long(), model.config)
        assert found.tolist() == [[[0] * before + one + [0] * after for one in places]]


def test_half_precision_turns_by_the_references_tables() -> None:
    expected = read("rotary_half_dim64")
    places = expected["position_ids"].expand(1, 2, -1)
    for cosines_or_sines, name in zip(
        network.make_rotation(places, 128, torch.float16), ("cos", "sin"), strict=True
    ):
        assert cosines_or_sines.dtype == torch.float16
        for half in cosines_or_sines[0, 0].chunk(2, dim=-1):
            ulp = 2.0**-11  # of numbers up to 1
            assert largest(half.float() - expected[name].float()) <= ulp


def test_bfloat16_turns_by_exact_angles() -> None:
    expected = read("rotary_half_dim64")
    places = expected["position_ids"].expand(1, 2, -1)
    angles = expected["position_ids"][:, None].double() * expected["inv_freq"].double()
    cosines, _ = network.make_rotation(places, 128, torch.bfloat16)
    assert cosines.dtype == torch.bfloat16
    assert largest(cosines[0, 0, :, :32].double() - angles.cos()) < 2.0**-8


@pytest.mark.parametrize("attention", ATTENTION)
def test_a_step_with_a_cache_is_a_step_without(attention: str) -> None:
    model, expected = load(attn_implementation=attention), read(STEP)
    prompt = expected["input_ids"]
    with torch.no_grad():
        read_prompt = model(prompt, use_cache=True)
        answer = read_prompt.logits[:, -1].argmax(-1)
        assert torch.equal(answer, expected["next_id"])
        stepped = model(
            answer[:, None], cache=read_prompt.cache, position_ids=expected["step_position_ids"]
        ).logits[:, -1]
        whole = model(torch.cat([prompt, answer[:, None]], 1)).logits[:, -1]
    assert largest(stepped - expected["step_logits"]) < 2e-5
    assert largest(whole - expected["full_logits"]) < 2e-5


def test_several_steps_at_once_with_a_cache_see_only_what_is_behind(model: Any) -> None:
    ids = read("single_seq2seq")["input_ids"]
    ones = torch.ones_like(ids)
    places = network.find_positions(ids, ones, model.config)
    prompt = int(network.find_answers(ids, ones, model.config)) + 1
    assert ids.shape[1] - prompt > 2
    whole = model(ids).logits[:, prompt:]
    cache = model(ids[:, :prompt], use_cache=True).cache
    stepped = model(ids[:, prompt:], cache=cache, position_ids=places[:, :, prompt:]).logits
    assert largest(stepped - whole) < 2e-5


def test_a_cache_without_positions_is_refused(model: Any) -> None:
    prompt = read(STEP)["input_ids"]
    cache = model(prompt, use_cache=True).cache
    with pytest.raises(ValueError, match="must be given with a cache"):
        model(prompt[:, :1], cache=cache)


def test_generating_is_asking_for_the_next_token_again_and_again(model: Any) -> None:
    rows = [[5, 6, 7, 8, 9, GMASK, SOP], [11, 12, GMASK, SOP]]
    ids = torch.tensor([[PAD] * (7 - len(row)) + row for row in rows])
    found = model.generate(ids, attention_mask=(ids != PAD).long(), max_new_tokens=6, do_sample=False)
    for row, answer in zip(rows, found[:, 7:].tolist(), strict=True):
        written = list(row)
        for token in answer:
            assert token == int(model(torch.tensor([written])).logits[0, -1].argmax())
            written.append(token)


def test_the_references_own_mask_is_read_too(model: Any) -> None:
    expected = read("batch_cls_leftpad")
    ids, places, blocked = (expected[name] for name in ("input_ids", "position_ids", "attention_mask"))
    logits = model(ids, attention_mask=blocked, position_ids=places).logits
    assert largest((logits - expected["logits"])[ids != PAD]) < 2e-5


@pytest.mark.parametrize("attention", ATTENTION)
def test_a_row_of_pads_is_no_nan(attention: str) -> None:
    model = classifier(attn_implementation=attention)
    ids = torch.tensor([[5, 6, 7, GMASK, SOP], [PAD] * 5])
    mask = (ids != PAD).long()
    blocked = torch.ones(2, 1, 5, 5, dtype=torch.bool)
    blocked[0] = False
    seen: list[bool] = []
    layer = model.transformer.layers[0]
    layer.register_forward_pre_hook(lambda _, inputs: seen.append(bool(inputs[1].any(-1).all())))
    for given in (mask, blocked):
        model.zero_grad()
        loss = model(ids, attention_mask=given, labels=torch.tensor([0, 1])).loss
        loss.backward()
        assert all(bool(one.grad.isfinite().all()) for one in model.parameters() if one.grad is not None)
        assert loss.isfinite()
    assert seen == [
        True,
        True,
    ]  # attention to nothing is NaN in some of sdpa's kernels, though not on every CPU


def test_a_classification_does_not_depend_on_padding() -> None:
    model = classifier()
    row = [5, 6, 7, 8, GMASK, SOP]
    alone = model(torch.tensor([row])).logits
    for padded in ([PAD] * 3 + row, row + [PAD] * 3, [SOP, GMASK, 77, *row], [*row, 77, GMASK, SOP]):
        place = next(start for start in range(4) if padded[start : start + 6] == row)
        mask = torch.zeros(1, 9, dtype=torch.long)
        mask[0, place : place + 6] = 1
        assert largest(model(torch.tensor([padded]), attention_mask=mask).logits - alone) < 1e-6


def test_only_the_logits_that_are_wanted_are_computed(model: Any) -> None:
    ids = read("single_seq2seq")["input_ids"]
    shapes = []
    hook = model.lm_head.register_forward_hook(lambda _, __, out: shapes.append(out.shape[1]))
    whole = model(ids).logits
    last, some = model(ids, logits_to_keep=2).logits, model(ids, logits_to_keep=torch.tensor([3, 8])).logits
    hook.remove()
    assert shapes == [ids.shape[1], 2, 2]
    assert largest(last - whole[:, -2:]) < 1e-5
    assert largest(some - whole[:, [3, 8]]) < 1e-5


def test_gradient_checkpointing_computes_twice_and_the_same() -> None:
    expected = read("single_seq2seq")
    model = load().train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    calls: list[int] = []
    model.transformer.layers[1].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    model(expected["input_ids"], labels=expected["labels"]).loss.backward()
    gradient = model.transformer.layers[1].attention.query_key_value.weight.grad
    assert len(calls) == 2
    assert largest(gradient - expected["grad.layers.1.query_key_value.weight"]) < 2e-6


def test_the_causal_head_trains_an_adapter_over_a_4_bit_base() -> None:
    """transformers' and PEFT's own way: LoRA goes on query_key_value, and the head stays whole."""
    held = quantization_config(QLORA, torch.float32, ["lm_head"])
    torch.manual_seed(0)
    base = load(quantization_config=held)
    model = peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", r=4)).train()
    assert type(base.lm_head) is torch.nn.Linear
    assert type(base.transformer.layers[0].mlp.dense_4h_to_h).__name__ == "Linear4bit"
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert len(trained) == 2 * 3
    assert all("attention.query_key_value.lora_" in name for name in trained)
    batch = read("batch_seq2seq_leftpad")
    ids, labels = batch["input_ids"], batch["labels"]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(8):
        loss = model(input_ids=ids, attention_mask=(ids != PAD).long(), labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.1


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.15), (torch.float16, 0.02)])
def test_half_precision_is_near(dtype: torch.dtype, tolerance: float) -> None:
    expected = read("batch_cls_leftpad")
    model, ids = load(dtype=dtype), expected["input_ids"]
    with torch.no_grad():
        found = model(ids, attention_mask=(ids != PAD).long()).logits
    assert found.dtype == dtype
    assert largest((found.float() - expected["logits"])[ids != PAD]) < tolerance


def test_the_official_layout_loads_without_its_code(compose: Callable[..., Config], tmp_path: Path) -> None:
    folder = shutil.copytree(ASSETS, tmp_path / "model")
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    settings["auto_map"] = {
        "AutoConfig": "configuration_chatglm.ChatGLMConfig",
        "AutoModel": "modeling_chatglm.ChatGLMForConditionalGeneration",
        "AutoModelForSequenceClassification": "modeling_chatglm.Missing",
    }
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    source = compose("model=chatglm-6b").model
    encoder = load_encoder(source, folder, device=torch.device("cpu"), precision="fp32")
    assert type(encoder) is network.ChatGLMModel
    assert torch.equal(encoder.word_embeddings.weight, load(AutoModel).word_embeddings.weight)
    _, info = AutoModelForSequenceClassification.from_pretrained(folder, **LOCAL, output_loading_info=True)
    assert info["missing_keys"] == {"score.weight"}
    assert info["unexpected_keys"] == {"lm_head.weight"}


def test_what_is_saved_loads_again(tmp_path: Path, model: Any) -> None:
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, **LOCAL)
    assert again.config.to_dict().keys() == model.config.to_dict().keys()
    ids = read("single_cls")["input_ids"]
    assert torch.equal(again(ids).logits, model(ids).logits)


@pytest.mark.parametrize(
    ("name", "value"), [("quantization_bit", 4), ("pre_seq_len", 128), ("position_encoding_2d", False)]
)
def test_variants_of_the_checkpoint_are_refused(tmp_path: Path, name: str, value: Any) -> None:
    settings = json.loads((ASSETS / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(settings | {name: value}), encoding="utf-8")
    with pytest.raises(ValueError, match=f"^{name}={value}: only ChatGLM-6B itself is supported"):
        AutoConfig.from_pretrained(tmp_path, trust_remote_code=False)


def test_the_defaults_are_the_public_checkpoints_size() -> None:
    with torch.device("meta"):
        sizes = [
            sum(parameter.numel() for parameter in kind.from_config(network.ChatGLMConfig()).parameters())
            for kind in (AutoModel, AutoModelForCausalLM)
        ]
    assert sizes == [6_173_286_400, 6_173_286_400 + 130_528 * 4096]
