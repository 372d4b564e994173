"""Records as runs leave them, for tests of what is made from records."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from hydra import compose, initialize_config_dir

from bench.config.identity import hash_canonical
from bench.config.reporting import ReportConfig
from bench.config.schema import CONF_DIR, TRAINED, from_hydra, register_schema
from bench.errors import StoreError
from bench.report.across.choices import list_choices
from bench.report.across.curve import draw_curves
from bench.report.across.groups import part_sizes
from bench.report.across.multitask import compare_strategies
from bench.report.across.updates import gather_updates
from bench.report.blocks import write_markdown
from bench.report.language.text import Text
from bench.report.numbers.columns import add_columns
from bench.report.numbers.comparison import Known, compare_methods
from bench.report.numbers.evidence import Evidence
from bench.report.numbers.rows import build_rows
from bench.report.table import describe_all
from bench.results.store import Result, Store

TEST_SIZE = 400
CARD = "NVIDIA GeForce RTX 4090"

METHODS: dict[str, dict[str, Any]] = {
    "majority": {"title": "Majority class", "estimator": "majority", "trainable": "head"},
    "zero_shot": {"title": "Zero-shot", "estimator": "zero_shot", "trainable": "head"},
    "few_shot": {"title": "Few-shot", "estimator": "few_shot", "trainable": "head"},
    "tfidf": {"title": "TF-IDF", "estimator": "tfidf", "trainable": "head"},
    "head": {"title": "Frozen encoder", "estimator": "frozen_encoder", "trainable": "head"},
    "setfit": {"title": "SetFit", "estimator": "setfit", "trainable": "all"},
    "full": {"title": "Full fine-tuning", "trainable": "all"},
    "lora": {"title": "LoRA"},
    "qlora": {"title": "QLoRA", "quantization": "nf4"},
    "dora": {"title": "DoRA", "adapter": {"peft_type": "LORA", "use_dora": True}},
}


def _read_report() -> ReportConfig:
    """The report's own settings, as conf/report has them."""
    register_schema()
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return from_hydra(compose("config")).report


NO_PRICES = _read_report()


def make_run(
    method: str = "lora",
    *,
    status: str = "success",
    seed: int = 0,
    r: int = 8,
    lr: float = 1e-3,
    max_length: int = 64,
    validation: float = 0.85,
    test: float | None = 0.885,
    train_seconds: float | None = 12.34,
    peak: int | None = 2**30,
    kind: str | None = "cpu_resident",
    data: str = "d1",
    revision: str = "m1",
    error: dict[str, Any] | None = None,
    reasons: dict[str, str] | None = None,
    names: dict[str, str] | None = None,
    weights: str = "saved",
    trainable: int = 73_728,
    total: int = 22_787_072,
    hardware: str | None = CARD,
) -> Result:
    """A record as a run leaves it, with the fields that count for the method."""
    names = {"data": "headlines", "model": "minilm"} | (names or {})
    full = {"name": method, "estimator": "network", "trainable": "adapter", "quantization": "none"}
    full |= {"adapter": {"peft_type": "LORA"}} | METHODS[method]
    full["title"] = names.get("title", full["title"])
    lora = {"r": r, "alpha": 16, "dropout": 0.05, "target_modules": "auto"}
    train = {"lr": lr, "max_steps": 300, "max_length": max_length}
    counted = {name: full[name] for name in ("estimator", "trainable", "quantization")}
    canonical: dict[str, Any] = {"method": counted, "data": {"fingerprint": data}}
    varied = {name: {"train": train, "seed": seed} for name in TRAINED} | {"few_shot": {"seed": seed}}
    canonical |= varied.get(full["estimator"], {})
    if full["trainable"] == "adapter":
        counted["adapter"] = full["adapter"]
        canonical["lora"] = lora
    if full["estimator"] not in ("majority", "tfidf"):
        canonical["model"] = {"revision": revision}
    peak_name = "peak_reserved_bytes" if kind == "cuda" else "peak_resident_bytes"
    success = status == "success"
    return Result(
        run_id=hash_canonical(canonical),
        status=status,
        attempt=1,
        phase="save",
        started_at="2026-01-01T00:00:00.000+00:00",
        ended_at=None,
        config={
            "method": full,
            "lora": lora,
            "train": train,
            "seed": seed,
            "data": {"name": names["data"]},
            "model": {"name": names["model"], "weights": weights},
            "sweep": {"select_by": "accuracy"},
        },
        canonical_config=canonical,
        labels=["a", "b", "c"],
        metrics={
            "validation": {"accuracy": validation, "f1_macro": validation, "loss": 0.5},
            "test": {"accuracy": test, "f1_macro": test, "loss": 0.5},
        }
        if success
        else {},
        memory={"kind": kind, "train": {peak_name: peak}} if kind else {},
        time={"train_seconds": train_seconds} if success else {},
        parameters={"trainable": trainable, "total": total} if success else {},
        data={"sizes": {"train": 1296, "validation": 400, "test": TEST_SIZE}},
        provenance={"hardware": {"gpu": hardware}} if hardware else {},
        error=error,
        reasons=reasons or {},
    )


_COUNTS = {"validation": {"a": 200, "b": 200}, "test": {"a": 200, "b": 200}}


def make_sized_run(size: int | None, method: str = "lora", *, rows: int | None = None, **more: Any) -> Result:
    """A run on so many train texts, all other texts the same."""
    data, split_seed = more.pop("data", f"size{size}"), more.pop("split_seed", 0)
    run = make_run(method, data=data, **more)
    run.config["data"] |= {"train_size": size, "split_seed": split_seed, "validation_size": 0.2}
    sizes = {"train": rows or size, "validation": 400, "test": 400}
    found: Mapping[str, Any] = {"sizes": sizes, "label_counts": _COUNTS} if run.status == "success" else {}
    return replace(run, data=dict(found))


