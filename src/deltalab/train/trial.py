"""Run one trial: ``run_trial(spec, run_dir)`` → state. The journal tells the story; errors are raised, not kept."""

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from deltalab.errors import Busy
from deltalab.spec.launcher import Device
from deltalab.spec.trial import TrialSpec
from deltalab.track.journal import Journal, State
from deltalab.train.determinism import deterministic
from deltalab.train.disk import is_full, resumable_when_full
from deltalab.train.distributed import ALONE, World, pick_device
from deltalab.train.loop import Diverged, Trainer
from deltalab.train.meters import forget_peak, peak_memory

LOST = "a rank was lost (killed, or its machine died); the trial continues from its checkpoint"


class Unwritten(Journal):
    """The journal of a rank that has no say: only the main rank writes."""

    def __init__(self) -> None:
        pass

    def state(self, state: State, **details: Any) -> None:
        """Nothing."""

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Nothing."""

    def evaluation(self, step: int, values: dict[str, float], **details: Any) -> None:
        """Nothing."""

    def note(self, step: int, text: str, **details: Any) -> None:
        """Nothing."""


def run_trial(
    spec: TrialSpec,
    run_dir: Path,
    device: Device = Device.auto,
    stop: Callable[[], bool] = lambda: False,
    world: World = ALONE,
    claim: Callable[[], None] = lambda: None,
) -> State:
    """Train and evaluate a trial, resuming from its newest checkpoint. Every rank of the world calls it.

    Args:
        spec: the frozen trial.
        run_dir: where journal, checkpoints and weights go; the caller holds its claim.
        device: auto takes a GPU where there is one.
        stop: asked before every step on every rank; True on one ends the run on all after a checkpoint.
        world: the processes that train it together. After an exception this process leaves them.
        claim: the check of the claim, made before anything is written.

    Returns:
        ``completed``, ``diverged`` or ``preempted``, the same on every rank. A trial that ``train.max_hours`` ended is
        ``completed`` too, and its journal says ``early``.

    Raises:
        UsageError: ``device=cuda`` without a GPU, a batch that does not divide among the ranks, or an operation that
            ``train.deterministic`` forbids.
        Busy: the claim is lost; nothing was written since.
        DiskFull: there is no room for the run directory's files; the trial can be resumed.
        Exception: whatever failed, after the journal says so. Where a rank was killed, the others' is that they lost
            it: the trial can be resumed, as one process that was killed can.
    """
    with resumable_when_full(run_dir, world.main, claim):
        journal = Journal(run_dir, claim) if world.main else Unwritten()
        ranks = {"world": world.size} if world.size > 1 else {}
        try:
            where = pick_device(device)
            threads = torch.get_num_threads()
            journal.state(State.running, device=str(where), threads=threads, steps=spec.train.steps, **ranks)
            forget_peak(where)
            with deterministic(spec.train.deterministic):
                trainer = Trainer(spec, run_dir, where, journal, world)
                state, details = _outcome(trainer, stop)
        except Exception as error:
            if not is_full(error) and not isinstance(error, Busy):  # Busy: the journal is another process's now
                cause = world.first_error(error)
                state = State.failed if cause else State.preempted
                journal.state(state, error=cause or LOST, traceback=traceback.format_exc())
            raise
        journal.state(state, **details, memory=peak_memory(where), **ranks)
        return state


def _outcome(trainer: Trainer, stop: Callable[[], bool]) -> tuple[State, dict[str, Any]]:
    try:
        finished = trainer.run(stop)
    except Diverged as end:
        return State.diverged, {"error": str(end), "seconds": trainer.clock.shares}
    details: dict[str, Any] = {"step": trainer.step, "seconds": trainer.clock.shares}
    if finished and trainer.step < trainer.spec.train.steps:
        details["early"] = f"train.max_hours={trainer.spec.train.max_hours:g}"
    return State.completed if finished else State.preempted, details
