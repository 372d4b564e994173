"""Close matches for an unknown name."""

from collections.abc import Iterable
from difflib import get_close_matches


def guess(word: str, known: Iterable[str]) -> str:
    """Suggest close matches as ``; did you mean X?`` to end an error with; empty where no known name is near.

    Of a field's path the last part is enough: ``lr`` or ``lrr`` for ``train.lr``.
    """
    names = {name.lower(): name for name in known}
    word = word.lower()
    last = word.rpartition(".")[2]
    ends = {name: name.rpartition(".")[2] for name in names}
    near = (
        [name for name, end in ends.items() if end == last]
        or get_close_matches(word, names, n=1, cutoff=0.7)
        or [name for name in names if len(word) > 2 and word in name]
        or [
            name
            for end in get_close_matches(last, ends.values(), n=1, cutoff=0.75)
            for name in names
            if ends[name] == end
        ]
    )
    return f"; did you mean {' or '.join(names[one] for one in near[:3])}?" if near else ""
