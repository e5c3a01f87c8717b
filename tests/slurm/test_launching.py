"""Studies as arrays: what is submitted, what a launch says, and that nothing is submitted twice."""

import re
import shutil
import signal
import subprocess
import sys

import pytest

from deltalab.track.journal import State
from tests.dispatch.launching import copy_checkout
from tests.slurm.cluster import Job
from tests.slurm.desk import SLURM, TWO_TRIALS, SlurmDesk
from tests.slurm.together import together
from tests.specs import TWO_CELLS

pytestmark = pytest.mark.slurm
SIX_TRIALS = TWO_CELLS.replace("seeds: [0, 1]", "seeds: [0, 1, 2]")
HELD = "hydra.launcher.sbatch=[hold]"
TUNED = """
question: which variant is better, each at its own rate?
baseline: {variant: gated_delta_net_2}
factors: {variant: [gated_delta_net_2, gated_delta_net_2_wide]}
tune: {key: train.lr, grid: [1e-3, 3e-3], seeds: [0]}
seeds: [10]
overrides: {train: smoke, eval.sequences: 8, model.mlp_width: 16}
match: parameters
metrics: {eval/accuracy: max, eval/loss: min}
"""
ENDLESS_FIRST = """
question: does it hurt to stop early?
baseline: {train.steps: 1000000}
factors: {train.steps: [1000000, 20]}
seeds: [0]
overrides: {train: smoke, eval.sequences: 8, model.mlp_width: 16}
metrics: {eval/loss: min}
"""
ONCE = ["queued", "running", "completed"]


def release(desk: SlurmDesk) -> None:
    """Let the last array run."""
    desk.cluster.call("scontrol", "release", desk.jobs()[-1])


@together
def test_a_study_is_one_array_and_the_command_does_not_wait(desk: SlurmDesk) -> None:
    study = desk.study(TWO_CELLS)
    said = desk.submit(study, HELD)
    (job,) = desk.jobs()
    assert f"Submitted batch array {job}: 4 trials in 4 tasks" in said
    assert "deltalab status ask" in said
    assert desk.shown() == ["queued"] * 4
    assert sorted(desk.places().values()) == [f"{job}_{index}" for index in range(4)]
    assert "nothing to submit" in desk.submit(study)
    release(desk)
    desk.finish()
    assert desk.jobs() == [job]
    assert [desk.lines(trial) for trial in desk.trials()] == [ONCE] * 4
    assert [run.state for run in desk.cluster.sacct(job)] == ["COMPLETED"] * 4
    assert "nothing to submit" in desk.submit(study)
    assert desk.jobs() == [job]


@together
def test_an_array_is_split_at_what_the_cluster_takes(desk: SlurmDesk) -> None:
    said = desk.submit(desk.study(SIX_TRIALS), "hydra.launcher.array_parallelism=2")
    assert re.findall(r"Submitted batch array \d+: (\d) trials", said) == ["4", "2"]
    assert len(desk.jobs()) == 2
    desk.finish()
    assert [desk.lines(trial) for trial in desk.trials()] == [ONCE] * 6


@together
def test_several_trials_share_a_task(desk: SlurmDesk) -> None:
    said = desk.submit(desk.study(TWO_CELLS), "hydra.launcher.trials_per_job=3")
    (job,) = desk.jobs()
    assert f"Submitted batch array {job}: 4 trials in 2 tasks" in said
    desk.finish()
    assert [run.state for run in desk.cluster.sacct(job)] == ["COMPLETED"] * 2
    assert set(desk.journals().values()) == {State.completed}


@together
def test_a_limit_on_submitted_jobs_is_waited_for(desk: SlurmDesk) -> None:
    said = desk.submit(desk.study(TWO_CELLS), "hydra.launcher.qos=few", "hydra.launcher.patience_s=120")
    assert "QOSMaxSubmitJobPerUserLimit" in said
    assert "trying again" in " ".join(said.split())
    desk.finish()
    assert set(desk.journals().values()) == {State.completed}
    assert sum(len(desk.cluster.sacct(job)) for job in desk.jobs()) == 4


