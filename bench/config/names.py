"""Names for what people know by others: settings of other tools, models of the hub, files of texts."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from bench.spelling import guess

_MODEL = "model=hub model.hub_id=OWNER/NAME or model=local model.path=DIR"
_TEXTS = "data=files data.train=FILE or data=hub data.hub_id=OWNER/NAME"
# Names that transformers, PEFT, TRL, Axolotl, LLaMA-Factory and lm-evaluation-harness give to settings.
_ELSEWHERE = {
    "learning_rate": "train.lr",
    "per_device_train_batch_size": "train.micro_batch_size",
    "train_batch_size": "train.micro_batch_size",
    "per_device_eval_batch_size": "train.eval_batch_size",
    "num_train_epochs": "train.epochs (with train.max_steps=null)",
    "num_epochs": "train.epochs (with train.max_steps=null)",
    "warmup_ratio": "train.warmup_steps, which counts steps",
    "max_seq_length": "train.max_length",
    "max_seq_len": "train.max_length",
    "cutoff_len": "train.max_length",
    "lora_rank": "lora.r",
    "rank": "lora.r",
    "lora_target": "lora.target_modules",
    "bf16": "train.precision=bf16",
    "fp16": "train.precision=fp16",
    "optim": "train.optimizer",
    "class_weight": "train.loss=weighted",
    "class_weights": "train.loss=weighted",
    "focal_loss": "train.loss=focal",
    "attn_implementation": "train.attention",
    "logging_steps": "train.log_steps",
    "save_steps": "train.checkpoint_steps",
    "resume_from_checkpoint": "resume_from",
    "output_dir": "results_dir",
    "report_to": "track.mode",
    "wandb_project": "track.project",
    "load_in_4bit": "method=qlora",
    "load_in_8bit": "method=int8_lora",
    "num_fewshot": "method.shots (with method=few_shot)",
    "use_dora": "method=dora",
    "use_rslora": "method=rslora",
    "model_name_or_path": _MODEL,
    "base_model": _MODEL,
    "model_id": _MODEL,
    "dataset": _TEXTS,
    "dataset_name": _TEXTS,
    "train_file": _TEXTS,
}
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+", re.ASCII)
_TEXT_FILES = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".xlsx", ".gz")


def suggest_setting(key: str, known: Sequence[str]) -> str:
    """Suggest bench's own name for an unknown setting, as ``; did you mean X?``, or return an empty text."""
    own = _ELSEWHERE.get(key.rpartition(".")[2].lower())
    return f"; did you mean {own}?" if own else guess(key, known)


def suggest_option(group: str, name: str, options: Sequence[str]) -> str:
    """Suggest a close option of a group, or the overrides that take a hub's name, a folder or a file."""
    given = shlex.quote(name)
    if group == "data" and name.lower().endswith(_TEXT_FILES):
        return f"; for a file of texts: data=files data.train={given};"
    if group == "model" and (name.startswith((".", "/", "~")) or Path(name).is_dir()):
        return f"; for a folder: model=local model.path={given};"
    if group in ("model", "data") and _HUB_ID.fullmatch(name):
        return f"; from the hub: {group}=hub {group}.hub_id={given};"
    return guess(name, options)
