"""Studies launched for real: submitit workers, journals, MLflow, interruptions."""

import json
import signal
from pathlib import Path

import pytest
from safetensors.torch import load_file

from deltalab.dispatch.launch import plan_study
from deltalab.spec.study_file import read_study
from deltalab.study import ledger, submissions
from deltalab.track import journal
from deltalab.track.journal import State
from tests.dispatch.launching import INLINE, LOCAL, PATIENCE, QUIET, Desk, frozen, kill
from tests.specs import TWO_CELLS

pytestmark = pytest.mark.slow
LONG = ("train.steps=300", "train.batch_size=8", "model.depth=1", "train.checkpoint_every=50", "train.log_every=1")


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def weights(desk: Desk) -> dict[str, dict[str, list[float]]]:
    """Every trial's final weights, as bits."""
    found = {}
    for trial in desk.trials():
        tensors = load_file(ledger.trial_dir(desk.runs, trial) / "model.safetensors")
        found[trial] = {name: tensor.flatten().tolist() for name, tensor in tensors.items()}
    return found


def test_a_study_runs_is_shown_and_is_not_run_twice(desk: Desk) -> None:
    path = desk.study(TWO_CELLS)
    first = desk.launch("-m", f"study={path}", *LOCAL, QUIET)
    assert first.returncode == 0, first.stderr
    assert desk.states() == [State.completed] * 4
    assert "4 trials over seeds 0, 1: 4 would run" in first.stdout
    assert first.stdout.count("✓") == 4
    assert "ask: 4 completed in" in first.stdout
    before = {trial: (ledger.trial_dir(desk.runs, trial) / journal.FILE).read_bytes() for trial in desk.trials()}
    second = desk.launch("-m", f"study={path}", *LOCAL, QUIET)
    assert second.returncode == 0
    assert "nothing to run" in second.stdout
    after = {trial: (ledger.trial_dir(desk.runs, trial) / journal.FILE).read_bytes() for trial in desk.trials()}
    assert before == after
    assert not list(desk.runs.glob("submissions/*/logs/*"))
    assert not list(desk.runs.glob("submissions/*/claim*"))


def test_an_ordinary_multirun_runs_every_combination(desk: Desk) -> None:
    done = desk.launch(
        "-m", "variant=delta_net,kda", "seed=0,1", "train=smoke", "train.steps=3", "eval.sequences=8", *INLINE, QUIET
    )
    assert done.returncode == 0, done.stderr
    (name,) = ledger.list_studies(desk.runs)
    record = ledger.read_study(desk.runs, name)
    assert [cell.levels for cell in record.cells] == [{"variant": "delta_net"}, {"variant": "kda"}]
    assert [list(cell.trials) for cell in record.cells] == [[0, 1], [0, 1]]
    assert desk.states(name) == [State.completed] * 4


def test_a_single_trial_runs_in_this_process(desk: Desk) -> None:
    done = desk.launch("variant=kda", "seed=3", "train=smoke", "eval.sequences=8", "hydra.launcher.threads=1", QUIET)
    assert done.returncode == 0, done.stderr
    (cell,) = ledger.read_study(desk.runs, "single").cells
    assert list(cell.trials) == [3]
    assert cell.levels == {"variant": "kda"}
    assert desk.states("single") == [State.completed]
    assert not list(desk.runs.glob("submissions/*/logs"))


@pytest.mark.parametrize(
    "launcher", [("hydra/launcher=local", "hydra.launcher.trials_per_job=2"), ("hydra/launcher=inline",)], ids=" ".join
)
def test_a_failed_trial_is_shown_with_its_log_and_the_others_go_on(desk: Desk, launcher: tuple[str, ...]) -> None:
    path = desk.study(TWO_CELLS)
    plan = plan_study(read_study(Path(path)), {"train.steps": "2"}, desk.runs)
    victim = ledger.trial_dir(desk.runs, plan.cells[0].trials[1])
    (victim / "model.safetensors").mkdir(parents=True)  # final weights cannot be written here
    arguments = ("-m", f"study={path}", *launcher, "hydra.launcher.threads=1", QUIET, "train.steps=2")
    broken = desk.launch(*arguments)
    assert broken.returncode == 1
    assert "✗ variant=gated_delta_net_2 seed=1: failed: " in broken.stdout
    assert str(victim / "log.txt") in broken.stdout
    assert "Traceback" in (victim / "log.txt").read_text()
    assert desk.states() == [State.completed, State.failed, State.completed, State.completed]
    again = desk.launch(*arguments)
    assert again.returncode == 1
    assert "retry_failed=true" in again.stdout
    (victim / "model.safetensors").rmdir()
    retried = desk.launch(*arguments, "hydra.launcher.retry_failed=true")
    assert retried.returncode == 0
    assert desk.states() == [State.completed] * 4


