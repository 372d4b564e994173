"""Which commit a model or a data set of the hub is, where the configuration leaves that open.

A run's identity needs a commit, and no file of bench can know the newest one. So the first use pins it: the
commit that ``main`` is in this machine's cache of the hub, which the first use puts there.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path

from bench.config.schema import Config, read_field, replace_values
from bench.errors import MissingError

WITHOUT_HUB = "experiment=quickstart needs no hub (make sweep EXPERIMENT=quickstart)"
_KINDS = {"model": "config.json", "data": "README.md"}  # section -> a small file that its repositories have


def find_pins(config: Config) -> dict[str, str]:
    """Find the revisions that the configuration leaves open, as values of its fields; mostly none.

    Raises:
        MissingError: the commit is not in the cache and the hub cannot be asked, and what to do.
    """
    return {
        f"{section}.revision": _find_commit(section, read_field(config, f"{section}.hub_id"))
        for section in _KINDS
        if _is_open(config, section)
    }


def pin(config: Config) -> Config:
    """Set a commit wherever the configuration names something on the hub without one.

    Raises:
        MissingError: as find_pins.
    """
    return replace_values(config, find_pins(config))


def _is_open(config: Config, section: str) -> bool:
    needs_files = section == "data" or config.model.weights == "saved"
    source = read_field(config, section)
    return needs_files and source.source == "hub" and source.revision is None


@cache
def _find_commit(section: str, hub_id: str) -> str:
    """Look up the commit of main in the cache, else on the hub, which puts it in the cache too."""
    kind = "dataset" if section == "data" else "model"
    return _read_cache(kind, hub_id) or _ask_hub(section, kind, hub_id)


def _read_cache(kind: str, hub_id: str) -> str | None:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=hub_id, repo_type=kind)
    try:
        return (folder / "refs" / "main").read_text(encoding="utf-8").strip() or None
    except (OSError, ValueError):  # not there
        return None


def _ask_hub(section: str, kind: str, hub_id: str) -> str:
    """Download one small file of main, so that the cache knows main's commit."""
    from huggingface_hub import snapshot_download

    download: Callable[..., str] = snapshot_download
    try:
        return Path(download(hub_id, repo_type=kind, allow_patterns=[_KINDS[section]])).name
    except Exception as error:  # the hub's own errors differ by version
        instead = "model=local model.path=DIR" if section == "model" else "data=files data.train=FILE"
        raise MissingError(
            f"{section}.hub_id={hub_id}: not on this machine, and the hub cannot be asked for its newest "
            f"commit ({type(error).__name__}); check the name and the network, set {section}.revision to a "
            f"commit that this machine has, or use {instead}; {WITHOUT_HUB}"
        ) from None
