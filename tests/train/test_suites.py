"""Suites inside a trial: at intervals and at the end, as ``deltalab eval`` measures them, and each once."""

import json
from pathlib import Path

import pytest

from deltalab.cli import app
from deltalab.command import run_app
from deltalab.errors import ConfigError
from deltalab.spec.launcher import Device
from deltalab.spec.trial import TrialSpec
from deltalab.study import ledger
from deltalab.track import journal
from deltalab.track.journal import State
from deltalab.train.trial import run_trial
from tests.specs import trial
from tests.train.runs import StopAt, assert_equal

SUITE = "small task=mqar lengths=64 samples=4"
NAMES = ["small/mqar/64/pairs-8", "small/mqar/64/pairs-16"]


@pytest.fixture(scope="module")
def spec() -> TrialSpec:
    return trial("data=recall", f"eval.suites=['{SUITE}']", "eval.suite_every=8")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, spec: TrialSpec) -> Path:
    """The trial's run directory, not interrupted."""
    folder = ledger.freeze(tmp_path_factory.mktemp("runs"), spec)
    assert run_trial(spec, folder, Device.cpu) is State.completed
    return folder


def results(folder: Path) -> list[tuple[int, str]]:
    return [(one["step"], one["name"]) for one in journal.read(folder).evaluations]


def test_at_intervals_and_at_the_end(whole: Path):
    assert results(whole) == [(step, name) for step in (8, 16, 20) for name in NAMES]
    first, last = journal.read(whole).evaluations[0], journal.read(whole).evaluations[-1]
    assert (first["task"], first["version"], first["samples"], first["dtype"]) == ("mqar", 1, 4, "float32")
    assert f"{NAMES[0]}/stderr" in first["values"]
    assert "weights" not in first
    assert len(last["weights"]) == 64


def test_what_a_trial_measured_at_its_end_deltalab_eval_does_not_measure_again(
    whole: Path, capsys: pytest.CaptureFixture[str]
):
    before = journal.read(whole).evaluations
    with pytest.raises(SystemExit) as ended:
        run_app(app, "deltalab", ["eval", str(whole), *f"suite={SUITE}".split(), "--json"])
    assert not ended.value.code
    assert json.loads(capsys.readouterr().out) == before[-2:]
    assert journal.read(whole).evaluations == before


@pytest.mark.parametrize("asked", [9, 25])
def test_an_interrupted_trial_measures_what_is_missing(whole: Path, tmp_path: Path, spec: TrialSpec, asked: int):
    """A stop is asked for before every step and every unit; these two come between the units of step 8, and of 20."""
    assert run_trial(spec, tmp_path, Device.cpu, StopAt(asked)) is State.preempted
    there = results(tmp_path)
    assert there == results(whole)[: len(there)]
    assert len(there) % 2 == 1
    assert run_trial(spec, tmp_path, Device.cpu) is State.completed
    assert results(tmp_path) == results(whole)
    assert_equal(whole, tmp_path)


def test_a_task_that_a_suite_does_not_have_fails_before_a_step(tmp_path: Path):
    spec = trial("data=text", "eval.suites=['table3 task=nothing']")
    with pytest.raises(ConfigError, match="task=nothing: allowed is"):
        run_trial(spec, tmp_path, Device.cpu)
    record = journal.read(tmp_path)
    assert (record.state, record.step) == (State.failed, 0)
