"""Prepare a text by an array of Slurm tasks: which shards are missing and in no queue, who makes them, how far it is.

The store's plan and its tokenizer are made by the process that submits, so that every task goes by the same. A store's
submissions lie with the studies' in the runs folder; the newest that names a shard tells where it is.
"""

import contextlib
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deltalab.data.manifest import MANIFEST, PLAN, settled_paths, store_folder
from deltalab.data.prepare import begin, finish, missing_shards, planned_pieces
from deltalab.dispatch import slurm, snapshot
from deltalab.dispatch.scheduler import Place, SlurmError, Task
from deltalab.dispatch.states import Observer
from deltalab.dispatch.submit import LOCK_SECONDS
from deltalab.errors import NotFoundError
from deltalab.spec import load
from deltalab.spec.data import TextSpec
from deltalab.spec.launcher import SlurmSpec
from deltalab.spec.tracking import TrackingSpec
from deltalab.spec.trial import to_plain
from deltalab.study import submissions
from deltalab.study.submissions import Submission
from deltalab.track.claim import claimed
from deltalab.track.files import naming_full_disk, refuse_unwritable
from deltalab.wording import many


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How far a store is.

    Attributes:
        store: its folder.
        shards: how many it has in the end.
        missing: numbers of those that are not there.
        tasks: of these, number → what Slurm says of the task that was given it.
        logs: where the tasks of the newest submission write, or None.
        error: why Slurm did not answer, or "".
    """

    store: Path
    shards: int
    missing: list[int]
    tasks: dict[int, Task]
    logs: Path | None
    error: str

    @property
    def complete(self) -> bool:
        """Whether trials can read it."""
        return (self.store / MANIFEST).is_file()

    @property
    def unattended(self) -> list[int]:
        """Missing shards that no task is going to make, as far as Slurm says."""
        return [number for number in self.missing if self._place(number) is Place.gone]

    def json(self) -> dict[str, Any]:
        """For programs."""
        places = Counter(self._place(number).value for number in self.missing)
        return {
            "store": str(self.store),
            "complete": self.complete,
            "shards": self.shards - len(self.missing),
            "of": self.shards,
            "running": places["running"],
            "queued": places["queued"],
            "unknown": places["unknown"],
            "unattended": places["gone"],
            "jobs": sorted({task.job for task in self.tasks.values() if task.place is not Place.gone and task.job}),
            "logs": self.logs and str(self.logs),
            "error": self.error,
        }

    def lines(self) -> list[str]:
        """For people."""
        said = self.json()
        ready = " and trials can read it" if self.complete else ""
        parts = [f"{said['shards']} of {self.shards} shards are there{ready}"]
        for place in ("running", "queued", "unknown"):
            if said[place]:
                words = {
                    "running": "in tasks that run",
                    "queued": "in the queue",
                    "unknown": "where Slurm does not say",
                }
                parts.append(f"{said[place]} {words[place]}")
        if said["unattended"]:
            ends = Counter(task.note for task in self.tasks.values() if task.place is Place.gone and task.note)
            why = f" ({', '.join(f'{count} {note}' for note, count in ends.items())})" if ends else ""
            parts.append(f"{said['unattended']} in no queue{why}; the same command without --status makes them")
        lines = [f"{self.store}: {', '.join(parts)}"]
        if self.missing and self.logs is not None:
            lines.append(f"Logs: {self.logs}")
        return [*lines, *([f"Slurm: {self.error}"] if self.error else [])]

    def _place(self, number: int) -> Place:
        return self.tasks[number].place if number in self.tasks else Place.gone


def standing(spec: TextSpec, runs: Path) -> Standing:
    """How far the store of a text is; asks Slurm where a runs folder has submissions of it.

    Raises:
        NotFoundError: nobody began to prepare it.
    """
    store = store_folder(spec)
    if not (store / PLAN).is_file():
        raise NotFoundError(f"{store}: nobody has begun to prepare this text; the same command without --status does")
    missing, given = missing_shards(store), _submitted(runs, store)
    newest = {shard: one for one in given for task in one.tasks for shard in task}
    observer = Observer(runs)
    places = observer.places([(str(n), newest[str(n)].token) for n in missing if str(n) in newest])
    logs = submissions.folder_of(runs, given[-1].token) / "logs" if given else None
    return Standing(
        store=store,
        shards=len(planned_pieces(store)),
        missing=missing,
        tasks={int(shard): task for shard, task in places.items()},
        logs=logs,
        error=observer.error,
    )


def submit_prepare(spec: TextSpec, launcher: SlurmSpec, runs: Path, say: Callable[[str], None]) -> None:
    """Submit what is missing of a text's store and in no queue, as an array whose tasks share it.

    Args:
        spec: the text.
        launcher: how to run; of each task, its CPUs make a shard each at a time.
        runs: the runs folder.
        say: told the job ids and what to type next.

    Raises:
        UsageError: no Slurm here; see ``deltalab.data.prepare.begin``.
        SlurmError: the cluster takes no such jobs; what was queued before stays queued.
    """
    slurm.refuse_without_slurm(True)
    spec = settled_paths(spec)
    store = begin(spec)
    finish(store)  # whoever made the last shard may have been killed before it could
    with naming_full_disk(runs), _alone(runs, store):
        now = standing(spec, runs)
        if not now.unattended:
            for line in now.lines():
                say(line)
            return
        submission = _new_submission(spec, store, now.unattended, launcher, runs)
        with claimed(submissions.write(runs, submission)):
            submission = slurm.submit(runs, submission, say)
    for job in submission.jobs:
        tasks = submission.tasks[job["offset"] : job["offset"] + job["count"]]
        say(f"Submitted batch array {job['id']}: {many(sum(map(len, tasks)), 'shard')} in {many(len(tasks), 'task')}")
    if submission.jobs:
        jobs = " ".join(job["id"] for job in submission.jobs)
        say(f"Follow: the same command with --status    Stop: scancel {jobs}")
    if left := submission.tasks[sum(job["count"] for job in submission.jobs) :]:
        raise SlurmError(
            f"{many(sum(map(len, left)), 'shard', 'was', 'were')} not submitted: the cluster takes no more jobs of "
            "yours at present; the same command submits them later"
        )


def spread(shards: list[int], launcher: SlurmSpec) -> list[list[str]]:
    """Shards dealt out to tasks: one for each of a task's CPUs, more where more tasks would not run at a time."""
    tasks = min(launcher.array_parallelism, -(-len(shards) // launcher.cpus_per_trial))
    return [[str(number) for number in shards[first::tasks]] for first in range(tasks)]


def _new_submission(spec: TextSpec, store: Path, left: list[int], launcher: SlurmSpec, runs: Path) -> Submission:
    plain = submissions.new_submission(
        _name(store),
        shlex.join(["deltalab", *sys.argv[1:]]),
        snapshot.take(load.ROOT, runs),
        replace(launcher, nodes=1, gpus_per_trial=0),
        TrackingSpec(mlflow=False),
        spread(left, launcher),
    )
    return replace(plain, text=to_plain(spec), store=str(store))


def _name(store: Path) -> str:
    return f"prepare-{store.name}"


def _submitted(runs: Path, store: Path) -> list[Submission]:
    """Submissions of a store, oldest first."""
    found = [submissions.read(file.parent) for file in (runs / submissions.FOLDER).glob(f"{_name(store)}-*/*.json")]
    return sorted((one for one in found if one.store == str(store)), key=lambda one: one.created)


@contextlib.contextmanager
def _alone(runs: Path, store: Path) -> Iterator[None]:
    """While no other process decides which shards of the store to submit."""
    refuse_unwritable(runs)
    folder = runs / "prepare" / store.name
    folder.mkdir(parents=True, exist_ok=True)
    with claimed(folder, LOCK_SECONDS):
        yield
