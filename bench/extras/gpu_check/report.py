"""The report of a check, for scripts and for people: results/gpu/CARD.json and CARD.md."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.config.cards import GIB
from bench.extras.gpu_check.lab import Machine, Proof
from bench.files import replace_file

PASS, FAIL, SKIPPED = "PASS", "FAIL", "SKIPPED"
_SIZES = {
    "peak_allocated_bytes": "allocated (GiB)",
    "peak_reserved_bytes": "reserved (GiB)",
    "predicted_bytes": "predicted (GiB)",
}
_SECONDS = {"seconds_per_step": "s a step", "seconds_per_evaluated_text": "s a text evaluated"}


@dataclass(frozen=True)
class PartResult:
    """What a part came to."""

    name: str
    seconds: float = 0.0
    proofs: list[Proof] = field(default_factory=list)

    @property
    def status(self) -> str:
        """FAIL if anything of it does not work, SKIPPED if nothing was looked at."""
        found = {proof.works for proof in self.proofs}
        return FAIL if False in found else PASS if True in found else SKIPPED


def describe(outcomes: Sequence[PartResult], machine: Machine | None, *, seconds: float) -> dict[str, Any]:
    """Describe what the check came to so far, in values of JSON; `bench plan` reads card and calibration."""
    known = machine or Machine()
    proofs = [proof for outcome in outcomes for proof in outcome.proofs]
    return {
        "written_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "seconds": round(seconds, 1),
        "gpu": known.gpu,
        "card": known.card,
        "calibration": [one.numbers["calibration"] for one in proofs if "calibration" in one.numbers],
        "parts": [{**asdict(one), "status": one.status} for one in outcomes],
        "provenance": known.provenance,
    }


def write_report(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write <card>.json and <card>.md, in place of those before."""
    card = name_card(report)
    slug = re.sub(r"[^A-Za-z0-9]+", "-", card).strip("-").lower()
    bodies = {
        "json": json.dumps(report, indent=2, ensure_ascii=False) + "\n",
        "md": "\n".join(_to_markdown(card, report)) + "\n",
    }
    folder.mkdir(parents=True, exist_ok=True)
    for ending, body in bodies.items():
        replace_file(folder / f"{slug}.{ending}", body)
    return [folder / f"{slug}.{ending}" for ending in bodies]


def name_card(report: Mapping[str, Any]) -> str:
    """Name the device: the driver's name of the card, else the processor's."""
    hardware = report["provenance"].get("hardware", {})
    return report["gpu"] or f"CPU {hardware.get('cpu') or 'unknown'}"


def _to_markdown(card: str, report: Mapping[str, Any]) -> Iterator[str]:
    packages = report["provenance"].get("packages", {})
    names = ("torch", "transformers", "peft", "bitsandbytes")
    versions = ", ".join(f"{name} {packages.get(name) or 'missing'}" for name in names)
    yield f"# {card}\n"
    yield f"Written by `make gpu-check` at {report['written_at']}, after {report['seconds']} s; {versions}.\n"
    yield "| part | | seconds |\n| --- | --- | --- |"
    for part in report["parts"]:
        yield f"| {part['name']} | {part['status']} | {part['seconds']:.0f} |"
    for part in report["parts"]:
        yield f"\n## {part['name']}: {part['status']}\n"
        for one in part["proofs"]:
            yield f"- {Proof(**one).mark}: {one['name']}: {one['detail']}"
    yield from _list_numbers(report)


def _list_numbers(report: Mapping[str, Any]) -> Iterator[str]:
    """Write a table of what was measured, beside what was predicted."""
    proofs = [one for part in report["parts"] for one in part["proofs"]]
    measured = [one for one in proofs if "seconds_per_step" in one["numbers"]]
    if not measured:
        return
    header = ["run", *_SIZES.values(), *_SECONDS.values()]
    yield "\n## Measured\n\nPeaks are of the whole run; what was not measured is —.\n"
    yield f"| {' | '.join(header)} |\n|{' --- |' * len(header)}"
    for one in measured:
        sizes = (one["numbers"].get(name) for name in _SIZES)
        times = (one["numbers"].get(name) for name in _SECONDS)
        cells = [
            *("—" if size is None else f"{size / GIB:.2f}" for size in sizes),
            *("—" if time is None else f"{time:.3f}" for time in times),
        ]
        yield f"| {one['name']} | {' | '.join(cells)} |"
