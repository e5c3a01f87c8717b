"""Launch a plan: skip what is done or in a queue, hand the rest to workers, say how it went or how to follow."""

import contextlib
import json
import shlex
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from deltalab.dispatch import slurm, snapshot
from deltalab.dispatch.follow import Work, run_inline, run_pool, stops_on_ctrl_c
from deltalab.dispatch.job import CANCEL, LOG, StopSignal
from deltalab.dispatch.mirror import Mirror, say_curves
from deltalab.dispatch.progress import duration
from deltalab.dispatch.scheduler import SlurmError
from deltalab.dispatch.states import Observer
from deltalab.errors import DeltalabError
from deltalab.spec.evaluation import measured_study
from deltalab.spec.launcher import Code, Kind, LauncherSpec
from deltalab.spec.tracking import TrackingSpec
from deltalab.study import ledger, submissions
from deltalab.study.check import differences
from deltalab.study.plan import Plan
from deltalab.study.submissions import Submission
from deltalab.track.claim import claimed
from deltalab.track.files import naming_full_disk, refuse_unwritable, write_atomic
from deltalab.track.journal import Journal, Record, State
from deltalab.wording import many

if TYPE_CHECKING:
    from deltalab.dispatch.job import World

TO_LAUNCH = (State.planned, State.preempted, State.lost)
TO_RETRY = (State.failed, State.diverged, State.cancelled)
LOCK_SECONDS = 90.0
"""How long a launch waits for another launch of the same study to have submitted."""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """One launch of one study.

    Attributes:
        replan: makes the plan as things stand now.
        launcher: how to run.
        tracking: whether and where to mirror.
        observer: looks at states in the runs folder.
        root: the checkout whose code is run.
        command: the command line, for the record.
        arguments: of launch.py, to give the same command again.
        console: where to show.
        world: ranks that train with this process, None for it alone.
        wanted: trials asked for by id whatever their state, None for those a study still misses.
    """

    replan: Callable[[], Plan]
    launcher: LauncherSpec
    tracking: TrackingSpec
    observer: Observer
    root: Path
    command: str
    arguments: list[str]
    console: Console
    world: "World | None" = None
    wanted: list[str] | None = None

    @property
    def runs(self) -> Path:
        return self.observer.runs

    def run(self, plan: Plan) -> int:
        """Record the study and run or submit what is missing.

        Returns:
            Exit code: 0 all completed (or diverged, a result) or submitted, 1 some failed or could not be submitted,
            130 interrupted.

        Raises:
            CannotWrite: the runs folder cannot be written.
        """
        with naming_full_disk(self.runs):
            refuse_unwritable(self.runs)
            return self._submit(plan) if self.launcher.kind is Kind.slurm else self._run_here(plan)

    def _run_here(self, plan: Plan) -> int:
        began, stop, ran = time.monotonic(), StopSignal(), False
        while (attended := self._attend(plan, stop)) is not None:
            plan, ran = attended, True
            if stop() or not plan.waiting:
                break
            before, plan = plan, self.replan()  # what tuning chose is known now
            if not set(plan.specs) - set(before.specs):
                break
        return _closing(plan, self.observer, stop, ran, time.monotonic() - began, self.console)

    def _attend(self, plan: Plan, stop: StopSignal) -> Plan | None:
        """Run here and wait to the end; the plan with what has joined, None when there is nothing to run."""
        with contextlib.ExitStack() as held:
            with self._alone(plan) as plan:
                pending = self._pending(plan)
                elsewhere = plan.with_state(State.running, State.queued)
                if not pending and not elsewhere:
                    self._record(plan)
                    self.console.print("Every trial is done already; nothing to run.", highlight=False)
                    return None
                code = snapshot.take(self.root, self.runs)
                submission = self._new_submission(plan, code, [[trial] for trial in pending])
                folder = submissions.write(self.runs, submission)
                held.enter_context(claimed(folder))
                self._queue(plan, pending, submission)
                self._record(plan)
            if elsewhere:
                self.console.print(
                    f"{many(len(elsewhere), 'trial', 'runs', 'run')} in another process; following", highlight=False
                )
            work = Work(
                plan=plan,
                pending=pending,
                code=code,
                launcher=self.launcher,
                observer=self.observer,
                requeue=lambda work, trials: self._queue(
                    work.plan, {t: work.pending.get(t, code) for t in trials}, submission
                ),
                grow=lambda work: self._grown(work, folder),
                console=self.console,
                world=self.world,
            )
            with Mirror(self.runs, measured_study(plan.study.name), self.tracking, self.console), stops_on_ctrl_c(stop):
                if self.launcher.kind is Kind.inline:
                    run_inline(work, stop)
                else:
                    plan = run_pool(work, folder, stop)
        if self.tracking.mlflow:
            say_curves(self.console, self.runs, measured_study(plan.study.name))
        return plan

    def _grown(self, work: Work, folder: Path) -> Work:
        """The work with the trials that the study has got since, queued and on record, with the code of this launch.

        Raises:
            Busy: another launch of the study decides what to run.
        """
        try:
            plan = self.replan()
        except DeltalabError:  # a cell of which no value can be trained, say: told when nothing is left to run
            return work
        if not set(plan.specs) > set(work.plan.specs):  # nothing new, or the configuration was edited meanwhile
            return work
        with self._alone(plan, patience=0.0) as plan:
            pending = {t: c for t, c in self._pending(plan, work.code).items() if t not in work.plan.specs}
            submission = submissions.read(folder)
            submission = replace(submission, tasks=[*submission.tasks, *([trial] for trial in pending)])
            submissions.write(self.runs, submission)
            self._queue(plan, pending, submission)
            self._record(plan)
        return replace(work, plan=plan, pending=work.pending | pending)

    def _submit(self, plan: Plan) -> int:
        """Queue in Slurm and return at once."""
        submitted: list[Submission] = []
        exit_code = 0
        with self._alone(plan) as plan:
            pending = self._pending(plan)
            for code in dict.fromkeys(pending.values()):
                trials = [trial for trial, used in pending.items() if used == code]
                size = self.launcher.trials_per_job
                tasks = [trials[start : start + size] for start in range(0, len(trials), size)]
                submission = self._new_submission(plan, code, tasks)
                with claimed(submissions.write(self.runs, submission)):
                    self._queue(plan, dict.fromkeys(trials, code), submission)
                    self._record(plan)
                    submission, some_left = self._sbatch(submission)
                submitted.append(submission)
                exit_code = max(exit_code, some_left)
            if not pending:
                self._record(plan)
            follower = self._follow_up(plan, submitted)
        _say_submitted(plan, submitted, follower, self.console)
        return exit_code

    def _sbatch(self, submission: Submission) -> tuple[Submission, int]:
        """Submit; trials that could not be submitted are not queued any more."""
        error = ""
        try:
            submission = slurm.submit(self.runs, submission, self._say)
        except SlurmError as refused:
            error = str(refused)
            submission = submissions.read(submissions.folder_of(self.runs, submission.token))
        done = sum(job["count"] for job in submission.jobs)
        left = [trial for trials in submission.tasks[done:] for trial in trials]
        for trial in left:
            Journal(ledger.trial_dir(self.runs, trial)).state(State.planned)
        if left:
            why = error or "the cluster takes no more jobs of yours at present"
            self.console.print(
                f"{many(len(left), 'trial', 'was', 'were')} not submitted: {why}; the same command submits them later",
                style="red",
                highlight=False,
                soft_wrap=True,
            )
        return submission, int(bool(left))

    def _say(self, line: str) -> None:
        self.console.print(line, highlight=False, soft_wrap=True)

    def _follow_up(self, plan: Plan, submitted: list[Submission]) -> str | None:
        """A job that launches the compared trials once those that tune are over."""
        jobs = [submission for submission in submitted if submission.jobs]
        if not plan.waiting or not jobs or not self.arguments:
            return None
        follower = slurm.submit_follower(self.runs, jobs, self.arguments)
        submissions.write(self.runs, replace(jobs[-1], follower=follower))
        return follower

    @contextlib.contextmanager
    def _alone(self, plan: Plan, patience: float = LOCK_SECONDS) -> Iterator[Plan]:
        """The plan with states as they are while no other launch of the study decides what to run."""
        folder = ledger.study_dir(self.runs, plan.study.name)
        folder.mkdir(parents=True, exist_ok=True)
        with claimed(folder, patience):
            yield replace(plan, records=self.observer.records(plan.specs))

    def _pending(self, plan: Plan, code: str | None = None) -> dict[str, str]:
        """Trial id → digest of the code it is to run, ``code`` or the present one, of trials that neither run, wait in
        a queue nor are done."""
        states = TO_LAUNCH + (TO_RETRY if self.launcher.retry_failed or self.wanted is not None else ())
        trials = [t for t in plan.with_state(*states) if self.wanted is None or t in self.wanted]
        if code is None:
            code = snapshot.take(self.root, self.runs) if trials else ""
        if self.launcher.code is Code.current:
            return dict.fromkeys(trials, code)
        return {trial: snapshot.of_trial(self.runs, ledger.trial_dir(self.runs, trial)) or code for trial in trials}

    def _new_submission(self, plan: Plan, code: str, tasks: list[list[str]]) -> Submission:
        return submissions.new_submission(plan.study.name, self.command, code, self.launcher, self.tracking, tasks)

    def _record(self, plan: Plan) -> None:
        """Put the study on record, once its trials are on disk: whoever reads the record finds them."""
        if self.wanted is not None:
            return
        _say_if_replaced(plan, self.runs, self.console)
        origin = snapshot.provenance_of(self.root)
        ledger.write_study(self.runs, plan.study, plan.cells, self.command, origin, self.launcher, self.tracking)

    def _queue(self, plan: Plan, pending: Mapping[str, str], submission: Submission) -> None:
        """Freeze trials and journal that they wait."""
        here = snapshot.provenance_of(self.root)
        for trial, code in pending.items():
            folder = ledger.freeze(self.runs, plan.specs[trial])
            kept = "provenance.json" if plan.records[trial].started is None else "provenance-resumed.json"
            origin = {**here, **snapshot.origin(self.runs, code), "snapshot": code}
            write_atomic(folder / kept, json.dumps(origin, indent=1))
            (folder / CANCEL).unlink(missing_ok=True)
            kind = submission.launcher["kind"]
            Journal(folder).state(State.queued, submission=submission.token, kind=kind)


