"""States as an observer sees them: local launches that live or died, and Slurm's answers or their absence."""

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from deltalab.dispatch import scheduler
from deltalab.dispatch.scheduler import POLL_SECONDS, Place
from deltalab.dispatch.states import MISSING_SECONDS, Observer
from deltalab.spec.launcher import Kind, LauncherSpec
from deltalab.study import ledger, submissions
from deltalab.study.submissions import Submission
from deltalab.track.claim import claimed
from deltalab.track.journal import Journal, Record, State
from tests.dispatch.slurm_programs import DOWN, NO_ACCOUNTING, SlurmPrograms, queued

A, B, C, D = "aaaa", "bbbb", "cccc", "dddd"


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SlurmPrograms:
    return SlurmPrograms(tmp_path / "bin", monkeypatch)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def rows(submission: Submission, states: Mapping[int, tuple[str, str]], job: str = "24", offset: int = 0) -> list[str]:
    """squeue's lines of an array: index → (state, reason)."""
    name = submission.job_name(offset)
    return [f"{job}|{index}|{state}|{name}|{reason}" for index, (state, reason) in states.items()]


def look(runs: Path, *trials: str) -> tuple[Observer, dict[str, Record]]:
    observer = Observer(runs)
    return observer, observer.records(trials)


def ran(runs: Path, trial: str, last: State) -> None:
    """Journal a run, then a state."""
    journal = Journal(ledger.trial_dir(runs, trial))
    journal.state(State.running, steps=20)
    journal.metrics(7, {"train/loss": 0.5})
    if last is not State.running:
        journal.state(last)


@pytest.mark.parametrize("kind", [Kind.local, Kind.inline])
def test_a_trial_that_a_launch_here_queued_waits_as_long_as_that_launch_lives(runs: Path, kind: Kind) -> None:
    submission = queued(runs, [[A], [B]], launcher=LauncherSpec(kind=kind))
    with claimed(submissions.folder_of(runs, submission.token)):
        assert Observer(runs).states([A, B]) == {A: State.queued, B: State.queued}
        assert ledger.record_of(runs, A).state is State.queued
        assert ledger.record_of(runs, A).submission == submission.token
    assert Observer(runs).states([A, B]) == {A: State.planned, B: State.planned}
    assert ledger.state_of(runs, A) is State.planned


def test_a_job_that_was_only_announced_when_slurm_was_asked_is_asked_about_again(
    runs: Path, slurm: SlurmPrograms
) -> None:
    submission = queued(runs, [[A]], [("", 0, 1)])
    observer = Observer(runs)
    slurm.says("squeue", [])
    slurm.says("sacct", [])
    with claimed(submissions.folder_of(runs, submission.token)):  # by the launch that is about to call sbatch
        assert observer.states([A]) == {A: State.queued}
        assert observer.states([A]) == {A: State.queued}
        assert len(slurm.calls("squeue")) == 1
    slurm.says("squeue", rows(submission, {0: ("PENDING", "Priority")}))
    assert observer.states([A]) == {A: State.queued}
    assert len(slurm.calls("squeue")) == 2


def test_a_running_trial_is_lost_with_its_process(runs: Path) -> None:
    ran(runs, A, State.running)
    with claimed(ledger.trial_dir(runs, A)):
        assert Observer(runs).states([A]) == {A: State.running}
    assert Observer(runs).states([A]) == {A: State.lost}


def test_trials_that_slurm_was_not_given_ask_nothing_of_it(runs: Path, slurm: SlurmPrograms) -> None:
    Journal(ledger.trial_dir(runs, A)).state(State.queued, submission="gone", kind="local")
    ran(runs, B, State.completed)
    ran(runs, C, State.preempted)
    states = Observer(runs).states([A, B, C, D])
    assert states == {A: State.planned, B: State.completed, C: State.preempted, D: State.planned}
    assert slurm.calls("squeue") == []


