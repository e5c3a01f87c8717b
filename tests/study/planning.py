"""Plans of a study's text, and studies that tune or have cells that compute the same."""

from pathlib import Path

from deltalab.dispatch.launch import plan_study
from deltalab.spec.study_file import read_study
from deltalab.study import ledger
from deltalab.study.plan import Plan
from deltalab.track.journal import Journal, State
from tests.specs import study_file


def planned(folder: Path, text: str, **overrides: str) -> Plan:
    """The plan of a study's text, with ``folder`` for its runs."""
    return plan_study(read_study(study_file(folder, text)), overrides, folder)


def end(folder: Path, trial: str, loss: float, state: State = State.completed) -> None:
    """Journal a trial that ended in a state with an evaluation before."""
    journal = Journal(ledger.trial_dir(folder, trial))
    journal.state(State.running, steps=20)
    journal.metrics(20, {"eval/loss": loss})
    journal.state(state)


TUNED = """
baseline: {variant: gated_delta_net_2}
factors: {variant: [gated_delta_net_2, gated_delta_net_2_wide]}
seeds: [0, 1]
overrides: {train: smoke, eval.sequences: 8}
metrics: {eval/loss: min}
tune: {key: train.lr, grid: [1e-3, 3e-3], seeds: [7, 8]}
"""


def finish_tuning(folder: Path, plan: Plan, losses: dict[str, dict[str, float]]) -> None:
    """End every tuning trial: cell → value → loss."""
    for cell in plan.cells:
        for value, trials in cell.tuning.items():
            for trial in trials.values():
                end(folder, trial, losses[cell.name][value])


NARROW, WIDE = "variant=gated_delta_net_2", "variant=gated_delta_net_2_wide"
LOW, HIGH = "train.lr=1e-3", "train.lr=3e-3"


def rate(tried: str) -> float:
    return float(tried.removeprefix("train.lr="))


TWINS = """
baseline: {narrowing: project, range: "1"}
factors:
  narrowing: {project: {variant.narrowing: project}, pool: {variant.narrowing: pool}}
  range: {"1": {variant.erase_range: 1}, "2": {variant.erase_range: 2}}
seeds: [0, 1]
overrides: {variant: gated_delta_net_2, train: smoke, eval.sequences: 8}
metrics: {eval/loss: min}
"""
"""Channel-wise gates are not narrowed: cells that differ in narrowing alone compute the same."""
