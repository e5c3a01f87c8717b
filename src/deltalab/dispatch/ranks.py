"""A trial whose processes ``torchrun`` started by hand: ``torchrun --nproc-per-node=8 launch.py KEY=VALUE …``.

The main rank plans, records and shows, as one process does. The others wait to be told which run directory it claims,
train there with it, and end when it does.
"""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from deltalab.dispatch.job import STOP_SIGNALS, StopSignal, Worker, several_ranks, world_of
from deltalab.errors import UsageError
from deltalab.spec.launcher import LauncherSpec

if TYPE_CHECKING:
    from deltalab.dispatch.job import World


def refuse_several_ranks() -> None:
    """Say that a study is not for ``torchrun``.

    Raises:
        UsageError: the environment names several ranks.
    """
    if several_ranks():
        size = os.environ["WORLD_SIZE"]
        raise UsageError(f"WORLD_SIZE={size}: torchrun starts a single trial; allowed is 1 with -m or study=NAME")


@contextlib.contextmanager
def together(launcher: LauncherSpec) -> Iterator["World | None"]:
    """The ranks of a trial started by hand, None where this process is alone; at the end the others are let go.

    Args:
        launcher: the device to train on.
    """
    with world_of(launcher.device) as world:
        try:
            yield world
        finally:
            if world is not None and world.main:
                with contextlib.suppress(RuntimeError):  # they failed, and are gone
                    world.share("")


def accompany(world: "World", launcher: LauncherSpec) -> int:
    """What every rank but the main one does; returns the exit code, and raises what makes a trial fail."""
    with StopSignal().listening((*STOP_SIGNALS, signal.SIGINT)) as stop:
        worker = Worker(launcher.device, threads_of(launcher), stop, world)
        while folder := world.share(""):
            worker.run(Path(folder))
    return 0


def threads_of(launcher: LauncherSpec) -> int:
    """CPU threads of a trial that runs in this process; the ranks of a machine divide its cores."""
    if launcher.threads:
        return launcher.threads
    return max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
