"""A study's records as tidy tables: a row per trial, and its curves in long form, from the journals or from MLflow.

    results.trials   cell  level.variant  seed  trial  state  step  …  compared  eval/accuracy  eval/loss
    results.curves   cell  seed  state  metric  step  value  compared

Only a compared trial has values in ``trials``: a completed one, at the metric's last step, or with a ``budget`` one
that has spent it, at the metric's newest step within it. ``curves`` hold what every trial logged.
"""

import math
import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.budget import Budget, Unit, chosen
from analysis.curves import Piece, curves_of
from analysis.trial_sources import Source, Told, from_journals, from_mlflow
from deltalab.errors import UsageError
from deltalab.spec.evaluation import measured_study
from deltalab.spec.study import Design, Goal
from deltalab.study import ledger
from deltalab.study.blocks import Block, blocks_of
from deltalab.study.ledger import CellRecord, StudyRecord
from deltalab.track.journal import State
from deltalab.wording import level_label, listed

SLICE = re.compile(r"^(?P<whole>.+)/(?P<first>\d+)-(?P<last>\d+)$")
"""A metric of some positions of the sequence, e.g. ``eval/accuracy/33-64``."""
BY_LENGTH = re.compile(r"^(?P<task>[^/]+/[^/]+)/(?P<length>\d+)(?P<rest>(/[^/]+)?)/accuracy$")
"""What an evaluation measured of a task at a length, e.g. ``small/parity/128/accuracy``."""
SPEED = "train/tokens_per_second"
LOWER_IS_BETTER = ("loss", "perplexity", "bits_per_byte")
HIGHER_IS_BETTER = ("accuracy", "tokens_per_second")


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric and which direction is better.

    Attributes:
        name: as journaled, e.g. ``eval/accuracy/33-64``.
        goal: None when neither the study nor the name says it; then no cell is called best.
    """

    name: str
    goal: Goal | None

    @property
    def label(self) -> str:
        """``accuracy/33-64 ↑``."""
        arrow = {Goal.max: " ↑", Goal.min: " ↓", None: ""}[self.goal]
        return self.name.removeprefix("eval/") + arrow


@dataclass(frozen=True, kw_only=True)
class Results:
    """What is known of a study now.

    Attributes:
        record: the study as it was last launched.
        runs: the runs folder.
        metrics: the metrics compared, the primary one first.
        trials: a row per cell and seed (see the top of this file); ``started`` in seconds since the epoch, ``seconds``
            of running time, ``commit``, ``dirty`` and ``hardware`` of the trial's own provenance, ``tokens`` it was
            trained on until now, ``tokens_per_second`` in training (median).
        tuning: a row per cell, value tried and seed of a study that tunes: ``cell``, ``tried`` (``train.lr=1e-3``),
            ``seed``, ``trial``, ``state``, ``value`` of the metric that decides, of completed trials.
        curves: values by step; only of the compared metrics, losses, position slices and tasks by length.
            ``compared`` is true of the value that ``trials`` has.
        logged: names of all metrics that were logged.
        budget: what every trial is compared at; None compares completed trials at their ends.
    """

    record: StudyRecord
    runs: Path
    metrics: list[Metric]
    trials: pd.DataFrame
    curves: pd.DataFrame
    logged: list[str]
    tuning: pd.DataFrame
    budget: Budget | None = None

    @property
    def cells(self) -> list[CellRecord]:
        """The cells that are run, block after block, each block's baseline first, then in plan order."""
        return [cell for block in self.blocks for cell in block.cells]

    @property
    def within(self) -> list[str]:
        """The factors within whose levels cells are compared; none in records from before there were any."""
        return self.record.study.get("within") or []

    @cached_property
    def blocks(self) -> list[Block]:
        """The cells that are compared with one another; a single block unless the study says ``within``."""
        return blocks_of(self.record.cells, self.baseline_levels, self.within)

    @cached_property
    def baselines(self) -> dict[str, str | None]:
        """Cell → the cell it is compared with (itself where it is one), None where that one is not run."""
        return {cell.name: block.baseline for block in self.blocks for cell in block.cells}

    def block_of(self, cell: CellRecord) -> list[str]:
        """The cells that a cell is compared with, and itself."""
        return next(names for block in self.blocks if cell.name in (names := [c.name for c in block.cells]))

    @property
    def firsts(self) -> set[str]:
        """The cells that begin a block and have a rule above them; the first cell of all has none."""
        return {block.cells[0].name for block in self.blocks[1:]}

    @property
    def alike(self) -> str:
        """`` of the same task``: what a cell shares with its baseline, in words; nothing in a single block."""
        return f" of the same {listed(self.within)}" if self.within else ""

    @property
    def reference(self) -> str:
        """What sizes are compared with, in words."""
        return "the study's baseline" if self.within else "the baseline"

    @property
    def theirs(self) -> str:
        """What cells are compared with, in words."""
        return "their baselines" if self.within else "the baseline"

    @property
    def excluded(self) -> list[CellRecord]:
        """The cells that are not run."""
        return [cell for cell in self.record.cells if cell.excluded is not None]

    @property
    def factors(self) -> dict[str, list[str]]:
        """Factor → levels in the study's order."""
        return {factor: list(levels) for factor, levels in self.record.study["factors"].items()}

    @property
    def baseline_levels(self) -> dict[str, str]:
        """A level per factor; a study that names none is compared with its first cell."""
        return self.record.study.get("baseline") or self.record.cells[0].levels

    @property
    def against(self) -> dict[str, str]:
        """The baseline's levels of the factors that are compared."""
        return {factor: level for factor, level in self.baseline_levels.items() if factor not in self.within}

    @property
    def left_out(self) -> tuple[str, dict[str, str]] | None:
        """Of a leave-one-out design the full model's cell, and group of factors → the cell that is without it."""
        if self.record.study.get("design") != Design.leave_one_out.value:
            return None
        full, cells = {factor: levels[-1] for factor, levels in self.factors.items()}, self.levels
        name_of = {frozenset(levels.items()): name for name, levels in cells.items()}
        group_of = {factor: tuple(group) for group in self.record.study.get("zipped") or [] for factor in group}
        groups = dict.fromkeys(group_of.get(factor, (factor,)) for factor in self.factors if factor not in self.within)
        lesser = {" + ".join(g): full | {factor: self.baseline_levels[factor] for factor in g} for g in groups}
        without = {group: name_of.get(frozenset(levels.items())) for group, levels in lesser.items()}
        there = {group: cell for group, cell in without.items() if cell is not None}
        whole = name_of.get(frozenset(full.items()))
        return (whole, there) if whole is not None and there else None

    @property
    def levels(self) -> dict[str, dict[str, str]]:
        """Cell → its levels."""
        return {cell.name: cell.levels for cell in self.cells}

    def label(self, cell: CellRecord) -> str:
        """A cell in few words: its levels, with the factor's name where the level alone says nothing."""
        return " · ".join(level_label(factor, level) for factor, level in cell.levels.items())

    def values(self, metric: str) -> dict[str, dict[int, float]]:
        """Cell → seed → value of one metric, where the trial is completed and the value finite."""
        found: dict[str, dict[int, float]] = {cell.name: {} for cell in self.cells}
        for cell, seed, value in zip(self.trials["cell"], self.trials["seed"], self.trials[metric], strict=True):
            if math.isfinite(value):
                found[cell][int(seed)] = float(value)
        return found

    def last_steps(self, metric: str) -> dict[str, dict[int, int]]:
        """Cell → seed → step of the value that is compared."""
        return {cell: {seed: step for seed, (step, _) in last.items()} for cell, last in self._last(metric).items()}

    def last_values(self, metric: str) -> dict[str, dict[int, float]]:
        """Cell → seed → finite value that is compared; also for metrics that are not among the compared ones."""
        return {
            cell: {seed: value for seed, (_, value) in last.items() if math.isfinite(value)}
            for cell, last in self._last(metric).items()
        }

    def _last(self, metric: str) -> dict[str, dict[int, tuple[int, float]]]:
        rows = self.curves[self.curves["compared"] & (self.curves["metric"] == metric)]
        found: dict[str, dict[int, tuple[int, float]]] = {}
        for cell, seed, step, value in zip(rows["cell"], rows["seed"], rows["step"], rows["value"], strict=True):
            found.setdefault(cell, {})[int(seed)] = (int(step), float(value))
        return found

    def compared(self, cell: CellRecord) -> list[int]:
        """Seeds of a cell whose trials are compared."""
        return sorted(self.trials.loc[(self.trials["cell"] == cell.name) & self.trials["compared"], "seed"])

    def seeds_in(self, cell: CellRecord, state: State) -> list[int]:
        """Seeds of a cell whose trials are in a state."""
        rows = self.trials[(self.trials["cell"] == cell.name) & (self.trials["state"] == state.value)]
        return sorted(rows["seed"])

    def count(self) -> Counter[str]:
        """Trials by state; a trial that two cells share counts once."""
        return Counter(self.trials.drop_duplicates("trial")["state"])


