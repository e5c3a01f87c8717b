"""Studies with a known truth, written as a launch writes them: ledger, frozen configs, provenance and journals."""

import atexit
import contextlib
import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from deltalab.spec.study import Design, Exclusion, Goal, StudySpec
from deltalab.spec.trial import TrialSpec
from deltalab.study import ledger
from deltalab.study.design import cell_name, cells_of
from deltalab.study.ledger import CellRecord, StudyRecord
from deltalab.track.claim import claimed
from deltalab.track.files import write_atomic
from deltalab.track.journal import Journal, State
from tests.specs import trial

Levels = Mapping[str, str]
PROVENANCE = {
    "commit": "0123456789abcdef0123456789abcdef01234567",
    "dirty": False,
    "hardware": "abacus, 2 cores",
    "python": "3.11",
    "packages": {"torch": "2.13"},
}
ACCURACY = "eval/accuracy"
LOSS = "eval/loss"
HELD = contextlib.ExitStack()
"""Claims of trials that are said to run: this process beats for them until it ends."""
atexit.register(HELD.close)
GOALS = {ACCURACY: Goal.max, LOSS: Goal.min}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a trial ended.

    Attributes:
        values: metric → value at the last step.
        state: None leaves the trial without a run directory.
        step: of the last evaluation.
        curve: train/loss by step.
        speed: tokens per second at each of these steps.
        details: written with the last state.
    """

    values: Mapping[str, float] = field(default_factory=dict)
    state: State | None = State.completed
    step: int = 100
    curve: Mapping[int, float] = field(default_factory=dict)
    speed: float = 1000.0
    details: Mapping[str, Any] = field(default_factory=dict)
    commit: str = PROVENANCE["commit"]


@dataclass(frozen=True, kw_only=True)
class Made:
    """A study on disk; ``trial(levels, seed)`` is a trial's run directory."""

    runs: Path
    record: StudyRecord

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def report(self) -> Path:
        return ledger.study_dir(self.runs, self.name) / "report"

    def cell(self, *levels: str) -> str:
        """Name of the cell with these levels, one per factor."""
        return next(cell.name for cell in self.record.cells if tuple(cell.levels.values()) == levels)


def make_study(
    runs: Path,
    factors: Mapping[str, Sequence[str] | Mapping[str, dict[str, Any]]],
    outcome: Callable[[Levels, int], Outcome],
    *,
    seeds: int = 3,
    name: str = "truth",
    question: str = "Which variant is best?",
    metrics: Mapping[str, Goal] | None = None,
    design: Design = Design.full_factorial,
    exclude: list[Exclusion] | None = None,
    within: Sequence[str] = (),
    change: Callable[[CellRecord], CellRecord] = lambda cell: cell,
    shuffled: bool = False,
) -> Made:
    """Write a study; the first level of every factor is the baseline's.

    Args:
        factors: factor → its levels, or level → the keys it sets.
        outcome: (levels, seed) → how that trial ended.
        seeds: how many, counted from 0.
        change: a last word on every cell's record.
        shuffled: list every other cell's seeds backwards, as pairing must not depend on their order.
    """
    study = StudySpec(
        name=name,
        question=question,
        baseline={factor: next(iter(levels)) for factor, levels in factors.items()},
        factors={
            factor: dict(levels) if isinstance(levels, Mapping) else {level: {} for level in levels}
            for factor, levels in factors.items()
        },
        design=design,
        seeds=list(range(seeds)),
        metrics=dict(GOALS if metrics is None else metrics),
        exclude=exclude or [],
        within=list(within),
    )
    cells = []
    for place, (levels, excluded) in enumerate(cells_of(study)):
        order = reversed(study.seeds) if shuffled and place % 2 else study.seeds
        specs = {} if excluded else {seed: _spec(place, seed) for seed in order}
        cell = CellRecord(
            name=cell_name(levels),
            levels=levels,
            overrides={},
            excluded=excluded,
            parameters=57_636 + 10 * place,
            mismatch=10 * place / 57_636,
            state_size=1024,
            trials={seed: spec.trial_id for seed, spec in specs.items()},
        )
        cells.append(change(cell))
        for seed, spec in specs.items():
            _run(runs, spec, outcome(levels, seed))
    record = ledger.write_study(runs, study, cells, f"python launch.py -m study={name}", dict(PROVENANCE))
    return Made(runs=runs, record=record)


def constant(
    values: Mapping[tuple[str, ...], Sequence[float | None]], metric: str = ACCURACY
) -> Callable[..., Outcome]:
    """Outcomes of one metric: levels → a value per seed, None where the trial was never started."""

    def outcome(levels: Levels, seed: int) -> Outcome:
        value = values[tuple(levels.values())][seed]
        return Outcome(state=None) if value is None else Outcome(values={metric: value})

    return outcome


def falling(start: float, end: float, steps: int = 100, every: int = 10) -> dict[int, float]:
    """A loss curve."""
    return {s: end + (start - end) * math.exp(-5 * s / steps) for s in range(every, steps + 1, every)}


@cache
def _template() -> TrialSpec:
    return trial()


def _spec(place: int, seed: int) -> TrialSpec:
    model = dataclasses.replace(_template().model, mlp_width=16 + place)
    return dataclasses.replace(_template(), seed=seed, model=model)


def _run(runs: Path, spec: TrialSpec, outcome: Outcome) -> None:
    if outcome.state is None:
        return
    folder = ledger.freeze(runs, spec)
    write_atomic(folder / "provenance.json", json.dumps({**PROVENANCE, "commit": outcome.commit}))
    journal = Journal(folder)
    journal.state(State.running, device="cpu", threads=1, steps=outcome.step)
    for step, loss in outcome.curve.items():
        journal.metrics(step, {"train/loss": loss, "train/tokens_per_second": outcome.speed})
    if outcome.values:
        journal.metrics(outcome.step, dict(outcome.values))
    if outcome.state is State.running:
        HELD.enter_context(claimed(folder))
    else:
        journal.state(outcome.state, **outcome.details)
