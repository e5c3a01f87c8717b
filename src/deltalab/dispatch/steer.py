"""Steering launched trials from anywhere: naming them, cancelling, retrying, reading their logs."""

import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from deltalab.dispatch import scheduler, snapshot
from deltalab.dispatch.job import CANCEL, LOG
from deltalab.dispatch.scheduler import SlurmError
from deltalab.dispatch.states import Observer
from deltalab.errors import Busy, NotFoundError, UsageError
from deltalab.study import ledger, submissions
from deltalab.track.claim import claimed
from deltalab.track.files import write_atomic
from deltalab.track.journal import Journal, State

SHOWN = 5
FOLLOW_SECONDS = 0.5


@dataclass(frozen=True)
class Named:
    """A trial and how it is called in the study it was found in."""

    trial: str
    name: str
    study: str


def find(runs: Path, text: str, study: str | None = None) -> list[Named]:
    """The trials that a text names: a study, an id or the beginning of one, or a cell.

    A cell is named by levels, all or some of them, and perhaps a seed: ``variant=kda seed=1``; it is looked for in the
    study given or else in the one launched last.

    Raises:
        NotFoundError: nothing is called so, or several ids begin so.
    """
    launched = ledger.list_studies(runs)
    if text in launched:
        return _of_study(runs, text)
    if "=" in text:
        where = study or ledger.newest_study(runs)
        asked = set(re.split(r" +(?=\S+=)", text.strip()))  # a level may hold spaces, its factor's name not
        found = [named for parts, named in _parts(runs, where) if asked <= parts] if where else []
        if found:
            return list({named.trial: named for named in found}.values())
        some = _some(runs, where)
        raise NotFoundError(f"{text}: no such cell in study {where}; allowed is levels and a seed, as in {some}")
    ids = sorted(path.name for path in (runs / "trials").glob(f"{text}*")) if text.isalnum() else []
    if len(ids) == 1:
        return [_named(runs, ids[0], study)]
    if ids:
        more = ", ".join(ids[:SHOWN]) + (" …" if len(ids) > SHOWN else "")
        raise NotFoundError(f"{text}: {len(ids)} trials begin so ({more}); allowed is a longer prefix")
    known = ", ".join(launched) or "none"
    raise NotFoundError(f"{text}: no trial, cell or study of {runs} is called so; launched studies: {known}")


def find_one(runs: Path, text: str, study: str | None = None) -> Named:
    """The single trial that a text names.

    Raises:
        NotFoundError: nothing is called so, or several are.
    """
    found = find(runs, text, study)
    if len(found) > 1:
        more = ", ".join(f"{n.trial} ({n.name})" for n in found[:SHOWN]) + (" …" if len(found) > SHOWN else "")
        raise NotFoundError(f"{text}: names {len(found)} trials: {more}; allowed is one: add seed=… or give its id")
    return found[0]


def cancel(observer: Observer, trials: Iterable[str]) -> tuple[list[str], list[str], str]:
    """Cancel trials that have not ended: at once where they wait; where they run, they checkpoint and stop.

    Returns:
        Trials cancelled now, those that run and were asked to stop, and why jobs could not be taken out of Slurm's
        queue ("" where they could); such a job ends as soon as it finds its trials cancelled.
    """
    records = observer.records(trials)
    done, asked = [], []
    for trial, record in records.items():
        folder = ledger.trial_dir(observer.runs, trial)
        if record.state.terminal or not folder.exists():
            continue
        write_atomic(folder / CANCEL, "")
        try:
            with claimed(folder):
                Journal(folder).state(State.cancelled)
                (folder / CANCEL).unlink(missing_ok=True)
            done.append(trial)
        except Busy:
            asked.append(trial)
    tokens = {records[trial].submission for trial in (*done, *asked)}
    refused = ""
    try:
        scheduler.cancel(_emptied_jobs(observer, {token for token in tokens if token}, {*done, *asked}))
    except SlurmError as error:
        refused = str(error)
    return done, asked, refused


def wants_retry(state: State, failed: bool, lost: bool) -> bool:
    """Whether a state is one to try again; without a choice both are."""
    both = not failed and not lost
    return (state is State.failed and (failed or both)) or (state is State.lost and (lost or both))


