"""How fast one token is decoded on this GPU: ``python -m benchmarks.kernels.decode [--no-peer]``.

``deltalab.kernels.triton.decode.decode_step`` (short convolution of width 4, SiLU, norm, gates, state, read) beside
flash-linear-attention's ``fused_recurrent_gdn2`` of one token (state and read alone, its output state a new tensor).
GDN-2, 16 heads of 128, each step one replay of a CUDA graph, so that the host's time is not in it; several states are
used in turn, so that the L2 cache does not serve them.

The share of the copy bandwidth counts what must move: the state read and written, the projections and gates read, o
written. Exit code 2 without a GPU.
"""

import argparse
import importlib.util
import sys
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.kernels.clock import copy_bandwidth, milliseconds

HEADS, WIDTH, TAPS = 16, 128, 4
BATCHES = (1, 16, 64, 256)
CACHED = 200 * 2**20
"""Bytes of states that no L2 cache holds."""


def moved_bytes(batch: int, state: torch.dtype) -> int:
    """Bytes that a step must move: state and convolution's past both ways, projections, gates and o once."""
    channels = batch * HEADS * WIDTH
    gates = channels * (4 + 2 + 2)  # g in fp32, b and w in bf16
    past = 2 * 3 * channels * (TAPS - 1) * 2
    return 2 * channels * WIDTH * state.itemsize + 3 * channels * 2 + past + gates + channels * 2


def captured(step: Callable[[int], object], sets: int) -> Callable[[int], object]:
    """Replays of a step captured once for each set of inputs."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for turn in range(sets):
            step(turn)
    torch.cuda.synchronize()
    graphs = [torch.cuda.CUDAGraph() for _ in range(sets)]
    for turn, graph in enumerate(graphs):
        with torch.cuda.graph(graph):
            step(turn)
    return lambda turn: graphs[turn % sets].replay()


def ours(batch: int, state: torch.dtype, sets: int) -> Callable[[int], object]:
    """A step of our kernel on each set."""
    from deltalab.kernels.triton.decode import decode_step

    channels = 3 * HEADS * WIDTH
    size = (batch, HEADS, WIDTH)
    states = [torch.zeros(*size, WIDTH, device="cuda", dtype=state) for _ in range(sets)]
    qkv, b, w = (_random(shape) for shape in ((batch, channels), size, size))
    g = -torch.rand(size, device="cuda")
    weight, arrivals = _random((channels, TAPS)), torch.zeros(batch, HEADS, device="cuda", dtype=torch.int32)
    past, out = torch.zeros(batch, channels, TAPS - 1, device="cuda", dtype=torch.bfloat16), _random(size)
    return lambda turn: decode_step(
        qkv, states[turn], heads=HEADS, g=g, b=b, w=w, erase_range=1.0, write_sigmoid=True, conv_weight=weight,
        conv_state=past, arrivals=arrivals, silu=True, normalize=True, out=out,
    )  # fmt: skip


def peer(batch: int, sets: int) -> Callable[[int], object]:
    """A token of flash-linear-attention's recurrent form, fp32 state, on each set."""
    from fla.ops.gdn2 import fused_recurrent_gdn2  # pyright: ignore[reportMissingImports]

    states = [torch.zeros(batch, HEADS, WIDTH, WIDTH, device="cuda") for _ in range(sets)]
    q, k, v, b, w = (_random((batch, 1, HEADS, WIDTH)) for _ in range(5))
    g = -torch.rand(batch, 1, HEADS, WIDTH, device="cuda")
    return lambda turn: fused_recurrent_gdn2(
        q, k, v, g, b.sigmoid(), w.sigmoid(), initial_state=states[turn], output_final_state=True
    )


def _random(size: tuple[int, ...]) -> Tensor:
    return torch.randn(size, device="cuda", dtype=torch.bfloat16)


def main(arguments: list[str] | None = None) -> int:
    """The table; the exit code."""
    parser = argparse.ArgumentParser(prog="decode", description=__doc__)
    parser.add_argument("--no-peer", action="store_true", help="only ours")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("decode: needs a CUDA GPU, torch sees none here", file=sys.stderr)
        return 2
    bandwidth = copy_bandwidth()
    table = Table("batch", "state", "who", "µs a token", "share of the copy bandwidth")
    with_peer = not options.no_peer and importlib.util.find_spec("fla") is not None
    for batch in BATCHES:
        for state in (torch.float32, torch.bfloat16):
            moved = moved_bytes(batch, state)
            sets = max(2, min(64, CACHED // moved + 1))
            calls = {"ours": ours(batch, state, sets)}
            if with_peer and state is torch.float32:
                calls["fla"] = peer(batch, sets)
            for who, call in calls.items():
                taken = milliseconds(captured(call, sets))
                share = f"{moved / taken / bandwidth:.0%}" if who == "ours" else ""
                table.add_row(str(batch), str(state).removeprefix("torch."), who, f"{1e3 * taken:.1f}", share)
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
