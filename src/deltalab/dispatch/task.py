"""A task of a Slurm array: ``python -m deltalab.dispatch.task SUBMISSION OFFSET`` runs the trials it stands for, or
makes the shards of a text.

When Slurm asks it to stop (the signal before the time limit, preemption), the trial at hand writes a checkpoint and the
task puts itself back into the queue, as often as it takes. A trial that fails makes the job FAILED, with the traceback
in the job's log as in the trial's.
"""

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from deltalab.dispatch.job import StopSignal, name_ranks, run_all
from deltalab.dispatch.mirror import Mirror
from deltalab.dispatch.requeue import STANDSTILLS, array_index, await_end, requeue, task_cpus
from deltalab.errors import Busy, TrialFailed
from deltalab.spec.evaluation import measured_study
from deltalab.spec.tracking import TrackingSpec
from deltalab.study import ledger, submissions
from deltalab.study.submissions import Submission
from deltalab.track import journal
from deltalab.track.claim import claimed
from deltalab.track.files import write_atomic
from deltalab.track.journal import Journal, State
from deltalab.track.provenance import machine


def run_task(folder: Path, offset: int) -> None:
    """Run the trials of this task, and requeue it when it was asked to stop before their end.

    Args:
        folder: the submission's folder, in the runs folder.
        offset: the task of the submission that index 0 of this array stands for.

    Raises:
        TrialFailed: a trial failed, or cannot come further within the time limit.
        DeltalabError: the task was asked to stop and cannot be requeued.
    """
    submission = submissions.read(folder)
    runs, launcher = folder.parents[1], submission.spec
    folders = [ledger.trial_dir(runs, trial) for trial in submission.tasks[offset + array_index()]]
    if launcher.processes > 1:
        name_ranks()
    main = int(os.environ.get("RANK", "0")) == 0
    failure: TrialFailed | None = None
    requeued = False
    with StopSignal().listening() as stop:
        if main:
            _say_where(folders)
        with _mirrored(runs, submission) if main else contextlib.nullcontext():
            try:
                run_all(folders, launcher.device, launcher.threads or task_cpus(), stop)
            except TrialFailed as error:
                failure = error
        if main and stop() and (left := [path for path in folders if not journal.glance(path).state.terminal]):
            requeued = requeue("its trials are checkpointed", lambda: [_refuse_standstill(path) for path in left])
    if requeued:
        await_end()
    if failure is not None:
        raise failure


def _refuse_standstill(run_dir: Path) -> None:
    """Fail a trial that was interrupted again and again without a step in between."""
    lines, _ = journal.entries(run_dir)
    steps = [line.get("step") for line in lines if line.get("state") == State.preempted.value]
    if len(steps) >= STANDSTILLS and len(set(steps[-STANDSTILLS:])) == 1:
        error = f"interrupted {STANDSTILLS} times at step {steps[-1]}: the time limit is too short to come further"
        with claimed(run_dir):
            Journal(run_dir).state(State.failed, error=error)
        raise TrialFailed(f"{run_dir.name}: {error}")


def _say_where(folders: list[Path]) -> None:
    """Note this machine in the trials' provenance, which the machine that submitted them wrote."""
    here = machine()
    for folder in folders:
        ran = journal.glance(folder)
        if not ran.state.terminal:
            path = folder / ("provenance.json" if ran.started is None else "provenance-resumed.json")
            known = json.loads(path.read_text()) if path.exists() else {}
            write_atomic(path, json.dumps({**known, **here}, indent=1))


@contextlib.contextmanager
def _mirrored(runs: Path, submission: Submission) -> Iterator[None]:
    """Mirror the study to MLflow meanwhile, unless another of its workers does; then have a last look at the end."""
    study, tracking = measured_study(submission.study), TrackingSpec(**submission.tracking)
    place = ledger.study_dir(runs, study) / ".mirror"
    mirrors = tracking.mlflow and _mirrors(runs, study, tracking, place)
    with mirrors or contextlib.nullcontext(True) as mine:
        yield
    if not mine:
        with _mirrors(runs, study, tracking, place):
            pass


@contextlib.contextmanager
def _mirrors(runs: Path, study: str, tracking: TrackingSpec, place: Path) -> Iterator[bool]:
    """Hold the study's only mirror; False where another worker does."""
    place.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(claimed(place))
            held.enter_context(Mirror(runs, study, tracking, Console(stderr=True)))
            mine = True
        except Busy:
            mine = False
        yield mine


def main(arguments: list[str]) -> int:
    """Entry point of a task; the traceback of a failed trial goes to the job's log."""
    folder, offset = Path(arguments[0]), int(arguments[1])
    if submissions.read(folder).text is None:
        run_task(folder, offset)
    else:
        from deltalab.dispatch.shards import make_task_shards

        make_task_shards(folder, offset)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
