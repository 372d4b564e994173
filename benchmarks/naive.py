"""One point of a grid as a reader of the article would train it: transformers.Trainer and PEFT, in fp32.

The other side of the benchmark, so it uses nothing of bench. Each point is a process of its own with cold
imports; prepare_dataset is the article's, and all that is not the grid's is transformers.Trainer's default.
"""

import time

STARTED = time.monotonic()

import argparse  # noqa: E402 (the clock starts before the imports, which are part of what a point costs)
import json  # noqa: E402
import tempfile  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import pandas as pd  # noqa: E402
from datasets import Dataset, disable_progress_bars  # noqa: E402
from peft import LoraConfig, TaskType, get_peft_model  # noqa: E402
from transformers import (  # noqa: E402
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)


def prepare_dataset(frame: pd.DataFrame, tokenizer: Any, *, max_length: int) -> Dataset:
    """The article's: each text is padded to the longest of the 1,000 that it is mapped with."""

    def tokenize(examples: dict[str, list[str]]) -> Any:
        return tokenizer(examples["text"], truncation=True, padding=True, max_length=max_length)

    return Dataset.from_pandas(frame, preserve_index=False).map(
        tokenize, batched=True, remove_columns=["text"]
    )


def make_model(folder: Path, *, labels: int, lora: dict[str, Any] | None) -> Any:
    """The model with a new head, in LoRA adapters on its queries and values or, without, trained whole."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=labels)
    if lora is None:
        return model
    settings = LoraConfig(task_type=TaskType.SEQ_CLS, target_modules=["query", "value"], **lora)
    return get_peft_model(model, settings)


def make_trainer(model: Any, train: Dataset, validation: Dataset | None, *, folder: str, **more: Any) -> Any:
    """The Trainer with its defaults but for what the grid says; it keeps the best of its evaluations."""
    evaluations = (
        {}
        if validation is None
        else {
            "eval_strategy": "steps",
            "save_strategy": "steps",
            "load_best_model_at_end": True,
            "metric_for_best_model": "accuracy",
        }
    )
    arguments = TrainingArguments(
        output_dir=folder, report_to="none", disable_tqdm=True, **evaluations, **more
    )

    def score(predicted: Any) -> dict[str, float]:
        return {"accuracy": float((predicted.predictions.argmax(-1) == predicted.label_ids).mean())}

    return Trainer(
        model=model, args=arguments, train_dataset=train, eval_dataset=validation, compute_metrics=score
    )


def train_point(given: argparse.Namespace) -> dict[str, float]:
    """Trains, picks the best evaluation and tests it: accuracy, and seconds of training alone and in all."""
    disable_progress_bars()
    set_seed(given.seed)
    frames = {split: pd.read_csv(given.data / f"{split}.csv") for split in ("train", "validation", "test")}
    tokenizer = AutoTokenizer.from_pretrained(given.model)
    sets = {
        split: prepare_dataset(frame, tokenizer, max_length=given.max_length)
        for split, frame in frames.items()
    }
    lora = {"r": given.r, "lora_alpha": given.alpha, "lora_dropout": given.dropout}
    model = make_model(given.model, labels=int(frames["train"]["label"].nunique()), lora=lora)
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(
            model,
            sets["train"],
            sets["validation"],
            folder=folder,
            max_steps=given.steps,
            per_device_train_batch_size=given.batch,
            learning_rate=given.lr,
            warmup_steps=given.warmup,
            eval_steps=given.eval_steps,
            save_steps=given.eval_steps,
            seed=given.seed,
        )
        trainer.data_collator = DataCollatorWithPadding(tokenizer)  # two of the 1,000s may be of two lengths
        evaluating = time_calls(trainer, "evaluate")
        begun = time.monotonic()
        trainer.train()
        train_seconds = time.monotonic() - begun - sum(evaluating)
        accuracy = trainer.evaluate(sets["test"])["eval_accuracy"]
    tokens = len(sets["train"][0]["input_ids"]) * given.batch * given.steps
    return {
        "accuracy": accuracy,
        "train_seconds": train_seconds,
        "total_seconds": time.monotonic() - STARTED,
        "padded_tokens": tokens,
    }


def time_calls(owner: Any, name: str) -> list[float]:
    """A list that gets the seconds of each further call of the method."""
    call, seconds = getattr(owner, name), []

    def timed(*arguments: Any, **more: Any) -> Any:
        begun = time.monotonic()
        try:
            return call(*arguments, **more)
        finally:
            seconds.append(time.monotonic() - begun)

    setattr(owner, name, timed)
    return seconds


def parse() -> argparse.Namespace:
    """The point and what it shares with the others."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "data"):
        parser.add_argument(f"--{name}", type=Path, required=True, help="a folder")
    for name in ("steps", "batch", "warmup", "eval-steps", "max-length", "seed", "r"):
        parser.add_argument(f"--{name}", type=int, required=True)
    for name in ("lr", "alpha", "dropout"):
        parser.add_argument(f"--{name}", type=float, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    print(json.dumps(train_point(parse())))
