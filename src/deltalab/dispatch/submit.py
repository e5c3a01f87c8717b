"""Launch a plan: skip what is completed, run or resume the rest, show it, say how it ended."""

import contextlib
import json
import os
import signal
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from deltalab.dispatch.job import LOG, StopSignal, run_one
from deltalab.dispatch.local import LocalPool
from deltalab.dispatch.mirror import Mirror
from deltalab.dispatch.progress import Followed, Progress, duration
from deltalab.dispatch.show import show_plan
from deltalab.errors import Busy
from deltalab.spec.launcher import Kind, LauncherSpec
from deltalab.spec.tracking import TrackingSpec
from deltalab.study import ledger
from deltalab.study.plan import Plan
from deltalab.track.claim import alive
from deltalab.track.files import write_atomic
from deltalab.track.journal import State

TO_RUN = (State.planned, State.queued, State.preempted, State.lost)
TO_RETRY = (State.failed, State.diverged, State.cancelled)
POLL_SECONDS = 0.2
DEATHS = 2
"""Workers that may die over a trial before a launch leaves it."""
ROUNDS = 20
"""Times a launch queues what is left: an end for trials that no worker can even start."""


def launch(
    plan: Plan,
    launcher: LauncherSpec,
    tracking: TrackingSpec,
    runs: Path,
    command: str,
    provenance: dict[str, Any],
    console: Console,
) -> int:
    """Record the study, run what is missing, wait for it.

    Args:
        plan: from ``study.plan.make_plan``.
        launcher: how to run.
        tracking: whether and where to mirror.
        runs: the runs folder.
        command: the command line, for the record.
        provenance: from ``track.provenance``.
        console: where to show.

    Returns:
        Exit code: 0 all completed (or diverged, a result), 1 some failed, 130 interrupted.
    """
    show_plan(console, plan)
    states = TO_RUN + (TO_RETRY if launcher.retry_failed else ())
    pending = plan.with_state(*states)
    elsewhere = plan.with_state(State.running)
    _say_if_replaced(plan, runs, console)
    ledger.write_study(runs, plan.study, plan.cells, command, provenance)
    for trial in pending:
        folder = ledger.freeze(runs, plan.specs[trial])
        kept = "provenance.json" if plan.states[trial] is State.planned else "provenance-resumed.json"
        write_atomic(folder / kept, json.dumps(provenance, indent=1))
    began = time.monotonic()
    stop = StopSignal()
    if pending or elsewhere:
        if elsewhere:
            console.print(f"{len(elsewhere)} trials run in another process; following them", highlight=False)
        work = Work(plan=plan, pending=pending, launcher=launcher, runs=runs, console=console)
        with Mirror(runs, plan.study.name, tracking, console), _stops_on_ctrl_c(stop):
            (_run_inline if launcher.kind is Kind.inline else _run_pool)(work, stop)
    else:
        console.print("Every trial is done already; nothing to run.", highlight=False)
    return _closing(plan, runs, stop, bool(pending), time.monotonic() - began, console)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a launch has to do.

    Attributes:
        plan: the study.
        pending: trial ids to run, in order. The plan's others are done, or run in another launch: then they are
            followed, and run here if that launch dies.
        launcher: how to run.
        runs: the runs folder.
        console: where to show.
    """

    plan: Plan
    pending: list[str]
    launcher: LauncherSpec
    runs: Path
    console: Console

    def folders(self, trials: list[str]) -> list[Path]:
        """Run directories of trials."""
        return [ledger.trial_dir(self.runs, trial) for trial in trials]

    def followed(self) -> Iterator[Followed]:
        """Every trial of the study with its display name."""
        names = {trial: f"{cell.name} seed={seed}" for cell in self.plan.cells for seed, trial in cell.trials.items()}
        for trial in self.plan.specs:
            folder = ledger.trial_dir(self.runs, trial)
            yield Followed(trial, names[trial], folder, skip_state=trial in self.pending)

    def busy(self) -> bool:
        """Whether any of the plan's trials still runs, in whatever process."""
        return any(alive(folder) for folder in self.folders(list(self.plan.specs)))

    def unfinished(self, deaths: Counter[str]) -> list[str]:
        """Trials still to run: never started, interrupted elsewhere, or with a worker that died (counted, up to a
        bound, so that a trial that kills its worker does not run for ever)."""
        states = {trial: ledger.state_of(self.runs, trial) for trial in self.plan.specs}
        deaths.update(trial for trial, state in states.items() if state is State.lost)
        return [trial for trial, state in states.items() if state in TO_RUN and deaths[trial] < DEATHS]