@together
def test_what_a_limit_leaves_out_is_submitted_by_the_next_launch(desk: SlurmDesk) -> None:
    held = [desk.cluster.sbatch("true", "--account=few", "--hold") for _ in range(2)]
    study, account = desk.study(TWO_TRIALS), "hydra.launcher.account=few"
    said = desk.submit(study, account, "hydra.launcher.patience_s=0", code=1)
    assert "AssocMaxSubmitJobLimit" in said or "the cluster takes no more jobs" in said
    assert "1 trial was not submitted" in said
    desk.finish()
    assert sorted(desk.shown()) == ["completed", "planned"]
    desk.cluster.call("scancel", *held)
    assert len(re.findall("Submitted batch array", desk.submit(study, account))) == 1
    desk.finish()
    assert set(desk.journals().values()) == {State.completed}


@together
def test_a_failing_trial_fails_its_job_with_the_traceback_in_both_logs(desk: SlurmDesk) -> None:
    desk.submit(desk.study(TWO_TRIALS), HELD)
    victim = desk.trials()[1]
    task = desk.places()[victim]
    (desk.dir(victim) / "model.safetensors").mkdir()  # final weights cannot be written here
    release(desk)
    desk.finish()
    assert desk.cluster.sacct(task) == [Job(task, "FAILED", "1:0")]
    assert list(desk.journals().values()) == [State.completed, State.failed]
    (log,) = desk.runs.glob(f"submissions/*/logs/{task}_*.out")
    assert "Traceback" in log.read_text()
    assert "Traceback" in desk.deltalab("logs", victim).stdout
    assert desk.shown()[1] == "failed"
    (desk.dir(victim) / "model.safetensors").rmdir()
    again = desk.deltalab("retry", victim, "--code", "submitted")
    assert again.returncode == 0, again.stderr
    release(desk)  # it was submitted as before, held
    desk.finish()
    assert set(desk.journals().values()) == {State.completed}


@together
def test_lines_of_setup_come_before_the_worker(desk: SlurmDesk) -> None:
    mark = desk.folder / "mark"
    desk.submit(desk.study(TWO_TRIALS), f"hydra.launcher.setup=['echo one >>{mark}','export A=1']")
    desk.finish()
    assert mark.read_text().split() == ["one"] * 2
    assert set(desk.journals().values()) == {State.completed}


@together
def test_what_waits_runs_the_code_and_configuration_it_was_submitted_with(desk: SlurmDesk) -> None:
    checkout = copy_checkout(desk.folder / "checkout")
    desk.env["PYTHONPATH"] = str(checkout / "src")
    study = desk.study(TWO_TRIALS)
    command = [sys.executable, str(checkout / "launch.py"), *SLURM, f"study={study}", HELD]
    subprocess.run(command, cwd=desk.folder, env=desk.env, check=True, capture_output=True, timeout=240)
    smoke = checkout / "conf/train/smoke.yaml"
    smoke.write_text(smoke.read_text().replace("lr: 0.003", "lr: 999"))
    for path in (checkout / "src/deltalab").rglob("*.py"):
        path.write_text("raise SystemExit('edited meanwhile')\n")
    release(desk)
    desk.finish()
    assert "edited meanwhile" not in desk.logs()
    other = SlurmDesk(desk.folder / "other", desk.cluster)
    other.folder.mkdir()
    other.submit(other.study(TWO_TRIALS))
    other.finish()
    assert desk.results() == other.results()


