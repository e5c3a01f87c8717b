"""The study's trials as tables: all of them, and those that are not completed with the reason."""

from collections.abc import Callable
from typing import Any

from analysis.collate import Results
from analysis.numbers import duration
from analysis.tables import Column, Item, Table
from deltalab.track.journal import State

WENT_WRONG = (State.failed.value, State.diverged.value, State.lost.value)
Row = dict[Any, Any]


def trials_table(results: Results) -> Table:
    """A row per cell and seed."""
    rows = results.trials.to_dict("records")
    return _table(results, "Trials", rows, {**_who(results), **HOW_FAR, "commit": _commit})


def unfinished_table(results: Results) -> Table | None:
    """Trials that are not completed, with their error; None when there is none."""
    rows = [row for row in results.trials.to_dict("records") if row["state"] != State.completed.value]
    columns = {**_who(results), **HOW_FAR, "error": lambda row: Item(text=row["error"], sort=row["error"])}
    return _table(results, "Not completed", rows, columns) if rows else None


def _table(results: Results, title: str, rows: list[Row], columns: dict[str, Callable[[Row], Item]]) -> Table:
    return Table(
        title=title,
        columns=[Column(title=name, part="cell", right=name in ("seed", "step", "time")) for name in columns],
        rows=[[item(row) for item in columns.values()] for row in rows],
    )


def _who(results: Results) -> dict[str, Callable[[Row], Item]]:
    labels = {cell.name: results.label(cell) for cell in results.cells}
    return {
        "trial": lambda row: Item(text=row["trial"], sort=row["trial"]),
        "cell": lambda row: Item(text=labels[row["cell"]], sort=labels[row["cell"]]),
        "seed": lambda row: Item(text=str(row["seed"]), sort=row["seed"]),
    }


def _state(row: Row) -> Item:
    done = row["state"] == State.completed.value
    tone = "better" if done else "worse" if row["state"] in WENT_WRONG else ""
    return Item(text=row["state"], sort=row["state"], tone=tone)


def _commit(row: Row) -> Item:
    commit = row["commit"] if isinstance(row["commit"], str) else ""
    return Item(text=commit[:10] + (" with local changes" if row["dirty"] is True else ""), sort=commit)


HOW_FAR: dict[str, Callable[[Row], Item]] = {
    "state": _state,
    "step": lambda row: Item(text=f"{row['step']:,}", sort=row["step"]),
    "time": lambda row: Item(text=duration(row["seconds"]), sort=row["seconds"]),
}
