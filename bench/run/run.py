"""One run, from a configuration to a record on disk: read this file first.

Importing this module is quick: torch is imported once the configuration is known to be right.
"""

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.config.schema import Config
from bench.results.store import Result, Store
from bench.run import driver
from bench.run.preparation import ASIDE, adapt, is_done, prepare
from bench.run.tracking import wandb_run as tracking
from bench.train import checkpoint


def run(config: Config) -> Result:
    """Train and measure one configuration; return its record, which is on disk, whatever happened.

    Raises:
        As run_all, of which this is the first record.
    """
    return run_all(config)[0]


def run_all(config: Config) -> list[Result]:
    """Train a configuration and, in the same process, those of its ``pack``; return the record of each.

    A run that has a success already is not trained again.

    Raises:
        ConfigError, DataError, MissingError: something is wrong or not there; nothing was written.
        StoreError: the results folder cannot be written, or another process has this run.
        KeyboardInterrupt: after the record says ``interrupted``.
    """
    prepared = prepare(config)  # configuration checked, texts loaded, model found
    driver.take(config.devices, config.train.processes)  # before torch is imported and looks at the cards
    from bench.run import fitting, journal, record

    device = fitting.require_device(adapt(config)[0])
    mode = tracking.decide(config.track)
    store = Store(Path(config.results_dir))
    store.prepare()
    with claim_all(prepared.ids, store):
        done = find_done(prepared.ids, store)
        if (due := prepared.leave_out(done)).members:
            opened = journal.open_all(due, store, device=device, mode=mode)
            with record.end_unfinished(due.ids, store), opened as journals:
                ends = fitting.fit_all(journals, due, store)  # tokens, weights, training, evaluation
                done |= record.record_all(journals, ends, due, store)  # scores, memory, time; the record
        return [done[run_id] for run_id in prepared.ids]


@contextlib.contextmanager
def claim_all(run_ids: Sequence[str], store: Store) -> Iterator[None]:
    """Hold all these runs.

    Raises:
        HeldError: another process holds one of them.
    """
    with contextlib.ExitStack() as claims:
        for run_id in run_ids:
            claims.enter_context(store.claim(run_id))
        yield


def find_done(run_ids: Sequence[str], store: Store) -> dict[str, Result]:
    """Return the records of runs that need no training, and remove what these should not have kept.

    A process that was killed just after it wrote the record may have left that.
    """
    records = {run_id: store.read(run_id) for run_id in run_ids}
    alone = len(run_ids) == 1
    done = {
        run_id: value
        for run_id, value in records.items()
        if value is not None and is_done(value, alone=alone)
    }
    for one in done.values():
        tidy(one, store)
    return done


def tidy(success: Result, store: Store) -> None:
    """Leave of a success on disk what ``train.keep`` says, and the weights of no second training."""
    folder, train = store.run_folder(success.run_id), success.config["train"]
    policy = train.get("keep", "best")  # which earlier records do not say
    checkpoint.tidy(folder, policy=policy, stopped=train.get("stop_step") is not None)
    shutil.rmtree(folder / ASIDE, ignore_errors=True)
