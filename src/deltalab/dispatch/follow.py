"""Run a launch's trials on this machine, in a pool or in this process, and show them until the last one ends."""

import contextlib
import signal
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from deltalab.dispatch.job import LOG, StopSignal, Worker
from deltalab.dispatch.local import LocalPool
from deltalab.dispatch.progress import Followed, Progress
from deltalab.dispatch.ranks import threads_of
from deltalab.dispatch.states import Observer
from deltalab.errors import Busy
from deltalab.spec.launcher import LauncherSpec
from deltalab.study import ledger
from deltalab.study.plan import Plan
from deltalab.track.claim import alive
from deltalab.track.journal import State

if TYPE_CHECKING:
    from deltalab.dispatch.job import World

TO_RUN = (State.planned, State.queued, State.preempted, State.lost)
POLL_SECONDS, ELSEWHERE_SECONDS = 0.2, 1.0
CHANCES = 3
"""Times a launch queues a trial again that its worker did not bring to an end."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a launch has to do.

    Attributes:
        plan: the study.
        pending: trial id → digest of the code it runs, in order. The plan's others are done, or run in another launch:
            then they are followed, and run here if that launch dies.
        code: digest of the present code.
        launcher: how to run.
        observer: looks at states.
        requeue: freezes trials of a work and journals that they wait, also where a run directory is gone.
        grow: the work with the compared trials of cells whose tuning has ended by now, queued; the same where none has.
        console: where to show.
        world: the ranks that train each trial together, None for this process alone.
    """

    plan: Plan
    pending: dict[str, str]
    code: str
    launcher: LauncherSpec
    observer: Observer
    requeue: Callable[["Work", list[str]], object]
    grow: Callable[["Work"], "Work"]
    console: Console
    world: "World | None" = None

    @property
    def runs(self) -> Path:
        return self.observer.runs

    def batches(self, trials: list[str]) -> list[tuple[Path, str]]:
        """(run directory, code) of trials."""
        return [(ledger.trial_dir(self.runs, trial), self.pending.get(trial, self.code)) for trial in trials]

    def followed(self, but: Container[str] = ()) -> Iterator[Followed]:
        """Every trial of the study with its display name, less those in ``but``."""
        names = self.plan.names
        for trial in (trial for trial in self.plan.specs if trial not in but):
            folder = ledger.trial_dir(self.runs, trial)
            yield Followed(trial, names[trial], folder, skip_state=trial in self.pending)

    def busy(self) -> bool:
        """Whether any of the plan's trials still runs, in whatever process."""
        return any(alive(ledger.trial_dir(self.runs, trial)) for trial in self.plan.specs)

    def left(self, again: Counter[str]) -> tuple[list[str], bool]:
        """Trials still to run here, and whether others wait in another launch's queue.

        Those to run never started, were interrupted elsewhere, or had a worker that died or met a full disk: up to a
        bound, so that a trial that kills its worker does not run for ever.
        """
        records = self.observer.records(self.plan.specs)
        elsewhere = {t for t, r in records.items() if r.state is State.queued and t not in self.pending}
        open_ = (t for t, r in records.items() if r.state in TO_RUN and t not in elsewhere)
        return [trial for trial in open_ if again[trial] < CHANCES], bool(elsewhere)


class Growth:
    """Lets compared trials join the pool as soon as their cell's tuning has ended, so that no worker waits for the
    slowest cell. A cell is asked about once: where nothing can be chosen, the launch says why at its end."""

    def __init__(self) -> None:
        self._asked: set[str] = set()

    def grown(self, work: Work, pool: LocalPool, progress: Progress) -> Work:
        """The work with the trials that have joined the pool and the display, or the same."""
        ended = {c.name for c in work.plan.waiting if progress.ended.issuperset(c.tuning_trials)} - self._asked
        if not ended:
            return work
        try:
            more = work.grow(work)
        except Busy:
            return work  # another launch decides what to run just now
        self._asked |= ended
        known = work.plan.specs
        pool.add(more.batches([trial for trial in more.pending if trial not in known]))
        progress.add(more.followed(but=known), coming=more.plan.coming)
        return more


def run_pool(work: Work, folder: Path, stop: StopSignal) -> Plan:
    """Run the work in a pool of workers.

    Args:
        work: what to do.
        folder: the submission's folder, for the workers' files.
        stop: asked by Ctrl-C.

    Returns:
        The plan with every trial that has joined meanwhile.
    """
    pool = LocalPool(work.launcher, work.runs, folder / "logs")
    pool.add(work.batches(list(work.pending)))
    again: Counter[str] = Counter()
    stopping, growth = False, Growth()
    with Progress(work.console, work.followed(), work.plan.coming) as progress:
        while True:
            working = pool.turn()
            progress.show()
            if stop() and not stopping:
                stopping = True
                work.console.print("Stopping: running trials write a checkpoint (a few seconds).", highlight=False)
            if stopping:
                pool.stop()  # again and again: a worker that is just starting does not listen yet
            if stopping and not working:
                return work.plan
            if not stopping and (grown := growth.grown(work, pool, progress)) is not work:
                work = grown
                continue  # what has joined is in the pool's queue: nothing is over
            if not working and not work.busy():
                left, elsewhere = work.left(again)
                if left:
                    again.update(left)
                    work.requeue(work, left)
                    pool.add(work.batches(left), alone=True)
                elif not elsewhere:
                    return work.plan
                else:
                    time.sleep(ELSEWHERE_SECONDS)
            time.sleep(POLL_SECONDS)


def run_inline(work: Work, stop: StopSignal) -> None:
    """One trial after another in this process, with the present code; a trial that fails is in its log, the others go
    on.

    Trials that run in another launch are left to it.
    """
    worker = Worker(work.launcher.device, threads_of(work.launcher), stop, work.world)
    with Progress(work.console, work.followed(), work.plan.coming) as progress, _refreshing(progress):
        for folder, _ in work.batches(list(work.pending)):
            if stop():
                return
            if work.world is not None:
                work.world.share(str(folder))
            try:
                worker.run(folder)
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
def stops_on_ctrl_c(stop: StopSignal) -> Iterator[None]:
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
