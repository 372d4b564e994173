"""Baselines that fine-tuning has to beat: the most frequent label, TF-IDF, and the base model as it is."""

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from scipy.sparse import hstack
from scipy.special import softmax
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.preprocessing import StandardScaler
from torch import nn

from bench.config.identity import find_loss, writes_labels
from bench.config.schema import Config
from bench.data import tokens
from bench.data.dataset import Dataset, name_labels
from bench.data.tokenised import TokenisedSplit
from bench.data.windows import pool
from bench.model import build, positions
from bench.train import loop, metrics
from bench.train.meter import Meter
from bench.train.task import LabelLikelihood, Texts

INVERSE_PENALTIES = (0.01, 0.1, 1.0, 10.0, 100.0)  # scikit-learn's C; of equally good ones the first
MAX_ITERATIONS = 10_000  # never reached in practice, so that a fit ends because it converged
# How a label's words are put to an encoder, of equally good ones the first; the second is that of Yin et al.,
# arXiv:1909.00161.
PHRASES = ("{}", "This text is about {}.")
WORDS_SCALE = 20.0  # of cosines, before their softmax: that of the loss that sentence encoders are trained by
CHARACTER_SHARE = 0.25  # of letters in scripts without spaces; from here on n-grams are of characters
_EVALUATED = ("validation", "test")
# Thai, Lao, Myanmar, Khmer, Japanese kana, Chinese characters: words are not separated by spaces.
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
_LETTER = re.compile(r"[^\W\d_]")
_WORD = re.compile(r"\b\w\w+\b")  # as TfidfVectorizer sees one


@dataclass(frozen=True)
class FittedBaseline:
    """A baseline's answers for each row that is scored."""

    probabilities: dict[str, npt.NDArray[np.float64]]  # validation, test: (rows, labels)
    parameters: int  # of the logistic regression: coefficients and intercepts; 0 without one


def fit_majority(dataset: Dataset) -> FittedBaseline:
    """Answer every row with the share of each label in train, as a model does that does not read.

    Of equally frequent labels the first declared wins. Counting trains nothing: 0 parameters.
    """
    shares = dataset.count_labels("train") / len(dataset.splits["train"])  # (labels,)
    probabilities = {split: np.tile(shares, (len(dataset.splits[split]), 1)) for split in _EVALUATED}
    return FittedBaseline(probabilities, 0)


def choose_class_weight(config: Config) -> str | None:
    """Return scikit-learn's class_weight for the run's loss."""
    return "balanced" if find_loss(config) == "weighted" else None


def fit_tfidf(
    dataset: Dataset, *, class_weight: str | None = None, select_by: str = "accuracy"
) -> FittedBaseline:
    """Fit a logistic regression to TF-IDF of the texts: what can be had without a pretrained model.

    Features are words and pairs of words; where the train texts are written without spaces (see
    :func:`uses_characters`), single characters and pairs of characters. A second text's are features of their
    own, by the same vocabulary.
    """
    train = dataset.splits["train"]
    sides = [name for name in ("text", "pair") if name in train]
    read = [text for side in sides for text in train[side]]
    unit = {"analyzer": "char"} if uses_characters(read) else {"analyzer": "word"}
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, **unit).fit(read)
    features = {
        split: hstack([vectorizer.transform(frame[side].tolist()) for side in sides], format="csr")
        for split, frame in dataset.splits.items()
    }  # (rows, terms), sparse
    return _fit_regression(features, dataset, class_weight, select_by)


def fit_frozen(
    features: Mapping[str, npt.NDArray[Any]],
    dataset: Dataset,
    *,
    class_weight: str | None = None,
    select_by: str = "accuracy",
) -> FittedBaseline:
    """Fit a logistic regression to a frozen base model's features: what can be had without fine-tuning.

    Each feature is first scaled to mean 0 and variance 1 over train, which changes no information and lets
    the fit converge for encoders of any scale.

    Args:
        features: of train, validation and test, in the order of their rows. # (rows, features)
    """
    scaler = StandardScaler().fit(features["train"].astype(np.float64))
    scaled = {split: scaler.transform(values.astype(np.float64)) for split, values in features.items()}
    return _fit_regression(scaled, dataset, class_weight, select_by)


def compare_words(
    features: Mapping[str, npt.NDArray[np.float64]],
    phrases: Sequence[npt.NDArray[np.float64]],
    dataset: Dataset,
) -> FittedBaseline:
    """Answer by the likeness of each text to each label's words: what can be had without an example.

    The likeness is the cosine; WORDS_SCALE times it are scores, whose softmax is the probabilities. How the
    words are phrased is chosen by accuracy on validation.

    Args:
        features: of validation and test, in the order of their rows. # (rows, features)
        phrases: of the labels' words in each of PHRASES, in the labels' order. # (labels, features)
    """
    right = dataset.splits["validation"]["label"].to_numpy()
    texts = {split: _normalise(features[split]) for split in _EVALUATED}

    def score(words: npt.NDArray[np.float64]) -> float:
        return float(((texts["validation"] @ _normalise(words).T).argmax(axis=1) == right).mean())

    best = _normalise(max(phrases, key=score))
    return FittedBaseline(
        {split: softmax(WORDS_SCALE * rows @ best.T, axis=1) for split, rows in texts.items()}, 0
    )


