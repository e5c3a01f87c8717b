"""Which colour a variant has, in pictures and in MLflow: told apart by colour-blind eyes, on white and on dark paper.

A shipped variant has its colour here, one of a user's own the colour that its name hashes to, so a variant looks the
same in every study and on every machine. Levels that are no variants take the colours in the study's order.
"""

import zlib
from collections.abc import Mapping, Sequence

Slot = tuple[int, int]
"""Place among the hues, and among the lines that tell names of one hue apart."""
Factors = Mapping[str, Mapping[str, Mapping[str, object]]]
"""Factor → level → overrides, as a study has them."""
HUES = ("#1e52cb", "#a0250a", "#076854", "#ae7e38", "#d753ab", "#7b89fb", "#3d2224", "#d28306")
TURNS = 4
"""Lines that a hue is drawn with: whole, and broken in three ways."""
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
PALEST = 0.55
"""Share of white in the palest tint of a hue."""


def coloured_factor(factors: Factors, within: Sequence[str] = ()) -> str | None:
    """The factor that colours tell: the one that chooses variants, else the first of at most two that are compared.

    Args:
        factors: the study's.
        within: those within whose levels it compares.
    """
    for factor, levels in factors.items():
        if any(variant_of(factor, level, sets) for level, sets in levels.items()):
            return factor
    compared = [factor for factor in factors if factor not in within]
    return next(iter(compared), None) if len(compared) <= 2 else None


def level_slots(factors: Factors, factor: str) -> dict[str, Slot]:
    """Level → its hue and line; variants by their names, others in the study's order."""
    levels = factors[factor]
    names = {level: variant_of(factor, level, sets) for level, sets in levels.items()}
    if not any(names.values()):
        return {level: (place % len(HUES), place // len(HUES) % TURNS) for place, level in enumerate(levels)}
    found: dict[str, Slot] = {}
    # Shipped variants first, then by name: a study's order has no say in it.
    for level in sorted(levels, key=lambda level: (names[level] not in VARIANTS, names[level], level)):
        slot = variant_slot(names[level] or level)
        while slot in found.values() and len(found) < len(HUES) * TURNS:
            slot = _next(slot)
        found[level] = slot
    return {level: found[level] for level in levels}


def variant_slot(name: str) -> Slot:
    """The hue and line of a variant, by its name alone."""
    if name in VARIANTS:
        return VARIANTS[name]
    turn, hue = divmod(zlib.crc32(name.encode()) % (2 * len(HUES)), len(HUES))
    return hue, TURNS - 2 + turn


def variant_of(factor: str, level: str, sets: Mapping[str, object]) -> str:
    """The variant that a level chooses; nothing where it chooses none."""
    return str(sets.get("variant") or (level if factor == "variant" else ""))


def tints(factors: Factors, cells: Sequence[Mapping[str, str]], within: Sequence[str] = ()) -> list[str]:
    """A colour for each cell where colour alone must tell cells apart: those of one hue differ in their share of white.

    Args:
        factors: the study's.
        cells: the levels of each cell, in the order that they are shown in.
        within: see ``coloured_factor``.
    """
    factor = coloured_factor(factors, within)
    slots = {} if factor is None else level_slots(factors, factor)
    hues = [place % len(HUES) if factor is None else slots[c[factor]][0] for place, c in enumerate(cells)]
    return [
        _lighter(HUES[own], PALEST * hues[:place].count(own) / max(1, hues.count(own) - 1))
        for place, own in enumerate(hues)
    ]


def _next(slot: Slot) -> Slot:
    """Where a name goes whose slot is taken: the same hue with another line, then another hue."""
    hue, turn = slot
    return (hue, turn + 1) if turn + 1 < TURNS else ((hue + 1) % len(HUES), 0)


def _lighter(color: str, white: float) -> str:
    parts = (int(color[start : start + 2], 16) for start in (1, 3, 5))
    return "#" + "".join(f"{round(part + (255 - part) * white):02x}" for part in parts)
