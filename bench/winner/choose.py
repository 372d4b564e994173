"""Which run is meant, by its id or as the best of a method; found in the records alone, without torch."""

import re
import shlex
from pathlib import Path

from bench.config.schema import TRAINED
from bench.errors import ConfigError, MissingError
from bench.results.selection import (
    configuration_key,
    fill_scores,
    group_by_method,
    is_stopped,
    read_criterion,
    read_fold,
    read_seed,
    read_value,
    select_best,
)
from bench.results.store import Result, Store
from bench.train import checkpoint
from bench.train.checkpoint import BEST

_BEST = "best:"
_RUN_ID = re.compile(r"[0-9a-f]{12}")


def names_run(text: str) -> bool:
    """Return whether this is how a run is named, as opposed to a folder."""
    return text.startswith(_BEST) or (bool(_RUN_ID.fullmatch(text)) and not Path(text).is_dir())


def find_run(store: Store, name: str) -> Result:
    """Return the run RUN_ID, or for ``best:METHOD`` the one that the table reports of a method.

    Of that configuration's seeds it is the one at which configurations were compared on validation.

    Raises:
        ConfigError: there is no such run or method, it is no success, or it is not clear which is meant.
    """
    if name.startswith(_BEST):
        return _find_best(store, name)
    if not _RUN_ID.fullmatch(name):
        raise ConfigError(f"{name}: must be a run_id of 12 hexadecimal digits, or best:METHOD")
    result = store.read(name)
    if result is None:
        raise ConfigError(
            f"{name}: {store.folder} has no such run with a whole record; its runs are the folders of "
            f"{store.folder / 'runs'}, and `bench verify` checks them"
        )
    if not result.is_success:
        raise ConfigError(
            f"{name}: this run is {result.status}; only a success can be used, so train it again"
        )
    return result


def find_seeds(store: Store, name: str) -> list[Result]:
    """Return all seeds of the run's configuration that can answer together, by seed.

    Raises:
        ConfigError: as find_run; there is one seed; or they are no adapters on one base.
    """
    result = find_run(store, name)
    asked, method, key = f"{name} --seeds", result.config["method"], configuration_key(result)
    if method["estimator"] != "network" or method["trainable"] != "adapter":
        raise ConfigError(
            f"{asked}: method {method['name']} trains no adapter, so its seeds share no base and would take "
            "a whole model each; export one of them, without --seeds"
        )
    if read_fold(result) is not None:
        raise ConfigError(
            f"{asked}: its runs are folds, which were trained on other texts; train seeds without data.folds"
        )
    same = [
        one
        for one in store.read_all()[0]
        if one.is_success and not is_stopped(one) and configuration_key(one) == key
    ]
    if len(same) < 2:
        raise ConfigError(
            f"{asked}: its configuration has one seed; train more with sweep.final_seeds=3, or leave "
            "out --seeds"
        )
    return sorted(same, key=lambda one: read_seed(one) or 0)


def find_weights(store: Store, result: Result) -> Path:
    """Return the file with what the run trained.

    Raises:
        ConfigError: its kind of method leaves none, or they belong to random base weights.
        MissingError: it was not kept.
    """
    method, base = result.config["method"], result.config["model"]
    if method["estimator"] != "network":
        is_trained = method["estimator"] in TRAINED
        reason = "keeps no weights" if is_trained else "is a baseline without a trained network"
        raise ConfigError(
            f"{result.run_id}: method {method['name']} {reason}; choose a method that fine-tunes, such as "
            "best:lora"
        )
    if base.get("weights", "saved") == "random":
        raise ConfigError(
            f"{result.run_id}: its base weights were random (model.weights=random), so it can be measured "
            "but not used; train it on saved weights"
        )
    path = store.run_folder(result.run_id) / BEST
    if path.is_file():
        return path
    raise MissingError(
        f"{result.run_id}: {_explain_missing(result, path)}; train again with train.keep=best and another "
        f"results_dir, or first remove the run's folder, rm -r {shlex.quote(str(path.parent))}"
    )


def _explain_missing(result: Result, path: Path) -> str:
    """Return why the run has no weights."""
    train, method = result.config["train"], result.config["method"]
    keep, itemsize = train.get("keep", "best"), 2 if train.get("weights") == "bf16" else 4
    size = itemsize * (result.parameters.get("trainable") or 0)
    if keep == "none":
        return "train.keep=none left no weights"
    if checkpoint.is_for_chosen(keep, trainable=method["trainable"], weights_bytes=size):
        return f"train.keep={keep} kept the weights of its method's best alone ({_BEST}{method['name']})"
    return f"its weights, {path}, are gone"


def _find_best(store: Store, name: str) -> Result:
    method = name.removeprefix(_BEST)
    results, _ = store.read_all()
    groups = {key: runs for key, runs in group_by_method(results).items() if key.method == method}
    if not groups:
        known = sorted({str(read_value(result, "config.method.name")) for result in results})
        raise ConfigError(f"{name}: {store.folder} has no run of it; there are {', '.join(known) or 'none'}")
    if len(groups) > 1:
        raise ConfigError(
            f"{name}: {store.folder} holds this method on {len(groups)} pairs of texts and base model; "
            "give the run_id of one, as table.md and runs.csv list them"
        )
    select_by = read_criterion(results)
    [members] = (fill_scores(runs, store, select_by) for runs in groups.values())
    selection = select_best(members, select_by=select_by)
    if selection is None:
        raise ConfigError(f"{name}: none of its runs is a success; `bench status` counts them")
    return selection.candidates[0]
