"""Trials that are preempted, run out of time, lose their node or their process, or are cancelled from outside.

Whatever happens, their end is bit by bit that of trials to which nothing happened.
"""

import os
import signal
from pathlib import Path

import pytest

from deltalab.track.journal import State
from tests.slurm.cluster import Cluster
from tests.slurm.desk import LONG, TWO_TRIALS, SlurmDesk, Undisturbed
from tests.slurm.together import together

pytestmark = pytest.mark.slurm


def on(nodes: str, partition: str = "low") -> tuple[str, ...]:
    """Launch arguments for trials on certain nodes, each scenario's own; jobs of partition low may be preempted."""
    return (f"hydra.launcher.partition={partition}", f"hydra.launcher.sbatch=['nodelist={nodes}']", *LONG)


def interrupted(desk: SlurmDesk, *arguments: str) -> None:
    """Launch two trials and wait until both run."""
    desk.submit(desk.study(TWO_TRIALS), *arguments)
    desk.until_all_run()


def assert_undisturbed(desk: SlurmDesk, undisturbed: Undisturbed) -> None:
    assert list(desk.journals().values()) == [State.completed] * 2, desk.logs()
    assert desk.results() == undisturbed.results


@together
def test_a_time_limit_interrupts_a_task_of_several_trials(desk: SlurmDesk, undisturbed: Undisturbed) -> None:
    """The warning comes 5 to 35 s before the limit of a minute; what was done by then is not done again."""
    short = ("hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=5", "hydra.launcher.trials_per_job=2")
    steps = f"train.steps={int(40 * undisturbed.steps_per_second)}"
    desk.submit(desk.study(TWO_TRIALS), *on("n5"), *short, steps)
    desk.finish(300)
    (job,) = desk.jobs()
    runs = [run.state for run in desk.cluster.sacct(job)]
    assert len(runs) > 1
    assert runs == ["REQUEUED"] * (len(runs) - 1) + ["COMPLETED"]
    for trial in desk.trials():
        assert desk.lines(trial)[-2:] == ["running", "completed"]
        assert desk.lines(trial).count("preempted") == desk.lines(trial).count("running") - 1
    assert any(desk.resumed_at(trial) > 1 for trial in desk.trials())


@together
def test_a_node_that_crashes_hands_its_trials_to_another(desk: SlurmDesk, undisturbed: Undisturbed) -> None:
    interrupted(desk, *on("n4"))
    (job,) = desk.jobs()
    desk.cluster.node_down("n4")
    desk.cluster.wait(lambda: set(desk.cluster.squeue(f"--jobs={job}").values()) == {"PENDING"}, 120)
    assert desk.shown() == ["queued"] * 2
    assert "nothing to submit" in desk.submit(desk.study(TWO_TRIALS), *on("n6"))
    desk.cluster.node_up()
    desk.finish(200)
    assert desk.jobs() == [job]
    assert_undisturbed(desk, undisturbed)


@together
def test_preemption_by_signal_requeues_and_resumes(desk: SlurmDesk, undisturbed: Undisturbed) -> None:
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
def test_scancel_leaves_a_checkpoint_and_the_next_launch_completes(desk: SlurmDesk, undisturbed: Undisturbed) -> None:
    interrupted(desk, *on("n6"))
    (job,) = desk.jobs()
    desk.cluster.call("scancel", job)
    desk.finish()
    assert {run.state for run in desk.cluster.sacct(job)} == {"CANCELLED"}
    assert set(desk.shown()) == {"preempted"}
    assert "Submitted batch array" in desk.submit(desk.study(TWO_TRIALS), *on("n6"))
    desk.finish()
    assert all(desk.resumed_at(trial) > 1 for trial in desk.trials())
    assert_undisturbed(desk, undisturbed)


@together
def test_a_worker_killed_is_lost_and_the_next_launch_completes(desk: SlurmDesk, undisturbed: Undisturbed) -> None:
    interrupted(desk, *on("n6"))
    (job,) = desk.jobs()
    desk.cluster.wait(lambda: all(desk.steps_of(trial) > 60 for trial in desk.trials()), 90)
    for pid in workers(desk.runs):
        os.kill(pid, signal.SIGKILL)
    desk.finish()
    assert {run.state for run in desk.cluster.sacct(job)} <= {"FAILED", "CANCELLED", "NODE_FAIL"}
    desk.cluster.wait(lambda: desk.shown() == ["lost"] * 2)
    assert "Submitted batch array" in desk.submit(desk.study(TWO_TRIALS), *on("n6"))
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
def test_processes_of_one_trial_on_two_nodes_stop_and_resume_as_one(desk: SlurmDesk) -> None:
    """A trial of two processes, started by srun; preempted like the others."""
    desk.submit(desk.study(TWO_TRIALS), *on("n[2-3]"), "hydra.launcher.nodes=2")
    desk.until_all_run(seconds=150)
    desk.cluster.preempt("n2")
    desk.finish(240)
    assert list(desk.journals().values()) == [State.completed] * 2, desk.logs()
    for trial in desk.trials():
        assert desk.lines(trial) == ["queued", "running", "preempted", "running", "completed"]
        assert desk.resumed_at(trial) > 1


def test_preemption_by_sigterm_alone_resumes_too(cluster: Cluster, undisturbed: Undisturbed, tmp_path: Path) -> None:
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
