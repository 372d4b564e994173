"""What all tests share: bench's Hydra plugins on the path before Hydra scans for them, and composing."""

import sys
from collections.abc import Callable
from functools import cache

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir

from bench import config as configuration
from bench.config import Config
from bench.run import PLUGINS_DIR

if str(PLUGINS_DIR) not in sys.path:
    sys.path.append(str(PLUGINS_DIR))


@pytest.fixture(scope="session")
def compose() -> Callable[..., Config]:
    """The configuration that override lines come to."""

    @cache
    def compose_with(*overrides: str) -> Config:
        configuration.register_schema()
        with initialize_config_dir(str(configuration.CONF_DIR), version_base="1.3"):
            return configuration.from_hydra(hydra_compose("config", overrides=list(overrides)))

    return compose_with