@together
def test_a_launch_killed_before_it_could_note_the_job_loses_and_repeats_nothing(desk: SlurmDesk) -> None:
    study = desk.study(TWO_TRIALS)
    desk.with_program("sbatch", '"$REAL" "$@" >/dev/null; kill -9 $PPID')
    killed = desk.launch(*SLURM, f"study={study}")
    assert killed.returncode == -signal.SIGKILL
    (submission,) = desk.submissions()
    assert [job["id"] for job in submission.jobs] == [""]
    shutil.rmtree(desk.folder / "bin")
    (job,) = desk.jobs()
    assert set(desk.journals().values()) <= {State.queued, State.running, State.completed}
    assert "nothing to submit" in desk.submit(study)
    assert set(desk.shown()) <= {"queued", "running", "completed"}
    desk.finish()
    assert desk.jobs() == [job]
    assert [desk.lines(trial) for trial in desk.trials()] == [ONCE] * 2


@together
def test_a_launch_killed_before_sbatch_leaves_nothing_in_the_way(desk: SlurmDesk) -> None:
    study = desk.study(TWO_TRIALS)
    desk.with_program("sbatch", "kill -9 $PPID")
    assert desk.launch(*SLURM, f"study={study}").returncode == -signal.SIGKILL
    shutil.rmtree(desk.folder / "bin")
    desk.submit(study)
    desk.finish()
    assert len(desk.jobs()) == 1
    assert set(desk.journals().values()) == {State.completed}


@together
def test_two_launches_at_once_submit_each_trial_once(desk: SlurmDesk) -> None:
    study = desk.study(TWO_TRIALS)
    both = [desk.start(*SLURM, f"study={study}") for _ in range(2)]
    assert [process.wait(timeout=240) for process in both] == [0, 0]
    assert len(desk.jobs()) == 1
    desk.finish()
    assert [desk.lines(trial) for trial in desk.trials()] == [ONCE] * 2


@together
def test_a_run_directory_deleted_meanwhile_is_made_again_by_the_next_launch(desk: SlurmDesk) -> None:
    study = desk.study(TWO_TRIALS)
    desk.submit(study, HELD)
    victim = desk.trials()[0]
    task = desk.places()[victim]
    shutil.rmtree(desk.dir(victim))
    release(desk)
    desk.finish()
    assert desk.journals() == {trial: State.planned if trial == victim else State.completed for trial in desk.trials()}
    assert [run.state for run in desk.cluster.sacct(task)] == ["FAILED"]
    assert "Submitted batch array" in desk.submit(study)
    desk.finish()
    assert set(desk.journals().values()) == {State.completed}


@together
def test_trials_are_cancelled_and_taken_up_again_from_elsewhere(desk: SlurmDesk) -> None:
    desk.submit(desk.study(ENDLESS_FIRST), "hydra.launcher.array_parallelism=1", "train.log_every=1")
    endless, short = desk.trials()
    desk.cluster.wait(lambda: desk.steps_of(endless), 240)
    assert desk.shown() == ["running", "queued"]
    cancelled = desk.deltalab("cancel", "ask")
    assert cancelled.returncode == 0, cancelled.stderr
    desk.finish()
    assert desk.shown() == ["cancelled"] * 2
    assert desk.lines(short) == ["queued", "cancelled"]
    stopped = desk.steps_of(endless)
    assert desk.deltalab("retry", endless, short, "--code", "submitted").returncode == 0
    desk.cluster.wait(lambda: desk.steps_of(endless) > stopped, 240)
    assert desk.resumed_at(endless) == stopped + 1
    assert desk.deltalab("cancel", endless).returncode == 0
    desk.finish()
    assert desk.shown() == ["cancelled", "completed"]


@together
def test_what_waits_for_tuning_is_submitted_by_a_job(desk: SlurmDesk) -> None:
    said = desk.submit(desk.study(TUNED))
    assert re.findall(r"Submitted batch array \d+: (\d) trials", said) == ["4"]
    assert "launches the compared trials once tuning has ended" in said
    desk.finish()
    assert desk.shown() == ["completed"] * 6
    assert len(desk.jobs()) == 3
