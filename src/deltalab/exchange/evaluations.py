"""``deltalab eval`` of many trials: every trial's every task is a trial of its own, run by the pool or on Slurm.

    deltalab eval gates suite=small      →  study gates-eval-small
        variant=kda seed=10              →      variant=kda small=mqar seed=10, …

They are launched, claimed, followed, logged, cancelled and retried as any trial; what they measure goes to the journals
of the trials they measure (``train.evaluation``). Tasks whose results are there are not launched.
"""

import json
import shlex
import sys
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from deltalab.dispatch import steer
from deltalab.dispatch.launch import refuse_impossible
from deltalab.dispatch.retry import read_launcher
from deltalab.dispatch.show import make_console
from deltalab.dispatch.states import Observer
from deltalab.dispatch.steer import Named
from deltalab.dispatch.submit import Launch
from deltalab.errors import ConfigError, UsageError
from deltalab.evals.results import Result, conditions, find_result, step_of_weights, weights_sha256
from deltalab.evals.suites import suite_units
from deltalab.evals.unit import Unit
from deltalab.exchange.evaluate import Request, line_of
from deltalab.spec import load
from deltalab.spec.evaluation import EvaluationSpec, evaluation_study
from deltalab.spec.launcher import Kind, LauncherSpec, SlurmSpec, launcher_spec
from deltalab.spec.study import StudySpec
from deltalab.spec.tracking import TrackingSpec
from deltalab.spec.trial import TrialSpec
from deltalab.study import ledger
from deltalab.study.ledger import CellRecord, StudyRecord
from deltalab.study.plan import Plan
from deltalab.track import journal
from deltalab.track.journal import State
from deltalab.train.checkpoint import WEIGHTS
from deltalab.train.weights import weights_dtype


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A trial that is measured.

    Attributes:
        named: its id, and how its study calls it.
        folder: its run directory.
        spec: how it was trained.
        asked: what it is measured on, and how.
    """

    named: Named
    folder: Path
    spec: TrialSpec
    asked: Request

    @cached_property
    def units(self) -> dict[str, list[Unit]]:
        """Task → its units.

        Raises:
            UsageError: the suite cannot be asked of this trial.
        """
        try:
            units = suite_units(self.asked.suite, self.spec.data, self.folder)
        except ConfigError as error:
            raise UsageError(f"{self.named.name}: {error}") from error
        tasks = dict.fromkeys(unit.identity["task"] for unit in units)
        return {task: [unit for unit in units if unit.identity["task"] == task] for task in tasks}

    @cached_property
    def weights(self) -> str:
        """Hash of its weights."""
        return weights_sha256(self.folder / WEIGHTS)

    def results(self, task: str) -> list[Result | None]:
        """What the journal has of a task now, unit by unit."""
        record = journal.read(self.folder)
        dtype = self.asked.dtype or weights_dtype(self.folder / WEIGHTS)
        suite, step = self.asked.suite.suite, step_of_weights(record, self.spec)
        return [
            find_result(record.evaluations, step, conditions(u, suite, dtype, self.weights)) for u in self.units[task]
        ]

    def evaluation(self, task: str) -> EvaluationSpec:
        """The trial of its own that measures a task."""
        return EvaluationSpec(
            trial=self.named.trial,
            suite=replace(self.asked.suite, task=(task,)),
            version=self.units[task][0].identity["version"],
            weights=self.weights,
            dtype=self.asked.dtype,
        )


def measure_by_workers(asked: Request) -> int:
    """Measure what the trials' journals do not have yet, study by study; returns the worst exit code.

    Raises:
        NotFoundError: nothing is called so.
        UsageError: no trial that was named has completed, or one cannot be asked for the suite.
    """
    how, observer = read_launcher(asked.launcher), Observer(asked.runs)
    chosen = {study: _completed(asked, observer, study, named) for study, named in _named(asked).items()}
    found = [(study, one) for study, measured in chosen.items() for one in measured]
    code = 0
    for study, measured in chosen.items():
        code = max(code, _launch(asked, observer, study, measured, how))
    there = [(one.named, r) for _, one in found for task in one.units for r in one.results(task) if r is not None]
    if asked.as_json:
        print(json.dumps([{"trial": n.trial, "cell": n.name, **result} for n, result in there], indent=1))
    else:
        for named, result in there:
            print(f"{named.name}  {line_of(result)}")
    return code


def _named(asked: Request) -> dict[str, list[Named]]:
    """Study → the trials of it that are named, each once; of a whole study those that are compared."""
    found: dict[str, dict[str, Named]] = {}
    for text in asked.trials:
        compared = None
        if text in ledger.list_studies(asked.runs):
            cells = ledger.read_study(asked.runs, text).cells
            compared = {trial for cell in cells for trial in cell.trials.values()}
        for named in steer.find(asked.runs, text, asked.study):
            if compared is None or named.trial in compared:
                found.setdefault(named.study, {})[named.trial] = named
    return {study: list(trials.values()) for study, trials in found.items()}


def _completed(asked: Request, observer: Observer, study: str, named: list[Named]) -> list[Measured]:
    """The trials that can be measured; says how many others there are.

    Raises:
        UsageError: none has completed.
    """
    states = observer.states(one.trial for one in named)
    done = [one for one in named if states[one.trial] is State.completed]
    others = Counter(states[one.trial].value for one in named if one not in done)
    said = ", ".join(f"{count} {state}" for state, count in others.items())
    if not done:
        raise UsageError(f"{study}: {said}; allowed are completed trials")
    if said:
        print(f"{study}: {said}, left out: only completed trials are measured", file=sys.stderr)
    folders = {one: ledger.trial_dir(asked.runs, one.trial) for one in done}
    return [
        Measured(named=one, folder=folder, spec=ledger.load_spec(folder), asked=asked)
        for one, folder in folders.items()
    ]


def _launch(asked: Request, observer: Observer, study: str, measured: list[Measured], how: LauncherSpec | None) -> int:
    """Hand one study's open tasks to workers; 0 where there are none."""
    record = ledger.read_study(asked.runs, study)
    open_ = [(one, task) for one in measured for task in one.units if None in one.results(task)]
    if not open_:
        return 0
    launcher = _one_process(how or launcher_spec(record.launcher), asked)
    plan = _plan(asked, observer, record, open_)
    refuse_impossible(plan, launcher, retry=True)
    launch = Launch(
        replan=lambda: plan,
        launcher=launcher,
        tracking=TrackingSpec(**record.tracking),
        observer=observer,
        root=load.ROOT,
        command=shlex.join(["deltalab", *sys.argv[1:]]),
        arguments=[],
        console=make_console(stderr=asked.as_json),
    )
    return launch.run(plan)


