"""Decoders of every architecture: what they predict is that of a text alone, and both tasks train."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch
from decoders import DECODERS, EOS
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from trainings import prepare_alone
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, set_seed

from bench.config.schema import Config, replace_values
from bench.data import prompt as prompts
from bench.data import tokens
from bench.data.dataset import Dataset
from bench.errors import ConfigError
from bench.model import build
from bench.results.store import Result
from bench.run.run import run
from bench.train import loop
from bench.train import task as tasks
from bench.train.training import Training

Compose = Callable[..., Config]
MakeDecoder = Callable[[str], Path]

CPU = torch.device("cpu")
TEXTS = ["股票上涨", "国债收益率下行 第7期 到期 利率", f"a {EOS} b", f"美元 {EOS}", EOS, "央行"]
LABELS = ("股市", "债券", "外汇")
WORDS = {  # labels to words: of several tokens; one of which begins another; of one token each
    "several": {"股市": "stocks", "债券": "国债", "外汇": "fx"},
    "nested": {"股市": "fx", "债券": "fx rates", "外汇": "gold"},
    "single": {"股市": "a", "债券": "b", "外汇": "c"},
}


def make_dataset(texts: list[str]) -> Dataset:
    labels = np.arange(len(texts)) % len(LABELS)
    frame = pd.DataFrame({"id": range(len(texts)), "text": texts, "label": labels})
    return Dataset(dict.fromkeys(("train", "validation", "test"), frame), LABELS, "f", 0)


def load(
    config: Config, words: dict[str, str] | None = None
) -> tuple[build.Network, tokens.TokenisedSplit, tasks.Task, tokens.Padding]:
    """The run's network with fresh weights, TEXTS as its tokens, its task and the padding of its batches."""
    set_seed(0)
    folder = Path(str(config.model.path))
    tokenizer = build.load_tokenizer(folder)
    prompt, side = None, "right"
    if config.task == "label_likelihood":
        words = words or {label: label for label in LABELS}
        prompt, side = prompts.make(tokenizer, template=config.model.template, words=words), "left"
    split = tokens.tokenise(
        make_dataset(TEXTS), tokenizer, max_length=64, cache_dir=config.cache_dir, prompt=prompt
    )["test"]
    padding = tokens.Padding(tokens.Padding.of(tokenizer).token_id, side)
    network = build.build(
        config, folder=folder, labels=LABELS, pad_token_id=padding.token_id, device=CPU, precision="fp32"
    )
    return network, split, tasks.make(prompt, network.model.config), padding


def predict(
    training: Training, split: tokens.TokenisedSplit, padding: tokens.Padding, size: int
) -> npt.NDArray[np.float64]:
    batches = tokens.eval_batches(split, batch_size=size, padding=padding)
    return loop.predict(training, batches)[0]


def softmax(scores: list[list[float]]) -> npt.NDArray[np.float64]:
    return torch.tensor(scores, dtype=torch.float64).softmax(-1).numpy()


