"""The two ways to classify with a network: a head on top of it, or the likelihood of the labels' words."""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import peft
import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.nn import functional
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, DynamicCache, PreTrainedConfig
from transformers.cache_utils import Cache, DummyLayer, DynamicLayer, DynamicSlidingWindowLayer

from bench.config.schema import DistillationConfig
from bench.data import tokens
from bench.data.prompt import Prompt
from bench.data.teaching import UNLABELLED, Teaching
from bench.data.tokenised import TokenisedSplit, join, number_texts

SMALLEST = 1e-15  # probability of a teacher, whose logarithm is finite then
GAMMA = 2.0  # of the focal loss, the value of its paper
NOTHING = -100  # in place of a token where an answer is over; what cross_entropy ignores
_KEPT = (DynamicLayer, DynamicSlidingWindowLayer, DummyLayer)  # layers of a cache that hold nothing else
_UNLIKE = ("dory", "moshi")  # one reads its cache by itself, the other's window is of its cache alone
_BOTH_WAYS = ("chatglm",)  # whose tokens of a prompt see what follows them
_STEMS = 8  # that take about the memory of a sequence read whole, where their prompt is read once

Inputs = Mapping[str, torch.Tensor]  # input_ids, attention_mask: (rows, length); task: (rows,)
Weigh = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # losses and labels of rows -> losses: (rows,)


class Task(Protocol):
    """What the training loop asks of a way to classify, of texts or, padded on the left, of prompts."""

    @property
    def sequences(self) -> int:
        """Sequences, read whole, that take as much memory as one row does in ``score``."""

    @property
    def readings(self) -> int:
        """How often ``score`` lets the model read each row."""

    @property
    def answer_tokens(self) -> int:
        """Tokens that ``score`` lets the model read behind each row, at all or in each reading."""

    def count(self, labels: torch.Tensor) -> int:
        """Count the predictions over which the loss of these rows is averaged. # labels: (rows,)"""

    def losses(self, model: nn.Module, inputs: Inputs, labels: torch.Tensor) -> torch.Tensor:
        """Compute each row's loss, summed over its predictions. # (rows,)"""

    def score(self, model: nn.Module, inputs: Inputs) -> torch.Tensor:
        """Compute numbers that ``normalise`` makes probabilities of. # (rows, labels)"""

    def normalise(self, scores: torch.Tensor) -> torch.Tensor:
        """Return the labels' probabilities, by softmax or of several by sigmoid. # (rows, labels)"""


@dataclass(frozen=True, eq=False)
class SequenceClassification:
    """A head with one output for each label, and texts with one label, or with any of the sets.

    Of several tasks each has a part of the outputs for a head; others are minus infinity for its texts, so
    that softmax, loss and gradient are those of this head alone.
    """

    sequences: int = 1
    readings: int = 1
    answer_tokens: int = 0
    # the labels that each number in ``labels`` stands for, None: the one label. # (combinations, labels)
    sets: npt.NDArray[np.bool_] | None = None
    # the labels that a text of each task can have, None: there is one task. # (tasks, labels)
    heads: npt.NDArray[np.bool_] | None = None

    def count(self, labels: torch.Tensor) -> int:
        """Count the rows."""
        return len(labels)

    def losses(self, model: nn.Module, inputs: Inputs, labels: torch.Tensor) -> torch.Tensor:
        """Compute the cross-entropy of the head's outputs, or of several labels their mean binary one."""
        scores = self.score(model, inputs)
        if self.sets is None:
            return functional.cross_entropy(scores, labels, reduction="none")
        targets = self._targets.to(labels.device)[labels]  # (rows, labels)
        return functional.binary_cross_entropy_with_logits(scores, targets, reduction="none").mean(-1)

    def score(self, model: nn.Module, inputs: Inputs) -> torch.Tensor:
        """Return the head's outputs, of several tasks those of each text's own."""
        of_texts = {name: value for name, value in inputs.items() if name != tokens.TASK}
        logits: torch.Tensor = model(**of_texts).logits.float()
        if self.heads is None:
            return logits
        return logits.masked_fill(~self._heads.to(logits.device)[inputs[tokens.TASK]], -math.inf)

    def normalise(self, scores: torch.Tensor) -> torch.Tensor:
        """Return the softmax over the labels, or of several the sigmoid of each."""
        return functional.softmax(scores, dim=-1) if self.sets is None else scores.sigmoid()

    @cached_property
    def _targets(self) -> torch.Tensor:
        return torch.tensor(self.sets, dtype=torch.float32)

    @cached_property
    def _heads(self) -> torch.Tensor:
        return torch.tensor(self.heads)


