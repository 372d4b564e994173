"""Training and evaluating the runs of one process on its device; where their weights go meanwhile."""

import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from bench.config.schema import Config
from bench.packs.fit import fit_pack
from bench.results.store import Store
from bench.run import updates
from bench.run.journal import Journal
from bench.run.preparation import ASIDE, Prepared
from bench.train import optimizers, parallel, processes
from bench.train.checkpoint import BEST
from bench.train.device import (
    choose_device,
    choose_precision,
    limit_memory,
    require_attention,
    require_no_broken_card,
)
from bench.train.fit import Fitted, fit
from bench.train.meter import Meter


def require_device(config: Config) -> torch.device:
    """Return the device that the run will use.

    Raises:
        ConfigError: this machine cannot do what the run needs.
    """
    require_no_broken_card(config.devices)
    device = choose_device(config.devices)
    if config.device_memory_gib is not None:
        limit_memory(device, config.device_memory_gib)
    if config.method.estimator in ("tfidf", "majority"):  # scikit-learn's, whose memory no device sees
        return torch.device("cpu")
    if config.method.estimator == "network":
        precision = choose_precision(config.train.precision, device)
        require_attention(config.train.attention, device, precision)
        optimizers.require_optimizer(config.train.optimizer, device)
        parallel.require_processes(config.train, device, precision)
    return device


def fit_all(
    journals: Sequence[Journal], prepared: Prepared, store: Store
) -> Sequence[Fitted | BaseException]:
    """Return for each run how well it learned, or the error that ended it."""
    try:
        folders = [_find_folder(journal.run_id, store) for journal in journals]
        return _fit(journals, folders, prepared)
    except BaseException as error:
        return [error] * len(journals)


def _fit(
    journals: Sequence[Journal], folders: Sequence[Path], prepared: Prepared
) -> Sequence[Fitted | BaseException]:
    meter = journals[0].meter
    if len(journals) > 1:
        return fit_pack(
            [journal.config for journal in journals],
            [journal.dataset for journal in journals],
            model_folder=prepared.model_folder,
            run_folders=folders,
            meter=meter,
            logs=[journal.log for journal in journals],
        )
    [journal], [folder] = journals, folders
    config = journal.config
    fit_texts = fit if journal.dataset.pieces == 1 else updates.fit_stream
    fit_here = partial(
        fit_texts, config, journal.dataset, model_folder=prepared.model_folder, run_folder=folder
    )
    count = config.train.processes if config.method.estimator == "network" else 1
    with processes.gather(count, meter.device, partial(_follow, config, fit_here)):
        return [fit_here(meter=meter, log=journal.log)]


def _follow(config: Config, fit_here: Callable[..., Fitted]) -> None:
    """Fit in a further process of the run, which writes nothing down."""
    fit_here(meter=Meter(require_device(config)), log=lambda *_: None)


def _find_folder(run_id: str, store: Store) -> Path:
    """Return where the run's weights go: aside while a success has its own, which a failure must not replace.

    There it begins anew, without checkpoints, as it is measured from its first step on.
    """
    folder = store.run_folder(run_id)
    if store.has_success(run_id):
        folder = folder / ASIDE
        shutil.rmtree(folder, ignore_errors=True)  # a killed attempt may have left it
        folder.mkdir()
    return folder


def take_from_aside(folder: Path) -> None:
    """Replace the weights of an earlier success by those of this one."""
    if (folder / ASIDE / BEST).exists():
        (folder / ASIDE / BEST).replace(folder / BEST)