@pytest.mark.parametrize("architecture", DECODERS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_head_reads_the_last_token_of_the_text_whatever_the_padding(
    compose_decoder: Compose, architecture: str, side: str
) -> None:
    """Also where a text holds or ends in eos, which serves as the pad token."""
    config = compose_decoder(architecture, "method=full")
    network, split, task, padding = load(config)
    training = prepare_alone(network.model, config, task=task)
    eos = padding.token_id
    assert eos in split.row(2)
    assert split.row(3)[-1] == eos
    together = predict(training, split, tokens.Padding(eos, side), 6)
    alone = predict(training, split, tokens.Padding(eos, side), 1)
    scores = []
    with torch.inference_mode():
        for row in range(len(split)):
            ids = torch.from_numpy(split.row(row)[None]).long()
            states = network.model.base_model(ids, attention_mask=torch.ones_like(ids))
            scores.append(network.model.score(states.last_hidden_state[0, -1]).tolist())
    assert together == pytest.approx(softmax(scores), abs=2e-5)
    assert alone == pytest.approx(softmax(scores), abs=2e-5)
    assert together.std(axis=0).min() > 0.01  # texts that can be told apart


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_an_adapted_decoder_does_not_see_the_padding_either(compose_decoder: Compose, method: str) -> None:
    config = compose_decoder("llama", f"method={method}")
    network, split, task, padding = load(config)
    training = prepare_alone(network.model, config, task=task)
    alone = predict(training, split, padding, 1)
    for side in ("left", "right"):
        together = predict(training, split, tokens.Padding(padding.token_id, side), 6)
        assert together == pytest.approx(alone, abs=2e-5)


@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize("architecture", DECODERS)
def test_a_labels_probability_is_that_of_its_words_after_the_prompt(
    compose_decoder: Compose, tiny_decoder: MakeDecoder, architecture: str, words: str
) -> None:
    config = compose_decoder(architecture, "method=full", "task=label_likelihood")
    network, split, task, padding = load(config, WORDS[words])
    training = prepare_alone(network.model, config, task=task)
    found = predict(training, split, padding, 6)
    plain = AutoModelForCausalLM.from_pretrained(tiny_decoder(architecture))
    tokenizer = build.load_tokenizer(tiny_decoder(architecture))
    specials = "".join(DECODERS[architecture][0])
    scores = []
    for text in TEXTS:
        prompt = [
            id
            for part in (specials, text, "\nCategory:\n")
            for id in tokenizer(part, add_special_tokens=False)["input_ids"]
        ]
        scores.append([])
        for word in WORDS[words].values():
            answer = tokenizer(word, add_special_tokens=False)["input_ids"]
            answer += [tokenizer.eos_token_id] * (words == "nested")
            with torch.inference_mode():
                logits = plain(torch.tensor([prompt + answer])).logits[0].double().log_softmax(-1)
            places = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
            scores[-1].append(sum(float(logits[place, id]) for place, id in zip(places, answer, strict=True)))
    assert found == pytest.approx(softmax(scores), abs=2e-5)
    assert predict(training, split, padding, 1) == pytest.approx(found, abs=2e-5)
    assert task.readings == 1


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_the_loss_is_that_of_transformers_on_the_answers_tokens(
    compose_decoder: Compose, tiny_decoder: MakeDecoder, architecture: str
) -> None:
    config = compose_decoder(architecture, "method=full", "task=label_likelihood")
    network, split, task, padding = load(config, WORDS["several"])
    assert isinstance(task, tasks.LabelLikelihood)
    ((rows, batch),) = tokens.eval_batches(split, batch_size=6, padding=padding)
    loss = loop.add_gradients(
        prepare_alone(network.model, config, task=task),
        [{name: one[:2] for name, one in batch.items()}, {name: one[2:] for name, one in batch.items()}],
    )
    sequences = [(split.row(row).tolist(), list(task.prompt.answers[split.labels[row]])) for row in rows]
    longest = max(len(prompt) + len(answer) for prompt, answer in sequences)
    ids, mask, labels = torch.zeros(3, len(rows), longest, dtype=torch.int64)
    labels -= 100
    for row, (prompt, answer) in enumerate(sequences):  # padded on the right, where no position is shifted
        end = len(prompt) + len(answer)
        ids[row, :end] = torch.tensor(prompt + answer)
        labels[row, len(prompt) : end] = torch.tensor(answer)
        mask[row, :end] = 1
    plain = AutoModelForCausalLM.from_pretrained(tiny_decoder(architecture)).eval()
    with torch.inference_mode():
        expected = plain(input_ids=ids, attention_mask=mask, labels=labels).loss
    assert len({len(answer) for _, answer in sequences}) > 1
    assert float(loss) == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
def test_the_output_layer_sees_answers_only(compose_decoder: Compose, method: str) -> None:
    """As many positions as the longest answer has tokens, in a batch that is far longer."""
    config = compose_decoder("qwen3", f"method={method}", "task=label_likelihood")
    network, split, task, padding = load(config, {"股市": "a", "债券": "bc", "外汇": "xyz"})
    seen: list[torch.Size] = []
    (head,) = (one for name, one in network.model.named_modules() if name.endswith("lm_head"))
    head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    ((_, batch),) = tokens.eval_batches(split, batch_size=6, padding=padding)
    labels = batch.pop("labels")
    task.losses(network.model, batch, labels)
    task.score(network.model, batch)
    assert batch["input_ids"].shape[1] > 20
    # x, y, z and the end; in the comparison the first after the prompts, then after x and y; no end is needed
    assert seen == [(6, 4, 64), (6, 1, 64), (18, 2, 64)]


class Operands(TorchDispatchMode):  # type: ignore[misc]
    """The shapes that the operations inside are given."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: set[torch.Size] = set()

    def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.shapes |= {one.shape for one in tree_leaves(args) if isinstance(one, torch.Tensor)}
        return call(*args, **(kwargs or {}))


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_the_output_layers_weights_are_read_once_and_not_for_each_text(
    compose_decoder: Compose, method: str
) -> None:
    """A product for each text would have them as (texts, 64, 300), copied where the CPU computes in bf16."""
    network, split, task, padding = load(
        compose_decoder("qwen3", f"method={method}", "task=label_likelihood"), WORDS["single"]
    )
    ((_, batch),) = tokens.eval_batches(split, batch_size=6, padding=padding)
    del batch["labels"]
    network.model.eval()
    with torch.no_grad(), Operands() as operands:  # inference_mode would show products as one operation
        task.score(network.model, batch)
    weights = {tuple(shape) for shape in operands.shapes if {64, 300} == set(shape[-2:])}
    assert weights
    assert weights <= {(64, 300), (300, 64)}


def test_the_output_layer_is_neither_quantised_nor_adapted(compose_decoder: Compose) -> None:
    config = compose_decoder(
        "qwen3", "method=qlora", "task=label_likelihood", "lora.target_modules=all-linear"
    )
    network, *_ = load(config)
    modules = dict(network.model.named_modules())
    (head,) = (one for name, one in modules.items() if name.endswith("lm_head"))
    (vectors,) = (one for name, one in modules.items() if name.endswith("embed_tokens"))
    assert type(head) is nn.Linear
    assert head.weight is vectors.weight
    assert not head.weight.requires_grad
    assert network.choices["new_modules"] == []
    assert network.model.peft_config["default"].task_type == "CAUSAL_LM"


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_tied_weights_count_once(
    compose_decoder: Compose, tiny_decoder: MakeDecoder, architecture: str
) -> None:
    config = compose_decoder(architecture, "method=full", "task=label_likelihood")
    network, *_ = load(config)
    plain = AutoModelForCausalLM.from_pretrained(tiny_decoder(architecture))
    vectors = plain.get_input_embeddings().weight.numel()
    twice = 1 if DECODERS[architecture][1] else 2
    others = sum(one.numel() for name, one in plain.model.named_parameters() if "embed" not in name)
    assert network.total_parameters == network.trainable_parameters == others + twice * vectors


IN_BACKWARD = (  # as train=full_24gb, but for paging; the vectors used twice have one gradient
    "train.precision=bf16",
    "train.weights=bf16",
    "train.optimizer=adamw_8bit",
    "train.optimizer_in_backward=true",
    "train.stochastic_rounding=true",
    "train.max_grad_norm=null",
    "train.oom_retries=0",
)
SAVING = ("train.precision=bf16", "train.gradient_checkpointing=true")
TRAININGS: list[tuple[str, ...]] = [
    *((name, method) for name in ("qwen3", "llama", "glm") for method in ("full", "lora", "qlora")),
    ("qwen2", "lora"),
    ("mistral", "lora"),
    ("gpt2", "full"),
    *(("qwen3", method, *SAVING) for method in ("full", "lora", "qlora")),
    ("qwen3", "full", *IN_BACKWARD),
]


@pytest.mark.parametrize("task", ["sequence_classification", "label_likelihood"])
@pytest.mark.parametrize("training", TRAININGS, ids=lambda training: "-".join(training[:3]))
def test_a_decoder_learns(compose_decoder: Compose, training: tuple[str, ...], task: str) -> None:
    architecture, method, *overrides = training
    config = compose_decoder(
        architecture,
        f"method={method}",
        f"task={task}",
        f"train.lr={3e-3 if method == 'full' else 2e-2}",
        "train.max_steps=30",
        "lora.target_modules=[q_proj,v_proj]",
        *overrides,
    )
    result, predictions = run_and_read(config)
    folder = Path(config.results_dir) / "runs" / result.run_id
    losses = pd.read_json(folder / "history.jsonl", lines=True)["loss"].dropna()
    assert losses.tail(5).mean() < losses.head(5).mean() * 0.8
    assert result.metrics["test"]["accuracy"] > 0.5
    assert predictions.filter(like="probability_").sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-5)
    assert result.model["new_modules"] == (["score"] if task == "sequence_classification" else [])


@pytest.mark.parametrize("task", ["sequence_classification", "label_likelihood"])
def test_what_a_run_predicts_does_not_depend_on_how_many_texts_it_reads_at_once(
    compose_decoder: Compose, tmp_path: Path, task: str
) -> None:
    """With 1 a batch has one text, and as many sequences as there are labels."""
    one, many = (
        run_and_read(
            compose_decoder(
                "llama",
                "method=full",
                f"task={task}",
                "train.max_steps=5",
                f"train.eval_batch_size={size}",
                f"results_dir={tmp_path}/{size}",
            )
        )[1].filter(like="probability_")
        for size in (1, 64)
    )
    assert one.to_numpy() == pytest.approx(many.to_numpy(), abs=1e-5)


def run_and_read(config: Config) -> tuple[Result, pd.DataFrame]:
    """A run's record and its predictions."""
    result = run(config)
    assert result.status == "success", result.error
    return result, pd.read_csv(Path(config.results_dir) / "runs" / result.run_id / "predictions.csv")


def test_a_long_text_is_cut_and_neither_template_nor_answer(
    compose_decoder: Compose, tiny_decoder: MakeDecoder
) -> None:
    config = compose_decoder("llama", "task=label_likelihood")
    tokenizer = build.load_tokenizer(tiny_decoder("llama"))
    prompt = prompts.make(tokenizer, template="> {text}\nTopic: ", words=WORDS["several"])
    long = make_dataset(["国债 " * 50, "短"])
    split = tokens.tokenise(long, tokenizer, max_length=40, cache_dir=config.cache_dir, prompt=prompt)["test"]
    first, second = (tokenizer.decode(split.row(row)) for row in (0, 1))
    assert second == "<s>> 短\nTopic: "
    assert first.startswith("<s>> 国债 国债")
    assert first.endswith("\nTopic: ")
    assert split.lengths[0] + max(map(len, prompt.answers)) - 1 == 40
    assert split.truncated_share == 0.5


def test_another_template_or_longer_words_are_tokenised_anew(
    tiny_decoder: MakeDecoder, tmp_path: Path
) -> None:
    tokenizer = build.load_tokenizer(tiny_decoder("llama"))
    splits = [
        tokens.tokenise(make_dataset(TEXTS), tokenizer, max_length=64, cache_dir=tmp_path, prompt=prompt)
        for prompt in (
            None,
            prompts.make(tokenizer, template="{text}: ", words=WORDS["single"]),
            prompts.make(tokenizer, template="{text}? ", words=WORDS["single"]),
            prompts.make(tokenizer, template="{text}? ", words=WORDS["several"]),
        )
    ]
    assert len(list(tmp_path.rglob("*.safetensors"))) == 4
    assert len({tuple(split["test"].ids) for split in splits}) == 3  # the longer words cut nothing here


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"train.max_length": 16},
            "train.max_length=16: the template and the longest label's words take 16 tokens, so none is left",
        ),
        ({"data.label_words": {"债券": "x", "股市": "x"}}, "'x' of the label '股市' has the same tokens in"),
        ({"data.label_words": {"股市": ""}}, "'' of the label '股市' has no token in"),
    ],
)
def test_what_cannot_be_asked_is_one_message(
    compose_decoder: Compose, values: dict[str, Any], message: str
) -> None:
    result = run(replace_values(compose_decoder("qwen3", "task=label_likelihood"), values))
    assert result.status == "invalid"
    assert result.error is not None
    assert message in result.error["message"]


