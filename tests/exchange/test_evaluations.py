"""deltalab eval of studies: a trial of its own for every trial and task, what they leave behind, what is refused."""

import json
from pathlib import Path

import pytest

from analysis.collate import collate
from deltalab.errors import UsageError
from deltalab.evals import small
from deltalab.spec.study import StudySpec
from deltalab.spec.tracking import TrackingSpec
from deltalab.spec.trial import TrialSpec
from deltalab.study import ledger
from deltalab.study.ledger import CellRecord
from deltalab.track import journal
from deltalab.track.journal import Journal, State
from tests.exchange.trained import Eval, trained

SMALL = ("suite=small", "task=mqar,mqar_overwrite", "lengths=64", "samples=4")
UNITS = ["small/mqar/64/pairs-8", "small/mqar/64/pairs-16", "small/mqar_overwrite/64/pairs-8"]
INLINE = ("--set", "hydra/launcher=inline", "--set", "hydra.launcher.threads=1")


@pytest.fixture
def trials(runs: Path) -> list[TrialSpec]:
    """Two completed trials and one that is not, cells of the study ``ask``, which mirrors nothing."""
    specs = [trained(runs, "data=recall", variant=variant) for variant in ("kda", "delta_net", "gated_delta_net")]
    for spec in specs[:2]:
        log = Journal(ledger.trial_dir(runs, spec.trial_id))
        log.state(State.running, steps=spec.train.steps)
        log.state(State.completed)
    cells = [
        CellRecord(name=f"variant={v}", levels={"variant": v}, overrides={}, trials={0: spec.trial_id})
        for spec in specs
        for v in [spec.variant.name]
    ]
    levels = {cell.levels["variant"]: {} for cell in cells}
    study = StudySpec(name="ask", question="which?", baseline=cells[0].levels, factors={"variant": levels}, seeds=[0])
    ledger.write_study(runs, study, cells, "python launch.py", {"commit": "0123"}, tracking=TrackingSpec(mlflow=False))
    return specs[:2]


def names(runs: Path, spec: TrialSpec) -> list[str]:
    return [one["name"] for one in journal.read(ledger.trial_dir(runs, spec.trial_id)).evaluations]


def test_every_task_of_every_trial_is_a_trial_of_its_own(runs: Path, trials: list[TrialSpec], evaluate: Eval):
    code, out, err = evaluate("ask", *SMALL, *INLINE)
    assert code == 0, err
    assert "ask: 1 planned, left out: only completed trials are measured" in err
    assert "ask-eval-small: 4 completed" in out
    for spec in trials:
        assert names(runs, spec) == UNITS
        for name in UNITS:
            assert f"variant={spec.variant.name} seed=0  {name}  " in out
    record = ledger.read_study(runs, "ask-eval-small")
    assert [cell.name for cell in record.cells] == [
        f"variant={spec.variant.name} small={task}" for spec in trials for task in ("mqar", "mqar_overwrite")
    ]
    assert ledger.newest_study(runs) == "ask"
    tasks = [trial for cell in record.cells for trial in cell.trials.values()]
    assert {journal.read(ledger.trial_dir(runs, trial)).state for trial in tasks} == {State.completed}
    with pytest.raises(UsageError, match="study=ask-eval-small: its trials are evaluations; allowed is ask"):
        collate(runs, "ask-eval-small")


@pytest.mark.slow
def test_workers_measure_what_this_process_would(runs: Path, trials: list[TrialSpec], evaluate: Eval):
    """As a pool of one worker; and one trial, alone, here, has the same lines."""
    one, other = trials
    pool = ("--set", "hydra.launcher.workers=1", "--set", "hydra.launcher.trials_per_job=9")
    code, out, err = evaluate(one.trial_id, other.trial_id, *SMALL, *pool, "--json")
    assert code == 0, err
    shown = json.loads(out)
    assert [(line["trial"], line["name"]) for line in shown] == [(s.trial_id, n) for s in trials for n in UNITS]
    before = journal.read(ledger.trial_dir(runs, one.trial_id)).evaluations
    assert evaluate(one.trial_id, *SMALL)[0] == 0
    assert journal.read(ledger.trial_dir(runs, one.trial_id)).evaluations == before
    assert [{k: v for k, v in line.items() if k not in ("trial", "cell")} for line in shown[:3]] == before


def test_what_is_done_is_launched_no_more(runs: Path, trials: list[TrialSpec], evaluate: Eval):
    one, other = trials
    assert evaluate(one.trial_id, *SMALL)[0] == 0
    assert evaluate("ask", "suite=small", "task=mqar_overwrite", *SMALL[2:], *INLINE)[0] == 0
    assert [cell.name for cell in ledger.read_study(runs, "ask-eval-small").cells] == [
        "variant=delta_net small=mqar_overwrite"
    ]
    assert evaluate("ask", *SMALL, *INLINE)[0] == 0
    assert [cell.name for cell in ledger.read_study(runs, "ask-eval-small").cells] == ["variant=delta_net small=mqar"]
    assert sorted(names(runs, other)) == sorted(UNITS)
    assert names(runs, one) == UNITS
    submissions = len(list((runs / "submissions").iterdir()))
    code, out, _ = evaluate("ask", *SMALL, *INLINE)
    assert (code, out.count("small/mqar")) == (0, 6)
    assert len(list((runs / "submissions").iterdir())) == submissions


def test_a_task_that_fails_is_measured_by_the_same_command(
    runs: Path, trials: list[TrialSpec], evaluate: Eval, monkeypatch: pytest.MonkeyPatch
):
    measured, measure = [], small.measure

    def failing_at_the_second(*arguments: object) -> dict[str, float]:
        measured.append(arguments)
        if len(measured) == 2:
            raise RuntimeError("no more memory")
        return measure(*arguments)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(small, "measure", failing_at_the_second)
    code, out, _ = evaluate(trials[0].trial_id, *SMALL, *INLINE)
    assert code == 1
    assert "failed: RuntimeError: no more memory; log " in out
    assert names(runs, trials[0]) == [UNITS[0], UNITS[2]]
    assert evaluate(trials[0].trial_id, *SMALL, *INLINE)[0] == 0
    assert names(runs, trials[0]) == [UNITS[0], UNITS[2], UNITS[1]]
    assert len(measured) == 4


def test_mistakes_are_one_line(runs: Path, trials: list[TrialSpec], evaluate: Eval):
    for arguments, said in [
        (("ask", "suite=small", "task=s5"), "variant=kda seed=0: task=s5: allowed is mqar, "),
        (("ask", "suite=table3"), "variant=kda seed=0: suite=table3: allowed is small"),
        (("variant=gated_delta_net", *SMALL, *INLINE), "ask: 1 planned; allowed are completed trials"),
        (("ask", "nothing", *SMALL), "nothing: no trial, cell or study"),
        (("ask", *SMALL, "--set", "train.lr=1"), "--set train.lr=1: allowed is hydra/launcher="),
        (("ask", "suite=small", "sampels=3"), "sampels=3: allowed is KEY=VALUE"),
    ]:
        code, out, err = evaluate(*arguments)
        assert (code, out) == (2, ""), (out, err)
        assert said in err
        assert err.splitlines()[-1].count(said) == 1
    assert ledger.list_studies(runs) == ["ask"]
