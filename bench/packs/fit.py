"""Fits a pack: runs that share all but their adapters' hyperparameters, over one frozen base."""

from collections.abc import Sequence
from pathlib import Path

from transformers import set_seed

from bench.config.schema import Config
from bench.data.dataset import Dataset
from bench.errors import RunError
from bench.packs import network
from bench.train.fit import Fitted, fit_together
from bench.train.meter import Meter
from bench.train.training import Log


def fit_pack(
    configs: Sequence[Config],
    datasets: Sequence[Dataset],
    *,
    model_folder: Path | None,
    run_folders: Sequence[Path],
    meter: Meter,
    logs: Sequence[Log],
) -> list[Fitted | RunError]:
    """Fit all runs at once as train.fit fits each to its data; one that diverged comes back as its RunError.

    The runs must be of one packable.shared_key. With dropout they are not the same as alone, but as likely:
    all random numbers are drawn for the whole pack. ``meter`` measures the whole pack too.

    Raises:
        ConfigError: the method does not fit the model or this machine.
    """
    set_seed(configs[0].seed)
    return fit_together(
        configs,
        datasets,
        build_networks=network.build,
        model_folder=model_folder,
        run_folders=run_folders,
        meter=meter,
        logs=logs,
    )
