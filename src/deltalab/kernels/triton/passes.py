"""The two passes: they allocate, and launch the kernels. The operators (ops.py) and eager autograd stand on them."""

import torch
from torch import Tensor

from deltalab.kernels.triton.backward import state_backward
from deltalab.kernels.triton.forward import state_forward
from deltalab.kernels.triton.key_gradients import key_gradients
from deltalab.kernels.triton.launch import launch
from deltalab.kernels.triton.parts import GROUP
from deltalab.kernels.triton.plan import Plan, plan_of
from deltalab.kernels.triton.prologue import prologue
from deltalab.kernels.triton.table import Table, table_of
from deltalab.kernels.triton.value_gradients import value_gradients

STEEP_PROGRAMS = 1024
"""Most programs that look for steep chunks."""
Tensors9 = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def run_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None,
    b: Tensor | None,
    w: Tensor | None,
    a: Tensor | None,
    delta: Tensor | None,
    initial: Tensor | None,
    cu_seqlens: Tensor | None,
    scale: float,
    norm: bool,
    erase_range: float,
    write_range: float,
    final: bool,
    save: bool,
) -> Tensors9:
    """o [B, T, HV, V], the final state, and with ``save`` what backward needs: factors, T, P, γ_C, steep, states, R.

    What a call has not, is empty.
    """
    plan, table = _lay_out(q, v, g, b, w, cu_seqlens)
    o, last, factors, T, P, end, steep, states, R = results(q, v, g, b, w, cu_seqlens, final, save)
    if not save:
        factors, T, P, end, steep = _scratch(q, v, g, b, w, cu_seqlens)
    tiles = table.chunks * plan.heads
    for which, programs in _launches(plan, tiles, "prologue"):
        launch(
            prologue, which, plan, programs,
            (q, k, g, b, a, delta, factors, T, P, end, table.spans, steep, scale, tiles),
            NORM=norm, SOFTPLUS=a is not None, RANGE=erase_range, STEEP=which != "prologue",
        )  # fmt: skip
    launch(
        state_forward, "forward", plan, table.count * plan.state_programs,
        (q, k, v, w, factors, T, P, end, initial, table.sequences, tiles, o, states, R, last),
        SIGMOID=write_range, GIVEN=initial is not None, FINAL=final, SAVE=save,
    )  # fmt: skip
    if not save:
        factors, T, P, end, steep = (q.new_empty(0) for _ in range(5))
    return o, last, factors, T, P, end, steep, states, R


def run_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None,
    b: Tensor | None,
    w: Tensor | None,
    a: Tensor | None,
    delta: Tensor | None,
    initial: Tensor | None,
    cu_seqlens: Tensor | None,
    do: Tensor,
    dfinal: Tensor | None,
    factors: Tensor,
    T: Tensor,
    P: Tensor,
    end: Tensor,
    steep: Tensor,
    states: Tensor,
    R: Tensor,
    scale: float,
    norm: bool,
    erase_range: float,
    write_range: float,
) -> Tensors9:
    """The gradients of q, k, v, g, b, w, a, δ and the initial state; empty where there is none."""
    plan, table = _lay_out(q, v, g, b, w, cu_seqlens)
    if not factors.numel():
        _, _, factors, T, P, end, steep, states, R = run_forward(
            q, k, v, g, b, w, a, delta, initial, cu_seqlens, scale, norm, erase_range, write_range, False, True
        )
    dq, dk, dv, dg, db, dw = (q.new_empty(0) if x is None else torch.empty_like(x) for x in (q, k, v, g, b, w))
    dinitial = q.new_empty(0) if initial is None else torch.empty_like(initial)
    parts = [
        q.new_empty(0) if x is None else x.new_empty(table.chunks, *x.shape, dtype=torch.float32) for x in (a, delta)
    ]
    dX, D = torch.empty_like(R), torch.empty_like(states)
    tiles = table.chunks * plan.heads
    launch(
        state_backward, "backward", plan, table.count * plan.state_programs,
        (q, k, do, factors, T, P, end, dfinal, table.sequences, tiles, dX, D, dinitial),
        GIVEN=initial is not None, FINAL=dfinal is not None,
    )  # fmt: skip
    squares = q.new_empty(tiles, 2, plan.chunk, plan.chunk, dtype=plan.narrow)
    diagonals = q.new_empty(tiles, plan.chunk, dtype=torch.float32)
    launch(
        value_gradients, "value gradients", plan, tiles,
        (v, w, g, a, delta, do, dX, R, table.spans, squares, diagonals, dv, dw, tiles),
        SOFTPLUS=a is not None, SIGMOID=write_range,
    )  # fmt: skip
    for which, programs in _launches(plan, tiles, "key gradients"):
        launch(
            key_gradients, which, plan, programs,
            (q, k, g, b, a, delta, do, dX, R, states, D, table.spans, steep, squares, diagonals,
             dq, dk, dg, db, *parts, scale, tiles),
            NORM=norm, SOFTPLUS=a is not None, RANGE=erase_range, STEEP=which != "key gradients",
        )  # fmt: skip
    da, ddelta = (part if x is None else part.sum(0).to(x.dtype) for part, x in zip(parts, (a, delta), strict=True))
    return dq, dk, dv, dg, db, dw, da, ddelta, dinitial