def _one_process(launcher: LauncherSpec, asked: Request) -> LauncherSpec:
    """The launcher for work that one process does; what failed before is tried again."""
    launcher = replace(launcher, device=asked.device or launcher.device, retry_failed=True)
    if isinstance(launcher, SlurmSpec) and launcher.kind is Kind.slurm:
        return replace(launcher, nodes=1, gpus_per_trial=min(1, launcher.gpus_per_trial))
    return replace(launcher, gpus_per_trial=min(1, launcher.gpus_per_trial))


def _plan(asked: Request, observer: Observer, record: StudyRecord, open_: list[tuple[Measured, str]]) -> Plan:
    """The evaluations as a study: a cell for each measured cell and task, with its seeds."""
    suite = asked.suite.suite
    levels = {trial: cell.levels for cell in record.cells for _, trial in cell.named_trials()}
    specs, cells = {}, dict[str, CellRecord]()
    for one, task in open_:
        spec, seed = one.evaluation(task), one.spec.seed
        specs[spec.trial_id] = spec
        of_cell = one.named.name.removesuffix(f"seed={seed}").strip()
        name = f"{of_cell} {suite.value}={task}".strip()
        cell = CellRecord(name=name, levels={**levels[one.named.trial], suite.value: task}, overrides={})
        cells[name] = replace(cell, trials={**cells.get(name, cell).trials, seed: spec.trial_id})
    study = StudySpec(
        name=evaluation_study(record.name, suite),
        question=f"{suite.value} of {record.name}",
        baseline={},
        factors={},
        seeds=sorted({one.spec.seed for one, _ in open_}),
    )
    return Plan(study=study, cells=list(cells.values()), specs=specs, records=observer.records(specs))
