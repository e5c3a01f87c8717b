"""What of a runs folder is garbage, kept or removed: trials as they leave it, processes that live and that died."""

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from deltalab.dispatch import garbage
from deltalab.dispatch.garbage import Kind, plan_garbage, remove
from deltalab.errors import NotFoundError
from deltalab.track import claim
from deltalab.track.claim import claimed
from deltalab.track.journal import State
from tests.dispatch.left import age, everything, study, submission, trial, write

ENDS = ("", ".json", ".patch")


def hold(folder: str, ready: object) -> None:
    with claimed(Path(folder)):
        ready.set()  # type: ignore[attr-defined]
        time.sleep(120)


class Holder:
    """A process of its own that holds a folder's claim."""

    def __init__(self, folder: Path) -> None:
        context = multiprocessing.get_context("spawn")
        ready = context.Event()
        self.process = context.Process(target=hold, args=(str(folder), ready))
        self.process.start()
        assert ready.wait(60)

    def kill(self) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    folder.mkdir()
    return folder


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot's ctime cannot be set back, so here everything counts as made long ago."""
    monkeypatch.setattr(garbage, "SETTLED_SECONDS", -1.0)


def found(runs: Path, trials: bool = False) -> dict[Kind, list[str]]:
    by_kind: dict[Kind, list[str]] = {}
    for waste in plan_garbage(runs, trials).waste:
        by_kind.setdefault(waste.kind, []).append(str(waste.path.relative_to(runs)))
    return by_kind


class TestTrials:
    def test_a_completed_trial_keeps_its_weights_and_loses_its_checkpoints(self, runs: Path) -> None:
        folder = trial(runs, "done", State.running, State.completed)
        assert found(runs) == {Kind.checkpoint: ["trials/done/checkpoints"]}
        gone, failed = remove(runs, plan_garbage(runs))
        assert (len(gone), failed) == (1, [])
        assert gone[0].size == 3000
        kept = ["config.json", "journal.jsonl", "model.safetensors", "provenance.json"]
        assert sorted(path.name for path in folder.iterdir()) == kept

    def test_without_weights_at_the_top_the_newest_checkpoint_is_all_there_is(self, runs: Path) -> None:
        (trial(runs, "done", State.running, State.completed) / "model.safetensors").unlink()
        assert Kind.checkpoint not in found(runs)
        remove(runs, plan_garbage(runs))
        assert (runs / "trials/done/checkpoints/step-00000200/model.safetensors").exists()

    @pytest.mark.parametrize("state", [State.preempted, State.failed, State.diverged, State.running, State.queued])
    def test_a_resumable_trial_keeps_its_newest_complete_checkpoint(self, runs: Path, state: State) -> None:
        folder = trial(runs, "t", state)
        assert found(runs) == {
            Kind.superseded: ["trials/t/checkpoints/step-00000100"],
            Kind.half: ["trials/t/checkpoints/.part-00000300-1"],
        }
        remove(runs, plan_garbage(runs))
        assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-00000200"]
        assert (folder / "checkpoints/step-00000200/model.safetensors").exists()

    def test_as_many_checkpoints_stay_as_the_trial_asks_for(self, runs: Path) -> None:
        folder = trial(runs, "t", State.preempted)
        write(folder / "checkpoints/step-00000050/model.safetensors")
        write(folder / "config.json", json.dumps({"train": {"keep_checkpoints": 2}}))
        assert found(runs)[Kind.superseded] == ["trials/t/checkpoints/step-00000050"]

    def test_a_checkpoint_that_was_just_being_written_stays(self, runs: Path) -> None:
        folder = trial(runs, "t", State.running)
        write(folder / "checkpoints/.part-00000400-1/model.safetensors")
        assert found(runs)[Kind.half] == ["trials/t/checkpoints/.part-00000300-1"]

    def test_a_live_claim_protects_everything_and_a_dead_one_goes(self, runs: Path) -> None:
        folder = trial(runs, "t", State.running, State.completed)
        age(write(folder / ".model.safetensors.999999999"))
        holder = Holder(folder)
        assert found(runs, trials=True) == {}
        holder.kill()
        assert found(runs) == {
            Kind.checkpoint: ["trials/t/checkpoints"],
            Kind.claim: ["trials/t/claim.0"],
            Kind.temporary: ["trials/t/.model.safetensors.999999999"],
        }
        assert remove(runs, plan_garbage(runs))[1] == []
        assert not list(folder.glob("claim.*"))
        assert not list(folder.glob(".*"))

    def test_a_claim_of_another_machine_protects_while_it_beats(self, runs: Path) -> None:
        path = write(trial(runs, "t", State.running) / "claim.4", '{"host": "elsewhere", "pid": 1, "born": "1"}')
        assert found(runs) == {}
        past = time.time() - claim.STALE_SECONDS - 1
        os.utime(path, (past, past))
        assert found(runs)[Kind.claim] == ["trials/t/claim.4"]

    def test_a_trial_that_was_taken_since_the_plan_is_left(self, runs: Path) -> None:
        folder = trial(runs, "t", State.preempted)
        trial(runs, "u", State.preempted)
        plan = plan_garbage(runs)
        before = everything(folder)
        with claimed(folder):
            gone, failed = remove(runs, plan)
            assert {waste.path.parts[-3] for waste in gone} == {"u"}
        assert failed == []
        assert everything(folder) == before

    def test_what_came_after_the_plan_was_shown_is_not_removed(self, runs: Path) -> None:
        trial(runs, "t", State.preempted)
        plan = plan_garbage(runs)
        trial(runs, "later", State.running, State.completed)
        remove(runs, plan)
        assert (runs / "trials/later/checkpoints").exists()