@dataclass(frozen=True, eq=False)
class Distillation:
    """A head that learns labels and a teacher's probabilities (Hinton et al., arXiv:1503.02531, section 2).

    A text's loss is (1 - w) cross-entropy + w T^2 KL(teacher at T || student at T), of a text without a label
    the second part alone, of one that the teacher was not asked about the first. At T a model's logits are
    divided by T before the softmax; a teacher's logits are the logarithms of its probabilities, up to a
    number that all labels share and the softmax does not see.
    What a training batch has for labels are places in the tables here.
    """

    labels: npt.NDArray[np.int64]  # of each text, NOTHING without one. # (texts,)
    taught: npt.NDArray[np.float64]  # the teacher's probabilities, NaN without them. # (texts, labels)
    weight: float
    temperature: float
    sequences: int = 1
    readings: int = 1
    answer_tokens: int = 0

    def count(self, labels: torch.Tensor) -> int:
        """Count the rows."""
        return len(labels)

    def losses(self, model: nn.Module, inputs: Inputs, labels: torch.Tensor) -> torch.Tensor:
        """Compute each text's loss."""
        own, taught = (table.to(labels.device)[labels] for table in self._tables)
        scores = self.score(model, inputs)
        log_student = functional.log_softmax(scores / self.temperature, dim=-1)
        divergences = functional.kl_div(log_student, taught, reduction="none").sum(-1)  # (rows,)
        hard = functional.cross_entropy(
            scores, own, reduction="none", ignore_index=NOTHING
        )  # 0 without a label
        return (1 - self.weight) * hard + self.weight * self.temperature**2 * divergences

    def score(self, model: nn.Module, inputs: Inputs) -> torch.Tensor:
        """Return the head's outputs."""
        logits: torch.Tensor = model(**inputs).logits.float()
        return logits

    def normalise(self, scores: torch.Tensor) -> torch.Tensor:
        """Return the softmax over the labels."""
        return functional.softmax(scores, dim=-1)

    @cached_property
    def _tables(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Hold the labels, and the teacher's probabilities at T or 0. # (texts,), (texts, labels)"""
        logits = np.log(np.maximum(self.taught, SMALLEST)) / self.temperature
        at_temperature = functional.softmax(torch.from_numpy(logits), dim=-1)
        return torch.from_numpy(self.labels), at_temperature.nan_to_num(0.0).float()  # 0: no divergence


@dataclass(frozen=True)
class LabelLikelihood:
    """A causal language model that writes the label's words after the prompt (PEFT's CAUSAL_LM).

    The loss is that of the answer's tokens alone, averaged over the answers' tokens of a whole step as
    transformers.Trainer does it: up to that scale the likelihood of the labels. A label's score is the sum
    of its tokens' log-probabilities, not their mean: the sum is the logarithm of the probability that the
    model writes this label, so the softmax is the probability of each label given that it writes one of them.

    The output layer sees an answer's positions only, as many as the longest answer has tokens: over a
    vocabulary of 130,000 words the logits of a whole prompt would take more memory than the rest.

    To score, the model reads each prompt once, and then each stem, a way that answers begin up to their last
    token, against the keys and values that it keeps of the prompt. Where an architecture has no such keys and
    values (``keeps_keys``), it reads each prompt again before each stem.

    Examples stand before every prompt. After ``read_examples`` their keys and values serve all prompts; where
    these would be others for each prompt (``shares_examples`` is false) they are read again with each.
    """

    prompt: Prompt
    keeps_keys: bool
    shares_examples: bool = False
    examples: Cache | None = None  # of one row

    @property
    def sequences(self) -> int:
        """One for each stem, or for each eight of them that share their prompt's keys and values."""
        return math.ceil(len(self._stems) / _STEMS) if self.readings == 1 else self.readings

    @property
    def readings(self) -> int:
        """One, or one for each stem."""
        return 1 if self.keeps_keys else len(self._stems)

    @property
    def answer_tokens(self) -> int:
        """The tokens of all stems, or in each reading those of one, padding included."""
        length = max(map(len, self._stems))
        return length * len(self._stems) if self.readings == 1 else length

    def count(self, labels: torch.Tensor) -> int:
        """Count the tokens of the rows' answers."""
        return int((self._taught[labels] != NOTHING).sum())

    def losses(self, model: nn.Module, inputs: Inputs, labels: torch.Tensor) -> torch.Tensor:
        """Compute the cross-entropy of the answers' tokens, the end included."""
        targets = self._taught.to(labels.device)[labels]  # (rows, tokens)
        logits = _predict(model, inputs, targets[:, :-1])  # (rows, tokens, vocabulary)
        of_tokens = functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), reduction="none", ignore_index=NOTHING
        )
        return of_tokens.view(targets.shape).sum(-1)

    def read_examples(self, model: nn.Module) -> "LabelLikelihood":
        """Return the task with its examples read by this model, if it has any that prompts can share."""
        if not self.shares_examples:
            return self
        ids = torch.tensor([self.prompt.examples], device=next(model.parameters()).device)
        output = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=True, logits_to_keep=1)
        return replace(self, examples=output.cache)

    def score(self, model: nn.Module, inputs: Inputs) -> torch.Tensor:
        """Compute each label's log-likelihood; labels alike up to their last token share a stem."""
        device = inputs["input_ids"].device
        targets = _pad_right(self.prompt.scored).to(device)  # (labels, tokens)
        stems = _pad_right(self._stems, length=targets.shape[1] - 1).to(device)  # (stems, tokens - 1)
        stem = torch.tensor([self._stems.index(one[:-1]) for one in self.prompt.scored], device=device)
        read: Callable[..., tuple[torch.Tensor, torch.Tensor]]
        if self.examples is not None:
            read = partial(_read_once, examples=self.examples)
        else:
            inputs = self._precede(inputs)
            read = _read_once if self.keeps_keys and stems.shape[1] else _read_for_each
        first, later = read(model, _pad_left(inputs), stems)
        place = torch.arange(stems.shape[1], device=device)
        chosen = later[:, stem[:, None], place, targets[:, 1:].clamp(min=0)]  # (rows, labels, tokens - 1)
        sums = torch.stack([row.float().logsumexp(-1) for row in later])  # a copy of one row at a time
        of_later = chosen.float() - sums[:, stem]
        of_first = first[:, targets[:, 0]] - first.logsumexp(-1, keepdim=True)  # (rows, labels)
        return of_first + of_later.masked_fill(targets[:, 1:] == NOTHING, 0.0).sum(-1)

    def normalise(self, scores: torch.Tensor) -> torch.Tensor:
        """Return the probability of each label, given that the model writes one of them."""
        return functional.softmax(scores, dim=-1)

    def _precede(self, inputs: Inputs) -> Inputs:
        """Put the examples before each prompt, if there are any."""
        if not self.prompt.examples:
            return inputs
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        examples = ids.new_tensor(self.prompt.examples).expand(len(ids), -1)
        return {
            "input_ids": torch.cat([examples, ids], dim=1),
            "attention_mask": torch.cat([torch.ones_like(examples), mask], dim=1),
        }

    @cached_property
    def _taught(self) -> torch.Tensor:
        return _pad_right(self.prompt.answers)  # (labels, tokens)

    @cached_property
    def _stems(self) -> list[tuple[int, ...]]:
        return list(dict.fromkeys(answer[:-1] for answer in self.prompt.scored))


