"""A trained classifier in memory, from a run or an exported folder: texts in, probabilities out."""

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import compress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import peft
import torch
from safetensors import SafetensorError
from scipy.special import expit, logit
from torch import nn
from transformers import AutoConfig, set_seed

from bench.config import schema
from bench.config.schema import Config
from bench.data import dataset, tokens
from bench.data import prompt as prompts
from bench.data.prompt import Prompt
from bench.data.sources import Text
from bench.data.tasks import name_labels, strip_task
from bench.data.tokenised import TokenisedSplit
from bench.data.windows import pool
from bench.errors import ConfigError, DataError, first_line
from bench.model import build, decoder, encoder, onnx
from bench.model.adapters import adapter, gates
from bench.results.confidence import SMALLEST
from bench.results.several import decide
from bench.results.store import Result, Store
from bench.run import app
from bench.run import manifest as manifests
from bench.run.manifest import Manifest, Origin, locate
from bench.run.teacher import count_seconds
from bench.spelling import guess
from bench.train import task as tasks
from bench.train.device import choose_device, choose_precision
from bench.winner.choose import find_weights
from bench.winner.selective import read_confidence

BATCH_SIZE = 64
_OF_A_RUN = ("task", "seed", "method", "lora", "model", "data", "train")  # the rest is of where it ran


@dataclass(frozen=True)
class LabelPrediction:
    """What a text is taken for."""

    label: str | list[str] | None  # a list where texts may have several; None: none of these
    probabilities: dict[str, float]  # by label, in the declared order
    reason: str | None = None  # why there is no label


class Scorer(Protocol):
    """What a classifier makes of a batch; a part of train's Task."""

    @property
    def sequences(self) -> int:
        """Sequences, read whole, that take as much memory as one row does in ``score``."""

    def score(self, model: nn.Module, inputs: tasks.Inputs) -> torch.Tensor:
        """Compute numbers that ``normalise`` makes probabilities of. # (rows, labels)"""


