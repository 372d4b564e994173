"""Which runs can train together in one process, over one frozen base that they share. Knows no torch."""

import json

from bench.config import fields
from bench.config.fields import list_marked
from bench.config.identity import UNCOUNTED, draws_texts, is_stream, uses_lora
from bench.config.schema import Config, MethodConfig, read_field, to_dict

OWN = list_marked(Config, fields.OWN)  # what each member of a pack has for itself
_UNSEEN = tuple(path for path in UNCOUNTED if path.startswith("method."))  # change nothing of a training
# What a member must be: (field, value, why anything else cannot share a pack).
_REQUIRED = (
    ("train.distributed", "none", "its processes train one run"),
    ("train.optimizer_in_backward", False, "it has no moment at which a run's gradients are complete"),
    ("train.stochastic_rounding", False, "it works on weights that are held apart"),
)
_PLAIN = {"peft_type", "target_modules", "use_rslora", "init_lora_weights"}  # options of LoRA without more
_STARTS = (True, "gaussian")  # drawn, so that the base stays as it is


def cannot_pack(config: Config) -> str | None:
    """Say why the run has to train alone, or return None if it can be a member of a pack."""
    if config.method.distils:
        return "its texts have a teacher's probabilities, and a pack's batches have labels alone"
    if not uses_lora(config.method):
        return "only LoRA's matrices are batched over the members of a pack"
    if is_stream(config.data):
        return "a stream is several trainings, one after the other"
    if config.method.experts is not None:
        return f"method.experts={config.method.experts}: gates are not batched over the members of a pack"
    if (option := find_variant(config.method)) is not None:
        return f"{option}: a pack has plain LoRA alone, over a base that stays as it is"
    for field, value, reason in _REQUIRED:
        if (given := read_field(config, field)) != value:
            return f"{field}={given}: {reason}"
    return None


def find_variant(method: MethodConfig) -> str | None:
    """Return the option that makes the adapter more than LoRA's A and B beside a base that stays as it is."""
    options = method.adapter
    unlike = sorted(set(options) - _PLAIN)
    if options.get("init_lora_weights", True) not in _STARTS:
        unlike.append("init_lora_weights")
    return f"method.adapter.{unlike[0]}={options[unlike[0]]}" if unlike else None


def list_own(config: Config) -> list[str]:
    """List the fields in which runs like this one may differ in a pack: OWN, except where one decides more.

    A seed decides base weights that are random. The number of texts decides the steps of epochs, and folds
    may differ by a text, drawn texts by their windows; of the generated texts, which may be one of several
    tasks, it also decides which ones are evaluated.
    """
    counts = config.train.epochs is not None
    windows = counts and config.data.long_texts == "windows" and draws_texts(config.data)
    shared = {
        "seed": config.model.weights == "random" or windows,
        "data.train_size": counts or config.data.source in ("finance8_synthetic", "tasks"),
        "data.fold": counts,
        "data.held_out": counts,
    }
    return [path for path in OWN if not shared.get(path)]


def shared_key(config: Config) -> str:
    """Write what members of one pack have in common: two runs can be in one exactly if theirs is equal.

    That is all but ``list_own``: the base weights, the texts that are tested, the steps, the batch.
    """
    values = to_dict(config, without=[*list_own(config), *_UNSEEN])
    return json.dumps(values, sort_keys=True, ensure_ascii=False)
