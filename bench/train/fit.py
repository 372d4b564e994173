"""Fits classifiers, networks or baselines, and has them classify the held-out texts."""

import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from transformers import set_seed

from bench.config.batch import count_steps
from bench.config.identity import teaches, writes_labels
from bench.config.schema import AS_IT_IS, SINGLE_LABEL, Config, TrainConfig
from bench.data import prompt as prompts
from bench.data import tokens
from bench.data.dataset import Dataset, name_labels
from bench.data.tokenised import TokenisedSplit
from bench.errors import ConfigError, RunError
from bench.model import build, encoder, positions, trained, weights
from bench.model.trained import DTYPES
from bench.train import baselines, loop, metrics, optimizers, parallel, resumption
from bench.train import task as tasks
from bench.train.checkpoint import BEST
from bench.train.device import choose_precision
from bench.train.meter import Meter
from bench.train.training import (
    Log,
    Member,
    Networks,
    Probabilities,
    Training,
    build_alone,
    find_stream,
    list_streams,
    make_accelerator,
    prepare,
    require_finite,
)

_logger = logging.getLogger(__name__)
EVALUATED = ("validation", "test")
_NOT_TESTED = "the training stopped at train.stop_step, before its end, so its test texts were not read"


@dataclass(frozen=True)
class Fitted:
    """A classifier's answers and what fitting it took, as the blocks of a record."""

    probabilities: Mapping[str, Probabilities]  # by split
    parameters: dict[str, int | None]  # {trainable, total}
    model: dict[str, Any] = field(default_factory=dict)
    throughput: dict[str, float | None] = field(default_factory=dict)
    truncated_share: float | None = None  # of train's texts, of which something was not read
    long_share: float | None = None  # that were longer than the limit
    reasons: dict[str, str] = field(default_factory=dict)
    gates: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict)  # as loop.read_gates
    updates: dict[str, Any] | None = None  # of the trainings on a stream


def fit(
    config: Config,
    dataset: Dataset,
    *,
    model_folder: Path | None,
    run_folder: Path,
    meter: Meter,
    log: Log,
    build_networks: Callable[..., Networks] = build_alone,
) -> Fitted:
    """Fit what the method's estimator names; ``log`` gets the rows of the history as they come.

    ``build_networks`` may begin with other weights than the base's.

    Raises:
        ConfigError: the method does not fit the model or this machine.
        DivergedError: the loss stopped being a number.
    """
    set_seed(config.seed)
    if config.method.estimator == "network":
        [alone] = fit_together(
            [config],
            [dataset],
            build_networks=build_networks,
            model_folder=model_folder,
            run_folders=[run_folder],
            meter=meter,
            logs=[log],
        )
        assert isinstance(alone, Fitted)  # its error would have been raised
        return alone
    if config.method.estimator in ("setfit", "frozen_encoder", *AS_IT_IS):
        return _fit_on_base(
            config, dataset, model_folder=model_folder, run_folder=run_folder, meter=meter, log=log
        )
    fit_tfidf = partial(
        baselines.fit_tfidf,
        class_weight=baselines.choose_class_weight(config),
        select_by=config.sweep.select_by,
    )
    fit_baseline: Mapping[str, Callable[[Dataset], baselines.FittedBaseline]]
    fit_baseline = {"tfidf": fit_tfidf, "majority": baselines.fit_majority}
    with meter.phase("train"):
        fitted = fit_baseline[config.method.estimator](dataset)
    return _describe_baseline(config, fitted, total=fitted.parameters)


def score_all(
    probabilities: Mapping[str, Probabilities], dataset: Dataset
) -> dict[str, dict[str, Any] | None]:
    """Compute the block ``metrics`` of a record: METRICS of each split that was read, and scores by label.

    Of several tasks also the accuracy of each.
    """
    thresholds = metrics.find_thresholds(probabilities, dataset)
    unknown = {} if thresholds is None else dict.fromkeys(SINGLE_LABEL)

    def score(split: str) -> dict[str, Any]:
        found, labels = probabilities[split], dataset.read_truth(split)
        by_label = metrics.score_each_label(found, labels, dataset.labels, thresholds)
        of_tasks = metrics.score_each_task(found, dataset, split)
        return {**metrics.score(found, labels, thresholds), **unknown, "f1_by_label": by_label, **of_tasks}

    return {split: score(split) if split in probabilities else None for split in EVALUATED}


