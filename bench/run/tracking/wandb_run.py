"""Mirrors runs to Weights & Biases; results/ stays the truth and W&B a copy that may be late or missing.

The only file that imports wandb, and only inside functions, so that track.mode=disabled never loads it.
W&B must never cost a run: :func:`resolve` decides once, with a bounded probe, whether the server is used at
all, and after :func:`start` a failure of wandb is one warning and the training goes on.
"""

import contextlib
import logging
import netrc
import os
import re
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import pandas as pd

from bench.config.schema import TrackConfig
from bench.errors import BenchError, ConfigError, MissingError
from bench.run.tracking.probe import probe

# A server that is lost costs a sweep at most 30 s: 5 for the probe, and once both of these.
INIT_SECONDS = 6  # wandb waits 10 more; its default is 90
FINISH_SECONDS = 9  # by default wandb waits for ever on a server that died
UPLOAD_SECONDS = 300  # of one offline run, about 0.1 MB; `wandb sync` retries a lost server for ever
LOOK_SECONDS = 0.01  # between looks for W&B's service
MODULES = ("wandb", "wandb.sdk.launch.inputs.internal", "requests")  # what wandb.init imports, in seconds
NOT_STARTED = "W&B could not start"
_SYNCED = ".wandb.synced"  # ends the name of the file by which wandb marks an uploaded run
_COMPLETE = "bench-complete"  # in an offline run's folder: bench has written all of it
_UPLOADED = ".uploaded"  # in wandb/: the ids of runs that were uploaded, also where their folders have gone
_LATER = "upload later with `bench sync`"
_NETRC_ALIASES = {"api.forge.coreweave.com": "api.wandb.ai"}  # W&B's public server, and its name before
_SECRET = re.compile(
    r"(?<=//)[^/\s@]+@|[\w-]{40,}"
)  # credentials in a URL; W&B keys have 40 characters or more

Row = Mapping[str, float | int | None]
Summary = Mapping[str, object]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Mode:
    """The mode of tracking and its reason in one line, which is None only for online."""

    mode: str  # online | offline | disabled
    reason: str | None


class Tracker(Protocol):
    """A mirror of a run's numbers; ``mode`` and ``reason`` say what really happened."""

    mode: str  # online | offline | disabled
    reason: str | None
    wandb_run_id: str | None

    def log(self, row: Row, *, step: int) -> None:
        """Record one row of the run's history at an optimizer step; None is left out."""

    def finish(self, *, summary: Summary, predictions: pd.DataFrame | None, success: bool) -> None:
        """Record the summary with flat keys, the predictions and the success; None is left out."""


def resolve(mode: str, *, probe_seconds: float) -> Mode:
    """Decide what track.mode (auto, online, offline, disabled) means here, once per sweep, before any run.

    auto is online where an API key is configured and the server answers within ``probe_seconds``, else
    offline; W&B's own mode (WANDB_MODE, `wandb offline`) goes first.

    Raises:
        ConfigError: an unknown mode, or online without an API key.
        MissingError: online and the server does not answer.
    """
    if mode not in ("auto", "online", "offline", "disabled"):
        raise ConfigError(f"track.mode={mode}: must be one of auto, online, offline, disabled")
    if mode == "auto":
        return _resolve_auto(probe_seconds)
    if mode == "online":
        require_server("track.mode=online", probe_seconds)
        return Mode("online", None)
    return Mode(mode, f"track.mode={mode}" + (f"; {_LATER}" if mode == "offline" else ""))


def decide(settings: TrackConfig) -> Mode:
    """Return W&B's mode for a run: found out here, unless a sweep has done so for all its runs.

    Raises:
        ConfigError, MissingError: as resolve.
    """
    if settings.reason is not None:
        return Mode(settings.mode, settings.reason)
    return resolve(settings.mode, probe_seconds=settings.probe_seconds)


