"""What a sweep's command line asks for: its overrides read, the sub-grids chosen, the runs planned, and a
long plan confirmed.
"""

import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString

from bench.config.schema import Config
from bench.errors import ConfigError
from bench.sweep.engine import Identifier, plan_sweep
from bench.sweep.forecast import format_hours
from bench.sweep.plan import Compose, Plan, combine_axes

_WHOLE_SWEEP = ("experiment", "sweep", "plan", "report", "results_dir", "track")  # one value for all runs
LONG_HOURS = 12.0  # a plan that takes longer is begun on purpose only


def plan_request(arguments: Sequence[str], *, compose: Compose, identify: Identifier) -> tuple[Config, Plan]:
    """What all runs share, and the distinct runs that the command line and its sweep file ask for.

    Raises:
        ConfigError: every fault of every planned run, or a setting of the whole sweep that is swept.
        DataError, MissingError: the texts or the model are wrong or not there.
    """
    overrides = OverridesParser.create().parse_overrides(_join_devices(arguments))
    swept = {one.key_or_group: _values(one) for one in overrides if one.is_sweep_override()}
    if wrong := [key for key in swept if key.split(".")[0] in _WHOLE_SWEEP]:
        raise ConfigError(f"{wrong[0]}: one sweep has one; start a sweep for each value")
    constant = [str(one.input_line) for one in overrides if not one.is_sweep_override()]
    fixed = {one.key_or_group: _plain(one.value()) for one in overrides if not one.is_sweep_override()}
    base = compose(constant)
    if base.pack or "pack" in swept:
        raise ConfigError("pack: is of one run; a sweep packs its runs by itself, see sweep.pack")
    plan = plan_sweep(
        combine_axes(base.sweep.grids, swept=swept, fixed=fixed),
        constant=constant,
        compose=compose,
        identify=identify,
        first=base.sweep.first,
    )
    return base, plan


def confirm_long(described: Mapping[str, Any], base: Config, arguments: Sequence[str]) -> None:
    """Asks whether a plan of more than LONG_HOURS is to begin; plan.force=true answers yes beforehand.

    ``described`` is what describe_plan says of it. Hours that are not known ask nothing; what is left of a
    halving is not known, as it counts no rungs that have ended.

    Raises:
        ConfigError: the answer is no, or there is no terminal to ask at.
    """
    hours = described["total_hours"]
    if base.sweep.strategy == "halving":
        hours = None if described["done"] else described["halving_hours"]
    if base.plan.force or hours is None or hours <= LONG_HOURS:
        return
    length = f"about {format_hours(hours)}" + ("" if described["calibration"] else " at least")
    kept = [line for line in arguments if not line.startswith("plan.force=")]
    if all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr)):
        print(f"this sweep takes {length}; go on? [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() in ("y", "yes"):
            return
        problem = "not started"
    else:
        problem = (
            f"not started: this sweep takes {length}, and there is no terminal to ask whether more than "
            f"{LONG_HOURS:g} h are meant"
        )
    raise ConfigError(
        f"{problem}. To look at it: {shlex.join(['bench', 'plan', *kept])}\n"
        f"To start it without a question: {shlex.join(['bench', 'sweep', *kept, 'plan.force=true'])}"
    )


def _join_devices(arguments: Sequence[str]) -> list[str]:
    """``devices=0,1`` is a list of places to run at, not something to sweep."""
    return [
        f"devices='{line.partition('=')[2]}'" if line.startswith("devices=") and "'" not in line else line
        for line in arguments
    ]


def _values(override: Override) -> list[Any]:
    return [_plain(value) for value in override.sweep_iterator()]


def _plain(value: Any) -> Any:
    """The value without the parser's own types."""
    if isinstance(value, QuotedString):
        return value.text
    return [_plain(one) for one in value] if isinstance(value, list) else value
