"""Where the numbers come from: trials, commits, dates, machines, packages."""

import time

from analysis.collate import Results
from deltalab.track.journal import State
from deltalab.wording import many


def provenance_line(results: Results) -> str:
    """Study, trials, commit, dates and hardware in one line; ``trial_ids`` goes on from there."""
    states = results.count()
    counted = ", ".join(f"{states[state.value]} {state.value}" for state in State if states[state.value])
    parts = [
        f"study {results.record.name}",
        f"{many(sum(states.values()), 'trial')} ({counted})",
        f"commit {commits(results)}",
        f"launched {day(results.record.created)}",
        ran(results),
        "; ".join(hardware(results)),
    ]
    return " · ".join(part for part in parts if part)


SHORT, MOST_IDS = 8, 48
"""Characters of a trial's id that are shown (its beginning names it in every command), and ids shown."""


def trial_ids(results: Results) -> str:
    """``trials 3f2a91c4, …``, by cell and seed."""
    ids = [trial[:SHORT] for trial in dict.fromkeys(results.trials["trial"])]
    more = f" and {len(ids) - MOST_IDS:,} more in trials.csv" if len(ids) > MOST_IDS else ""
    return f"{'trial' if len(ids) == 1 else 'trials'} {', '.join(ids[:MOST_IDS])}{more}"


def ran(results: Results) -> str:
    """The days on which the trials ran; nothing before any has."""
    trials = results.trials[results.trials["started"].notna()]
    begun = [float(start) for start in trials["started"]]
    if not begun:
        return ""
    ended = [start + float(took) for start, took in zip(begun, trials["seconds"], strict=True) if took >= 0]
    first, last = day(min(begun)), day(max([*begun, *ended]))
    return f"ran {first}" if first == last else f"ran {first} to {last}"


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