def fit_together(
    configs: Sequence[Config],
    datasets: Sequence[Dataset],
    *,
    build_networks: Callable[..., Networks],
    model_folder: Path | None,
    run_folders: Sequence[Path],
    meter: Meter,
    logs: Sequence[Log],
) -> list[Fitted | RunError]:
    """Train one network or those of a pack, and evaluate each one's best state; a diverged one has its error.

    Args:
        build_networks: makes the networks of the configurations, as build_alone does that of one

    Raises:
        ConfigError: the method does not fit the model or this machine.
        DivergedError: a run alone diverged.
    """
    training, texts, choices = _load(
        configs, datasets, build_networks=build_networks, model_folder=model_folder, meter=meter, logs=logs
    )
    folders = dict(zip(training.members, run_folders, strict=True))
    weights = {member: folder / BEST for member, folder in folders.items()}
    meter.runs, resumed = len(configs), None
    describe = partial(resumption.describe_lineage, device=meter.device, precision=choices["precision"])
    lineages = [describe(config, dataset) for config, dataset in zip(configs, datasets, strict=True)]
    if training.settings.distributed == "none":
        with meter.phase("save"):
            resumed = resumption.resume(
                training, configs, run_folders=run_folders, lineages=lineages, meter=meter
            )
    save_checkpoints = partial(
        resumption.save_checkpoints,
        training,
        run_folders=folders,
        lineages=dict(zip(training.members, lineages, strict=True)),
        meter=meter,
    )
    batches = _make_batches(training, configs, texts)
    _train_to_stop(
        training, configs[0], texts, batches, weights=weights, save_checkpoints=save_checkpoints, meter=meter
    )
    tested = _test(training, texts, weights, meter)
    with meter.phase("eval"):
        gates = loop.read_gates(training, texts[0])
    choices = {**choices, "resumed_from_step": resumed}
    fitted = {
        member: _describe(
            training, member, probabilities, choices, split=texts[member.stream].splits["train"], meter=meter
        )
        for member, probabilities in zip(training.running, tested, strict=True)
    }
    return [member.error or dataclasses.replace(fitted[member], gates=gates) for member in training.members]


def _load(
    configs: Sequence[Config],
    datasets: Sequence[Dataset],
    *,
    build_networks: Callable[..., Networks],
    model_folder: Path | None,
    meter: Meter,
    logs: Sequence[Log],
) -> tuple[Training, list[tasks.Texts], dict[str, Any]]:
    """Load the texts and the model, for a training that is before its first step.

    Returns:
        The training, the texts of each of its streams, and the choices made.
    """
    config, settings = configs[0], configs[0].train
    precision = choose_precision(settings.precision, meter.device)
    accelerator = make_accelerator(meter.device, precision, parallel.plug_in(settings, precision))
    with accelerator.main_process_first(), meter.phase("data"):  # the others find its tokens on the disk
        texts = _tokenise_each(configs, datasets, model_folder=model_folder)
    # What is sharded need not fit on one device.
    place = torch.device("cpu") if settings.distributed == "fsdp2" else meter.device
    with meter.phase("load"):
        networks = build_networks(
            configs,
            folder=model_folder,
            labels=datasets[0].labels,
            pad_token_id=texts[0].padding.token_id,
            device=place,
            precision=precision,
        )
    if rank := accelerator.process_index:  # the same weights as the first process, but dropout of its own
        torch.manual_seed(config.seed + (rank << 32))
    steps = count_steps(settings, rows=len(texts[0].splits["train"]))
    streams, labels = list_streams(configs), len(datasets[0].labels)
    trains = [texts[streams.index(find_stream(config))].splits["train"] for config in configs]
    counts = [np.bincount(train.labels, minlength=labels) for train in trains]
    training = prepare(
        networks,
        configs,
        task=texts[0].task,
        label_counts=counts,
        steps=steps,
        accelerator=accelerator,
        logs=logs,
    )
    return training, texts, networks.choices


def _tokenise_each(
    configs: Sequence[Config], datasets: Sequence[Dataset], *, model_folder: Path | None
) -> list[tasks.Texts]:
    """Tokenise the texts of each stream, equal ones once."""
    texts, streams = dict[str, tasks.Texts](), dict[tuple[Any, ...], tasks.Texts]()
    for config, dataset in zip(configs, datasets, strict=True):
        if (name := repr((config.data, dataset.draw))) not in texts:
            texts[name] = tokenise(config, dataset, model_folder=model_folder)
        streams[find_stream(config)] = texts[name]
    return list(streams.values())


