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
TWO_LENGTHS = """
question: does it help to train longer?
baseline: {train.steps: 20}
factors: {train.steps: [20, 1000000]}
seeds: [0]
overrides: {train: smoke, eval.sequences: 8, model.mlp_width: 16}
metrics: {eval/loss: min}
"""
AT_EACH_STEP = ("train.log_every=1", "train.checkpoint_every=1000000")


def on(nodes: str, partition: str = "low") -> tuple[str, ...]:
    """Launch arguments for trials on certain nodes, each scenario's own; jobs of partition low may be preempted."""
    return (f"hydra.launcher.partition={partition}", f"hydra.launcher.sbatch=['nodelist={nodes}']", *LONG)


def interrupted(desk: SlurmDesk, *arguments: str) -> None:
    """Launch two trials and wait until both run."""
    desk.submit(desk.study(TWO_TRIALS), *arguments)
    desk.until_all_run()


def assert_undisturbed(desk: SlurmDesk, undisturbed: Result) -> None:
    assert list(desk.journals().values()) == [State.completed] * 2, desk.logs()
    assert desk.results() == undisturbed


@together
def test_a_time_limit_interrupts_a_trial_and_what_was_done_is_not_done_again(desk: SlurmDesk) -> None:
    """Two trials share a task: one ends within a minute or, on a slow machine, a few; the other would take hours."""
    short = ("hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=5", "hydra.launcher.trials_per_job=2")
    desk.submit(desk.study(TWO_LENGTHS), *AT_EACH_STEP, *short, "hydra.launcher.sbatch=['nodelist=n5']")
    first, second = desk.trials()
    desk.cluster.wait(lambda: "completed" in desk.lines(first), 400)
    before, limits = (desk.lines(trial).count("preempted") for trial in (first, second))
    desk.cluster.wait(lambda: desk.lines(second).count("preempted") > limits, 240)
    stopped = desk.steps_of(second)
    desk.cluster.wait(lambda: desk.steps_of(second) > stopped, 240)
    assert desk.lines(first) == ["queued", *["running", "preempted"] * before, "running", "completed"]
    assert desk.lines(second) == ["queued", *["running", "preempted"] * (limits + 1), "running"]
    assert desk.resumed_at(second) == stopped + 1
    assert desk.deltalab("cancel", second).returncode == 0
    desk.finish()
    (job,) = desk.jobs()
    assert next(run.state for run in desk.cluster.sacct(job)) == "REQUEUED"
    assert desk.shown() == ["completed", "cancelled"]


@together
def test_a_node_that_crashes_hands_its_trials_to_another(desk: SlurmDesk, undisturbed: Result) -> None:
    interrupted(desk, *on("n4"))
    (job,) = desk.jobs()
    desk.cluster.node_down("n4")
    desk.cluster.wait(lambda: set(desk.cluster.squeue(f"--jobs={job}").values()) == {"PENDING"}, 240)
    assert desk.shown() == ["queued"] * 2
    assert "nothing to submit" in desk.submit(desk.study(TWO_TRIALS), *on("n6"))
    desk.cluster.node_up()
    desk.finish()
    assert desk.jobs() == [job]
    assert_undisturbed(desk, undisturbed)


@together
def test_preemption_by_signal_requeues_and_resumes(desk: SlurmDesk, undisturbed: Result) -> None:
    interrupted(desk, *on("n1"))
    desk.cluster.preempt("n1")
    desk.cluster.wait(lambda: set(desk.journals().values()) == {State.preempted}, 120)
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
def test_a_worker_killed_is_lost_and_the_next_launch_completes(desk: SlurmDesk, undisturbed: Result) -> None:
    interrupted(desk, *on("n6"))
    (job,) = desk.jobs()
    desk.cluster.wait(lambda: all(desk.steps_of(trial) > 60 for trial in desk.trials()), 240)
    for pid in workers(desk.runs):
        os.kill(pid, signal.SIGKILL)
    desk.finish()
    assert {run.state for run in desk.cluster.sacct(job)} <= {"FAILED", "CANCELLED", "NODE_FAIL"}
    desk.cluster.wait(lambda: desk.shown() == ["lost"] * 2, 120)
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
    desk.until_all_run()
    desk.cluster.preempt("n2")
    desk.finish()
    assert list(desk.journals().values()) == [State.completed] * 2, desk.logs()
    for trial in desk.trials():
        assert desk.lines(trial) == ["queued", "running", "preempted", "running", "completed"]
        assert desk.resumed_at(trial) > 1


@together
def test_preemption_before_the_worker_has_started_loses_nothing(desk: SlurmDesk) -> None:
    """Bash alone, still in the lines of setup, or a Python that imports would die of the signal."""
    mark = desk.folder / "mark"
    desk.submit(desk.study(TWO_TRIALS), *on("n7"), f"hydra.launcher.setup=['echo one >>{mark}','sleep 5']")
    desk.cluster.wait(lambda: mark.exists() and len(mark.read_text().split()) == 2)
    desk.cluster.preempt("n7")
    desk.finish()
    assert list(desk.journals().values()) == [State.completed] * 2, desk.logs()
    (job,) = desk.jobs()
    assert sorted(run.state for run in desk.cluster.sacct(job))[:2] == ["COMPLETED"] * 2
    assert "FAILED" not in {run.state for run in desk.cluster.sacct(job)}


def test_preemption_by_sigterm_alone_resumes_too(cluster: Cluster, undisturbed: Result, tmp_path: Path) -> None:
    cluster.set(preempt="term", grace=0)  # a batch script would hear nothing in that time
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


def test_without_the_controller_nothing_counts_as_lost_or_is_submitted_twice(cluster: Cluster, tmp_path: Path) -> None:
    cluster.set()
    desk = SlurmDesk(tmp_path, cluster)
    study = desk.study(TWO_TRIALS)
    desk.submit(study, "hydra.launcher.sbatch=[hold]")
    (job,) = desk.jobs()
    with cluster.without_controller():
        seen = desk.deltalab("status").stdout
        assert "ask: 2 trials, 2 queued" in seen
        assert "Slurm did not answer" in seen
        assert "nothing to submit" in desk.submit(study)
        said = desk.submit(study, "train.steps=21", code=1)
        assert "Unable to contact slurm controller" in said
        assert "nothing was submitted or put on record" in said
    cluster.call("scontrol", "release", job)
    desk.submit(study, "train.steps=21")
    desk.finish()
    assert len(desk.jobs()) == 2
    assert list(desk.journals().values()) == [State.completed] * 2
