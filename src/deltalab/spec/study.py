"""A study: one question, as data. Read from sweeps/NAME.yaml by ``study_file.read_study``."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Design(Enum):
    """Which combinations of levels are run."""

    full_factorial = "full_factorial"
    one_at_a_time = "one_at_a_time"
    leave_one_out = "leave_one_out"
    list = "list"


class Match(Enum):
    """What every cell is made equal in: ``parameters`` solves model.mlp_width per cell."""

    none = "none"
    parameters = "parameters"


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
class StudySpec:
    """One question and the cells that answer it.

    Attributes:
        name: folder of the study under runs/studies and MLflow experiment.
        question: the question in one sentence.
        baseline: a level per factor; differences are measured from this cell.
        factors: factor → level → overrides (dotted key → value) that the level sets.
        design: which combinations of levels are run.
        cells: for design ``list``, the combinations themselves (a level per factor).
        seeds: replicates; the same seed is the same data order and initial values in every cell.
        overrides: dotted key or group → value, applied to every cell before its levels.
        match: what every cell is made equal in.
        tolerance: relative mismatch of ``match`` above which the plan warns.
        metrics: metric → goal, the first one is the primary metric.
        exclude: cells not run, with reasons.
        source: path the study was read from, or "" when it came from the command line.
    """

    name: str
    question: str = ""
    baseline: dict[str, str]
    factors: dict[str, dict[str, dict[str, Any]]]
    design: Design = Design.full_factorial
    cells: list[dict[str, str]] = field(default_factory=list)
    seeds: list[int] = field(default_factory=lambda: [0])
    overrides: dict[str, Any] = field(default_factory=dict)
    match: Match = Match.none
    tolerance: float = 0.005
    metrics: dict[str, Goal] = field(default_factory=dict)
    exclude: list[Exclusion] = field(default_factory=list)
    source: str = ""