def _train_to_stop(
    training: Training,
    config: Config,
    texts: Sequence[tasks.Texts],
    batches: Iterable[tokens.Batch],
    *,
    weights: Mapping[Member, Path],
    save_checkpoints: Callable[[], None],
    meter: Meter,
) -> None:
    """Train to the end or to stop_step; each member's best weights are in its file afterwards."""
    meter.count_paged = partial(optimizers.count_paged, training.members[0].optimizer)
    for member in training.members:
        for row in member.progress.history:  # a run that is resumed has the record of the whole training
            member.log({name: value for name, value in row.items() if name != "step"}, int(row["step"] or 0))
    loop.train(
        training,
        batches,
        meter=meter,
        predict=lambda: _predict(training, texts, "validation"),
        score=lambda member, probabilities: metrics.score(
            probabilities, _read_truth(texts[member.stream], "validation")
        ),
        select_by=config.sweep.select_by,
        save_best=lambda member: trained.write(
            member.part.find(), weights[member], writes=training.accelerator.is_main_process
        ),
        save_checkpoints=save_checkpoints,
    )


def _read_truth(texts: tasks.Texts, split: str) -> npt.NDArray[Any]:
    """Return each text's label, or of several which it has. # (texts,), or (texts, labels)"""
    labels = texts.splits[split].text_labels
    sets = texts.task.sets if isinstance(texts.task, tasks.SequenceClassification) else None
    return labels if sets is None else sets[labels]


def _test(
    training: Training, texts: Sequence[tasks.Texts], weights: Mapping[Member, Path], meter: Meter
) -> Iterable[Mapping[str, Probabilities]]:
    """Predict test, and what a teacher is asked about, with each running member's best weights.

    A training that was stopped predicts nothing.
    """
    running = training.running
    with meter.phase("save"):
        training.accelerator.wait_for_everyone()  # above all for the first process, which writes
        for member in running:
            trained.read(member.part.find(), weights[member])
    with meter.phase("eval"):
        if any(member.best is None for member in running):  # a checkpoint of an earlier version lacks it
            for member, probabilities in zip(running, _predict(training, texts, "validation"), strict=True):
                member.best = probabilities
        if not running or training.settings.stop_step is not None:
            return [{}] * len(running)
        asked = [split for split in texts[0].splits if split not in ("train", "validation")]
        found = {split: _predict(training, texts, split) for split in asked}
        return [{split: found[split][place] for split in asked} for place in range(len(running))]


def _make_batches(
    training: Training,
    configs: Sequence[Config],
    texts: Sequence[tasks.Texts],
) -> Iterator[tokens.Batch]:
    """Make the micro-batches of the steps that are left."""
    settings, trains = training.settings, [one.splits["train"] for one in texts]
    grid: dict[str, Any] = {
        "micro_batch_size": settings.micro_batch_size,
        "micro_batches": training.steps * settings.gradient_accumulation_steps,
        "group_by_length": settings.group_by_length,
        "padding": texts[0].padding,
        "skipped": training.step * settings.gradient_accumulation_steps,
        "merged": training.merged,
    }
    streams = [
        tokens.Stream(train, seed, balanced)
        for train, (seed, *_, balanced) in zip(trains, list_streams(configs), strict=True)
    ]
    if training.streams == 1:
        return tokens.train_batches(streams[0], **grid)
    return tokens.train_batches_apart(streams, **grid)


