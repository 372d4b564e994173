"""Charts as Vega-Lite, from rows of plain numbers: how each looks, not where its numbers come from.

Colours are Okabe and Ito's, which colour-blind people can tell apart, and each method has its own shape too;
heatmaps are one blue that gets darker. Field names are bench's own, so other people's texts are only values:
Vega has expressions, and none is made from a text.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import altair as alt

from bench.report.language.text import Text

Rows = Sequence[Mapping[str, Any]]
Spec = dict[str, Any]

FONT = (
    "system-ui, 'Noto Sans', 'Noto Sans CJK SC', 'PingFang SC', 'Microsoft YaHei', 'DejaVu Sans', sans-serif"
)
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_SHAPES = (
    *("circle", "square", "triangle-up", "diamond", "cross", "triangle-down"),
    *("triangle-left", "triangle-right", "wedge", "arrow"),
)
_PHASE_COLOURS = {"baseline": "#999999", "load": _COLOURS[4], "train": _COLOURS[0], "eval": _COLOURS[3]}
_GREY = "#767676"  # of what is no training; 4.5 to 1 on white
_LONGEST_LABEL = 230  # pixels; the page's script takes less on a phone
_CONFIG: Spec = {
    "font": FONT,
    "background": "white",
    "axis": {"labelLimit": _LONGEST_LABEL, "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": 600},
    # over the chart, whose width it must not exceed; the page's script takes one column on a phone
    "legend": {
        "orient": "top",
        "direction": "vertical",
        "columns": 2,
        "labelLimit": 220,
        "labelFontSize": 12,
    },
    "header": {"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": 600},
    "view": {"stroke": "#ddd"},
}


class Key:
    """The colour and the shape of each method, the same in all charts of a table."""

    def __init__(
        self, titles: Mapping[str, bool], text: Text, *, models: Mapping[str, tuple[str, str]] | None = None
    ) -> None:
        """Give each method a colour and a shape.

        Args:
            titles: method -> whether it is a baseline.
            models: method -> its name without the model, and the model's. Then methods differ in colour, and
                models in shape, and the rows drawn have both as ``method`` and ``model``.
        """
        self.titles = list(titles)
        self.axes = text.under("figures.axes")
        pairs = {title: (title, title) for title in titles} if models is None else dict(models)
        self.fields = ("title", "title") if models is None else ("method", "model")
        self.named = [{title: pair[place] for title, pair in pairs.items()} for place in (0, 1)]
        methods = {self.named[0][title]: is_baseline for title, is_baseline in titles.items()}
        trained = [method for method, is_baseline in methods.items() if not is_baseline]
        self.colours = {
            method: _GREY if is_baseline else _COLOURS[trained.index(method) % len(_COLOURS)]
            for method, is_baseline in methods.items()
        }
        shaped = list(dict.fromkeys(self.named[1][title] for title in titles))
        self.shapes = {name: _SHAPES[place % len(_SHAPES)] for place, name in enumerate(shaped)}

    def name(self, title: str) -> dict[str, str]:
        """Return what a row of this method has beside its title: nothing, or its names."""
        if self.fields[0] == "title":
            return {}
        return {field: named[title] for field, named in zip(self.fields, self.named, strict=True)}

    def colour(self, shown: Sequence[str], **more: Any) -> alt.Color:
        scale, title = self._scale(0, shown, self.colours), self.axes["method"]
        return alt.Color(
            f"{self.fields[0]}:N", title=title, scale=scale, legend=alt.Legend(title=None), **more
        )

    def shape(self, shown: Sequence[str]) -> alt.Shape:
        scale, title = self._scale(1, shown, self.shapes), self.axes["method"]
        return alt.Shape(f"{self.fields[1]}:N", title=title, scale=scale, legend=alt.Legend(title=None))

    def _scale(self, place: int, shown: Sequence[str], looks: Mapping[str, str]) -> alt.Scale:
        domain = list(dict.fromkeys(self.named[place][title] for title in self.titles if title in shown))
        return alt.Scale(domain=domain, range=[looks[name] for name in domain])


def draw_pareto(
    rows: Rows, *, domains: Mapping[str, tuple[float, float]], key: Key, text: Text, cost: str = "memory"
) -> Spec:
    """Draw accuracy over memory or seconds.

    Args:
        rows: their kind is point, front (in order) or edge, with its label's side.
        cost: memory | seconds
    """
    axes = text.under("figures.axes")
    scale = alt.Scale(domain=domains[cost], nice=False)
    title = axes["memory" if cost == "memory" else "train_seconds"]
    x = alt.X(f"{cost}:Q", title=title, scale=scale, axis=alt.Axis(tickCount=6))
    y = alt.Y("accuracy:Q", title=axes["accuracy"], scale=alt.Scale(domain=domains["accuracy"], nice=False))
    shown = [row["title"] for row in rows if row["kind"] != "front"]
    tooltip = [
        alt.Tooltip("title:N", title=axes["method"]),
        alt.Tooltip("memory:Q", title=axes["memory"], format=".2f"),
        alt.Tooltip("accuracy:Q", title=axes["accuracy"], format=".1f"),
        alt.Tooltip("interval:N", title=axes["interval"]),
        alt.Tooltip("time:N", title=axes["train_time"]),
    ]
    timed = cost == "memory" and any(row.get("seconds") is not None for row in rows)
    sizes = alt.Scale(range=[80, 500], zero=True)
    size = alt.Size("seconds:Q", legend=None, scale=sizes) if timed else alt.value(120)
    points = alt.Chart().transform_filter("datum.kind === 'point'")
    edges = alt.Chart().transform_filter("datum.kind === 'edge'").encode(x=x, y=y)
    layers = [
        alt.Chart()
        .transform_filter("datum.kind === 'front'")
        .mark_line(strokeDash=[4, 4], color="#888", interpolate="step-after")
        .encode(x=x, y=y, order="order:Q"),
        points.transform_filter("datum.low != null")
        .mark_rule(strokeWidth=2)
        .encode(x=x, y=alt.Y("low:Q", title=axes["accuracy"]), y2="high:Q", color=key.colour(shown)),
        points.mark_point(filled=True, opacity=0.85, stroke="white", strokeWidth=1).encode(
            x=x,
            y=y,
            color=key.colour(shown),
            shape=key.shape(shown),
            size=size,
            tooltip=tooltip,
        ),
        edges.mark_point(filled=True, size=90).encode(
            color=key.colour(shown),
            shape=key.shape(shown),
            tooltip=alt.Tooltip("label:N", title=axes["method"]),
        ),
    ]
    sides: tuple[tuple[Literal["left", "right"], int], ...] = (("left", 9), ("right", -9))
    for side, offset in sides:
        beside = edges.transform_filter(f"datum.side === '{side}'")
        layers.append(
            beside.mark_text(align=side, dx=offset, dy=-7, limit=260, color="#333").encode(text="label:N")
        )
    return _finish(alt.layer(*layers), rows, height=360)


def draw_heatmap(rows: Rows, *, score: str, text: Text) -> Spec:
    """Draw the score of each r and alpha; rows: lr, r and alpha as they are written, score in percent."""
    axes = text.under("figures.axes")
    scores = [row["score"] for row in rows]
    middle = (min(scores) + max(scores)) / 2
    order = {name: sorted({row[name] for row in rows}, key=float) for name in ("lr", "r", "alpha")}
    base = alt.Chart().encode(
        x=alt.X("alpha:N", title=axes["alpha"], sort=order["alpha"], axis=alt.Axis(labelAngle=0)),
        y=alt.Y("r:N", title=axes["r"], sort=order["r"]),
        tooltip=[
            *(alt.Tooltip(f"{name}:N", title=axes[name]) for name in ("r", "alpha", "lr")),
            alt.Tooltip("score:Q", title=score, format=".1f"),
        ],
    )
    colour = alt.Color(
        "score:Q",
        title=score,
        scale=alt.Scale(scheme="blues", zero=False),
        legend=None,  # each cell says its number
    )
    numbers = base.mark_text(fontSize=12).encode(
        text=alt.Text("score:Q", format=".1f"), color=_on_dark("score", middle)
    )
    cells = alt.layer(base.mark_rect(stroke="white").encode(color=colour), numbers)
    cells = cells.properties(width=alt.Step(48), height=alt.Step(34))
    lr = alt.Facet("lr:N", title=axes["lr"], sort=order["lr"])
    return _finish(
        cells.facet(
            facet=lr, columns=max(1, 5 // len(order["alpha"])), data=alt.InlineData(values=list(rows))
        ),
        rows,
    )


def draw_effect(rows: Rows, *, name: str, score: str, key: Key, text: Text) -> Spec:
    """Draw the score by one hyperparameter; rows: its value, the place of the value, score in percent."""
    order = list(dict.fromkeys(row["value"] for row in sorted(rows, key=lambda row: row["place"])))
    shown = [row["title"] for row in rows]
    base = alt.Chart().encode(
        x=alt.X("value:N", title=name, sort=order, axis=alt.Axis(labelAngle=0), scale=alt.Scale(padding=0.4)),
        color=key.colour(shown),
    )
    y = alt.Scale(zero=False)
    line = base.mark_line(strokeWidth=2).encode(y=alt.Y("mean(score):Q", title=score, scale=y))
    points = base.mark_point(filled=True, size=70, opacity=0.75).encode(
        y=alt.Y("score:Q", title=score, scale=y),
        shape=key.shape(shown),
        tooltip=[
            alt.Tooltip("title:N", title=text("figures.axes.method")),
            alt.Tooltip("value:N", title=name),
            alt.Tooltip("score:Q", title=score, format=".1f"),
        ],
    )
    return _finish(alt.layer(line, points), rows, height=260)


def draw_curves(rows: Rows, *, measure: str, key: Key, text: Text) -> Spec:
    """Draw a line for each run; rows: run, seed, step and value."""
    axes = text.under("figures.axes")
    shown = [row["title"] for row in rows]
    few = len(rows) < 150
    chart = (
        alt.Chart()
        .mark_line(strokeWidth=1.5, opacity=0.8, point={"size": 28, "filled": True} if few else {"size": 12})
        .encode(
            x=alt.X("step:Q", title=axes["step"], axis=alt.Axis(tickCount=6)),
            y=alt.Y("value:Q", title=axes[measure], scale=alt.Scale(zero=False)),
            color=key.colour(shown),
            shape=key.shape(shown),
            detail="run:N",
            tooltip=[
                alt.Tooltip("title:N", title=axes["method"]),
                alt.Tooltip("seed:N", title=axes["seed"]),
                alt.Tooltip("step:Q", title=axes["step"]),
                alt.Tooltip("value:Q", title=axes[measure], format=".3~f"),
            ],
        )
    )
    return _finish(chart, rows, height=300)


def draw_sizes(rows: Rows, *, key: Key, text: Text) -> Spec:
    """Draw accuracy by labels, a line and a band for each method; rows: labels, accuracy, low and high."""
    axes = text.under("figures.axes")
    shown = [row["title"] for row in rows]
    sizes = sorted({row["labels"] for row in rows})
    x = alt.X(
        "labels:Q",
        title=axes["labels"],
        scale=alt.Scale(type="log", nice=False, domain=[sizes[0], sizes[-1]]),
        axis=alt.Axis(values=sizes, format="d", grid=False),
    )
    y = alt.Y("accuracy:Q", title=axes["accuracy"], scale=alt.Scale(zero=False))
    base = alt.Chart().encode(x=x, color=key.colour(shown))
    band = base.mark_area(opacity=0.15).encode(y=alt.Y("low:Q", title=axes["accuracy"]), y2="high:Q")
    line = base.mark_line(strokeWidth=2).encode(y=y)
    points = base.mark_point(filled=True, size=70, opacity=0.9).encode(
        y=y,
        shape=key.shape(shown),
        tooltip=[
            alt.Tooltip("title:N", title=axes["method"]),
            alt.Tooltip("labels:Q", title=axes["labels"], format="d"),
            alt.Tooltip("accuracy:Q", title=axes["accuracy"], format=".1f"),
            alt.Tooltip("interval:N", title=axes["interval"]),
        ],
    )
    return _finish(alt.layer(band, line, points), rows, height=340)


def draw_reliability(rows: Rows, *, key: Key, text: Text) -> Spec:
    """Draw accuracy over the highest probability; rows: kind is point or diagonal, percents and answers."""
    axes = text.under("figures.axes")
    shown = [row["title"] for row in rows if row["kind"] == "point"]
    scale = alt.Scale(domain=[0, 100], nice=False)
    x = alt.X("confidence:Q", title=axes["confidence"], scale=scale)
    y = alt.Y("accuracy:Q", title=axes["accuracy"], scale=scale)
    diagonal = alt.Chart().transform_filter("datum.kind === 'diagonal'")
    points = alt.Chart().transform_filter("datum.kind === 'point'")
    layers = [
        diagonal.mark_line(strokeDash=[4, 4], color="#888").encode(x=x, y=y),
        points.mark_line(strokeWidth=1.5, opacity=0.8).encode(x=x, y=y, color=key.colour(shown)),
        points.mark_point(filled=True, opacity=0.75).encode(
            x=x,
            y=y,
            color=key.colour(shown),
            shape=key.shape(shown),
            size=alt.Size("answers:Q", legend=None, scale=alt.Scale(range=[20, 400], zero=True)),
            tooltip=[
                alt.Tooltip("title:N", title=axes["method"]),
                alt.Tooltip("confidence:Q", title=axes["confidence"], format=".1f"),
                alt.Tooltip("accuracy:Q", title=axes["accuracy"], format=".1f"),
                alt.Tooltip("answers:Q", title=axes["answers"], format="d"),
            ],
        ),
    ]
    return _finish(alt.layer(*layers), rows, height=340)


def draw_confusion(rows: Rows, *, labels: Sequence[str], text: Text) -> Spec:
    """Draw a confusion matrix; rows: label, prediction, texts, their share of the label in percent."""
    axes = text.under("figures.axes")
    size, scale = 40 if len(labels) <= 8 else 26, alt.Scale(domain=list(labels))
    base = alt.Chart().encode(
        x=alt.X(
            "prediction:N",
            title=axes["prediction"],
            scale=scale,
            axis=alt.Axis(labelAngle=-45, labelLimit=90),
        ),
        y=alt.Y("label:N", title=axes["label"], scale=scale, axis=alt.Axis(labelLimit=90)),
        tooltip=[
            alt.Tooltip("label:N", title=axes["label"]),
            alt.Tooltip("prediction:N", title=axes["prediction"]),
            alt.Tooltip("texts:Q", title=axes["texts"]),
            alt.Tooltip("share:Q", title=axes["share"], format=".1f"),
        ],
    )
    colour = alt.Color("share:Q", scale=alt.Scale(scheme="blues", domain=[0, 100]), legend=None)
    numbers = base.mark_text(fontSize=11).encode(text="texts:Q", color=_on_dark("share", 55))
    cells = alt.layer(base.mark_rect(stroke="white").encode(color=colour), numbers)
    return _finish(cells.properties(width=alt.Step(size), height=alt.Step(min(size, 32))), rows)


def draw_f1(rows: Rows, *, labels: Sequence[str], key: Key, text: Text) -> Spec:
    """Draw F1 by label; rows: title, label and f1 in percent."""
    axes = text.under("figures.axes")
    shown = [row["title"] for row in rows]
    chart = (
        alt.Chart()
        .mark_point(filled=True, size=80, opacity=0.85)
        .encode(
            x=alt.X("f1:Q", title=axes["f1"], scale=alt.Scale(zero=False)),
            y=alt.Y("label:N", title=None, sort=list(labels), axis=alt.Axis(grid=True)),
            color=key.colour(shown),
            shape=key.shape(shown),
            tooltip=[
                alt.Tooltip("title:N", title=axes["method"]),
                alt.Tooltip("label:N", title=axes["label"]),
                alt.Tooltip("f1:Q", title=axes["f1"], format=".1f"),
            ],
        )
    )
    return _finish(chart, rows, height=30 * len(labels))


def draw_phases(
    rows: Rows, *, measure: str, phases: Sequence[str], titles: Sequence[str], text: Text
) -> Spec:
    """Draw bars by phase, times stacked, peaks side by side; rows: title, phase, its place and value."""
    stacked = measure == "seconds"
    colours = [_PHASE_COLOURS[phase] for phase in phases]
    names = [text(f"figures.phases.{phase}") for phase in phases]
    scale = alt.Scale(domain=names, range=colours)
    y = alt.Y("title:N", title=None, sort=list(titles))
    name = text(f"figures.axes.{measure}")
    chart = (
        alt.Chart()
        .mark_bar()
        .encode(
            x=alt.X("value:Q", title=name, stack="zero" if stacked else None),
            y=y,
            color=alt.Color(
                "phase:N",
                title=text("figures.axes.phase"),
                scale=scale,
                legend=alt.Legend(title=None, columns=4),
            ),
            order="place:Q",
            tooltip=[
                alt.Tooltip("title:N", title=text("figures.axes.method")),
                alt.Tooltip("phase:N", title=text("figures.axes.phase")),
                alt.Tooltip("value:Q", title=name, format=".2f"),
            ],
        )
    )
    if not stacked:
        chart = chart.encode(yOffset=alt.YOffset("phase:N", sort=names))
    return _finish(chart, rows, height=len(titles) * (30 if stacked else 14 * len(phases)))


def draw_predicted(rows: Rows, *, key: Key, text: Text) -> Spec:
    """Draw predicted over measured peaks; rows: kind is point or diagonal; run, GiB, error in words."""
    axes = text.under("figures.axes")
    shown = [row["title"] for row in rows if row["kind"] == "point"]
    scale = alt.Scale(zero=False)
    x, y = (
        alt.X("measured:Q", title=axes["measured"], scale=scale),
        alt.Y("predicted:Q", title=axes["predicted"]),
    )
    y = y.scale(zero=False)
    line = (
        alt.Chart()
        .transform_filter("datum.kind === 'diagonal'")
        .mark_line(strokeDash=[4, 4], color="#888")
        .encode(x=x, y=y)
    )
    points = (
        alt.Chart()
        .transform_filter("datum.kind === 'point'")
        .mark_point(filled=True, size=80, opacity=0.75)
        .encode(
            x=x,
            y=y,
            color=key.colour(shown),
            shape=key.shape(shown),
            tooltip=[
                alt.Tooltip("title:N", title=axes["method"]),
                alt.Tooltip("run:N", title=axes["run"]),
                alt.Tooltip("measured:Q", title=axes["measured"], format=".2f"),
                alt.Tooltip("predicted:Q", title=axes["predicted"], format=".2f"),
                alt.Tooltip("error:N", title=axes["error"]),
            ],
        )
    )
    return _finish(alt.layer(line, points), rows, height=320)


def _on_dark(field: str, middle: float) -> Any:
    """Colour text so that it can be read on any cell of a heatmap."""
    return alt.condition(f"datum.{field} > {middle:.6f}", alt.value("white"), alt.value("#111"))


def _finish(chart: Any, rows: Rows, **size: Any) -> Spec:
    """Return the chart as Vega-Lite with its rows; with a height it is as wide as there is room."""
    if size:
        chart = chart.properties(width="container", autosize=alt.AutoSizeParams(type="fit-x"), **size)
    chart.data = alt.InlineData(values=list(rows))
    spec: Spec = chart.configure().to_dict()
    return spec | {"config": _CONFIG}
