"""Hydra's plugins, found once: imported by the fork server for its effect, as a scan takes 0.2 s."""

from hydra.core.plugins import Plugins

from bench.run.app import prepare_hydra

prepare_hydra()
Plugins.instance()
