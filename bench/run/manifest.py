"""bench.json: what an exported folder says of itself, so that its texts are read as the run read them."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.config.schema import ModelConfig
from bench.data.prompt import Prompt
from bench.errors import ConfigError, MissingError
from bench.model import weights
from bench.results.confidence import Confidence
from bench.results.validity import Kind, is_amount, is_name, is_texts, misfits

NAME = "bench.json"
VERSION = 1
_KINDS: dict[str, Kind] = {  # of what is said to a user, compared or written into a record
    **{"run_id": is_name, "method": is_name, "labels": is_texts, "base": {"name": is_name}},
    **{"fingerprint": is_name, "seconds": is_amount},
}


@dataclass(frozen=True)
class Origin:
    """The model under an adapter, where this machine found it."""

    name: str
    source: str  # package | local | hub
    path: str | None
    hub_id: str | None
    revision: str | None  # a hub's commit
    content: str  # identifies the weights: the hub's name and commit, or a hash of the files


@dataclass(frozen=True)
class Manifest:
    """How to read what is beside it, as the run ``run_id`` came to it."""

    kind: str  # adapter (beside its base, which is elsewhere) | full | onnx
    run_id: str
    method: str
    task: str
    labels: list[str]  # in the order of the model's outputs
    max_length: int  # tokens; longer texts are cut
    precision: str  # what the run computed in
    quantization: str  # of the weights as this folder means them to be held: none | nf4 | fp4 | int8
    double_quant: bool
    new_modules: list[str]  # those that the base lacks and that are trained in full
    unquantised: list[str]  # modules that are never quantised: these, and heads
    base: Origin
    merged_into: str | None  # full | 4bit: which base an adapter was merged into
    template: str | None  # label_likelihood: the prompt, {text} standing for the text
    label_words: list[str] | None  # label_likelihood: what a label is called, in the labels' order
    before: list[int] | None  # token ids in front of the text's, and behind them up to the answer
    after: list[int] | None
    answers: list[list[int]] | None  # each label's words and the end, in token ids
    scored: list[list[int]] | None  # the part of them that labels are compared by
    confidence: Confidence | None = None  # by the run's validation texts; None: their predictions were gone
    members: list[str] | None = None  # folders of adapters on one base, whose probabilities are averaged
    version: int = VERSION
    # What folders of earlier versions do not say.
    pairs: bool = False  # each text comes with a second one
    between: list[int] | None = None  # token ids between the two, where a prompt stands around them
    long_texts: str = "truncate"  # one of schema.LONG_TEXTS
    text_template: str | None = None  # a text is made of a file's columns, "{title}: {body}"
    # of a run whose texts have several labels: from which probability on each is answered; None: one label
    thresholds: list[float] | None = None
    label_separator: str = "|"  # between several labels in a CSV file
    experts: int | None = None  # that gates weigh in each adapted layer; None: the adapter has no gates
    tasks: dict[str, list[str]] | None = None  # the labels that a text of each can have; None: one task
    fingerprint: str | None = None  # of the texts and splits that it was trained and chosen by
    seconds: float | None = None  # that its training took in all, or its share of a pack

    @property
    def temperature(self) -> float:
        """What scores are divided by; 1 where no temperature is known."""
        known = None if self.confidence is None else self.confidence.temperature
        return 1.0 if known is None else known

    @property
    def prompt(self) -> Prompt | None:
        """What stands around a text, or None where a head reads it as it is."""
        if self.before is None or self.after is None or self.answers is None:
            return None
        between = None if self.between is None else tuple(self.between)
        return Prompt(tuple(self.before), tuple(self.after), tuple(map(tuple, self.answers)), between=between)


def write(manifest: Manifest, folder: Path) -> None:
    """Put bench.json into the folder."""
    text = json.dumps(dataclasses.asdict(manifest), indent=1, ensure_ascii=False)
    (folder / NAME).write_text(text + "\n", encoding="utf-8")


def read(folder: Path) -> Manifest:
    """Read the folder's bench.json.

    Raises:
        ConfigError: the folder is not one that bench has exported.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: there is no such folder; give one that `bench export` has made")
    path = folder / NAME
    if not path.is_file():
        raise ConfigError(f"{folder}: holds no {NAME}; give a folder that `bench export` has made")
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if values["version"] != VERSION:
            raise ConfigError(
                f"{path}: has the version {values['version']}, expected {VERSION}; export again"
            )
        if fault := next(misfits(values, _KINDS, ""), None if values["labels"] else "it has no labels"):
            raise ValueError(fault)
        confidence = Confidence(**values["confidence"]) if values.get("confidence") else None
        return Manifest(**{**values, "base": Origin(**values["base"]), "confidence": confidence})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); export the run again") from None


def locate(base: Origin) -> Path:
    """Return the folder of the base, known to be the one that the adapter was trained on.

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
