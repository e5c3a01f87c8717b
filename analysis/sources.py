"""Where the numbers come from: trials, commits, machines, packages."""

import time

from analysis.collate import Results
from deltalab.track.journal import State
from deltalab.wording import many


def provenance_line(results: Results) -> str:
    """Study, trials, commit, date and hardware in one line."""
    states = results.count()
    counted = ", ".join(f"{states[state.value]} {state.value}" for state in State if states[state.value])
    parts = [
        f"study {results.record.name}",
        f"{many(sum(states.values()), 'trial')} ({counted})",
        f"commit {commits(results)}",
        f"launched {day(results.record.created)}",
        "; ".join(hardware(results)),
    ]
    return " · ".join(part for part in parts if part)


def commits(results: Results) -> str:
    """The commit that computed the trials; each with its number of trials where there are several."""
    launch = results.record.provenance
    trials = results.trials.dropna(subset=["commit"]).drop_duplicates("trial")
    found = [(commit, bool(dirty)) for commit, dirty in zip(trials["commit"], trials["dirty"], strict=True)]
    found = found or [(str(launch.get("commit", "unknown")), bool(launch.get("dirty")))]
    distinct = list(dict.fromkeys(found))
    named = [f"{commit[:10]}{' with local changes' if dirty else ''}" for commit, dirty in distinct]
    if len(distinct) == 1:
        return named[0]
    return ", ".join(f"{name} ({many(found.count(key), 'trial')})" for name, key in zip(named, distinct, strict=True))


def hardware(results: Results) -> list[str]:
    """The machines the trials ran on, by their description."""
    found = [str(machine) for machine in results.trials["hardware"].dropna().unique()]
    return found or [str(results.record.provenance.get("hardware") or "unknown hardware")]


def day(moment: float) -> str:
    """``2026-11-23``, in UTC, of seconds since the epoch."""
    return time.strftime("%Y-%m-%d", time.gmtime(moment))
