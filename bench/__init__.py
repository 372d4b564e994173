"""bench: full fine-tuning, LoRA or QLoRA, for your data on your card?"""

__version__ = "0.1.0"
