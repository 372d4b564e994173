"""bench: full fine-tuning, LoRA or QLoRA, for your data on your card?"""

import logging

__version__ = "0.1.0"

# On a CPU with bfloat16 bitsandbytes warns that an optional kernel from a hub is missing; it works without.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
