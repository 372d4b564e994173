"""The schema of conf/report/, and its rules: what the tables take into account beside the results."""

import math
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


def check_report(report: ReportConfig) -> list[str]:
    """What a report could not be made with, a message each."""
    return [*_check_prices(report), *_check_article(report.article)]


def _check_prices(report: ReportConfig) -> list[str]:
    return [
        f"report.{name}={value}: must be 0 or more, or null to show no cost"
        for name in ("price_per_hour", "price_per_kwh")
        if (value := getattr(report, name)) is not None and not 0 <= value < math.inf
    ]


def _check_article(article: ArticleConfig) -> list[str]:
    """What a report can read of the article's claims and advice."""
    methods = [one.method for one in article.table]
    values = [
        *(
            ("claims.measure", one.measure, ("memory", "accuracy", "train_time", "trainable"))
            for one in article.claims
        ),
        *(("claims.bounds", one.bounds, ("both", "low", "high")) for one in article.claims),
        *(("claims.needs", need, ("model", "data", "card")) for one in article.claims for need in one.needs),
        *(("claims.method", one.method, methods) for one in article.claims),
        *(("claims.against", one.against, methods) for one in article.claims if one.measure != "trainable"),
        *(("advice.case", one.case, ("above", "below", "quality", "speed")) for one in article.advice),
    ]
    faults = [
        f"report.article.{name}={value}: must be one of {', '.join(choices)}"
        for name, value, choices in values
        if value not in choices
    ]
    for one in article.advice:
        if (one.memory_gb is not None) != (one.case in ("above", "below")):
            faults.append(
                f"report.article.advice.memory_gb={one.memory_gb}: belongs to the cases above and below"
            )
    return faults
