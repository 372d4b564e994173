"""The schema of conf/report/, and its rules: what the tables take into account beside the results."""

from dataclasses import dataclass
from typing import Annotated

from bench.config.fields import at_least, must, one_of, some_of


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

    # memory, train_time: method / against - 1; accuracy: method - against; trainable: a share
    measure: Annotated[str, one_of("memory", "accuracy", "train_time", "trainable")]
    method: str
    against: str | None  # None: trainable is a share of the method's own weights
    says: float
    tolerance: float
    bounds: Annotated[str, one_of("both", "low", "high")]  # which deviation counts
    needs: Annotated[list[str], some_of("model", "data", "card")]  # that have to be the article's own


@dataclass(frozen=True)
class ArticleAdvice:
    """A line of the article's recommendation table."""

    # above, below: a card with more, or less, than memory_gb
    case: Annotated[str, one_of("above", "below", "quality", "speed")]
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

    # of the machine, in any currency
    price_per_hour: Annotated[float | None, at_least(0, ", or null to show no cost")]
    # of the electricity that the GPU used while training
    price_per_kwh: Annotated[float | None, at_least(0, ", or null to show no cost")]
    # of accuracy, within which two methods count as equal
    equivalence_points: Annotated[
        float, must("lie in (0, 100); 1.0 is one point of accuracy", lambda value: 0 < value < 100)
    ]
    # of the main table, after its own: further scores (balanced_accuracy, mcc, loss, f1_by_label)
    columns: list[str]
    article: ArticleConfig

    @property
    def delta(self) -> float:
        """The points within which two methods count as equal, as a share."""
        return self.equivalence_points / 100


def check_article(article: ArticleConfig) -> list[str]:
    """Name what a report could not judge of the article's claims and advice, a message each."""
    known = one_of(*(row.method for row in article.table))
    named = [("method", claim.method) for claim in article.claims]
    named += [("against", str(claim.against)) for claim in article.claims if claim.measure != "trainable"]
    faults = [
        f"report.article.claims.{name}={method}: {known.expected}"
        for name, method in named
        if not known.holds(method)
    ]
    for advice in article.advice:
        if (advice.memory_gb is not None) != (advice.case in ("above", "below")):
            faults.append(
                f"report.article.advice.memory_gb={advice.memory_gb}: belongs to the cases above and below"
            )
    return faults