def make_predictions(result: Result, *, rows: int = TEST_SIZE) -> pd.DataFrame:
    """Predictions as a run leaves them, as accurate as its record says; its id decides which are right."""
    accuracy = result.metrics["test"]["accuracy"] or 0.0
    random = np.random.default_rng(int(result.run_id, 16))
    labels = np.arange(rows) % len(result.labels)
    right = random.permutation(rows) < round(accuracy * rows)
    predicted = np.where(right, labels, (labels + 1) % len(result.labels))
    names = np.array(result.labels, dtype=object)
    return pd.DataFrame(
        {"split": "test", "id": range(rows), "label": names[labels], "prediction": names[predicted]}
    )


def make_probabilities(result: Result, *, rows: int = TEST_SIZE, sureness: float = 1.0) -> pd.DataFrame:
    """Predictions of validation and test with probabilities, as accurate as the record says on both.

    Right answers are surer than wrong ones, and all the more with a higher sureness.
    """
    frames = []
    for number, split in enumerate(("validation", "test")):
        frame = make_predictions(result, rows=rows).assign(split=split)
        random = np.random.default_rng([number, int(result.run_id, 16)])
        right = (frame["label"] == frame["prediction"]).to_numpy()
        logits = random.normal(size=(rows, len(result.labels)))
        places = frame["prediction"].map({label: place for place, label in enumerate(result.labels)})
        logits[np.arange(rows), places] = logits.max(axis=1) + 3 * random.random(rows) * np.where(
            right, 1.5, 0.5
        )
        powers = np.exp(sureness * logits)
        names = [f"probability_{label}" for label in result.labels]
        values = pd.DataFrame(powers / powers.sum(axis=1, keepdims=True), columns=names)
        frames.append(frame.join(values))
    return pd.concat(frames, ignore_index=True)


def write_runs(store: Store, count: int) -> None:
    """So many records of three methods, some of them without a success, and the predictions of the best."""
    for number in range(count):
        run = make_run(
            ("lora", "qlora", "dora")[number % 3],
            r=4 + number // 100,
            lr=1e-5 * (1 + number % 100),
            validation=0.5 + number % 397 / 1000,
            status="oom" if number % 50 == 0 else "success",
        )
        store.write(run)
        if run.status == "success" and run.metrics["validation"]["accuracy"] > 0.89:
            store.write_predictions(run.run_id, make_predictions(run))


def make_evidence(
    results: Sequence[Result],
    *,
    bad: Sequence[tuple[str, str]] = (),
    predictions: Mapping[str, pd.DataFrame] | None = None,
    report: ReportConfig = NO_PRICES,
) -> Evidence:
    """What a report is made from, without a folder; predictions by run_id stand in for those made up."""
    by_id = {one.run_id: one for one in results}

    def read(run_id: str) -> pd.DataFrame:
        if predictions is None:
            return make_predictions(by_id[run_id])
        if run_id not in predictions:
            raise StoreError(f"runs/{run_id}/predictions.csv: No such file")
        return predictions[run_id]

    scored: Known = {}
    every_row, comparisons, left_out = compare_methods(
        add_columns(build_rows(results), report.columns, read), read, delta=report.delta, known=scored
    )
    rows, smaller = part_sizes(every_row)
    return Evidence(
        results=results,
        bad=bad,
        rows=rows,
        comparisons=comparisons,
        left_out=left_out,
        report=report,
        imported=(),
        bad_imported=(),
        latencies=(),
        curves=draw_curves(every_row, scored),
        choices=list_choices(results, report.columns, read),
        multitask=compare_strategies(every_row, read, delta=report.delta),
        smaller=smaller,
        updates=gather_updates(rows, read),
    )


def render_markdown(evidence: Evidence, *, text: Text) -> str:
    """table.md without figures."""
    return write_markdown(describe_all(evidence, text=text))


def make_peft() -> dict[str, Any]:
    """A result as PEFT's method_comparison writes it, with made-up numbers."""
    return {
        "run_info": {
            "created_at": "2026-01-01T00:00:00+00:00",
            "total_time": 2000.5,
            "experiment_name": "lora/tiny-rank8",
            "train_config": {
                "model_id": "example/Tiny-1B",
                "batch_size": 4,
                "max_steps": 500,
                "seed": 0,
                "optimizer_kwargs": {"lr": 0.0001, "weight_decay": 0.1},
            },
            "peft_config": {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "lora_dropout": 0.05},
            "error_msg": "",
        },
        "train_info": {
            "accelerator_memory_reserved_avg": 8 * 2**30,
            "accelerator_memory_max": 12 * 2**30,
            "train_time": 1800.5,
            "num_trainable_params": 1000,
            "num_total_params": 1_000_000,
            "status": "success",
            "metrics": [
                {"step": 250, "valid accuracy": 0.52, "train loss": 0.9},
                {"step": 500, "valid accuracy": 0.5, "train loss": 0.7},
                {"step": 500, "test accuracy": 0.48, "train loss": 0.7, "forgetting": 0.1},
            ],
        },
        "meta_info": {
            "dataset_info": {"words": {"sha": "a"}, "sums": {"sha": "b"}},
            "system_info": {"system": "Linux", "accelerator": "NVIDIA L40S"},
        },
    }
