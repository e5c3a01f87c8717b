"""How fast one token is decoded on this GPU: ``python -m benchmarks.kernels.decode [--no-peer]``.

``deltalab.kernels.triton.decode.decode_step`` (short convolution of width 4, SiLU, norm, gates, state, read) beside
flash-linear-attention's ``fused_recurrent_gdn2`` of one token (state and read alone, its output state a new tensor).
GDN-2, 16 heads of 128. As in a model, where layer follows layer, the steps of many layers are captured in one CUDA
graph, each with a state and a past of its own; the time of a step is the replay's by their number. The host's time is
not in it, and the L2 cache does not serve the states.

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
LAYERS = 24, 64
"""Least and most steps that are captured together; in between, so many that no L2 cache holds what they move."""
CACHED = 200 * 2**20
"""Bytes that none does."""


def moved_bytes(batch: int, state: torch.dtype) -> int:
    """Bytes that a step must move: state and convolution's past both ways, projections, gates and o once."""
    channels = batch * HEADS * WIDTH
    gates = channels * (4 + 2 + 2)  # g in fp32, b and w in bf16
    past = 2 * 3 * channels * (TAPS - 1) * 2
    return 2 * channels * WIDTH * state.itemsize + 3 * channels * 2 + past + gates + channels * 2


def layers_of(moved: int) -> int:
    """How many steps that move so many bytes each are captured together."""
    return max(LAYERS[0], min(LAYERS[1], CACHED // moved + 1))


def captured(step: Callable[[int], object], layers: int) -> Callable[[int], object]:
    """Replays of the steps of so many layers, captured in one graph."""

    def token() -> None:
        for layer in range(layers):
            step(layer)

    with torch.cuda.stream(torch.cuda.Stream()):
        token()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        token()
    return lambda _: graph.replay()


def ours(batch: int, state: torch.dtype, layers: int) -> Callable[[int], object]:
    """A step of our kernel in each layer."""
    from deltalab.kernels.triton.decode import decode_step

    channels = 3 * HEADS * WIDTH
    size = (batch, HEADS, WIDTH)
    states = [torch.zeros(*size, WIDTH, device="cuda", dtype=state) for _ in range(layers)]
    pasts = torch.zeros(layers, batch, channels, TAPS - 1, device="cuda", dtype=torch.bfloat16)
    qkv, b, w, out = (_random(shape) for shape in ((batch, channels), size, size, size))
    g = -torch.rand(size, device="cuda")
    weight, arrivals = _random((channels, TAPS)), torch.zeros(batch, HEADS, device="cuda", dtype=torch.int32)
    return lambda layer: decode_step(
        qkv, states[layer], heads=HEADS, g=g, b=b, w=w, erase_range=1.0, write_sigmoid=True, conv_weight=weight,
        conv_state=pasts[layer], arrivals=arrivals, silu=True, normalize=True, out=out,
    )  # fmt: skip


def peer(batch: int, layers: int) -> Callable[[int], object]:
    """A token of flash-linear-attention's recurrent form, fp32 state, in each layer."""
    from fla.ops.gdn2 import fused_recurrent_gdn2  # pyright: ignore[reportMissingImports]

    states = [torch.zeros(batch, HEADS, WIDTH, WIDTH, device="cuda") for _ in range(layers)]
    q, k, v, b, w = (_random((batch, 1, HEADS, WIDTH)) for _ in range(5))
    b, w, g = b.sigmoid(), w.sigmoid(), -torch.rand(batch, 1, HEADS, WIDTH, device="cuda")
    return lambda layer: fused_recurrent_gdn2(
        q, k, v, g, b, w, initial_state=states[layer], output_final_state=True
    )  # fmt: skip


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
            layers = layers_of(moved)
            calls = {"ours": ours(batch, state, layers)}
            if with_peer and state is torch.float32:
                calls["fla"] = peer(batch, layers)
            for who, call in calls.items():
                taken = milliseconds(captured(call, layers)) / layers
                share = f"{moved / taken / bandwidth:.0%}" if who == "ours" else ""
                table.add_row(str(batch), str(state).removeprefix("torch."), who, f"{1e3 * taken:.1f}", share)
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
