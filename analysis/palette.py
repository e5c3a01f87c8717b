"""Colours and markers: colour-blind safe, and the same for a variant in every picture."""

from dataclasses import dataclass
from typing import Literal

from analysis.collate import Results, level_label
from deltalab.study.ledger import CellRecord

Line = Literal["-", "--", ":", "-."]
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#000000", "#B8A900")
"""Okabe and Ito's palette, its yellow darkened to be seen on white."""
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")
LINES: tuple[Line, ...] = ("-", "--", ":", "-.")


@dataclass(frozen=True, kw_only=True)
class Look:
    """How a cell is drawn.

    Attributes:
        color: of its level of the first factor (of the cell itself from three factors on).
        line: changes when the palette starts again.
        marker: of its level of the second factor.
        legend: what the colour stands for.
        facet: title of its panel, the level of the second factor in a two-factor study.
    """

    color: str
    line: Line
    marker: str
    legend: str
    facet: str


def looks(results: Results) -> dict[str, Look]:
    """Cell → how it is drawn."""
    return {cell.name: _look(results, place, cell) for place, cell in enumerate(results.cells)}


def level_color(results: Results, factor: str, level: str) -> str:
    """Colour of a level alone; levels of other factors than the first one are grey."""
    first = next(iter(results.factors))
    if factor != first or len(results.factors) > 2:
        return "#444444"
    return OKABE_ITO[results.factors[first].index(level) % len(OKABE_ITO)]


def _look(results: Results, place: int, cell: CellRecord) -> Look:
    factors = list(results.factors)
    first = factors[0]
    by_level = len(factors) <= 2
    turn, hue = divmod(results.factors[first].index(cell.levels[first]) if by_level else place, len(OKABE_ITO))
    second = factors[1] if len(factors) == 2 else None
    return Look(
        color=OKABE_ITO[hue],
        line=LINES[turn % len(LINES)],
        marker=MARKERS[(results.factors[second].index(cell.levels[second]) if second else turn) % len(MARKERS)],
        legend=level_label(first, cell.levels[first]) if by_level else results.label(cell),
        facet=f"{second}: {cell.levels[second]}" if second else "",
    )