def choose_weights(loss: str, counts: npt.NDArray[Any], device: torch.device) -> Weigh | None:
    """Return how each row's loss counts, or None where all rows count alike.

    weighted: in inverse proportion to its label's rows in train, so that each label counts as much as any
    other; the mean over train's rows is 1. focal: by (1 - p)^GAMMA, where p is the probability of the true
    label, or that the model writes it (Lin et al., "Focal Loss", arXiv:1708.02002, equation 4).

    Args:
        counts: rows of each label in train. # (labels,)
    """
    if loss == "weighted":
        inverse = torch.tensor(counts.sum() / (len(counts) * counts), dtype=torch.float32, device=device)
        return lambda losses, labels: losses * inverse[labels]
    if loss == "focal":  # a row's loss is -log p
        return lambda losses, _: losses * (-torch.expm1(-losses)) ** GAMMA
    return None


class Texts(NamedTuple):
    """A data set as a model's token ids, how its batches are padded, and what the model makes of them."""

    splits: dict[str, TokenisedSplit]
    padding: tokens.Padding
    task: Task


def make(
    prompt: Prompt | None,
    architecture: PreTrainedConfig,
    sets: npt.NDArray[np.bool_] | None = None,
    heads: npt.NDArray[np.bool_] | None = None,
) -> Task:
    """Make the architecture's task of inputs that are such prompts, or of texts as they are.

    Args:
        sets: as of a data set, if its texts have several labels. # (combinations, labels)
        heads: as of a data set, if it has several tasks. # (tasks, labels)
    """
    if prompt is None:
        return SequenceClassification(sets=sets, heads=heads)
    shares = prompt.examples != () and shares_examples(architecture)
    return LabelLikelihood(prompt, keeps_keys(architecture), shares)


