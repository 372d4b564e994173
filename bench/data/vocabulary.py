"""How much of the texts a model's tokenizer can read: measured before training, without torch."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.config.schema import Config
from bench.data.dataset import Dataset
from bench.data.sources import join_texts
from bench.errors import DataError
from bench.redaction import show

WARNED_SHARE, REFUSED_SHARE = 0.05, 0.5  # of a text's tokens that are unknown
LONG_SHARE = 0.01  # of the texts, from which on it is said that they are long
_LOOKED_AT = 2000  # texts, spread evenly
_BERT_KINDS = ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer")  # that read a vocab.txt alike
_SHOWN = 30  # characters of a text
_logger = logging.getLogger(__name__)


def measure_unknown(texts: Sequence[str], folder: Path) -> float | None:
    """Return the share of the texts' tokens that the tokenizer takes for its unknown token.

    None where the tokenizer is of a kind that only its own library reads.
    """
    loaded = _load(folder)
    if loaded is None:
        return None
    tokenizer, unknown = loaded
    ids = [
        number
        for text in texts[:: max(1, len(texts) // _LOOKED_AT)]
        for number in tokenizer.encode(text, add_special_tokens=False).ids  # no threads, as processes fork
    ]
    return ids.count(unknown) / len(ids) if ids else None


def measure_long(texts: Sequence[str], folder: Path, limit: int) -> float | None:
    """Return the share of the texts that have more tokens than the limit, special ones included.

    None where the tokenizer is of a kind that only its own library reads.
    """
    if (loaded := _load(folder)) is None:
        return None
    some = texts[:: max(1, len(texts) // _LOOKED_AT)]
    lengths = [len(loaded[0].encode(text).ids) for text in some]
    return sum(length > limit for length in lengths) / len(lengths)


def tell_long(dataset: Dataset, config: Config, folder: Path | None) -> None:
    """Say before training which share of the texts is longer than the model reads, and what becomes of it."""
    if folder is None or not reads_tokens(config):
        return
    limit, positions = config.train.max_length, _count_positions(folder)
    what = f"train.max_length={limit}"
    if positions is not None and positions < limit:
        limit, what = positions, f"the model's {positions} positions"
    share = measure_long(join_texts(dataset.splits["train"]).tolist(), folder, limit)
    if share is None or share < LONG_SHARE:
        return
    remedy = (
        "raise train.max_length" if limit == config.train.max_length else "use a model with more positions"
    )
    if config.data.text_pair_column is None:
        remedy += ", or try data.long_texts=truncate,head_tail,windows"
    becomes = {"truncate": "cut there", "head_tail": "cut in the middle", "windows": "read in windows"}
    _logger.warning(
        "data %s: %.1f %% of the train texts are longer than %s and are %s; %s",
        show(config.data.name),
        100 * share,
        what,
        becomes[config.data.long_texts],
        remedy,
    )


def _count_positions(folder: Path) -> int | None:
    """Return the positions that the model declares, None where it has no limit or does not say."""
    path = folder / "config.json"
    settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    declared = settings.get("max_position_embeddings")
    if not isinstance(declared, int):
        return None
    return (
        declared - 2 if "roberta" in str(settings.get("model_type")) else declared
    )  # see model/positions.py


def reads_tokens(config: Config) -> bool:
    """Return whether the method reads texts by the model's tokenizer."""
    return config.method.estimator not in ("tfidf", "majority")


def require_readable(dataset: Dataset, config: Config, folder: Path | None) -> float | None:
    """Return the share of unknown tokens in train; warn where it is high, and refuse where it is most.

    None where the method reads no tokens, or the share cannot be measured.

    Args:
        folder: the model's files, or None where there are none (yet).

    Raises:
        DataError: most tokens are unknown, so that a model cannot tell the texts apart, and plan.force=false.
    """
    if folder is None or not reads_tokens(config):
        return None
    texts = join_texts(dataset.splits["train"]).tolist()
    share = measure_unknown(texts, folder)
    if share is None or share <= WARNED_SHARE:
        return share
    message = (
        f"model {show(config.model.name)}: its tokenizer does not know {share:.0%} of the tokens of these "
        f"texts, the first of which is {texts[0][:_SHOWN]!r}; {_name_reader(texts)}"
    )
    if share > REFUSED_SHARE and not config.plan.force:
        raise DataError(f"{message}, or train all the same with plan.force=true")
    _logger.warning("%s", message)
    return share


def _load(folder: Path) -> tuple[Any, int] | None:
    """Return the tokenizer and the number of its unknown token, -1 where it has none."""
    from tokenizers import Tokenizer
    from tokenizers.implementations.bert_wordpiece import BertWordPieceTokenizer

    path, words = folder / "tokenizer.json", folder / "vocab.txt"
    try:
        if path.is_file():
            model = json.loads(path.read_text(encoding="utf-8"))["model"]
            tokenizer: Any = Tokenizer.from_file(str(path))
            tokenizer.no_truncation()
            tokenizer.no_padding()
            token = model.get("unk_token")
            unknown = model.get("unk_id") if token is None else tokenizer.token_to_id(token)
            may_have_none = model.get("type") in ("BPE", "Unigram")
        elif words.is_file() and (settings := _read_settings(folder)) is not None:
            tokenizer = BertWordPieceTokenizer(str(words), lowercase=settings.get("do_lower_case", True))
            unknown, may_have_none = tokenizer.token_to_id("[UNK]"), False
        else:
            return None
    except Exception:  # the library's own errors are bare Exceptions; loading the model says what is wrong
        return None
    if unknown is None:
        return (tokenizer, -1) if may_have_none else None
    return tokenizer, int(unknown)


def _read_settings(folder: Path) -> dict[str, Any] | None:
    """Return what tokenizer_config.json says of a vocabulary of BERT's kind, None of another kind."""
    path = folder / "tokenizer_config.json"
    settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    kind = str(settings.get("tokenizer_class") or _BERT_KINDS[0]).removesuffix("Fast")
    return settings if kind in _BERT_KINDS else None


def _name_reader(texts: Sequence[str]) -> str:
    """Return which preset reads the script."""
    letters = [one for text in texts[:100] for one in text if one.isalpha()]
    chinese = sum("\u3400" <= letter <= "\u9fff" for letter in letters)
    if chinese > len(letters) / 2:
        return "use model=bert-base-chinese or model=qwen3-0.6b, which read Chinese"
    return "use model=qwen3-0.6b, which reads every script"
