"""What trials will take: measurements learnt from journals written by hand, and who shares them."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from deltalab.dispatch.launch import plan_study
from deltalab.spec.study_file import read_study
from deltalab.spec.trial import TrialSpec
from deltalab.study import estimates, ledger
from deltalab.study.estimates import Timing
from deltalab.study.plan import Plan
from deltalab.track import journal
from deltalab.track.journal import State
from tests.specs import TWO_CELLS, study_file, trial

Line = dict[str, Any]


def state(t: float, state: State, **details: Any) -> Line:
    return {"t": t, "event": "state", "state": state.value, **details}


def trained(t: float, step: int) -> Line:
    return {"t": t, "event": "metrics", "step": step, "values": {"train/loss": 0.7, "train/accuracy": 0.5}}


def evaluated(t: float, step: int) -> Line:
    return {"t": t, "event": "metrics", "step": step, "values": {"eval/loss": 0.7, "eval/accuracy": 0.5}}


UNBROKEN = [
    state(90.0, State.queued, submission="s", kind="local"),
    state(100.0, State.running, device="cuda:1", threads=1, steps=20),
    trained(103.0, 1),  # 3 s to the end of the first step, then 0.5 s a step and 2 s an evaluation
    trained(105.0, 5),
    trained(107.5, 10),
    evaluated(109.5, 10),
    trained(112.0, 15),
    trained(114.5, 20),
    evaluated(116.5, 20),
    state(116.6, State.completed, step=20, memory=123_456),
]
MEASURED = {"device": "cuda", "start": 3.0, "step": 0.5, "evaluation": 2.0, "memory": 123_456, "processes": 1}


def learnt(runs: Path, lines: list[Line], spec: TrialSpec, torn: str = "") -> Timing | None:
    """What a journal of these lines teaches, anew."""
    folder = ledger.trial_dir(runs, spec.trial_id)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / journal.FILE).write_text(torn + "".join(json.dumps(line) + "\n" for line in lines))
    estimates.learn(runs, spec, folder)
    return estimates.find(runs, spec)


def test_a_journal_tells_start_step_evaluation_and_memory(tmp_path: Path) -> None:
    spec = trial()
    assert estimates.find(tmp_path, spec) is None
    assert learnt(tmp_path, UNBROKEN, spec) == Timing(trial=spec.trial_id, **MEASURED)


def test_an_evaluation_between_logged_steps_takes_no_share_of_theirs(tmp_path: Path) -> None:
    lines = [
        state(0.0, State.running, device="cpu", steps=20),
        trained(3.0, 1), trained(5.0, 5),
        evaluated(8.0, 7),  # two steps and 2 s
        trained(9.5, 10), trained(12.0, 15), trained(14.5, 20),
        evaluated(16.5, 20),
        state(16.6, State.completed),
    ]  # fmt: skip
    timing = learnt(tmp_path, lines, trial())
    assert timing is not None
    assert (timing.step, timing.evaluation) == (0.5, 2.0)


def test_suites_take_their_own_time(tmp_path: Path) -> None:
    def result(t: float, step: int) -> Line:
        return {"t": t, "event": "evaluation", "step": step, "name": "small/parity/32", "values": {}}

    spec = trial("eval.suites=[small]", "eval.suite_every=10")
    lines = [*UNBROKEN[1:5], result(108.5, 10), result(111.5, 10)]
    lines += [trained(114.0, 15), trained(116.5, 20), evaluated(118.5, 20), result(120.5, 20), result(122.5, 20)]
    timing = learnt(tmp_path, [*lines, state(123.0, State.completed)], spec)
    assert timing is not None
    assert (timing.step, timing.evaluation, timing.suites) == (0.5, 2.0, 4.0)
    assert timing.seconds(spec) == 3.0 + 20 * 0.5 + 2.0 + 2 * 4.0
    assert timing.seconds(spec, done=10) == 3.0 + 10 * 0.5 + 2.0 + 4.0
    assert estimates.key(spec) != estimates.key(trial())


def test_steps_are_measured_where_every_log_lies_between_evaluations(tmp_path: Path) -> None:
    lines = [state(0.0, State.running, device="cpu", steps=40), trained(3.0, 1)]
    t = 3.0
    for step in range(10, 41, 10):
        t += (step - max(1, step - 10)) * 0.5
        lines += [trained(t, step)] if step % 20 == 0 else []
        t += 2.0
        lines.append(evaluated(t, step))
    timing = learnt(tmp_path, [*lines, state(t, State.completed)], trial())
    assert timing is not None
    assert timing.step == pytest.approx(0.5)
    assert timing.evaluation == pytest.approx(2.0)


def test_of_a_resumed_trial_the_last_execution_counts(tmp_path: Path) -> None:
    broken = [
        state(0.0, State.running, device="cpu", steps=20),
        trained(50.0, 1),
        trained(90.0, 5),  # slow, then killed
        state(95.0, State.running, device="cuda:0", steps=20, world=4),
        trained(98.0, 3),
        trained(99.0, 5),
        trained(101.5, 10),
        evaluated(103.5, 20),
        state(103.6, State.completed, memory=7, world=4),
    ]
    timing = learnt(tmp_path, broken, trial())
    assert timing is not None
    assert (timing.device, timing.start, timing.step, timing.memory, timing.processes) == ("cuda", 3.0, 0.5, 7, 4)


def test_torn_lines_are_passed_over(tmp_path: Path) -> None:
    timing = learnt(tmp_path, UNBROKEN, trial(), torn='{"t": 1, "event": "state", "state": "runn\n\x00\x00\n')
    assert timing == Timing(trial=trial().trial_id, **MEASURED)


@pytest.mark.parametrize(
    "lines",
    [
        [],
        UNBROKEN[:-1],
        UNBROKEN[:1],
        [*UNBROKEN[:-1], state(117.0, State.failed, error="boom")],
        [*UNBROKEN[:-1], state(117.0, State.preempted, step=20)],
        [UNBROKEN[1], evaluated(101.0, 20), UNBROKEN[-1]],
        [UNBROKEN[1], UNBROKEN[-1]],
    ],
    ids=["none", "running", "queued", "failed", "preempted", "only evaluated again", "nothing logged"],
)
def test_what_measures_no_step_leaves_what_was_known(tmp_path: Path, lines: list[Line]) -> None:
    assert learnt(tmp_path, lines, trial()) is None
    known = learnt(tmp_path, UNBROKEN, trial())
    assert known is not None
    assert learnt(tmp_path, lines, trial()) == known


@pytest.mark.parametrize("content", ["", "{", "[]", '{"trial": "x"}', '{"speed": 3}'])
def test_a_measurement_that_cannot_be_read_is_none(tmp_path: Path, content: str) -> None:
    assert learnt(tmp_path, UNBROKEN, trial()) is not None
    (path,) = (tmp_path / estimates.FOLDER).iterdir()
    path.write_text(content)
    assert estimates.find(tmp_path, trial()) is None


SAME = [
    "seed=5", "train.lr=1e-4", "train.steps=999", "train.warmup_steps=0", "train.weight_decay=0", "train.log_every=1",
    "train.checkpoint_every=0", "eval.every=7", "variant.name=other", "train.loss_bound=9",
]  # fmt: skip
OTHER = [
    "train.batch_size=8", "train.accumulation=2", "train.precision=bf16", "train.compile=true",
    "train.activation_checkpointing=true", "variant=kda", "variant.pattern=[mixer,swa]",
    "model.d_model=32", "model.depth=3", "data.train_length=16", "data.test_length=32", "data=s3",
    "eval.sequences=16", "eval.batch_size=4", "variant=mamba2", "variant=transformer", "variant=mamba3",
]  # fmt: skip


@pytest.mark.parametrize("change", SAME)
def test_what_does_not_change_a_steps_time_shares_a_measurement(change: str) -> None:
    changed = trial(change)
    assert changed != trial()
    assert estimates.key(changed) == estimates.key(trial())


@pytest.mark.parametrize("change", OTHER)
def test_what_changes_a_steps_time_has_a_measurement_of_its_own(change: str) -> None:
    assert estimates.key(trial(change)) != estimates.key(trial())


def test_a_rank_has_a_measurement_of_its_own() -> None:
    one, four = trial("variant=mamba3"), trial("variant=mamba3_mimo")
    assert estimates.key(one) != estimates.key(four)
    assert estimates.key(four) == estimates.key(trial("variant=mamba3", "variant.rank=4"))


@pytest.mark.parametrize(("steps", "every"), [(20, 0), (20, 5), (20, 6), (20, 20), (20, 30), (1, 1)])
def test_time_is_start_steps_and_evaluations_still_to_come(steps: int, every: int) -> None:
    timing = Timing(trial="x", device="cpu", start=100.0, step=1.0, evaluation=1000.0)
    spec = trial(f"train.steps={steps}", f"eval.every={every}")
    for done in range(steps + 1):
        coming = sum(every > 0 and step % every == 0 for step in range(done + 1, steps)) + 1
        assert timing.seconds(spec, done) == 100 + (steps - done) + 1000 * coming, f"{done} of {steps} steps done"


def test_a_study_that_came_without_its_timings_is_measured_by_its_journals(tmp_path: Path) -> None:
    study = read_study(study_file(tmp_path, TWO_CELLS))
    narrow = plan_study(study, {}, tmp_path).cells[0].trials
    spec = plan_study(study, {}, tmp_path).trials[narrow[0]]
    assert learnt(tmp_path, UNBROKEN, spec) is not None
    shutil.rmtree(tmp_path / estimates.FOLDER)
    plan = plan_study(study, {}, tmp_path)
    assert plan.timings == dict.fromkeys(narrow.values(), Timing(trial=spec.trial_id, **MEASURED))
    assert plan.seconds(narrow.values()) == 3 + 20 * 0.5 + 2
    assert not (tmp_path / estimates.FOLDER).exists(), "a plan writes nothing"


def shapes(plan: Plan, trials: Iterable[str]) -> list[str]:
    return [estimates.key(plan.specs[trial]) for trial in trials]


def test_a_plan_adds_up_what_is_still_to_run(tmp_path: Path) -> None:
    study = read_study(study_file(tmp_path, TWO_CELLS))
    plan = plan_study(study, {}, tmp_path)
    narrow, wide = (cell.trials for cell in plan.cells)
    assert plan.seconds(plan.specs) is None
    assert shapes(plan, plan.unmeasured) == shapes(plan, [narrow[0], wide[0]])
    learnt(tmp_path, UNBROKEN, plan.specs[narrow[0]])  # which is done, too
    half = plan_study(study, {}, tmp_path)
    assert half.seconds(half.specs) is None
    assert half.seconds(narrow.values()) == 3 + 20 * 0.5 + 2
    assert shapes(half, half.unmeasured) == shapes(half, [wide[0]])
    lost = [state(0.0, State.running, steps=20), trained(1.0, 1), trained(5.0, 5)]
    learnt(tmp_path, [*lost, trained(20.0, 20), state(20.0, State.completed)], plan.specs[wide[0]])
    (ledger.trial_dir(tmp_path, wide[0]) / journal.FILE).write_text("".join(json.dumps(line) + "\n" for line in lost))
    whole = plan_study(study, {}, tmp_path)
    assert whole.states[wide[0]] is State.lost
    assert whole.seconds(whole.specs) == (3 + 20 * 0.5 + 2) + (1 + 15) + (1 + 20)
    assert whole.unmeasured == []
