"""Loads what every run's process needs and none should make anew; the fork server imports this.

Imports alone, tables that libraries make at their first use, Hydra's scan for plugins (0.2 s), and the 2,225
files of the default texts.
Nothing here may compute with torch, make a CUDA context or start a thread, which a forked process would
inherit half.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from multiprocessing import forkserver
from typing import Any

from bench.process import end_silently

IS_FORK_SERVER = getattr(sys.modules["__main__"], "main", None) is forkserver.main

if IS_FORK_SERVER:
    end_silently()  # while it imports; after that the fork server ignores Ctrl-C itself
import torch  # noqa: E402
from hydra.core.plugins import Plugins  # noqa: E402

_CHECK = "PYTORCH_NVML_BASED_CUDA_CHECK"  # torch's own name


@contextlib.contextmanager
def ask_nvml() -> Iterator[None]:
    """Have torch ask the driver's NVML about the cards, as no process forked after a CUDA call can use one.

    Libraries ask as they are imported: bitsandbytes, which PEFT imports, for each card's compute capability.
    Where there is no NVML torch asks CUDA all the same, and a sweep starts its runs without the fork server.
    """
    checked, read_by_cuda = os.environ.get(_CHECK), torch.cuda.get_device_capability
    os.environ[_CHECK] = "1"
    torch.cuda.get_device_capability = _read_capability
    try:
        yield
    finally:
        torch.cuda.get_device_capability = read_by_cuda
        del os.environ[_CHECK]
        if checked is not None:
            os.environ[_CHECK] = checked


def _read_capability(device: Any = None) -> tuple[int, int]:
    """Return what torch.cuda.get_device_capability would, as the driver's NVML says it."""
    import pynvml

    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(torch.cuda._get_pynvml_handler(device))
    return int(major), int(minor)


with ask_nvml():
    import peft.tuners.lora.bnb  # noqa: F401 (PEFT imports it with the first adapter)
    from transformers import conversion_mapping

    import bench.run.record  # noqa: F401 (and with it all that trains)
    from bench.config import cards
    from bench.data import sources
    from bench.run import app, provenance

conversion_mapping.get_checkpoint_conversion_mapping(
    "bert"
)  # 1,000 patterns, for the first model of a process
cards.read_cards()
app.prepare_hydra()
Plugins.instance()
with contextlib.suppress(OSError):  # a run that needs them says so itself
    sources.hold_bbc()
provenance.describe_code()  # of the code that is imported here, whatever becomes of the checkout meanwhile
if IS_FORK_SERVER:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # or it could not tell the sweep how runs ended
