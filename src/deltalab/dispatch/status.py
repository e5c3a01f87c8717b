"""What a launched study's trials are doing: states, progress, present figures, rate and time to go."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from deltalab.dispatch.progress import duration
from deltalab.dispatch.scheduler import Task
from deltalab.dispatch.states import Observer
from deltalab.spec.study import Equivalence
from deltalab.study import ledger
from deltalab.study.check import differences
from deltalab.study.ledger import StudyRecord
from deltalab.track.journal import Record, State
from deltalab.wording import many

STYLES = {
    State.completed: "green",
    State.running: "cyan",
    State.failed: "red",
    State.lost: "red",
    State.diverged: "yellow",
    State.cancelled: "yellow",
}
NOTE_WIDTH = 40
MANY = 60
"""Trials above which a row is a cell."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A trial at a moment.

    Attributes:
        trial: its id.
        cell: name of its cell, of the tuning trials with the value tried.
        seed: its seed.
        record: what its journal says.
        task: what Slurm says, or None.
    """

    trial: str
    cell: str
    seed: int
    record: Record
    task: Task | None

    @property
    def rate(self) -> float | None:
        """Steps a second, over the trial's running time."""
        return self.record.step / self.record.seconds if self.record.seconds > 0 and self.record.step else None

    @property
    def to_go(self) -> float | None:
        """Seconds to its end while it runs: as it said itself, before that at the rate so far."""
        if self.record.state is not State.running or not self.rate:
            return None
        told = self.record.seconds_to_go
        return max(0, self.record.steps - self.record.step) / self.rate if told is None else told

    @property
    def note(self) -> str:
        """What else there is to say: an error, what ended it early, or why Slurm lets it wait."""
        error = self.record.details.get("error")
        if error:
            return str(error)
        if self.record.early:
            return f"ended early: {self.record.early}"
        return f"{self.task.job} {self.task.note}".strip() if self.task is not None else ""


class Status:
    """A study's rows, read afresh.

    Args:
        observer: looks at trials.
        name: a launched study.
    """

    def __init__(self, observer: Observer, name: str) -> None:
        self.study = ledger.read_study(observer.runs, name)
        named = list(_named(self.study))
        records = observer.records(trial for trial, _, _ in named)
        self.rows = [
            Row(trial=t, cell=cell, seed=seed, record=records[t], task=observer.jobs.get(t)) for t, cell, seed in named
        ]
        kind = Equivalence(self.study.study.get("equivalence", "share"))
        self.lines = differences(kind, self.study.cells, records)
        if waiting := [cell.name for cell in self.study.cells if cell.waits]:
            self.lines.append(
                f"{many(len(waiting), 'cell', 'waits', 'wait')} for tuning; the trials are launched once it has ended"
            )
        if observer.error:
            self.lines.append(f"Slurm did not answer ({observer.error}): queued trials are shown as last known")

    @property
    def over(self) -> bool:
        """Whether nothing runs or waits."""
        return not any(row.record.state in (State.running, State.queued) for row in self.rows)

    def json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "study": self.study.name,
            "trials": [
                {
                    "trial": row.trial,
                    "cell": row.cell,
                    "seed": row.seed,
                    "state": row.record.state.value,
                    "step": row.record.step,
                    "steps": row.record.steps,
                    "seconds": round(row.record.seconds, 1),
                    "steps_per_second": row.rate,
                    "seconds_to_go": row.to_go,
                    "submission": row.record.submission,
                    "slurm_job": row.task.job if row.task else None,
                    "error": row.record.details.get("error"),
                    "early": row.record.early,
                    "metrics": {name: row.record.last(name) for name in row.record.metrics},
                }
                for row in self.rows
            ],
            "notes": self.lines,
        }

    def table(self, every: bool = False) -> Group:
        """For a terminal: a row per trial, or per cell where there are many and not ``every`` is wanted."""
        counts = Counter(row.record.state for row in self.rows)
        said = ", ".join(f"{counts[state]} {state.value}" for state in State if counts[state])
        title = f"{self.study.name}: {many(len(self.rows), 'trial')}, {said}{self._to_go()}"
        table = Table(title=title, title_justify="left")
        if every or len(self.rows) <= MANY:
            self._by_trial(table)
        else:
            self._by_cell(table)
        return Group(table, *(Text(line, style="yellow") for line in self.lines))

    def _to_go(self) -> str:
        """Time to the study's end, with as many trials at a time as run now."""
        running = [row.to_go for row in self.rows if row.to_go is not None]
        done = [row.record.seconds for row in self.rows if row.record.state is State.completed]
        waiting = sum(row.record.state is State.queued for row in self.rows)
        if not running or (waiting and not done):
            return ""
        each = sum(done) / len(done) if done else 0.0
        return f", about {duration(max(max(running), (sum(running) + waiting * each) / len(running)))} to go"

    def _by_trial(self, table: Table) -> None:
        metric = self._metric()
        for column, justify in (("trial", "left"), ("cell", "left"), ("seed", "right"), ("state", "left")):
            table.add_column(column, justify=justify, no_wrap=column != "cell")  # pyright: ignore[reportArgumentType]
        for column in ("step", "loss", metric.removeprefix("eval/"), "steps/s", "time", "to go"):
            table.add_column(column, justify="right", no_wrap=True)
        noted = any(row.note for row in self.rows)
        if noted:
            table.add_column("note", overflow="fold", max_width=NOTE_WIDTH)
        for row in self.rows:
            record = row.record
            loss = record.last("eval/loss") if record.state.terminal else record.last("train/loss")
            table.add_row(
                row.trial,
                row.cell,
                str(row.seed),
                Text(record.state.value, style=STYLES.get(record.state, "")),
                f"{record.step}/{record.steps}" if record.steps else "",
                _figure(loss),
                _figure(record.last(metric)),
                "" if row.rate is None else f"{row.rate:.1f}",
                duration(record.seconds) if record.seconds else "",
                "" if row.to_go is None else duration(row.to_go),
                *([Text(row.note)] if noted else []),
            )

    def _by_cell(self, table: Table) -> None:
        metric = self._metric()
        table.add_column("cell")
        table.add_column("trials")
        for column in ("steps", f"mean {metric.removeprefix('eval/')}", "time"):
            table.add_column(column, justify="right")
        cells: dict[str, list[Row]] = {}
        for row in self.rows:
            cells.setdefault(row.cell, []).append(row)
        for cell, rows in cells.items():
            counts = Counter(row.record.state for row in rows)
            values = [value for row in rows if (value := row.record.last(metric)) is not None]
            share = sum(1.0 if r.record.state.terminal else r.record.step / max(1, r.record.steps) for r in rows)
            table.add_row(
                cell,
                Text(", ").join(Text(f"{n} {state.value}", style=STYLES.get(state, "")) for state, n in counts.items()),
                f"{share / len(rows):.0%}",
                _figure(sum(values) / len(values)) if values else "",
                duration(sum(row.record.seconds for row in rows)),
            )

    def _metric(self) -> str:
        return next(iter(self.study.study.get("metrics") or {}), "eval/accuracy")


def _named(study: StudyRecord) -> Iterable[tuple[str, str, int]]:
    """(trial id, cell, seed) of every trial, shared ones once."""
    seen: set[str] = set()
    for cell in study.cells:
        tuning = ((f"{cell.name} {value} (tuning)", seeds) for value, seeds in cell.tuning.items())
        for name, seeds in (*tuning, (cell.name, cell.trials)):
            for seed, trial in seeds.items():
                if trial not in seen:
                    seen.add(trial)
                    yield trial, name, seed


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
