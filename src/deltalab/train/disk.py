"""A full disk is no failure of a trial: it stays resumable, and the caller hears of it."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from safetensors import SafetensorError

from deltalab.errors import DiskFull
from deltalab.track.files import FULL
from deltalab.track.journal import Journal, State


def is_full(error: BaseException) -> bool:
    """Whether an error says that the disk, or the user's share of it, is full."""
    if isinstance(error, SafetensorError):  # has the number in its text only
        return any(f"os error {number})" in str(error) or os.strerror(number) in str(error) for number in FULL)
    return isinstance(error, OSError) and error.errno in FULL


@contextlib.contextmanager
def resumable_when_full(run_dir: Path, writes: bool, claim: Callable[[], None]) -> Iterator[None]:
    """Make a full disk inside the block a preemption: journaled, if ``writes`` and a line still fits.

    Where it does not, the trial stays ``running`` and is lost once its claim is dead, which resumes it too.

    Raises:
        DiskFull: in place of the error that said so.
    """
    try:
        yield
    except Exception as error:
        if not is_full(error):
            raise
        text = f"no space left for {run_dir}: {error}; the trial continues from its checkpoint once there is room"
        if writes:
            with contextlib.suppress(OSError):
                Journal(run_dir, claim).state(State.preempted, error=text)  # a new one: it ends a line cut short
        raise DiskFull(text) from error
