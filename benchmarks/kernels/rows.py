"""What ``benchmarks.kernels`` measures and how it is shown: shapes, variants, the bytes that must move, rows, tables.

The byte floor of a pass is the time a copy of as many bytes takes as the pass cannot do without:

    forward    every input read once, o written once
    backward   every input and dO read once, the gradient of every input written once

q, k, v, b, w, o and dO are bf16, the log-decay g is fp32, a gradient has its input's dtype; a β tied to both gates is
one input. Sequence boundaries are not counted. No GPU is needed here.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from random import Random
from typing import Any

from rich.table import Table

from benchmarks.tables import markdown_table, terminal_table

NARROW, WIDE = 2, 4
"""Bytes of bf16 and of fp32."""
MEBI = 2**20


@dataclass(frozen=True)
class Variant:
    """none (of write: w = 1) | scalar | channel per gate.

    Attributes:
        tied: one β is erase and write gate.
        peer: module and function of flash-linear-attention that compute it, or "".
    """

    decay: str
    erase: str
    write: str
    tied: bool = False
    peer: str = ""


VARIANTS = {
    "gated_delta_net_2": Variant("channel", "channel", "channel", peer="fla.ops.gdn2:chunk_gdn2"),
    "kda": Variant("channel", "scalar", "scalar", tied=True, peer="fla.ops.kda:chunk_kda"),
    "gated_delta_net": Variant(
        "scalar", "scalar", "scalar", tied=True, peer="fla.ops.gated_delta_rule:chunk_gated_delta_rule"
    ),
    "delta_net": Variant("none", "scalar", "scalar", tied=True, peer="fla.ops.delta_rule:chunk_delta_rule"),
    "erase_only": Variant("channel", "channel", "scalar"),
    "write_only": Variant("channel", "scalar", "channel"),
    "gated_linear_attention": Variant("channel", "none", "none"),
}
"""In the order they are measured: those with a peer first."""


@dataclass(frozen=True)
class Shape:
    """K = V = width and HV = H; ``sequences`` above 1 are packed into one row of ``time`` tokens."""

    batch: int
    time: int
    heads: int
    width: int
    sequences: int = 1

    def __str__(self) -> str:
        packed = f"/{self.sequences}" if self.sequences > 1 else ""
        return f"{self.batch}x{self.time}x{self.heads}x{self.width}{packed}"

    def size(self, kind: str) -> tuple[int, ...]:
        """The shape of a gate: none (), scalar [B, T, H], channel [B, T, H, D]."""
        scalar = (self.batch, self.time, self.heads)
        return {"none": (), "scalar": scalar, "channel": (*scalar, self.width)}[kind]

    def boundaries(self) -> list[int] | None:
        """Of packed sequences: rising from 0 to T, the lengths uneven and always the same; else None."""
        if self.sequences == 1:
            return None
        inner = Random(0).sample(range(1, self.time), self.sequences - 1)
        return [0, *sorted(inner), self.time]


SHAPES = (
    Shape(4, 4096, 16, 128),
    Shape(8, 2048, 16, 128),
    Shape(1, 16384, 16, 128),
    Shape(32, 4096, 16, 128),
    Shape(4, 2048, 16, 64),
    Shape(8, 1024, 4, 64),
    Shape(1, 32768, 16, 128, sequences=17),
)


def parse_shape(text: str) -> Shape:
    """A shape from BxTxHxD, or 1xTxHxD/N for N packed sequences.

    Raises:
        ValueError: another form, a number that is not positive, or packed sequences that do not fit.
    """
    found = re.fullmatch(r"(\d+)x(\d+)x(\d+)x(\d+)(?:/(\d+))?", text)
    if found is None:
        raise ValueError(f"shape: {text!r}; must be BxTxHxD, or 1xTxHxD/N for N packed sequences")
    numbers = [int(number) for number in found.groups(default="1")]
    shape = Shape(*numbers)
    if 0 in numbers or (shape.sequences > 1 and shape.batch > 1) or shape.sequences > shape.time:
        raise ValueError(f"shape: {text!r}; sizes must be positive, packed sequences need B = 1 and a token each")
    return shape


def leaves(variant: Variant, shape: Shape) -> dict[str, tuple[tuple[int, ...], int]]:
    """Shape and bytes per element of every input, in the order that flash-linear-attention's functions take them."""
    full = shape.size("channel")
    found = dict.fromkeys(("q", "k", "v"), (full, NARROW)) | {"g": (shape.size(variant.decay), WIDE)}
    if variant.tied:
        found["beta"] = (shape.size(variant.erase), NARROW)
    else:
        found |= {"b": (shape.size(variant.erase), NARROW), "w": (shape.size(variant.write), NARROW)}
    return {name: (size, width) for name, (size, width) in found.items() if size}


