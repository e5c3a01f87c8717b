"""The figures: ours beside the peer's, what is promised of them, and the table."""

from collections.abc import Iterable
from dataclasses import dataclass

from rich.table import Table

MEBI = 2**20


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure; less is better.

    Attributes:
        what: the benchmark and its size.
        figure: what was measured.
        ours: our figure.
        peer: the peer's, None where it has none.
        most: what ours may be at most, or None.
        beats: ours must not be more than the peer's.
        unit: s, ms, MiB, or nothing for a count.
    """

    what: str
    figure: str
    ours: float
    peer: float | None = None
    most: float | None = None
    beats: bool = False
    unit: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times ours the peer's is."""
        return self.peer / self.ours if self.peer is not None and self.ours else None

    @property
    def promised(self) -> str:
        """In words, for the table."""
        parts = [f"≤ {_shown(self.most, self.unit)}"] if self.most is not None else []
        return " and ".join([*parts, *(["≤ peer"] if self.beats else [])])

    def shortfall(self) -> str | None:
        """What is missed, in a line, or None."""
        said = f"{self.what}, {self.figure}: {_shown(self.ours, self.unit)}"
        if self.most is not None and self.ours > self.most:
            return f"{said}; must be at most {_shown(self.most, self.unit)}"
        if self.beats and self.peer is not None and self.ours > self.peer:
            return f"{said}; must not be more than the peer's {_shown(self.peer, self.unit)}"
        return None


def table_of(rows: Iterable[Row], title: str) -> Table:
    """For a terminal."""
    table = Table(title=title, title_justify="left")
    table.add_column("what")
    table.add_column("figure")
    for heading in ("ours", "peer", "÷ ours", "promised"):
        table.add_column(heading, justify="right", no_wrap=True)
    last = ""
    for row in rows:
        table.add_row(
            "" if row.what == last else row.what,
            row.figure,
            _shown(row.ours, row.unit),
            "" if row.peer is None else _shown(row.peer, row.unit),
            "" if row.ratio is None else f"{row.ratio:.1f}",
            row.promised,
            style="red" if row.shortfall() else "",
        )
        last = row.what
    return table


def _shown(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    return (f"{value:,.3g} {unit}" if value < 100 else f"{value:,.0f} {unit}").strip()