def collate(
    runs: Path,
    study: str,
    asked: list[str] | None = None,
    *,
    budget: Budget | None = None,
    source: Source = Source.journals,
) -> Results:
    """Read a launched study and its trials, finished or not.

    Args:
        runs: the runs folder.
        study: its name.
        asked: metrics to compare instead of the study's own; the first one is the primary metric.
        budget: what to compare every trial at; None compares completed trials at their ends.
        source: where the trials are read from; which cells and seeds there are, the runs folder says.

    Raises:
        NotFoundError: the study was not launched from this runs folder.
        UsageError: no trial has logged a metric that was asked for, the study has no cell to run, or the source does
            not know what the budget counts.
        MirrorFailed: MLflow could not be reached.
    """
    record = ledger.read_study(runs, study)
    if (measured := measured_study(study)) != study:
        raise UsageError(
            f"study={study}: its trials are evaluations; allowed is {measured}, whose trials they measured"
        )
    planned = [
        (cell, seed, trial) for cell in record.cells if cell.excluded is None for seed, trial in cell.trials.items()
    ]
    tried = [
        (cell.name, value, seed, trial)
        for cell in record.cells
        for value, trials in cell.tuning.items()
        for seed, trial in trials.items()
    ]
    if not planned:
        raise UsageError(f"study={study}: it has no trial to compare")
    trials = list(dict.fromkeys([*(trial for *_, trial in planned), *(trial for *_, trial in tried)]))
    if source is Source.journals:
        told = dict(zip(trials, from_journals(runs, trials), strict=True))
    elif budget is not None and budget.unit is Unit.seconds:
        raise UsageError(f"--at {budget}: MLflow knows no running times; allowed from there is step=N or tokens=N")
    else:
        told = from_mlflow(runs, study, trials)
    logged = sorted({name for *_, trial in planned for name in told[trial].history.points})
    metrics = _choose(record.study.get("metrics") or {}, asked or [], logged)
    wanted = {metric.name for metric in metrics}
    wanted |= {n for n in logged if n.endswith("/loss") or SLICE.match(n) or BY_LENGTH.match(n)}
    rows: list[dict[str, Any]] = []
    pieces: list[Piece] = []
    for cell, seed, trial in planned:
        of_trial = _pieces(told[trial], wanted & told[trial].history.points.keys(), cell.name, seed, budget)
        rows.append(_row(cell, seed, trial, told[trial], of_trial, [metric.name for metric in metrics], budget))
        pieces += of_trial
    return Results(
        record=record,
        runs=runs,
        metrics=metrics,
        trials=pd.DataFrame(rows),
        curves=curves_of(pieces),
        logged=logged,
        tuning=_tuning(tried, told, (record.study.get("tune") or {}).get("metric", "")),
        budget=budget,
    )


