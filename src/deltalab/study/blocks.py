"""Blocks: the cells that are compared with one another, each block with a baseline of its own.

within: [task]    task=recall gates=tied      baseline of the block task=recall
                  task=recall gates=untied    compared with it
                  task=copy   gates=tied      baseline of the block task=copy
                  task=copy   gates=untied    compared with that

A study that names no factor in ``within`` is one block.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deltalab.study.design import cell_name
from deltalab.study.ledger import CellRecord


@dataclass(frozen=True, kw_only=True)
class Block:
    """Cells with the same levels of the study's ``within``.

    Attributes:
        levels: those levels, factor → level.
        against: the baseline's levels of all other factors.
        cells: the cells that are run, the block's baseline first, then in plan order.
        baseline: name of the cell that the others are compared with, or None where it is not run.
        excluded: why it is not run, where the study says it.
    """

    levels: dict[str, str]
    against: dict[str, str]
    cells: list[CellRecord]
    baseline: str | None
    excluded: str | None = None

    @property
    def lacks(self) -> str:
        """Why no cell of the block has a difference, in words; nothing where they have, or there is none."""
        if self.baseline is not None or not self.cells:
            return ""
        why = "is not among the cells" if self.excluded is None else f"is excluded ({self.excluded})"
        return f"{cell_name(self.levels)} has no baseline to be compared with: {cell_name(self.against)} {why} there"


def blocks_of(cells: Sequence[CellRecord], baseline: Mapping[str, str], within: Sequence[str]) -> list[Block]:
    """The blocks that have a cell to run, in the order of their first cells.

    Args:
        cells: of the study, in plan order, excluded ones too.
        baseline: a level per factor.
        within: the factors whose levels make the blocks.
    """
    grouped: dict[tuple[str, ...], list[CellRecord]] = {}
    for cell in cells:
        grouped.setdefault(tuple(cell.levels[factor] for factor in within), []).append(cell)
    against = {factor: level for factor, level in baseline.items() if factor not in within}
    found = [_block(dict(zip(within, levels, strict=True)), against, of) for levels, of in grouped.items()]
    return [block for block in found if block.cells]


def _block(levels: dict[str, str], against: dict[str, str], cells: list[CellRecord]) -> Block:
    wanted = {**levels, **against}
    own = next((cell for cell in cells if cell.levels == wanted), None)
    run = sorted((cell for cell in cells if cell.excluded is None), key=lambda cell: cell is not own)
    return Block(
        levels=levels,
        against=against,
        cells=run,
        baseline=own.name if own is not None and own.excluded is None else None,
        excluded=own.excluded if own is not None else None,
    )
