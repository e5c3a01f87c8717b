"""``deltalab prepare-eval``: the data sets of the paper's tables into a folder, for machines that reach no hub."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from deltalab.errors import ConfigError, DeltalabError, UsageError
from deltalab.evals.sets import SETS, OutOfReach, keep
from deltalab.spec.suite import Suite, read_pairs
from deltalab.wording import many

ALL = "all"


def run_prepare_eval(settings: Sequence[str]) -> None:
    """Download what is missing, and say what is there; one data set that cannot be had keeps none of the others back.

    Args:
        settings: ``out=DIR``, and ``suite=`` a table or ``all``, which is the default.

    Raises:
        UsageError: a setting that is none, no folder.
        ConfigError: no such suite; a data set that is there has changed.
        DeltalabError: data sets that could not be had.
        DiskFull: there is no room.
    """
    given = read_pairs(settings, ("suite", "out"))
    if not given.get("out"):
        raise UsageError("out: none given; allowed is out=DIR, the folder that data_dir= names later")
    asked, names = given.get("suite", ALL), [suite.value for suite in SETS]
    if asked not in (ALL, *names):
        raise ConfigError("suite", asked, [*names, ALL])
    out, failed = Path(given["out"]), defaultdict[str, list[str]](list)
    sets = [name for suite, sets in SETS.items() if asked in (ALL, suite.value) for name in sets]
    console = Console(stderr=True)
    for name in sets:
        try:
            with console.status(name):
                said = keep(name, out).manifest
        except OutOfReach as error:
            failed[error.cause].append(f"{name} ({error.wanted.hub})")
            continue
        source = f"{said['hub']}@{said['revision'][:8]}, {said['split']}"
        print(f"{name}: {many(said['rows'], 'row')} of {source}", flush=True)
    if failed:
        there = f"{len(sets) - sum(map(len, failed.values()))} of {many(len(sets), 'data set')}"
        said = "; ".join(f"{', '.join(names)}: {cause}" for cause, names in failed.items())
        raise DeltalabError(f"{out}: {there}; run again for the others, what is there stays: {said}")
    print(f"{out}: {many(len(sets), 'data set')}; deltalab eval TRIAL {_use(asked, out)}")


def _use(asked: str, out: Path) -> str:
    if asked == Suite.table3.value:
        return f"suite={asked} haystack={out}/essays/essays.parquet"
    return f"suite={Suite.table2.value if asked == ALL else asked} data_dir={out}"
