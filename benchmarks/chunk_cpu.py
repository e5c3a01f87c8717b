"""How fast the chunkwise form runs on this CPU: ``python -m benchmarks.chunk_cpu [--quick] [--threads N]``.

Forward and backward together, fp32, against

* the tokenwise reference under autograd,
* the same chunk algebra under autograd (``benchmarks.plain_chunk``): what the written backward is worth,
* fla's plain-torch chunk form of KDA, if ``fla`` is installed, on the variant both have (channel decay, one β).

All forms are timed in turn, round after round, so that a busy machine slows all of them; the table gives medians over
rounds and ratios of medians. The last columns compare with the machine: FLOPs of the algebra per second, and as a
share of the rate of a large matrix product measured in the same rounds.

Exit code 1 if a row of 512 tokens or more is less than 10 times as fast as the reference, or not faster than autograd.
"""

import argparse
import importlib
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks import plain_chunk
from deltalab.kernels import chunk, reference

CHUNK = 32
MATRIX = 1024
LONG = 512
"""Tokens from which a row has to hold what is promised; shorter ones are mostly overhead."""
SPEEDUP = 10
"""The least ratio to the reference of a long row."""
VARIANTS = {"delta_net": ("", "s"), "gated_delta_net": ("s", "s"), "kda": ("c", "s"), "gated_delta_net_2": ("c", "c")}


@dataclass(frozen=True)
class Problem:
    """One row of the table; ``variant`` decides which gates are scalar and which are channel-wise."""

    variant: str
    batch: int
    time: int
    heads: int
    width: int
    decay: float = 0.3

    @property
    def label(self) -> str:
        steep = f", decay {-self.decay / 2:g}" if self.decay > 1 else ""
        return f"{self.variant}{steep}"

    @property
    def size(self) -> str:
        return f"{self.batch}×{self.time}×{self.heads}×{self.width}"

    def inputs(self) -> list[Tensor | None]:
        """q, k, v, g, b, w; decay per token uniform in [−decay, 0]."""
        torch.manual_seed(0)
        decay, gates = VARIANTS[self.variant]
        scalar = (self.batch, self.time, self.heads)
        full = (*scalar, self.width)
        q, k = (F.normalize(torch.randn(full), dim=-1) for _ in range(2))
        g = -self.decay * torch.rand(full if decay == "c" else scalar) if decay else None
        beta = torch.rand(scalar)
        b, w = (torch.rand(full), torch.rand(full)) if gates == "c" else (beta, beta.clone())
        return [None if x is None else x.requires_grad_() for x in (q, k, torch.randn(full), g, b, w)]


