"""``deltalab gc``: list what nothing needs any more, ask, remove it."""

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from deltalab.dispatch.garbage import GarbagePlan, Kind, Waste, plan_garbage, remove
from deltalab.dispatch.show import make_console
from deltalab.wording import many

SHOWN = 5
"""Paths of a kind that the table names; --json names all."""


def run_gc(runs: Path, yes: bool, trials: bool, as_json: bool) -> int:
    """List what can go and, with ``yes`` or a "y" on the terminal, remove it.

    Args:
        runs: the runs folder.
        yes: remove without asking.
        trials: see ``plan_garbage``.
        as_json: print one JSON object; never asks.

    Returns:
        Exit code: 1 when something could not be removed, else 0.

    Raises:
        NotFoundError: there is no such folder.
    """
    plan = plan_garbage(runs, trials)
    if as_json:
        gone, failed = remove(runs, plan, trials) if yes else ([], [])
        print(json.dumps(_plain(runs, plan, gone, failed), indent=1))
        return int(bool(failed))
    console = make_console()
    _show(console, runs, plan)
    if not plan.waste:
        return 0
    if not yes and not _agreed(console, plan):
        return 0
    gone, failed = remove(runs, plan, trials)
    console.print(f"Removed {many(len(gone), 'item')}, {_size(w.size for w in gone)}.", highlight=False)
    if left := len(plan.waste) - len(gone) - len(failed):
        console.print(f"{many(left, 'item')} stayed: needed again since the list was made.", highlight=False)
    for line in failed:
        console.print(f"not removed: {line}", style="red", highlight=False, soft_wrap=True)
    return int(bool(failed))


def _size(sizes: Iterable[int]) -> str:
    size = float(sum(sizes))
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _plain(runs: Path, plan: GarbagePlan, gone: list[Waste], failed: list[str]) -> dict[str, object]:
    removed = {waste.path for waste in gone}
    items = [
        {
            **asdict(waste),
            "path": str(waste.path),
            "kind": waste.kind.name,
            "why": waste.kind.value,
            "removed": waste.path in removed,
        }
        for waste in plan.waste
    ]
    return {"runs": str(runs), "size": plan.size, "items": items, "kept": plan.kept, "failed": failed}


def _show(console: Console, runs: Path, plan: GarbagePlan) -> None:
    if plan.waste:
        console.print(_table(runs, plan))
        total = f"{_size([plan.size])} in {many(len(plan.waste), 'item')} can go from {runs}"
        console.print(f"\n{total}", style="bold", highlight=False, soft_wrap=True)
    else:
        console.print(f"{runs}: nothing to remove, everything there is needed", highlight=False, soft_wrap=True)
    for line in plan.kept:
        console.print(f"• {line}", style="yellow", highlight=False, soft_wrap=True)


def _table(runs: Path, plan: GarbagePlan) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    for kind in Kind:
        group = sorted((w for w in plan.waste if w.kind is kind), key=lambda w: -w.size)
        if not group:
            continue
        table.add_row(
            Text(str(len(group)), "bold"), Text(_size(w.size for w in group), "bold"), Text(kind.value, "bold")
        )
        for waste in group[:SHOWN]:
            note = f"  ({waste.note})" if waste.note else ""
            said = f"{waste.path.relative_to(runs)}{note}"
            table.add_row("", Text(_size([waste.size]), "dim"), Text(said, "dim"))
        if rest := group[SHOWN:]:
            said = f"… and {len(rest)} more (--json names all)"
            table.add_row("", Text(_size(w.size for w in rest), "dim"), Text(said, "dim"))
    return table


def _agreed(console: Console, plan: GarbagePlan) -> bool:
    if not (sys.stdin.isatty() and console.is_terminal):
        console.print("Nothing was removed; add --yes to remove it.", highlight=False)
        return False
    try:
        console.print(f"Remove {many(len(plan.waste), 'item')}? [y/N] ", end="", markup=False, highlight=False)
        answer = input()
    except EOFError:
        answer = ""
    if answer.strip().lower() in ("y", "yes"):
        return True
    console.print("Nothing was removed.", highlight=False)
    return False
