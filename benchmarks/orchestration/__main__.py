"""What launching costs, beside hydra-submitit-launcher: ``python -m benchmarks.orchestration [--quick] [--only NAME]``.

* slurm: from the command to 200 trials in a real Slurm's queue, ours and the peer's: time, CPU, calls to the controller
* pool: what the local pool adds to each trial, ours and the peer's
* plan, relaunch, status: 1,000 trials planned (10,000 too), launched again when complete, and looked at

The peer is installed with ``pip install -e '.[bench]'``; Slurm is brought up by ``tests/slurm/up.sh`` where it is
installed (``make test-slurm`` installs it). Where either is missing its figures are, and the reason is said. Every
figure is the least of three rounds, ours and the peer's in turn (of 10,000 trials, and of --quick, one).

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
from typing import Any

from rich.console import Console

from benchmarks.orchestration import pool, scale, slurm
from benchmarks.orchestration.rows import Row, table_of
from deltalab.track.provenance import machine

NAMES = ("slurm", "pool", "plan", "relaunch", "status")
PEER = "hydra-submitit-launcher"


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
        return f"{PEER} is not installed (pip install -e '.[bench]')"
    return ""


def measure(names: Sequence[str], sizes: Sizes, folder: Path) -> Iterator[list[Row]]:
    """The rows of each benchmark, as they come."""
    peer = not missing_peer()
    if "slurm" in names and not slurm.missing():
        yield slurm.measure(folder / "slurm", sizes.slurm, sizes.rounds, peer)
    if "pool" in names:
        yield pool.measure(folder / "pool", sizes.pool, sizes.rounds, peer)
    if "plan" in names:
        yield scale.plan(folder, sizes.plan, sizes.rounds)
    if "relaunch" in names or "status" in names:
        study = scale.Complete(folder, sizes.complete)
        if "relaunch" in names:
            yield study.relaunch(sizes.rounds)
        if "status" in names:
            yield study.status(sizes.rounds)


def main(arguments: Sequence[str] | None = None) -> int:
    """The table, then what is missed; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few trials, one round: does it run?")
    parser.add_argument("--trials", type=int, help="how many are submitted to Slurm (even)")
    parser.add_argument("--only", action="append", choices=NAMES, help="leave the others out; may be repeated")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args(arguments)
    sizes = QUICK if options.quick else Sizes()
    if options.trials is not None:
        sizes = replace(sizes, slurm=options.trials)
    names, load = options.only or NAMES, os.getloadavg()[0]
    left_out = {"peer": missing_peer(), "slurm": slurm.missing() if "slurm" in names else ""}
    with tempfile.TemporaryDirectory(prefix="deltalab-bench-") as folder:
        rows = [row for part in measure(names, sizes, Path(folder)) for row in part]
    if options.quick:
        rows = [replace(row, most=None, beats=False) for row in rows]
    title = f"{machine()['hardware']}; load {load:.1f} before; least of {sizes.rounds} rounds"
    if options.json:
        options.json.write_text(json.dumps(_plain(rows, title, left_out), indent=1))
    console = Console(width=max(120, Console().width))
    console.print(table_of(rows, title))
    for what, reason in left_out.items():
        said = f"left out, {reason}" if reason else f"{PEER} {version(PEER)}" if what == "peer" else ""
        if said:
            console.print(f"{what}: {said}", markup=False)
    missed = [line for row in rows if (line := row.shortfall())]
    for line in missed:
        print(f"orchestration: {line}", file=sys.stderr)
    return 1 if missed else 0


def _plain(rows: list[Row], title: str, left_out: dict[str, str]) -> dict[str, Any]:
    """For programs."""
    peer = "" if left_out["peer"] else version(PEER)
    figures = [{**asdict(row), "ratio": row.ratio, "missed": row.shortfall()} for row in rows]
    return {"machine": title, "peer": f"{PEER} {peer}".strip(), "left_out": left_out, "rows": figures}


if __name__ == "__main__":
    sys.exit(main())