def _predict(training: Training, texts: Sequence[tasks.Texts], split: str) -> list[Probabilities]:
    """Predict each member's split with as many rows at once as a run alone has, or a step."""
    settings, splits = training.settings, [one.splits[split] for one in texts]
    first, *others = splits
    rows = settings.eval_batch_size
    rows = max(rows // len(training.running), min(rows, settings.micro_batch_size)) // training.task.sequences
    rows, padding = max(1, rows), texts[0].padding
    if all(np.array_equal(one.ids, first.ids) for one in others):
        batches, splits = tokens.eval_batches(first, batch_size=rows, padding=padding), [first]
    else:
        batches = tokens.eval_batches_apart(splits, batch_size=rows, padding=padding)
    return loop.predict(training, batches, owners=[one.owners for one in splits])


def _describe(
    training: Training,
    member: Member,
    tested: Mapping[str, Probabilities],
    choices: Mapping[str, Any],
    *,
    split: TokenisedSplit,
    meter: Meter,
) -> Fitted:
    """Describe what training a run led to; with ``resumed_from_step`` its times are less exact."""
    assert member.best is not None  # every training ends in an evaluation
    part, progress, processes = member.part, member.progress, training.settings.processes
    steps: dict[str, int | None] = {"steps": progress.steps, "best_step": progress.best_step}
    steps["skipped_steps"] = progress.skipped_steps if training.scales_loss else None
    reasons = _explain_cut(choices["max_length"], training.settings)
    if not tested:
        reasons["metrics.test"] = _NOT_TESTED
    if not training.scales_loss:
        reasons["model.skipped_steps"] = (
            f"only fp16 scales the loss and skips steps, and the run computes in {choices['precision']}"
        )
    reasons |= _explain_readings(training.task)
    return Fitted(
        {"validation": member.best, **tested},
        parameters={"trainable": part.trainable_parameters, "total": part.total_parameters},
        # of several processes the first one's memory, energy and history
        model={**choices, **steps, **_describe_prompts(training.task), "processes": processes},
        throughput=progress.rates(meter.seconds["train"]),
        truncated_share=split.truncated_share,
        long_share=split.long_share,
        reasons=reasons,
    )


def tokenise(config: Config, dataset: Dataset, *, model_folder: Path | None) -> tasks.Texts:
    """Turn the splits into the model's token ids; a prompt goes around each text where the task has one."""
    prompt, tokenizer = None, build.find_tokenizer(config.model, model_folder)
    pairs, architecture = (
        config.data.text_pair_column is not None,
        build.load_settings(config.model, model_folder),
    )
    length = build.fit_length(config.train.max_length, config.model, model_folder)
    if length < config.train.max_length:
        _logger.warning("%s", _explain_length(config.train.max_length, length))
    if writes_labels(config):
        shots = config.method.shots
        prompt = prompts.make(
            tokenizer,
            template=config.model.template,
            words=name_labels(dataset.labels, config.data),
            examples=prompts.draw_examples(dataset, shots=shots, seed=config.seed) if shots else (),
            max_length=length,
            pairs=pairs,
        )
        if prompt.examples:
            _require_positions(config, len(prompt.examples) + length, model_folder)
    if not (teaches(config) or config.method.distils):  # which ask no teacher
        dataset = dataclasses.replace(dataset, asked={}, part=None)
    splits = tokens.tokenise(
        dataset,
        tokenizer,
        max_length=length,
        cache_dir=config.cache_dir,
        prompt=prompt,
        types=pairs and prompt is None and encoder.takes_types(architecture),
        long_texts=config.data.long_texts,
    )
    if model_folder is not None:
        _require_known(splits, model_folder)
    padding = tokens.Padding.of(tokenizer)
    if prompt is not None:  # answers follow it
        padding = dataclasses.replace(padding, side="left")
    task = tasks.make(prompt, architecture, dataset.sets, dataset.heads)
    if config.method.distils:
        splits, task = tasks.distil(splits, dataset.teaching, config.distillation)
    for reason in _explain_readings(task).values():
        _logger.warning("%s", reason)
    return tasks.Texts(splits, padding, task)


def _require_positions(config: Config, length: int, folder: Path | None) -> None:
    """Raise a ConfigError where examples, text and answer are more than the model has positions for."""
    room = build.fit_length(length, config.model, folder)
    if room < length:
        raise ConfigError(
            f"method.shots={config.method.shots}: with its examples a text of train.max_length="
            f"{config.train.max_length} tokens takes {length}, and the model has positions for {room}; lower "
            "method.shots or train.max_length"
        )


def _explain_readings(task: tasks.Task) -> dict[str, str]:
    """Return the record's reasons why a model reads prompts or examples more than once, if it does."""
    reasons = {}
    if task.readings > 1:
        reasons["model.prompt_readings"] = (
            "the architecture keeps other than keys and values of what it has read, so each prompt is read "
            f"again for each of the {task.readings} ways in which labels begin"
        )
    if isinstance(task, tasks.LabelLikelihood) and task.prompt.examples and not task.shares_examples:
        reasons["model.example_tokens"] = (
            "what the architecture keeps of the examples depends on the text that follows, or is other than "
            "keys and values of all of them, so they are read again before each text"
        )
    return reasons


def _explain_cut(length: int, settings: TrainConfig) -> dict[str, str]:
    """Return the record's reason for a length other than train.max_length, if it is another."""
    wanted = settings.max_length
    return {} if length == wanted else {"model.max_length": _explain_length(wanted, length)}


def _explain_length(wanted: int, length: int) -> str:
    return f"train.max_length={wanted}: the model has positions for {length} tokens, so texts are cut there"


def _require_known(splits: Mapping[str, TokenisedSplit], folder: Path) -> None:
    """Raise a ConfigError where texts hold words that were added to the tokenizer alone, not to the model."""
    words = weights.count_words(folder)
    highest = max(int(split.ids.max()) for split in splits.values())
    if highest >= words:
        raise ConfigError(
            f"{folder}: its tokenizer gives texts the word {highest}, and the model has {words} words; save "
            "the model again after model.resize_token_embeddings(len(tokenizer))"
        )


def _fit_on_base(
    config: Config,
    dataset: Dataset,
    *,
    model_folder: Path | None,
    run_folder: Path,
    meter: Meter,
    log: Log,
) -> Fitted:
    """Fit what reads the base: a logistic regression on its last hidden states, or nothing at all.

    SetFit fine-tunes it before it is read.
    """
    settings, is_tuned = config.train, config.method.estimator == "setfit"
    precision = choose_precision(settings.precision, meter.device)
    with meter.phase("data"):
        texts = tokenise(config, dataset, model_folder=model_folder)
    with meter.phase("load"):
        base = baselines.load_base(
            config,
            labels=dataset.labels,
            pad_token_id=texts.padding.token_id,
            folder=model_folder,
            device=meter.device,
            precision="fp32" if is_tuned else precision,
        )
    tuned: dict[str, Any] = {}
    if is_tuned:
        tuned = _tune(
            base, texts, config, dataset, precision=precision, run_folder=run_folder, meter=meter, log=log
        )
    accelerator = make_accelerator(meter.device, precision)  # one at a time: the tuning has its own
    if writes_labels(config):
        fitted = baselines.ask(base, texts, config, accelerator, meter)
    else:
        fitted = baselines.compare(base, texts, config, dataset, model_folder, accelerator, meter)
    base_parameters = sum(parameter.numel() for parameter in base.parameters())
    described = _describe_baseline(config, fitted, total=fitted.parameters + base_parameters)
    length = positions.cut_length(settings.max_length, base)
    return dataclasses.replace(
        described,
        model={
            "architecture": type(base).__name__,
            **build.describe_source(config.model, model_folder),
            "precision": precision,
            "max_length": length,
            **tuned,
            **_describe_prompts(texts.task),
        },
        truncated_share=texts.splits["train"].truncated_share,
        long_share=texts.splits["train"].long_share,
        reasons=described.reasons | _explain_cut(length, settings) | _explain_readings(texts.task),
    )


def _tune(
    base: nn.Module,
    texts: tasks.Texts,
    config: Config,
    dataset: Dataset,
    *,
    precision: str,
    run_folder: Path,
    meter: Meter,
    log: Log,
) -> dict[str, Any]:
    """Tune the base in place on pairs of train texts, for SetFit; return what the record says of it.

    The base has weights in fp32 before, and in ``precision`` afterwards.

    Raises:
        DivergedError: the loss is NaN or infinite.
    """
    with meter.phase("load"):
        from bench.model import contrastive  # libraries that take seconds and memory, for this method alone
    split, frame = texts.splits["train"], dataset.splits["train"]
    steps = count_steps(config.train, rows=len(split))
    with meter.phase("train"):
        history = contrastive.tune(
            base,
            contrastive.Labelled(
                frame["text"].tolist(),
                frame["label"].tolist(),
                ids=[split.row(place) for place in range(len(split))],
                pad_token_id=texts.padding.token_id,
                padding_side=texts.padding.side,
            ),
            config.train,
            steps=steps,
            seed=config.seed,
            device=meter.device,
            precision=precision,
            folder=run_folder,
        )
        base.to(DTYPES[precision])
    for step, row in history:
        require_finite(row["loss"], step)
        log({**row}, step)
    return {"steps": steps, "library": contrastive.describe_library()}


def _describe_prompts(task: tasks.Task) -> dict[str, int]:
    """Return how often a model reads each prompt, and the tokens of the examples before it, if any."""
    if not isinstance(task, tasks.LabelLikelihood):
        return {}
    examples = len(task.prompt.examples)
    return {"prompt_readings": task.readings, **({"example_tokens": examples} if examples else {})}


def _describe_baseline(config: Config, fitted: baselines.FittedBaseline, *, total: int) -> Fitted:
    """Describe a baseline, whose model has so many parameters in all."""
    is_tuned = config.method.estimator == "setfit"
    reasons = {"throughput": "a baseline is fitted without training steps"}
    if is_tuned:
        reasons = {"throughput": "the library setfit counts no tokens"}
    if config.method.estimator not in AS_IT_IS:
        reasons["time.eval_seconds"] = "evaluation is part of fitting a baseline"
    return Fitted(
        fitted.probabilities,
        parameters={"trainable": total if is_tuned else fitted.parameters, "total": total},
        throughput={"tokens_per_second": None, "samples_per_second": None},
        reasons=reasons,
    )
