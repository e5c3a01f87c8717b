"""Colours and markers: colour-blind safe, on white and on dark paper, and the same for a variant in every picture.

A shipped variant has its colour here, one of a user's own the colour that its name hashes to, so a variant looks the
same in every study and on every machine. Levels that are no variants take the colours in the study's order. Colours
are told apart by ΔE ≥ 18 (CIE 1976) with full vision and with protanopia, deuteranopia and tritanopia (simulated after
Machado, Oliveira and Fernandes 2009), and from the paper by 3:1 (WCAG 2.2, 1.4.11); tests/analysis/test_palette.py
computes both. Where names outnumber hues the line is broken and the marker hollow.
"""

import zlib
from dataclasses import dataclass
from itertools import product
from typing import Literal

from analysis.collate import Results, level_label
from deltalab.study.ledger import CellRecord

Line = Literal["-", "--", ":", "-."]
Slot = tuple[int, int]
"""Place among the hues, and among the lines."""
HUES = ("#1e52cb", "#a0250a", "#076854", "#ae7e38", "#d753ab", "#7b89fb", "#3d2224", "#d28306")
DARK_HUES = ("#5d75ec", "#d1422c", "#0aac7b", "#d4bd70", "#ff62be", "#a0cbff", "#e5e8e7", "#faa832")
"""The same on dark paper, in the same order."""
LINES: tuple[Line, ...] = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")
PLAIN = "#57606a"
"""Of what is no variant's."""
VARIANTS: dict[str, Slot] = {
    "gated_delta_net_2": (0, 0),
    "kda": (1, 0),
    "gated_delta_net": (2, 0),
    "delta_net": (3, 0),
    "gated_linear_attention": (4, 0),
    "gated_delta_net_2_wide": (5, 0),
    "transformer": (6, 0),
    "mamba2": (7, 0),
    "mamba3": (7, 1),
    "mamba3_mimo": (7, 2),
    "erase_only": (2, 1),
    "write_only": (1, 1),
    "untied_scalar": (4, 1),
}
"""Relatives share a hue."""


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
    """The factor that colours tell: the one that chooses variants, else the first of at most two."""
    for factor, levels in results.record.study["factors"].items():
        if any(_variant(factor, level, sets) for level, sets in levels.items()):
            return factor
    return next(iter(results.factors)) if len(results.factors) <= 2 else None


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
    levels = results.record.study["factors"][factor]
    names = {level: _variant(factor, level, sets) for level, sets in levels.items()}
    if not any(names.values()):
        return {level: (place % len(HUES), place // len(HUES) % len(LINES)) for place, level in enumerate(levels)}
    taken: dict[Slot, str] = {}
    found = {}
    # Shipped variants first, then by name: a study's order has no say in it.
    for level in sorted(levels, key=lambda level: (names[level] not in VARIANTS, names[level] or "", level)):
        slot = variant_slot(names[level] or level)
        while slot in taken and len(taken) < len(HUES) * len(LINES):
            slot = _next(slot)
        found[level] = slot
        taken[slot] = level
    return {level: found[level] for level in levels}


def variant_slot(name: str) -> Slot:
    """The hue and line of a variant, by its name alone."""
    if name in VARIANTS:
        return VARIANTS[name]
    turn, hue = divmod(zlib.crc32(name.encode()) % (2 * len(HUES)), len(HUES))
    return hue, len(LINES) - 2 + turn


def level_color(results: Results, factor: str, level: str) -> str:
    """Colour of a level alone; grey where colours tell another factor."""
    if factor != coloured_factor(results):
        return PLAIN
    return HUES[level_slots(results, factor)[level][0]]


def _variant(factor: str, level: str, sets: dict[str, object]) -> str:
    """The variant that a level chooses; nothing where it chooses none."""
    return str(sets.get("variant") or (level if factor == "variant" else ""))


def _next(slot: Slot) -> Slot:
    """Where a name goes whose slot is taken: the same hue with another line, then another hue."""
    hue, turn = slot
    return (hue, turn + 1) if turn + 1 < len(LINES) else ((hue + 1) % len(HUES), 0)


def _facet(cell: CellRecord, factor: str) -> str:
    """The levels of the factors that colours do not tell."""
    return " · ".join(f"{name}: {level}" for name, level in cell.levels.items() if name != factor)


def _look(slot: Slot, marker: str, legend: str, facet: str) -> Look:
    hue, turn = slot
    return Look(color=HUES[hue], line=LINES[turn], hollow=turn > 0, marker=marker, legend=legend, facet=facet)
