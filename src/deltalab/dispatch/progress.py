"""What a user sees while trials run: done, running, queued, loss and accuracy, time to go."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from deltalab.track import journal
from deltalab.track.journal import Record, State
from deltalab.wording import many

LINE_SECONDS = 10.0
"""Where the output is no terminal, a line at most this often (and one per trial that ends)."""


@dataclass
class Followed:
    """A trial whose journal is read as it grows.

    ``skip_state``: the state on disk is of an earlier run that is about to be repeated or resumed.
    """

    trial: str
    name: str
    run_dir: Path
    skip_state: bool = False
    record: Record = field(default_factory=Record)
    offset: int = 0

    def __post_init__(self) -> None:
        self.poll()
        if self.skip_state:
            self.record.state = State.queued

    def poll(self) -> None:
        """Read what was appended since."""
        lines, self.offset = journal.entries(self.run_dir, self.offset)
        journal.extend(self.record, lines)

    @property
    def share(self) -> float:
        """Finished part of the trial, 0 to 1."""
        return 1.0 if self.record.state.terminal else min(1.0, self.record.step / max(1, self.record.steps))


class Progress:
    """Follows trials and shows them: a live panel on a terminal, plain lines elsewhere.

    Args:
        console: where to print.
        trials: every trial of the study with its display name and run directory.
        coming: how many more will join when tuning has ended.
    """

    def __init__(self, console: Console, trials: Iterable[Followed], coming: int = 0) -> None:
        self.console = console
        self.trials: list[Followed] = []
        self.ended: set[str] = set()
        self._at_start, self._abreast = 0.0, 0
        self.add(trials, coming)
        self._began = time.monotonic()
        self._spoke = 0.0
        self._live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None

    def __enter__(self) -> "Progress":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def add(self, trials: Iterable[Followed], coming: int) -> None:
        """Follow these too, from now on; ``coming`` as above."""
        joining = list(trials)
        self.trials += joining
        self.ended |= {t.trial for t in joining if t.record.state.terminal}
        self._at_start += sum(t.share for t in joining)
        self._coming = coming

    def show(self) -> None:
        """Read the journals and refresh; trials that ended get a line that stays."""
        for trial in self.trials:
            if trial.trial not in self.ended:
                trial.poll()
                if trial.record.state.terminal:
                    self.ended.add(trial.trial)
                    self.console.print(_ended(trial), highlight=False, soft_wrap=True)
        self._abreast = max(self._abreast, len(self.running))
        if self._live:
            self._live.update(self._panel())
        elif time.monotonic() - self._spoke > LINE_SECONDS:
            self._spoke = time.monotonic()
            self.console.print(self.summary(), highlight=False, soft_wrap=True)
            for trial in self.running:
                self.console.print(f"  {trial.name}: {_figures(trial)}", highlight=False, soft_wrap=True)

    @property
    def running(self) -> list[Followed]:
        return [t for t in self.trials if t.record.state is State.running and t.trial not in self.ended]

    @property
    def eta(self) -> float | None:
        """Seconds to go, or None before enough is known.

        As long as each worker has not brought about a trial to its end the pace so far says little: most of the time
        went into starting. Until then, and where no trial waits any more, what the running trials say of themselves
        counts; each has said it after its second logged step.
        """
        shares = sum(t.share for t in self.trials)
        gained, left, running = shares - self._at_start, len(self.trials) + self._coming - shares, self.running
        spent_and_to_go = ((t.record.seconds, t.record.seconds_to_go) for t in running)
        told = [(spent, to_go) for spent, to_go in spent_and_to_go if to_go is not None]
        if not self._queued and len(told) == len(running):
            return max((to_go for _, to_go in told), default=0.0)
        if gained >= max(1, self._abreast):
            return left * (time.monotonic() - self._began) / gained
        return left * fmean(map(sum, told)) / self._abreast if told else None

    @property
    def _queued(self) -> int:
        """Trials that neither run nor have ended, those to come included."""
        return len(self.trials) + self._coming - len(self.ended) - len(self.running)

    def summary(self) -> str:
        """How many are done, running, queued and to come, and for how long, in one line."""
        done, running = len(self.ended), len(self.running)
        queued = self._queued - self._coming
        waiting = f", {self._coming} waiting for tuning" if self._coming else ""
        eta = "" if (seconds := self.eta) is None else f", about {duration(seconds)} to go"
        total = many(len(self.trials) + self._coming, "trial")
        return f"{done} of {total} done, {running} running, {queued} queued{waiting}{eta}"

    def _panel(self) -> Group:
        bar, table = Table.grid(), Table.grid(padding=(0, 2))
        bar.add_row(
            ProgressBar(total=len(self.trials) + self._coming, completed=sum(t.share for t in self.trials), width=60)
        )
        for trial in self.running:
            table.add_row(Text("  " + trial.name, style="cyan"), _figures(trial))
        return Group(Text(self.summary()), bar, table)


def duration(seconds: float) -> str:
    """``45 s``, ``3 min 20 s``, ``2 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _figures(trial: Followed) -> str:
    record = trial.record
    parts = [f"step {record.step}/{record.steps}"]
    for label, metric, form in (
        ("loss", "train/loss", ".4f"),
        ("accuracy", "train/accuracy", ".3f"),
        ("", "train/tokens_per_second", ",.0f"),
    ):
        value = record.last(metric)
        if value is not None:
            parts.append(f"{label} {value:{form}}".strip() + ("" if label else " tokens/s"))
    if (left := record.seconds_to_go) is not None:
        parts.append(f"{duration(left)} to go")
    return ", ".join(parts)


def _ended(trial: Followed) -> Text:
    record = trial.record
    if record.state is State.completed:
        values = {"loss": record.last("eval/loss"), "accuracy": record.last("eval/accuracy")}
        said = ", ".join(f"{name} {value:.4f}" for name, value in values.items() if value is not None)
        early = f", ended early: {record.early}" if record.early else ""
        return Text.assemble(("✓ ", "green"), f"{trial.name}: {said} ({duration(record.seconds)}){early}")
    error = record.details.get("error")  # a cancelled trial has none
    said = record.state.value + (f": {error}" if error else "")
    return Text.assemble(("✗ ", "red"), f"{trial.name}: {said}; log {trial.run_dir / 'log.txt'}")
