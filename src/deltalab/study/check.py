"""The check of a study with ``equivalence: assert``: cells that compute the same must have the same losses."""

import math
from collections.abc import Mapping

from deltalab.spec.study import Equivalence
from deltalab.study.ledger import CellRecord
from deltalab.track.journal import Record, State

LOSS = "eval/loss"
TOLERANCE = 1e-6
"""Relative; on one machine equal cells are equal to the bit, on machines of different kinds nearly."""


def differences(equivalence: Equivalence, cells: list[CellRecord], records: Mapping[str, Record]) -> list[str]:
    """A line for each pair of completed trials that should have the same final loss and has not.

    Args:
        equivalence: the study's; nothing is checked unless it is ``assert``.
        cells: the study's cells.
        records: trial id → what is known of it.
    """
    if equivalence is not Equivalence.assert_:
        return []
    by_name = {cell.name: cell for cell in cells}
    lines = []
    for cell in cells:
        if cell.equivalent is None:
            continue
        for seed, trial in cell.trials.items():
            one, other = _loss(records, by_name[cell.equivalent].trials.get(seed)), _loss(records, trial)
            if one is not None and other is not None and not math.isclose(one, other, rel_tol=TOLERANCE):
                lines.append(
                    f"{cell.name} seed={seed}: {LOSS} {other:.9g} differs from {one:.9g} of {cell.equivalent}, which "
                    "computes the same: an error in the code"
                )
    return lines


def _loss(records: Mapping[str, Record], trial: str | None) -> float | None:
    record = records.get(trial or "")
    return record.last(LOSS) if record is not None and record.state is State.completed else None
