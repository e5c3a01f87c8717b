"""A study's records as tidy tables: a row per trial, and its curves in long form. Reads run directories only.

    results.trials   cell  level.variant  seed  trial  state  step  …  eval/accuracy  eval/loss
    results.curves   cell  seed  state  metric  step  value

Only a completed trial has values in ``trials`` (at the metric's last step); ``curves`` hold what every trial logged.
"""

import json
import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from deltalab.errors import UsageError
from deltalab.spec.study import Goal
from deltalab.study import ledger
from deltalab.study.ledger import CellRecord, StudyRecord
from deltalab.track.journal import Record, State

SLICE = re.compile(r"^(?P<whole>.+)/(?P<first>\d+)-(?P<last>\d+)$")
"""A metric of some positions of the sequence, e.g. ``eval/accuracy/33-64``."""
LOWER_IS_BETTER = ("loss", "perplexity", "bits_per_byte")
HIGHER_IS_BETTER = ("accuracy", "tokens_per_second")
PLAIN_LEVEL = re.compile(r"(?i)^(true|false|none|null|on|off|yes|no|[-+.\d][-+.\de]*)$")
"""A level that says nothing without its factor's name."""


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
            of running time, ``commit``, ``dirty`` and ``hardware`` of the trial's own provenance.
        curves: values by step; only of the compared metrics, losses and position slices.
        logged: names of all metrics in the journals.
    """

    record: StudyRecord
    runs: Path
    metrics: list[Metric]
    trials: pd.DataFrame
    curves: pd.DataFrame
    logged: list[str]

    @property
    def cells(self) -> list[CellRecord]:
        """The cells that are run, the baseline first, then in plan order."""
        run = [cell for cell in self.record.cells if cell.excluded is None]
        return sorted(run, key=lambda cell: cell.levels != self.baseline_levels)

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
    def baseline(self) -> str:
        """Name of the baseline's cell."""
        return self.cells[0].name

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
        """Cell → seed → step of the value that is compared, of completed trials."""
        return {cell: {seed: step for seed, (step, _) in last.items()} for cell, last in self._last(metric).items()}

    def last_values(self, metric: str) -> dict[str, dict[int, float]]:
        """Cell → seed → finite value at the last step, of completed trials; also for metrics that are not compared."""
        return {
            cell: {seed: value for seed, (_, value) in last.items() if math.isfinite(value)}
            for cell, last in self._last(metric).items()
        }

    def _last(self, metric: str) -> dict[str, dict[int, tuple[int, float]]]:
        rows = self.curves[(self.curves["metric"] == metric) & (self.curves["state"] == State.completed.value)]
        found: dict[str, dict[int, tuple[int, float]]] = {}
        for cell, seed, step, value in zip(rows["cell"], rows["seed"], rows["step"], rows["value"], strict=True):
            of_cell = found.setdefault(cell, {})
            of_cell[int(seed)] = max((int(step), float(value)), of_cell.get(int(seed), (-1, 0.0)))
        return found

    def seeds_in(self, cell: CellRecord, state: State) -> list[int]:
        """Seeds of a cell whose trials are in a state."""
        rows = self.trials[(self.trials["cell"] == cell.name) & (self.trials["state"] == state.value)]
        return sorted(rows["seed"])

    def count(self) -> Counter[str]:
        """Trials by state; a trial that two cells share counts once."""
        return Counter(self.trials.drop_duplicates("trial")["state"])


def level_label(factor: str, level: str) -> str:
    """``kda``, but ``tie=true``."""
    return f"{factor}={level}" if PLAIN_LEVEL.match(str(level)) else str(level)


def collate(runs: Path, study: str, asked: list[str] | None = None) -> Results:
    """Read a launched study and its trials, finished or not.

    Args:
        runs: the runs folder.
        study: its name.
        asked: metrics to compare instead of the study's own; the first one is the primary metric.

    Raises:
        NotFoundError: the study was not launched from this runs folder.
        UsageError: no trial has logged a metric that was asked for, or the study has no cell to run.
    """
    record = ledger.read_study(runs, study)
    found: list[tuple[CellRecord, int, str, Record]] = [
        (cell, seed, trial, ledger.record_of(runs, trial))
        for cell in record.cells
        if cell.excluded is None
        for seed, trial in cell.trials.items()
    ]
    if not found:
        raise UsageError(f"study={study}: it has no trial to compare")
    logged = sorted({name for *_, trial_record in found for name in trial_record.metrics})
    metrics = _choose(record.study.get("metrics") or {}, asked or [], logged)
    rows = [_row(runs, *entry, [metric.name for metric in metrics]) for entry in found]
    return Results(
        record=record,
        runs=runs,
        metrics=metrics,
        trials=pd.DataFrame(rows),
        curves=_curves(found, {metric.name for metric in metrics}),
        logged=logged,
    )


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


def _row(runs: Path, cell: CellRecord, seed: int, trial: str, record: Record, metrics: list[str]) -> dict[str, Any]:
    source = _provenance(ledger.trial_dir(runs, trial))
    done = record.state is State.completed
    values = {name: record.last(name) if done else None for name in metrics}
    return {
        "cell": cell.name,
        **{f"level.{factor}": level for factor, level in cell.levels.items()},
        "seed": seed,
        "trial": trial,
        "state": record.state.value,
        "step": record.step,
        "started": math.nan if record.started is None else record.started,
        "seconds": record.seconds,
        "error": str(record.details.get("error") or ""),
        **{key: source.get(key) for key in ("commit", "dirty", "hardware")},
        **{name: math.nan if value is None else float(value) for name, value in values.items()},
    }


def _provenance(run_dir: Path) -> dict[str, Any]:
    try:
        return json.loads((run_dir / "provenance.json").read_text())
    except (OSError, ValueError):
        return {}


def _curves(found: list[tuple[CellRecord, int, str, Record]], compared: set[str]) -> pd.DataFrame:
    columns: dict[str, list[Any]] = {name: [] for name in ("cell", "seed", "state", "metric", "step", "value")}
    for cell, seed, _, record in found:
        for metric, points in record.metrics.items():
            if metric not in compared and not metric.endswith("/loss") and not SLICE.match(metric):
                continue
            for name, value in (("cell", cell.name), ("seed", seed), ("state", record.state.value), ("metric", metric)):
                columns[name] += [value] * len(points)
            columns["step"] += points.keys()
            columns["value"] += points.values()
    return pd.DataFrame(columns).astype({"step": "int64", "value": "float64"})
