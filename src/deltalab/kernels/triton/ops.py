"""The operators ``deltalab::gated_delta_rule`` and ``…_backward``: they allocate, launch the kernels and differentiate.

Inputs are contiguous, and checked by the function on top (api.py). What a call has not, is an empty result.
"""

from typing import Any

import torch
from torch import Tensor

from deltalab.kernels.triton.backward import state_backward
from deltalab.kernels.triton.forward import state_forward
from deltalab.kernels.triton.gradients import gradients
from deltalab.kernels.triton.parts import GROUP
from deltalab.kernels.triton.plan import Plan, plan_of
from deltalab.kernels.triton.prologue import prologue
from deltalab.kernels.triton.table import Table, table_of

STEEP_PROGRAMS = 1024
"""Most programs that look for steep chunks."""


@torch.library.custom_op("deltalab::gated_delta_rule", mutates_args=())
def forward(
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
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """o [B, T, HV, V], the final state, and with ``save`` what backward needs: factors, T, P, γ_C, steep, states, R."""
    plan, table = _lay_out(q, v, g, b, w, cu_seqlens)
    o, last, factors, T, P, end, steep, states, R = _results(q, v, g, b, w, cu_seqlens, final, save)
    if not save:
        factors, T, P, end, steep = _scratch(q, v, g, b, w, cu_seqlens)
    tiles = table.chunks * plan.heads
    for which, programs in _launches(plan, tiles, "prologue"):
        _launch(prologue, programs,
            q, k, g, b, a, delta, factors, T, P, end, table.spans, steep, scale, tiles, **plan.shapes,
            NORM=norm, SOFTPLUS=a is not None, RANGE=erase_range, ROWS=plan.rows, SOLVE=plan.solve,
            STEEP=which != "prologue", **plan.launch(which),
        )  # fmt: skip
    block = plan.value_block(64)
    count = table.sequences.shape[1] - 1
    _launch(state_forward, count * plan.value_heads * -(-plan.values // block),
        q, k, v, w, factors, T, P, end, initial, table.sequences, tiles, o, states, R, last,
        **plan.shapes, HV=plan.value_heads, V=plan.values, BV=block, WRITE=plan.write, SIGMOID=write_range,
        ROWS=plan.rows, GIVEN=initial is not None, FINAL=final, SAVE=save, **plan.launch("forward"),
    )  # fmt: skip
    if not save:
        factors, T, P, end, steep = (q.new_empty(0) for _ in range(5))
    return o, last, factors, T, P, end, steep, states, R


@forward.register_fake
def _(q, k, v, g, b, w, a, delta, initial, cu_seqlens, scale, norm, erase_range, write_range, final, save):  # type: ignore[no-untyped-def]
    return _results(q, v, g, b, w, cu_seqlens, final, save)


@torch.library.custom_op("deltalab::gated_delta_rule_backward", mutates_args=())
def backward(
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
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of q, k, v, g, b, w, a, δ and the initial state."""
    plan, table = _lay_out(q, v, g, b, w, cu_seqlens)
    if not factors.numel():
        _, _, factors, T, P, end, steep, states, R = forward._init_fn(
            q, k, v, g, b, w, a, delta, initial, cu_seqlens, scale, norm, erase_range, write_range, False, True
        )
    dq, dk, dv, dg, db, dw = (q.new_empty(0) if x is None else torch.empty_like(x) for x in (q, k, v, g, b, w))
    dinitial = q.new_empty(0) if initial is None else torch.empty_like(initial)
    parts = [
        q.new_empty(0) if x is None else x.new_empty(table.chunks, *x.shape, dtype=torch.float32) for x in (a, delta)
    ]
    dX, D = torch.empty_like(R), torch.empty_like(states)
    tiles = table.chunks * plan.heads
    block = plan.value_block(64)
    count = table.sequences.shape[1] - 1
    _launch(state_backward, count * plan.value_heads * -(-plan.values // block),
        q, k, do, factors, T, P, end, dfinal, table.sequences, tiles, dX, D, dinitial,
        **plan.shapes, HV=plan.value_heads, V=plan.values, BV=block, ROWS=plan.rows,
        GIVEN=initial is not None, FINAL=dfinal is not None, **plan.launch("backward"),
    )  # fmt: skip
    e_room = torch.empty_like(q) if plan.erase == 1 else db
    squares = q.new_empty(tiles, 2, plan.chunk, plan.chunk, dtype=plan.narrow)
    for which, programs in _launches(plan, tiles, "gradients"):
        _launch(gradients, programs,
            q, k, v, g, b, w, a, delta, do, dX, R, states, D, table.spans, steep, squares, e_room,
            dq, dk, dv, dg, db, dw, parts[0], parts[1], scale, tiles, **plan.shapes,
            HV=plan.value_heads, V=plan.values, BV=plan.value_block(64), WRITE=plan.write,
            NORM=norm, SOFTPLUS=a is not None, RANGE=erase_range, SIGMOID=write_range,
            STEEP=which != "gradients", **plan.launch(which),
        )  # fmt: skip
    da, ddelta = (part if x is None else part.sum(0).to(x.dtype) for part, x in zip(parts, (a, delta), strict=True))
    return dq, dk, dv, dg, db, dw, da, ddelta, dinitial


@backward.register_fake
def _(q, k, v, g, b, w, a, delta, initial, *rest):  # type: ignore[no-untyped-def]
    return tuple(q.new_empty(0) if x is None else torch.empty_like(x) for x in (q, k, v, g, b, w, a, delta, initial))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.scale, ctx.norm, ctx.erase_range, ctx.write_range, ctx.final, _ = inputs
    ctx.save_for_backward(*tensors, *output[2:])
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, do: Tensor | None, dfinal: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    *inputs, factors, T, P, end, steep, states, R = ctx.saved_tensors
    v, initial = inputs[2], inputs[8]
    do = torch.zeros_like(v) if do is None else do.contiguous()
    if dfinal is not None:
        dfinal = dfinal.contiguous() if ctx.final else None
    grads = backward(
        *inputs, do, dfinal, factors, T, P, end, steep, states, R, ctx.scale, ctx.norm, ctx.erase_range, ctx.write_range
    )
    present = (*inputs[:8], initial)
    *grads, dinitial = (None if x is None else grad for x, grad in zip(present, grads, strict=True))
    return (*grads, dinitial, *(None,) * 7)


forward.register_autograd(_differentiate, setup_context=_keep)


def _lay_out(
    q: Tensor, v: Tensor, g: Tensor | None, b: Tensor | None, w: Tensor | None, cu_seqlens: Tensor | None
) -> tuple[Plan, Table]:
    plan = plan_of(q, v, g, b, w, q.shape[1])
    return plan, table_of(q.shape[0], q.shape[1], cu_seqlens, plan.chunk, q.device)


def _launch(kernel: Any, programs: int, *args: Any, **constants: Any) -> None:
    """Start so many programs of a kernel."""
    kernel[(programs,)](*args, **constants)


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
    plan = plan_of(q, v, g, b, w, q.shape[1])
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


def _results(
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
    plan = plan_of(q, v, g, b, w, q.shape[1])
    count = q.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    state = (plan.value_heads, plan.width, plan.values)
    last = q.new_empty((count, *state) if final else (0,), dtype=torch.float32)
    if not save:
        return torch.empty_like(v), last, *(q.new_empty(0) for _ in range(7))
    chunks = _most_chunks(q, cu_seqlens, plan.chunk)
    states = q.new_empty(chunks, *state, dtype=plan.narrow)
    R = torch.empty_like(v, dtype=plan.narrow)
    return torch.empty_like(v), last, *_scratch(q, v, g, b, w, cu_seqlens), states, R