class TestTemporaryFiles:
    @pytest.mark.parametrize("place", ["", "studies/ask/", "trials/t/", "submissions/a/", "timings/"])
    def test_old_ones_of_dead_processes_go_wherever_they_lie(self, runs: Path, place: str) -> None:
        trial(runs, "t")
        submission(runs, "a", "t")
        path = write(runs / f"{place}.study.json.999999999")
        assert found(runs) == {}  # it may just be being written, on another machine
        age(path)
        assert found(runs) == {Kind.temporary: [f"{place}.study.json.999999999"]}
        remove(runs, plan_garbage(runs))
        assert not path.exists()

    def test_those_of_live_processes_and_other_hidden_files_stay(self, runs: Path) -> None:
        for name in (f".study.json.{os.getpid()}", ".mlflow.lock", ".submitit/1.txt"):
            age(write(runs / name))
        assert found(runs) == {}

    def test_a_removal_that_was_interrupted_is_finished_by_the_next(self, runs: Path) -> None:
        age(write(runs / "trials/.t.999999999/model.safetensors").parent)
        assert found(runs) == {Kind.temporary: ["trials/.t.999999999"]}
        remove(runs, plan_garbage(runs))
        assert everything(runs) == [runs / "trials"]


class TestSubmissions:
    def test_one_whose_trials_ended_goes(self, runs: Path) -> None:
        trial(runs, "a", State.completed)
        trial(runs, "b", State.failed)
        folder = submission(runs, "token", "a", "b")
        assert found(runs)[Kind.submission] == ["submissions/token"]
        remove(runs, plan_garbage(runs))
        assert not folder.exists()

    @pytest.mark.parametrize("state", [State.planned, State.queued, State.preempted, State.running])
    def test_one_with_a_trial_to_run_stays(self, runs: Path, state: State) -> None:
        trial(runs, "a", State.completed)
        trial(runs, "b", *([] if state is State.planned else [state]))
        submission(runs, "token", "a", "b")
        assert Kind.submission not in found(runs)

    def test_one_made_to_run_a_failed_trial_again_stays(self, runs: Path) -> None:
        trial(runs, "a", State.failed)
        submission(runs, "token", "a", created=time.time() + 1)
        assert Kind.submission not in found(runs)

    def test_one_whose_follower_is_yet_to_launch_the_chosen_cells_stays(self, runs: Path) -> None:
        trial(runs, "a", State.completed)
        submission(runs, "token", "a", follower="17")
        study(runs, tuning={"1e-3": {0: "a"}})
        assert Kind.submission not in found(runs)
        study(runs, "a")
        assert found(runs)[Kind.submission] == ["submissions/token"]

    def test_one_that_was_just_touched_stays(self, runs: Path) -> None:
        trial(runs, "a", State.completed)
        write(submission(runs, "token", "a") / "logs/1.out")
        assert Kind.submission not in found(runs)

    def test_a_launcher_that_beats_protects_it_and_a_dead_one_does_not(self, runs: Path) -> None:
        trial(runs, "a", State.completed)
        folder = submission(runs, "token", "a")
        holder = Holder(folder)
        age(folder / "submission.json")
        assert Kind.submission not in found(runs)
        assert Kind.claim not in found(runs)
        holder.kill()
        age(folder)
        assert found(runs)[Kind.submission] == ["submissions/token"]


