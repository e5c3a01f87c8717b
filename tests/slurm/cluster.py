"""A real Slurm on this machine, brought up by ``up.sh``, and what tests do to it and ask of it."""

import contextlib
import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

Answer = TypeVar("Answer")
HERE = Path(__file__).parent
FOLDER = Path("/tmp/deltalab-slurm-tests")
NODES = 7
MAX_ARRAY = 4
"""Tasks an array may have, so that small studies are split already."""
PROGRAMS = ("munged", "slurmctld", "slurmd", "slurmdbd", "mariadbd", "sbatch")


def unavailable() -> str:
    """Why no cluster can be brought up here, or ""."""
    if os.geteuid() != 0:
        return "a Slurm cluster needs root"
    if shutil.which("apt-get") is None:
        return "tests/slurm/up.sh needs Debian or Ubuntu"
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing and not os.environ.get("SLURM_INSTALL"):
        return f"{missing[0]} is not installed; make test-slurm installs Slurm"
    return ""


@dataclass(frozen=True)
class Job:
    """A job or array task as accounting knows it, one for each time it was started.

    Attributes:
        name: ``12`` or ``12_3``.
        state: COMPLETED, FAILED, CANCELLED, REQUEUED, PREEMPTED …
        exit: ``code:signal``.
    """

    name: str
    state: str
    exit: str


