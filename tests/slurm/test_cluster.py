"""The test cluster itself: what the other tests here take for granted of it."""

from pathlib import Path

import pytest

from tests.slurm.cluster import MAX_ARRAY, Cluster, Job

pytestmark = pytest.mark.slurm
LOW = ("--partition=low", "--time=5", "--signal=B:USR2@30")


def listener(log: Path, then: str = ":") -> str:
    """A script that notes the signals it gets, until SIGTERM or another start; ``then`` is what it does on USR2."""
    traps = f"trap 'echo USR2 >>{log}; {then}' USR2; trap 'echo TERM >>{log}; exit' TERM"
    again = f"test -z $SLURM_RESTART_COUNT || {{ echo again >>{log}; exit; }}"
    return f"{traps}; {again}; echo start >>{log}; while :; do sleep 0.1; done"


def said(log: Path) -> list[str]:
    return log.read_text().split() if log.exists() else []


def test_jobs_and_arrays_run_and_accounting_knows_how_they_ended(cluster: Cluster) -> None:
    good, bad = cluster.sbatch("true"), cluster.sbatch("exit 1")
    array = cluster.sbatch("test $SLURM_ARRAY_TASK_ID -lt 2", "--array=0-2", "--gpus-per-node=1")
    endings = {job: cluster.wait(lambda job=job: cluster.ended(job)) for job in (good, bad, array)}
    assert endings[good] == ["COMPLETED"]
    assert cluster.sacct(bad) == [Job(bad, "FAILED", "1:0")]
    assert sorted(endings[array]) == ["COMPLETED", "COMPLETED", "FAILED"]
    assert Job(f"{array}_2", "FAILED", "1:0") in cluster.sacct(array)
    assert cluster.squeue(f"--jobs={array}")[f"{array}_0"] == "COMPLETED"


def test_a_job_sees_only_the_gpus_it_asked_for(cluster: Cluster, tmp_path: Path) -> None:
    job = cluster.sbatch(f"echo $CUDA_VISIBLE_DEVICES >{tmp_path}/seen", "--gpus-per-node=2")
    cluster.wait(lambda: cluster.ended(job))
    assert len((tmp_path / "seen").read_text().strip().split(",")) == 2


@pytest.mark.parametrize(("style", "at_once"), [("user", True), ("term", False)])
def test_preemption_signals_and_requeues(cluster: Cluster, tmp_path: Path, style: str, at_once: bool) -> None:
    """With user a batch script hears USR2 at once and SIGTERM after the grace time, with term SIGTERM alone, then."""
    cluster.set(preempt=style)
    reactions = {"goes on": ":", "ends": "exit 0", "requeues": "scontrol requeue $SLURM_JOB_ID"}
    logs = {name: tmp_path / name.replace(" ", "-") for name in reactions}
    jobs = {name: cluster.sbatch(listener(logs[name], then), *LOW, "--nodelist=n1") for name, then in reactions.items()}
    cluster.wait(lambda: all(said(log) == ["start"] for log in logs.values()))
    cluster.preempt("n1")
    endings = {name: cluster.wait(lambda job=job: cluster.ended(job)) for name, job in jobs.items()}
    assert endings["goes on"] == ["PREEMPTED", "COMPLETED"]
    assert endings["ends"] == (["COMPLETED"] if at_once else ["PREEMPTED", "COMPLETED"])
    assert endings["requeues"] == ["REQUEUED" if at_once else "PREEMPTED", "COMPLETED"]
    assert said(logs["goes on"]) == ["start", *(["USR2"] if at_once else []), "TERM", "again"]


def test_scancel_is_sigterm_and_the_job_stays_away(cluster: Cluster, tmp_path: Path) -> None:
    job = cluster.sbatch(listener(tmp_path / "heard"), *LOW)
    cluster.wait(lambda: said(tmp_path / "heard") == ["start"])
    cluster.call("scancel", job)
    assert cluster.wait(lambda: cluster.ended(job)) == ["CANCELLED"]
    assert said(tmp_path / "heard") == ["start", "TERM"]


@pytest.mark.parametrize(
    ("option", "reason"), [("--qos=few", "QOSMaxSubmitJobPerUserLimit"), ("--account=few", "AssocMaxSubmitJobLimit")]
)
def test_submitting_more_than_the_limit_is_refused(cluster: Cluster, option: str, reason: str) -> None:
    held = [cluster.sbatch("true", option, "--hold") for _ in range(3)]
    assert reason in cluster.call("sbatch", option, "--hold", "--wrap=true", code=1)
    cluster.call("sbatch", "--test-only", "--wrap=true")
    cluster.call("scancel", *held)


def test_an_array_larger_than_the_limit_is_refused(cluster: Cluster) -> None:
    assert "Invalid job array specification" in cluster.call("sbatch", f"--array=0-{MAX_ARRAY}", "--wrap=true", code=1)
    cluster.set(max_array=MAX_ARRAY + 1)
    job = cluster.sbatch("true", f"--array=0-{MAX_ARRAY}")
    assert cluster.wait(lambda: cluster.ended(job)) == ["COMPLETED"] * (MAX_ARRAY + 1)
    cluster.set()