BROKEN_TORCH = """import sys, types
class Broken:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            {act}
sys.meta_path.insert(0, Broken())
"""
"""A sitecustomize.py with which torch cannot be imported."""
TUNED = "tune: {key: train.lr, grid: [1e-3, 3e-3], seeds: [7]}\n"


def test_trials_that_cannot_begin_fail_and_are_not_begun_over_and_over(desk: Desk) -> None:
    (desk.folder / "sitecustomize.py").write_text(BROKEN_TORCH.format(act='raise ModuleNotFoundError("no torch here")'))
    desk.env["PYTHONPATH"] = str(desk.folder)
    path = desk.study(TWO_CELLS.replace("[0, 1]", "[0]") + TUNED)
    said = desk.launch("-m", f"study={path}", *LOCAL, QUIET, "train.steps=2")
    assert said.returncode == 1
    assert said.stdout.count("seed=7: failed: ModuleNotFoundError: no torch here") == 4
    again = desk.launch("-m", f"study={path}", *LOCAL, QUIET, "train.steps=2")
    assert again.returncode == 1
    assert "retry_failed=true" in again.stdout
    (desk.folder / "sitecustomize.py").unlink()
    mended = desk.launch("-m", f"study={path}", *LOCAL, QUIET, "train.steps=2", "hydra.launcher.retry_failed=true")
    assert mended.returncode == 0
    assert set(desk.states()) == {State.completed}
    cells = ledger.read_study(desk.runs, "ask").cells
    whole = {trial for cell in cells for _, trial in cell.named_trials()}
    last = [journal.read(ledger.trial_dir(desk.runs, trial)).submission for trial in whole]
    assert len(set(last)) == 1, "compared trials join the running pool"
    submission = submissions.read(submissions.folder_of(desk.runs, last[0] or ""))
    assert {trial for task in submission.tasks for trial in task} == whole


def test_tuning_that_dies_ends_the_launch(desk: Desk) -> None:
    (desk.folder / "sitecustomize.py").write_text(BROKEN_TORCH.format(act="import os; os._exit(9)"))
    desk.env["PYTHONPATH"] = str(desk.folder)
    path = desk.study(TWO_CELLS + TUNED)
    said = desk.launch("-m", f"study={path}", *LOCAL, QUIET, "train.steps=2")
    assert said.returncode == 1
    assert said.stdout.count("planned: it did not run to its end; log ") == 4
    assert "seed=0" not in said.stdout, "nothing was chosen"


@pytest.mark.faults
def test_ctrl_c_checkpoints_leaves_nothing_behind_and_the_next_launch_continues(desk: Desk, tmp_path: Path) -> None:
    arguments = ("-m", f"study={desk.study(TWO_CELLS)}", *LOCAL, QUIET, *LONG)
    process = desk.start(*arguments)
    desk.until(lambda: len(desk.running()) == 2)
    said = desk.end(process, signal.SIGINT)
    assert process.returncode == 130, said
    assert "nothing is lost" in said
    assert "  2 trials did not start\n" in said
    assert "it did not run to its end" not in said
    assert desk.workers() == []
    assert desk.states().count(State.preempted) == 2
    for trial, state in zip(desk.trials(), desk.states(), strict=True):
        if state is State.preempted:
            assert list((ledger.trial_dir(desk.runs, trial) / "checkpoints").glob("step-*"))
            assert not list(ledger.trial_dir(desk.runs, trial).glob("claim*"))
    done = desk.launch(*arguments, "hydra.launcher.trials_per_job=2")
    assert done.returncode == 0, done.stdout
    other = Desk(tmp_path / "other")
    other.folder.mkdir()
    whole = other.launch("-m", f"study={other.study(TWO_CELLS)}", *INLINE, QUIET, *LONG)
    assert whole.returncode == 0
    assert weights(desk) == weights(other)


