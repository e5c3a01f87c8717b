"""Questions to Slurm, each one call whatever the number of trials: the queue, accounting, limits; and cancelling.

squeue answers for jobs that wait, run or ended minutes ago; for those it no longer knows, sacct is asked once.
"""

import functools
import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from deltalab.errors import DeltalabError

POLL_SECONDS = 10.0
"""Least time between two questions about the queue."""
CALL_SECONDS = 60
ACCOUNT_DAYS = 60
ENDED = ("COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "DEADLINE", "OUT_OF_MEM")
"""Beginnings of the states in which a job will not run again by itself."""


class SlurmError(DeltalabError):
    """Slurm is not here, does not answer or refuses."""


class CallKilled(SlurmError):
    """The command was ended by a signal."""


class Place(Enum):
    """Where an array task is: waiting, running, over, or unknown because Slurm did not answer."""

    queued = "queued"
    running = "running"
    gone = "gone"
    unknown = "unknown"


@dataclass(frozen=True)
class Task:
    """What Slurm says of an array task.

    Attributes:
        place: see ``Place``.
        job: ``1234_5``, or "" when Slurm does not know it.
        note: why it waits, or the state in which it ended.
    """

    place: Place
    job: str = ""
    note: str = ""


@dataclass(frozen=True)
class Answer:
    """What Slurm said.

    Attributes:
        tasks: (job name, array index) → Task.
        sure: a task that is not among them is over: accounting does not know it either.
        error: why Slurm did not answer, or "".
    """

    tasks: dict[tuple[str, int], Task] = field(default_factory=dict)
    sure: bool = False
    error: str = ""


class Scheduler:
    """Answers about array tasks by job name and index; gives the same answer for ``POLL_SECONDS``."""

    def __init__(self) -> None:
        self._asked: dict[str, int] = {}
        self._moment = float("-inf")
        self._answer = Answer()

    def forget(self) -> None:
        """Let the next question be put to Slurm, however soon it comes."""
        self._moment = float("-inf")

    def ask(self, arrays: Mapping[str, int]) -> Answer:
        """Where the tasks of arrays are.

        Args:
            arrays: job name → number of tasks.
        """
        if not arrays:
            return Answer()
        if time.monotonic() - self._moment >= POLL_SECONDS or not arrays.items() <= self._asked.items():
            self._asked, self._moment = dict(arrays), time.monotonic()
            try:
                self._answer = _ask(arrays)
            except SlurmError as error:
                self._answer = Answer(error=str(error))
        return self._answer


def _ask(arrays: Mapping[str, int]) -> Answer:
    names = f"--name={','.join(sorted(arrays))}"
    command = ["squeue", "-h", "-r", "-t", "all", names, "-o", "%F|%K|%T|%j|%r"]
    found = {}
    for line in call(command).splitlines():
        array, index, state, name, reason = line.split("|", 4)
        if index.isdigit():
            found[name, int(index)] = Task(_place(state), f"{array}_{index}", _note(state, reason))
    known = Counter(name for name, _ in found)
    missing = [name for name, count in arrays.items() if known[name] < count]
    if not missing:
        return Answer(found, sure=True)
    try:
        return Answer(_account(missing) | found, sure=True)
    except SlurmError:  # no accounting here
        return Answer(found)


def _account(names: Iterable[str]) -> dict[tuple[str, int], Task]:
    """What accounting knows of arrays that the controller has begun to forget."""
    since = ["-S", f"now-{ACCOUNT_DAYS}days"]
    said = call(
        ["sacct", "-a", "-n", "-P", "-X", *since, f"--name={','.join(sorted(names))}", "-o", "JobID,JobName,State"]
    )
    found = {}
    for line in said.splitlines():
        job, name, state = line.split("|", 2)
        if match := re.fullmatch(r"\d+_(\d+)", job):
            found[name, int(match[1])] = Task(_place(state), job, state.lower())
    return found


def _place(state: str) -> Place:
    if state.startswith(ENDED):
        return Place.gone
    return Place.running if state in ("RUNNING", "COMPLETING", "SUSPENDED") else Place.queued


def _note(state: str, reason: str) -> str:
    return state.lower() if reason in ("None", "") or state == "RUNNING" else reason


def call(command: list[str]) -> str:
    """Standard output of one of Slurm's commands.

    Raises:
        SlurmError: it is not installed, takes longer than a minute or refuses; one line.
    """
    if shutil.which(command[0]) is None:
        raise SlurmError(f"{command[0]} is not here: this machine has no Slurm client (deltalab doctor)")
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=CALL_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{command[0]}: Slurm's controller did not answer within {CALL_SECONDS} s") from None
    if done.returncode < 0:
        raise CallKilled(f"{command[0]}: ended by signal {-done.returncode}")
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
        raise SlurmError(f"{command[0]}: " + re.sub(rf"^{command[0]}: ((error|fatal): )?", "", lines[-1]))
    return done.stdout


@functools.cache
def max_array_size() -> int:
    """Tasks an array may have: the cluster's MaxArraySize, whose largest index is one less; asked once a process.

    Raises:
        SlurmError: see ``call``.
    """
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", call(["scontrol", "show", "config"]), re.MULTILINE)
    if match is None:
        raise SlurmError("scontrol show config: no MaxArraySize in its answer")
    return int(match[1])


def is_running(job: str) -> bool:
    """Whether a job counts as running still: one that is preempted (in its grace time) or nears its time limit does,
    one that was cancelled, is over its limit or is being requeued already is COMPLETING."""
    return re.search(r"\bJobState=RUNNING\b", call(["scontrol", "show", "job", "-o", job])) is not None


def requeue(job: str) -> None:
    """Put a running job back into the queue; it keeps its id and is ended here.

    Args:
        job: ``1234_5`` for an array's task: the last task's plain id is the whole array's.

    Raises:
        SlurmError: see ``call``; the cluster may forbid it (JobRequeue=0).
    """
    try:
        call(["scontrol", "requeue", job])
    except CallKilled:  # by the signal that ends this job, so it was heard
        return


def cancel(jobs: Iterable[str]) -> None:
    """End jobs or array tasks, all in one call; those already over are passed over.

    Raises:
        SlurmError: see ``call``.
    """
    if wanted := [job for job in jobs if job]:
        call(["scancel", "--quiet", *wanted])
