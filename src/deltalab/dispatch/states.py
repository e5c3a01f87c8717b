"""States of trials as they are now: journals, heartbeats and, where a trial is in Slurm's queue, one question to it."""

import getpass
import time
from collections.abc import Iterable
from pathlib import Path

from deltalab.dispatch.scheduler import POLL_SECONDS, Answer, Place, Scheduler, Task
from deltalab.errors import NotFoundError
from deltalab.study import ledger, submissions
from deltalab.study.submissions import Submission
from deltalab.track.claim import alive
from deltalab.track.journal import Record, State

ASKED = (State.queued, State.preempted, State.lost)
"""States of which the scheduler knows more than the journal."""
GONE = Task(Place.gone)
MISSING_SECONDS = 3600
"""Age at which an earlier miss says nothing any more."""


class Observer:
    """Looks at trials; one observer in a process asks Slurm no oftener than the scheduler allows.

    Args:
        runs: the runs folder.
    """

    def __init__(self, runs: Path) -> None:
        self.runs = runs
        self.scheduler = Scheduler()
        self.jobs: dict[str, Task] = {}
        self.error = ""
        self._submitting: set[str] = set()

    def records(self, trials: Iterable[str]) -> dict[str, Record]:
        """Trial id → record. ``queued`` means that it will run or is starting, by itself, in whatever process.

        A trial that Slurm requeued is ``queued`` again; one whose job is gone is ``lost``, or ``planned`` when it never
        ran. ``jobs`` afterwards holds what Slurm said of the trials in its queue, ``error`` why it did not answer.

        Without accounting a job that squeue does not know counts as gone only when two answers, ``POLL_SECONDS``
        apart, leave it out; another user's never does, for the cluster may not show it.
        """
        records = ledger.glances(self.runs, trials)
        places = self.places([(t, r.submission) for t, r in records.items() if r.state in ASKED and r.submission])
        self.jobs = places
        for trial, task in places.items():
            record = records[trial]
            if task.place is not Place.gone:
                record.state = State.queued
            elif record.state is State.queued:
                record.state = State.planned if record.started is None else State.lost
                record.details = {"error": f"its Slurm job is {task.note or 'gone'}"}
        return records

    def states(self, trials: Iterable[str]) -> dict[str, State]:
        """Trial id → state."""
        return {trial: record.state for trial, record in self.records(trials).items()}

    def places(self, queued: list[tuple[str, str]]) -> dict[str, Task]:
        """Where the trials, or the shards of a text, are that Slurm was given: (trial or shard, token) → Task."""
        given: dict[str, Submission | None] = {}
        for token in {token for _, token in queued}:
            submission = self._submission(token)
            if submission is None or submission.on_slurm:
                given[token] = submission
        arrays = {s.job_name(j["offset"]): j["count"] for s in given.values() if s for j in s.jobs}
        submitting = {token for token in given if alive(submissions.folder_of(self.runs, token))}
        if self._submitting - submitting:
            self.scheduler.forget()  # the last answer is of a time when these jobs were only announced
        self._submitting = submitting
        answer = self.scheduler.ask(arrays)
        self.error = answer.error
        spots = {token: self._spots(submission, answer) for token, submission in given.items() if submission}
        return {trial: spots.get(token, {}).get(trial, GONE) for trial, token in queued if token in given}

    def _submission(self, token: str) -> Submission | None:
        try:
            return submissions.read(submissions.folder_of(self.runs, token))
        except NotFoundError:
            return None

    def _spots(self, submission: Submission, answer: Answer) -> dict[str, Task]:
        """Trial id → its task in Slurm."""
        folder = submissions.folder_of(self.runs, submission.token)
        unsure = Task(Place.unknown)
        missing = unsure if submission.token in self._submitting else GONE  # a launch has not come to it yet
        spots = dict.fromkeys((trial for trials in submission.tasks for trial in trials), missing)
        for job in submission.jobs:
            name, offset = submission.job_name(job["offset"]), job["offset"]
            over = missing is GONE and not answer.error and submission.user == getpass.getuser()
            marker = folder / f"missing-{offset}"
            if any((name, index) in answer.tasks for index in range(job["count"])):
                marker.unlink(missing_ok=True)
            elif over and not answer.sure:
                over = _missing_for_long(marker)
            for index in range(job["count"]):
                task = answer.tasks.get((name, index), GONE if over else unsure)
                spots |= dict.fromkeys(submission.tasks[offset + index], task)
        return spots


def _missing_for_long(marker: Path) -> bool:
    """Whether a job was missing from an earlier, recent answer too, so that one empty answer loses nothing."""
    now = time.time()
    if not marker.exists() or now - marker.stat().st_mtime > MISSING_SECONDS:
        marker.touch()
    return now - marker.stat().st_mtime >= POLL_SECONDS