@pytest.mark.parametrize(
    ("state", "reason", "place", "note"),
    [
        ("PENDING", "Resources", Place.queued, "Resources"),
        ("PENDING", "BeginTime", Place.queued, "BeginTime"),
        ("PENDING", "JobHeldUser", Place.queued, "JobHeldUser"),
        ("CONFIGURING", "None", Place.queued, "configuring"),
        ("RUNNING", "None", Place.running, "running"),
        ("SUSPENDED", "None", Place.running, "suspended"),
        ("COMPLETING", "None", Place.running, "completing"),
    ],
)
@pytest.mark.parametrize("before", [State.queued, State.preempted, State.running])
def test_a_trial_in_slurms_queue_is_queued_whatever_became_of_its_last_run(
    runs: Path, slurm: SlurmPrograms, state: str, reason: str, place: Place, note: str, before: State
) -> None:
    submission = queued(runs, [[A], [B]], [("24", 0, 2)])
    if before is not State.queued:
        ran(runs, B, before)  # without a claim: its process is gone
    slurm.says("squeue", rows(submission, {0: ("RUNNING", "None"), 1: (state, reason)}))
    observer, records = look(runs, B)
    assert records[B].state is State.queued
    assert (observer.jobs[B].place, observer.jobs[B].job, observer.jobs[B].note) == (place, "24_1", note)
    assert observer.error == ""


def test_a_running_trial_whose_heart_beats_is_not_asked_about(runs: Path, slurm: SlurmPrograms) -> None:
    queued(runs, [[A]], [("24", 0, 1)])
    ran(runs, A, State.running)
    with claimed(ledger.trial_dir(runs, A)):
        assert Observer(runs).states([A]) == {A: State.running}
    assert slurm.calls("squeue") == []