@pytest.mark.usefixtures("settled")
class TestSnapshots:
    def snapshot(self, runs: Path, digest: str) -> None:
        write(runs / "snapshots" / digest / "launch.py")
        for kind in ("patch", "json"):
            write(runs / "snapshots" / f"{digest}.{kind}")

    def test_one_that_nothing_names_goes_with_its_patch(self, runs: Path) -> None:
        trial(runs, "t", State.preempted, snapshot="named")
        submission(runs, "token", "t", snapshot="submitted")
        for digest in ("named", "submitted", "orphan"):
            self.snapshot(runs, digest)
        assert found(runs)[Kind.snapshot] == [f"snapshots/orphan{end}" for end in ENDS]
        remove(runs, plan_garbage(runs))
        kept = {f"{digest}{end}" for digest in ("named", "submitted") for end in ENDS}
        assert {path.name for path in (runs / "snapshots").iterdir()} == kept

    def test_a_finished_submission_keeps_none(self, runs: Path) -> None:
        trial(runs, "t", State.completed)
        submission(runs, "token", "t", snapshot="s")
        self.snapshot(runs, "s")
        assert Kind.snapshot in found(runs)

    def test_a_resumed_trial_keeps_both_that_it_ran_with(self, runs: Path) -> None:
        folder = trial(runs, "t", State.preempted, snapshot="first")
        write(folder / "provenance-resumed.json", json.dumps({"snapshot": "second"}))
        for digest in ("first", "second"):
            self.snapshot(runs, digest)
        assert Kind.snapshot not in found(runs)

    def test_a_fresh_one_stays_even_if_its_files_are_old(self, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.snapshot(runs, "orphan")
        age(runs / "snapshots")
        monkeypatch.setattr(garbage, "SETTLED_SECONDS", 60.0)
        assert found(runs) == {}

    @pytest.mark.parametrize("torn", ["trials/t/provenance.json", "submissions/token/submission.json"])
    def test_while_something_cannot_be_read_all_stay(self, runs: Path, torn: str) -> None:
        trial(runs, "t", State.preempted)
        submission(runs, "token", "t")
        self.snapshot(runs, "orphan")
        write(runs / torn, '{"snapsh')
        assert Kind.snapshot not in found(runs)
        assert any(str(runs / torn) in line for line in plan_garbage(runs).kept)

    def test_a_run_directory_that_goes_takes_its_snapshot_with_it(self, runs: Path) -> None:
        trial(runs, "t", State.completed, snapshot="s")
        self.snapshot(runs, "s")
        assert Kind.snapshot not in found(runs)
        assert found(runs, trials=True) == {
            Kind.trial: ["trials/t"],
            Kind.snapshot: [f"snapshots/s{end}" for end in ENDS],
        }


class TestUnnamedTrials:
    def test_they_stay_unless_asked_for(self, runs: Path) -> None:
        study(runs, "named", tuning={"1e-3": {0: "tried"}})
        for name in ("named", "tried", "other"):
            trial(runs, name, State.completed)
        assert Kind.trial not in found(runs)
        assert found(runs, trials=True)[Kind.trial] == ["trials/other"]
        remove(runs, plan_garbage(runs, trials=True), trials=True)
        assert {path.name for path in (runs / "trials").iterdir()} == {"named", "tried"}

    @pytest.mark.parametrize("state", [State.preempted, State.queued, State.running])
    def test_those_that_could_be_resumed_stay_and_are_told(self, runs: Path, state: State) -> None:
        trial(runs, "other", state)
        plan = plan_garbage(runs, trials=True)
        assert Kind.trial not in {waste.kind for waste in plan.waste}
        assert "1 trial of no study can still be resumed" in plan.kept[0]

    def test_a_planned_one_goes_once_no_submission_waits_for_it(self, runs: Path) -> None:
        age(trial(runs, "other"))
        folder = submission(runs, "token", "other")
        assert Kind.trial not in found(runs, trials=True)
        (folder / "submission.json").unlink()
        folder.rmdir()
        assert found(runs, trials=True)[Kind.trial] == ["trials/other"]

    def test_a_study_that_cannot_be_read_keeps_them_all(self, runs: Path) -> None:
        trial(runs, "other", State.completed)
        write(runs / "studies/ask/study.json", "{")
        assert Kind.trial not in found(runs, trials=True)

    @pytest.mark.usefixtures("settled")
    def test_a_run_directory_that_is_a_link_stays_with_what_it_names(self, runs: Path, tmp_path: Path) -> None:
        elsewhere = trial(tmp_path / "elsewhere", "other", State.completed, snapshot="s")
        write(runs / "snapshots/s/launch.py")
        (runs / "trials").mkdir()
        (runs / "trials/other").symlink_to(elsewhere)
        assert found(runs, trials=True) == {Kind.checkpoint: ["trials/other/checkpoints"]}
        submission(runs, "token", "other")
        elsewhere.rename(tmp_path / "unmounted")
        assert found(runs, trials=True) == {}


def test_a_folder_that_is_not_there_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such folder"):
        plan_garbage(tmp_path / "nothing")
