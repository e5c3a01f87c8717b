"""Colours of a study's cells: colour-blind safe, and the same for a variant in every picture and in MLflow."""

from collections.abc import Mapping, Sequence

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#000000", "#B8A900")
"""Okabe and Ito's palette, its yellow darkened to be seen on white."""
PALEST = 0.55
"""Share of white in the palest tint of a hue."""


def hue(factors: Mapping[str, Sequence[str]], levels: Mapping[str, str], place: int) -> tuple[int, int]:
    """How often the palette has started again before a cell, and which of its colours the cell has.

    Args:
        factors: factor → levels, in the study's order.
        levels: of the cell, per factor.
        place: of the cell among those that are run; it decides from three factors on, before the first one's level.
    """
    first = next(iter(factors))
    return divmod(factors[first].index(levels[first]) if len(factors) <= 2 else place, len(OKABE_ITO))


def tints(factors: Mapping[str, Sequence[str]], cells: Sequence[Mapping[str, str]]) -> list[str]:
    """A colour for each cell where colour alone must tell cells apart: those of one hue differ in their share of white.

    Args:
        factors: factor → levels, in the study's order.
        cells: the levels of each cell, in the order that they are shown in.
    """
    hues = [hue(factors, levels, place)[1] for place, levels in enumerate(cells)]
    return [
        _lighter(OKABE_ITO[own], PALEST * hues[:place].count(own) / max(1, hues.count(own) - 1))
        for place, own in enumerate(hues)
    ]


def _lighter(color: str, white: float) -> str:
    parts = (int(color[start : start + 2], 16) for start in (1, 3, 5))
    return "#" + "".join(f"{round(part + (255 - part) * white):02X}" for part in parts)