@pytest.mark.parametrize("said", ["CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "COMPLETED", "OUT_OF_MEMORY"])
def test_a_trial_whose_job_ended_without_it_is_planned_or_lost(runs: Path, slurm: SlurmPrograms, said: str) -> None:
    submission = queued(runs, [[A], [B], [C]], [("24", 0, 3)])
    ran(runs, B, State.running)
    ran(runs, C, State.preempted)
    queued_again = ledger.trial_dir(runs, B)
    Journal(queued_again).state(State.queued, submission=submission.token, kind="slurm")
    slurm.says("squeue", rows(submission, dict.fromkeys(range(3), (said, "None"))))
    records = look(runs, A, B, C)[1]
    assert {t: r.state for t, r in records.items()} == {A: State.planned, B: State.lost, C: State.preempted}
    assert records[A].details == {"error": f"its Slurm job is {said.lower()}"}
    assert slurm.calls("sacct") == []


def test_what_squeue_has_forgotten_accounting_knows(runs: Path, slurm: SlurmPrograms) -> None:
    submission = queued(runs, [[A], [B], [C]], [("24", 0, 3)])
    name = submission.job_name(0)
    slurm.says("squeue", rows(submission, {2: ("PENDING", "Priority")}))
    slurm.says("sacct", [f"24_0|{name}|CANCELLED by 0", f"24_1|{name}|NODE_FAIL", f"24_[2-2]|{name}|PENDING"])
    observer, records = look(runs, A, B, C)
    assert [records[t].state for t in (A, B, C)] == [State.planned, State.planned, State.queued]
    assert records[A].details == {"error": "its Slurm job is cancelled by 0"}
    assert (len(slurm.calls("squeue")), len(slurm.calls("sacct"))) == (1, 1)
    assert observer.jobs[C].job == "24_2"


def test_what_neither_knows_is_over(runs: Path, slurm: SlurmPrograms) -> None:
    queued(runs, [[A]], [("24", 0, 1)])
    record = look(runs, A)[1][A]
    assert (record.state, record.details) == (State.planned, {"error": "its Slurm job is gone"})


def test_a_controller_that_is_down_loses_nothing_and_is_told(runs: Path, slurm: SlurmPrograms) -> None:
    queued(runs, [[A], [B], [C]], [("24", 0, 3)])
    ran(runs, B, State.preempted)
    ran(runs, C, State.running)
    slurm.says("squeue", code=1, error=DOWN)
    for _ in range(2):  # however long it lasts
        observer, records = look(runs, A, B, C)
        assert {record.state for record in records.values()} == {State.queued}
        assert observer.error == f"squeue: {DOWN}"
        for marker in runs.glob("submissions/*/missing-*"):
            os.utime(marker, (time.time() - POLL_SECONDS,) * 2)
    slurm.says("squeue", rows(submissions.read(next((runs / "submissions").iterdir())), {0: ("PENDING", "None")}))
    assert look(runs, A)[0].error == ""


def missing_since(runs: Path, submission: Submission, seconds: float, offset: int = 0) -> None:
    """Make the first miss of an array be so long ago."""
    marker = submissions.folder_of(runs, submission.token) / f"missing-{offset}"
    then = time.time() - seconds
    os.utime(marker, (then, then))


def test_without_accounting_one_empty_answer_loses_nothing_a_later_one_does(runs: Path, slurm: SlurmPrograms) -> None:
    submission = queued(runs, [[A], [B]], [("24", 0, 2)])
    ran(runs, B, State.running)
    Journal(ledger.trial_dir(runs, B)).state(State.queued, submission=submission.token, kind="slurm")
    slurm.says("sacct", code=1, error=NO_ACCOUNTING)
    both = {A: State.queued, B: State.queued}
    assert Observer(runs).states([A, B]) == both
    missing_since(runs, submission, POLL_SECONDS - 5)
    assert Observer(runs).states([A, B]) == both
    missing_since(runs, submission, POLL_SECONDS)
    assert Observer(runs).states([A, B]) == {A: State.planned, B: State.lost}


def test_a_miss_of_long_ago_says_nothing(runs: Path, slurm: SlurmPrograms) -> None:
    submission = queued(runs, [[A]], [("24", 0, 1)])
    slurm.says("sacct", code=1, error=NO_ACCOUNTING)
    assert Observer(runs).states([A]) == {A: State.queued}
    missing_since(runs, submission, MISSING_SECONDS + 1)
    assert Observer(runs).states([A]) == {A: State.queued}


def test_a_job_that_was_heard_of_again_in_between_needs_two_new_misses(runs: Path, slurm: SlurmPrograms) -> None:
    submission = queued(runs, [[A]], [("24", 0, 1)])
    slurm.says("sacct", code=1, error=NO_ACCOUNTING)
    assert Observer(runs).states([A]) == {A: State.queued}
    missing_since(runs, submission, POLL_SECONDS)
    slurm.says("squeue", rows(submission, {0: ("PENDING", "Priority")}))
    assert Observer(runs).states([A]) == {A: State.queued}
    slurm.says("squeue")
    assert Observer(runs).states([A]) == {A: State.queued}


def test_without_accounting_tasks_that_squeue_forgot_beside_others_are_over(runs: Path, slurm: SlurmPrograms) -> None:
    submission = queued(runs, [[A], [B]], [("24", 0, 2)])
    slurm.says("sacct", code=1, error=NO_ACCOUNTING)
    slurm.says("squeue", rows(submission, {1: ("RUNNING", "None")}))
    assert Observer(runs).states([A, B]) == {A: State.planned, B: State.queued}


def test_a_launch_that_died_before_sbatch_left_nothing_in_the_queue(runs: Path, slurm: SlurmPrograms) -> None:
    queued(runs, [[A]])
    submission = queued(runs, [[B]], [("", 0, 1)])
    assert Observer(runs).states([A, B]) == {A: State.planned, B: State.planned}
    with claimed(submissions.folder_of(runs, submission.token)):  # one that is still at it may come to it yet
        assert Observer(runs).states([A, B]) == {A: State.planned, B: State.queued}


def test_a_launch_that_died_after_sbatch_is_found_by_its_jobs_names(runs: Path, slurm: SlurmPrograms) -> None:
    submission = queued(runs, [[A], [B], [C]], [("24", 0, 1), ("", 1, 2)])
    both = {0: ("PENDING", "Priority"), 1: ("RUNNING", "None")}
    slurm.says("squeue", rows(submission, {0: ("PENDING", "Priority")}) + rows(submission, both, "31", 1))
    observer, records = look(runs, A, B, C)
    assert {record.state for record in records.values()} == {State.queued}
    assert [observer.jobs[trial].job for trial in (A, B, C)] == ["24_0", "31_0", "31_1"]


def test_trials_beyond_the_last_array_were_not_submitted(runs: Path, slurm: SlurmPrograms) -> None:
    submission = queued(runs, [[A], [B]], [("24", 0, 1)])
    slurm.says("squeue", rows(submission, {0: ("PENDING", "Priority")}))
    assert Observer(runs).states([A, B]) == {A: State.queued, B: State.planned}


def test_a_submission_whose_record_is_gone_keeps_no_trial_waiting(runs: Path, slurm: SlurmPrograms) -> None:
    Journal(ledger.trial_dir(runs, A)).state(State.queued, submission="ask-gone", kind="slurm")
    assert Observer(runs).states([A]) == {A: State.planned}


@pytest.mark.parametrize("accounting", [True, False])
def test_another_users_job_that_is_not_shown_is_not_taken_for_gone(
    runs: Path, slurm: SlurmPrograms, accounting: bool
) -> None:
    submission = replace(queued(runs, [[A]], [("24", 0, 1)]), user="somebody else")
    submissions.write(runs, submission)
    if not accounting:
        slurm.says("sacct", code=1, error=NO_ACCOUNTING)
    assert Observer(runs).states([A]) == {A: State.queued}
    slurm.says("squeue", rows(submission, {0: ("CANCELLED", "None")}))  # shown after all
    assert Observer(runs).states([A]) == {A: State.planned}


def test_the_trials_of_a_task_share_its_place(runs: Path, slurm: SlurmPrograms) -> None:
    submission = queued(runs, [[A, B], [C, D]], [("24", 0, 2)])
    slurm.says("squeue", rows(submission, {0: ("PENDING", "Priority"), 1: ("CANCELLED", "None")}))
    expected = {A: State.queued, B: State.queued, C: State.planned, D: State.planned}
    assert Observer(runs).states([A, B, C, D]) == expected


def test_however_many_trials_slurm_is_asked_once(runs: Path, slurm: SlurmPrograms) -> None:
    trials = [f"{number:04x}" for number in range(120)]
    said, names = [], set()
    for start in range(0, 120, 40):
        own = trials[start : start + 40]
        submission = queued(runs, [[trial] for trial in own], [(str(start), 0, 25), (str(start + 1), 25, 15)])
        for offset, count in ((0, 25), (25, 15)):
            names.add(submission.job_name(offset))
            waits = dict.fromkeys(range(count - 1), ("PENDING", "Priority"))  # of each array one is forgotten
            said += rows(submission, waits, str(start), offset)
    slurm.says("squeue", said)
    states = Observer(runs).states(trials)
    assert list(states.values()).count(State.queued) == 120 - 6
    (squeue,), (sacct,) = slurm.calls("squeue"), slurm.calls("sacct")
    for call in (squeue, sacct):
        (asked,) = (word.removeprefix("--name=").split(",") for word in call if word.startswith("--name="))
        assert set(asked) == names


def test_within_the_polling_interval_slurm_is_not_asked_again(
    runs: Path, slurm: SlurmPrograms, monkeypatch: pytest.MonkeyPatch
) -> None:
    submission = queued(runs, [[A], [B]], [("24", 0, 2)])
    slurm.says("squeue", rows(submission, dict.fromkeys(range(2), ("PENDING", "Priority"))))
    observer = Observer(runs)
    for _ in range(3):
        assert observer.states([A, B]) == {A: State.queued, B: State.queued}
        assert observer.states([B]) == {B: State.queued}
    assert len(slurm.calls("squeue")) == 1
    queued(runs, [[C]], [("25", 0, 1)])  # which that answer does not cover
    assert observer.states([A, C]) == {A: State.queued, C: State.planned}
    assert len(slurm.calls("squeue")) == 2
    monkeypatch.setattr(scheduler, "POLL_SECONDS", 0.0)
    observer.states([A])
    assert len(slurm.calls("squeue")) == 3


def test_no_slurm_here_is_an_answer_that_did_not_come(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queued(runs, [[A]], [("24", 0, 1)])
    monkeypatch.setenv("PATH", str(runs / "nothing"))
    observer, records = look(runs, A)
    assert records[A].state is State.queued
    assert observer.error.startswith("squeue is not here")
