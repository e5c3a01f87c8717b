"""A study: one question, as data. Read from sweeps/NAME.yaml by ``study_file.read_study``."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from deltalab.errors import StudyError

COMMAND_LINE = "command line"


class Design(Enum):
    """Which combinations of levels are run."""

    full_factorial = "full_factorial"
    one_at_a_time = "one_at_a_time"
    leave_one_out = "leave_one_out"
    fractional_factorial = "fractional_factorial"
    list = "list"


class Match(Enum):
    """What every cell is made equal in: ``parameters`` solves model.mlp_width per cell."""

    none = "none"
    parameters = "parameters"


class Equivalence(Enum):
    """What is done with cells that compute the same: run one for all, or run each and hold them equal."""

    share = "share"
    assert_ = "assert"


class Goal(Enum):
    """Which direction of a metric is better."""

    max = "max"
    min = "min"


@dataclass(frozen=True, kw_only=True)
class Exclusion:
    """Cells that hold every level of ``when`` are not run; the plan prints the reason."""

    when: dict[str, str]
    reason: str


@dataclass(frozen=True, kw_only=True)
class TuneSpec:
    """One key chosen per cell, on seeds of its own, before the cells are compared.

    Attributes:
        key: the dotted key that is chosen, e.g. ``train.lr``.
        grid: the values tried; with a ``factor``, level → the values tried, as many for every level.
        factor: the factor whose level decides which values are tried, or "".
        seeds: seeds of the choice, none of them a seed of the comparison.
        metric: what decides.
        goal: which direction of it is better.
    """

    key: str
    grid: list[Any] | dict[str, list[Any]]
    factor: str = ""
    seeds: list[int]
    metric: str
    goal: Goal

    def values(self, levels: Mapping[str, str]) -> list[Any]:
        """The values tried in a cell, given a level per factor."""
        return self.grid[levels[self.factor]] if isinstance(self.grid, dict) else self.grid


@dataclass(frozen=True, kw_only=True)
class StudySpec:
    """One question and the cells that answer it.

    Attributes:
        name: folder of the study under runs/studies and MLflow experiment.
        question: the question in one sentence.
        baseline: a level per factor; differences are measured from this cell, and sizes matched to it.
        within: factors within whose levels cells are compared: a cell's own baseline has the cell's levels of these
            and the baseline's levels of all others. Which cells are run does not depend on it.
        factors: factor → level → overrides (dotted key → value) that the level sets.
        design: which combinations of levels are run.
        cells: for design ``list``, the combinations themselves (a level per factor).
        resolution: for design ``fractional_factorial``, length of the shortest word of the defining relation: 3
            keeps main effects apart, 4 also from two-factor interactions, 5 those from one another.
        zipped: groups of factors that vary together, level by level in the order of their levels; every design
            takes a group for one factor.
        seeds: replicates; the same seed is the same data order and initial values in every cell.
        overrides: dotted key or group → value, applied to every cell before its levels.
        match: what every cell is made equal in.
        tolerance: relative mismatch of ``match`` above which the plan warns.
        metrics: metric → goal, the first one is the primary metric.
        exclude: cells not run, with reasons.
        equivalence: what is done with cells that compute the same numbers.
        tune: a key that every cell is given its own best value of, before the comparison.
        source: where the study was read from: a path, or ``COMMAND_LINE``.
        changed: top-level keys whose values, or lack of one, are the command line's and not the file's.
    """

    name: str
    question: str = ""
    baseline: dict[str, str]
    factors: dict[str, dict[str, dict[str, Any]]]
    design: Design = Design.full_factorial
    cells: list[dict[str, str]] = field(default_factory=list)
    resolution: int = 4
    zipped: list[list[str]] = field(default_factory=list)
    seeds: list[int] = field(default_factory=lambda: [0])
    overrides: dict[str, Any] = field(default_factory=dict)
    match: Match = Match.none
    tolerance: float = 0.005
    metrics: dict[str, Goal] = field(default_factory=dict)
    exclude: list[Exclusion] = field(default_factory=list)
    within: list[str] = field(default_factory=list)
    equivalence: Equivalence = Equivalence.share
    tune: TuneSpec | None = None
    source: str = COMMAND_LINE
    changed: list[str] = field(default_factory=list)

    def mistake(self, key: str, value: object, allowed: str) -> StudyError:
        """The error to raise of a key, which says whether the file or the command line has it."""
        return study_mistake(self.source, self.changed, key, value, allowed)


def study_mistake(source: str, changed: Collection[str], key: str, value: object, allowed: str) -> StudyError:
    """The error to raise of a study's key.

    Args:
        source: where the study was read from.
        changed: top-level keys that are the command line's and not the source's.
        key: dotted key inside the study.
        value: the value found.
        allowed: what would have been accepted, in words.
    """
    return StudyError(COMMAND_LINE if re.split(r"[.\[]", key)[0] in changed else source, key, value, allowed)
