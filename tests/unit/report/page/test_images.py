"""Figures as files: what is said where this machine has no font for them."""

from pathlib import Path

import pytest

from bench.report.page import images


@pytest.mark.parametrize(
    ("text", "same", "lacks"), [("准确率", True, True), ("准确率", False, False), ("accuracy", True, False)]
)
def test_chinese_that_no_font_can_draw_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, same: bool, lacks: bool
):
    """Without a font every character is the same mark, or none."""
    (tmp_path / "a.svg").write_text(f"<svg><text>{text}</text></svg>", encoding="utf-8")
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    monkeypatch.setattr(
        images.vl_convert, "vegalite_to_png", lambda spec: b"box" if same else str(spec).encode()
    )
    assert images.lack_font([tmp_path / "a.svg", tmp_path / "a.png"]) is lacks


def test_gradients_are_counted_anew_in_each_image():
    svg = (
        '<linearGradient id="gradient_7"/><linearGradient id="gradient_12"/><rect fill="url(#gradient_12)"/>'
    )
    expected = '<linearGradient id="fill-0"/><linearGradient id="fill-1"/><rect fill="url(#fill-1)"/>'
    assert images._number_gradients(svg) == expected
