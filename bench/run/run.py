"""One run, from a configuration to a record on disk; ``python -m bench.run`` is the same as a Hydra app.

Importing this module is quick: torch comes in with bench.run.attempt, once the configuration is known to be
right.
"""

import contextlib
import dataclasses
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import hydra
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bench.config import pins, schema
from bench.config.checks import require_valid
from bench.config.identity import Identity, describe, identify
from bench.config.pack import describe_pack, unpack
from bench.config.schema import Config
from bench.data import dataset as datasets
from bench.data.dataset import Dataset
from bench.data.vocabulary import require_readable
from bench.errors import BenchError, ConfigError
from bench.model import weights
from bench.redaction import show
from bench.results.store import Result, Store, start_record
from bench.run import driver, tracking
from bench.run.tracking import Mode
from bench.spelling import guess
from bench.train import checkpoint

PLUGINS_DIR = Path(__file__).parents[1] / "plugins"
INTERRUPTED, TERMINATED = 130, 143  # exit codes
_BEYOND_ASCII = re.compile(r"[^,\[\]()]*[^\x00-\x7f][^,\[\]()]*")  # one value of a list or a sweep
_NO_TEXT = re.compile(r"null|true|false|[+-]?[0-9.]+", re.IGNORECASE)  # to Hydra


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a run as an interrupt does."""


@dataclass(frozen=True)
class Prepared:
    """What a run needs and can be wrong, found before anything is written."""

    runs: Sequence[tuple[Config, Identity]]  # with commits for what is on the hub; more than one is a pack
    dataset: Dataset
    model_folder: Path | None  # None: its weights are random
    unknown_share: float | None  # of the texts' tokens, where it could be measured


def run(config: Config) -> Result:
    """Trains and measures one configuration; its record is on disk and comes back, whatever it came to.

    Raises:
        As run_all, of which this is the first record.
    """
    return run_all(config)[0]


def run_all(config: Config) -> list[Result]:
    """Trains a configuration and, in the same process, those of its ``pack``: the record of each.

    A run that has a success already is not trained again. Trained alone it is so even after a success in a
    pack, where memory and time were not its own.

    Raises:
        ConfigError, DataError, MissingError: something is wrong or not there; nothing was written.
        StoreError: the results folder cannot be written, or another process has this run.
        KeyboardInterrupt: after the record says ``interrupted``.
    """
    prepared = prepare(config)
    driver.take(config.devices, config.train.processes)  # before what is imported here looks at the cards
    from bench.run import attempt

    attempt.require_device(_adapt(config)[0])
    mode = _decide_tracking(config)
    store = Store(Path(config.results_dir))
    store.prepare()
    ids = [identity.run_id for _, identity in prepared.runs]
    with contextlib.ExitStack() as claims:
        for run_id in ids:
            claims.enter_context(store.claim(run_id))
        found = {run_id: store.read(run_id) for run_id in ids}
        done = {run_id: one for run_id, one in found.items() if one and _is_done(one, alone=len(ids) == 1)}
        for run_id, one in done.items():  # a kill just after the record may have left what it does not keep
            policy = one.config["train"].get("keep", "best")  # which earlier records do not say
            stopped = config.train.stop_step is not None
            checkpoint.tidy(store.run_folder(run_id), policy=policy, stopped=stopped)
        due = [one for one in prepared.runs if one[1].run_id not in done]
        ended = _train(dataclasses.replace(prepared, runs=due), found, store=store, mode=mode) if due else []
        results = done | {one.run_id: one for one in ended}
        return [results[run_id] for run_id in ids]


def _train(
    prepared: Prepared, earlier: Mapping[str, Result | None], *, store: Store, mode: Mode
) -> list[Result]:
    """Starts a record for each of the runs and trains them, several in one go."""
    from bench.run import attempt

    adapted = [_adapt(config) for config, _ in prepared.runs]
    described = {**datasets.describe(prepared.dataset), "truncated_share": None}
    if prepared.unknown_share is not None:
        described["unknown_share"] = prepared.unknown_share
    size = len(prepared.runs)
    started = [
        start_record(
            config,
            identity,
            earlier=earlier[identity.run_id],
            labels=list(prepared.dataset.labels),
            data=described,
            packed=None if size == 1 else describe_pack(size),
            reasons={} if reason is None else {"model.precision": reason},
        )
        for (config, identity), (_, reason) in zip(prepared.runs, adapted, strict=True)
    ]
    for record in started:
        store.write(record)
    with attempt.log_to({one.run_id: store.run_folder(one.run_id) / "log.txt" for one in started}):
        return attempt.attempt(
            [config for config, _ in adapted],
            prepared.dataset,
            model_folder=prepared.model_folder,
            store=store,
            started=started,
            mode=mode,
        )


def _is_done(found: Result, *, alone: bool) -> bool:
    """Whether the record makes a training needless; a run alone is also there to measure what it takes."""
    return found.status == "success" and not (alone and found.packed is not None)


def prepare(config: Config) -> Prepared:
    """Checks the configuration, loads the texts, and finds the model and each run's identity.

    Raises:
        ConfigError, DataError, MissingError: as run.
    """
    require_valid([config])
    runs = unpack(pins.pin(config))
    require_valid(runs)
    dataset = datasets.load(config.data)
    folder = weights.locate(runs[0].model)
    revision = weights.revision(runs[0].model)
    identified = [
        (one, identify(one, data_fingerprint=dataset.fingerprint, model_revision=revision)) for one in runs
    ]
    return Prepared(identified, dataset, folder, require_readable(dataset, runs[0], folder))


def halve_micro_batch(config: Config) -> Config:
    """The configuration with its micro-batch halved, and accumulation doubled, ``oom_halvings`` times.

    The effective batch, and so the run's identity, stays the same.

    Raises:
        ConfigError: the micro-batch cannot be halved so often.
    """
    train, times = config.train, config.oom_halvings
    if train.micro_batch_size % 2**times:
        raise ConfigError(
            f"oom_halvings={times}: train.micro_batch_size={train.micro_batch_size} cannot be halved so often"
        )
    halved = dataclasses.replace(
        train,
        micro_batch_size=train.micro_batch_size // 2**times,
        gradient_accumulation_steps=train.gradient_accumulation_steps * 2**times,
    )
    return dataclasses.replace(config, train=halved)


def _decide_tracking(config: Config) -> Mode:
    """W&B's mode: found out here, unless a sweep has done so for all its runs."""
    settings = config.track
    if settings.reason is not None:
        return Mode(settings.mode, settings.reason)
    return tracking.resolve(settings.mode, probe_seconds=settings.probe_seconds)


