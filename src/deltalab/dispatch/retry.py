"""``deltalab retry``: run trials again that failed, were lost, or are named."""

import re
import shlex
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from deltalab.dispatch import steer
from deltalab.dispatch.launch import refuse_impossible
from deltalab.dispatch.show import make_console
from deltalab.dispatch.states import Observer
from deltalab.dispatch.submit import TO_LAUNCH, TO_RETRY, Launch
from deltalab.errors import UsageError
from deltalab.spec import load
from deltalab.spec.launcher import Code, LauncherSpec, launcher_spec
from deltalab.spec.tracking import TrackingSpec
from deltalab.study import ledger
from deltalab.study.ledger import StudyRecord
from deltalab.study.plan import recorded_plan
from deltalab.track.journal import State

UNTOUCHED = (State.running, State.queued, State.completed)
"""States in which a trial named for a retry is left alone."""


@dataclass(frozen=True, kw_only=True)
class Retry:
    """What to run again.

    Attributes:
        runs: the runs folder.
        texts: studies, ids or cells.
        study: where cells are looked for.
        failed: of studies, failed trials only.
        lost: of studies, lost trials only.
        code: ``submitted``, ``current`` or None.
        launcher: a launcher other than the one before, in Hydra's words.
        ask: asks which code, given the files that changed; None where nobody can answer.
    """

    runs: Path
    texts: list[str]
    study: str | None
    failed: bool
    lost: bool
    code: str | None
    launcher: list[str]
    ask: Callable[[list[str]], str] | None


def retry_trials(asked: Retry) -> int:
    """Run trials again as their study ran them; returns the worst exit code.

    Raises:
        NotFoundError: nothing is called so.
        UsageError: the code has changed and nobody said which to use.
    """
    if asked.code not in (None, *(member.value for member in Code)):
        raise UsageError(f"--code {asked.code}: allowed is submitted or current")
    how = read_launcher(asked.launcher)
    observer, launched = Observer(asked.runs), ledger.list_studies(asked.runs)
    chosen: dict[str, list[str]] = {}
    left: dict[str, Counter[State]] = {}
    for text in asked.texts:
        named = steer.find(asked.runs, text, asked.study)
        records = observer.records(n.trial for n in named)
        for one in named:
            state = records[one.trial].state
            whole = text in launched
            if steer.wants_retry(state, asked.failed, asked.lost) if whole else state not in UNTOUCHED:
                chosen.setdefault(one.study, []).append(one.trial)
            elif whole:
                left.setdefault(one.study, Counter())[state] += 1
            else:
                print(f"{one.trial} ({one.name}) is {state.value}: left alone")
    if not chosen:
        print("Nothing to run again.")
        for name, states in left.items():
            print(_what_would(ledger.read_study(asked.runs, name), states))
        return 0
    return max(_relaunch(asked, observer, name, trials, how) for name, trials in chosen.items())


def read_launcher(words: list[str]) -> LauncherSpec | None:
    """The launcher asked for, None for the one before.

    Raises:
        UsageError: a word that says nothing of the launcher, or a value that is not allowed.
    """
    for word in words:
        if not re.match(r"hydra/launcher=|hydra\.launcher\.\w+=", word):
            raise UsageError(f"--set {word}: allowed is hydra/launcher=… or hydra.launcher.KEY=…")
    return load.launcher(words) if words else None


def _what_would(record: StudyRecord, states: Counter[State]) -> str:
    """What there is of a study that a retry leaves alone, and what takes it up."""
    lines = [f"{record.name}: " + ", ".join(f"{states[state]} {state.value}" for state in State if states[state])]
    if resumed := [state.value for state in TO_LAUNCH if states[state]]:
        lines.append(f"  what is {' or '.join(resumed)} goes on with: {record.command}")
    if again := [state.value for state in TO_RETRY if states[state]]:
        lines.append(f"  what is {' or '.join(again)} runs again when named: deltalab retry TRIAL, or a cell")
    return "\n".join(lines)


def _relaunch(asked: Retry, observer: Observer, name: str, trials: list[str], how: LauncherSpec | None) -> int:
    record = ledger.read_study(observer.runs, name)
    code = asked.code
    if code is None and (files := steer.changed_code(load.ROOT, observer, trials)):
        if asked.ask is None:
            more = f" and {len(files) - 1} more" if len(files) > 1 else ""
            raise UsageError(f"{name}: {files[0]}{more} changed since: say --code submitted or --code current")
        code = asked.ask(files)
    how = how or launcher_spec(record.launcher)
    plan = recorded_plan(record, trials, observer.runs, observer.records)
    refuse_impossible(plan, how, retry=True)
    launch = Launch(
        replan=lambda: plan,
        launcher=replace(how, code=Code(code or "current")),
        tracking=TrackingSpec(**record.tracking),
        observer=observer,
        root=load.ROOT,
        command=shlex.join(["deltalab", *sys.argv[1:]]),
        arguments=[],
        console=make_console(),
        wanted=trials,
    )
    return launch.run(plan)
