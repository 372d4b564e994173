"""Predicted memory against real: PEFT's published measurements on a GPU, and torch's profiler on this CPU."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from trainings import prepare_alone
from transformers import AutoConfig, AutoModelForCausalLM

from bench.config.schema import Config
from bench.data import dataset
from bench.data.prompt import Prompt
from bench.memory.allocator import replay
from bench.memory.kernels import Kernels
from bench.memory.predict import predict_all
from bench.memory.prediction import Prediction, count_cost
from bench.memory.recording import Recorder, Recording
from bench.memory.trace import Shapes, UntraceableError, hold_weights, make_batch, trace
from bench.model import build, weights
from bench.run.run import run
from bench.train import baselines, checkpoint, fit, loop
from bench.train import task as tasks
from bench.train.meter import Meter
from bench.train.training import make_accelerator

Compose = Callable[..., Config]
CPU = torch.device("cpu")
GIB = 2**30
DECODER = (
    "model=qwen3-0.6b",
    "model.weights=random",
    "model.architecture.vocab_size=500",
    "model.architecture.hidden_size=64",
    "model.architecture.intermediate_size=160",
    "model.architecture.num_hidden_layers=2",
    "model.architecture.num_attention_heads=4",
    "model.architecture.num_key_value_heads=2",
    "model.architecture.head_dim=16",
)
LENGTH = 20


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
@pytest.mark.parametrize("network", [("model=minilm",), DECODER], ids=["minilm", "decoder"])
def test_tensors_take_what_was_predicted(
    compose: Compose, network: tuple[str, ...], method: str, precision: str
) -> None:
    config = compose(*network, f"method={method}", "train.eval_batch_size=32", "devices=cpu")
    assert_equal(config, precision)


@pytest.mark.parametrize("keeps_keys", [True, False])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_and_where_a_decoder_writes_its_labels(compose: Compose, method: str, *, keeps_keys: bool) -> None:
    config = compose(*DECODER, "task=label_likelihood", f"method={method}", "train.eval_batch_size=8")
    prompt = Prompt(before=(1, 2), after=(3,), answers=((4, 5, 0), (6, 0), (7, 8, 0)))
    assert_equal(config, "fp32", tasks.LabelLikelihood(prompt, keeps_keys))


@pytest.mark.parametrize("shots", [0, 2])
@pytest.mark.parametrize("architecture", ["llama", "mistral"])  # one shares its examples
def test_a_base_that_answers_as_it_is_takes_what_was_predicted(
    compose_decoder: Compose, architecture: str, shots: int
) -> None:
    method = ("method=few_shot", f"method.shots={shots}") if shots else ("method=zero_shot",)
    config = compose_decoder(architecture, "task=label_likelihood", "train.eval_batch_size=256", *method)
    folder, data = weights.locate(config.model), dataset.load(config.data)
    texts = fit.tokenise(config, data, model_folder=folder)
    rows, longest = baselines.count_rows(config, texts), max(texts.splits["test"].lengths)
    shapes = Shapes("cpu", "fp32", longest, longest, eval_rows=rows, labels=3, pad_token_id=0)
    recording = trace(config, shapes, task=texts.task, folder=folder)
    base = baselines.load_base(
        config, labels=data.labels, pad_token_id=0, folder=folder, device=CPU, precision="fp32"
    )
    accelerator = make_accelerator(CPU, "fp32")
    batch = make_batch(rows, longest)
    batch["attention_mask"][0, 0] = 0

    def ask() -> None:
        with torch.inference_mode():
            task = texts.task.read_examples(base)  # type: ignore[union-attr]
        loop.ask(base, [(np.arange(rows), batch)], task=task, accelerator=accelerator)

    held = sum({one.data_ptr(): one.nbytes() for one in storages(base)}.values())
    peak = held + profile_memory(ask)[0]
    assert find_peak(recording, {"forward", "eval"}) == pytest.approx(peak, rel=0.03)


@pytest.mark.parametrize(
    "lines",
    [
        ("train.gradient_checkpointing=true",),
        ("method=full", "train.gradient_accumulation_steps=3"),
        ("train.max_grad_norm=null",),
        ("+method.adapter.use_dora=true",),
        ("method.experts=4",),
        ("lora.dropout=0",),
        ("train.loss=weighted",),
        ("train.loss=focal",),
    ],
)
def test_and_with_other_settings(compose: Compose, lines: tuple[str, ...]) -> None:
    assert_equal(compose(*DECODER, "method=lora", "train.eval_batch_size=8", *lines), "fp32")


def test_and_where_texts_have_several_labels(compose: Compose) -> None:
    task = tasks.SequenceClassification(
        sets=np.eye(5, dtype=bool)[[0, 0, 3]] | np.eye(5, dtype=bool)[[1, 2, 4]]
    )
    assert_equal(compose(*DECODER, "method=lora", "train.eval_batch_size=8"), "fp32", task)


def assert_equal(config: Config, precision: str, task: tasks.Task | None = None) -> None:
    """The trace's peaks of training and evaluating are within 3 % of what torch's CPU allocator counted."""
    folder, task = weights.locate(config.model), task or tasks.SequenceClassification()
    shapes = make_shapes("cpu", precision, rows=config.train.eval_batch_size)
    recording = trace(config, shapes, task=task, folder=folder)
    traced = [find_peak(recording, {"forward", "backward", "step"}), find_peak(recording, {"eval"})]
    assert traced == pytest.approx(measure(config, precision, task, folder), rel=0.03)


def make_shapes(device_type: str, precision: str, *, rows: int) -> Shapes:
    return Shapes(device_type, precision, LENGTH, LENGTH, eval_rows=rows, labels=5, pad_token_id=0)


def find_peak(recording: Recording, phases: set[str]) -> int:
    live, held, peak = 0, {}, 0
    for event in recording.events:
        if event.size is None:
            live -= held.pop(event.number)
        else:
            held[event.number] = event.size
            live += event.size
        if event.phase in phases:
            peak = max(peak, live)
    return peak


def measure(config: Config, precision: str, task: tasks.Task, folder: Path | None) -> list[int]:
    """Peak bytes of all tensors in two real steps and in one real batch that is evaluated."""
    network = build.build(
        config, folder=folder, labels=list("abcde"), pad_token_id=0, device=CPU, precision=precision
    ).model
    training = prepare_alone(network, config, task=task, steps=2, precision=precision)
    rows = config.train.eval_batch_size

    def make_padded(rows: int) -> dict[str, torch.Tensor]:
        batch = make_batch(rows, LENGTH)
        batch["attention_mask"][0, -1] = 0
        return batch

    def train() -> None:
        training.model.train()
        for _ in range(2):
            count = config.train.gradient_accumulation_steps
            loop.take_step(training, [make_padded(config.train.micro_batch_size) for _ in range(count)])

    def evaluate() -> None:
        loop.predict(training, [(np.arange(rows), make_padded(rows))])

    held = sum({one.data_ptr(): one.nbytes() for one in storages(network)}.values())
    peak, kept = profile_memory(train)
    return [held + peak, held + kept + profile_memory(evaluate)[0]]


def storages(network: torch.nn.Module) -> list[torch.UntypedStorage]:
    tensors = [*network.parameters(), *network.buffers()]
    for weight in network.parameters():
        if (state := getattr(weight, "quant_state", None)) is not None:
            tensors += [state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code]
    return [one.untyped_storage() for one in tensors]


def profile_memory(call: Callable[[], None]) -> tuple[int, int]:
    """By torch's own allocator: the most bytes at once while calling, and those that stay."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        call()
    kineto: Any = seen.profiler
    events = [event for event in kineto.kineto_results.events() if event.name() == "[memory]"]
    live = np.cumsum([event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())])
    return int(live.max()), int(live[-1])


