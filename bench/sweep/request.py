"""From a sweep's command line to its plan: overrides are read, runs checked, a long plan confirmed."""

import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString

from bench.config.checks import require_valid
from bench.config.identity import Identity, draws_texts, identify
from bench.config.overrides import override_line
from bench.config.pins import find_pins
from bench.config.schema import CONF_DIR, LONG_TEXTS, Config, list_paths, read_field, replace_values
from bench.data import dataset
from bench.data.dataset import Dataset
from bench.data.vocabulary import reads_tokens, require_readable, tell_long
from bench.errors import ConfigError
from bench.model import weights
from bench.run.preparation import require_packages, require_pairs
from bench.run.teacher import count_seconds, find_teacher, list_folds, pin_teacher
from bench.sweep.overview import format_hours, tell_bound
from bench.sweep.plan import Axes, Compose, Plan, Point, combine_axes, expand, make_plan, value_line

_WHOLE_SWEEP = ("experiment", "sweep", "plan", "report", "results_dir", "track")  # one value for all runs
# What a configuration builds on whose own file is not there; these fix as little as can be.
_PLAIN = {"method": "full", "model": "local", "data": "files"}
LONG_HOURS = 12.0  # a plan that takes longer is begun on purpose only


@dataclass
class Identifier:
    """Identifies runs, and looks once at each data set, each model, and each model on each data set."""

    fingerprints: dict[str, str] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=dict)
    datasets: dict[str, Dataset] = field(default_factory=dict)
    readable: set[tuple[str, str]] = field(default_factory=set)

    @staticmethod
    def name_data(config: Config) -> str:
        """Name the data that all folds and seeds share, however long texts are read.

        Which texts without labels are used depends on the train texts, so on both of these.
        """
        given = config.data
        fold = None if given.unlabelled is None else given.fold
        seed = None if given.unlabelled is None or not draws_texts(given) else config.seed
        shared = replace(given, long_texts=LONG_TEXTS[0], fold=fold, cross_fit=None, held_out=None)
        return repr(shared) if seed is None else repr((shared, seed))

    def load(self, config: Config) -> Dataset:
        """Return the configuration's texts, no part of train held out; of equal data the first that came.

        Raises:
            DataError, MissingError: the texts are wrong or not there.
        """
        if (key := self.name_data(config)) not in self.datasets:
            whole = replace(config.data, cross_fit=None, held_out=None)
            self.datasets[key] = dataset.load(whole, seed=config.seed)
            self.fingerprints[key] = self.datasets[key].fingerprint
        return self.datasets[key]

    def find_revision(self, config: Config) -> str:
        """Return what stands for the content of the base model, looked at once.

        Raises:
            MissingError: it is not there.
        """
        if (key := repr(config.model)) not in self.revisions:
            self.revisions[key] = weights.revision(config.model)
        return self.revisions[key]

    def __call__(self, config: Config) -> Identity:
        """Return the identity of a configuration.

        Raises:
            DataError, MissingError: the texts or the model are wrong or not there.
        """
        data_key, model_key = self.name_data(config), repr(config.model)
        if data_key not in self.fingerprints:
            self.load(config)
        revision = self.find_revision(config)
        texts = self.datasets.get(data_key)
        if texts is not None:
            require_pairs(config, texts)
        read = (data_key, model_key)
        if data_key in self.datasets and read not in self.readable and reads_tokens(config):
            folder = weights.find(config.model)
            require_readable(self.datasets[data_key], config, folder)
            tell_long(self.datasets[data_key], config, folder)
            self.readable.add(read)
        return identify(
            config,
            data_fingerprint=self.fingerprints[data_key],
            model_revision=revision,
            unlabelled=None if texts is None else texts.unlabelled_fingerprint,
        )


