"""Cells that compute the same must have the same losses: what is held against what, and what is said."""

from dataclasses import replace

import pytest

from deltalab.spec.study import Equivalence
from deltalab.study.check import LOSS, TOLERANCE, differences
from deltalab.study.ledger import CellRecord
from deltalab.track.journal import Record, State


def cell(name: str, equivalent: str | None = None, seeds: tuple[int, ...] = (0, 1)) -> CellRecord:
    trials = {seed: f"{name}{seed}" for seed in seeds}
    return CellRecord(name=name, levels={}, overrides={}, equivalent=equivalent, trials=trials)


def record(loss: float | None, state: State = State.completed) -> Record:
    metrics = {} if loss is None else {LOSS: {10: 9.0, 20: loss}}
    return Record(state=state, metrics=metrics, step=20)


CELLS = [cell("a"), cell("b"), cell("c", equivalent="a")]
EQUAL = {"a0": record(0.5), "a1": record(0.25), "b0": record(0.1), "b1": record(0.2)} | {
    "c0": record(0.5),
    "c1": record(0.25),
}


def test_equal_losses_say_nothing() -> None:
    assert differences(Equivalence.assert_, CELLS, EQUAL) == []
    nearly = EQUAL | {"c0": record(0.5 * (1 + TOLERANCE / 2))}
    assert differences(Equivalence.assert_, CELLS, nearly) == []


def test_a_difference_is_a_line_with_both_cells_seed_and_losses() -> None:
    (line,) = differences(Equivalence.assert_, CELLS, EQUAL | {"c1": record(0.250001)})
    assert line.startswith("c seed=1: eval/loss 0.250001 differs from 0.25 of a, which computes the same")
    assert "\n" not in line
    both = differences(Equivalence.assert_, CELLS, EQUAL | {"a0": record(0.6), "a1": record(0.6)})
    assert [said.split(":")[0] for said in both] == ["c seed=0", "c seed=1"]


def test_cells_that_share_trials_are_not_checked() -> None:
    assert differences(Equivalence.share, CELLS, EQUAL | {"c1": record(0.3)}) == []


@pytest.mark.parametrize("state", [state for state in State if state is not State.completed])
@pytest.mark.parametrize("trial", ["a1", "c1"])
def test_only_completed_trials_are_held_equal(trial: str, state: State) -> None:
    assert differences(Equivalence.assert_, CELLS, EQUAL | {trial: record(0.3, state)}) == []


@pytest.mark.parametrize("trial", ["a1", "c1"])
def test_what_is_not_known_is_no_difference(trial: str) -> None:
    assert differences(Equivalence.assert_, CELLS, EQUAL | {trial: record(None)}) == []
    assert differences(Equivalence.assert_, CELLS, {t: r for t, r in EQUAL.items() if t != trial}) == []
    waiting = [replace(one, trials={}) for one in CELLS]
    assert differences(Equivalence.assert_, waiting, EQUAL) == []
    out = [replace(CELLS[0], trials={0: "a0"}), *CELLS[1:]]
    assert differences(Equivalence.assert_, out, EQUAL | {"c1": record(0.3)}) == []
