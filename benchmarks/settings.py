"""What the sections of the benchmark share: configurations, clean environments, and how figures read."""

import json
import os
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import hydra

from bench.config import schema
from bench.config.schema import CONF_DIR, Config
from bench.run.app import prepare_hydra

ROOT = CONF_DIR.parent


@cache
def compose(*overrides: str) -> Config:
    """The configuration that override lines come to."""
    prepare_hydra()
    with hydra.initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return schema.from_hydra(hydra.compose("config", overrides=list(overrides)))


def environment() -> dict[str, str]:
    """This process's variables, without what would keep a side from all cores or ask a server."""
    left_out = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "WANDB_MODE")
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**kept, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def answer(command: Sequence[str]) -> Any:
    """What the command prints as JSON in its last line; its errors end the benchmark."""
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def ratio(slower: float, faster: float) -> str:
    """How many times as fast."""
    return f"{slower / faster:.1f}x"


def read_peak_bytes(process: int) -> int:
    """The resident peak of a living process so far, or 0 outside Linux and after its end."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)