def distil(
    splits: Mapping[str, TokenisedSplit], teaching: Teaching | None, settings: DistillationConfig
) -> tuple[dict[str, TokenisedSplit], Task]:
    """Put the unlabelled texts behind those of train, and make the task of learning both from a teacher."""
    assert teaching is not None  # prepared with the texts
    labelled, asked = splits["train"], splits.get(UNLABELLED)
    own = labelled.text_labels
    labels = np.full(len(teaching.probabilities), NOTHING)
    labels[: len(own)] = own
    train = number_texts(labelled) if asked is None else join(labelled, asked)
    task = Distillation(labels, teaching.probabilities, settings.weight, settings.temperature)
    return {**{name: one for name, one in splits.items() if name != UNLABELLED}, "train": train}, task


def keeps_keys(architecture: PreTrainedConfig) -> bool:
    """Return whether the model keeps keys and values of what it has read, and nothing else.

    Recurrent layers keep a state instead (Falcon-H1, Qwen3-Next), sparse attention an index beside them.
    """
    kind: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(architecture), None)
    if kind is None or architecture.model_type in _UNLIKE:
        return False
    takes_cache = "cache" in inspect.signature(kind.forward).parameters
    layers = DynamicCache(config=architecture).layers
    return (
        takes_cache
        and kind._supports_default_dynamic_cache()
        and all(type(layer) in _KEPT for layer in layers)
    )


def shares_examples(architecture: PreTrainedConfig) -> bool:
    """Return whether what a model keeps of a prompt's beginning is the same, whatever follows.

    It is not where a text is read in both directions. In a sliding window it would do, but the padding that
    stands between examples and prompts would take up places, as where a model takes no positions.
    """
    kind: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(architecture), None)
    return (
        keeps_keys(architecture)
        and "position_ids" in inspect.signature(kind.forward).parameters
        and architecture.model_type not in _BOTH_WAYS
        and all(type(layer) is DynamicLayer for layer in DynamicCache(config=architecture).layers)
    )


def _pad_right(answers: Sequence[tuple[int, ...]], *, length: int | None = None) -> torch.Tensor:
    """Put the answers in rows, the shorter ones filled up with NOTHING. # (answers, length)"""
    length = max(map(len, answers)) if length is None else length
    rows = [[*answer, *[NOTHING] * (length - len(answer))] for answer in answers]
    return torch.tensor(rows, dtype=torch.int64).reshape(len(rows), length)


def _predict(model: nn.Module, inputs: Inputs, stems: torch.Tensor) -> torch.Tensor:
    """Compute the logits from the prompt's last token on, where each prompt is followed by its stem.

    Args:
        stems: what is read after each prompt, an answer without its last token. # (rows, tokens - 1)
    """
    logits: torch.Tensor = model(
        input_ids=torch.cat([inputs["input_ids"], stems.clamp(min=0)], dim=1),
        attention_mask=torch.cat([inputs["attention_mask"], (stems != NOTHING).long()], dim=1),
        logits_to_keep=stems.shape[1] + 1,
    ).logits
    return logits.float()  # (rows, tokens, vocabulary)


def _pad_left(inputs: Inputs) -> Inputs:
    """Move the padding before the prompts, whichever side it is on."""
    order = inputs["attention_mask"].argsort(dim=1, stable=True)
    return {name: value.gather(1, order) for name, value in inputs.items()}


