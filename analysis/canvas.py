"""What every picture shares: style, size, and how it becomes a file. No pyplot, so nothing global is touched."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from analysis.collate import Metric
from deltalab.spec.study import Goal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 160
WIDTH = 9.0
"""Inches."""
STYLE = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.8,
    "xtick.color": "#444444",
    "ytick.color": "#222222",
    "legend.frameon": False,
    "figure.dpi": DPI,
    "svg.hashsalt": "deltalab",
}


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A drawn figure.

    Attributes:
        name: file name without ending.
        title: heading in the report.
        caption: what is drawn and how it was computed.
        png: PNG file.
        svg: SVG file.
    """

    name: str
    title: str
    caption: str
    png: bytes
    svg: str


@contextmanager
def style() -> Iterator[None]:
    """The style of every picture, inside the block only."""
    import matplotlib

    with matplotlib.rc_context(STYLE):  # pyright: ignore[reportArgumentType]
        yield


def develop(figure: "Figure", name: str, title: str, caption: str) -> Picture:
    """Render a figure as PNG and SVG; the same figure gives the same bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    png, svg = io.BytesIO(), io.BytesIO()
    FigureCanvasAgg(figure).print_png(png)
    figure.set_layout_engine("none")  # solved by now
    FigureCanvasSVG(figure).print_svg(svg, metadata={"Date": None})
    return Picture(name=name, title=title, caption=caption, png=png.getvalue(), svg=svg.getvalue().decode())


def axis_label(metric: Metric) -> str:
    """``eval/loss (lower is better)``."""
    better = {Goal.max: " (higher is better)", Goal.min: " (lower is better)", None: ""}[metric.goal]
    return metric.name + better