def _say_if_replaced(plan: Plan, runs: Path, console: Console) -> None:
    """One line when an earlier launch of this name asked for other trials: a study's record is its last launch."""
    if plan.study.name not in ledger.list_studies(runs):
        return
    before = {t for cell in ledger.read_study(runs, plan.study.name).cells for _, t in cell.named_trials()}
    if gone := before - set(plan.specs):
        console.print(
            f"An earlier launch of {plan.study.name} asked for {many(len(gone), 'other trial')}, kept in "
            f"{runs / 'trials'}, tables now show this launch",
            highlight=False,
            soft_wrap=True,
        )


def _say_submitted(plan: Plan, submitted: list[Submission], follower: str | None, console: Console) -> None:
    """The job ids, and what to type next."""
    lines = []
    for submission in submitted:
        for job in submission.jobs:
            trials = sum(len(task) for task in submission.tasks[job["offset"] : job["offset"] + job["count"]])
            lines.append(f"Submitted batch array {job['id']}: {many(trials, 'trial')} in {many(job['count'], 'task')}")
    if not submitted:
        lines.append("Every trial is done, running or in the queue already; nothing to submit.")
    if follower:
        lines.append(f"Submitted batch job {follower}: launches the compared trials once tuning has ended")
    elif plan.waiting:
        lines.append(
            f"{many(len(plan.waiting), 'cell', 'waits', 'wait')} for tuning; the same command submits the trials once "
            "it has ended"
        )
    if submitted and not any(submission.jobs for submission in submitted):
        return
    name = shlex.quote(plan.study.name)
    lines.append(
        f"Follow: deltalab status {name} --watch    Log: deltalab logs TRIAL -f    Stop: deltalab cancel {name}"
    )
    compared = shlex.quote(measured_study(plan.study.name))
    lines.append(f"Compare: python -m analysis.compare {compared} (also half-way)")
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


