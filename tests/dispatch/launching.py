"""Run ``python launch.py`` and ``deltalab`` as a user does, in processes of their own."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from deltalab.spec import load
from deltalab.spec.load import LaunchSpec
from deltalab.study import ledger
from deltalab.track import journal
from deltalab.track.journal import State
from deltalab.train.meters import MEASURED
from tests.specs import study_file

LOCAL = ("hydra.launcher.workers=2", "hydra.launcher.threads=1")
INLINE = ("hydra/launcher=inline", "hydra.launcher.threads=1")
"""For a study whose workers are not what is asked about: each of them would load torch."""
QUIET = "tracking=none"
RATE = "train/tokens_per_second"
PATIENCE = 600
"""Seconds after which a test gives up waiting, on a machine that does much else too."""
Results = dict[str, tuple[bytes, dict[str, dict[int, float]]]]


class Desk:
    """A user's folder: study files, a runs folder, and commands run from there.

    Args:
        folder: an empty directory.
        root: the checkout whose code is run.
    """

    def __init__(self, folder: Path, root: Path = load.ROOT) -> None:
        self.folder, self.runs, self.root = folder, folder / "runs", root
        self.env = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
        self.env |= {"DELTALAB_RUNS": str(self.runs), "COLUMNS": "200"}
        if root != load.ROOT:
            self.env["PYTHONPATH"] = str(root / "src")
        self._started: list[subprocess.Popen[bytes]] = []

    def study(self, text: str, name: str = "ask") -> str:
        """Write a study file and return its path."""
        return str(study_file(self.folder, text, name))

    def launch(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """``python launch.py ARGUMENTS`` to its end."""
        return self._run([str(self.root / "launch.py"), *arguments])

    def start(self, *arguments: str, to: str = "said.txt") -> "subprocess.Popen[bytes]":
        """``python launch.py ARGUMENTS`` in a process group of its own, as a terminal starts it, its output in a file
        of the folder."""
        return self._start([str(self.root / "launch.py"), *arguments], to)

    def start_deltalab(self, *arguments: str, to: str) -> "subprocess.Popen[bytes]":
        """``deltalab ARGUMENTS`` likewise."""
        return self._start(["-m", "deltalab", *arguments], to)

    def _start(self, command: list[str], to: str) -> "subprocess.Popen[bytes]":
        with (self.folder / to).open("w") as said:
            process = subprocess.Popen(
                [sys.executable, *command],
                cwd=self.folder,
                env=self.env,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
        self._started.append(process)
        return process

    def end(self, process: "subprocess.Popen[bytes]", signum: int, group: bool = True) -> str:
        """Signal a launch (its whole process group, as Ctrl-C does), wait for it, return all it printed."""
        if group:
            os.killpg(process.pid, signum)
        else:
            os.kill(process.pid, signum)
        process.wait(timeout=PATIENCE)
        return (self.folder / "said.txt").read_text()

    def clear(self) -> None:
        """Kill whatever a failed test left running."""
        for process in self._started:
            if process.poll() is None:
                process.kill()
                process.wait()
        for pid in self.workers():
            kill(pid)

    def deltalab(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """``deltalab ARGUMENTS`` to its end."""
        return self._run(["-m", "deltalab", *arguments])

    def states(self, study: str = "ask") -> list[State]:
        """State of every trial of a study, in the order of its cells and seeds."""
        return [ledger.state_of(self.runs, trial) for trial in self.trials(study)]

    def trials(self, study: str = "ask") -> list[str]:
        """Trial ids in the order of cells and seeds."""
        return [t for cell in ledger.read_study(self.runs, study).cells for t in cell.trials.values()]

    def until(self, holds: Callable[[], bool], seconds: float = PATIENCE) -> None:
        """Wait for a condition."""
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.05)

    def running(self) -> set[str]:
        """Trials that run and have logged a step."""
        if not ledger.list_studies(self.runs):
            return set()
        records = {trial: ledger.record_of(self.runs, trial) for trial in self.trials()}
        return {trial for trial, record in records.items() if record.state is State.running and record.step >= 1}

    def workers(self, *modules: str) -> list[int]:
        """Processes alive that belong to this desk's trials (and to nothing else), all or those that run modules."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    command = (entry / "cmdline").read_bytes().decode()
                    zombie = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
                except OSError:
                    continue
                ours = any(module in command for module in modules or ("submitit", "deltalab.track.mlflow"))
                if ours and str(self.runs) in command and not zombie:
                    found.append(int(entry.name))
        return found

    def _run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *command],
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )


def settings_for(runs: Path, *overrides: str) -> LaunchSpec:
    """The launch part of ``python launch.py OVERRIDES plan=true json=true`` with a runs folder."""
    return load.launch_spec(load.compose([f"runs={runs}", "plan=true", "json=true", QUIET, *overrides]))


def jobs(*levels: tuple[str, ...]) -> list[list[str]]:
    """Overrides of small jobs, as Hydra's sweeper makes them."""
    return [["train=smoke", "train.steps=5", *level] for level in levels]


def kill(pid: int) -> None:
    """kill -9, whatever became of the process."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def frozen(processes: list[int]) -> Iterator[None]:
    """Processes stand still in the block, as those of a suspended machine."""
    for pid in processes:
        os.kill(pid, signal.SIGSTOP)
    yield
    for pid in processes:
        os.kill(pid, signal.SIGCONT)


def results(runs: Path, trials: Iterable[str]) -> Results:
    """Trial → its final weights as bytes and every metric at every step, less those that measure the machine."""
    found: Results = {}
    for trial in trials:
        folder = ledger.trial_dir(runs, trial)
        metrics = {k: v for k, v in journal.read(folder).metrics.items() if k not in MEASURED}
        found[trial] = (folder / "model.safetensors").read_bytes(), metrics
    return found


def differing(found: Results, expected: Results) -> list[str]:
    """Trials and figures that are not bit for bit what was expected of them; trials not found are passed over."""
    names = []
    for trial, (weights, metrics) in found.items():
        expected_weights, expected_metrics = expected[trial]
        names += [f"{trial}: weights"] if weights != expected_weights else []
        both = metrics.keys() | expected_metrics.keys()
        names += [f"{trial}: {name}" for name in both if metrics.get(name) != expected_metrics.get(name)]
    return names


def executions(run_dir: Path) -> list[list[int]]:
    """The steps that each execution of a trial logged, in the order of the journal, which ``running`` begins anew."""
    found: list[list[int]] = []
    for line in journal.entries(run_dir)[0]:
        if line.get("state") == State.running.value:
            found.append([])
        elif RATE in line.get("values", {}):
            found[-1].append(line["step"])
    return found


def states_told(run_dir: Path) -> list[str]:
    """The states of a trial's journal, in order."""
    return [line["state"] for line in journal.entries(run_dir)[0] if line["event"] == "state"]


def copy_checkout(to: Path) -> Path:
    """What of this checkout is needed to launch, copied: a checkout that a test may edit."""
    for name in ("src", "conf", "sweeps"):
        shutil.copytree(load.ROOT / name, to / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("launch.py", "pyproject.toml"):
        shutil.copy2(load.ROOT / name, to / name)
    return to
