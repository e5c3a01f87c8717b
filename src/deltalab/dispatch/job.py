"""What a worker runs: run directories, one after another. It reads each frozen config there and nothing else."""

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from deltalab.errors import Busy, TrialFailed
from deltalab.spec.launcher import Device
from deltalab.study.ledger import load_spec
from deltalab.track import journal
from deltalab.track.claim import claimed
from deltalab.track.journal import State

LOG = "log.txt"
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR2)


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


def run_trials(run_dirs: list[str], device: str, threads: int, gpu: str) -> None:
    """Run trials in this worker process, each with its output in its own log.

    Args:
        run_dirs: run directories with a frozen config.
        device: a ``Device`` value.
        threads: CPU threads for torch.
        gpu: index or UUID of the GPU to use, "" for none.

    Raises:
        TrialFailed: at least one failed (after the others ran), so that the scheduler sees a failed job.
    """
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
    os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    failed = []
    with StopSignal().listening() as stop:
        for folder in map(Path, run_dirs):
            if stop():
                break
            try:
                with _output_to(folder / LOG):
                    run_logged(folder, Device(device), threads, stop)
            except Exception:  # the others go on
                failed.append(folder)
    if failed:
        raise TrialFailed("; ".join(f"{folder.name} failed, see {folder / LOG}" for folder in failed))


def run_logged(run_dir: Path, device: Device, threads: int, stop: StopSignal) -> None:
    """``run_one`` with what happened on standard error; a trial that another process runs is left to it."""
    try:
        run_one(run_dir, device, threads, stop)
    except Busy as busy:
        print(busy)
    except Exception:
        traceback.print_exc()
        raise


def run_one(run_dir: Path, device: Device, threads: int, stop: StopSignal) -> State:
    """Claim a trial and run it, unless it is completed.

    Raises:
        Busy: another live process runs it.
        Exception: whatever made the trial fail.
    """
    with claimed(run_dir):
        state = journal.read(run_dir).state
        if state is State.completed:
            return state
        spec = load_spec(run_dir)
        import torch

        from deltalab.train.trial import run_trial

        torch.set_num_threads(threads)
        return run_trial(spec, run_dir, device, stop)


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
