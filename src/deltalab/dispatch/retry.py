"""``deltalab retry``: run trials again that failed, were lost, or are named."""

import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from deltalab.dispatch import steer
from deltalab.dispatch.show import make_console
from deltalab.dispatch.states import Observer
from deltalab.dispatch.submit import Launch
from deltalab.errors import UsageError
from deltalab.spec import load
from deltalab.spec.launcher import Code, launcher_spec
from deltalab.spec.tracking import TrackingSpec
from deltalab.study import ledger
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
    observer, launched = Observer(asked.runs), ledger.list_studies(asked.runs)
    chosen: dict[str, list[str]] = {}
    for text in asked.texts:
        named = steer.find(asked.runs, text, asked.study)
        records = observer.records(n.trial for n in named)
        for one in named:
            state = records[one.trial].state
            whole = text in launched
            if steer.wants_retry(state, asked.failed, asked.lost) if whole else state not in UNTOUCHED:
                chosen.setdefault(one.study, []).append(one.trial)
            elif not whole:
                print(f"{one.trial} ({one.name}) is {state.value}: left alone")
    if not chosen:
        print("Nothing to run again.")
        return 0
    return max(_relaunch(asked, observer, name, trials) for name, trials in chosen.items())


def _relaunch(asked: Retry, observer: Observer, name: str, trials: list[str]) -> int:
    record = ledger.read_study(observer.runs, name)
    code = asked.code
    if code is None and (files := steer.changed_code(load.ROOT, observer, trials)):
        if asked.ask is None:
            more = f" and {len(files) - 1} more" if len(files) > 1 else ""
            raise UsageError(f"{name}: {files[0]}{more} changed since: say --code submitted or --code current")
        code = asked.ask(files)
    how = load.launcher(asked.launcher) if asked.launcher else launcher_spec(record.launcher)
    plan = recorded_plan(record, trials, observer.runs, observer.records)
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
