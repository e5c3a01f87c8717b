"""Where on its curve each trial is compared: at its end, or all at an equal step, number of tokens or running time."""

import math
from dataclasses import dataclass
from enum import Enum

import numpy as np

from deltalab.errors import UsageError
from deltalab.track.points import Points


class Unit(Enum):
    """What is made equal."""

    step = "step"
    tokens = "tokens"
    seconds = "seconds"


@dataclass(frozen=True, kw_only=True)
class Budget:
    """So much training, and no value from beyond it.

    Attributes:
        unit: what is counted.
        amount: how much of it.
    """

    unit: Unit
    amount: float

    def __str__(self) -> str:
        return f"{self.unit.value}={self.amount:.12g}"

    @property
    def words(self) -> str:
        """``step 500``, ``1,000,000 tokens``, ``60 seconds``."""
        amount = f"{self.amount:,.10g}"
        return f"step {amount}" if self.unit is Unit.step else f"{amount} {self.unit.value}"

    def spent(self, points: Points, tokens_per_step: int) -> np.ndarray:
        """What each point of a trial had cost, in this unit."""
        if self.unit is Unit.seconds:
            return points.seconds
        return points.step * (tokens_per_step if self.unit is Unit.tokens else 1)


def parse_budget(text: str) -> Budget:
    """``step=500``, ``tokens=1e6``, ``seconds=60``.

    Raises:
        UsageError: it is something else.
    """
    unit, _, amount = text.partition("=")
    try:
        found = Budget(unit=Unit(unit), amount=float(amount))
    except ValueError:
        found = None
    if found is None or not 0 < found.amount < math.inf:
        raise UsageError(f"--at {text}: allowed is step=N, tokens=N or seconds=N with N above 0")
    return found


def chosen(points: Points, budget: Budget | None, end: int, tokens_per_step: int) -> int | None:
    """Place of the value that is compared: the newest within the budget; None when there is none.

    Args:
        points: of one metric of one trial.
        budget: None for the trial's end.
        end: the trial's present step; a resumed run repeats steps, so points beyond it are of an earlier execution.
        tokens_per_step: of the trial.
    """
    within = points.step <= end
    if budget is not None:
        within &= budget.spent(points, tokens_per_step) <= budget.amount
    places = np.flatnonzero(within)
    return int(places[-1]) if places.size else None
