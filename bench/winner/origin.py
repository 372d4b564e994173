"""The base model under an adapter, found on this machine and known to be the one it was trained on."""

from pathlib import Path

from bench.config.schema import ModelConfig
from bench.errors import ConfigError, MissingError
from bench.model import weights
from bench.winner.manifest import Origin


def locate(base: Origin) -> Path:
    """Return the folder of the base.

    Raises:
        ConfigError: it is another one than the adapter was trained on.
        MissingError: it is not on this machine.
    """
    source = ModelConfig(
        name=base.name,
        source=base.source,
        path=base.path,
        hub_id=base.hub_id,
        revision=base.revision,
        template="{text}",
        weights="saved",
        target_modules="auto",
        precision="auto",
        architecture=None,
    )
    folder = weights.locate(source)
    if folder is None:
        raise MissingError(f"{base.name}: has random weights; use a run on saved ones")
    if (content := weights.revision(source)) != base.content:
        raise ConfigError(
            f"{folder}: is {content} now and was {base.content} when the run was trained, so that what it "
            "trained no longer fits; bring back the base as it was, or train again"
        )
    return folder