@dataclass(frozen=True)
class Classifier:
    """A network that reads texts exactly as its run did."""

    model: nn.Module
    tokenizer: Any
    manifest: Manifest
    precision: str
    device: torch.device
    min_confidence: float = 0.0  # a text whose highest probability is less has no label
    mixed: Scorer | None = None  # of several adapters on one base, one for each task; None: one network

    def predict(
        self,
        texts: Sequence[Text],
        *,
        tasks: Sequence[str] | None = None,
        batch_size: int = BATCH_SIZE,
        advance: Callable[[int], object] | None = None,
    ) -> list[LabelPrediction]:
        """Return each text's label and probabilities, in the order of the texts; a pair is a tuple of two.

        Of a classifier of several tasks ``tasks`` says each text's, and it is answered by that one's labels.
        ``advance`` is told of every batch how many texts it held.

        Raises:
            DataError: a text is empty, or the tokenizer finds nothing in it.
            ConfigError: a text's task is not said, or is none of the classifier's.
        """
        if not texts:
            return []
        thresholds = self.manifest.thresholds
        scores = self.score(texts, tasks=tasks, batch_size=batch_size, advance=advance)
        probabilities = normalise(scores, thresholds)
        answers = decide(probabilities, None if thresholds is None else np.array(thresholds))
        owners = tasks or [""] * len(texts)
        return [self._name(*one) for one in zip(probabilities, answers, owners, strict=True)]

    def _name(
        self, row: npt.NDArray[np.float64], answer: npt.NDArray[np.bool_], task: str
    ) -> LabelPrediction:
        """Name the text's label or labels as its task does, or say why there is none. # both (labels,)"""
        labels, surest = self.manifest.labels, float(row.max())
        probabilities = dict(zip(labels, map(float, row), strict=True))
        if self.manifest.tasks is not None:
            probabilities = {
                strip_task(label, task): probabilities[label] for label in self.manifest.tasks[task]
            }
            labels = [strip_task(label, task) for label in labels]
        if surest < self.min_confidence:
            reason = f"the highest probability, {surest:.4f}, is below {self.min_confidence:g}"
            return LabelPrediction(None, probabilities, reason)
        answered = [*compress(labels, answer)]
        return LabelPrediction(answered[0] if self.manifest.thresholds is None else answered, probabilities)

    def score(
        self,
        texts: Sequence[Text],
        *,
        tasks: Sequence[str] | None = None,
        batch_size: int = BATCH_SIZE,
        advance: Callable[[int], object] | None = None,
    ) -> npt.NDArray[np.float64]:
        """Return numbers that ``normalise`` makes probabilities of, with the run's temperature in them.

        Those of a text that is read in windows are the mean of these; those of another task than the text's
        are minus infinity.

        Returns:
            # (texts, labels)
        """
        split = self.tokenise(texts, tasks)
        rows, members = max(1, batch_size // self.task.sequences), self.manifest.members
        if not members:
            return self._score(split, rows, advance) / self.manifest.temperature
        network: Any = self.model
        parts = []
        for place, name in enumerate(members):
            network.set_adapter(name)
            told = advance if place == len(members) - 1 else None
            scores = self._score(split, rows, told)
            parts.append(normalise(scores, self.manifest.thresholds))  # (texts, labels)
        mean = np.mean(parts, axis=0)
        if self.manifest.thresholds is not None:
            return np.asarray(logit(mean))
        return np.asarray(np.log(np.maximum(mean, SMALLEST)) / self.manifest.temperature)

    def _score(
        self, split: TokenisedSplit, rows: int, advance: Callable[[int], object] | None
    ) -> npt.NDArray[np.float64]:
        """Return the scores of the network as it is, in batches of so many rows. # (texts, labels)"""
        scores = np.empty((len(split), len(self.manifest.labels)))
        owners = split.owners if len(split.owners) else np.arange(len(split))
        ends = np.diff(owners, append=len(split)) > 0  # the last row of each text
        self.model.eval()
        with torch.inference_mode(), self.autocast():
            for numbers, batch in tokens.eval_batches(split, batch_size=rows, padding=self.padding):
                inputs = {name: value.to(self.device) for name, value in batch.items() if name != "labels"}
                scores[numbers] = self.task.score(self.model, inputs).double().cpu().numpy()
                if advance is not None:
                    advance(int(ends[numbers].sum()))
        return pool(scores, split.owners)

    def tokenise(self, texts: Sequence[Text], tasks: Sequence[str] | None = None) -> TokenisedSplit:
        """Return the texts in token ids, cut to the run's length, in its prompt if it had one.

        Raises:
            DataError: a text is empty or lacks its second one, or the tokenizer finds nothing in it.
            ConfigError: as predict.
        """
        numbers = self._number_tasks(tasks, len(texts))
        for number, text in enumerate(texts):
            if isinstance(text, str) == self.manifest.pairs:
                wanted = "two texts at a time, as a pair" if self.manifest.pairs else "one text at a time"
                raise DataError(f"text {number + 1} of {len(texts)}: {self.manifest.run_id} reads {wanted}")
            if not all(part.strip() for part in ([text] if isinstance(text, str) else text)):
                raise DataError(f"text {number + 1} of {len(texts)} is empty; remove it")
        split = tokens.tokenise_texts(
            list(texts),
            np.zeros(len(texts), dtype=np.int64),
            self.tokenizer,
            max_length=self.manifest.max_length,
            prompt=self.manifest.prompt,
            split="texts",
            types=self.reads_types,
            long_texts=self.manifest.long_texts,
        )
        return split if numbers is None else split.of_tasks(numbers)

    def _number_tasks(self, tasks: Sequence[str] | None, count: int) -> npt.NDArray[np.int64] | None:
        """Return the number of each text's task; None of a classifier that has one. # (texts,)"""
        known, run = self.manifest.tasks, self.manifest.run_id
        if known is None:
            if tasks is not None:
                raise ConfigError(f"task {tasks[0]}: {run} has one task; leave it out")
            return None
        names = list(known)
        if tasks is None or len(tasks) != count:
            raise ConfigError(
                f"{run} has several tasks: say which each text is of; there are {', '.join(names)}"
            )
        if unknown := [one for one in tasks if one not in names]:
            near = guess(unknown[0], names)
            raise ConfigError(
                f"task {unknown[0]}: {run} has no such task{near or ';'} there are {', '.join(names)}"
            )
        return np.array([names.index(one) for one in tasks], dtype=np.int64)

    @property
    def reads_types(self) -> bool:
        """Whether it is told which of two texts each token is of."""
        network: Any = self.model
        is_prompted = self.manifest.prompt is not None
        return self.manifest.pairs and not is_prompted and encoder.takes_types(network.config)

    @property
    def base(self) -> Any:
        """The network without its adapter, if it has one."""
        network: Any = self.model
        return network.get_base_model() if self.manifest.kind == "adapter" else network

    @cached_property
    def task(self) -> Scorer:
        """What it makes of a batch."""
        network: Any = self.model
        return self.mixed or tasks.make(self.manifest.prompt, network.config, heads=self._heads)

    @property
    def _heads(self) -> npt.NDArray[np.bool_] | None:
        """The labels that a text of each task can have, None of one task. # (tasks, labels)"""
        if self.manifest.tasks is None:
            return None
        return np.array(
            [[label in own for label in self.manifest.labels] for own in self.manifest.tasks.values()]
        )

    @cached_property
    def padding(self) -> tokens.Padding:
        """How shorter texts are filled up; prompts on the left, as answers follow them."""
        padding = tokens.Padding.of(self.tokenizer)
        return padding if self.manifest.prompt is None else dataclasses.replace(padding, side="left")

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Compute in the classifier's precision."""
        return torch.autocast(
            self.device.type, dtype=build.DTYPES[self.precision], enabled=self.precision != "fp32"
        )


def normalise(scores: npt.NDArray[np.float64], thresholds: npt.ArrayLike | None) -> npt.NDArray[np.float64]:
    """Return the probabilities of scores, each label's own where several have thresholds. # (rows, labels)"""
    if thresholds is not None:
        return np.asarray(expit(scores))
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def rebuild(store: Store, result: Result) -> Classifier:
    """Build the run's network as it was at its best validation score, from base and seed.

    Raises:
        ConfigError: the run is of a kind that leaves no network, or its base has changed since.
        MissingError: the weights were not kept, or the base is not on this machine.
    """
    path = find_weights(store, result)
    classifier = begin(store, result)
    build.load_trained(classifier.model, path)
    return dataclasses.replace(classifier, model=classifier.model.requires_grad_(False).eval())


def begin(store: Store, result: Result) -> Classifier:
    """Build the run's network as it was when training began, its trained weights marked."""
    config = read_config(result)
    manifest = dataclasses.replace(_describe(result, config), confidence=read_confidence(store, result))
    folder = locate(manifest.base)
    device = choose_device("auto")
    precision = manifest.precision
    tokenizer = build.load_tokenizer(folder)
    with quiet():
        set_seed(config.seed)  # some adapters' starts are random, and change the base
        network = build.build(
            config,
            folder=folder,
            labels=result.labels,
            pad_token_id=tokenizer.pad_token_id,
            device=device,
            precision=precision,
        )
    if config.method.update == "merge":
        adapter.merge(network.model, find_weights(store, result))
    begun = Classifier(network.model, tokenizer, manifest, precision, device)
    if manifest.thresholds is not None:  # so that others read its outputs by sigmoid too
        begun.base.config.problem_type = "multi_label_classification"
    unquantised = sorted({*build.head_names(begun.base), *manifest.new_modules})
    manifest = dataclasses.replace(manifest, unquantised=unquantised)
    if manifest.task == "label_likelihood":
        words = dict(zip(manifest.labels, manifest.label_words or [], strict=True))
        prompt = prompts.make(tokenizer, template=str(manifest.template), words=words, pairs=manifest.pairs)
        manifest = with_prompt(manifest, prompt)
    return dataclasses.replace(begun, manifest=manifest)


def with_prompt(manifest: Manifest, prompt: Prompt) -> Manifest:
    """Return the manifest with the prompt in token ids."""
    return dataclasses.replace(
        manifest,
        before=list(prompt.before),
        between=None if prompt.between is None else list(prompt.between),
        after=list(prompt.after),
        answers=[list(answer) for answer in prompt.answers],
        scored=[list(one) for one in prompt.scored],
    )


def load(folder: str | Path, *, quantization: str | None = None, precision: str | None = None) -> Classifier:
    """Return the classifier in a folder that ``bench export`` or ``bench merge`` has made; ONNX on the CPU.

    ``quantization`` holds its frozen weights otherwise than the folder says, none or nf4; ``precision`` is
    what is computed in, and by default what the run computed in.

    Raises:
        ConfigError: the folder is not such a one, or is damaged, or its base has changed since.
        MissingError: an adapter's base is not on this machine, or ONNX's packages are not installed.
    """
    folder = Path(folder)
    manifest = manifests.read(folder)
    if manifest.kind == "onnx":
        session = onnx.load(folder)
        return Classifier(session, build.load_tokenizer(folder), manifest, "fp32", torch.device("cpu"))
    if quantization is not None:
        manifest = dataclasses.replace(manifest, quantization=quantization, double_quant=True)
    device = choose_device("auto")
    precision = precision or fitting_precision(manifest.precision, device)
    try:
        with quiet():
            folders = [folder / name for name in manifest.members or [""]]
            network = _load_network(folders, manifest, device=device, precision=precision)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise ConfigError(
            f"{folder}: its model does not load ({first_line(error)}); export it again"
        ) from None
    tokenizer = build.load_tokenizer(folders[0])
    return Classifier(network.requires_grad_(False).eval(), tokenizer, manifest, precision, device)


def fitting_precision(recorded: str, device: torch.device) -> str:
    """Return the run's precision where this device is quick in it, else the device's best."""
    if recorded == "fp32" or device.type == "cuda":
        return recorded
    return choose_precision("auto", device)


def read_config(result: Result) -> Config:
    """Return the run's configuration, for any device, with nothing for training only."""
    with app.composing() as compose:
        defaults = compose([])
    config = schema.from_record(
        defaults, {name: result.config[name] for name in _OF_A_RUN if name in result.config}
    )
    plain: dict[str, Any] = {"gradient_checkpointing": False, "distributed": "none", "processes": 1}
    if config.train.attention == "flash_attention_2":  # the same numbers, on any device
        plain["attention"] = "auto"
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **plain))


