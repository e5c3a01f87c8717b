"""Trials that are preempted, run out of time, lose their node or their process, or are cancelled from outside.

Whatever happens, their end is bit by bit that of trials to which nothing happened.
"""

import os
import signal
from pathlib import Path

import pytest

from deltalab.track.journal import State
from tests.slurm.cluster import Cluster
from tests.slurm.desk import LONG, TWO_TRIALS, Result, SlurmDesk
from tests.slurm.together import together

pytestmark = pytest.mark.slurm


def on(node: str, *more: str) -> tuple[str, ...]:
    """Launch arguments for jobs that others may preempt, on one node."""
    return ("hydra.launcher.partition=low", f"hydra.launcher.sbatch=['nodelist={node}']", *LONG, *more)


def interrupted(desk: SlurmDesk, *arguments: str) -> None:
    """Launch two trials and wait until both run."""
    desk.submit(desk.study(TWO_TRIALS), *arguments)
    desk.until_all_run()


def assert_undisturbed(desk: SlurmDesk, undisturbed: Result) -> None:
    assert list(desk.journals().values()) == [State.completed] * 2, desk.logs()
    assert desk.results() == undisturbed


@together
def test_a_time_limit_interrupts_a_task_of_several_trials(desk: SlurmDesk, undisturbed: Result) -> None:
    """The first warning comes some 30 s before the limit of a minute; what was done by then is not done again."""
    short = ("hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=45", "hydra.launcher.trials_per_job=2")
    desk.submit(desk.study(TWO_TRIALS), *LONG, *short, "train.steps=900")
    desk.finish(240)
    (job,) = desk.jobs()
    runs = [run.state for run in desk.cluster.sacct(job)]
    assert runs == ["REQUEUED"] * (len(runs) - 1) + ["COMPLETED"]
    assert len(runs) > 1
    assert list(desk.journals().values()) == [State.completed] * 2
    lines = [desk.lines(trial) for trial in desk.trials()]
    assert "preempted" in lines[0] + lines[1]
    assert all(states[-2:] == ["running", "completed"] for states in lines)
    assert all(desk.resumed_at(t) > 1 for t, states in zip(desk.trials(), lines, strict=True) if "preempted" in states)


@together
def test_a_node_that_crashes_hands_its_trials_to_another(desk: SlurmDesk, undisturbed: Result) -> None:
    interrupted(desk, *LONG, "hydra.launcher.sbatch=['nodelist=n4']")
    (job,) = desk.jobs()
    desk.cluster.node_down("n4")
    desk.cluster.wait(lambda: "down" in desk.cluster.call("sinfo", "-h", "-N", "-n", "n4", "-o", "%T"), 120)
    assert desk.shown() == ["queued"] * 2
    assert "nothing to submit" in desk.submit(desk.study(TWO_TRIALS), *LONG)
    desk.cluster.node_up()
    desk.finish(200)
    assert desk.jobs() == [job]
    assert_undisturbed(desk, undisturbed)


@together
def test_preemption_by_signal_requeues_and_resumes(desk: SlurmDesk, undisturbed: Result) -> None:
    interrupted(desk, *on("n1"))
    desk.cluster.preempt("n1")
    desk.cluster.wait(lambda: set(desk.journals().values()) == {State.preempted})
    assert desk.shown() == ["queued"] * 2
    assert "nothing to submit" in desk.submit(desk.study(TWO_TRIALS), *on("n1"))
    desk.finish()
    (job,) = desk.jobs()
    assert sorted(run.state for run in desk.cluster.sacct(job)) == ["COMPLETED"] * 2 + ["REQUEUED"] * 2
    for trial in desk.trials():
        assert desk.lines(trial) == ["queued", "running", "preempted", "running", "completed"]
        assert desk.resumed_at(trial) > 1
    assert_undisturbed(desk, undisturbed)


@together
def test_scancel_leaves_a_checkpoint_and_the_next_launch_completes(desk: SlurmDesk, undisturbed: Result) -> None:
    interrupted(desk, *LONG)
    (job,) = desk.jobs()
    desk.cluster.call("scancel", job)
    desk.finish()
    assert {run.state for run in desk.cluster.sacct(job)} == {"CANCELLED"}
    assert set(desk.shown()) == {"preempted"}
    assert "Submitted batch array" in desk.submit(desk.study(TWO_TRIALS), *LONG)
    desk.finish()
    assert all(desk.resumed_at(trial) > 1 for trial in desk.trials())
    assert_undisturbed(desk, undisturbed)


@together
def test_a_worker_killed_is_lost_and_the_next_launch_completes(desk: SlurmDesk, undisturbed: Result) -> None:
    interrupted(desk, *LONG)
    (job,) = desk.jobs()
    desk.cluster.wait(lambda: all(desk.steps_of(trial) > 60 for trial in desk.trials()), 90)
    for pid in workers(desk.runs):
        os.kill(pid, signal.SIGKILL)
    desk.finish()
    assert {run.state for run in desk.cluster.sacct(job)} <= {"FAILED", "CANCELLED", "NODE_FAIL"}
    desk.cluster.wait(lambda: desk.shown() == ["lost"] * 2)
    assert "Submitted batch array" in desk.submit(desk.study(TWO_TRIALS), *LONG)
    desk.finish()
    assert all(desk.resumed_at(trial) > 50 for trial in desk.trials())
    assert_undisturbed(desk, undisturbed)


def workers(runs: Path) -> list[int]:
    """Processes of array tasks of a runs folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().decode().split("\0")
            except OSError:
                continue
            if "deltalab.dispatch.task" in command and any(part.startswith(str(runs)) for part in command):
                found.append(int(entry.name))
    return found


@together
def test_processes_of_one_trial_on_two_nodes_stop_and_resume_as_one(desk: SlurmDesk, undisturbed: Result) -> None:
    """A trial of two processes, started by srun; preempted like the others."""
    nodes = ("hydra.launcher.nodes=2", "hydra.launcher.partition=low", "hydra.launcher.sbatch=['nodelist=n[2-3]']")
    desk.submit(desk.study(TWO_TRIALS), *LONG, *nodes)
    desk.until_all_run(seconds=150)
    desk.cluster.preempt("n2")
    desk.finish(240)
    assert list(desk.journals().values()) == [State.completed] * 2, desk.logs()
    for trial in desk.trials():
        assert desk.lines(trial) == ["queued", "running", "preempted", "running", "completed"]
        assert desk.resumed_at(trial) > 1


def test_preemption_by_sigterm_alone_resumes_too(cluster: Cluster, undisturbed: Result, tmp_path: Path) -> None:
    cluster.set(preempt="term")
    desk = SlurmDesk(tmp_path, cluster)
    interrupted(desk, *on("n1"))
    cluster.preempt("n1")
    desk.finish()
    (job,) = desk.jobs()
    assert sorted(run.state for run in cluster.sacct(job)) == ["COMPLETED"] * 2 + ["PREEMPTED"] * 2
    for trial in desk.trials():
        assert desk.lines(trial) == ["queued", "running", "preempted", "running", "completed"]
        assert desk.resumed_at(trial) > 1
    assert_undisturbed(desk, undisturbed)
