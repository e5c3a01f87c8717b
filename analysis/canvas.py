"""What every picture shares: style, size, and how it becomes a file. No pyplot, so nothing global is touched.

Pictures are drawn for white paper. An SVG carries a style sheet that a browser applies on a dark screen (never in
print): it gives every colour used here the one that is read on dark paper.
"""

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from analysis.collate import Metric
from analysis.palette import DARK_HUES, PLAIN
from deltalab.spec.study import Goal
from deltalab.track.palette import HUES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 160
WIDTH, PANEL = 9.0, 3.4
"""Inches: of a picture, and the height of a row of panels."""
PAPER, INK, AXIS, RULE, BAND = "#ffffff", "#1b1f24", "#888888", "#e4e4e4", "#f5f5f5"
DARK = {
    **dict(zip(HUES, DARK_HUES, strict=True)),
    PLAIN: "#9aa4af",
    PAPER: "#14181d",
    INK: "#e6e9ed",
    AXIS: "#76808b",
    RULE: "#2b323a",
    BAND: "#1c2229",
}
"""Colour on white paper → the same on dark paper."""
STYLE = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": AXIS,
    "axes.facecolor": PAPER,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "figure.facecolor": PAPER,
    "text.color": INK,
    "text.parse_math": False,  # a name may have dollars in it
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "xtick.color": PLAIN,
    "xtick.labelcolor": PLAIN,
    "ytick.color": INK,
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


def panels(
    titles: Sequence[str], label: str, alone: float, around: float, across: int = 2, shared: bool = False
) -> "tuple[Figure, list[Axes]]":
    """A figure with a panel for each title, the values' label at each row's first.

    Args:
        titles: of the panels.
        label: of the axis of values.
        alone: height of the figure, in inches, where there is one panel.
        around: what it takes besides the rows where there are several.
        across: panels in a row at most.
        shared: whether they have the same scales.
    """
    from matplotlib.figure import Figure

    columns = min(across, len(titles))
    rows = -(-len(titles) // columns)
    figure = Figure(figsize=(WIDTH, alone if len(titles) == 1 else around + PANEL * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=shared, sharey=shared, squeeze=False).flatten()
    for spare in grid[len(titles) :]:
        spare.remove()
    for axes, title in zip(grid, titles, strict=False):
        axes.set_title(title)
    for axes in grid[::columns]:
        axes.set_ylabel(label)
    return figure, list(grid[: len(titles)])


def develop(figure: "Figure", name: str, title: str, caption: str) -> Picture:
    """Render a figure as PNG and SVG; the same figure gives the same bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    png, svg = io.BytesIO(), io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a name's, drawn as a box
        FigureCanvasAgg(figure).print_png(png)
        figure.set_layout_engine("none")  # solved by now
        FigureCanvasSVG(figure).print_svg(svg, metadata={"Date": None})
    text = svg.getvalue().decode().replace("</style>", f"{_dark_rules()}</style>", 1)
    return Picture(name=name, title=title, caption=caption, png=png.getvalue(), svg=text)


def room_for(values: Sequence[float]) -> tuple[float, float]:
    """Ends of an axis that shows all values; intervals that reach further are cut."""
    width = (max(values) - min(values)) or abs(max(values)) or 1.0
    return min(values) - 0.15 * width, max(values) + 0.15 * width


def _dark_rules() -> str:
    """Colours are written into every element, so the rules find elements by their colour and overrule it."""
    rules = [
        f'[style*="{kind}: {light}"]{{{kind}:{dark}!important}}'
        for light, dark in DARK.items()
        for kind in ("fill", "stroke")
    ]
    return "@media screen and (prefers-color-scheme: dark){" + "".join(rules) + "}"


def axis_label(metric: Metric) -> str:
    """``eval/loss (lower is better)``."""
    better = {Goal.max: " (higher is better)", Goal.min: " (lower is better)", None: ""}[metric.goal]
    return metric.name + better
