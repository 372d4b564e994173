"""Results folders as sweeps leave them, for tests of the report: records, predictions and histories."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from records import make_predictions, make_run

from bench.results.store import Result, Store

HOSTILE = '</script><script>window.pwned=1</script><img src=x onerror="window.pwned=1">'
HOSTILE_LABELS = [HOSTILE, "javascript:alert(1)", "]]>{{x}} \u202e${y} a | b <!--"]
GIB = 2**30


def write_results(folder: Path, runs: Sequence[Result]) -> Store:
    """The runs with all that they leave behind, their success provided."""
    store = Store(folder)
    store.prepare()
    (folder / "runs").mkdir(exist_ok=True)
    for run in runs:
        store.write(run)
        if run.status == "success":
            store.write_predictions(run.run_id, make_predictions(run))
            noise = random.Random(run.run_id)
            rows = [
                {"step": step, "loss": 2 / (1 + step / 50) + noise.random() / 10}
                for step in range(10, 310, 10)
            ]
            rows += [{"step": step, "validation_accuracy": 0.8 + step / 3000} for step in range(50, 301, 50)]
            store.write_history(run.run_id, sorted(rows, key=lambda row: row["step"]))
    return store


def make_sweep() -> list[Result]:
    """Baselines, methods with seeds and a grid, one that never fitted, and a configuration that failed."""
    runs = [
        make_run("majority", test=0.25, peak=GIB // 2, train_seconds=0.001),
        make_run("tfidf", test=0.7975, peak=GIB // 2, train_seconds=1.5),
        *(
            make_run("full", seed=seed, test=0.8775, lr=5e-5, peak=2 * GIB, train_seconds=30)
            for seed in range(3)
        ),
        make_run("dora", status="oom", error={"type": "OutOfMemoryError", "message": "CUDA out of memory"}),
        make_run(
            "qlora", r=32, status="diverged", error={"type": "RunError", "message": "loss is nan at step 12"}
        ),
    ]
    for r in (8, 16):
        for lr in (1e-3, 3e-3):
            score = 0.8 + r / 1000 + lr
            runs.append(make_run("lora", r=r, lr=lr, validation=score, test=0.87))
            runs.append(
                make_run("qlora", r=r, lr=lr, validation=score + 0.01, test=0.8675, peak=GIB * 3 // 4)
            )
    runs += [make_run("lora", r=16, lr=3e-3, seed=seed, validation=0.8, test=0.865) for seed in (1, 2)]
    return runs


def make_hostile() -> list[Result]:
    """Runs whose every text wants to be more than text."""
    names = {"title": HOSTILE, "data": HOSTILE, "model": HOSTILE}
    other = names | {"title": "{{7*7}} =1+1 [x](javascript:alert(1)) `x` " + HOSTILE}
    runs = [
        *(make_run("lora", names=names, r=r, reasons={"memory.load": HOSTILE}) for r in (8, 16)),
        make_run("qlora", names=other, peak=GIB // 2),
        make_run("full", names=names, status="failed", error={"type": HOSTILE, "message": HOSTILE * 2}),
        make_run("dora", names=names, peak=None, train_seconds=None, reasons={"memory.train": HOSTILE}),
    ]
    for run in runs:
        run.config["method"]["name"] += HOSTILE
        run.provenance["hardware"] = {"gpu": HOSTILE, HOSTILE: HOSTILE}
    return [replace(run, labels=HOSTILE_LABELS) for run in runs]
