"""How cells are drawn: colours and markers, colour-blind safe, on white and on dark paper.

Which hue and line a variant or level has, in pictures as in MLflow, is ``deltalab.track.palette``'s. Colours are told
apart by ΔE ≥ 18 (CIE 1976) with full vision and with protanopia, deuteranopia and tritanopia (simulated after Machado,
Oliveira and Fernandes 2009), and from the paper by 3:1 (WCAG 2.2, 1.4.11); tests/analysis/test_palette.py computes
both. Where names outnumber hues the line is broken and the marker hollow.
"""

from dataclasses import dataclass
from itertools import product
from typing import Literal

from analysis.collate import Results
from deltalab.study.ledger import CellRecord
from deltalab.track import palette
from deltalab.track.palette import HUES, Slot
from deltalab.wording import level_label

Line = Literal["-", "--", ":", "-."]
DARK_HUES = ("#5d75ec", "#d1422c", "#0aac7b", "#d4bd70", "#ff62be", "#a0cbff", "#e5e8e7", "#faa832")
"""``HUES`` on dark paper, in the same order."""
LINES: tuple[Line, ...] = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")
PLAIN = "#57606a"
"""Of what is no variant's."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """How a cell is drawn.

    Attributes:
        color: of its variant (of its level of the coloured factor; of the cell itself where neither is told apart).
        line: changes where hues are taken.
        hollow: whether its markers are hollow, which goes with a broken line.
        marker: of its levels of the other factors.
        legend: what colour and line stand for.
        facet: title of its panel, the levels of the other factors.
    """

    color: str
    line: Line
    hollow: bool
    marker: str
    legend: str
    facet: str


def coloured_factor(results: Results) -> str | None:
    """The factor that colours tell: the one that chooses variants, else the first of at most two that are compared."""
    return palette.coloured_factor(results.record.study["factors"], results.within)


def looks(results: Results) -> dict[str, Look]:
    """Cell → how it is drawn."""
    factor = coloured_factor(results)
    if factor is None:
        slots = [(hue, turn) for turn, hue in product(range(len(LINES)), range(len(HUES)))]
        return {
            cell.name: _look(slots[place % len(slots)], MARKERS[0], results.label(cell), "")
            for place, cell in enumerate(results.cells)
        }
    slots = level_slots(results, factor)
    facets = list(dict.fromkeys(_facet(cell, factor) for cell in results.cells))
    return {
        cell.name: _look(
            slots[cell.levels[factor]],
            MARKERS[facets.index(_facet(cell, factor)) % len(MARKERS)],
            level_label(factor, cell.levels[factor]),
            _facet(cell, factor),
        )
        for cell in results.cells
    }


def level_slots(results: Results, factor: str) -> dict[str, Slot]:
    """Level → its hue and line; variants by their names, others in the study's order."""
    return palette.level_slots(results.record.study["factors"], factor)


def level_color(results: Results, factor: str, level: str) -> str:
    """Colour of a level alone; grey where colours tell another factor."""
    if factor != coloured_factor(results):
        return PLAIN
    return HUES[level_slots(results, factor)[level][0]]


def _facet(cell: CellRecord, factor: str) -> str:
    """The levels of the factors that colours do not tell."""
    return " · ".join(f"{name}: {level}" for name, level in cell.levels.items() if name != factor)


def _look(slot: Slot, marker: str, legend: str, facet: str) -> Look:
    hue, turn = slot
    return Look(color=HUES[hue], line=LINES[turn], hollow=turn > 0, marker=marker, legend=legend, facet=facet)