def _run_pool(work: Work, stop: StopSignal) -> None:
    pool = LocalPool(work.launcher, work.runs / ".submitit")
    pool.add(work.folders(work.pending))
    deaths: Counter[str] = Counter()
    stopping = False
    rounds = 0
    with Progress(work.console, work.followed()) as progress:
        while True:
            working = pool.turn()
            progress.show()
            if stop() and not stopping:
                stopping = True
                work.console.print("Stopping: running trials write a checkpoint (a few seconds).", highlight=False)
            if stopping:
                pool.stop()  # again and again: a worker that is just starting does not listen yet
            if stopping and not working:
                return
            if not working and not work.busy():
                again, rounds = work.unfinished(deaths), rounds + 1
                if not again or rounds > ROUNDS:
                    return
                pool.add(work.folders(again), alone=True)
            time.sleep(POLL_SECONDS)


def _run_inline(work: Work, stop: StopSignal) -> None:
    """One trial after another in this process; a trial that fails is in its log, the others go on.

    Trials that run in another launch are left to it.
    """
    threads = work.launcher.threads or len(os.sched_getaffinity(0))
    with Progress(work.console, work.followed()) as progress, _refreshing(progress):
        for folder in work.folders(work.pending):
            if stop():
                return
            try:
                run_one(folder, work.launcher.device, threads, stop)
            except Busy as busy:
                work.console.print(str(busy), highlight=False)
            except Exception:
                with (folder / LOG).open("a") as log:
                    traceback.print_exc(file=log)


@contextlib.contextmanager
def _refreshing(progress: Progress) -> Iterator[None]:
    """Keep the display fresh from a thread while this one trains."""
    done = threading.Event()

    def refresh() -> None:
        while not done.wait(0.3):
            progress.show()

    thread = threading.Thread(target=refresh, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        progress.show()


@contextlib.contextmanager
def _stops_on_ctrl_c(stop: StopSignal) -> Iterator[None]:
    """First Ctrl-C (or SIGTERM) asks for a clean stop, a second Ctrl-C interrupts."""

    def ask(signum: int, frame: Any) -> None:
        if stop.asked and signum == signal.SIGINT:
            raise KeyboardInterrupt
        stop.ask()

    former = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _say_if_replaced(plan: Plan, runs: Path, console: Console) -> None:
    """One line when an earlier launch of this name asked for other trials: a study's record is its last launch."""
    if plan.study.name not in ledger.list_studies(runs):
        return
    before = {trial for cell in ledger.read_study(runs, plan.study.name).cells for trial in cell.trials.values()}
    if gone := before - set(plan.specs):
        console.print(
            f"An earlier launch of {plan.study.name} asked for {len(gone)} other trials; they are kept in "
            f"{runs / 'trials'}, tables now show this launch",
            highlight=False,
            soft_wrap=True,
        )


def _closing(plan: Plan, runs: Path, stop: StopSignal, ran: bool, seconds: float, console: Console) -> int:
    """Say how the launch ended; returns the exit code."""
    states = {trial: ledger.state_of(runs, trial) for trial in plan.specs}
    counts = Counter(states.values())
    said = ", ".join(f"{counts[state]} {state.value}" for state in State if counts[state])
    console.print(f"{plan.study.name}: {said}" + (f" in {duration(seconds)}" if ran else ""), highlight=False)
    for trial, state in states.items():
        if state not in (State.completed, State.diverged, State.preempted):
            record = ledger.record_of(runs, trial)
            where = ledger.trial_dir(runs, trial) / LOG
            error = record.details.get("error", "it did not run to its end")
            console.print(
                f"  {trial} {state.value}: {error}; log {where}", style="red", highlight=False, soft_wrap=True
            )
    if stop():
        console.print("Interrupted; nothing is lost: the same command continues from the checkpoints.")
        return 130
    if counts[State.failed] and not ran:
        console.print("Run them again with hydra.launcher.retry_failed=true", highlight=False)
    return 0 if counts[State.completed] + counts[State.diverged] == len(states) else 1
