"""Run one trial: ``run_trial(spec, run_dir)`` → state. The journal tells the story; errors are raised, not kept."""

import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from deltalab.errors import UsageError
from deltalab.spec.launcher import Device
from deltalab.spec.trial import TrialSpec
from deltalab.track.journal import Journal, State
from deltalab.train.loop import Diverged, Trainer


def run_trial(
    spec: TrialSpec, run_dir: Path, device: Device = Device.auto, stop: Callable[[], bool] = lambda: False
) -> State:
    """Train and evaluate a trial, resuming from its newest checkpoint.

    Args:
        spec: the frozen trial.
        run_dir: where journal, checkpoints and weights go; the caller holds its claim.
        device: auto takes a GPU where there is one.
        stop: asked before every step; True ends the run after a checkpoint.

    Returns:
        ``completed``, ``diverged`` or ``preempted``.

    Raises:
        UsageError: ``device=cuda`` without a GPU.
        Exception: whatever failed, after the journal says so.
    """
    journal = Journal(run_dir)
    try:
        where = pick_device(device)
        journal.state(State.running, device=str(where), threads=torch.get_num_threads(), steps=spec.train.steps)
        trainer = Trainer(spec, run_dir, where, journal)
        finished = trainer.run(stop)
    except Diverged as end:
        journal.state(State.diverged, error=str(end))
        return State.diverged
    except Exception as error:
        lines = traceback.format_exception_only(error)
        journal.state(State.failed, error=lines[-1].strip(), traceback=traceback.format_exc())
        raise
    if not finished:
        journal.state(State.preempted, step=trainer.step)
        return State.preempted
    journal.state(State.completed, step=trainer.step)
    return State.completed


def pick_device(device: Device) -> torch.device:
    """The device to train on.

    Raises:
        UsageError: a GPU was asked for and none is there.
    """
    if device is Device.cuda and not torch.cuda.is_available():
        raise UsageError("hydra.launcher.device=cuda: no GPU is visible here; allowed is auto or cpu")
    if device is Device.auto:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device.value)
