"""``plan``, ``relaunch``, ``status``: what a study of many trials takes to plan, and to look at once it is complete."""

import re
from collections.abc import Sequence
from pathlib import Path

from benchmarks.orchestration.desk import VARIANTS, Cost, Desk, Failed, cheapest
from benchmarks.orchestration.rows import MEBI, Row

SEEDS = 4
NAME = "many"
PROMISED = 1000
"""Trials of which the following is promised."""
PLAN_SECONDS, RELAUNCH_SECONDS, STATUS_SECONDS = 10.0, 5.0, 2.0


def plan(folder: Path, sizes: Sequence[int], rounds: int) -> list[Row]:
    """Plan studies that were never run; those larger than PROMISED once."""
    rows = []
    for trials in sizes:
        desk = Desk(folder / f"plan-{trials}")
        command = ("-m", "deltalab", "plan", _study(desk, trials), "--json")
        cost = cheapest(rounds if trials <= PROMISED else 1, lambda d=desk, c=command: d.python(*c))
        what = f"deltalab plan --json, {trials:,} trials"
        rows += _rows(what, cost, trials, PLAN_SECONDS)
        rows.append(Row(what=what, figure="peak memory", unit="MiB", ours=cost.peak / MEBI))
    return rows


class Complete:
    """A study all of whose trials have ended, launched once more; its journals are as long as training makes them.

    Args:
        folder: where its desk goes.
        trials: how many.
    """

    def __init__(self, folder: Path, trials: int) -> None:
        self._desk, self._trials = Desk(folder / "complete"), trials
        study = _study(self._desk, trials)
        self._desk.python("-m", "benchmarks.orchestration.prepare", "complete", str(self._desk.runs), study)
        self._launch = f"study={study}"
        self._desk.launch(self._launch)

    def relaunch(self, rounds: int) -> list[Row]:
        """Give the launch command again: nothing is to be run, and torch is not needed to find that out."""
        what = f"launch.py again, {self._trials:,} complete"
        cost = cheapest(rounds, lambda: self._desk.launch(self._launch))
        if "nothing to run" not in self._desk.said():
            raise Failed(f"a complete study was not found complete\n{self._desk.said()[-2000:]}")
        self._desk.launch(self._launch, importtime=True)
        loaded = re.findall(r"\| +torch(?:\.\S+)?$", self._desk.said(), re.MULTILINE)
        return [
            *_rows(what, cost, self._trials, RELAUNCH_SECONDS),
            Row(what=what, figure="modules of torch it imports", ours=len(loaded), most=0),
        ]

    def status(self, rounds: int) -> list[Row]:
        """Look at its trials, as a table and as JSON."""
        rows = []
        for options in ((), ("--json",)):
            command = ("-m", "deltalab", "status", NAME, *options)
            cost = cheapest(rounds, lambda c=command: self._desk.python(*c))
            what = f"{' '.join(('deltalab status', *options))}, {self._trials:,} complete"
            rows += _rows(what, cost, self._trials, STATUS_SECONDS)
        return rows


def _study(desk: Desk, trials: int) -> str:
    """Five variants × learning rates × four seeds, parameters matched."""
    return desk.study(
        NAME, rates=max(1, trials // (SEEDS * len(VARIANTS))), seeds=SEEDS, overrides={}, variants=len(VARIANTS)
    )


def _rows(what: str, cost: Cost, trials: int, most: float) -> list[Row]:
    return [
        Row(what=what, figure="wall time", unit="s", ours=cost.wall, most=most if trials <= PROMISED else None),
        Row(what=what, figure="CPU time", unit="s", ours=cost.cpu),
    ]
