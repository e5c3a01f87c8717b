"""Submitting to Slurm: a submission's tasks as arrays, through submitit, one ``sbatch`` each.

An array holds at most MaxArraySize tasks, so a large submission becomes several; their jobs are named by the token and
the first task (Submission.job_name). Each array is on record before its ``sbatch``. Workers start from the record and
not from pickles, so that nothing they need is written after ``sbatch``.
"""

import contextlib
import io
import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError

from deltalab.dispatch import scheduler, snapshot
from deltalab.dispatch.scheduler import SlurmError
from deltalab.errors import UsageError
from deltalab.spec.launcher import SlurmSpec
from deltalab.study import submissions
from deltalab.study.submissions import Submission

LIMIT = re.compile(r"MaxSubmit|unable to accept job|MaxJobCount")
"""What sbatch says when the user may not have more jobs in the queue now (AssocMaxSubmitJobLimit, QOSMaxSubmit…)."""
FIRST_WAIT, LONGEST_WAIT = 2.0, 30.0
DEAF = "trap '' USR2 TERM"
"""Until the worker listens, signals are ignored: a preemption then still ends in a requeue, by Slurm itself."""


class _LimitReached(SlurmError):
    """The cluster takes no more jobs of this user at present."""


class _Array(submitit.SlurmExecutor):
    """Submits one array whose tasks run a command of ours.

    Args:
        folder: where the batch script and the tasks' output go.
        command: what each task runs.
    """

    def __init__(self, folder: Path, command: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(folder)
        self._command = command

    @property
    def _submitit_command_str(self) -> str:
        return self._command

    def queue(self, count: int) -> str:
        """Queue ``count`` tasks; returns the job id.

        Raises:
            SlurmError: sbatch refused.
        """
        self.parameters["map_count"] = count
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # submitit prints what the error below says
                return self._submit_command(self._command).job_id
        except FailedJobError as error:
            said = " ".join(str(error).replace("sbatch: error: ", "").split())
            raise (_LimitReached if LIMIT.search(said) else SlurmError)(f"sbatch: {said}") from error


def refuse_without_slurm(submits: bool) -> None:
    """Say in one line, before anything is on record, that this machine cannot submit.

    Args:
        submits: ask the controller too, what submitting asks it anyway.

    Raises:
        UsageError: no sbatch here.
        SlurmError: no cluster answers.
    """
    missing = [name for name in ("sbatch", "srun", "squeue", "scontrol") if shutil.which(name) is None]
    if missing:
        raise UsageError(
            f"hydra/launcher=slurm: {missing[0]} is not here; allowed is local or inline on a machine without Slurm"
        )
    if not submits:
        return
    try:
        scheduler.max_array_size()
    except SlurmError as error:
        raise SlurmError(
            f"hydra/launcher=slurm: {error}; nothing was submitted or put on record (deltalab doctor says more)"
        ) from error


def submit(runs: Path, submission: Submission, say: Callable[[str], None], dependency: str | None = None) -> Submission:
    """Queue every task of a submission, as far as the cluster's limits allow.

    Where a limit on submitted jobs is met, smaller arrays are tried, then waiting, up to ``patience_s``.

    Args:
        runs: the runs folder.
        submission: as written already.
        say: told once when submitting waits.
        dependency: of sbatch.

    Returns:
        The submission with its jobs; tasks beyond the last one were not submitted.

    Raises:
        SlurmError: sbatch refused for another reason; the arrays before stay queued and on record.
    """
    launcher = submission.spec
    assert isinstance(launcher, SlurmSpec)
    most = scheduler.max_array_size()
    size, offset, waited, pause = most, 0, 0.0, FIRST_WAIT
    while offset < len(submission.tasks):
        count = min(size, len(submission.tasks) - offset)
        try:
            submission = _submit_array(runs, submission, launcher, offset, count)
        except _LimitReached as limit:
            if count > 1:
                size = count // 2
                continue
            if waited >= launcher.patience_s:
                break
            if not waited:
                say(f"{limit}; trying again for up to {launcher.patience_s:.0f} s")
            time.sleep(min(pause, launcher.patience_s))
            waited, pause = waited + pause, min(LONGEST_WAIT, 2 * pause)
        else:
            offset, size = offset + count, min(most, 2 * size)
    return submission


def _submit_array(runs: Path, submission: Submission, launcher: SlurmSpec, offset: int, count: int) -> Submission:
    """One sbatch, on record before and after it."""
    announced = submissions.with_job(submission, "", offset, count)
    folder = submissions.write(runs, announced)
    array = _Array(
        folder / "logs", _command(runs, launcher, f"-m deltalab.dispatch.task {shlex.quote(str(folder))} {offset}")
    )
    array.update_parameters(**_parameters(runs, submission, launcher, submission.job_name(offset)))
    try:
        job = array.queue(count)
    except SlurmError:
        submissions.write(runs, submission)
        raise
    submitted = submissions.with_job(submission, job, offset, count)
    submissions.write(runs, submitted)
    return submitted


def submit_follower(runs: Path, before: list[Submission], arguments: list[str]) -> str:
    """Queue a job that gives the launch command again once submissions' jobs are over; returns its id.

    It runs the last submission's own code, so that the second half of a study is the study that was submitted.

    Args:
        runs: the runs folder.
        before: submissions that have jobs.
        arguments: of ``launch.py``.
    """
    submission = before[-1]
    launcher = replace(submission.spec, nodes=1, gpus_per_trial=0)
    assert isinstance(launcher, SlurmSpec)
    folder = submissions.folder_of(runs, submission.token)
    script = snapshot.folder_of(runs, submission.snapshot) / "launch.py"
    array = _Array(folder / "logs", _command(runs, launcher, f"{script} {shlex.join(arguments)}"))
    array.update_parameters(**_parameters(runs, submission, launcher, f"deltalab-{submission.token}-follow"))
    array.parameters["dependency"] = "afterany:" + ":".join(job["id"] for one in before for job in one.jobs)
    return array.queue(1)


def _command(runs: Path, launcher: SlurmSpec, what: str) -> str:
    """The shell command of a task: Python, in the container if there is one, with these arguments."""
    python = launcher.python or ("python" if launcher.container else shlex.quote(sys.executable))
    inside = []
    if launcher.container is not None:
        image, place = shlex.quote(launcher.container), shlex.quote(str(runs))
        inside = [launcher.container_command.format(image=image, runs=place)]
    command = " ".join([*inside, python, "-u", what])
    if launcher.processes == 1:
        return f"exec {command}"  # signals reach the worker itself
    return f"bash -c {shlex.quote(f'{DEAF}; exec {command}')}"  # srun's processes start with default handlers


def _parameters(runs: Path, submission: Submission, launcher: SlurmSpec, name: str) -> dict[str, Any]:
    """What submitit writes into the batch script."""
    alone = launcher.processes == 1
    per_node = launcher.processes // launcher.nodes
    options = [option.lstrip("-").partition("=") for option in launcher.sbatch]
    extra = {"requeue": True, "signal": f"{'B:' if alone else ''}USR2@{launcher.signal_delay_s}"}
    code = snapshot.python_path(runs, submission.snapshot)
    wanted = {
        "job_name": name,
        "time": launcher.timeout_min,
        "nodes": launcher.nodes,
        "ntasks_per_node": per_node,
        "cpus_per_task": launcher.cpus_per_trial,
        "gpus_per_node": launcher.gpus_per_trial // launcher.nodes or None,
        "mem": None if launcher.mem_gb is None else f"{round(launcher.mem_gb * 1024)}M",
        "partition": launcher.partition,
        "qos": launcher.qos,
        "account": launcher.account,
        "constraint": launcher.constraint,
        "array_parallelism": launcher.array_parallelism,
        "additional_parameters": extra | {key: value or True for key, _, value in options},
        "setup": [DEAF, *launcher.setup, f'export PYTHONPATH={shlex.quote(code)}"${{PYTHONPATH:+:$PYTHONPATH}}"'],
        "srun_args": ["--kill-on-bad-exit=1", f"--cpus-per-task={launcher.cpus_per_trial}", *launcher.srun_args],
        "use_srun": not alone,
        "stderr_to_stdout": True,
    }
    return {key: value for key, value in wanted.items() if value is not None} | {"wckey": None}