def input_bytes(variant: Variant, shape: Shape) -> int:
    """Of all inputs, each counted once."""
    return sum(_product(size) * width for size, width in leaves(variant, shape).values())


def forward_bytes(variant: Variant, shape: Shape) -> int:
    """Inputs read, o written."""
    return input_bytes(variant, shape) + _product(shape.size("channel")) * NARROW


def backward_bytes(variant: Variant, shape: Shape) -> int:
    """Inputs and dO read, gradients written."""
    return forward_bytes(variant, shape) + input_bytes(variant, shape)


@dataclass(frozen=True, kw_only=True)
class Row:
    """What was measured of one implementation on one problem; what was not is None.

    Attributes:
        shape, variant: the problem.
        who: "ours" or "fla".
        forward, both: milliseconds on the GPU of a forward pass without, and of forward and backward with gradients.
        forward_host, both_host: milliseconds that the host takes to start them.
        forward_peak, both_peak: bytes allocated at most in them, above the inputs and dO.
        forward_floor, both_floor: milliseconds of the byte floor.
        difference: of a peer, RMS(its o − our o) / RMS(our o).
        error: why something is missing, in a line, or "".
    """

    shape: str
    variant: str
    who: str
    forward: float | None = None
    both: float | None = None
    forward_host: float | None = None
    both_host: float | None = None
    forward_peak: int | None = None
    both_peak: int | None = None
    forward_floor: float
    both_floor: float
    difference: float | None = None
    error: str = ""

    def line(self) -> str:
        """The row in one line, printed as soon as it is measured."""
        parts = [f"{self.shape} {self.variant} {self.who}:"]
        for name, taken, floor, host, peak in (
            ("forward", self.forward, self.forward_floor, self.forward_host, self.forward_peak),
            ("forward + backward", self.both, self.both_floor, self.both_host, self.both_peak),
        ):
            if taken is not None:
                more = "" if host is None else f", host {host:.3f} ms"
                more += "" if peak is None else f", {peak / MEBI:,.0f} MiB"
                parts.append(f"{name} {taken:.3f} ms ({taken / floor:.2f} × floor{more})")
        return " ".join([*parts, *([self.note] if self.note else [])])

    @property
    def note(self) -> str:
        """Difference and error in words."""
        differs = "" if self.difference is None else f"o differs by {self.difference:.1e}"
        return "; ".join(part for part in (differs, self.error) if part)

    def figures(self) -> dict[str, Any]:
        """For JSON: the fields, and times over their floor."""
        return asdict(self) | {
            "forward_over_floor": _ratio(self.forward, self.forward_floor),
            "both_over_floor": _ratio(self.both, self.both_floor),
        }


HEADINGS = (
    "B×T×H×D",
    "variant",
    "who",
    "forward ms",
    "÷ ours",
    "÷ floor",
    "host ms",
    "MiB",
    "fwd + bwd ms",
    "÷ ours",
    "÷ floor",
    "host ms",
    "MiB",
    "note",
)


def cells(rows: Sequence[Row]) -> list[list[str]]:
    """The table's text, a list for each row; a peer's times are also given as multiples of ours."""
    ours = {(row.shape, row.variant): row for row in rows if row.who == "ours"}
    found = []
    for row in rows:
        beside = ours.get((row.shape, row.variant)) if row.who != "ours" else None
        found.append(
            [
                row.shape.replace("x", "×"),
                row.variant,
                row.who,
                *_passed(row.forward, beside and beside.forward, row.forward_floor, row.forward_host, row.forward_peak),
                *_passed(row.both, beside and beside.both, row.both_floor, row.both_host, row.both_peak),
                row.note,
            ]
        )
    return found


def table_of(rows: Sequence[Row], title: str) -> Table:
    """For a terminal."""
    texts = zip(cells(rows), (bool(row.error) for row in rows), strict=True)
    return terminal_table(title, HEADINGS, ("variant", "who", "note"), texts)


def markdown(rows: Sequence[Row]) -> str:
    """The same table for a document."""
    return markdown_table(HEADINGS, cells(rows))


def _passed(taken: float | None, ours: float | None, floor: float, host: float | None, peak: int | None) -> list[str]:
    """A pass: milliseconds, over ours, over the floor, the host's milliseconds, MiB."""
    ratios = [_ratio(taken, ours), _ratio(taken, floor)]
    return [
        "" if taken is None else f"{taken:.3f}",
        "" if ratios[0] is None else f"{ratios[0]:.2f}",
        "" if ratios[1] is None else f"{ratios[1]:.2f}",
        "" if host is None else f"{host:.3f}",
        "" if peak is None else f"{peak / MEBI:,.0f}",
    ]


def _ratio(taken: float | None, other: float | None) -> float | None:
    return taken / other if taken is not None and other else None


def _product(sizes: Iterable[int]) -> int:
    total = 1
    for size in sizes:
        total *= size
    return total
