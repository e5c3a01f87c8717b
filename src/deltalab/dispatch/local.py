"""The local pool: submitit workers on this machine and a queue of trials; GPUs divided among the workers."""

import contextlib
import os
import signal
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import submitit

from deltalab.dispatch import snapshot
from deltalab.dispatch.gpus import gpu_shares
from deltalab.dispatch.job import run_trials
from deltalab.spec.launcher import LauncherSpec

MONTH_MINUTES = 30 * 24 * 60
"""submitit's local executor stops a job after two minutes unless told otherwise."""


class LocalPool:
    """Runs queued run directories, ``workers`` at a time.

    Ctrl-C does not reach the workers (SIGINT is blocked in them): ``stop`` asks them to checkpoint and end.

    Args:
        launcher: workers, threads, trials per job, device, GPUs.
        runs: the runs folder, where the workers' code is kept.
        folder: where submitit keeps its files.

    Raises:
        UsageError: a trial needs more GPUs than there are.
    """

    def __init__(self, launcher: LauncherSpec, runs: Path, folder: Path) -> None:
        self._gpus = gpu_shares(launcher)
        cores = len(os.sched_getaffinity(0))
        self.workers = launcher.workers or len(self._gpus) or max(2, cores // 2)
        self._processes = launcher.processes if self._gpus else 1
        self.threads = launcher.threads or max(1, cores // (self.workers * self._processes))
        self.device = launcher.device
        self._per_job = launcher.trials_per_job
        self._runs, self._folder = runs, folder
        self._slots: dict[int, Any] = dict.fromkeys(range(self.workers))
        self._queue: deque[tuple[Path, str]] = deque()

    def add(self, batches: list[tuple[Path, str]], alone: bool = False) -> None:
        """Queue trials as (run directory, digest of the code to run); ``alone`` gives each a worker of its own from
        now on, so that none falls with another."""
        self._queue.extend(batches)
        if alone:
            self._per_job = 1

    def turn(self) -> bool:
        """Collect finished workers and start new ones; False once nothing is left to do."""
        for slot, job in self._slots.items():
            if job is not None and job.done():
                self._collect(job)
                self._slots[slot] = None
            if self._slots[slot] is None and self._queue:
                self._slots[slot] = self._start(slot)
        return any(job is not None for job in self._slots.values())

    def stop(self) -> None:
        """Empty the queue and ask every worker to checkpoint and end."""
        self._queue.clear()
        for job in self._slots.values():
            if job is not None and not job.done():
                job._process.send_signal(signal.SIGTERM)

    def _start(self, slot: int) -> Any:
        fair = max(1, len(self._queue) // self.workers)  # smaller batches towards the end, so that none waits
        first, code = self._queue.popleft()
        batch = [str(first)]
        while self._queue and len(batch) < min(self._per_job, fair) and self._queue[0][1] == code:
            batch.append(str(self._queue.popleft()[0]))
        executor = submitit.LocalExecutor(folder=self._folder)
        gpus = self._gpus[slot % len(self._gpus)] if self._gpus else ""
        executor.update_parameters(timeout_min=MONTH_MINUTES, tasks_per_node=self._processes)
        with _sigint_blocked(), _environment(PYTHONPATH=snapshot.python_path(self._runs, code)):
            return executor.submit(run_trials, batch, self.device.value, self.threads, gpus)

    def _collect(self, job: Any) -> None:
        """Reap the worker. Its trials' journals say how they ended; submitit's files stay only if it failed."""
        job._process.wait()
        parts = job._sub_jobs or [job]
        if not all(part.paths.result_pickle.exists() for part in parts):
            return  # killed: its files tell more, and asking submitit would wait for a result that never comes
        if all(part.exception() is None for part in parts):
            for paths in (part.paths for part in parts):
                for path in (paths.submitted_pickle, paths.result_pickle, paths.stdout, paths.stderr):
                    path.unlink(missing_ok=True)


@contextlib.contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Processes started in the block have these variables; a path comes before one that is set."""
    former = {name: os.environ.get(name) for name in variables}
    for name, value in variables.items():
        os.environ[name] = os.pathsep.join(filter(None, (value, former[name])))
    try:
        yield
    finally:
        for name, value in former.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _sigint_blocked() -> Iterator[None]:
    """Processes started in the block never see SIGINT, so that a terminal's Ctrl-C reaches the launcher alone, which
    gets one that came meanwhile when the block ends."""
    former = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)