def test_a_pad_token_that_is_no_word_of_the_model_is_one_message(compose_decoder: Compose) -> None:
    config = compose_decoder("llama")
    with pytest.raises(ConfigError, match="pad token has the number 300, and the model has 300 words; name"):
        build.build(
            config,
            folder=Path(str(config.model.path)),
            labels=LABELS,
            pad_token_id=300,
            device=CPU,
            precision="fp32",
        )


def test_an_encoder_is_sent_to_its_head(compose_tiny: Compose) -> None:
    result = run(compose_tiny("task=label_likelihood"))
    assert result.status == "invalid"
    assert result.error is not None
    assert "use task=sequence_classification" in result.error["message"]


def test_an_encoder_with_a_head_for_words_is_no_decoder(compose_tiny: Compose, tiny_bert: Path) -> None:
    with pytest.raises(ConfigError, match="bert is no decoder with a causal head in transformers; use task="):
        build.build(
            compose_tiny("task=label_likelihood"),
            folder=tiny_bert,
            labels=LABELS,
            pad_token_id=0,
            device=CPU,
            precision="fp32",
        )


def test_a_checkpoint_without_its_head_for_words_writes_nothing(
    compose_tiny: Compose, tiny_decoder: MakeDecoder, tmp_path: Path
) -> None:
    headless = AutoModelForSequenceClassification.from_pretrained(tiny_decoder("llama"), num_labels=3)
    headless.save_pretrained(tmp_path / "headless")
    build.load_tokenizer(tiny_decoder("llama")).save_pretrained(tmp_path / "headless")
    result = run(compose_tiny(f"model.path={tmp_path}/headless", "task=label_likelihood"))
    assert result.status == "invalid"
    assert result.error is not None
    assert "the checkpoint lacks lm_head, which task=label_likelihood needs" in result.error["message"]
