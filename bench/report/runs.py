"""runs.csv: every run with everything a spreadsheet user may want, in bytes, seconds and joules.

Its columns are names for machines, the same in every language. Hyperparameters are those that count for the
run: a cell is empty where the value cannot matter (r of full fine-tuning) or is unknown.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from bench.config.schema import METRICS
from bench.report.cells import to_csv
from bench.results.selection import read_place, read_seed, read_value, split_path
from bench.results.store import Result

_MEMORY = ("peak_allocated_bytes", "peak_reserved_bytes", "peak_resident_bytes", "nvml_peak_bytes")
# column -> dotted path in the record; these are there only where a run has such a value
_WHERE_SET = {
    "fold": "canonical_config.data.fold",
    "held_out": "canonical_config.data.held_out",
    "long_texts": "canonical_config.data.long_texts",
    "task": "canonical_config.task",
    "loss": "canonical_config.train.loss",
    "shots": "canonical_config.method.shots",
    "loraplus_lr_ratio": "canonical_config.method.loraplus_lr_ratio",
    "experts": "canonical_config.method.experts",
    "update": "canonical_config.method.update",
    "replay": "canonical_config.method.replay",
    "teacher": "canonical_config.teacher",
    "teacher_weight": "canonical_config.distillation.weight",
    "teacher_temperature": "canonical_config.distillation.temperature",
}
# column -> dotted path in the record
_COLUMNS = {
    "run_id": "run_id",
    "status": "status",
    "attempt": "attempt",
    "phase": "phase",
    "method": "config.method.name",
    "title": "config.method.title",
    "data": "config.data.name",
    "model": "config.model.name",
    "weights": "config.model.weights",
    "data_fingerprint": "canonical_config.data.fingerprint",
    "model_revision": "canonical_config.model.revision",
    "seed": "canonical_config.seed",
    "select_by": "config.sweep.select_by",
    "estimator": "canonical_config.method.estimator",
    "trainable": "canonical_config.method.trainable",
    "quantization": "canonical_config.method.quantization",
    "double_quant": "canonical_config.method.double_quant",
    "adapter": "canonical_config.method.adapter",
    "r": "canonical_config.lora.r",
    "alpha": "canonical_config.lora.alpha",
    "dropout": "canonical_config.lora.dropout",
    "target_modules": "canonical_config.lora.target_modules",
    **_WHERE_SET,
    "lr": "canonical_config.train.lr",
    "max_steps": "canonical_config.train.max_steps",
    "epochs": "canonical_config.train.epochs",
    "stop_step": "canonical_config.train.stop_step",
    "warmup_steps": "canonical_config.train.warmup_steps",
    "weight_decay": "canonical_config.train.weight_decay",
    "max_grad_norm": "canonical_config.train.max_grad_norm",
    "micro_batch_size": "canonical_config.train.micro_batch_size",
    "gradient_accumulation_steps": "canonical_config.train.gradient_accumulation_steps",
    "max_length": "canonical_config.train.max_length",
    "precision": "canonical_config.train.precision",
    "optimizer": "canonical_config.train.optimizer",
    "gradient_checkpointing": "canonical_config.train.gradient_checkpointing",
    "group_by_length": "canonical_config.train.group_by_length",
    "eval_steps": "canonical_config.train.eval_steps",
    "oom_halvings": "config.oom_halvings",
    "steps": "model.steps",
    "best_step": "model.best_step",
    "resumed_from_step": "model.resumed_from_step",
    "packed": "packed.size",
    "pack_peak_bytes": "packed.pack_peak_bytes",
    "pack_seconds": "packed.pack_seconds",
    "architecture": "model.architecture",
    "attention": "model.attention",
    "train_texts": "data.sizes.train",
    "validation_texts": "data.sizes.validation",
    "test_texts": "data.sizes.test",
    "truncated_share": "data.truncated_share",
    "duplicate_rows_across_splits": "data.duplicate_rows_across_splits",
    "conflicting_labels": "data.conflicting_labels",
    **{f"{split}_{name}": f"metrics.{split}.{name}" for split in ("validation", "test") for name in METRICS},
    "memory_kind": "memory.kind",
    "baseline_bytes": "memory.baseline_bytes",
    **{
        f"{phase}_{name}": f"memory.{phase}.{name}" for phase in ("load", "train", "eval") for name in _MEMORY
    },
    "train_paged_bytes": "memory.train.paged_bytes",
    "load_seconds": "time.load_seconds",
    "train_seconds": "time.train_seconds",
    "eval_seconds": "time.eval_seconds",
    "total_seconds": "time.total_seconds",
    "tokens_per_second": "throughput.tokens_per_second",
    "samples_per_second": "throughput.samples_per_second",
    "energy_joules": "energy.joules",
    "trainable_parameters": "parameters.trainable",
    "total_parameters": "parameters.total",
    "started_at": "started_at",
    "ended_at": "ended_at",
    "error_type": "error.type",
    "error_message": "error.message",
    "error_signal": "error.signal",
    "error_exit_code": "error.exit_code",
    "devices": "config.devices",
    "gpu": "provenance.hardware.gpu",
    "gpu_memory_bytes": "provenance.hardware.gpu_memory_bytes",
    "cpu": "provenance.hardware.cpu",
    "cores": "provenance.hardware.cores",
    "driver": "provenance.driver",
    "python": "provenance.python",
    "torch": "provenance.packages.torch",
    "git_commit": "provenance.git_commit",
    "git_dirty": "provenance.git_dirty",
    "wandb_run_id": "tracking.wandb_run_id",
}
_PLACES = {column: split_path(path) for column, path in _COLUMNS.items()}
# what a run made of a setting such as auto, where its record says so
_CHOSEN = {"target_modules": "model.target_modules", "precision": "model.precision"}


def render_runs(results: Iterable[Result]) -> str:
    """Write a row per run, by data, model, method and run_id; folders are relative to the results folder."""
    results = list(results)
    unset = {
        name for name in _WHERE_SET if all(read_place(result, _PLACES[name]) is None for result in results)
    }
    names = [name for name in _COLUMNS if name not in unset]
    rows = [[*_read(result, names), f"runs/{result.run_id}"] for result in results]
    order = [names.index(name) for name in ("data", "model", "method", "run_id")]
    rows.sort(key=lambda row: [str(row[index]) for index in order])
    return to_csv([*names, "folder"], rows)


def _read(result: Result, names: Sequence[str]) -> list[Any]:
    """Return the run's values of these columns, in their order."""
    values = {column: read_place(result, _PLACES[column]) for column in names}
    values["seed"] = read_seed(result)
    for column, path in _CHOSEN.items():
        chosen = read_value(result, path)
        values[column] = values[column] if chosen is None else chosen
    return list(values.values())