def _adapt(config: Config) -> tuple[Config, str | None]:
    """Return the configuration as it is trained on this machine, and why its precision is not what it was.

    Raises:
        ConfigError: it cannot be trained so.
    """
    settled, reason = weights.settle_precision(config)
    return halve_micro_batch(_name_device(settled)), reason


def _name_device(config: Config) -> Config:
    """The configuration with the kind of device for this one run: of ``cpu*2`` cpu, of ``0,1`` cuda."""
    first = config.devices.partition("*")[0]
    return dataclasses.replace(config, devices="cuda" if first[0].isdigit() else first)


def main(arguments: Sequence[str] | None = None) -> None:
    """The Hydra app, with one message and the exit code of the contract for every error of the user's.

    ``arguments`` stand in for the command line's.
    """
    given = sys.argv[1:] if arguments is None else arguments
    sys.argv = [sys.argv[0], *map(quote_text, given)]
    with explained_errors():
        prepare_hydra()
        _app()


def prepare_hydra() -> None:
    """Makes bench's schema and plugins known to Hydra, and has its errors come here with their own types."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    if str(PLUGINS_DIR) not in sys.path:
        sys.path.append(str(PLUGINS_DIR))
    schema.register_schema()


@contextlib.contextmanager
def explained_errors() -> Iterator[None]:
    """A user's error is one message and its exit code."""
    try:
        yield
    except BenchError as error:
        print(show(error), file=sys.stderr)
        sys.exit(error.exit_code)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        print(show(_explain(error)), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt as interrupt:
        sys.exit(interrupt_code(interrupt))


@contextlib.contextmanager
def composing() -> Iterator[Callable[[Sequence[str]], Config]]:
    """What makes a configuration of override lines; an error inside is one message and its exit code."""
    with explained_errors():
        prepare_hydra()
        with hydra.initialize_config_dir(str(schema.CONF_DIR), version_base="1.3"):
            yield lambda lines: schema.from_hydra(hydra.compose("config", overrides=list(lines)))


def interrupt_code(interrupt: KeyboardInterrupt) -> int:
    """The exit code after SIGINT or SIGTERM."""
    return TERMINATED if isinstance(interrupt, Terminated) else INTERRUPTED


def quote_text(argument: str) -> str:
    """The override with quotes around what Hydra's grammar would refuse or Hydra not take for a text.

    Those are values beyond ASCII, ``a=标题``, and names of groups like ``model=null``.
    """
    key, equals, value = argument.partition("=")
    if _NO_TEXT.fullmatch(value) and (schema.CONF_DIR / key.lstrip("+").partition("@")[0]).is_dir():
        return f"{key}='{value}'"
    if argument.startswith("-") or not equals or any(mark in value for mark in "'\"{"):
        return argument
    return key + equals + _BEYOND_ASCII.sub(lambda found: f"'{found[0]}'", value)


def stop_on_signals(again: Callable[[], None] | None = None) -> None:
    """SIGINT and SIGTERM raise KeyboardInterrupt, once, so that the record of it can be written in peace.

    A second one calls ``again``; without it it is ignored.
    """

    def stop(number: int, _: FrameType | None) -> None:
        for one in (signal.SIGINT, signal.SIGTERM):
            signal.signal(one, signal.SIG_IGN if again is None else lambda *_: again())
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, stop)