def _closing(plan: Plan, observer: Observer, stop: StopSignal, ran: bool, seconds: float, console: Console) -> int:
    """Say how the launch ended; returns the exit code."""
    records = observer.records(plan.specs)
    counts = Counter(record.state for record in records.values())
    said = ", ".join(f"{counts[state]} {state.value}" for state in State if counts[state])
    console.print(f"{plan.study.name}: {said}" + (f" in {duration(seconds)}" if ran else ""), highlight=False)
    for line in _unfinished(plan, records, observer.runs, stop()):
        console.print(line, style="red", highlight=False, soft_wrap=True)
    wrong = differences(plan.study.equivalence, plan.cells, records)
    for line in wrong:
        console.print(line, style="red", highlight=False, soft_wrap=True)
    if stop():
        console.print("Interrupted; nothing is lost: the same command continues from the checkpoints.")
        return 130
    if counts[State.failed] and not ran:
        console.print("Run them again with hydra.launcher.retry_failed=true", highlight=False)
    ended = counts[State.completed] + counts[State.diverged] == len(records) and not plan.waiting
    return 0 if ended and not wrong else 1


def _unfinished(plan: Plan, records: Mapping[str, Record], runs: Path, stopped: bool) -> Iterator[str]:
    """A line for each trial that began and came to no result, and one each for all that wait or run elsewhere."""
    waiting, elsewhere, dead = 0, 0, {}
    for trial, record in records.items():
        log = ledger.trial_dir(runs, trial) / LOG
        where = f"; log {log}" if log.exists() else ""
        if record.state is State.running:
            elsewhere += 1
        elif record.state in (State.planned, State.queued) and (stopped or record.submission is None):
            waiting += 1
        elif record.state in (State.planned, State.queued) and not where:
            dead.setdefault(record.submission, []).append(trial)
        elif record.state not in (State.completed, State.diverged, State.preempted):
            error = record.details.get("error", "" if record.state is State.cancelled else "it did not run to its end")
            yield f"  {trial} {record.state.value}{error and ': '}{error}{where}"
    if waiting:
        later = f", {many(plan.coming, 'more trial', 'waits', 'wait')} for tuning" if plan.coming else ""
        yield f"  {many(waiting, 'trial')} did not start{later}"
    for token, trials in dead.items():
        logs = submissions.folder_of(runs, token) / "logs"
        yield f"  {many(len(trials), 'trial')} did not start, what workers said is in {logs}"
    if elsewhere:
        yield f"  {many(elsewhere, 'trial', 'runs', 'run')} in another process"