def changed_code(root: Path, observer: Observer, trials: Iterable[str]) -> list[str]:
    """Source files that changed since trials were first submitted."""
    digests = set()
    for trial in trials:
        try:
            digests.add(snapshot.of_trial(observer.runs, ledger.trial_dir(observer.runs, trial)))
        except UsageError:
            return ["all of it (the code it ran is gone)"]
    return sorted({file for digest in digests if digest for file in snapshot.changed(root, observer.runs, digest)})


def read_log(observer: Observer, trial: str, follow: bool, write: Callable[[bytes], object]) -> None:
    """Write a trial's log, and with ``follow`` what is added until the trial ends.

    Raises:
        NotFoundError: there is no log yet, and it is not followed.
    """
    path = ledger.trial_dir(observer.runs, trial) / LOG
    if not path.exists() and not follow:
        state = observer.records([trial])[trial].state
        raise NotFoundError(f"{trial}: no log yet, it is {state.value}; -f waits for it")
    offset = 0
    while True:
        ended = not follow or observer.records([trial])[trial].state.terminal
        if path.exists():
            with path.open("rb") as file:
                file.seek(offset)
                block = file.read()
            offset += len(block)
            write(block)
            sys.stdout.flush()
        if ended and not offset:
            print(f"{trial} has printed nothing ({path})", file=sys.stderr)
        if ended:
            return
        time.sleep(FOLLOW_SECONDS)


def _emptied_jobs(observer: Observer, tokens: set[str], cancelled: set[str]) -> Iterator[str]:
    """Slurm's arrays and array tasks none of whose trials is to run any more.

    An array whose id is not on record (its launch died) is known by what Slurm said of its trials.
    """
    for token in tokens:
        submission = submissions.read(submissions.folder_of(observer.runs, token))
        if not submission.on_slurm:
            continue
        records = ledger.glances(observer.runs, {trial for trials in submission.tasks for trial in trials} - cancelled)
        empty = [all(t in cancelled or records[t].state.terminal for t in trials) for trials in submission.tasks]
        touched = [not cancelled.isdisjoint(trials) for trials in submission.tasks]
        for job in submission.jobs:
            tasks = range(job["offset"], job["offset"] + job["count"])
            if job["id"] and all(empty[task] for task in tasks):
                yield job["id"]
                continue
            for task in (task for task in tasks if empty[task] and touched[task]):
                said = {observer.jobs[t].job for t in submission.tasks[task] if t in observer.jobs}
                yield from [f"{job['id']}_{task - job['offset']}"] if job["id"] else said
        if all(empty) and submission.follower:
            yield submission.follower


def _of_study(runs: Path, study: str) -> list[Named]:
    named: dict[str, Named] = {}
    for _, one in _parts(runs, study):
        named.setdefault(one.trial, one)
    return list(named.values())


def _parts(runs: Path, study: str) -> Iterator[tuple[set[str], Named]]:
    """Every trial of every cell, also where cells share it, with what names it: its levels, its seed, a tried value."""
    for cell in ledger.read_study(runs, study).cells:
        levels = {f"{factor}={level}" for factor, level in cell.levels.items()}
        stages = [*((value, seeds) for value, seeds in cell.tuning.items()), ("", cell.trials)]
        for value, seeds in stages:
            for seed, trial in seeds.items():
                name = " ".join(filter(None, (cell.name, value, f"seed={seed}")))
                yield levels | {value, f"seed={seed}"}, Named(trial, name, study)


def _named(runs: Path, trial: str, study: str | None) -> Named:
    for name in [study] if study else ledger.list_studies(runs):
        for named in _of_study(runs, name):
            if named.trial == trial:
                return named
    raise NotFoundError(f"{trial}: no launched study{f' {study}' if study else ''} asks for this trial")


def _some(runs: Path, study: str | None) -> str:
    named = _of_study(runs, study) if study else []
    return named[0].name if named else "variant=kda seed=0"


def studies_of(named: Iterable[Named]) -> Iterator[str]:
    """The studies that trials were found in, each once."""
    yield from dict.fromkeys(n.study for n in named)
