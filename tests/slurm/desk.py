"""A user's folder on the test cluster: launching there, and looking at what came of it."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from deltalab.study import ledger, submissions
from deltalab.track import journal
from deltalab.track.journal import State
from tests.dispatch.launching import QUIET, Desk
from tests.slurm.cluster import Cluster

SLURM = (
    "-m",
    "hydra/launcher=slurm",
    "hydra.launcher.timeout_min=10",
    "hydra.launcher.signal_delay_s=20",
    "hydra.launcher.cpus_per_trial=1",
    "hydra.launcher.gpus_per_trial=0",
    QUIET,
)
LONG = ("train.steps=400", "train.checkpoint_every=50", "train.log_every=1")
"""Trials that take some ten seconds: long enough to be interrupted."""
TWO_TRIALS = """
question: does the wide range help?
baseline: {variant: gated_delta_net_2}
factors: {variant: [gated_delta_net_2, gated_delta_net_2_wide]}
seeds: [0]
overrides: {train: smoke, eval.sequences: 8, model.mlp_width: 16}
match: parameters
metrics: {eval/accuracy: max, eval/loss: min}
"""

Result = dict[str, tuple[float | None, dict[str, bytes]]]


class SlurmDesk(Desk):
    """A desk whose launches go to the cluster.

    Args:
        folder: an empty directory.
        cluster: up.
    """

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        super().__init__(folder)
        self.cluster = cluster

    def submit(self, study: str, *arguments: str, code: int = 0) -> str:
        """Launch a study on the cluster; returns what it said."""
        done = self.launch(*SLURM, f"study={study}", *arguments)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def submissions(self) -> list[submissions.Submission]:
        """In the order of their making."""
        found = [submissions.read(path.parent) for path in self.runs.glob("submissions/*/submission.json")]
        return sorted(found, key=lambda submission: submission.created)

    def jobs(self) -> list[str]:
        """Ids of the arrays that Slurm was given, whatever the records say."""
        tokens = [submission.job_name(0).removesuffix("-0") for submission in self.submissions()]
        said = self.cluster.call("squeue", "-h", "-r", "-t", "all", "-S", "i", "-o", "%F|%j")
        rows = [line.split("|") for line in said.splitlines()]
        return list(dict.fromkeys(job for job, name in rows if name.rsplit("-", 1)[0] in tokens))

    def places(self, study: str = "ask") -> dict[str, str]:
        """Trial id → the array task it waits or runs in, as ``deltalab status`` says."""
        return {trial: row["slurm_job"] for trial, row in self.status(study).items()}

    def at_rest(self) -> bool:
        """Nothing of this desk waits or runs."""
        return all(self.cluster.ended(job) for job in self.jobs())

    def finish(self, seconds: float = 400) -> None:
        """Wait until nothing waits or runs any more."""
        self.cluster.wait(self.at_rest, seconds)

    def journals(self, study: str = "ask") -> dict[str, State]:
        """Trial id → the state last written, whatever became of its job."""
        return {trial: journal.glance(self.dir(trial)).state for trial in self.trials(study)}

    def dir(self, trial: str) -> Path:
        return ledger.trial_dir(self.runs, trial)

    def lines(self, trial: str) -> list[str]:
        """States of a trial in the order they were written."""
        return [line["state"] for line in journal.entries(self.dir(trial))[0] if line["event"] == "state"]

    def resumed_at(self, trial: str) -> int:
        """The first step of a trial's last run."""
        lines, _ = journal.entries(self.dir(trial))
        last = max(number for number, line in enumerate(lines) if line.get("state") == "running")
        return next(line["step"] for line in lines[last:] if line["event"] == "metrics")

    def status(self, study: str = "ask") -> dict[str, dict[str, Any]]:
        """Trial id → what ``deltalab status --json`` says of it."""
        done = self.deltalab("status", study, "--json")
        assert done.returncode == 0, done.stderr
        return {trial["trial"]: trial for trial in json.loads(done.stdout)["trials"]}

    def shown(self, study: str = "ask") -> list[str]:
        """States that ``deltalab status`` shows."""
        return [trial["state"] for trial in self.status(study).values()]

    def steps_of(self, trial: str) -> int:
        return journal.glance(self.dir(trial)).step

    def until_all_run(self, study: str = "ask", seconds: float = 240) -> None:
        """Wait until every trial has logged a step."""
        self.cluster.wait(lambda: all(self.steps_of(trial) for trial in self.trials(study)), seconds)

    def results(self, study: str = "ask") -> Result:
        """Trial id → final loss and weights, bit by bit."""
        found: Result = {}
        for trial in self.trials(study):
            tensors = load_file(self.dir(trial) / "model.safetensors")
            loss = journal.read(self.dir(trial)).last("eval/loss")
            found[trial] = (loss, {name: tensor.numpy().tobytes() for name, tensor in tensors.items()})
        return found

    def logs(self) -> str:
        """All that the cluster's jobs printed."""
        return "\n".join(path.read_text() for path in sorted(self.runs.glob("submissions/*/logs/*.out")))

    def with_program(self, name: str, body: str) -> None:
        """Put a shell script before a program in this desk's PATH; ``$REAL`` in it is the program itself."""
        folder = self.folder / "bin"
        folder.mkdir(exist_ok=True)
        real = subprocess.run(["which", name], capture_output=True, text=True, check=True).stdout.strip()
        (folder / name).write_text(f"#!/bin/sh\nREAL={real}\n{body}\n")
        (folder / name).chmod(0o755)
        self.env["PATH"] = f"{folder}:{os.environ['PATH']}"
