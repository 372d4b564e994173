"""What halving chooses beside what the whole grid chooses, over seeds and over ten data sets."""

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from bench.data import dataset
from bench.results.selection import select_best
from bench.results.store import Result
from benchmarks.grid import AXES, CORNERS, SIDES, TEXTS, Texts, points, read_point, sweep
from benchmarks.settings import compose, ratio, table

SEEDS = range(5)  # of the grids on headlines
NEAR = 0.01  # of test accuracy: halving chose as well as the whole grid did
STEPS = 150  # of each run on the ten data sets
GRID, HALVING = "bench packed", "bench halving"
HEAD = ["whole grid", "its choice", "halving", "its choice", "difference, points", "its steps", "makespan"]

Frame = pd.DataFrame  # a split: text, label (a name)
Change = Callable[[Frame, np.random.Generator, str], Frame]  # a split, its chance and its name


@dataclass(frozen=True)
class Chosen:
    """What a sweep chose, and what it took for that."""

    accuracy: float  # on the test split, trained alone
    point: str
    steps: int  # of training, over all runs
    seconds: float


def report_seeds(folder: Path, *, short: bool) -> str:
    """The section: the choices by seed."""
    headlines, axes, seeds = TEXTS[0], AXES, list(SEEDS)
    if short:
        headlines, axes, seeds = dataclasses.replace(headlines, steps=60), CORNERS, seeds[:2]
    pairs = {}
    for seed in seeds:
        pairs[str(seed)] = _compare(headlines, axes, [f"seed={seed}"], folder / f"seed-{seed}")
    return "\n\n".join(
        [
            f"## What halving chooses of headlines, {headlines.steps} steps",
            _explain(axes),
            f"The error is the standard error of a mean over {len(seeds)} seeds; that of the difference is "
            "of the pairs.",
            _tabulate("seed of the grid", pairs),
        ]
    )


def report_kinds(folder: Path, *, short: bool) -> str:
    """The section: the choices by data set."""
    axes, kinds, steps = (CORNERS, dict(list(KINDS.items())[:1]), 60) if short else (AXES, KINDS, STEPS)
    by_kind = {}
    for place, (title, change) in enumerate(kinds.items()):
        texts = _make_texts(title, change, folder / f"data-{place}", steps=steps)
        by_kind[title] = _compare(texts, axes, [], folder / f"kind-{place}")
        print(_tabulate("data set", by_kind), flush=True)
    near = sum(halved.accuracy >= grid.accuracy - NEAR for grid, halved in by_kind.values())
    return "\n\n".join(
        [
            f"## What halving chooses of texts of {len(by_kind)} kinds, {steps} steps",
            _explain(axes),
            f"Halving's choice is at most {100 * NEAR:g} point behind the whole grid's on {near} of "
            f"{len(by_kind)}.",
            _tabulate("data set", by_kind),
        ]
    )


def _explain(axes: Mapping[str, Sequence[str]]) -> str:
    return (
        "The test accuracy of the configuration that is chosen on validation of a grid of "
        f"{len(points(axes))}, trained alone: by the whole grid packed, and by halving in packs. "
        "Its steps are those of all its runs, as a share of the whole grid's."
    )


def _compare(
    texts: Texts, axes: Mapping[str, Sequence[str]], overrides: Sequence[str], folder: Path
) -> tuple[Chosen, Chosen]:
    """Both sides, one after the other."""
    found = []
    for title in (GRID, HALVING):
        place = folder / title.replace(" ", "-")
        seconds, results = sweep(title, texts, axes, [*SIDES[title][0], *overrides], place)
        best = select_best(results)
        assert best is not None
        [run] = [one for one in best.results if one.packed is None]
        steps = sum(map(_count_steps, results))
        found.append(Chosen(run.metrics["test"]["accuracy"], " ".join(read_point(run)), steps, seconds))
    return found[0], found[1]


def _count_steps(result: Result) -> int:
    """The steps that the run itself trained, those of an earlier success in a pack too."""
    train, trains = result.config["train"], 1 + len(result.attempts)
    return trains * int((train["stop_step"] or train["max_steps"]) - (result.model["resumed_from_step"] or 0))


def _tabulate(kind: str, pairs: Mapping[str, tuple[Chosen, Chosen]]) -> str:
    """A row for each pair and one for their mean."""
    rows = []
    for name, (grid, halved) in pairs.items():
        shown = [f"{grid.accuracy:.2%}", grid.point, f"{halved.accuracy:.2%}", halved.point]
        shown += [f"{100 * (halved.accuracy - grid.accuracy):+.2f}", f"{halved.steps / grid.steps:.0%}"]
        rows.append([name, *shown, ratio(grid.seconds, halved.seconds)])
    if len(pairs) > 1:
        sides = list(zip(*pairs.values(), strict=True))
        means = [_mean([one.accuracy for one in side]) for side in sides]
        difference = _mean([100 * (halved.accuracy - grid.accuracy) for grid, halved in pairs.values()])
        shares = [f"{100 * mean:.2f} ± {100 * error:.2f} %" for mean, error in means]
        steps, seconds = (
            [sum(getattr(one, name) for one in side) for side in sides] for name in ("steps", "seconds")
        )
        last = ["{:+.2f} ± {:.2f}".format(*difference), f"{steps[1] / steps[0]:.0%}", ratio(*seconds)]
        rows.append(["mean", shares[0], "", shares[1], "", *last])
    return table([kind, *HEAD], rows)