def _normalise(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def uses_characters(texts: list[str]) -> bool:
    """Return whether TF-IDF reads characters and not words.

    It does where at least a quarter of all letters are of a script without spaces (Chinese, Japanese, Thai,
    ...), or where there is no word at all.
    """
    letters = sum(len(_LETTER.findall(text)) for text in texts)
    unspaced = sum(len(_UNSPACED.findall(text)) for text in texts)
    if unspaced and unspaced >= CHARACTER_SHARE * letters:
        return True
    return not any(_WORD.search(text) for text in texts)


def _fit_regression(
    features: Mapping[str, Any], dataset: Dataset, class_weight: str | None, select_by: str
) -> FittedBaseline:
    """Fit a multinomial logistic regression to convergence, its L2 penalty chosen by a score on validation.

    Of several labels a text each has a regression of its own. A baseline whose penalty nobody chose would
    flatter what it is compared with.
    """
    truth = {split: dataset.read_truth(split) for split in dataset.splits}
    regressions = [
        LogisticRegression(C=inverse_penalty, max_iter=MAX_ITERATIONS, class_weight=class_weight)
        for inverse_penalty in INVERSE_PENALTIES
    ]
    if dataset.sets is not None:
        regressions = [OneVsRestClassifier(one) for one in regressions]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Label .* is present in all training examples", UserWarning)
        models = [one.fit(features["train"], truth["train"]) for one in regressions]

    def score(model: Any) -> float:
        return metrics.score(model.predict_proba(features["validation"]), truth["validation"])[select_by]

    best = max(models, key=score)
    probabilities = {split: best.predict_proba(features[split]) for split in _EVALUATED}
    fitted = [one for one in getattr(best, "estimators_", [best]) if hasattr(one, "coef_")]
    return FittedBaseline(probabilities, sum(one.coef_.size + one.intercept_.size for one in fitted))


def load_base(
    config: Config,
    *,
    labels: Sequence[str],
    pad_token_id: int | None,
    folder: Path | None,
    device: torch.device,
    precision: str,
) -> nn.Module:
    """Load the base to be read from only, with its head for words where it writes labels."""
    if not writes_labels(config):
        return build.load_encoder(config.model, folder, device=device, precision=precision)
    base = build.build_base(
        config,
        folder=folder,
        labels=labels,
        pad_token_id=pad_token_id,
        device=device,
        precision=precision,
    )
    module: nn.Module = base.model.requires_grad_(False)
    return module.to(device)


def ask(
    base: nn.Module, texts: Texts, config: Config, accelerator: Accelerator, meter: Meter
) -> FittedBaseline:
    """Ask the base how likely it is to write each label, once it has read the examples, if there are any."""
    assert isinstance(texts.task, LabelLikelihood)  # as writes_labels says
    with meter.phase("train"), torch.inference_mode(), accelerator.autocast():
        task = texts.task.read_examples(base.eval())
    rows, answers = count_rows(config, texts), {}
    with meter.phase("eval"):
        for split in _EVALUATED:
            own = texts.splits[split]
            batches = tokens.eval_batches(own, batch_size=rows, padding=texts.padding)
            answers[split] = loop.ask(base, batches, task=task, accelerator=accelerator, owners=own.owners)
    return FittedBaseline(answers, 0)


def count_rows(config: Config, texts: Texts) -> int:
    """Count the prompts that are read at once: fewer where each comes with its examples, or stems with both.

    Examples that prompts share are copied for one layer at a time, and without stems once for each row.
    """
    assert isinstance(texts.task, LabelLikelihood)
    longest = whole = max(int(texts.splits[split].lengths.max()) for split in _EVALUATED)
    if not texts.task.shares_examples or texts.task.answer_tokens:
        whole += len(texts.task.prompt.examples)
    return max(1, config.train.eval_batch_size * longest // (whole * texts.task.sequences))


def compare(
    base: nn.Module,
    texts: Texts,
    config: Config,
    dataset: Dataset,
    model_folder: Path | None,
    accelerator: Accelerator,
    meter: Meter,
) -> FittedBaseline:
    """Compare the base's states of texts with those of train, or without an example of the labels' words."""

    def embed(split: TokenisedSplit) -> Any:
        rows = config.train.eval_batch_size
        batches = tokens.eval_batches(split, batch_size=rows, padding=texts.padding)
        return pool(loop.embed(base, batches, accelerator=accelerator), split.owners)

    if config.method.estimator in ("setfit", "frozen_encoder"):
        with meter.phase("train"):
            features = {name: embed(value) for name, value in texts.splits.items()}
            return fit_frozen(
                features,
                dataset,
                class_weight=choose_class_weight(config),
                select_by=config.sweep.select_by,
            )
    names = name_labels(dataset.labels, config.data).values()
    words = [phrase.format(name) for phrase in PHRASES for name in names]
    read = tokens.tokenise_texts(
        words,
        np.arange(len(words)),
        build.find_tokenizer(config.model, model_folder),
        max_length=positions.cut_length(config.train.max_length, base),
        prompt=None,
        split="label_words",
    )
    with meter.phase("train"):
        of_words = embed(read)
    with meter.phase("eval"):
        features = {name: embed(texts.splits[name]) for name in _EVALUATED}
        return compare_words(features, np.split(of_words, len(PHRASES)), dataset)
