"""What every run's process needs and none should make anew: imported by the fork server, for its effect.

Imports alone, tables that libraries make at their first use, and the 2,225 files of the default texts.
Nothing here may compute with torch or start a thread, which a forked process would inherit half.
"""

import contextlib

import peft.tuners.lora.bnb  # noqa: F401 (PEFT imports it with the first adapter)
from transformers import conversion_mapping

import bench.attempt  # noqa: F401
from bench import cards, provenance, sources

conversion_mapping.get_checkpoint_conversion_mapping(
    "bert"
)  # 1,000 patterns, for the first model of a process
cards.read_cards()
with contextlib.suppress(OSError):  # a run that needs them says so itself
    sources.hold_bbc()
provenance.describe_code()  # of the code that is imported here, whatever becomes of the checkout meanwhile
