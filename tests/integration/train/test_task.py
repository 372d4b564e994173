"""Labels' scores where each prompt is read once are those of every prompt read with every label by itself."""

from typing import Any

import peft
import pytest
import torch
import yaml
from transformers import AutoConfig, AutoModelForCausalLM

import bench.model.chatglm  # noqa: F401 (makes the Auto classes know it)
from bench.config.schema import CONF_DIR
from bench.data.prompt import Prompt
from bench.model import decoder
from bench.train import task as tasks
from bench.train.task import LabelLikelihood

SIZES = {
    **{"vocab_size": 60, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"num_key_value_heads": 2, "intermediate_size": 96, "initializer_range": 0.2},
    **{"pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1},
}
HEADS = SIZES | {"head_dim": 16}
WINDOW = HEADS | {"sliding_window": 6}  # less than a prompt
BOTH = ["sliding_attention", "full_attention"]
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": HEADS,
    "qwen2": SIZES,
    "qwen3": HEADS,
    "glm": HEADS,
    "mistral": HEADS,
    "chatglm": {
        **{"vocab_size": 60, "hidden_size": 64, "num_layers": 2, "num_attention_heads": 4},
        **{"inner_hidden_size": 96, "initializer_range": 0.2, "pad_token_id": 0, "eos_token_id": 1},
        **{"mask_token_id": 55, "gmask_token_id": 56, "bos_token_id": 57},
    },
}  # of the presets
OTHERS = {
    "gpt2": {"vocab_size": 60, "n_embd": 64, "n_layer": 2, "n_head": 4, "initializer_range": 0.2},
    "falcon": {**SIZES, "alibi": False, "num_kv_heads": 2, "new_decoder_architecture": True},
    "mistral": WINDOW,
    "phi3": WINDOW,
    "gemma2": WINDOW | {"layer_types": BOTH},
    "gemma3_text": WINDOW | {"layer_types": BOTH},
}
READ_AGAIN: dict[str, dict[str, Any]] = {
    "qwen3_next": {
        **HEADS,
        **{"layer_types": ["linear_attention", "full_attention"], "linear_num_value_heads": 4},
        **{"linear_num_key_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8},
        **{"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    },
    "falcon_h1": HEADS | {"mamba_d_ssm": 128, "mamba_n_heads": 8, "mamba_d_head": 16},
}
# A word that begins another, words of one token, and words that share their first.
PROMPT = Prompt((), (), ((10, 11, 1), (10, 11, 12, 1), (13, 1), (10, 14, 15, 1), (16, 17, 18, 1)))
LENGTHS = (9, 4, 7)


def make_model(architecture: str, sizes: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **sizes)).eval()
    decoder.ignore_padding(model)
    model.config.use_cache = False  # as in a run
    return model


def make_rows(architecture: str = "llama", lengths: tuple[int, ...] = LENGTHS) -> list[list[int]]:
    end = [56, 57] if architecture == "chatglm" else []
    drawn = torch.randint(20, 50, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(1))
    return [[*row[:length], *end] for row, length in zip(drawn.tolist(), lengths, strict=True)]


def pad(rows: list[list[int]], side: str = "left") -> dict[str, torch.Tensor]:
    longest = max(map(len, rows))
    pads = [[0] * (longest - len(row)) for row in rows]
    left = side == "left"
    ids = [[*some, *row] if left else [*row, *some] for row, some in zip(rows, pads, strict=True)]
    mask = [[int(token != 0) for token in row] for row in ids]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


@torch.no_grad()
def read_each(model: Any, rows: list[list[int]], prompt: Prompt = PROMPT) -> torch.Tensor:
    """Each label's log-likelihood, by one pass for each prompt with each label, without padding or cache."""
    scores = []
    for row in rows:
        for answer in prompt.scored:
            ids = torch.tensor([[*prompt.examples, *row, *answer]])
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[
                0, -len(answer) - 1 : -1
            ]
            scores.append(logits.log_softmax(-1)[torch.arange(len(answer)), list(answer)].sum())
    return torch.stack(scores).view(len(rows), -1)


def score(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.inference_mode():
        return tasks.make(PROMPT, model.config).score(model, inputs)


def test_every_presets_architecture_is_here() -> None:
    presets = [yaml.safe_load(path.read_text()) for path in (CONF_DIR / "model").glob("*.yaml")]
    kinds = {one["architecture"]["model_type"] for one in presets if one["architecture"]}
    assert kinds - {"bert"} == set(ARCHITECTURES)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("architecture", "sizes"), [*ARCHITECTURES.items(), *OTHERS.items()])
def test_reading_prompts_once_changes_no_score(architecture: str, sizes: dict[str, Any], side: str) -> None:
    model, rows = make_model(architecture, sizes), make_rows(architecture)
    seen: list[tuple[int, ...]] = []
    hook = model.get_input_embeddings().register_forward_hook(lambda _, ids, __: seen.append(ids[0].shape))
    scores, expected = score(model, pad(rows, side)), read_each(model, rows)
    hook.remove()
    assert scores.numpy() == pytest.approx(expected.numpy(), abs=1e-5)
    assert expected.std(0).min() > 0.1
    assert seen[:2] == [(3, max(map(len, rows))), (3 * 5, 3)]  # five stems of up to three tokens
    repeated = LabelLikelihood(PROMPT, keeps_keys=False)
    with torch.inference_mode():
        assert scores.numpy() == pytest.approx(repeated.score(model, pad(rows, side)).numpy(), abs=1e-5)


@pytest.mark.parametrize(("architecture", "sizes"), READ_AGAIN.items())
def test_what_keeps_a_state_reads_prompts_again(architecture: str, sizes: dict[str, Any]) -> None:
    model, rows = make_model(architecture, sizes), make_rows(lengths=(6, 6))
    task = tasks.make(PROMPT, model.config)
    assert (task.readings, task.sequences, task.answer_tokens) == (5, 5, 3)
    assert score(model, pad(rows)).numpy() == pytest.approx(read_each(model, rows).numpy(), abs=1e-5)


SHARED = {name: ARCHITECTURES[name] for name in ("llama", "qwen2", "qwen3", "glm")} | {"gpt2": OTHERS["gpt2"]}
NOT_SHARED = {"chatglm": ARCHITECTURES["chatglm"], "gemma3_text": OTHERS["gemma3_text"], **READ_AGAIN}
EXAMPLES = (21, 33, 10, 11, 40, 25, 13, 31, 22, 27, 29)
ONE_TOKEN = ((10, 1), (13, 1), (16, 1))


@pytest.mark.parametrize("answers", [PROMPT.answers, ONE_TOKEN], ids=["several tokens", "one token"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("architecture", "sizes"), SHARED.items())
def test_examples_are_read_once_for_all_prompts(
    architecture: str, sizes: dict[str, Any], side: str, answers: tuple[tuple[int, ...], ...]
) -> None:
    model, rows = make_model(architecture, sizes), make_rows()
    prompt = Prompt((), (), answers, EXAMPLES)
    seen: list[tuple[int, ...]] = []
    hook = model.get_input_embeddings().register_forward_hook(lambda _, ids, __: seen.append(ids[0].shape))
    with torch.inference_mode():
        task = tasks.make(prompt, model.config).read_examples(model)  # type: ignore[union-attr]
        scores, again = (task.score(model, pad(part, side)) for part in (rows, rows[1:]))
    hook.remove()
    expected = read_each(model, rows, prompt)
    assert scores.numpy() == pytest.approx(expected.numpy(), abs=1e-5)
    assert again.numpy() == pytest.approx(expected[1:].numpy(), abs=1e-5)
    assert (expected - read_each(model, rows, Prompt((), (), answers))).abs().max() > 0.1
    stems = [] if answers is ONE_TOKEN else [(5, 3)]
    one, two = (
        [(count, longest), *((count * n, k) for n, k in stems)] for count, longest in ((3, 9), (2, 7))
    )
    assert seen == [(1, len(EXAMPLES)), *one, *two]


@pytest.mark.parametrize(("architecture", "sizes"), NOT_SHARED.items())
def test_examples_that_depend_on_the_prompt_are_read_with_each(
    architecture: str, sizes: dict[str, Any]
) -> None:
    lengths = LENGTHS if architecture in ("chatglm", "gemma3_text") else (6, 6)
    model, rows = make_model(architecture, sizes), make_rows(architecture, lengths)
    prompt = Prompt((), (), PROMPT.answers, EXAMPLES)
    with torch.inference_mode():
        task = tasks.make(prompt, model.config).read_examples(model)  # type: ignore[union-attr]
        scores = task.score(model, pad(rows, "right"))
    assert scores.numpy() == pytest.approx(read_each(model, rows, prompt).numpy(), abs=1e-5)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("architecture", ["llama", "chatglm"])
def test_either_attention_reads_prompts_once(architecture: str, attention: str) -> None:
    model, rows = make_model(architecture, ARCHITECTURES[architecture]), make_rows(architecture)
    model.set_attn_implementation(attention)
    assert score(model, pad(rows)).numpy() == pytest.approx(read_each(model, rows).numpy(), abs=1e-5)


ADAPTERS: dict[str, dict[str, Any]] = {
    "lora": {"peft_type": "LORA", "init_lora_weights": False},
    "dora": {"peft_type": "LORA", "init_lora_weights": False, "use_dora": True},
    "ia3": {"peft_type": "IA3", "init_ia3_weights": False},
    "adalora": {"peft_type": "ADALORA", "init_lora_weights": False, "total_step": 10},
    "prompt tuning": {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4},
    "p-tuning": {"peft_type": "P_TUNING", "num_virtual_tokens": 4, "encoder_hidden_size": 16},
    "prefix tuning": {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 4},
}


@pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated:FutureWarning")  # as PEFT calls it
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_adapted_models_read_prompts_once(adapter: str) -> None:
    """Also with virtual tokens before the prompt, which stay where they are: rows of one length."""
    settings = peft.get_peft_config({"task_type": "CAUSAL_LM"} | ADAPTERS[adapter])
    model = peft.get_peft_model(make_model("llama", ARCHITECTURES["llama"]), settings).eval()
    rows = make_rows(lengths=(6, 6, 6))
    with torch.no_grad():
        for parameter in (one for one in model.parameters() if one.requires_grad):
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    with model.disable_adapter():
        plain = read_each(model, rows)
    expected = read_each(model, rows)
    assert score(model, pad(rows)).numpy() == pytest.approx(expected.numpy(), abs=1e-5)
    assert (expected - plain).abs().max() > 0.1


def test_prompts_are_read_once_after_training_with_checkpoints() -> None:
    model, rows = make_model("llama", ARCHITECTURES["llama"]), make_rows()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    task = tasks.make(PROMPT, model.config)
    task.losses(model.train(), pad(rows), torch.tensor([0, 1, 2])).sum().backward()
    assert score(model.eval(), pad(rows)).numpy() == pytest.approx(read_each(model, rows).numpy(), abs=1e-5)