@pytest.mark.faults
def test_a_killed_worker_is_replaced_and_a_killed_launcher_is_followed(desk: Desk) -> None:
    arguments = ("-m", f"study={desk.study(TWO_CELLS)}", *LOCAL, QUIET, *LONG)
    process = desk.start(*arguments)
    desk.until(lambda: len(desk.running()) == 2)
    killed = desk.running()
    for pid in desk.workers():
        kill(pid)
    desk.until(lambda: bool(desk.running() - killed))
    with frozen(desk.workers("submitit.core._submit")):  # or they may be done before the next launch looks
        desk.end(process, signal.SIGKILL, group=False)  # its workers go on
        following = desk.start(*arguments, to="second.txt")
        said = desk.folder / "second.txt"
        desk.until(lambda: "in another process; following" in said.read_text())
    assert following.wait(PATIENCE) == 0, said.read_text()
    assert desk.states() == [State.completed] * 4


def test_divergence_is_a_result(desk: Desk) -> None:
    done = desk.launch("-m", f"study={desk.study(TWO_CELLS)}", *INLINE, QUIET, "train.loss_bound=0.01")
    assert done.returncode == 0, done.stdout
    assert desk.states() == [State.diverged] * 4
    assert "✗ variant=gated_delta_net_2 seed=0: diverged: loss" in done.stdout


def test_another_launch_of_the_same_study_follows_the_first_to_its_end(desk: Desk) -> None:
    path = desk.study(TWO_CELLS)
    arguments = ("-m", f"study={path}", *LOCAL, QUIET, *LONG, "hydra.launcher.trials_per_job=2")
    first = desk.start(*arguments)
    desk.until(lambda: len(desk.running()) >= 1)
    second = desk.launch(*arguments)
    first.wait(timeout=60)
    assert first.returncode == second.returncode == 0
    assert desk.states() == [State.completed] * 4
    for trial in desk.trials():
        lines, _ = journal.entries(ledger.trial_dir(desk.runs, trial))
        assert [line["state"] for line in lines if line["event"] == "state"] == ["queued", "running", "completed"]


def test_a_launch_that_asks_for_other_trials_says_so(desk: Desk) -> None:
    path = desk.study(TWO_CELLS)
    desk.launch("-m", f"study={path}", *INLINE, QUIET, "train.steps=2")
    again = desk.launch("-m", f"study={path}", *INLINE, QUIET, "train.steps=3")
    assert "An earlier launch of ask asked for 4 other trials, kept" in again.stdout
    assert len(list((desk.runs / "trials").iterdir())) == 8


def test_status_says_what_is_there(desk: Desk) -> None:
    nothing = desk.deltalab("status")
    assert nothing.returncode == 2
    assert len(nothing.stderr.strip().splitlines()) == 1
    desk.launch("-m", f"study={desk.study(TWO_CELLS)}", *INLINE, QUIET, "train.steps=2")
    table = desk.deltalab("status")
    assert "ask: 4 trials, 4 completed" in table.stdout
    plain = json.loads(desk.deltalab("status", "ask", "--json").stdout)
    assert [trial["trial"] for trial in plain["trials"]] == desk.trials()
    assert all("eval/accuracy" in trial["metrics"] for trial in plain["trials"])
    missing = desk.deltalab("status", "other")
    assert missing.returncode == 2
    assert "launched: ask" in missing.stderr


def test_the_plan_is_shown_without_anything_written(desk: Desk) -> None:
    path = desk.study(TWO_CELLS)
    for done in (desk.deltalab("plan", path, "train.steps=7"), desk.launch("-m", f"study={path}", "plan=true")):
        assert done.returncode == 0, done.stderr
        assert "4 trials over seeds 0, 1: 4 would run" in done.stdout
        assert "gated_delta_net_2_wide" in done.stdout
    assert not (desk.runs / "trials").exists()
    assert not (desk.runs / "studies").exists()


def test_a_runs_folder_that_cannot_be_written_is_one_line(desk: Desk) -> None:
    desk.runs.write_text("a file")
    arguments = ("-m", f"study={desk.study(TWO_CELLS)}", QUIET)
    for runs, why in ((desk.runs, "File exists"), ("/proc/runs", "No such file or directory")):
        done = desk.launch(*arguments, f"runs={runs}")
        assert done.returncode == 1
        assert done.stderr == (
            f"deltalab: runs={runs}: cannot be written ({why}); name another with runs= or DELTALAB_RUNS\n"
        )
