"""`make benchmark`: measures bench on this machine, beside a naive loop, and writes benchmarks/RESULTS.md."""

import argparse
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks import choice, engine, forecasts, grid, inside, machine, scale, step, studies
from benchmarks.settings import table

RESULTS = Path(__file__).with_name("RESULTS.md")

RENEWED = ("Date", "Commit", "CPU", "Load before")  # what a section measured again says of itself

Section = Callable[[Path, bool, bool], str]
SECTIONS: Mapping[str, Section] = {
    "step": lambda _, short, __: step.report(short=short),
    "inside": lambda _, short, __: inside.report(short=short),
    "grid": lambda folder, short, whole: grid.report(folder, short=short, whole=whole),
    "choice": lambda folder, short, _: choice.report_seeds(folder, short=short),
    "kinds": lambda folder, short, _: choice.report_kinds(folder, short=short),
    "forecasts": lambda _, short, __: forecasts.report(short=short),
    "engine": lambda folder, short, _: engine.report(folder, short=short),
    "scale": lambda folder, short, _: scale.report(folder, short=short),
    "statistics": lambda _, short, __: studies.report(short=short),
}


def main() -> None:
    """Runs the sections one after the other and says each as it is known."""
    given = parse()
    begun = time.monotonic()
    described = machine.describe()
    facts = ["# Benchmark", table(["", ""], described)]
    print("\n\n".join(facts), flush=True)
    parts = []
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        for name in given.sections or SECTIONS:
            parts.append(SECTIONS[name](Path(folder) / name, given.short, given.whole))
            print(f"\n{parts[-1]}", flush=True)
    taken = f"Written by `make benchmark` in {(time.monotonic() - begun) / 60:.0f} minutes."
    if given.short:
        print(f"\n{taken} {RESULTS.name} is not written by a short run.")
    elif given.sections:
        written = renew(RESULTS.read_text(encoding="utf-8"), parts, described)
        RESULTS.write_text(written, encoding="utf-8")
    else:
        RESULTS.write_text("\n\n".join([*facts, taken, *parts]) + "\n", encoding="utf-8")


def renew(written: str, parts: Sequence[str], described: Sequence[tuple[str, str]]) -> str:
    """The results with these sections in place of the old ones; each says when and where it was measured."""
    shown = ", ".join(f"{name} {value}" for name, value in described if name in RENEWED)
    for part in parts:
        heading, _, body = part.partition("\n")
        section = f"{heading}\n\nMeasured again, without the other sections: {shown}.\n{body}\n\n"
        old = re.compile(rf"^{re.escape(heading)}$.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
        written, found = old.subn(section.replace("\\", r"\\"), written)
        if not found:
            written = f"{written.rstrip()}\n\n{section}"
    return written.rstrip() + "\n"


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("sections", nargs="*", help=f"{', '.join(SECTIONS)}; all without any")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--short", action="store_true", help="a few minutes, to see that it works")
    length.add_argument("--whole", action="store_true", help="all points of the naive loop")
    given = parser.parse_args()
    if unknown := set(given.sections) - set(SECTIONS):
        parser.error(f"no such section: {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    return given


if __name__ == "__main__":
    main()
