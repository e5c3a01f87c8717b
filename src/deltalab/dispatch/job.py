"""What a worker runs: run directories, one after another. It reads each frozen config there and nothing else.

The local pool calls ``run_trials``; a task of a Slurm array (dispatch.task) calls ``run_all``.
"""

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from deltalab.errors import Busy, NotFoundError, TrialFailed
from deltalab.spec.evaluation import EvaluationSpec
from deltalab.spec.launcher import Device
from deltalab.spec.trial import TrialSpec
from deltalab.study import estimates
from deltalab.study.ledger import load_spec, load_work
from deltalab.track import journal
from deltalab.track.claim import STALE_SECONDS, beats_elsewhere, claimed
from deltalab.track.journal import Journal, State

if TYPE_CHECKING:
    from deltalab.train.distributed import World

LOG = "log.txt"
CANCEL = "cancel"
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR2)
BUSY_SECONDS = 1.5 * STALE_SECONDS
"""How long a worker waits for a trial that another machine claims: a holder that died there is stale by then."""


class StopSignal:
    """Turns SIGTERM and SIGUSR2 (preemption, the end of a time limit, Ctrl-C at the launcher) into a question the
    training loop asks before every step."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self) -> bool:
        return self.asked

    def ask(self, signum: int = 0, frame: FrameType | None = None) -> None:
        """Ask to stop; usable as a signal handler."""
        self.asked = True

    @contextlib.contextmanager
    def listening(self, signals: tuple[signal.Signals, ...] = STOP_SIGNALS) -> Iterator["StopSignal"]:
        """Handle the signals inside the block, then put the former handlers back."""
        former = {number: signal.signal(number, self.ask) for number in signals}
        try:
            yield self
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)


class Cancelled:
    """Whether a trial alone is asked to stop for good, by a file in its run directory; looked for at heartbeats."""

    def __init__(self, run_dir: Path) -> None:
        self._marker = run_dir / CANCEL
        self.asked = False

    def look(self) -> bool:
        """Look for the file."""
        self.asked = self._marker.exists()
        return self.asked

    def done(self) -> None:
        """Take the request away."""
        self._marker.unlink(missing_ok=True)


def run_trials(run_dirs: list[str], device: str, threads: int, gpu: str) -> None:
    """Run trials in a worker process of the local pool, each with its output in its own log.

    Args:
        run_dirs: run directories with a frozen config.
        device: a ``Device`` value.
        threads: CPU threads for torch.
        gpu: indices or UUIDs of the GPUs to use, "" for none.

    Raises:
        TrialFailed: at least one failed (after the others ran), so that the scheduler sees a failed job.
    """
    os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    if int(os.environ.get("SUBMITIT_LOCAL_NTASKS", "1")) > 1:
        name_ranks()
    with StopSignal().listening() as stop:
        run_all([Path(folder) for folder in run_dirs], Device(device), threads, stop)


def name_ranks() -> None:
    """Put what ``torchrun`` would say (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR …) into the environment."""
    from submitit.helpers import TorchDistributedEnvironment

    TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)


@dataclass(frozen=True)
class Worker:
    """A process that runs trials, or one rank of several that share each of them.

    Attributes:
        device: where to train.
        threads: CPU threads for torch.
        stop: asked before every step.
        world: the processes that train a trial together, None for this one alone.
    """

    device: Device
    threads: int
    stop: Callable[[], bool]
    world: "World | None" = None

    @property
    def main(self) -> bool:
        """Whether this rank is the one that claims and writes."""
        return self.world is None or self.world.main

    def attempt(self, folder: Path, patience: float, failed: dict[Path, Exception | None]) -> bool:
        """Whether a trial needs no further attempt; an error is noted and the others go on, unless ranks share them."""
        if self.stop() if self.world is None else self.world.any(self.stop()):
            return True
        try:
            with _output_to(folder / LOG):
                self._run_logged(folder, patience)
        except Busy:
            return False
        except Exception as error:
            failed[folder] = error
            if self.world is not None:
                raise TrialFailed(f"{folder.name} failed, see {folder / LOG}") from error
        return True

    def _run_logged(self, run_dir: Path, patience: float) -> None:
        """``run`` with what happened on standard error."""
        try:
            self.run(run_dir, patience)
        except Busy as busy:
            print(busy)
            raise
        except Exception:
            traceback.print_exc()
            raise

    def run(self, run_dir: Path, patience: float = 0.0) -> State:
        """Claim a trial and run it, unless it has ended. Of several ranks the main one claims.

        Args:
            run_dir: the run directory.
            patience: seconds to wait for a claim of another machine that beats.

        Raises:
            Busy: another live process runs it, or took it over.
            Exception: whatever made the trial fail.
        """
        cancelled = Cancelled(run_dir)
        with contextlib.ExitStack() as held:
            state: State | Busy | None = None
            claim = _unclaimed
            if self.main:
                try:
                    wait = patience if beats_elsewhere(run_dir) else 0.0
                    claim = held.enter_context(claimed(run_dir, wait, cancelled.look))
                    state = _ended(run_dir, cancelled)
                except Busy as busy:
                    state = busy
            state = state if self.world is None else self.world.share(state)
            if isinstance(state, Busy):
                raise state
            return self._train(run_dir, claim, cancelled) if state is None else state

    @contextlib.contextmanager
    def _beginning(self, run_dir: Path, claim: Callable[[], None]) -> Iterator[None]:
        """A trial that cannot begin, for want of a package or because of its config, fails as one that broke later.

        Of one whose run directory was deleted nothing is written: the next launch plans it again.
        """
        try:
            yield
        except NotFoundError:
            raise
        except Exception as error:
            if self.main:
                said = traceback.format_exception_only(error)[-1].strip()
                Journal(run_dir, claim).state(State.failed, error=said, traceback=traceback.format_exc())
            raise

    def _train(self, run_dir: Path, claim: Callable[[], None], cancelled: Cancelled) -> State:
        """Train, or measure what was trained; note what it took, and why it stopped."""
        with self._beginning(run_dir, claim):
            spec = load_work(run_dir)
            import torch

            from deltalab.train.distributed import ALONE
            from deltalab.train.evaluation import run_evaluation
            from deltalab.train.gauges import Gauges
            from deltalab.train.trial import run_trial

        gauges = Gauges(Journal(run_dir, claim).machine) if self.main and isinstance(spec, TrialSpec) else None

        def asked() -> bool:
            claim()
            if gauges is not None:
                gauges.look()
            return cancelled.asked or self.stop()

        torch.set_num_threads(self.threads)
        try:
            if isinstance(spec, EvaluationSpec):
                trial = load_spec(run_dir.parent / spec.trial)
                state = run_evaluation(spec, trial, run_dir, self.device, asked, claim)
            else:
                state = run_trial(spec, run_dir, self.device, asked, self.world or ALONE, claim)
        except Busy as lost:
            if self.world is None:
                raise
            raise TrialFailed(str(lost)) from lost  # the other ranks are in the midst of it
        if not self.main:
            return state
        if state is State.completed:
            if isinstance(spec, TrialSpec):
                estimates.learn(run_dir.parents[1], spec, run_dir)
        elif state is State.preempted and cancelled.look():
            state = State.cancelled
            Journal(run_dir, claim).state(state)
        cancelled.done()
        return state


def run_all(folders: list[Path], device: Device, threads: int, stop: StopSignal) -> None:
    """Run trials one after another; those that another process holds are waited for at the end.

    Raises:
        TrialFailed: at least one trial's state is failed when all are through.
    """
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
    failed: dict[Path, Exception | None] = {}
    with world_of(device) as world:
        worker, waiting = Worker(device, threads, stop, world), list(folders)
        for patience in (0.0, BUSY_SECONDS):
            waiting = [folder for folder in waiting if not worker.attempt(folder, patience, failed)]
    for folder in folders:
        if folder not in failed and journal.glance(folder).state is State.failed:
            failed[folder] = None  # before this job was requeued
    if failed:
        cause = next((error for error in failed.values() if error is not None), None)
        raise TrialFailed("; ".join(f"{f.name} failed, see {f / LOG}" for f in failed)) from cause


def _unclaimed() -> None:
    """The check of a rank that holds no claim."""


def _ended(run_dir: Path, cancelled: Cancelled) -> State | None:
    """The state of a trial that is not to be run, None when it is; a request to cancel is granted here."""
    state = journal.glance(run_dir).state
    if state.terminal:
        cancelled.done()
        return state
    if cancelled.look():
        Journal(run_dir).state(State.cancelled)
        cancelled.done()
        return State.cancelled
    return None


def several_ranks() -> bool:
    """Whether the environment, by ``torchrun``'s names, says that this process is one of several."""
    return os.environ.get("WORLD_SIZE", "1") != "1"


@contextlib.contextmanager
def world_of(device: Device) -> Iterator["World | None"]:
    """The processes that train together, where the environment names several."""
    if not several_ranks():
        yield None
        return
    from deltalab.train.distributed import joined

    with joined(device) as world:
        yield world


@contextlib.contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Standard output and error of this process, subprocesses and libraries included, appended to a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    with path.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for saved, number in zip(kept, (1, 2), strict=True):
            os.dup2(saved, number)
            os.close(saved)