def _describe(result: Result, config: Config) -> Manifest:
    """Return the run's manifest, but for what only its network and its tokenizer know."""
    source, is_prompted = config.model, config.task == "label_likelihood"
    path = str(Path(source.path).resolve()) if source.source == "local" and source.path else source.path
    content = str(result.canonical_config["model"]["revision"])
    return Manifest(
        kind="adapter" if config.method.trainable == "adapter" else "full",
        run_id=result.run_id,
        method=config.method.name,
        task=config.task,
        labels=list(result.labels),
        max_length=int(result.model.get("max_length", config.train.max_length)),
        precision=fitting_precision(str(result.model["precision"]), choose_device("auto")),
        quantization=config.method.quantization,
        double_quant=config.method.double_quant,
        new_modules=list(result.model["new_modules"]),
        unquantised=[],
        base=Origin(source.name, source.source, path, source.hub_id, source.revision, content=content),
        merged_into=None,
        template=source.template if is_prompted else None,
        label_words=list(dataset.name_labels(result.labels, config.data).values()) if is_prompted else None,
        before=None,
        after=None,
        answers=None,
        scored=None,
        pairs=config.data.text_pair_column is not None,
        text_template=config.data.text_template,
        long_texts=config.data.long_texts,
        thresholds=[result.model["thresholds"][label] for label in result.labels]
        if config.data.multi_label
        else None,
        label_separator=config.data.label_separator,
        experts=config.method.experts,
        tasks=_list_tasks(result),
        fingerprint=result.data.get("fingerprint"),
        seconds=count_seconds(result),
    )


