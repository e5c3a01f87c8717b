"""``deltalab eval``: finished trials measured on a suite, task by task, each once; their journals keep what came out.

One trial is measured in this process. Several, or one whose tasks are to be shared out, are measured by workers
(``exchange.evaluations``).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from deltalab.dispatch import steer
from deltalab.errors import UsageError
from deltalab.evals import read_twice
from deltalab.evals.language import ACCURACY
from deltalab.evals.results import (
    Result,
    conditions,
    dtype_name,
    find_result,
    journal_result,
    measure_unit,
    step_of_weights,
    weights_sha256,
)
from deltalab.evals.suites import suite_units
from deltalab.exchange.load import find_weights, is_checkpoint, read_spec
from deltalab.spec.launcher import Device
from deltalab.spec.suite import Suite, SuiteSpec
from deltalab.study import ledger
from deltalab.track import journal
from deltalab.track.claim import claimed
from deltalab.track.journal import Journal
from deltalab.train.distributed import pick_device
from deltalab.train.weights import load_weights

AVERAGED = {Suite.table2: tuple(ACCURACY), Suite.table4: tuple(read_twice.TASKS)}
"""Tasks whose mean accuracy the paper prints."""
SHOWN = {"word_perplexity": "word_perplexity_stderr", "perplexity": "perplexity_stderr", "accuracy": "stderr"}
"""Metrics that are printed, with their standard errors."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked for.

    Attributes:
        trials: what ``exchange.load.load`` takes for a trial; studies, too, and cells of several trials.
        runs: the runs folder.
        study: where cells are looked for.
        suite: what is measured.
        device: where the model runs; None leaves it to the launcher.
        dtype: name of a torch type that the weights are read in; as trained where None.
        launcher: how workers are started, in Hydra's words; none measures a single trial here, and several as their
            study was launched.
        as_json: a list of what was measured instead of a line each.
    """

    trials: list[str]
    runs: Path
    study: str | None
    suite: SuiteSpec
    device: Device | None
    dtype: str | None
    launcher: list[str]
    as_json: bool


def run_eval(asked: Request) -> int:
    """Measure what the journals do not have yet, and print all of it; returns the exit code.

    Raises:
        UsageError: see ``exchange.load.load``; a checkpoint; a suite that the trial's vocabulary cannot express.
        Busy: another process runs or measures the trial.
    """
    if _is_one(asked):
        shown = measure_here(asked, find_weights(asked.trials[0], asked.runs, asked.study))
        if asked.as_json:
            print(json.dumps(shown, indent=1))
        elif line := average(asked.suite.suite, shown):
            print(line)
        return 0
    from deltalab.exchange.evaluations import measure_by_workers

    return measure_by_workers(asked)


def _is_one(asked: Request) -> bool:
    """Whether this process measures: a single trial, or a folder, and nobody said how workers are started."""
    if len(asked.trials) > 1 or asked.launcher or asked.trials[0] in ledger.list_studies(asked.runs):
        return False
    text = Path(asked.trials[0])
    if text.exists() or len(text.parts) > 1:
        return True
    return len(steer.find(asked.runs, asked.trials[0], asked.study)) == 1


def measure_here(asked: Request, weights: Path) -> list[Result]:
    """Measure one trial in this process; a line is printed for each unit as it is there."""
    if is_checkpoint(weights):
        raise UsageError(f"{weights}: a checkpoint; allowed is a finished trial")
    spec = read_spec(weights)
    units = suite_units(asked.suite, spec.data, weights.parent)
    dtype = None if asked.dtype is None else getattr(torch, asked.dtype)
    model = load_weights(weights, spec, dtype, pick_device(asked.device or Device.auto))
    sha256 = weights_sha256(weights)
    shown = []
    with claimed(weights.parent) as claim:
        log = Journal(weights.parent, claim)
        record = journal.read(weights.parent)
        known, step = record.evaluations, step_of_weights(record, spec)
        for unit in units:
            wanted = conditions(unit, asked.suite.suite, dtype_name(model), sha256)
            result = find_result(known, step, wanted)
            if result is None:
                result = measure_unit(unit, model, step, wanted)
                journal_result(log, result)
                known.append(result)
            shown.append(result)
            if not asked.as_json:
                print(line_of(result), flush=True)
    return shown


def line_of(result: Result) -> str:
    """``small/parity/64  0.9966 ± 0.0011  (200 samples, float32)``."""
    name, values = result["name"], result["values"]
    figures = []
    for metric, error in SHOWN.items():
        if (value := values.get(f"{name}/{metric}")) is not None:
            spread = values.get(f"{name}/{error}")
            figures.append((metric, f"{value:.4f}" + ("" if spread is None else f" ± {spread:.4f}")))
    said = ", ".join(f"{metric} {figure}" for metric, figure in figures)
    if [metric for metric, _ in figures] == ["accuracy"]:
        said = figures[0][1]
    count = int(values.get(f"{name}/samples", result["samples"]))
    return f"{name}  {said or 'nothing to measure'}  ({count} samples, {result['dtype']})"


def average(suite: Suite, measured: Sequence[Result]) -> str | None:
    """A line for the mean accuracy of a table's tasks, as its last column has it; None unless all are there."""
    names = AVERAGED.get(suite, ())
    values = {one["task"]: one["values"].get(f"{one['name']}/accuracy") for one in measured}
    found = [values[name] for name in names if values.get(name) is not None]
    if not found or len(found) < len(names):
        return None
    return f"{suite.value}/average  {sum(found) / len(found):.4f}  ({len(found)} tasks)"
