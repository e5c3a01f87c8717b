"""Commands run as a user runs them, measured; and the study files that they are given."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deltalab.errors import DeltalabError

ROOT = Path(__file__).parents[2]
VARIANTS = ("gated_delta_net_2", "kda", "gated_delta_net", "delta_net", "gated_linear_attention")


class Failed(DeltalabError):
    """A command of the benchmark did not do what is measured."""


@dataclass(frozen=True)
class Cost:
    """What a command took.

    Attributes:
        wall: seconds from its start to its end.
        cpu: user and system seconds of it and of the processes it waited for.
        peak: most bytes that one of these processes held, and no less than the one that started it ever did.
    """

    wall: float
    cpu: float
    peak: int


class Desk:
    """A folder with study files and runs, and commands run from there.

    Args:
        folder: an empty directory.
        more: further environment variables.
    """

    def __init__(self, folder: Path, more: dict[str, str] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.runs, self._said = folder, folder / "runs", folder / "said.txt"
        known = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
        paths = os.pathsep.join(filter(None, (str(ROOT), known.get("PYTHONPATH"))))
        self._env = known | {"DELTALAB_RUNS": str(self.runs), "PYTHONPATH": paths, "COLUMNS": "200"} | (more or {})

    def study(self, name: str, rates: int, seeds: int, overrides: dict[str, Any], variants: int = 1) -> str:
        """Write a study of variants × learning rates × seeds, parameters matched, and return its path."""
        lrs = learning_rates(rates)
        path = self.folder / f"{name}.yaml"
        text = {
            "question": "what does a launch cost?",
            "baseline": {"variant": VARIANTS[0], "train.lr": lrs[0]},
            "factors": {"variant": VARIANTS[:variants], "train.lr": lrs},
            "seeds": list(range(seeds)),
            "overrides": overrides,
            "match": "parameters",
        }
        path.write_text(json.dumps(text))  # JSON is YAML
        return str(path)

    def launch(self, *arguments: str, importtime: bool = False) -> Cost:
        """``python launch.py -m ARGUMENTS``, nothing mirrored; on request what it imports is said too."""
        options = ("-X", "importtime") if importtime else ()
        return self.python(*options, str(ROOT / "launch.py"), "-m", *arguments, "tracking=none")

    def python(self, *arguments: str) -> Cost:
        """``python ARGUMENTS`` to its end.

        Raises:
            Failed: it ended with another exit code than 0.
        """
        start = time.perf_counter()
        process = self.start(*arguments)
        try:
            cost = reap(process, start)
        except BaseException:  # Ctrl-C: the command is in a group of its own and does not see it
            os.killpg(process.pid, signal.SIGTERM)
            raise
        if process.returncode:
            raise Failed(f"python {' '.join(arguments)}: exit code {process.returncode}\n{self.said()[-2000:]}")
        return cost

    def start(self, *arguments: str) -> "subprocess.Popen[bytes]":
        """``python ARGUMENTS`` in a process group of its own, what it says going to a file."""
        with self._said.open("wb") as said:
            return subprocess.Popen(
                [sys.executable, *arguments],
                cwd=self.folder,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )

    def said(self) -> str:
        """All that the last command printed."""
        return self._said.read_text(errors="replace")


def learning_rates(count: int) -> list[float]:
    """That many of them."""
    return [round(1e-3 + 1e-6 * place, 6) for place in range(count)]


def reap(process: "subprocess.Popen[bytes]", start: float) -> Cost:
    """Wait for a process and say what it took since ``start`` (of ``time.perf_counter``)."""
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def cheapest(rounds: int, run: Callable[[], Cost]) -> Cost:
    """The least of each figure over some rounds: what other work on the machine adds is left out."""
    costs = [run() for _ in range(rounds)]
    return Cost(min(c.wall for c in costs), min(c.cpu for c in costs), min(c.peak for c in costs))