def _lay_out(
    q: Tensor, v: Tensor, g: Tensor | None, b: Tensor | None, w: Tensor | None, cu_seqlens: Tensor | None
) -> tuple[Plan, Table]:
    plan = plan_of(q, v, g, b, w)
    return plan, table_of(q.shape[0], q.shape[1], cu_seqlens, plan.chunk, q.device)


def _launches(plan: Plan, tiles: int, kernel: str) -> list[tuple[str, int]]:
    """The launches of a kernel over tiles with their numbers of programs: one, and where there may be steep chunks
    another one for those."""
    return [(kernel, tiles), (f"steep {kernel}", min(-(-tiles // GROUP.value), STEEP_PROGRAMS))][
        : 2 if plan.decay == 2 else 1
    ]


def _most_chunks(q: Tensor, cu_seqlens: Tensor | None, chunk: int) -> int:
    """Chunks of a batch; of packed sequences an upper bound, known without looking at where they end."""
    batch, time = q.shape[:2]
    if cu_seqlens is None:
        return batch * -(-time // chunk)
    return (time + (cu_seqlens.shape[0] - 1) * (chunk - 1)) // chunk


def _scratch(
    q: Tensor, v: Tensor, g: Tensor | None, b: Tensor | None, w: Tensor | None, cu_seqlens: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Factors, T, P, γ_C and which chunks are steep, as ``prologue`` fills them."""
    plan = plan_of(q, v, g, b, w)
    tiles = (_most_chunks(q, cu_seqlens, plan.chunk), plan.heads)
    if plan.rows:
        factors = q.new_empty(3, *tiles, plan.chunk, dtype=torch.float32)
    else:
        factors = q.new_empty(3, *tiles, plan.chunk, plan.padded_width, dtype=plan.narrow)
    squares = [q.new_empty(*tiles, plan.chunk, plan.chunk, dtype=plan.narrow) for _ in range(2 if plan.erase else 1)]
    widths = {0: (0,), 1: tiles, 2: (*tiles, plan.padded_width)}
    end = q.new_empty(widths[plan.decay], dtype=torch.float32)
    steep = q.new_empty(tiles if plan.decay == 2 else (0,), dtype=torch.int32)
    return factors, squares[1] if plan.erase else q.new_empty(0), squares[0], end, steep


def results(
    q: Tensor,
    v: Tensor,
    g: Tensor | None,
    b: Tensor | None,
    w: Tensor | None,
    cu_seqlens: Tensor | None,
    final: bool,
    save: bool,
) -> tuple[Tensor, ...]:
    """The results of ``forward``, unfilled."""
    plan = plan_of(q, v, g, b, w)
    count = q.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    state = (plan.value_heads, plan.width, plan.values)
    last = q.new_empty((count, *state) if final else (0,), dtype=torch.float32)
    if not save:
        return torch.empty_like(v), last, *(q.new_empty(0) for _ in range(7))
    chunks = _most_chunks(q, cu_seqlens, plan.chunk)
    states = q.new_empty(chunks, *state, dtype=plan.narrow)
    R = torch.empty_like(v, dtype=plan.narrow)
    return torch.empty_like(v), last, *_scratch(q, v, g, b, w, cu_seqlens), states, R
