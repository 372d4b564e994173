"""A run's predicted peak memory beside what was measured: the block ``prediction`` of its record."""

import dataclasses
from pathlib import Path
from typing import Any

import torch

from bench.config.cards import Card, recognise
from bench.config.schema import Config, replace_values
from bench.data.dataset import Dataset
from bench.memory import predict
from bench.memory.prediction import can_predict, count_cost, explain_unpredicted
from bench.results.store import Result
from bench.train.device import choose_precision
from bench.train.meter import Meter


def compare(result: Result, config: Config, dataset: Dataset, *, folder: Path | None, meter: Meter) -> Result:
    """Add to the record the peak memory that shapes predict, beside the measured peak."""
    if not can_predict(config):
        reasons = result.reasons | {"prediction": explain_unpredicted(config)}
        return dataclasses.replace(result, reasons=reasons)
    device = meter.device
    if device.type == "cuda":  # as a plan names it, which cannot ask the device
        precision = choose_precision(config.train.precision, device)
        config = replace_values(config, {"train.precision": precision})
    predicted = predict.predict(config, dataset, None, folder=folder, device_type=device.type)
    if isinstance(predicted, str):
        return dataclasses.replace(result, reasons=result.reasons | {"prediction": predicted})
    measured = meter.peak_bytes()
    block: dict[str, Any] = {
        "kind": "cuda_reserved" if device.type == "cuda" else "cpu_tensors",
        "target": _name_target(device),
        "predicted_peak_bytes": predicted.peak_bytes,
        "measured_peak_bytes": measured,
        "error": None,
        "phases": predicted.phases,
        "parts": predicted.parts,
        "paged_bytes": predicted.paged_bytes,
        "cost": dataclasses.asdict(count_cost(config, predicted, _recognise(device))),
    }
    reasons = dict(result.reasons)
    if measured is not None and device.type == "cuda":
        block["error"] = predicted.peak_bytes / measured - 1
    else:
        reasons["prediction.error"] = "tensors were predicted; resident memory holds what libraries keep too"
    return dataclasses.replace(result, prediction=block, reasons=reasons)


def _recognise(device: torch.device) -> Card | None:
    return recognise(torch.cuda.get_device_name(device)) if device.type == "cuda" else None


def _name_target(device: torch.device) -> str:
    """Name the device as a plan does."""
    if (card := _recognise(device)) is not None:
        return card.name
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
