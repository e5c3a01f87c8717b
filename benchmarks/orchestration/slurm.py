"""``slurm``: from the command to trials in the queue, on a cluster of its own brought up on this machine.

Jobs are held, so that none runs meanwhile. Calls to the controller are counted by scripts of the programs' names in
PATH, which make the call and note it. The peer's command only returns when all jobs have ended: it is watched until
its last job is in the queue and then killed, so its time is up to there. Its application does nothing, ours composes
trials, matches their parameters and freezes their configurations and the code.
"""

import contextlib
import fcntl
import getpass
import os
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.orchestration.desk import ROOT, Cost, Desk, Failed, reap
from benchmarks.orchestration.rows import Row
from tests.slurm.cluster import unavailable

FOLDER = Path("/tmp/deltalab-slurm-bench")
BASES, PORTS = range(20817, 32000, 1000), (0, 2, 11)
"""First ports to try, and which from there on up.sh takes for a cluster of one node."""
PROGRAMS = ("sbatch", "squeue", "sacct", "scontrol", "scancel", "sinfo")
CALLS, ARRAY = 2, 1000
"""One sbatch, and one question for the largest array: promised of what fits into one array."""
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
    with _cluster() as environment:
        for turn in range(rounds):
            ours.append(_ours(_Counting(folder / f"ours-{turn}", environment), trials))
            if peer:
                theirs.append(_peers(_Counting(folder / f"peer-{turn}", environment), trials))
    return _rows(f"Slurm, {trials:,} trials", ours, theirs, CALLS if trials <= ARRAY else None)


def _rows(what: str, ours: list[Submitted], theirs: list[Submitted], most_calls: int | None) -> list[Row]:
    def row(
        figure: str, of: Callable[[Submitted], float], unit: str = "", beats: bool = False, most: int | None = None
    ):
        peer = min(map(of, theirs)) if theirs else None
        return Row(what=what, figure=figure, ours=min(map(of, ours)), peer=peer, unit=unit, beats=beats, most=most)

    used = [name for name in PROGRAMS if any(one.calls[name] for one in (*ours, *theirs))]
    returned = min(one.cost.wall for one in ours)
    return [
        row("until all are in the queue", lambda one: one.queued, "s", beats=True),
        Row(what=what, figure="until the command returns", ours=returned, unit="s"),
        row("CPU time", lambda one: one.cost.cpu, "s", beats=True),
        *(row(f"calls of {name}", lambda one, name=name: one.calls[name]) for name in used),
        row("calls in all", lambda one: one.calls.total(), most=most_calls),
    ]


class _Counting(Desk):
    """A desk whose commands talk to the cluster through scripts that note each call."""

    def __init__(self, folder: Path, cluster: dict[str, str]) -> None:
        programs, self._log, self._cluster = folder / "bin", folder / "calls.txt", cluster
        super().__init__(folder, cluster | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"})
        programs.mkdir()
        self._log.touch()
        for name in PROGRAMS:
            real, script = shutil.which(name), programs / name
            note = f"echo {name} $(date +%s.%N) >> {shlex.quote(str(self._log))}"
            script.write_text(f'#!/bin/sh\n{real} "$@"\ncode=$?\n{note}\nexit $code\n')
            script.chmod(0o755)

    def calls(self) -> list[tuple[str, float]]:
        """(program, time of its end, seconds since the epoch) of every call so far."""
        return [(name, float(moment)) for name, moment in map(str.split, self._log.read_text().splitlines())]

    def submitted(self, cost: Cost, began: float) -> Submitted:
        """What a command that began then did."""
        calls = self.calls()
        queued = max(moment for name, moment in calls if name == "sbatch") - began
        return Submitted(queued, cost, Counter(name for name, _ in calls))

    def waiting(self) -> int:
        """Jobs in the queue, each array's task by itself; asked uncounted."""
        return len(_slurm(self._cluster, "squeue", "--noheader", "--array", "--states=PENDING").splitlines())

    def await_waiting(self, jobs: int, process: "subprocess.Popen[bytes]") -> None:
        """Wait until a process has put that many jobs into the queue.

        Raises:
            Failed: it ended, or takes too long.
        """
        end, seen = time.monotonic() + SECONDS, 0
        while not seen or self.waiting() < jobs:
            while len(self.calls()) == seen:  # only then can there be more in the queue
                if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) or time.monotonic() > end:
                    raise Failed(f"hydra-submitit-launcher did not submit {jobs} jobs\n{self.said()[-2000:]}")
                time.sleep(0.02)
            seen = len(self.calls())

    def clear(self) -> None:
        """Take everything out of the queue."""
        _slurm(self._cluster, "scancel", f"--user={getpass.getuser()}")
        while self.waiting():
            time.sleep(0.1)


def _ours(desk: _Counting, trials: int) -> Submitted:
    study = desk.study("queue", rates=trials // 2, seeds=2, overrides={"train": "smoke"})
    began = time.time()
    cost = desk.launch(f"study={study}", "hydra/launcher=slurm", "hydra.launcher.sbatch=[hold]")
    if (waiting := desk.waiting()) != trials:
        raise Failed(f"launch.py put {waiting} jobs into the queue, not {trials}\n{desk.said()}")
    desk.clear()
    return desk.submitted(cost, began)


def _peers(desk: _Counting, trials: int) -> Submitted:
    launcher, sweep = "hydra/launcher=submitit_slurm", f"hydra.sweep.dir={desk.folder / 'sweep'}"
    hold = "+hydra.launcher.additional_parameters.hold=true"
    start, began = time.perf_counter(), time.time()
    process = desk.start(
        "-m", "benchmarks.orchestration.peer_queue", "-m", launcher, hold, sweep, f"+value=range(0,{trials})"
    )
    try:
        desk.await_waiting(trials, process)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        cost = reap(process, start)
    desk.clear()
    return desk.submitted(cost, began)


@contextlib.contextmanager
def _cluster() -> Iterator[dict[str, str]]:
    """A cluster that is up inside the block; yields what its clients need in their environment."""
    with FOLDER.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a second benchmark waits for the first one's end
        _down()
        try:
            _script("up.sh", SLURM_BASE_PORT=str(_free_base()), SLURM_NODES="1")
            yield {"SLURM_CONF": str(FOLDER / "slurm.conf")}
        finally:
            _down()


def _down() -> None:
    if (FOLDER / "slurm.conf").exists():
        _script("down.sh")


def _free_base() -> int:
    for base in BASES:
        with contextlib.ExitStack() as held, contextlib.suppress(OSError):
            for port in PORTS:
                held.enter_context(socket.socket()).bind(("", base + port))
            return base
    raise Failed(f"no free ports for Slurm among {BASES.start} … {BASES.stop}")


def _script(name: str, **settings: str) -> None:
    ours = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
    log, script = FOLDER.with_suffix(".log"), ROOT / "tests" / "slurm" / name
    with log.open("w") as said:  # a file, as daemons would keep a pipe open
        env = ours | settings | {"SLURM_DIR": str(FOLDER), "SLURM_WIPE": "1"}
        code = subprocess.run([str(script)], env=env, stdin=subprocess.DEVNULL, stdout=said, stderr=said).returncode
    if code:
        raise Failed(f"{name}: {log.read_text().strip().splitlines()[-1]}")


def _slurm(cluster: dict[str, str], *command: str) -> str:
    done = subprocess.run(command, env=os.environ | cluster, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout
