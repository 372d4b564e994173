"""Every word that a report shows, in each language: a language is a file beside this one, LANG.yaml."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bench.errors import ConfigError
from bench.report.cells import flatten


@dataclass(frozen=True)
class Text:
    """One language; ``text("imported.row", file=name, row=3)`` is a sentence with its braces filled in."""

    lang: str
    sentences: Mapping[str, str]  # by dotted key

    def __call__(self, key: str, /, **values: Any) -> str:
        """Return the sentence under the key, with numbers and names in the place of its braces."""
        return self.sentences[key].format(**values)

    def under(self, key: str) -> dict[str, str]:
        """Return the sentences below a key as they stand, by the rest of their keys, in the file's order."""
        prefix = f"{key}."
        sentences = {name: sentence for name, sentence in self.sentences.items() if name.startswith(prefix)}
        return {name.removeprefix(prefix): value for name, value in sentences.items()}

    def join(self, names: Sequence[str]) -> str:
        """Join names as a sentence lists them: A, B and C."""
        return self("join.and").join(filter(None, [self("join.comma").join(names[:-1]), names[-1]]))

    def name_metric(self, name: str) -> str:
        """Return what the language calls a metric, or the metric's own name where it has no word for it."""
        return self.under("metrics").get(name, name)

    def format_percent(self, share: float) -> str:
        """Write a share as people do: 88.5 %."""
        return self("percent", percent=100 * share)

    def format_points(self, share: float) -> str:
        """Write a difference of two shares as people do: 1 point, 0.5 points."""
        points = round(100 * share, 6)
        return self("points.one") if points == 1 else self("points.more", points=points)

    def format_duration(self, seconds: float) -> str:
        """Write seconds as people do: 0.012 s, 12.3 s, 4 min 05 s, 2.8 h."""
        if round(seconds, 3) < 1:
            return self("durations.moment", seconds=seconds)
        if round(seconds, 1) < 60:
            return self("durations.seconds", seconds=seconds)
        if round(seconds) < 3600:
            return self("durations.minutes", minutes=round(seconds) // 60, rest=round(seconds) % 60)
        return self("durations.hours", hours=seconds / 3600)


def read_language(lang: str) -> Text:
    """Return the words of a language.

    Raises:
        ConfigError: no file has this language.
    """
    if lang not in LANGUAGES:
        raise ConfigError(f"lang={lang}: must be one of {', '.join(LANGUAGES)}")
    return LANGUAGES[lang]


LANGUAGES = {
    path.stem: Text(path.stem, flatten(yaml.safe_load(path.read_text(encoding="utf-8"))))
    for path in sorted(Path(__file__).parent.glob("*.yaml"))
}
ENGLISH = LANGUAGES["en"]
