"""The Hydra app of one run: its command line, its exit codes and its messages.

``python -m bench.run`` and ``bench run`` are this app; ``bench sweep`` is its multirun.
"""

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import hydra
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bench.config import schema
from bench.config.identity import describe
from bench.config.names import suggest_option
from bench.config.overrides import quote_text
from bench.config.pack import unpack
from bench.config.schema import Config
from bench.errors import BenchError, ConfigError
from bench.process import stop_on_signals
from bench.redaction import show
from bench.results.store import Result
from bench.run import driver
from bench.run.run import run_all
from bench.run.tracking import wandb_run as tracking

PLUGINS_DIR = Path(__file__).parents[1] / "plugins"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the Hydra app; ``arguments`` replace those of the command line.

    Raises:
        BenchError: a user's error; ``bench.process.guarded`` makes it a message and an exit code.
    """
    given = sys.argv[1:] if arguments is None else arguments
    sys.argv = [sys.argv[0], *map(quote_text, given)]
    with explained_errors():
        prepare_hydra()
        _app()


def prepare_hydra() -> None:
    """Register bench's schema and plugins with Hydra, and have its errors raised as they are."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    if str(PLUGINS_DIR) not in sys.path:
        sys.path.append(str(PLUGINS_DIR))
    schema.register_schema()


@contextlib.contextmanager
def explained_errors() -> Iterator[None]:
    """Turn an error of Hydra's, OmegaConf's or YAML's into bench's own.

    Raises:
        ConfigError: what is wrong with the configuration, in plain words.
    """
    try:
        yield
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise ConfigError(_explain(error)) from error


@contextlib.contextmanager
def composing() -> Iterator[Callable[[Sequence[str]], Config]]:
    """Yield a function that composes a configuration.

    Raises:
        ConfigError: as ``explained_errors``, for everything inside.
    """
    with explained_errors():
        prepare_hydra()
        with hydra.initialize_config_dir(str(schema.CONF_DIR), version_base="1.3"):
            yield lambda lines: schema.from_hydra(hydra.compose("config", overrides=list(lines)))


def task(composed: DictConfig) -> list[Result]:
    """Run one job for Hydra; outside a sweep print its results and exit with their code."""
    stop_on_signals()
    if OmegaConf.select(composed, "track.mode") == "offline":
        tracking.begin_run()
    config = schema.from_hydra(composed)
    alone = HydraConfig.get().mode == RunMode.RUN
    try:
        if alone and (note := driver.choose(config.devices, config.train.processes).note) is not None:
            print(show(note), file=sys.stderr)
        results = run_all(config)
    except BenchError as error:
        if not alone:
            raise
        # Hydra would print a line of its own above an error that it sees.
        print(show(error), file=sys.stderr)
        sys.exit(error.exit_code)
    if alone:
        for one, result in zip(unpack(config), results, strict=True):
            print(summarise(one, result), flush=True)
        if any(not result.is_success for result in results):
            sys.exit(1)
    return results


def summarise(config: Config, result: Result) -> str:
    """Return one line for a person: the run and its result."""
    name = f"{result.run_id} {show(describe(config))}"
    if not result.is_success:
        message = (result.error or {}).get("message", "no message")
        return show(f"{name}: {result.status} ({message})").replace("\n", " ")
    packed = result.packed
    split = "validation" if result.metrics["test"] is None else "test"  # of a training that was stopped
    scores = result.metrics[split]
    how = (
        f"trained in {result.time['train_seconds']:.1f} s"
        if packed is None
        else f"one of {packed['size']} packed in {packed['pack_seconds']:.1f} s"
    )
    length = result.model.get("max_length", config.train.max_length)
    cut = f", texts cut at the model's {length} tokens" if length < config.train.max_length else ""
    return f"{name}: {split} accuracy {scores['accuracy']:.1%}, F1 {scores['f1_macro']:.1%}, {how}{cut}"


_app = hydra.main(version_base="1.3", config_path=str(schema.CONF_DIR), config_name="config")(task)


def _explain(error: Exception) -> str:
    """Return Hydra's or OmegaConf's message with its cause, without their inner types."""
    if isinstance(error, MissingConfigException) and error.options and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.partition("/")  # the name may be a URL with a password in it
        options = [option for option in error.options if "/" not in option]
        near = suggest_option(group, name, options)
        return f"{group}={name}: there is no such {group}{near or ';'} there are {', '.join(options)}"
    if match := re.match(r"Could not override '([^'@]+)'", str(error)):
        return schema.explain_unknown(match[1])
    cause = error.__cause__
    parts = [error, cause] if isinstance(cause, OmegaConfBaseException | HydraException) else [error]
    lines = dict.fromkeys(line for part in parts for line in str(part).splitlines())
    hidden = ("reference_type", "object_type", "full_key")
    return "\n".join(line for line in lines if not line.strip().startswith(hidden))
