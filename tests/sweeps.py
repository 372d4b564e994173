"""A stand-in for the launcher of a sweep, and the records that its runs leave."""

import dataclasses
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd

from bench.config.pack import describe_pack
from bench.config.schema import Config
from bench.results.store import STARTED, Result, Store, start_record
from bench.sweep.isolate import ProcessError
from bench.sweep.packing import Pack
from bench.sweep.plan import Axes, Point
from bench.train.checkpoint import BEST, FOLDER

Compose = Callable[..., Config]
METHODS = ["majority", "full", "lora"]
GRID: Axes = {"method": METHODS, "lora.r": [8, 16]}  # 4 distinct runs of 6 combinations
RANKS: Axes = {"method": ["full", "lora"], "lora.r": [2, 4, 8, 16]}  # one run of full, four of lora


@dataclasses.dataclass
class Trainer:
    """Stands in for the launcher: a record instead of a training, and what was asked for."""

    store: Store
    status: Callable[[Point], str | None] = lambda _: "success"  # None: the process vanished at once
    death: str | None = None
    end_pack: Callable[[Pack], str | None] = lambda _: "success"  # of all runs of one with several
    worse_alone: int = 0  # the rank whose score is worse once it trains alone
    sure: Callable[[Point], float] | None = (
        None  # how sure a stopped run is of the truth; None: it keeps no word
    )
    seconds: Callable[[Point], float] = lambda _: 0.0  # that a run takes alone; in a pack it takes half
    now: float = 0.0  # on the sweep's clock
    jobs: list[list[Point]] = dataclasses.field(default_factory=list)
    sizes: list[list[int]] = dataclasses.field(default_factory=list)  # of the packs of each launch
    extra: list[str] = dataclasses.field(default_factory=list)

    def __call__(self, jobs: Sequence[tuple[Pack, Sequence[str]]]) -> list[Exception | None]:
        self.jobs.append([point for pack, _ in jobs for point in pack])
        self.sizes.append([len(pack) for pack, _ in jobs])
        self.extra = list(jobs[-1][1])
        return [self.train(pack) for pack, _ in jobs]

    def train(self, pack: Pack) -> Exception | None:
        whole = self.end_pack(pack) if len(pack) > 1 else "success"
        took = sum(map(self.seconds, pack)) / min(2, len(pack))
        self.now += took
        statuses = [self.status(point) if whole == "success" else whole for point in pack]
        for point, status in zip(pack, statuses, strict=True):
            if status is not None:
                found = self.store.read(point.run_id)
                made = record(point, status, earlier=found, seconds=took)
                if len(pack) == 1 and point.config.lora.r == self.worse_alone:
                    made.metrics["validation"]["accuracy"] = 0.0
                packed = describe_pack(len(pack)) if len(pack) > 1 else None
                self.store.write(dataclasses.replace(made, packed=packed))
                leave_weights(self.store, point)
                if self.sure is not None and point.config.train.stop_step is not None:
                    self.store.write_predictions(point.run_id, predict(self.sure(point)))
        dead = None if self.death is None else ProcessError(self.death, status="crashed")
        return dead if set(statuses) & {None, STARTED} else None

    @property
    def trained(self) -> list[str]:
        return [describe(point) for job in self.jobs for point in job]


def leave_weights(store: Store, point: Point) -> None:
    """What a run leaves beside its record: weights, and of a rung of halving a checkpoint."""
    folder = store.run_folder(point.run_id)
    (folder / BEST).write_bytes(b"weights")
    if point.config.train.stop_step is not None:
        (folder / FOLDER / f"step-{point.config.train.stop_step:06d}").mkdir(parents=True, exist_ok=True)


def predict(sure: float) -> pd.DataFrame:
    """Predictions of 40 texts whose true label has about this probability."""
    random = np.random.default_rng(int(1000 * sure))
    true = (sure + 0.02 * random.standard_normal(40)).clip(0.01, 0.99)
    texts = {"split": "validation", "id": range(40), "label": "a", "prediction": "a"}
    return pd.DataFrame({**texts, "probability_a": true, "probability_b": 1 - true})


BEGUN = datetime(2026, 1, 1, tzinfo=UTC)


def record(point: Point, status: str, *, earlier: Result | None = None, seconds: float = 0.0) -> Result:
    """What a run leaves: r=16 is better than r=8 on validation, and seed 1 worse on test."""
    accuracy = point.config.lora.r / 100
    scores = {"accuracy": accuracy, "f1_macro": 1 - accuracy, "loss": 0.5}
    return dataclasses.replace(
        start_record(point.config, point.identity, earlier=earlier),
        status=status,
        phase="save",
        started_at=BEGUN.isoformat(timespec="milliseconds"),
        ended_at=(BEGUN + timedelta(seconds=seconds)).isoformat() if seconds else None,
        metrics={"validation": scores, "test": scores} if status == "success" else {},
    )


def describe(point: Point) -> str:
    return f"{point.config.method.name} {point.config.lora.r} {point.config.seed}"
