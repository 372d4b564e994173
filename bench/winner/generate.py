"""What a causal model writes after its run's prompt: the article's optimized_inference, with keys kept."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import set_seed

from bench.data import tokens
from bench.data.sources import Text
from bench.errors import ConfigError
from bench.winner.classifier import Classifier


def generate(
    classifier: Classifier,
    texts: Sequence[Text],
    *,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
    batch_size: int,
) -> list[str]:
    """Return what the model goes on to write after each text in the run's template.

    A temperature of 0 takes the likeliest token each time; above it tokens are drawn, from the likeliest that
    together have the probability ``top_p``. Keys and values of what was read are kept, so that each new token
    costs one step.

    Raises:
        ConfigError: the run trained a head, which writes nothing.
        DataError: a text is empty.
    """
    if classifier.manifest.prompt is None:
        raise ConfigError(
            f"{classifier.manifest.run_id} ({classifier.manifest.method}): was trained with a head that "
            "classifies and writes nothing; use `bench classify`, or train with task=label_likelihood"
        )
    if classifier.manifest.members:
        raise ConfigError(
            f"{classifier.manifest.run_id}: several seeds have a mean of probabilities, but no text that "
            "they write together; name one of them, the folder DIR/SEED or its run_id"
        )
    if classifier.manifest.long_texts == "windows":
        raise ConfigError(
            f"{classifier.manifest.run_id}: reads long texts in windows (data.long_texts=windows); scores "
            "can be averaged, and what is written cannot; use `bench classify`"
        )
    split = classifier.tokenise(texts)
    network: Any = classifier.model
    sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
    written = [""] * len(texts)
    set_seed(seed)
    with torch.inference_mode(), classifier.autocast():
        for rows, batch in tokens.eval_batches(split, batch_size=batch_size, padding=classifier.padding):
            inputs = {name: value.to(classifier.device) for name, value in batch.items() if name != "labels"}
            sequences = network.generate(
                **inputs,
                max_new_tokens=max_new_tokens,
                use_cache=True,
                pad_token_id=classifier.padding.token_id,
                eos_token_id=classifier.tokenizer.eos_token_id,
                **(sampling if temperature > 0 else {"do_sample": False}),
            )
            new = sequences[:, inputs["input_ids"].shape[1] :]
            for row, text in zip(
                rows, classifier.tokenizer.batch_decode(new, skip_special_tokens=True), strict=True
            ):
                written[int(row)] = text
    return written
