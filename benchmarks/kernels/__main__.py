"""How fast the kernels run on this GPU, beside flash-linear-attention: ``python -m benchmarks.kernels [options]``.

Ours (``deltalab.kernels.dispatch``) and flash-linear-attention's functions get the same inputs in the same run, one
after the other: forward without gradients, forward and backward, the memory each takes above its inputs, and its time
as a multiple of the byte floor (``rows.py``) at the copy bandwidth measured at the start.

Times are medians of CUDA events around eager calls, after calls that compile and warm up. Several sets of inputs are
used in turn, so that the L2 cache does not serve them. The GPU is kept waiting while a few calls are queued, so that
the host's time is not in them: it stands beside them, and where it is longer it is what a single call takes.

flash-linear-attention tunes itself at its first calls, minutes for a function; the most important rows come first, and
each is printed when it is measured. Once ``--seconds`` are spent the peer's remaining rows are left out, and ours once
a quarter more is; a call under way is then broken off, as soon as it returns to Python. What is left out is said.

Exit code 1 if a row of ours failed, 2 without a GPU. Besides this repository only torch, triton and rich are needed.
"""

import argparse
import importlib.util
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from benchmarks.kernels.budget import LONGER, Budget, OutOfTime
from benchmarks.kernels.clock import copy_bandwidth, peak_bytes, queued
from benchmarks.kernels.problem import Call, Problem, ours, peer_of, problem_of, sets_of
from benchmarks.kernels.rows import (
    SHAPES,
    VARIANTS,
    Row,
    Shape,
    backward_bytes,
    forward_bytes,
    markdown,
    parse_shape,
    table_of,
)
from deltalab.kernels import dispatch
from deltalab.track.provenance import provenance

PEER = "flash-linear-attention"
SECONDS = 420.0
"""Default time budget of the peer's rows."""
DEVICE = "cuda"
CUT = "the rest is left out, the time is spent"
ROOT = Path(__file__).parents[2]


def difference(got: Tensor, want: Tensor) -> float:
    """RMS(got − want) / RMS(want)."""
    return ((got.float() - want.float()).norm() / want.float().norm()).item()


def measure(row: Row, problem: Problem, call: Call) -> Iterator[Row]:
    """The row with one figure more after each step."""
    on_gpu, on_host = queued(lambda turn: problem.forward(call, turn))
    yield (row := replace(row, forward=on_gpu, forward_host=on_host))
    yield (row := replace(row, forward_peak=peak_bytes(lambda turn: problem.forward(call, turn))))
    if row.who != "ours":
        yield (row := replace(row, difference=difference(problem.forward(call, 0), problem.forward(ours, 0))))
    on_gpu, on_host = queued(lambda turn: problem.both(call, turn))
    yield (row := replace(row, both=on_gpu, both_host=on_host))
    yield replace(row, both_peak=peak_bytes(lambda turn: problem.both(call, turn)))


def measured(row: Row, problem: Problem, budget: Budget) -> Row:
    """The row with all that could be measured, and what went wrong in a line.

    Raises:
        OutOfTime: the budget was spent before the first figure.
    """
    try:
        # Backward in this thread: the alarm that keeps the budget is heard in no other.
        with budget.limit(row.who), torch.autograd.set_multithreading_enabled(False):
            call = ours if row.who == "ours" else peer_of(VARIANTS[row.variant])
            for found in measure(row, problem, call):
                row = found
    except OutOfTime:
        if row.forward is None:
            raise
        return replace(row, error=CUT)
    except Exception as error:  # a peer may raise anything, and so may a compiler
        return replace(row, error=in_a_line(error))
    return row


def in_a_line(error: BaseException, most: int = 160) -> str:
    """Type and text of an error, cut to so many characters."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= most else f"{text[: most - 1]}…"


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What is measured, and with what.

    Attributes:
        variants: names of them, in the order of ``VARIANTS``.
        peer: whether flash-linear-attention is measured too.
        bandwidth: bytes per millisecond of a copy.
        cache: bytes of L2 cache.
        left_out: filled with what the time did not suffice for.
    """

    shapes: Sequence[Shape]
    variants: Sequence[str]
    peer: bool
    bandwidth: float
    cache: int
    budget: Budget
    left_out: list[str] = field(default_factory=list)

    def rows(self) -> Iterator[Row]:
        """The rows as they are measured: shape by shape, ours before the peer's."""
        for shape in self.shapes:
            for name in self.variants:
                yield from self._compare(shape, name)

    def _compare(self, shape: Shape, name: str) -> Iterator[Row]:
        variant = VARIANTS[name]
        waiting = [who for who in ("ours", "fla") if who == "ours" or (self.peer and variant.peer)]
        problem = None
        for who in waiting:
            row = self._empty(shape, name, who)
            if self.budget.left(who) <= 0:
                self.left_out.append(f"{shape} {name} {who}")
                continue
            try:
                if problem is None:
                    problem = problem_of(variant, shape, DEVICE, sets_of(variant, shape, self.cache))
                row = measured(row, problem, self.budget)
            except OutOfTime:
                self.left_out.append(f"{shape} {name} {who}")
                continue
            except Exception as error:  # no memory for the inputs, or a GPU that an earlier kernel left unusable
                row = replace(row, error=in_a_line(error))
            yield row
            if DEVICE == "cuda":
                with suppress(RuntimeError):  # of an earlier kernel; the next row will say so
                    torch.cuda.empty_cache()

    def _empty(self, shape: Shape, name: str, who: str) -> Row:
        forward = forward_bytes(VARIANTS[name], shape)
        both = forward + backward_bytes(VARIANTS[name], shape)
        return Row(
            shape=str(shape),
            variant=name,
            who=who,
            forward_floor=forward / self.bandwidth,
            both_floor=both / self.bandwidth,
        )


