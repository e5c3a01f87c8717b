"""The array task that this process is, and its way back into Slurm's queue when it is asked to stop."""

import os
import signal
import time
from collections.abc import Callable

from deltalab.dispatch import scheduler
from deltalab.errors import DeltalabError

STANDSTILLS = 3
"""Interruptions at one and the same place after which work is given up: its time limit is too short."""
END_SECONDS = 120
"""How long a requeued task waits for Slurm to end it."""


def array_index() -> int:
    """Index of this task in its array."""
    return int(os.environ["SLURM_ARRAY_TASK_ID"])


def task_cpus() -> int:
    """CPUs that this task may use."""
    return int(os.environ.get("SLURM_CPUS_PER_TASK", len(os.sched_getaffinity(0))))


def requeue(what: str, refuse_standstill: Callable[[], object]) -> bool:
    """Back into the queue, unless somebody cancelled the job; False then.

    Args:
        what: what the log says is safe where the task is not requeued.
        refuse_standstill: raises where the time limit is too short to come further.
    """
    job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{array_index()}"
    if not scheduler.is_running(job):
        print(f"job {job} was cancelled or requeued by others; {what}", flush=True)
        return False
    refuse_standstill()
    scheduler.requeue(job)
    print(f"requeued job {job}", flush=True)
    return True


def await_end() -> None:
    """Wait for Slurm to end a task that is requeued.

    Raises:
        DeltalabError: it does not.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # now it may end this process, nothing is lost
    time.sleep(END_SECONDS)
    raise DeltalabError(f"requeued, and Slurm did not end the job within {END_SECONDS} s")
