"""How many tokens a model can read: those for which it has positions."""

import re

from torch import nn

_TABLE = re.compile(r"wpe|(?!.*rel).*position.*")  # the last part of such a module's name


def count_positions(model: nn.Module) -> int | None:
    """Return how many tokens the model has positions for, None where they are relative or rotary."""
    tables = [
        table.num_embeddings - _count_reserved(table)
        for name, table in model.named_modules()
        if isinstance(table, nn.Embedding) and _TABLE.fullmatch(name.rpartition(".")[2])
    ]
    numbered = [
        buffer.shape[0 if buffer_is_table else -1]
        for name, buffer in model.named_buffers()
        if (buffer_is_table := name.endswith("embed_positions")) or name.endswith("position_ids")
    ]
    return min([*tables, *numbered], default=None)


def _count_reserved(table: nn.Embedding) -> int:
    """Return how many positions no token gets: RoBERTa's begin after its pad token's, OPT's at an offset."""
    offset = getattr(table, "offset", None)
    if isinstance(offset, int):
        return offset
    return 0 if table.padding_idx is None else table.padding_idx + 1


def cut_length(wanted: int, model: nn.Module) -> int:
    """Return the tokens that are wanted, or as many as the model has positions for."""
    positions = count_positions(model)
    return wanted if positions is None else min(wanted, positions)
