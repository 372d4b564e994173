"""Figures as SVG and PNG, without a browser: for slides, papers and table.md."""

import functools
import re
from collections.abc import Sequence

import vl_convert

from bench.report.charts import Spec
from bench.report.figures import Figure

_WIDTH = 640  # pixels of what is as wide as there is room on the page
_SCALE = 2.0  # of PNG


def render_images(figures: Sequence[Figure]) -> dict[str, str | bytes]:
    """figures/NAME.svg and figures/NAME.png of each."""
    files: dict[str, str | bytes] = {}
    for figure in figures:
        svg = _number_gradients(vl_convert.vegalite_to_svg(_size(figure.spec)))
        files[f"figures/{figure.name}.svg"] = svg
        files[f"figures/{figure.name}.png"] = vl_convert.svg_to_png(svg, scale=_SCALE)
    return files


@functools.cache
def has_chinese_font() -> bool:
    """Whether this machine draws Chinese: without a font, two characters are the same empty box."""

    def draw(character: str) -> bytes:
        mark = {"type": "text", "text": {"value": character}, "fontSize": 24}
        return bytes(vl_convert.vegalite_to_png({"data": {"values": [{}]}, "mark": mark}))

    return draw("方") != draw("准")


def _number_gradients(svg: str) -> str:
    """The image with its gradients counted from 0: Vega counts on over all images of a process."""
    names = list(dict.fromkeys(re.findall(r'id="(gradient_\d+)"', svg)))
    for place, name in enumerate(names):
        svg = re.sub(rf"\b{name}\b", f"fill-{place}", svg)
    return svg


def _size(spec: Spec) -> Spec:
    return spec | {"width": _WIDTH} if spec.get("width") == "container" else spec
