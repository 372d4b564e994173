"""The commands that README, docs/ and --help show."""

import re

from bench.cli import help
from bench.config.schema import CONF_DIR

ROOT = CONF_DIR.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands_of(text: str) -> list[str]:
    """The lines of the page's plain blocks that are commands, without their comments."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    lines = [
        line for language, block in blocks if not language for line in block.replace("\\\n", " ").splitlines()
    ]
    return [
        found[1].strip()
        for line in lines
        if (found := re.match(r"((?:bench|make) .*?|make)(?:\s+# .*)?$", line))
    ]


SHOWN = sorted({command for page in PAGES for command in commands_of(page.read_text(encoding="utf-8"))})
EXAMPLES = sorted(
    {
        re.split(r"\s{2,}", line)[0]
        for text in help.EXAMPLES.values()
        for line in text.splitlines()
        if line.startswith("bench ") and "COMMAND" not in line and "|" not in line
    }
)