def test_a_run_records_what_was_predicted_of_it(compose_tiny: Compose) -> None:
    config = compose_tiny("method=lora", "train.micro_batch_size=4")
    result = run(config)
    shared = predict_all([config], "cpu")[0]
    assert isinstance(shared, Prediction)
    assert result.prediction["predicted_peak_bytes"] == shared.peak_bytes
    assert result.prediction["parts"] == shared.parts
    assert sum(shared.parts.values()) == shared.phases["train"]["peak_allocated_bytes"]
    assert result.prediction["error"] is None  # tensors are not all that is resident
    assert "prediction.error" in result.reasons
    kept = list((Path(config.cache_dir) / "predictions").iterdir())
    assert len(kept) == 1  # the run's own, found again


@pytest.mark.parametrize(("resident", "grown"), [(1300, 300), (1000, None), (900, None)])
def test_growth_is_above_where_the_process_began(resident: int, grown: int | None) -> None:
    meter = Meter(CPU)
    meter.baseline_bytes = 1000
    assert meter.peak_bytes() is None
    meter.peaks = {"train": {"peak_resident_bytes": resident}, "save": {"peak_resident_bytes": 5000}}
    assert meter.peak_bytes() == grown


@pytest.mark.parametrize("method", ["full", "lora"])
def test_what_a_run_leaves_on_the_disk_is_known_before(compose_decoder: Compose, method: str) -> None:
    every = ("train.keep=all", "train.checkpoint_steps=4", "train.max_steps=5", "train.eval_steps=2")
    config = compose_decoder("llama", f"method={method}", "lora.r=64", *every)
    [found] = predict_all([config], "cpu")
    assert isinstance(found, Prediction)
    result = run(config)
    folder = Path(config.results_dir) / "runs" / result.run_id
    [states] = folder.glob("checkpoints/*/state.safetensors")
    assert (folder / checkpoint.BEST).stat().st_size == pytest.approx(found.trained_bytes, rel=0.05)
    assert states.stat().st_size == pytest.approx(found.optimizer_bytes, rel=0.05)
    assert found.parameters == result.parameters["total"]
    assert result.prediction["paged_bytes"] == 0