def _mean(values: Sequence[float]) -> tuple[float, float]:
    """The mean and its standard error."""
    return statistics.mean(values), statistics.stdev(values) / len(values) ** 0.5


def _make_texts(title: str, change: tuple[str, Change], folder: Path, *, steps: int) -> Texts:
    """Write the splits of one kind as files."""
    folder.mkdir(parents=True)
    frames, _ = change_texts(change)
    for split, frame in frames.items():
        frame.to_csv(folder / f"{split}.csv", index=False)
    files = [f"data.{split}={folder}/{split}.csv" for split in frames]
    return Texts(title, ["data=files", *files], 64, steps)


def change_texts(change: tuple[str, Change], *overrides: str) -> tuple[dict[str, Frame], list[str]]:
    """The splits of one kind, with labels by name, and the labels."""
    source, edit = change
    found = dataset.load(compose(f"data={source}", *overrides).data)
    random, frames = np.random.default_rng(0), dict[str, Frame]()
    for split, frame in found.splits.items():
        named = frame.assign(label=[found.labels[label] for label in frame["label"]])[["text", "label"]]
        frames[split] = edit(named, random, split).reset_index(drop=True)
    return frames, sorted(frames["train"]["label"].unique())


def _keep(frame: Frame, _: np.random.Generator, __: str) -> Frame:
    return frame


def _cut_sentence(frame: Frame, _: np.random.Generator, __: str) -> Frame:
    """The last 30 words of a whole text."""
    return frame.assign(text=[" ".join(text.split()[-30:]) for text in frame["text"]])


def _ask_sports(frame: Frame, _: np.random.Generator, __: str) -> Frame:
    return frame.assign(label=np.where(frame["label"] == "sports", "sports", "other"))


def _unbalance(frame: Frame, _: np.random.Generator, __: str) -> Frame:
    """One row in ten of two of the labels."""
    place = frame.groupby("label").cumcount()
    return frame[~frame["label"].isin(["politics", "tech"]) | (place % 10 == 0)]


def _mislabel(frame: Frame, random: np.random.Generator, split: str) -> Frame:
    """A fifth of the labels are drawn anew; those of the test split stay right."""
    drawn = random.choice(frame["label"].unique(), len(frame))
    wrong = (random.random(len(frame)) < 0.2) & (split != "test")
    return frame.assign(label=np.where(wrong, drawn, frame["label"]))


def _thin(frame: Frame, _: np.random.Generator, split: str) -> Frame:
    """A fifth of the training texts."""
    return frame[frame.groupby("label").cumcount() % 5 == 0] if split == "train" else frame


def _find_numbers(frame: Frame, _: np.random.Generator, __: str) -> Frame:
    return frame.assign(label=np.where(frame["text"].str.contains(r"\d"), "number", "none"))


def _ask_same(frame: Frame, random: np.random.Generator, __: str) -> Frame:
    """Two headlines: are they of one topic? Half of them are."""
    others = frame.sample(frac=1, random_state=int(random.integers(2**31))).reset_index(drop=True)
    rows = []
    for (text, label), same in zip(
        frame.itertuples(index=False), random.random(len(frame)) < 0.5, strict=True
    ):
        able = others["text"][(others["label"] == label) == same]
        other = able.iloc[int(random.integers(len(able)))]
        rows.append((f"{text} / {other}", "same" if same else "different"))
    return pd.DataFrame(rows, columns=["text", "label"])


def _put_first(frame: Frame, random: np.random.Generator, __: str) -> Frame:
    """Two headlines of which the first one's topic counts."""
    others = random.permutation(frame["text"].to_numpy())
    return frame.assign(text=[f"{text} / {other}" for text, other in zip(frame["text"], others, strict=True)])


def _shuffle(frame: Frame, random: np.random.Generator, __: str) -> Frame:
    """The words in any order."""
    return frame.assign(text=[" ".join(random.permutation(text.split())) for text in frame["text"]])


KINDS: Mapping[str, tuple[str, Change]] = {
    "headlines, 5 topics": ("bbc_headlines", _keep),
    "ends of whole texts, 5 topics": ("bbc_news", _cut_sentence),
    "headlines, sports or not": ("bbc_headlines", _ask_sports),
    "headlines, two topics ten times rarer": ("bbc_headlines", _unbalance),
    "headlines, a fifth of the labels drawn anew": ("bbc_headlines", _mislabel),
    "headlines, a fifth of the training texts": ("bbc_headlines", _thin),
    "headlines, is there a number": ("bbc_headlines", _find_numbers),
    "two headlines, one topic or not": ("bbc_headlines", _ask_same),
    "two headlines, the first one's topic": ("bbc_headlines", _put_first),
    "headlines, words in any order": ("bbc_headlines", _shuffle),
}