def _tuning(tried: list[tuple[str, str, int, str]], told: dict[str, Told], metric: str) -> pd.DataFrame:
    """What was found of the values that tuning tried, at the ends of completed trials."""
    rows = []
    for cell, value, seed, trial in tried:
        points, record = told[trial].history.points.get(metric), told[trial].history.record
        done = points is not None and record.state is State.completed
        place = chosen(points, None, record.step, told[trial].tokens_per_step) if points is not None and done else None
        found = math.nan if points is None or place is None else float(points.value[place])
        rows.append((cell, value, seed, trial, record.state.value, found))
    return pd.DataFrame(rows, columns=["cell", "tried", "seed", "trial", "state", "value"])


def _choose(own: dict[str, str], asked: list[str], logged: list[str]) -> list[Metric]:
    for name in asked:
        if name not in logged and name not in own:
            there = ", ".join(dict.fromkeys([*own, *logged]))
            raise UsageError(f"--metric {name}: this study has no such metric; there are: {there}")
    names = list(dict.fromkeys(asked)) or list(own) or [name for name in logged if name.startswith("eval/")]
    names = names or ["train/loss"]
    return [Metric(name=name, goal=Goal(own[name]) if name in own else _usual_goal(name)) for name in names]


def _usual_goal(name: str) -> Goal | None:
    parts = name.split("/")
    if any(part in LOWER_IS_BETTER for part in parts):
        return Goal.min
    return Goal.max if any(part in HIGHER_IS_BETTER for part in parts) else None