def missing_peer(wanted: bool) -> str:
    """Why flash-linear-attention is not measured, or ""."""
    if not wanted:
        return "left out (--no-peer)"
    if importlib.util.find_spec("fla") is None:
        return "not installed (pip install 'deltalab[fla]')"
    return ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Each row as it is measured, then the table; the exit code."""
    options = _options(arguments)
    budget = Budget(options.seconds)
    if not torch.cuda.is_available():
        print("kernels: needs a CUDA GPU, torch sees none here", file=sys.stderr)
        return 2
    properties = torch.cuda.get_device_properties(0)
    benchmark = Benchmark(
        shapes=options.shapes,
        variants=[name for name in VARIANTS if name in options.variants],
        peer=not missing_peer(options.peer),
        bandwidth=copy_bandwidth(),
        cache=properties.L2_cache_size,
        budget=budget,
    )
    notes = _notes(benchmark, options.peer)
    origin = {"gpu": properties.name, **provenance(ROOT)}
    rows: list[Row] = []
    try:
        for row in benchmark.rows():
            rows.append(row)
            print(row.line(), flush=True)
            _save(options.json, rows, notes + _left_out(benchmark), origin)
    except KeyboardInterrupt:
        print("kernels: interrupted; what was measured:", file=sys.stderr)
    notes += _left_out(benchmark)
    _save(options.json, rows, notes, origin)
    _show(rows, notes, properties.name, options.markdown)
    return 1 if any(row.who == "ours" and row.error not in ("", CUT) for row in rows) else 0


def _save(file: Path | None, rows: Sequence[Row], notes: Sequence[str], origin: dict[str, Any]) -> None:
    """The figures so far."""
    if file is not None:
        found = origin | {"notes": notes, "rows": [row.figures() for row in rows]}
        file.write_text(json.dumps(found, indent=1))


def _show(rows: Sequence[Row], notes: Sequence[str], title: str, in_markdown: bool) -> None:
    """The table and what it does not say."""
    console = Console(width=max(170, Console().width))
    if in_markdown:
        print(f"\n{title}\n\n{markdown(rows)}\n")
    else:
        console.print(table_of(rows, title))
    for line in notes:
        console.print(line, markup=False, highlight=False)


def _notes(benchmark: Benchmark, wanted: bool) -> list[str]:
    """What the rows do not say, known before they are measured."""
    peer = missing_peer(wanted)
    if not peer:
        try:
            peer = f"{PEER} {version(PEER)}"
        except PackageNotFoundError:
            peer = f"{PEER}, version unknown"
    return [
        *(f"ours: {found}" for found in _forms(benchmark)),
        f"peer: {peer}; torch {torch.__version__}",
        f"copy: {benchmark.bandwidth / 1e6:,.0f} GB/s, read and written; floor: the bytes that must move, at this rate",
        "host: what starting a pass takes there, with the GPU kept waiting; backward in the calling thread",
        "÷ ours: how many times ours the peer takes; MiB: at most allocated, above inputs and dO",
        "decoding: python -m benchmarks.kernels.decode",
    ]


def _left_out(benchmark: Benchmark) -> list[str]:
    """What the time did not suffice for."""
    if not benchmark.left_out:
        return []
    spent = f"{benchmark.budget.seconds:g} s (ours: {LONGER * benchmark.budget.seconds:g} s)"
    return [f"left out, the time of {spent} was spent: {', '.join(benchmark.left_out)}"]


def _forms(benchmark: Benchmark) -> list[str]:
    """The forms that ours runs in at these shapes, and why."""
    found = set()
    for width in {shape.width for shape in benchmark.shapes}:
        x = torch.empty(1, 1, 1, width, dtype=torch.bfloat16, device=DEVICE)
        found.add(": ".join(dispatch.choose(x, x)))
    return sorted(found)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="kernels", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--shapes", nargs="+", metavar="SHAPE", help="BxTxHxD, or 1xTxHxD/N for N packed sequences")
    add("--variants", nargs="+", metavar="NAME", default=list(VARIANTS), help=", ".join(VARIANTS))
    add("--seconds", type=float, default=SECONDS, help=f"time budget of the peer's rows ({SECONDS:g})")
    add("--json", type=Path, metavar="FILE", help="write the figures there too")
    add("--markdown", action="store_true", help="the table in Markdown")
    add("--no-peer", dest="peer", action="store_false", help="only ours")
    options = parser.parse_args(arguments)
    try:
        options.shapes = [parse_shape(text) for text in options.shapes] if options.shapes else list(SHAPES)
    except ValueError as error:
        parser.error(str(error))
    if unknown := [name for name in options.variants if name not in VARIANTS]:
        parser.error(f"--variants {unknown[0]}: allowed are {', '.join(VARIANTS)}")
    if options.json and not options.json.parent.is_dir():
        parser.error(f"--json {options.json}: there is no folder {options.json.parent}")
    if options.seconds <= 0:
        parser.error(f"--seconds {options.seconds:g}: must be above 0")
    return options


if __name__ == "__main__":
    sys.exit(main())