def start(
    mode: Mode,
    *,
    project: str,
    entity: str | None,
    folder: Path,
    run_id: str,
    name: str,
    group: str,
    tags: Sequence[str],
    config: Mapping[str, object],
    wandb_run_id: str | None = None,
) -> Tracker:
    """Start a tracker for one attempt at a run; its W&B id, unless given, is the run_id and a random suffix.

    W&B's files go to ``folder``/wandb. If wandb fails, the tracker is disabled and its reason says why.
    """
    if mode.mode == "disabled":
        return NullTracker(mode.reason)
    if mode.mode == "online" and _lost_mark(folder).exists():
        mode = Mode("offline", f"W&B's server was lost earlier in this sweep; {_LATER}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):  # wandb would write to the system's temporary folder instead
            raise PermissionError(f"{folder} is not writable")
        run = _init(
            mode=mode.mode,
            project=project,
            entity=entity,
            dir=str(folder),
            id=wandb_run_id or f"{run_id}-{secrets.token_hex(4)}",
            name=name,
            group=group,
            tags=list(tags),
            config={**config, "run_id": run_id},
        )
    except Exception as error:
        reason = f"{NOT_STARTED}: {describe_error(error)}"
        _log.warning("%s; the run goes on without it", reason)
        if mode.mode == "online":
            _mark_lost(folder)
        return NullTracker(reason)
    return WandbTracker(run=run, mode=mode.mode, reason=mode.reason, wandb_run_id=run.id, folder=folder)


def begin_run() -> None:
    """Start W&B's service in the background, so that it is ready once an offline run has its texts."""

    def start_service() -> None:
        with contextlib.suppress(Exception):  # what fails here fails again in start, which says so
            _import().setup()

    threading.Thread(target=start_service, daemon=True).start()


def begin_sweep(folder: Path) -> None:
    """Forget that an earlier sweep lost the server."""
    _lost_mark(folder).unlink(missing_ok=True)


@dataclass
class NullTracker:
    """A tracker that records nothing, as W&B is disabled or could not start."""

    reason: str | None
    mode: str = "disabled"
    wandb_run_id: str | None = None

    def log(self, row: Row, *, step: int) -> None:
        """Do nothing."""

    def finish(self, *, summary: Summary, predictions: pd.DataFrame | None, success: bool) -> None:
        """Do nothing."""


@dataclass
class WandbTracker:
    """One W&B run; wandb's first error is a warning and the reason, and nothing is logged after it."""

    run: Any
    mode: str
    reason: str | None
    wandb_run_id: str | None
    folder: Path
    failed: bool = False

    def log(self, row: Row, *, step: int) -> None:
        """Log a row of the history with its ``step``, as W&B's own counter only counts rows."""
        if present := _present(row):
            self._attempt(f"log step {step}", lambda: self.run.log({**present, "step": step}))

    def finish(self, *, summary: Summary, predictions: pd.DataFrame | None, success: bool) -> None:
        """Write the summary, the table ``predictions`` and exit code 0 or 1, and wait briefly for uploads."""
        self._attempt("write the summary", lambda: self.run.summary.update(_present(summary)))
        if predictions is not None:
            self._attempt("log the predictions", lambda: _log_predictions(self.run, predictions))
        started = time.monotonic()
        self._attempt("finish", lambda: self.run.finish(exit_code=0 if success else 1), always=True)
        if self.mode == "online" and time.monotonic() - started >= FINISH_SECONDS:
            self.reason = (
                f"W&B is incomplete, its server did not take everything in {FINISH_SECONDS} s; {_LATER}"
            )
            _log.warning("%s", self.reason)
            _mark_lost(self.folder)
        for folder in find_folders(self.folder, str(self.wandb_run_id)):
            if not self.failed:
                (folder / _COMPLETE).touch()

    def _attempt(self, action: str, call: Callable[[], object], *, always: bool = False) -> None:
        """Call wandb, unless it failed before; its errors are reported once and never raised."""
        if self.failed and not always:
            return
        try:
            call()
        except Exception as error:
            if not self.failed:
                self.reason = f"W&B is incomplete, it failed to {action}: {describe_error(error)}"
                _log.warning("%s; the run goes on without it", self.reason)
            self.failed = True


def default_entity() -> str | None:
    """Return the entity of runs without track.entity: the API key's owner, as W&B says."""
    entity: str | None = _import().Api(timeout=INIT_SECONDS).default_entity
    return entity


def offline_folders(results_dir: Path) -> list[Path]:
    """List the W&B folders of offline runs in ``results_dir``/wandb that are not uploaded, oldest first."""
    folders = sorted((results_dir / "wandb").glob("offline-run-*"))  # then the time: names sort by age
    return [folder for folder in folders if _is_pending(folder)]


def find_folders(results_dir: Path, wandb_run_id: str) -> list[Path]:
    """List the folders of offline runs with this id, or pattern of ids, of which nothing was uploaded."""
    folders = sorted((results_dir / "wandb").glob(f"offline-run-*-{wandb_run_id}"))
    return [folder for folder in folders if not any(folder.glob(f"*{_SYNCED}"))]


def is_whole(results_dir: Path, wandb_run_id: str) -> bool:
    """Return whether the offline run was uploaded, or is there with all that bench wrote."""
    folders = list((results_dir / "wandb").glob(f"offline-run-*-{wandb_run_id}"))
    if any((folder / _COMPLETE).exists() or any(folder.glob(f"*{_SYNCED}")) for folder in folders):
        return True
    with contextlib.suppress(OSError):
        return wandb_run_id in (results_dir / "wandb" / _UPLOADED).read_text(encoding="utf-8").split()
    return False


def sync(results_dir: Path, *, probe_seconds: float) -> tuple[int, int]:
    """Upload each offline run once; return how many were uploaded and how many failed.

    An uploaded run is marked by wandb and not taken again. A run that is still being written would be marked
    too, half uploaded, so no sweep may be at work in ``results_dir``.

    Raises:
        ConfigError: no API key.
        MissingError: the server does not answer within ``probe_seconds``.
    """
    require_server("bench sync", probe_seconds)
    outcomes = [_upload(folder) for folder in offline_folders(results_dir)]
    return outcomes.count(True), outcomes.count(False)


def _lost_mark(folder: Path) -> Path:
    """Return the file whose presence tells the other runs of a sweep not to wait for the server again."""
    return folder / "wandb" / ".server-lost"


def _mark_lost(folder: Path) -> None:
    with contextlib.suppress(OSError):
        _lost_mark(folder).parent.mkdir(parents=True, exist_ok=True)
        _lost_mark(folder).touch()


def _import() -> Any:
    """Import wandb without output and telemetry, for which a run would wait 10 s at its end if a server died.

    Have it look often for its service, which starts in 0.05 s: by default it sleeps 0.2 s between looks.
    """
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    with contextlib.suppress(ImportError):  # a place inside wandb, which may move
        from wandb.sdk.lib.service import service_port_file

        service_port_file._SLEEP = lambda _: time.sleep(LOOK_SECONDS)
    return wandb


def _init(**described: Any) -> Any:
    """Start a wandb run that prints nothing and captures neither console, code, git nor the command line."""
    wandb = _import()
    settings = wandb.Settings(
        silent=True,
        console="off",
        save_code=False,
        disable_git=True,
        x_disable_meta=True,  # host, user, command line
        x_disable_machine_info=True,
        x_disable_stats=True,  # sampling the device beside a run that is being measured
        x_save_requirements=False,
        symlink=False,
        use_dot_wandb=False,
        init_timeout=INIT_SECONDS,
        finish_timeout=FINISH_SECONDS,
    )
    run = wandb.init(reinit="create_new", settings=settings, **described)
    run.define_metric("*", step_metric="step")
    return run


def _log_predictions(run: Any, predictions: pd.DataFrame) -> None:
    """Log the frame as a table; offline it lies in the run's own folder and is cut after 10,000 rows.

    A table that is bound to its run before it is logged stays a file of the run. Otherwise wandb makes it an
    artifact, which offline waits in the user's home folder and is lost when results/ moves to be uploaded.
    """
    rows = predictions.astype(object).to_numpy().tolist()  # a frame it would take cell by cell, slowly
    gaps = predictions.isna().any().tolist()  # where None is allowed, of which each cell takes its time
    table = _import().Table(columns=[*predictions], data=rows, allow_mixed_types=True, optional=gaps)
    if run.offline:
        table.bind_to_run(run, "predictions", "final")
    run.log({"predictions": table})


def _present(values: Mapping[str, object]) -> dict[str, object]:
    """Leave out None, which W&B would draw as text."""
    return {key: value for key, value in values.items() if value is not None}


def _resolve_auto(probe_seconds: float) -> Mode:
    """Return W&B's own mode if that forbids uploading, else online unless something is in the way."""
    try:
        settings = _read_settings()
        if settings.mode == "disabled":
            return Mode("disabled", "W&B's own mode is disabled (WANDB_MODE)")
        if settings.mode in ("offline", "dryrun"):
            return Mode("offline", f"W&B's own mode is offline (WANDB_MODE, `wandb offline`); {_LATER}")
        _check_server(settings, probe_seconds)
    except BenchError as obstacle:
        return Mode("offline", f"{obstacle}; {_LATER}")
    return Mode("online", None)


def require_server(what: str, probe_seconds: float) -> None:
    """Raise the error that is in the way of an upload, with the remedy."""
    try:
        _check_server(_read_settings(), probe_seconds)
    except ConfigError as error:
        raise ConfigError(f"{what}: {error}; set WANDB_API_KEY or run `wandb login`") from None
    except MissingError as error:
        raise MissingError(f"{what}: {error}; check the network and WANDB_BASE_URL") from None


def _read_settings() -> Any:
    """Read wandb's settings as wandb.init will: its default server, settings files, then WANDB_*."""
    folder = Path(os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb").expanduser()
    try:
        settings = _import().Settings(silent=True, settings_system=str(folder / "settings"))
        settings.update_from_system_settings()
        settings.update_from_env_vars(dict(os.environ))
    except Exception as error:
        raise ConfigError(f"W&B's settings cannot be read ({describe_error(error)})") from None
    return settings


def _check_server(settings: Any, probe_seconds: float) -> None:
    """Raise ConfigError without a key for the server, MissingError without an answer from it."""
    url = urlsplit(settings.base_url)
    host = url.netloc.rpartition("@")[2]
    if not (settings.api_key or settings.identity_token_file or _has_netrc_key(host)):
        raise ConfigError(f"no API key is configured for the W&B server {host}")
    if fault := probe(f"{url.scheme}://{host}{url.path}", probe_seconds):
        raise MissingError(f"the W&B server {host} {fault}")


def _has_netrc_key(host: str) -> bool:
    """Return whether the netrc file that wandb reads has a password for the server."""
    named = os.environ.get("NETRC")
    paths = [Path(path).expanduser() for path in ([named] if named else ["~/.netrc", "~/_netrc"])]
    try:
        file = netrc.netrc(str(next(path for path in paths if path.exists())))
    except (StopIteration, netrc.NetrcParseError, OSError):
        return False
    entries = [file.authenticators(name) for name in (host, _NETRC_ALIASES.get(host, host))]
    return any(entry and entry[2] for entry in entries)


def describe_error(error: Exception) -> str:
    """Return the error's type and first line without anything that could be a key or a password."""
    line = next(iter(str(error).splitlines()), "no message")
    return _SECRET.sub("***", f"{type(error).__name__}: {line}")


def _is_pending(folder: Path) -> bool:
    """Return whether the folder holds a run's file without wandb's mark of an upload."""
    return any(not file.with_suffix(_SYNCED).exists() for file in folder.glob("*.wandb"))


def _upload(folder: Path) -> bool:
    """Upload the folder; return whether wandb left its mark, as it exits with 0 even when refused."""
    command = [sys.executable, "-m", "wandb", "sync", str(folder.resolve())]
    home = folder.parents[1]  # wandb keeps its logs in wandb/ of the working directory
    quiet = subprocess.DEVNULL
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(
            command, cwd=home, stdin=quiet, stdout=quiet, stderr=quiet, timeout=UPLOAD_SECONDS, check=False
        )
    if _is_pending(folder):
        _log.warning("%s: not uploaded; `python -m wandb sync` of this folder says why", folder)
        return False
    with (folder.parent / _UPLOADED).open("a", encoding="utf-8") as uploaded:
        uploaded.write(folder.name.split("-", 3)[3] + "\n")
    return True