def _compared(told: Told, budget: Budget | None) -> bool:
    """Whether a trial has come to where trials are compared."""
    record = told.history.record
    if budget is None:
        return record.state is State.completed
    spent = {Unit.step: record.step, Unit.tokens: record.step * told.tokens_per_step, Unit.seconds: record.seconds}
    return spent[budget.unit] >= budget.amount


def _pieces(told: Told, names: set[str], cell: str, seed: int, budget: Budget | None) -> list[Piece]:
    """The curves of one trial."""
    compared, record = _compared(told, budget), told.history.record
    found = []
    for name in sorted(names):
        points = told.history.points[name]
        place = chosen(points, budget, record.step, told.tokens_per_step) if compared else None
        found.append(Piece(cell=cell, seed=seed, state=record.state.value, metric=name, points=points, compared=place))
    return found


def _row(
    cell: CellRecord,
    seed: int,
    trial: str,
    told: Told,
    pieces: list[Piece],
    metrics: list[str],
    budget: Budget | None,
) -> dict[str, Any]:
    record = told.history.record
    values = {p.metric: float(p.points.value[p.compared]) for p in pieces if p.compared is not None}
    return {
        "cell": cell.name,
        **{f"level.{factor}": level for factor, level in cell.levels.items()},
        "seed": seed,
        "trial": trial,
        "state": record.state.value,
        "step": record.step,
        "tokens": record.step * told.tokens_per_step,
        "started": math.nan if record.started is None else record.started,
        "seconds": record.seconds,
        "tokens_per_second": _speed(told),
        "error": str(record.details.get("error") or ""),
        "early": record.early or "",
        **{key: told.provenance.get(key) for key in ("commit", "dirty", "hardware")},
        "compared": _compared(told, budget),
        **{name: values.get(name, math.nan) for name in metrics},
    }


def _speed(told: Told) -> float:
    """Median of the speeds logged in training; the first one, which compiles and warms up, weighs little in it."""
    points = told.history.points.get(SPEED)
    return math.nan if points is None or not points.value.size else float(np.nanmedian(points.value))