@dataclass
class Teachers:
    """Lists the trainings that predict for students, which a sweep trains before these."""

    compose: Compose
    identify: Identifier
    known: dict[str, list[Point]] = field(default_factory=dict)  # by what decides them
    seconds: dict[str, float | None] = field(default_factory=dict)  # as Plan.teacher_seconds

    def __call__(self, points: Iterable[Point]) -> list[Point]:
        """List the trainings that those of the points need that are students, each once.

        Raises:
            ConfigError, DataError: the teacher cannot teach these.
        """
        found = {
            one.run_id: one
            for point in points
            if point.config.method.distils
            for one in self._list(point.config)
        }
        return list(found.values())

    def _list(self, config: Config) -> list[Point]:
        seed = config.seed if draws_texts(config.data) else None
        key = repr((config.teacher, config.data, config.distillation.folds, seed))
        if key not in self.known:
            folds = list_folds(config, self.identify.load(config))
            more = _name_files(folds[0]) if folds else []
            base = self.compose(more)
            self.known[key] = [
                Point(list_lines(fold, base=base, more=more), fold, self.identify(fold)) for fold in folds
            ]
            whole = count_seconds(find_teacher(config, self.identify.load(config))) if folds else None
            self.seconds |= {point.run_id: whole for point in self.known[key]}
        return self.known[key]


def _name_files(config: Config) -> list[str]:
    """Name the files that the configuration's lines build on: its own, or those of _PLAIN."""
    names = {group: read_field(config, f"{group}.name") for group in _PLAIN}
    return [
        override_line(group, name if (CONF_DIR / group / f"{name}.yaml").is_file() else _PLAIN[group])
        for group, name in names.items()
    ]


def list_lines(config: Config, *, base: Config, more: Sequence[str]) -> tuple[str, ...]:
    """List the lines that compose the configuration: ``more``, which compose ``base``, then what differs."""
    paths = (path for path in list_paths() if read_field(config, path) != read_field(base, path))
    return (*more, *(value_line(config, path) for path in paths))


def plan_request(arguments: Sequence[str], *, compose: Compose, identify: Identifier) -> tuple[Config, Plan]:
    """Return what all runs share, and the distinct runs that the command line and its sweep file ask for.

    Raises:
        ConfigError: every fault of every planned run, or a setting of the whole sweep that is swept.
        DataError, MissingError: the texts or the model are wrong or not there.
    """
    overrides = OverridesParser.create().parse_overrides(_join_devices(arguments))
    swept = {
        override.key_or_group: _values(override) for override in overrides if override.is_sweep_override()
    }
    if wrong := [key for key in swept if key.split(".")[0] in _WHOLE_SWEEP]:
        raise ConfigError(f"{wrong[0]}: one sweep has one; start a sweep for each value")
    constant = [str(override.input_line) for override in overrides if not override.is_sweep_override()]
    fixed = {
        override.key_or_group: _plain(override.value())
        for override in overrides
        if not override.is_sweep_override()
    }
    base = compose(constant)
    if base.pack or "pack" in swept:
        raise ConfigError("pack: is of one run; a sweep packs its runs by itself, see sweep.pack")
    plan = plan_sweep(
        combine_axes(base.sweep.grids, swept=swept, fixed=fixed),
        constant=constant,
        compose=compose,
        identify=identify,
        first=base.sweep.first,
        curve=base.sweep.curve,
    )
    teachers = Teachers(compose, identify)
    return base, replace(plan, teachers=tuple(teachers(plan.points)), teacher_seconds=teachers.seconds)


def plan_sweep(
    grids: Sequence[Axes],
    *,
    constant: Sequence[str],
    compose: Compose,
    identify: Identifier,
    first: Sequence[Mapping[str, Any]] = (),
    curve: int | None = None,
) -> Plan:
    """Plan the distinct runs of the grids, and check each before any trains; ``first`` is as for make_plan.

    With ``curve`` each is planned at so many sizes of the train split.

    What is on the hub is pinned here, for all processes and machines of the sweep.

    Raises:
        ConfigError: every fault of every planned run.
        DataError, MissingError: the texts or the model are wrong or not there.
    """
    expanded = list(expand(grids, compose=compose, constant=constant))
    require_valid([config for _, config in expanded])
    for _, config in expanded:
        require_packages(config)
    if curve is not None:
        expanded = [
            (lines, config)
            for point in expanded
            for lines, config in _resize(*point, sizes=_list_sizes(point[1], curve, identify))
        ]
    return make_plan([_pin(lines, config, identify) for lines, config in expanded], identify, first=first)


