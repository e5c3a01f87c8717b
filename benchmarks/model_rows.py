"""Rows of ``benchmarks.models``: what was measured, what the paper published, and the table of both."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from benchmarks.tables import markdown_table, terminal_table

REFERENCES = {"gated_delta_net_2": "÷ GDN-2", "kda": "÷ KDA"}
"""The variants that every row is divided by → heading."""
FIGURE_SHAPES = ("8x2048", "4x4096", "2x8192", "1x16384")
FIGURE = {
    "transformer": (45.8, 42.3, 36.7, 29.4),
    "mamba2": (44.4, 43.5, 43.3, 43.3),
    "mamba3": (44.3, 42.9, 42.3, 40.7),
    "gated_delta_net": (41.9, 40.9, 40.0, 39.5),
    "kda": (39.8, 39.0, 38.9, 38.5),
    "gated_delta_net_2": (38.0, 37.3, 36.9, 36.1),
    "mamba3_mimo": (34.4, 31.9, 29.4, 26.9),
}
"""Thousand tokens per second of hybrid training at ``FIGURE_SHAPES``, 1.3B on an H100: arXiv 2605.22791, Fig. 2, read
off ± 0.02. Other hardware and other code than whatever stands beside them."""
MEBI = 2**20


@dataclass(frozen=True, kw_only=True)
class Row:
    """One system at one shape; what was not measured is None.

    Attributes:
        kind: "train" or "decode".
        variant, family: the system.
        shape: sequences x tokens; of decoding the prompt's.
        speed: tokens per second, over all sequences.
        prefill: of decoding, tokens per second that the prompt is read with.
        peak: bytes at the worst moment, weights and what else there is included.
        note: how, where that differs: activation checkpointing.
        error: why something is missing, in a line, or "".
    """

    kind: str
    variant: str
    family: str
    shape: str
    speed: float | None = None
    prefill: float | None = None
    peak: int | None = None
    note: str = ""
    error: str = ""

    @property
    def published(self) -> float | None:
        """Thousand tokens per second of the paper's Figure 2, or None where it has none."""
        in_figure = self.family == ("transformer" if self.variant == "transformer" else "hybrid")
        if self.kind != "train" or not in_figure or self.shape not in FIGURE_SHAPES or self.variant not in FIGURE:
            return None
        return FIGURE[self.variant][FIGURE_SHAPES.index(self.shape)]

    def line(self) -> str:
        """The row in one line, printed as soon as it is measured."""
        parts = [f"{self.kind} {self.variant} {self.family} {self.shape}:"]
        if self.speed is not None:
            parts.append(f"{self.speed:,.0f} tokens/s")
        if self.prefill is not None:
            parts.append(f"prefill {self.prefill:,.0f} tokens/s")
        if self.peak is not None:
            parts.append(f"{self.peak / MEBI:,.1f} MiB")
        return " ".join([*parts, *(text for text in (self.note, self.error) if text)])


def ratio(row: Row, rows: Iterable[Row], variant: str) -> float | None:
    """A row's speed over a variant's in the same run, family and shape; a Transformer's over the hybrid's."""
    family = "hybrid" if row.family == "transformer" else row.family
    for other in rows:
        same = (other.kind, other.variant, other.family, other.shape) == (row.kind, variant, family, row.shape)
        if same and other.speed and row.speed:
            return row.speed / other.speed
    return None


def figures(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """For JSON: the fields, the ratios, and what was published, in tokens per second."""
    return [
        asdict(row)
        | {f"over_{variant}": ratio(row, rows, variant) for variant in REFERENCES}
        | {"published_h100": None if row.published is None else 1e3 * row.published}
        for row in rows
    ]


HEADINGS = (
    "",
    "variant",
    "family",
    "shape",
    "tokens/s",
    *REFERENCES.values(),
    "prefill/s",
    "MiB",
    "published*",
    "note",
)
FOOTNOTE = (
    "* thousand tokens/s of arXiv 2605.22791, Fig. 2: other hardware (one H100) and other code, not measured here"
)


def cells(rows: Sequence[Row]) -> list[list[str]]:
    """The table's text, a list for each row."""
    found = []
    for row in rows:
        ratios = (ratio(row, rows, variant) for variant in REFERENCES)
        found.append(
            [
                row.kind,
                row.variant,
                row.family,
                row.shape.replace("x", "×"),
                _number(row.speed, ",.0f"),
                *(_number(value, ".2f") for value in ratios),
                _number(row.prefill, ",.0f"),
                _number(None if row.peak is None else row.peak / MEBI, ",.1f"),
                _number(row.published, ".1f"),
                "; ".join(text for text in (row.note, row.error) if text),
            ]
        )
    return found


def table_of(rows: Sequence[Row], title: str) -> Table:
    """For a terminal."""
    texts = zip(cells(rows), (bool(row.error) for row in rows), strict=True)
    return terminal_table(title, HEADINGS, ("", "variant", "family", "note"), texts)


def markdown(rows: Sequence[Row]) -> str:
    """The same table for a document."""
    return markdown_table(HEADINGS, cells(rows))


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
