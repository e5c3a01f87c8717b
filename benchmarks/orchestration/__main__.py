"""What launching costs, beside hydra-submitit-launcher: ``python -m benchmarks.orchestration [--quick] [--only NAME]``.

* slurm: from the command to 200 trials in a real Slurm's queue, ours and the peer's: time, CPU, calls to the controller
* pool: what the local pool adds to each trial, ours and the peer's
* plan, relaunch, status: 1,000 trials planned (10,000 too), launched again when complete, and looked at

The peer is installed with ``pip install -e '.[bench]'``; Slurm is brought up by ``tests/slurm/up.sh`` where it is
installed (``make test-slurm`` installs it). Where either is missing its figures are, and the reason is said. Every
figure is the least of three rounds, ours and the peer's in turn (one round of pool, of 10,000 trials and of --quick).

Exit code 1 if a figure is above what is promised of it (of a few trials, under --quick, nothing is).
"""

import argparse
import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

from rich.console import Console

from benchmarks.orchestration import pool, scale, slurm
from benchmarks.orchestration.desk import Failed
from benchmarks.orchestration.rows import Row, table_of
from deltalab.track.provenance import machine

NAMES = ("slurm", "pool", "plan", "relaunch", "status")
PEER = "hydra-submitit-launcher"
BUSY = 0.5
"""Load per core from which wall times are in doubt."""


@dataclass(frozen=True)
class Sizes:
    """How many trials each benchmark takes, and rounds."""

    slurm: int = 200
    pool: int = 24
    plan: tuple[int, ...] = (1_000, 10_000)
    complete: int = 1_000
    rounds: int = 3


QUICK = Sizes(slurm=4, pool=2, plan=(20,), complete=20, rounds=1)


def missing_peer() -> str:
    """Why the peer cannot be measured, or ""."""
    if importlib.util.find_spec("hydra_plugins.hydra_submitit_launcher") is None:
        return f"left out, {PEER} is not installed (pip install -e '.[bench]')"
    return ""


def measure(names: Sequence[str], sizes: Sizes, folder: Path) -> Iterator[list[Row]]:
    """The rows of each benchmark, as they come."""
    peer = not missing_peer()
    if "slurm" in names and not slurm.missing():
        yield slurm.measure(folder / "slurm", sizes.slurm, sizes.rounds, peer)
    if "pool" in names:
        yield pool.measure(folder / "pool", sizes.pool, 1, peer)
    if "plan" in names:
        yield scale.plan(folder, sizes.plan, sizes.rounds)
    if {"relaunch", "status"} & set(names):
        study = scale.Complete(folder, sizes.complete)
        if "relaunch" in names:
            yield study.relaunch(sizes.rounds)
        if "status" in names:
            yield study.status(sizes.rounds)


def main(arguments: Sequence[str] | None = None) -> int:
    """The table, then what is missed; the exit code."""
    options = _options(arguments)
    sizes = QUICK if options.quick else Sizes()
    sizes = replace(sizes, slurm=options.trials or sizes.slurm)
    names, before = options.only or NAMES, os.getloadavg()[0]
    rows: list[Row] = []
    errors = []
    with tempfile.TemporaryDirectory(prefix="deltalab-bench-") as folder:
        try:
            for part in measure(names, sizes, Path(folder)):
                rows += part
        except Failed as failure:  # what came before it is shown all the same
            errors.append(str(failure))
    if options.quick:
        rows = [replace(row, most=None, beats=False) for row in rows]
    title = machine()["hardware"]
    notes = [f"figures: the least of {sizes.rounds} rounds (pool and 10,000 trials: one)", *_notes(names, before)]
    if options.json:
        figures = [{**asdict(row), "ratio": row.ratio, "missed": row.shortfall()} for row in rows]
        options.json.write_text(json.dumps({"title": title, "notes": notes, "figures": figures}, indent=1))
    console = Console(width=max(120, Console().width))
    if rows:
        console.print(table_of(rows, title))
    for line in notes:
        console.print(line, markup=False, highlight=False)
    errors += [line for row in rows if (line := row.shortfall())]
    for line in errors:
        print(f"orchestration: {line}", file=sys.stderr)
    return 1 if errors else 0


def _notes(names: Sequence[str], load: float) -> list[str]:
    """What the figures do not say."""
    notes = [f"peer: {missing_peer() or f'{PEER} {version(PEER)}'}"]
    if "slurm" in names:
        notes.append(
            f"slurm: {slurm.missing() or 'the peer waits for its jobs to end: it was killed once all were queued'}"
        )
    if load > BUSY * len(os.sched_getaffinity(0)):
        notes.append(f"busy: the load was {load:.1f} before; compare CPU times, wall times hold what others took")
    return notes


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few trials, one round: does it run?")
    parser.add_argument("--trials", type=int, help="how many are submitted to Slurm (an even number)")
    parser.add_argument("--only", action="append", choices=NAMES, metavar="NAME", help="this one; may be repeated")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args(arguments)
    if options.trials is not None and (options.trials < 2 or options.trials % 2):
        parser.error(f"--trials {options.trials}: allowed is an even number from 2")
    return options


if __name__ == "__main__":
    sys.exit(main())
