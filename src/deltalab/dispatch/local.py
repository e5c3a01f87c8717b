"""The local pool: submitit workers on this machine and a queue of trials; one GPU a worker where there are GPUs."""

import contextlib
import os
import signal
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import UncompletedJobError

from deltalab.dispatch.job import run_trials
from deltalab.spec.launcher import Device, LauncherSpec
from deltalab.track.provenance import gpus

MONTH_MINUTES = 30 * 24 * 60
"""submitit's local executor stops a job after two minutes unless told otherwise."""


class LocalPool:
    """Runs queued run directories, ``workers`` at a time.

    Ctrl-C does not reach the workers (SIGINT is blocked in them): ``stop`` asks them to checkpoint and end.

    Args:
        launcher: workers, threads, trials per job, device.
        folder: where submitit keeps its files.
    """

    def __init__(self, launcher: LauncherSpec, folder: Path) -> None:
        indices = [] if launcher.device is Device.cpu else visible_gpus()
        cores = len(os.sched_getaffinity(0))
        self.workers = launcher.workers or len(indices) or max(2, cores // 2)
        self.threads = launcher.threads or max(1, cores // self.workers)
        self.device = launcher.device
        self._per_job = launcher.trials_per_job
        self._folder = folder
        self._slots: dict[int, Any] = dict.fromkeys(range(self.workers))
        self._gpus = indices
        self._queue: deque[Path] = deque()

    def add(self, run_dirs: list[Path], alone: bool = False) -> None:
        """Queue trials; ``alone`` gives each a worker of its own from now on, so that none falls with another."""
        self._queue.extend(run_dirs)
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
        fair = max(1, len(self._queue) // (2 * self.workers))  # smaller batches towards the end, so that none waits
        batch = [self._queue.popleft() for _ in range(min(self._per_job, fair))]
        executor = submitit.LocalExecutor(folder=self._folder)
        gpu = self._gpus[slot % len(self._gpus)] if self._gpus else ""
        executor.update_parameters(timeout_min=MONTH_MINUTES)
        with _sigint_blocked():
            return executor.submit(run_trials, [str(path) for path in batch], self.device.value, self.threads, gpu)

    def _collect(self, job: Any) -> None:
        """Reap the worker. Its trials' journals say how they ended; submitit's files stay only if it failed."""
        job._process.wait()
        with contextlib.suppress(UncompletedJobError):  # killed: its files tell more
            if job.exception() is None:
                paths = job.paths
                for path in (paths.submitted_pickle, paths.result_pickle, paths.stdout, paths.stderr):
                    path.unlink(missing_ok=True)


def visible_gpus() -> list[str]:
    """Indices or UUIDs of the GPUs this process may use, asked of the driver and not of torch."""
    masked = os.environ.get("CUDA_VISIBLE_DEVICES")
    if masked is not None:
        return [part.strip() for part in masked.split(",") if part.strip() not in ("", "-1")]
    return [str(index) for index in range(len(gpus()))]


@contextlib.contextmanager
def _sigint_blocked() -> Iterator[None]:
    """Processes started in the block never see SIGINT, so that a terminal's Ctrl-C reaches the launcher alone, which
    gets one that came meanwhile when the block ends."""
    former = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)