def _list_sizes(config: Config, count: int, identify: Identifier) -> list[int]:
    """List so many sizes of the data's train split, the smallest first, each half of the next.

    Raises:
        ConfigError: the smallest would not hold a text of each label.
    """
    data = identify.load(config)
    total, labels = len(data.splits["train"]), len(data.labels)
    sizes = [total // 2**place for place in reversed(range(count))]
    if sizes[0] < labels:
        most = (total // labels).bit_length()
        raise ConfigError(
            f"sweep.curve={count}: the smallest size would be {sizes[0]} of {total} train texts, too few for "
            f"{labels} labels; "
            + (f"set sweep.curve={most} or less" if most > 1 else "there are too few for a curve")
        )
    return sizes


def _resize(
    lines: tuple[str, ...], config: Config, *, sizes: Sequence[int]
) -> Iterator[tuple[tuple[str, ...], Config]]:
    """Yield the run at each size of the train split, of which each seed draws its own texts."""
    draws = config.data.source != "finance8_synthetic"  # which has none to choose from
    for size in sizes:
        values = {"data.train_size": size, "data.resample": draws}
        kept = [line for line in lines if line.lstrip("+").partition("=")[0] not in values]
        more = (override_line(key, value) for key, value in values.items())
        yield (*kept, *more), replace_values(config, values)


def _pin(lines: tuple[str, ...], config: Config, identify: Identifier) -> tuple[tuple[str, ...], Config]:
    """Return a planned run with the commits and the teacher that its configuration leaves open."""
    pins = find_pins(config)
    pinned = replace_values(config, pins)
    if pinned.method.distils:
        dataset, revision = identify.load(pinned), identify.find_revision(pinned)
        pinned = pin_teacher(pinned, dataset, revision=revision)
        pins["teacher"] = str(pinned.teacher)
    kept = (line for line in lines if line.lstrip("+").partition("=")[0] not in pins)
    return (*kept, *(override_line(key, value) for key, value in pins.items())), pinned


def confirm_long(described: Mapping[str, Any], base: Config, arguments: Sequence[str]) -> None:
    """Ask whether a plan of more than LONG_HOURS should begin; plan.force=true or sweep.hours says yes.

    ``described`` comes from describe_plan. Unknown hours ask nothing; those left of a halving are unknown, as
    the plan counts no rungs that have ended.

    Raises:
        ConfigError: the answer is no, or there is no terminal to ask at.
    """
    hours = described["total_hours"]
    if base.sweep.strategy == "halving":
        hours = None if described["done"] else described["halving_hours"]
    if base.plan.force or base.sweep.hours is not None or hours is None or hours <= LONG_HOURS:
        return
    length = f"{tell_bound(described)} {format_hours(hours)}"
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


def require_hours(described: Mapping[str, Any]) -> None:
    """Require of sweep.hours that the teachers' trainings, which come first, end within what is left of them.

    ``described`` comes from describe_plan. What is not known before a run has ended is not refused.

    Raises:
        ConfigError: they would take longer, so that no student would train.
    """
    budget = described["budget"]
    needed = None if budget is None else budget["teachers_hours"]
    if needed is None or not needed or needed + budget["spent_hours"] < budget["hours"]:
        return
    spent, least = budget["spent_hours"], format_hours(needed + budget["spent_hours"])
    told = f", {format_hours(spent)} of them spent" if spent else ""
    raise ConfigError(
        f"sweep.hours: {format_hours(budget['hours'])} in all{told}, and the teacher's trainings, which come "
        f"before all others, take about {format_hours(needed)}; give more than {least}, or fewer "
        "distillation.folds, or leave out the students"
    )


def _join_devices(arguments: Sequence[str]) -> list[str]:
    """Quote ``devices=0,1``, which is a list of places for runs and not something to sweep."""
    return [
        f"devices='{line.partition('=')[2]}'" if line.startswith("devices=") and "'" not in line else line
        for line in arguments
    ]


def _values(override: Override) -> list[Any]:
    return [_plain(value) for value in override.sweep_iterator()]


def _plain(value: Any) -> Any:
    """Return the value without the parser's own types."""
    if isinstance(value, QuotedString):
        return value.text
    return [_plain(one) for one in value] if isinstance(value, list) else value