def test_evaluation_costs_as_many_tokens_as_are_read(
    compose_decoder: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prompt and each stem behind it, or a prompt again for each stem."""
    flops, tokens = [], []
    for way, keeps_keys in {"once": True, "again": False}.items():
        monkeypatch.setattr(tasks, "keeps_keys", lambda _, keeps_keys=keeps_keys: keeps_keys)
        config = compose_decoder("llama", "task=label_likelihood", f"cache_dir={tmp_path}/{way}")
        [found] = predict_all([config], "cpu")
        assert isinstance(found, Prediction)
        texts = fit.tokenise(config, dataset.load(config.data), model_folder=weights.locate(config.model))
        task, lengths = texts.task, texts.splits["test"].lengths
        flops.append(found.eval_flops("test"))
        tokens.append(task.readings * sum(lengths + task.answer_tokens))
    assert tokens[1] > 1.5 * tokens[0]
    assert flops[1] / flops[0] == pytest.approx(tokens[1] / tokens[0], rel=0.15)


def test_a_few_examples_cost_about_as_much_as_none(
    compose_decoder: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where they are read once for all prompts, and not with each."""

    def count_flops(name: str, *lines: str) -> float:
        config = compose_decoder("llama", "task=label_likelihood", f"cache_dir={tmp_path}/{name}", *lines)
        [found] = predict_all([config], "cpu")
        assert isinstance(found, Prediction)
        assert count_cost(config, found, None).train == 0
        return found.eval_flops("test")

    none = count_flops("none", "method=zero_shot")
    once = count_flops("once", "method=few_shot", "method.shots=4")
    monkeypatch.setattr(tasks, "shares_examples", lambda _: False)
    again = count_flops("again", "method=few_shot", "method.shots=4")
    assert once == pytest.approx(none, rel=0.2)
    assert again > 5 * none


def test_a_run_says_why_nothing_was_predicted_of_it(compose_tiny: Compose) -> None:
    baseline = run(compose_tiny("method=majority"))
    assert (baseline.prediction, baseline.reasons["prediction"][:10]) == ({}, "a baseline")
    [unknown] = predict_all([compose_tiny("method=int8_lora")], "cuda")
    assert "outliers" in str(unknown)


@pytest.mark.slow
def test_where_the_peaks_lie_follows_from_the_settings(compose: Compose, tmp_path: Path) -> None:
    """On a card, and of a model of 596 million weights that nobody has here."""

    def predict(*lines: str) -> Prediction:
        network = ("model=qwen3-0.6b", "model.weights=random", "train.micro_batch_size=2")
        config = compose(
            *network, "train.precision=bf16", "train.eval_batch_size=2", f"cache_dir={tmp_path}", *lines
        )
        [found] = predict_all([config], "cuda")
        assert isinstance(found, Prediction)
        return found

    weights = 596_000_000
    full = predict("method=full")
    for part in ("weights", "gradients"):
        assert full.parts[part] == pytest.approx(4 * weights, rel=0.01)
    assert full.parts["optimizer"] == pytest.approx(8 * weights, rel=0.01)
    paged = predict("method=full", "train.optimizer=paged_adamw_8bit")
    assert paged.paged_bytes == pytest.approx(2 * weights, rel=0.01)
    assert paged.parts["optimizer"] == pytest.approx(8 * weights / 256, rel=0.05)  # each block's scale
    assert (paged.phases["eval"]["peak_allocated_bytes"] or 0) < 4.2 * weights
    lora = predict("method=lora")
    assert lora.parts["weights"] == pytest.approx(2 * weights, rel=0.01)
    qlora = predict("method=qlora")
    embedding = 151_936 * 1024
    assert qlora.parts["weights"] == pytest.approx(
        2 * embedding + (weights - embedding) * (0.5 + 1 / 64 + 4 / 64 / 256), rel=0.01
    )
    assert all(found.least_bytes <= found.peak_bytes for found in (full, paged, lora, qlora))


def test_what_shapes_do_not_say_is_not_guessed(compose: Compose) -> None:
    shapes = make_shapes("cuda", "bf16", rows=8)
    config = compose("model=minilm", "method=qlora", "method.quantization=int8")
    with pytest.raises(UntraceableError, match="outliers"):
        trace(config, shapes, task=tasks.SequenceClassification(), folder=weights.locate(config.model))


# huggingface/peft, method_comparison/MetaMathQA: peak bytes reserved on an L40S, in GiB. Llama-3.2-3B in bf16
# without autocast, adapters in fp32, batches of 4 texts, AdamW (foreach), gradients clipped.
ATTENTION = ["q_proj", "v_proj"]
MLP = ["gate_proj", "up_proj", "down_proj"]
PUBLISHED: dict[str, tuple[dict[str, Any] | None, float]] = {
    "lora_r64": ({"r": 64, "target_modules": ATTENTION}, 21.00),
    "dora_r32": ({"r": 32, "target_modules": ATTENTION, "use_dora": True}, 22.85),
    "lora_mlp_r10": ({"r": 10, "target_modules": MLP}, 23.00),
    "full": (None, 36.20),
}
FITTED = ({"r": 32, "target_modules": ATTENTION}, 20.76)


@pytest.fixture(scope="module")
def longest() -> int:
    """The longest batch, which is not published: what makes LoRA with r=32 come out right."""
    (short, low), (long, high) = ((length, reserve_like_peft(FITTED[0], length)) for length in (640, 768))
    return round(short + (FITTED[1] - low) / (high - low) * (long - short))


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_cards_reserved_memory_is_as_peft_published_it(name: str, longest: int) -> None:
    options, published = PUBLISHED[name]
    assert 640 < longest < 768  # their limit of tokens
    assert reserve_like_peft(options, longest) == pytest.approx(published, rel=0.05)


def reserve_like_peft(options: dict[str, Any] | None, length: int) -> float:
    """Peak GiB reserved by their script's training steps (method_comparison/MetaMathQA/run.py)."""
    settings = AutoConfig.for_model(
        "llama",
        vocab_size=128256,
        hidden_size=3072,
        intermediate_size=8192,
        num_hidden_layers=28,
        num_attention_heads=24,
        num_key_value_heads=8,
        head_dim=128,
        tie_word_embeddings=True,
    )
    with torch.device("meta"):
        network: Any = AutoModelForCausalLM.from_config(settings, dtype=torch.bfloat16)
        if options is not None:
            network = peft.get_peft_model(network, peft.LoraConfig(task_type="CAUSAL_LM", **options))
    recorder = Recorder("cuda")
    hold_weights(recorder, network, trained="adapters")
    trained = [one for one in network.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(trained, weight_decay=0.1, foreach=True)
    network.train()
    with Kernels("cuda").active(), recorder:
        for _ in range(2):
            inputs = {name: one.to("meta") for name, one in make_batch(4, length).items() if name != "labels"}
            optimizer.zero_grad()
            count = torch.tensor(4 * length)
            loss = network(**inputs, labels=inputs["input_ids"].clone(), num_items_in_batch=count).loss
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
    return max(peaks["peak_reserved_bytes"] for peaks in replay(recorder.recording.events).values()) / GIB
