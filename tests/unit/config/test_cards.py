"""The table of cards, against what is known of them."""

import pytest

from bench.config.cards import CONTEXT_BYTES, GIB, read_cards, recognise


def test_every_card_is_complete_and_plausible() -> None:
    for card in read_cards().values():
        assert 8 * GIB < card.memory_bytes < 300 * GIB
        assert card.usable_bytes == card.memory_bytes - CONTEXT_BYTES
        assert "fp32" in card.flops_per_second
        assert 5e12 < card.flops_per_second["fp32"] < max(card.flops_per_second.values()) < 3e15
        assert 1e11 < card.bytes_per_second < 1e13
        assert 50 < card.watts < 1500


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("NVIDIA A100-SXM4-80GB", "a100_80gb"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA RTX 6000 Ada Generation", "rtx6000ada"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA GeForce GTX 1080", None),
        ("NVIDIA L40", None),
        ("NVIDIA A100-PCIE-40GB", None),
        ("NVIDIA GeForce RTX 4080 SUPER", None),
    ],
)
def test_a_card_is_recognised_by_the_drivers_name_and_no_other_is(device: str, name: str | None) -> None:
    card = recognise(device)
    assert (None if card is None else card.name) == name