def _list_tasks(result: Result) -> dict[str, list[str]] | None:
    """List the run's labels by task, as its record has them; None where it has one task."""
    described = result.data.get("tasks") or {}
    return {task: [*name_labels({task: one["labels"]})] for task, one in described.items()} or None


def _load_network(
    folders: Sequence[Path], manifest: Manifest, *, device: torch.device, precision: str
) -> nn.Module:
    """Load the network of a folder, or the adapters of several folders on one base."""
    folder, is_adapter = folders[0], manifest.kind == "adapter"
    base = load_base(folder, manifest, device=device, precision=precision)
    network = base
    if is_adapter and manifest.experts is not None:
        adapters = {_name_adapter(one, manifest): one for one in folders}
        network = gates.read_routed(base, adapters, experts=manifest.experts)
    elif is_adapter:
        network = peft.PeftModel.from_pretrained(base, folder, adapter_name=_name_adapter(folder, manifest))
    for other in folders[1:] if manifest.experts is None else ():
        network.load_adapter(other, adapter_name=other.name)
    cast_products(network, build.DTYPES[precision])
    placed: nn.Module = network.to(device)
    return placed


def load_base(folder: Path, manifest: Manifest, *, device: torch.device, precision: str) -> Any:
    """Load the network of a folder, of an adapter the one that it is for, with a new head."""
    settings = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    is_adapter = manifest.kind == "adapter"
    held = build.quantization_config(manifest, build.DTYPES[precision], manifest.unquantised)
    base = build.read_checkpoint(
        build.HEADS[manifest.task],
        locate(manifest.base) if is_adapter else folder,
        config=settings,
        dtype=build.DTYPES[precision] if is_adapter or held is not None else "auto",
        quantization_config=held,
        device_map={"": device} if held is not None and device.type == "cuda" else None,
        ignore_mismatched_sizes=is_adapter,  # the base's own head, which the adapter replaces
    )
    build.keep_unpacked(base)
    decoder.ignore_padding(base)
    encoder.read_first_token_only(base)
    for name in manifest.new_modules:  # so that what was trained is not rounded when it is put there
        base.get_submodule(name).float()
    return base


def _name_adapter(folder: Path, manifest: Manifest) -> str:
    return folder.name if manifest.members else "default"


def cast_products(network: nn.Module, dtype: torch.dtype) -> None:
    """Round the weights of matrix products once, as autocast would before each product."""
    for module in network.modules():
        if type(module) is nn.Linear:  # 4-bit layers are of another type
            module.to(dtype)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Inside, transformers does not warn that a head is new, as its weights follow, and draws no bars."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*gradient_checkpointing.* is deprecated", FutureWarning)
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