def task(composed: DictConfig) -> list[Result]:
    """What Hydra calls for each job; alone, it prints what each run came to and exits with their code."""
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
        print(show(error), file=sys.stderr)
        sys.exit(error.exit_code)
    if alone:
        for one, result in zip(unpack(config), results, strict=True):
            print(summarise(one, result), flush=True)
        if any(result.status != "success" for result in results):
            sys.exit(1)
    return results


def summarise(config: Config, result: Result) -> str:
    """One line for a person: what was run and what it came to."""
    name = f"{result.run_id} {show(describe(config))}"
    if result.status != "success":
        message = (result.error or {}).get("message", "no message")
        return show(f"{name}: {result.status} ({message})").replace("\n", " ")
    test, packed = result.metrics["test"], result.packed
    how = (
        f"trained in {result.time['train_seconds']:.1f} s"
        if packed is None
        else f"one of {packed['size']} packed in {packed['pack_seconds']:.1f} s"
    )
    length = result.model.get("max_length", config.train.max_length)
    cut = f", texts cut at the model's {length} tokens" if length < config.train.max_length else ""
    return f"{name}: test accuracy {test['accuracy']:.1%}, F1 {test['f1_macro']:.1%}, {how}{cut}"


_app = hydra.main(version_base="1.3", config_path=str(schema.CONF_DIR), config_name="config")(task)


def _explain(error: Exception) -> str:
    """Hydra's or OmegaConf's message with its cause, without their inner types."""
    if isinstance(error, MissingConfigException) and error.options and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.partition("/")  # the name may be a URL with a password in it
        options = [one for one in error.options if "/" not in one]
        near = guess(name, options)
        return f"{group}={name}: there is no such {group}{near or ';'} there are {', '.join(options)}"
    if found := re.match(r"Could not override '([^'@]+)'", str(error)):
        return schema.explain_unknown(found[1])
    cause = error.__cause__
    parts = [error, cause] if isinstance(cause, OmegaConfBaseException | HydraException) else [error]
    lines = dict.fromkeys(line for part in parts for line in str(part).splitlines())
    hidden = ("reference_type", "object_type", "full_key")
    return "\n".join(line for line in lines if not line.strip().startswith(hidden))
