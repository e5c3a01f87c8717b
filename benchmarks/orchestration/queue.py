"""``queue``: from the command to trials in Slurm's queue, on a cluster of its own brought up on this machine.

Jobs are held, so that none runs meanwhile. Calls to the controller are counted by scripts of the programs' names in
PATH, which note each call and make it. The peer's command only returns when all jobs have ended: it is watched until
its last job is in the queue and then killed.
"""

import contextlib
import fcntl
import getpass
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.orchestration.desk import ROOT, Cost, Desk, Failed, learning_rates, reap
from benchmarks.orchestration.rows import Row
from tests.slurm.cluster import unavailable

FOLDER, PORT = Path("/tmp/deltalab-slurm-bench"), 29817
PROGRAMS = ("sbatch", "squeue", "sacct", "scontrol", "scancel", "sinfo")
CALLS = 2
"""One sbatch, and one question for the largest array."""
SECONDS = 600
"""When a launch that has not submitted is given up."""


@dataclass(frozen=True)
class Submitted:
    """A launch of some trials.

    Attributes:
        queued: seconds until the last of them was in the queue.
        cost: of the command, up to its end or, where it waits for the jobs, up to then.
        calls: program → calls of it.
    """

    queued: float
    cost: Cost
    calls: Counter[str]


def missing() -> str:
    """Why there can be no cluster here, or ""."""
    return unavailable()


def measure(folder: Path, trials: int, rounds: int, peer: bool) -> list[Row]:
    """Submit that many trials, ours and the peer's in turn; the least of each figure over the rounds."""
    ours, theirs = [], []
    with _cluster() as cluster:
        for turn in range(rounds):
            ours.append(_ours(_Counting(folder / f"ours-{turn}", cluster), trials))
            if peer:
                theirs.append(_peers(_Counting(folder / f"peer-{turn}", cluster), trials))
    what = f"Slurm, {trials:,} trials"
    rows = [
        Row(what=what, figure="until all are in the queue", unit="s", beats=True, **_pair(ours, theirs, "queued")),
        Row(what=what, figure="until the command returns", unit="s", ours=min(one.cost.wall for one in ours)),
        Row(what=what, figure="CPU time, user + system", unit="s", beats=True, **_pair(ours, theirs, "cpu")),
    ]
    for program in PROGRAMS:
        if any(one.calls[program] for one in (*ours, *theirs)):
            rows.append(Row(what=what, figure=f"calls of {program}", unit="calls", **_pair(ours, theirs, program)))
    return [*rows, Row(what=what, figure="calls in all", unit="calls", most=CALLS, **_pair(ours, theirs, "calls"))]


def _pair(ours: list[Submitted], theirs: list[Submitted], figure: str) -> dict[str, float | None]:
    def least(launches: list[Submitted]) -> float:
        if figure == "queued":
            return min(one.queued for one in launches)
        if figure == "cpu":
            return min(one.cost.cpu for one in launches)
        return max(one.calls.total() if figure == "calls" else one.calls[figure] for one in launches)

    return {"ours": least(ours), "peer": least(theirs) if theirs else None}
