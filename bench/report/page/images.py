"""Figures as SVG and PNG, without a browser: for slides, papers and table.md."""

import re
from collections.abc import Sequence
from pathlib import Path

import vl_convert

from bench.report.blocks import Figure
from bench.report.page.charts import Spec

_WIDTH = 640  # pixels of what is as wide as there is room on the page
_SCALE = 2.0  # of PNG
_CHINESE = re.compile(r"[\u4e00-\u9fff]")


def render_images(figures: Sequence[Figure]) -> dict[str, str | bytes]:
    """Render figures/NAME.svg and figures/NAME.png of each figure."""
    files: dict[str, str | bytes] = {}
    for figure in figures:
        svg = _number_gradients(vl_convert.vegalite_to_svg(_size(figure.spec)))
        files[f"figures/{figure.name}.svg"] = svg
        files[f"figures/{figure.name}.png"] = vl_convert.svg_to_png(svg, scale=_SCALE)
    return files


def lack_font(written: Sequence[Path]) -> bool:
    """Return whether PNG files lack Chinese: this machine then draws two characters as the same mark."""

    def draw(character: str) -> bytes:
        mark = {"type": "text", "text": {"value": character}, "fontSize": 24}
        return bytes(vl_convert.vegalite_to_png({"data": {"values": [{}]}, "mark": mark}))

    drawn = (path.read_text(encoding="utf-8") for path in written if path.suffix == ".svg")
    return any(_CHINESE.search(svg) for svg in drawn) and draw("方") == draw("准")


def _number_gradients(svg: str) -> str:
    """Count the image's gradients from 0: Vega counts on over all images of a process."""
    names = list(dict.fromkeys(re.findall(r'id="(gradient_\d+)"', svg)))
    for place, name in enumerate(names):
        svg = re.sub(rf"\b{name}\b", f"fill-{place}", svg)
    return svg


def _size(spec: Spec) -> Spec:
    return spec | {"width": _WIDTH} if spec.get("width") == "container" else spec