def flops(problem: Problem) -> float:
    """Of the matrix products of forward and backward, the inverse included; K = V, no initial or final state."""
    c = min(CHUNK, 1 << (problem.time - 1).bit_length())
    pairs, through = 2 * c * c * problem.width, 2 * c * problem.width**2
    # Forward A, P, T X, P R; backward Pᵀ dO, Tᵀ dR, and for A and P each the score, row and column gradients.
    inside = 4 * pairs + (2 + 6) * pairs + c**3 / 3
    # Forward E S, Qγ S, Ktᵀ R; backward Kt dS', Qγᵀ dO, Eᵀ dX, dE, dQγ, dKt.
    between = 9 * through
    chunks = -(-problem.time // c)
    return problem.batch * problem.heads * (chunks * inside + (chunks - 1) * between)


def step(form: Callable[..., Tensor], inputs: list[Tensor | None]) -> Callable[[], object]:
    """One forward and backward."""
    leaves = [x for x in inputs if x is not None]
    cotangent = torch.randn(inputs[2].shape) if inputs[2] is not None else None
    return lambda: torch.autograd.grad(form(*inputs), leaves, cotangent, allow_unused=True)


def fla_kda() -> Callable[..., Tensor] | None:
    """fla's plain-torch chunk form of KDA; it pads nothing, so T must be whole chunks of 64."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            naive = importlib.import_module("fla.ops.kda.naive").naive_chunk_kda
        except ImportError:
            return None
    return lambda q, k, v, g, b, w: naive(q, k, v, g, b)[0]


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(problem: Problem, rounds: int, fla: Callable[..., Tensor] | None) -> dict[str, float]:
    """Median seconds of each form, and of one large matrix product (``matrix``)."""
    inputs = problem.inputs()
    left, right = torch.randn(2, MATRIX, MATRIX)
    forms = {
        "chunk": step(lambda *x: chunk.gated_delta_rule(*x, chunk_size=CHUNK)[0], inputs),
        "plain": step(lambda *x: plain_chunk.gated_delta_rule(*x, chunk_size=CHUNK), inputs),
        "reference": step(lambda *x: reference.gated_delta_rule(*x)[0], inputs),
        "matrix": lambda: left @ right,
    }
    if fla is not None and problem.variant == "kda":
        forms["fla"] = step(fla, inputs)
    times: dict[str, list[float]] = {name: [] for name in forms}
    for n in range(rounds + 1):
        for name, work in forms.items():
            if name == "reference" and n > max(2, rounds // 4):
                continue  # by far the slowest, and its ratio the least in doubt
            if name != "reference":
                work()  # brings its memory back into the caches
            elapsed = seconds(work)
            if n > 0:
                times[name].append(elapsed)
    return {name: statistics.median(taken) for name, taken in times.items()}


def shortfalls(problem: Problem, taken: dict[str, float]) -> list[str]:
    """What a row is too slow in, a line each."""
    if problem.time < LONG:
        return []
    row = f"{problem.label} {problem.size}"
    found = []
    if (ratio := taken["reference"] / taken["chunk"]) < SPEEDUP:
        found.append(f"{row}: {ratio:.1f} times as fast as the reference; must be at least {SPEEDUP}")
    if (ratio := taken["plain"] / taken["chunk"]) <= 1:
        found.append(f"{row}: {ratio:.2f} times as fast as the same algebra under autograd; must be above 1")
    return found


def problems(quick: bool) -> list[Problem]:
    small = [Problem(variant, 32, 64, 2, 16) for variant in VARIANTS]
    if quick:
        return [*small, Problem("kda", 4, 512, 2, 16)]
    return [
        *small,
        *(Problem(variant, 4, 512, 4, 64) for variant in VARIANTS),
        *(Problem(variant, 2, 1024, 4, 64) for variant in VARIANTS),
        Problem("kda", 2, 1024, 4, 64, decay=4.0),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """The table, then the rows that are too slow; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small shapes, few rounds")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    fla = fla_kda()
    table = Table(title=f"forward + backward, fp32, {options.threads} thread(s), chunks of {CHUNK}")
    table.add_column("variant", no_wrap=True)
    for heading in ("B×T×H×K", "ms", "÷ reference", "÷ autograd", "÷ fla", "GFLOP/s", "of matmul"):
        table.add_column(heading, justify="right", no_wrap=True)
    slow = []
    for problem in problems(options.quick):
        taken = measure(problem, 5 if options.quick else 15, fla)
        slow += shortfalls(problem, taken)
        rate, machine = flops(problem) / taken["chunk"], 2 * MATRIX**3 / taken["matrix"]
        table.add_row(
            problem.label,
            problem.size,
            f"{1e3 * taken['chunk']:.2f}",
            *(f"{taken[name] / taken['chunk']:.1f}" if name in taken else "" for name in ("reference", "plain", "fla")),
            f"{rate / 1e9:.0f}",
            f"{rate / machine:.0%}",
        )
    console = Console(width=max(100, Console().width))
    console.print(table)
    console.print("ms: the chunkwise form with its written backward; ÷ X: how many times as long X takes.")
    if fla is None:
        console.print("fla: not installed (pip install 'deltalab[fla]').", markup=False)
    for line in slow:
        print(f"chunk_cpu: {line}", file=sys.stderr)
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
