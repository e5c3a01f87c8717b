"""Stand-ins for Slurm's client programs, first in PATH, that print what the real ones print and note how they were
called; and trials that a launch gave to such a Slurm."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from deltalab.spec.launcher import LauncherSpec, SlurmSpec
from deltalab.spec.tracking import TrackingSpec
from deltalab.study import ledger, submissions
from deltalab.study.submissions import Submission, new_submission, with_job
from deltalab.track.journal import Journal, State

DOWN = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"
SLURM = SlurmSpec()
NO_ACCOUNTING = "sacct: error: Problem talking to the database: Connection refused"


class SlurmPrograms:
    """squeue, sacct and scancel, each with one answer until it is given another; silent at first.

    Args:
        folder: theirs alone.
        patch: puts it into PATH.
    """

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        folder.mkdir()
        patch.setenv("PATH", str(folder), prepend=":")
        for name in ("squeue", "sacct", "scancel"):
            self.says(name)

    def says(self, name: str, output: str | Sequence[str] = "", code: int = 0, error: str = "") -> None:
        """What a program answers from now on: lines, exit code, standard error."""
        lines = output if isinstance(output, str) else "".join(f"{line}\n" for line in output)
        (self.folder / f"{name}.out").write_text(lines)
        note = f"printf '%s\\n' {name}\" $*\" >> {shlex.quote(str(self.folder / 'calls'))}"
        body = f'{note}\ncat "$0.out"\nprintf %s {shlex.quote(error)} >&2\nexit {code}'
        (self.folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (self.folder / name).chmod(0o755)

    def calls(self, name: str) -> list[list[str]]:
        """Arguments of each call of a program so far."""
        path = self.folder / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [words for program, *words in map(str.split, lines) if program == name]


def queued(
    runs: Path,
    tasks: list[list[str]],
    jobs: Sequence[tuple[str, int, int]] = (),
    follower: str = "",
    launcher: LauncherSpec = SLURM,
) -> Submission:
    """Trials as a launch leaves them that queued them and ended.

    Args:
        runs: the runs folder.
        tasks: trial ids of each task.
        jobs: (id, first task, tasks) of each array on record.
        follower: see Submission.
        launcher: where to.
    """
    submission = new_submission("ask", "python launch.py", "d1gest", launcher, TrackingSpec(mlflow=False), tasks)
    for job, offset, count in jobs:
        submission = with_job(submission, job, offset, count)
    submission = replace(submission, follower=follower)
    submissions.write(runs, submission)
    for trial in (trial for task in tasks for trial in task):
        folder = ledger.trial_dir(runs, trial)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "provenance.json").write_text(json.dumps({"snapshot": "d1gest"}))
        Journal(folder).state(State.queued, submission=submission.token, kind=launcher.kind.value)
    return submission
