"""The section of table.md that says what routed LoRA's gates gave each expert for the texts of a label."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import pandas as pd

from bench.report.blocks import Block, Paragraph, Section, Table, make_bullets
from bench.report.cells import clean
from bench.report.language.text import Text
from bench.report.naming import Titles, place
from bench.report.numbers.evidence import Evidence
from bench.report.numbers.rows import Row

_FILE = "gates.csv"


@dataclass(frozen=True)
class Choices:
    """What the gates of one run chose; weights are shares of 1, and differences are of two shares."""

    layers: int
    layer: str  # where labels differ the most
    weights: Sequence[tuple[str, int, Sequence[float]]]  # there: label, its test texts, of each expert
    mean_difference: float  # over the layers, of the two labels that differ the most in one expert's weight
    difference: float  # the same of ``layer``
    largest: float  # mean over layers and texts of what a token's strongest expert gets


def summarise_gates(gates: pd.DataFrame) -> Choices:
    """Find the layer whose gate tells labels apart the most, by the largest difference in an expert's weight.

    Args:
        gates: as Store.read_gates; labels without a test text have no weights, and do not count
    """
    known = gates[gates["texts"] > 0]
    experts = [name for name in map(str, gates) if name.startswith("expert_")]
    layers = known.groupby("layer", sort=False)
    of_layers = layers[experts]
    differences = (of_layers.max() - of_layers.min()).max(axis=1)  # (layers,)
    layer = str(differences.idxmax())
    rows = known[known["layer"] == layer]
    weights = zip(rows["label"], rows["texts"], rows[experts].to_numpy(), strict=True)
    return Choices(
        layers=len(differences),
        layer=layer,
        weights=[(label, int(texts), [*map(float, row)]) for label, texts, row in weights],
        mean_difference=float(differences.mean()),
        difference=float(differences.max()),
        largest=float((known["largest"] * known["texts"]).sum() / known["texts"].sum()),
    )


def describe_gates(evidence: Evidence, *, titles: Titles, text: Text) -> Section:
    """Tabulate of each method with gates the layer that tells labels apart the most, of its first run."""
    blocks = list[Block]()
    for key, same in groupby(evidence.rows, key=lambda row: (row.task, row.memory_kind)):
        said = [block for row in same for block in _describe(row, evidence, text)]
        blocks += place(key, titles, said) if said else []
    how = Paragraph(text("gates.how", file=_FILE), command=_FILE)
    return Section(text("gates.title"), [how, *blocks] if blocks else [])


def _describe(row: Row, evidence: Evidence, text: Text) -> list[Block]:
    found = next((evidence.gates[one] for one in row.run_ids if one in evidence.gates), None)
    if found is None:
        return []
    if isinstance(found, str):
        return [make_bullets([text("gates.unknown", title=row.title, reason=clean(found))])]
    choices = summarise_gates(found)
    experts = len(choices.weights[0][2])
    names = {name: text(f"gates.columns.{name}") for name in ("label", "texts")}
    header = [*names.values(), *(text("gates.expert", number=number + 1) for number in range(experts))]
    lines = [
        [clean(label), str(texts), *map(text.format_percent, weights)]
        for label, texts, weights in choices.weights
    ]
    where = text("gates.layer", title=row.title, layer=clean(choices.layer), layers=choices.layers)
    figures = {
        "most": 100 * choices.difference,
        "mean": 100 * choices.mean_difference,
        "largest": 100 * choices.largest,
        "alike": 100 / experts,
    }
    return [
        Paragraph(where),
        Table(header, lines, left=[0], has_cards=True),
        make_bullets([text("gates.spread", **figures)]),
    ]