def _read_for_each(
    model: nn.Module, inputs: Inputs, stems: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the same as _read_once, and read each prompt again before each stem."""
    repeated = {name: value.repeat_interleave(len(stems), 0) for name, value in inputs.items()}
    rows = len(inputs["input_ids"])
    logits = _predict(model, repeated, stems.repeat(rows, 1))
    logits = logits.view(rows, len(stems), *logits.shape[1:])
    return logits[:, 0, 0], logits[:, :, 1:]


def _read_once(
    model: nn.Module, inputs: Inputs, stems: torch.Tensor, *, examples: Cache | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the logits of the first token after each prompt, and of the next after each token of a stem.

    Args:
        examples: what the model keeps of the examples that stand before every prompt, as one row

    Returns:
        (rows, vocabulary) and (rows, stems, tokens - 1, vocabulary).
    """
    network: Any = getattr(model, "module", model)  # as it is before accelerate wraps it
    base: Any = network.get_base_model() if isinstance(network, peft.PeftModel) else network
    rows, (count, length) = len(inputs["input_ids"]), stems.shape
    if examples is None:
        output = model(**inputs, use_cache=True, logits_to_keep=1)
    else:
        cache = DynamicCache()
        cache.layers = [_AfterExamples(layer) for layer in examples.layers]
        output = base(**_go_on(base, inputs, cache, length=inputs["input_ids"].shape[1], logits_to_keep=1))
    first: torch.Tensor = output.logits[:, -1].float()
    if not length:
        return first, first.new_empty(rows, count, 0, first.shape[-1])
    for layer in output.cache.layers:
        layer.update = partial(_append, _list_held(layer), count)
    tails = {"input_ids": stems.clamp(min=0), "attention_mask": (stems != NOTHING).long()}
    whole = {
        name: torch.cat([inputs[name].repeat_interleave(count, 0), tail.repeat(rows, 1)], dim=1)
        for name, tail in tails.items()
    }
    step = _go_on(base, whole, output.cache, length=length, logits_to_keep=length)
    # accelerate would copy all logits to fp32, but a sharded model must be asked as a whole.
    later: torch.Tensor = (model if isinstance(model, FSDPModule) else base)(**step).logits
    return first, later.view(rows, count, *later.shape[1:])


def _go_on(base: Any, inputs: Inputs, cache: Cache, *, length: int, logits_to_keep: int) -> dict[str, Any]:
    """Make the inputs with which the model reads the last ``length`` tokens, as the others are in the cache.

    The cache may begin with more than the rows have: examples, or the tokens of its own that prompt tuning
    puts before what it is given.
    """
    more = cache.get_seq_length() + length - inputs["input_ids"].shape[1]
    mask = functional.pad(inputs["attention_mask"], (more, 0), value=1)
    # Padding between examples and prompts moves these apart unless positions are counted without it.
    places = {"position_ids": mask.cumsum(1) - 1} if isinstance(cache.layers[0], _AfterExamples) else {}
    step: dict[str, Any] = base.prepare_inputs_for_generation(
        inputs["input_ids"],
        next_sequence_length=length,
        attention_mask=mask,
        cache=cache,
        use_cache=True,
        logits_to_keep=logits_to_keep,
        **places,
    )
    return step


class _AfterExamples(DynamicLayer):
    """A layer's keys and values of prompts, behind those of examples that all prompts share."""

    def __init__(self, examples: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.examples = (examples.keys, examples.values)  # (1, heads, length, width)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep what is new, and return it behind the examples."""
        self.keys, self.values, self.is_initialized = key_states, value_states, True
        return _append([self.examples], 1, key_states, value_states)

    def get_seq_length(self) -> int:
        """Count the tokens of the examples and of the prompts, padding included."""
        own = self.keys.shape[-2] if self.keys is not None else 0
        return int(self.examples[0].shape[-2]) + own


Held = tuple[torch.Tensor, torch.Tensor]  # keys and values: (rows, heads, length, width), or one row for all


def _list_held(layer: Any) -> list[Held]:
    """List what a layer holds, in the order in which it was read."""
    return [*([layer.examples] if isinstance(layer, _AfterExamples) else []), (layer.keys, layer.values)]


def _append(
    held: Sequence[Held], count: int, keys: torch.Tensor, values: torch.Tensor, *_: Any, **__: Any
) -> Held:
    """Put a layer's keys and values of stems behind those held of their prompts, once for each stem.

    Nothing of it is kept, so that a prompt takes no more memory for many stems than one layer's.

    Args:
        keys, values: (rows x stems, heads, tokens - 1, width)
    """

    def join(parts: Iterable[torch.Tensor], new: torch.Tensor) -> torch.Tensor:
        rows = len(new) // count
        copies = [part.unsqueeze(1).expand(rows, count, *part.shape[1:]) for part in parts]
        return torch.cat([*copies, new.view(rows, count, *new.shape[1:])], dim=-2).flatten(0, 1)

    return join((key for key, _ in held), keys), join((value for _, value in held), values)