class Cluster:
    """A cluster of its own folder and ports, so that another Slurm on this machine is not disturbed.

    Args:
        folder: its configuration, state, logs; wiped at the start.
    """

    def __init__(self, folder: Path = FOLDER) -> None:
        self.folder = folder
        self._settings = {"SLURM_DIR": str(folder), "SLURM_NODES": str(NODES)}
        self._settings |= {"SLURM_PREEMPT_SIGNAL": "user", "SLURM_GRACE": "6", "SLURM_MAX_ARRAY": str(MAX_ARRAY)}
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}

    @contextlib.contextmanager
    def running(self) -> Iterator["Cluster"]:
        """Up inside the block; a second test session waits for its end."""
        with self.folder.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if (self.folder / "slurm.conf").exists():
                self._script("down.sh", {"SLURM_WIPE": "1"})
            self._settings["SLURM_BASE_PORT"] = str(_free_ports())
            self._script("up.sh")
            try:
                yield self
            finally:
                self._script("down.sh")

    def set(self, *, preempt: str = "user", grace: int = 6, max_array: int = MAX_ARRAY) -> None:
        """Change settings (those left out become what they were first); jobs are not touched.

        Args:
            preempt: user (the signal of --signal) or term (SIGTERM only).
            grace: seconds between preemption and its end.
            max_array: MaxArraySize.
        """
        wanted = {"SLURM_PREEMPT_SIGNAL": preempt, "SLURM_GRACE": str(grace), "SLURM_MAX_ARRAY": str(max_array)}
        changed = self._settings | wanted
        if changed != self._settings:
            self._settings = changed
            self._script("up.sh")

    def call(self, *command: str, code: int | None = 0) -> str:
        """Output of one of Slurm's commands; standard error too where ``code`` is another than 0."""
        done = subprocess.run(
            command, env=os.environ | self.environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert code is None or done.returncode == code, done.stderr
        return done.stdout if code == 0 else done.stdout + done.stderr

    def sbatch(self, script: str, *options: str) -> str:
        """Submit a script; returns the job id."""
        return self.call("sbatch", "--parsable", "--output=/dev/null", *options, f"--wrap={script}").strip()

    def squeue(self, *options: str) -> dict[str, str]:
        """Jobs and array tasks in the queue, or in it minutes ago: ``12`` or ``12_3`` → state."""
        said = self.call("squeue", "--noheader", "--array", "--states=all", "--format=%i %T", *options)
        return dict(line.split() for line in said.splitlines())

    def sacct(self, job: str) -> list[Job]:
        """Every run of a job or of an array's tasks, in order."""
        columns = "--format=JobID,State,ExitCode"
        said = self.call("sacct", "-n", "-P", "-X", "--duplicates", f"--jobs={job}", columns)
        rows = [line.split("|") for line in said.splitlines()]
        return [Job(name, state.split()[0], code) for names, state, code in rows for name in _expanded(names)]

    def ended(self, job: str) -> list[str]:
        """States in which a job's or array's runs ended, empty as long as something of it waits or runs."""
        queue, runs = self.squeue(f"--jobs={job}"), self.sacct(job)
        states = [run.state for run in runs]
        behind = {run.name for run in runs} != set(queue)  # accounting is told a moment later
        return [] if behind or {"PENDING", "RUNNING", "COMPLETING"} & {*states, *queue.values()} else states

    def wait(self, what: Callable[[], Answer], seconds: float = 120) -> Answer:
        """Ask until the answer is true; returns it."""
        end = time.monotonic() + seconds
        while not (answer := what()):
            assert time.monotonic() < end, f"waited {seconds} s in vain\n{self.call('squeue', '--array', code=None)}"
            time.sleep(0.2)
        return answer

    def node_of(self, job: str) -> str:
        """The node that a running job or array task is on."""
        return self.wait(lambda: self.call("squeue", "-h", "-r", "-t", "R", f"--jobs={job}", "-o", "%N").strip())

    def preempt(self, node: str, seconds: float = 2) -> str:
        """Submit a job of partition high that takes a whole node for some seconds; returns its id."""
        return self.sbatch(f"sleep {seconds}", "--partition=high", f"--nodelist={node}", "--exclusive")

    def node_down(self, node: str) -> None:
        """Take a node down as a crash does: its daemon, its jobs' guardians and processes vanish."""
        jobs = self.call("squeue", "-h", "-t", "R,CG", f"--nodelist={node}", "-o", "%A").split()
        marks = [f"slurmstepd: [{job}." for job in jobs]
        daemon = int((self.folder / "run" / f"slurmd.{node}.pid").read_text())
        guardians = [pid for pid, command in _processes("cmdline") if command.startswith(tuple(marks))]
        ours = [pid for pid, variables in _processes("environ") if f"SLURMD_NODENAME={node}" in variables.split("\0")]
        for pid in [*guardians, daemon, *ours]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def node_up(self) -> None:
        """Start what is down again; a node that comes back tells that its jobs are gone."""
        self._script("up.sh")

    @contextlib.contextmanager
    def without_controller(self) -> Iterator[None]:
        """No slurmctld inside the block; what runs goes on."""
        os.kill(int((self.folder / "run" / "slurmctld.pid").read_text()), signal.SIGTERM)
        self.wait(lambda: "DOWN" in self.call("scontrol", "ping", code=None))
        try:
            yield
        finally:  # the tests after this one need it
            self._script("up.sh")

    def _script(self, name: str, more: dict[str, str] | None = None) -> None:
        ours = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
        log = self.folder.with_suffix(".log")
        with log.open("a") as said:
            done = subprocess.run(
                [str(HERE / name)],
                env=ours | self._settings | (more or {}),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                timeout=600,
                check=False,
            )
        if done.returncode:
            raise RuntimeError(f"{name} failed: {log.read_text().strip().splitlines()[-1]}")


def _free_ports() -> int:
    """The first of some ports in a row on which nobody listens."""
    for base in range(27817, 32768, 50):
        with contextlib.ExitStack() as held, contextlib.suppress(OSError):
            for port in (base, base + 2, *range(base + 11, base + 11 + NODES)):
                held.enter_context(socket.socket()).bind(("", port))
            return base
    raise RuntimeError("no free ports between 27817 and 32768")


def _expanded(names: str) -> list[str]:
    """Accounting's ``12_[0-2,5%4]``, tasks that never started, as ``12_0`` … ``12_5``."""
    match = re.fullmatch(r"(\d+_)\[([\d,-]+)(?:%\d+)?\]", names)
    if match is None:
        return [names]
    ends = [[int(end) for end in part.split("-")] for part in match[2].split(",")]
    return [f"{match[1]}{index}" for first, *last in ends for index in range(first, (last or [first])[0] + 1)]


def _processes(what: str) -> Iterator[tuple[int, str]]:
    """Processes and their ``cmdline`` or ``environ``, as far as they can be read."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                yield int(entry.name), (entry / what).read_bytes().decode(errors="replace")
