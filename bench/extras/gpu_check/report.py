"""The report of a check, for scripts and for people: results/gpu/CARD.json and CARD.md."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.extras.gpu_check.lab import Machine, Proof
from bench.files import replace_file
from bench.report.blocks import Bullets, Paragraph, Section, Table, make_bullets, write_markdown
from bench.report.cells import format_gib, format_known

_COMMAND = "make gpu-check"
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
        works = {proof.works for proof in self.proofs}
        return FAIL if False in works else PASS if True in works else SKIPPED


def describe(outcomes: Sequence[PartResult], machine: Machine | None, *, seconds: float) -> dict[str, Any]:
    """Describe what the check came to so far, in values of JSON; `bench plan` reads card and calibration."""
    known = machine or Machine()
    proofs = [proof for outcome in outcomes for proof in outcome.proofs]
    return {
        "written_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "seconds": round(seconds, 1),
        "gpu": known.gpu,
        "card": known.card,
        "calibration": [proof.numbers["calibration"] for proof in proofs if "calibration" in proof.numbers],
        "parts": [{**asdict(outcome), "status": outcome.status} for outcome in outcomes],
        "provenance": known.provenance,
    }


def write_report(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write <card>.json and <card>.md, in place of those before."""
    card = name_card(report)
    slug = re.sub(r"[^A-Za-z0-9]+", "-", card).strip("-").lower()
    bodies = {
        "json": json.dumps(report, indent=2, ensure_ascii=False) + "\n",
        "md": _to_markdown(card, report),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for ending, body in bodies.items():
        replace_file(folder / f"{slug}.{ending}", body)
    return [folder / f"{slug}.{ending}" for ending in bodies]


def name_card(report: Mapping[str, Any]) -> str:
    """Name the device: the driver's name of the card, else the processor's."""
    hardware = report["provenance"].get("hardware", {})
    return report["gpu"] or f"CPU {hardware.get('cpu') or 'unknown'}"


def _to_markdown(card: str, report: Mapping[str, Any]) -> str:
    packages, parts = report["provenance"].get("packages", {}), report["parts"]
    names = ("torch", "transformers", "peft", "bitsandbytes")
    versions = ", ".join(f"{name} {packages.get(name) or 'missing'}" for name in names)
    said = f"Written by {_COMMAND} at {report['written_at']}, after {report['seconds']} s; {versions}."
    lines = [[part["name"], part["status"], f"{part['seconds']:.0f}"] for part in parts]
    table = Table(["part", "", "seconds"], lines, left=[0, 1])
    sections = [Section(f"{part['name']}: {part['status']}", [_list_proofs(part)]) for part in parts]
    return write_markdown(
        [Section(card, [Paragraph(said, command=_COMMAND), table, *sections, *_list_numbers(report)])],
        level=1,
    )


def _list_proofs(part: Mapping[str, Any]) -> Bullets:
    return make_bullets(
        f"{Proof(**proof).mark}: {proof['name']}: {proof['detail']}" for proof in part["proofs"]
    )


def _list_numbers(report: Mapping[str, Any]) -> list[Section]:
    """List what was measured, beside what was predicted."""
    proofs = [proof for part in report["parts"] for proof in part["proofs"]]
    lines = [
        [
            proof["name"],
            *(format_known(proof["numbers"].get(name), format_gib) for name in _SIZES),
            *(format_known(proof["numbers"].get(name), "{:.3f}".format) for name in _SECONDS),
        ]
        for proof in proofs
        if "seconds_per_step" in proof["numbers"]
    ]
    header = ["run", *_SIZES.values(), *_SECONDS.values()]
    note = Paragraph("Peaks are of the whole run; what was not measured is –.")
    return [Section("Measured", [note, Table(header, lines, left=[0])])] if lines else []
