"""The schema of conf/report/: what the tables take into account beside the results."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ArticleMethod:
    """A row of the article's table."""

    method: str  # a name in conf/method/
    memory_gb: float
    train_hours: float
    accuracy: float
    f1_macro: float
    trainable_parameters: float


@dataclass(frozen=True)
class ArticleClaim:
    """A sentence of the article; reproduced if what was measured lies within ``says`` -+ ``tolerance``."""

    measure: str  # memory, train_time: method / against - 1 | accuracy: method - against | trainable: a share
    method: str
    against: str | None  # None: trainable is a share of the method's own weights
    says: float
    tolerance: float
    bounds: str  # which deviation counts: both | low | high
    needs: list[str]  # what has to be the article's for a comparison: model | data | card


@dataclass(frozen=True)
class ArticleAdvice:
    """A line of the article's recommendation table."""

    case: str  # above | below: a card with more, or less, than memory_gb | quality | speed
    memory_gb: float | None
    method: str


@dataclass(frozen=True)
class ArticleConfig:
    """What the article measured, on what, and what it concludes."""

    model: str  # a name in conf/model/
    data: list[str]  # names in conf/data/ that stand for the article's private texts
    card: str  # part of the GPU's name
    table: list[ArticleMethod]
    claims: list[ArticleClaim]
    advice: list[ArticleAdvice]


@dataclass(frozen=True)
class ReportConfig:
    """What the tables take into account beside the results; no run depends on it."""

    price_per_hour: float | None  # of the machine, in any currency; null: no cost is shown for it
    price_per_kwh: float | None  # of the electricity that the GPU used while training
    article: ArticleConfig
