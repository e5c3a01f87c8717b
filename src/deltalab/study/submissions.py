"""Submissions: what one launch handed to this machine's pool or to Slurm, written before anything is started.

RUNS/submissions/<token>/submission.json   the record below
RUNS/submissions/<token>/claim.N           held while the launch submits (Slurm) or runs (local pool)
RUNS/submissions/<token>/logs/             standard output and error of Slurm's array tasks

A trial's journal names the token that queued it. Slurm's jobs carry it as their name, so that a launch that died
between ``sbatch`` and its record loses nothing: whoever looks next finds the jobs by the token.
"""

import getpass
import json
import re
import secrets
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from deltalab.errors import NotFoundError
from deltalab.spec.launcher import Kind, LauncherSpec, launcher_spec
from deltalab.spec.tracking import TrackingSpec
from deltalab.spec.trial import to_plain
from deltalab.track.files import write_atomic

FOLDER, FILE = "submissions", "submission.json"


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What was submitted.

    Attributes:
        token: names the submission, and its Slurm jobs.
        study: the study.
        user: who submitted; a cluster may show others' jobs to nobody.
        created: seconds since the epoch.
        command: the command line.
        snapshot: digest of the code its workers run.
        launcher: the LauncherSpec as plain JSON values.
        tracking: the TrackingSpec as plain JSON values.
        tasks: trial ids of each task, in order; of a text, numbers of the shards.
        jobs: ``{"id": "1234", "offset": 100, "count": 50}``: a Slurm array and the tasks it runs; the id is "" from
            just before ``sbatch`` to just after.
        follower: Slurm job that launches the study again when these have ended, or "".
        text: the TextSpec whose shards the tasks make as plain JSON values; None of trials.
        store: the folder of that text's store, or "".
    """

    token: str
    study: str
    user: str
    created: float
    command: str
    snapshot: str
    launcher: dict[str, Any]
    tracking: dict[str, Any]
    tasks: list[list[str]]
    jobs: list[dict[str, Any]] = field(default_factory=list)
    follower: str = ""
    text: dict[str, Any] | None = None
    store: str = ""

    @property
    def spec(self) -> LauncherSpec:
        """The launcher."""
        return launcher_spec(self.launcher)

    @property
    def on_slurm(self) -> bool:
        return self.launcher["kind"] == Kind.slurm.value

    def job_name(self, offset: int) -> str:
        """Name of the Slurm array that starts at a task."""
        return f"deltalab-{self.token}-{offset}"


def new_submission(
    study: str, command: str, snapshot: str, launcher: LauncherSpec, tracking: TrackingSpec, tasks: list[list[str]]
) -> Submission:
    """A submission with a fresh token; nothing is written."""
    return Submission(
        token=f"{re.sub(r'[^A-Za-z0-9._-]', '_', study)}-{secrets.token_hex(4)}",
        study=study,
        user=getpass.getuser(),
        created=time.time(),
        command=command,
        snapshot=snapshot,
        launcher=to_plain(launcher),
        tracking=to_plain(tracking),
        tasks=tasks,
    )


def folder_of(runs: Path, token: str) -> Path:
    """Folder of a submission."""
    return runs / FOLDER / token


def write(runs: Path, submission: Submission) -> Path:
    """Write the record; returns the submission's folder."""
    folder = folder_of(runs, submission.token)
    write_atomic(folder / FILE, json.dumps(asdict(submission), indent=1))
    return folder


def with_job(submission: Submission, job: str, offset: int, count: int) -> Submission:
    """The submission with one more Slurm array."""
    return replace(submission, jobs=[*submission.jobs, {"id": job, "offset": offset, "count": count}])


def read(folder: Path) -> Submission:
    """The record in a submission's folder.

    Raises:
        NotFoundError: there is none.
    """
    path = folder / FILE
    if not path.exists():
        raise NotFoundError(f"{folder}: no {FILE}, so this is no submission")
    return Submission(**json.loads(path.read_text()))
