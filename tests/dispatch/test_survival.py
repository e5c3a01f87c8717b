"""What may happen to a study that runs: full disks, deleted folders, two launches, edits, cancelling, a dead server."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deltalab.study import ledger
from deltalab.track.claim import STALE_SECONDS
from deltalab.track.journal import State
from tests.dispatch.launching import (
    LOCAL,
    PATIENCE,
    QUIET,
    Desk,
    Results,
    copy_checkout,
    differing,
    executions,
    frozen,
    kill,
    results,
    states_told,
)

pytestmark = pytest.mark.faults

STUDY = """
question: does it survive?
baseline: {variant: delta_net}
factors: {variant: [delta_net, kda]}
seeds: [0]
overrides:
  {train: smoke, train.steps: 100, train.batch_size: 8, train.log_every: 1, train.checkpoint_every: 10,
   eval.sequences: 8, model.depth: 1, model.mlp_width: 16}
metrics: {eval/accuracy: max, eval/loss: min}
"""
MORE_SEEDS = "seed=0,1"
SPARSE = ("train.log_every=50",)
"""More checkpoints than lines in the journal."""


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    desk.clear()


@pytest.fixture
def editing(tmp_path: Path) -> Iterator[Desk]:
    """A desk with a checkout of its own, which nobody edits but the test."""
    desk = Desk(tmp_path, root=copy_checkout(tmp_path / "checkout"))
    yield desk
    desk.clear()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """What trials of the study come to when nothing happens."""
    desk = Desk(tmp_path_factory.mktemp("undisturbed"))
    done = desk.launch(*command(desk, "hydra/launcher=inline", MORE_SEEDS))
    assert done.returncode == 0, done.stdout
    return results(desk.runs, desk.trials())


def command(desk: Desk, *more: str) -> tuple[str, ...]:
    """Arguments that launch the study."""
    return ("-m", f"study={desk.study(STUDY)}", "hydra/launcher=local", *LOCAL, QUIET, *more)


def said(desk: Desk, file: str = "said.txt") -> str:
    return (desk.folder / file).read_text()


def folder(desk: Desk, trial: str) -> Path:
    return ledger.trial_dir(desk.runs, trial)


def recorded(desk: Desk) -> bool:
    return bool(ledger.list_studies(desk.runs))


def finish(desk: Desk, *more: str) -> None:
    """The same command once more, which must end well."""
    done = desk.launch(*command(desk, *more))
    assert done.returncode == 0, done.stdout + done.stderr
    assert desk.states() == [State.completed] * 2
    assert desk.workers() == []


def assert_equal(desk: Desk, undisturbed: Results) -> None:
    """Weights and metrics are those of trials that nothing happened to."""
    assert differing(results(desk.runs, desk.trials()), undisturbed) == []


def remove(path: Path) -> None:
    """Delete a folder that others still write into."""
    while path.exists():
        shutil.rmtree(path, ignore_errors=True)


def training(desk: Desk) -> str:
    """A trial that has a checkpoint and runs on."""
    desk.until(lambda: any(desk.runs.glob("trials/*/checkpoints/step-*")))
    return next(desk.runs.glob("trials/*/checkpoints/step-*")).parents[1].name


class TestDisk:
    @pytest.fixture
    def small(self, desk: Desk) -> Iterator[Desk]:
        """A runs folder with a disk of its own."""
        desk.runs.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(desk.runs)]
        if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("mounting a file system is not allowed here")
        yield desk
        subprocess.run(["umount", "--lazy", str(desk.runs)], check=True)

    def test_a_full_disk_is_one_line_and_the_study_goes_on_once_there_is_room(
        self, small: Desk, undisturbed: Results
    ) -> None:
        process = small.start(*command(small))
        small.until(lambda: bool(small.running()))
        filler = small.runs / "filler"
        end = time.monotonic() + PATIENCE
        with filler.open("ab", buffering=0) as file:
            while process.poll() is None:
                assert time.monotonic() < end, said(small)
                with contextlib.suppress(OSError):
                    file.write(b"x" * 4096)
                    continue
                time.sleep(0.02)
        assert process.returncode == 1
        about = [line for line in said(small).splitlines() if "No space left" in line or "no space left" in line]
        assert len(about) == 1
        assert str(small.runs) in about[0]
        assert "Traceback" not in said(small)
        assert State.failed not in small.states()
        assert State.completed not in small.states()
        small.until(lambda: not small.workers())
        filler.unlink()
        finish(small)
        assert_equal(small, undisturbed)


class TestDeletedFolders:
    """A run directory deleted under a launch: its trial starts anew, from nothing."""

    def test_of_a_trial_that_waits(self, desk: Desk, undisturbed: Results) -> None:
        process = desk.start(*command(desk, "hydra.launcher.workers=1"))
        desk.until(lambda: bool(desk.running()))
        remove(folder(desk, desk.trials()[-1]))
        assert process.wait(PATIENCE) == 0, said(desk)
        assert desk.states() == [State.completed] * 2
        assert_equal(desk, undisturbed)

    @pytest.mark.parametrize("how", [(), SPARSE], ids=["often journaled", "seldom journaled"])
    def test_of_a_trial_that_runs(self, desk: Desk, undisturbed: Results, how: tuple[str, ...]) -> None:
        process = desk.start(*command(desk, *how))
        victim = training(desk)
        remove(folder(desk, victim))
        assert process.wait(PATIENCE) == 0, said(desk)
        assert desk.states() == [State.completed] * 2
        (steps,) = executions(folder(desk, victim))
        assert steps[0] == 1
        if not how:
            assert_equal(desk, undisturbed)

    def test_of_a_trial_that_is_launched_again_before_its_worker_notices(
        self, desk: Desk, undisturbed: Results
    ) -> None:
        launches = [desk.start(*command(desk))]
        victim = training(desk)
        with frozen(desk.workers("submitit.core._submit")):
            remove(folder(desk, victim))
            launches.append(desk.start(*command(desk), to="second.txt"))
            desk.until(lambda: victim in desk.running())
        assert [launch.wait(PATIENCE) for launch in launches] == [0, 0], said(desk) + said(desk, "second.txt")
        (steps,) = executions(folder(desk, victim))
        assert steps == list(range(1, steps[-1] + 1))
        assert states_told(folder(desk, victim)).count(State.completed.value) == 1
        assert_equal(desk, undisturbed)


class TestLaunches:
    def test_two_people_launch_at_the_same_moment(self, desk: Desk, undisturbed: Results) -> None:
        both = [desk.start(*command(desk, MORE_SEEDS), to=f"said-{person}.txt") for person in range(2)]
        for person, process in enumerate(both):
            assert process.wait(PATIENCE) == 0, said(desk, f"said-{person}.txt")
        assert len(desk.trials()) == 4
        for trial in desk.trials():
            told = [state for state in states_told(folder(desk, trial)) if state != State.queued.value]
            assert told == [State.running.value, State.completed.value]
        assert_equal(desk, undisturbed)

    def test_the_launcher_is_killed_before_it_starts_workers(self, desk: Desk, undisturbed: Results) -> None:
        process = desk.start(*command(desk))
        while not list(desk.runs.glob("submissions/*/submission.json")):
            assert process.poll() is None, said(desk)
            time.sleep(0.001)
        desk.end(process, signal.SIGKILL, group=False)
        assert desk.workers() == []
        finish(desk)
        assert_equal(desk, undisturbed)
        for trial in desk.trials():
            assert states_told(folder(desk, trial)).count(State.running.value) == 1

    def test_a_killed_worker_is_replaced_at_once(self, desk: Desk) -> None:
        desk.start(*command(desk, "hydra.launcher.workers=1"))
        desk.until(lambda: bool(desk.running()))
        parents = desk.workers("submitit.local._local")
        for pid in desk.workers("submitit.core._submit"):
            kill(pid)
        killed = time.monotonic()
        desk.until(lambda: bool(set(desk.workers("submitit.local._local")) - set(parents)))
        assert time.monotonic() - killed < 10

    def test_workers_of_a_killed_launcher_and_of_the_next_one_meet_at_the_same_trials(
        self, desk: Desk, undisturbed: Results
    ) -> None:
        arguments = command(desk, "hydra.launcher.workers=1", MORE_SEEDS)
        process = desk.start(*arguments)
        desk.until(lambda: recorded(desk))
        first, second, *_ = desk.trials()
        desk.until(lambda: ledger.record_of(desk.runs, first).step > 60)
        with frozen(desk.workers("submitit.core._submit")):
            assert ledger.state_of(desk.runs, first) is State.running
            desk.end(process, signal.SIGKILL, group=False)
            process = desk.start(*arguments)
            desk.until(lambda: second in desk.running())
        assert process.wait(PATIENCE) == 0, said(desk)
        for trial in desk.trials():
            assert executions(folder(desk, trial)) == [list(range(1, 101))]
            assert states_told(folder(desk, trial)).count(State.completed.value) == 1
        assert_equal(desk, undisturbed)

    def test_a_worker_that_wakes_up_after_another_took_its_trial_over_leaves_it_alone(
        self, desk: Desk, undisturbed: Results
    ) -> None:
        launches = [desk.start(*command(desk, "hydra.launcher.workers=1"))]
        victim = training(desk)
        with frozen(desk.workers("submitit.core._submit")):
            long_ago = time.time() - 2 * STALE_SECONDS
            for claim in folder(desk, victim).glob("claim.*"):
                os.utime(claim, (long_ago, long_ago))
            launches.append(desk.start(*command(desk), to="second.txt"))
            desk.until(lambda: len(executions(folder(desk, victim))) == 2 and victim in desk.running())
        assert [launch.wait(PATIENCE) for launch in launches] == [0, 0], said(desk) + said(desk, "second.txt")
        before, after = executions(folder(desk, victim))
        assert before == list(range(1, before[-1] + 1))
        assert after == list(range(after[0], after[-1] + 1))
        told = states_told(folder(desk, victim))
        assert told[-1] == State.completed.value
        assert set(told[:-1]) == {State.queued.value, State.running.value}
        assert_equal(desk, undisturbed)

    def test_an_unreachable_mlflow_stops_nothing(self, desk: Desk, undisturbed: Results) -> None:
        desk.env["MLFLOW_TRACKING_URI"] = "http://127.0.0.1:9"
        done = desk.launch(*(part for part in command(desk) if part != QUIET))
        assert done.returncode == 0, done.stderr
        assert "MLflow was not brought up to date" in done.stdout
        assert "deltalab sync ask" in done.stdout
        assert_equal(desk, undisturbed)


class TestEditedCode:
    """A checkout that is edited while trials wait."""

    @staticmethod
    def edit(desk: Desk, line: str) -> None:
        path = desk.root / "src/deltalab/train/loop.py"
        path.write_text(f"{path.read_text()}\n{line}\n")

    def test_changes_nothing_for_them_and_is_said_later(self, editing: Desk, undisturbed: Results) -> None:
        process = editing.start(*command(editing, "hydra.launcher.workers=1", "hydra.launcher.trials_per_job=1"))
        editing.until(lambda: bool(editing.running()))
        self.edit(editing, "raise RuntimeError('half an edit')")
        assert process.wait(PATIENCE) == 0, said(editing)
        assert_equal(editing, undisturbed)
        again = editing.launch(*command(editing))
        assert again.returncode == 0
        assert "2 trials ran other code than today's: src/deltalab/train/loop.py changed since" in again.stdout

    def test_makes_retry_ask_which_code(self, editing: Desk, undisturbed: Results) -> None:
        process = editing.start(*command(editing))
        editing.until(lambda: recorded(editing))
        editing.end(process, signal.SIGKILL)
        for pid in editing.workers():
            kill(pid)
        self.edit(editing, "print('this is the edited code')")
        first, second = editing.trials()
        asked = editing.deltalab("retry", first)
        assert asked.returncode == 2
        assert re.fullmatch(r"deltalab: .*src/deltalab/train/loop\.py changed.*--code.*\n", asked.stderr)
        for trial, code, edited in ((first, "submitted", False), (second, "current", True)):
            done = editing.deltalab("retry", trial, "--code", code)
            assert done.returncode == 0, done.stdout + done.stderr
            log = editing.deltalab("logs", trial)
            assert log.returncode == 0, log.stderr
            assert ("this is the edited code" in log.stdout) == edited
            assert differing(results(editing.runs, [trial]), undisturbed) == []


class TestSteering:
    LONG, SHORT = 900, 30

    def jobs(self, *more: str) -> tuple[str, ...]:
        """A multirun of a trial that lives for many heartbeats and one that waits for it."""
        steps = f"train.steps={self.LONG},{self.SHORT}"
        shape = ("train=smoke", "train.batch_size=8", "eval.sequences=8", "model.depth=1", "model.mlp_width=16")
        return ("-m", steps, "seed=0", *shape, "hydra.launcher.workers=1", "hydra.launcher.threads=1", QUIET, *more)

    def test_cancel_and_retry(self, editing: Desk) -> None:
        desk, calm = editing, Desk(editing.folder / "calm", editing.root)
        calm.folder.mkdir()
        process = desk.start(*self.jobs())
        desk.until(lambda: recorded(desk))
        (name,) = ledger.list_studies(desk.runs)
        running, queued = desk.trials(name)
        desk.until(lambda: ledger.record_of(desk.runs, running).step > 0)
        cancelled = desk.deltalab("cancel", running, queued)
        assert cancelled.returncode == 0, cancelled.stderr
        assert "1 cancelled, 1 running, asked to checkpoint and stop" in cancelled.stdout
        undisturbed = calm.start(*self.jobs("hydra/launcher=inline"))
        assert process.wait(PATIENCE) == 1
        assert desk.states(name) == [State.cancelled] * 2
        assert desk.workers() == []
        assert list(folder(desk, running).glob("checkpoints/step-*"))
        assert executions(folder(desk, queued)) == []
        again = desk.launch(*self.jobs())
        assert again.returncode == 1
        assert desk.states(name) == [State.cancelled] * 2
        for trial in (running, queued):
            retried = desk.deltalab("retry", trial)
            assert retried.returncode == 0, retried.stdout + retried.stderr
        assert undisturbed.wait(PATIENCE) == 0
        both = (running, queued)
        assert differing(results(desk.runs, both), results(calm.runs, both)) == []

    def test_naming_and_logs(self, desk: Desk) -> None:
        process = desk.start(*command(desk))
        desk.until(lambda: recorded(desk))
        victim = desk.trials()[1]
        (folder(desk, victim) / "model.safetensors").mkdir()  # final weights cannot be written here
        following = desk.start_deltalab("logs", "-f", victim, to="log.txt")
        assert process.wait(PATIENCE) == 1
        assert following.wait(PATIENCE) == 0
        log = desk.deltalab("logs", "variant=kda seed=0")
        assert "Traceback" in log.stdout
        assert said(desk, "log.txt") == log.stdout == (folder(desk, victim) / "log.txt").read_text()
        assert desk.deltalab("logs", victim[:-3]).stdout == log.stdout
        (desk.runs / "trials" / f"{victim[:4]}another").mkdir()
        for text, said_of_it in ((victim[:4], "2 trials begin so"), ("seed=0", "names 2 trials")):
            refused = desk.deltalab("logs", text)
            assert refused.returncode == 2
            assert len(refused.stderr.splitlines()) == 1
            assert said_of_it in refused.stderr
