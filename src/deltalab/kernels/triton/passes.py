"""The two passes over inputs that are activated: they allocate, and launch the kernels. ops.py stands on them."""

import torch
from torch import Tensor

from deltalab.kernels.triton.backward import state_backward
from deltalab.kernels.triton.forward import state_forward
from deltalab.kernels.triton.key_gradients import key_gradients
from deltalab.kernels.triton.launch import ALIGNED, launch
from deltalab.kernels.triton.merged_gradients import merged_gradients
from deltalab.kernels.triton.parts import GROUP
from deltalab.kernels.triton.persistent_prologue import persistent_prologue
from deltalab.kernels.triton.plan import Inputs, Plan, plan_of, processors
from deltalab.kernels.triton.prologue import prologue
from deltalab.kernels.triton.table import Table, table_of
from deltalab.kernels.triton.value_gradients import value_gradients

PERSISTENT = 2
"""Programs of the prologue that stay on a processor."""
LOG_DECAYS = torch.float32, torch.bfloat16
"""Dtypes of g that it copies."""
STEEP_PROGRAMS = 1024
"""Most programs that look for steep chunks."""
Tensors9 = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def run_forward(
    x: Inputs, initial: Tensor | None, cu_seqlens: Tensor | None, scale: float, final: bool, save: bool
) -> Tensors9:
    """o [B, T, HV, V], the final state, and with ``save`` what backward needs: factors, T, P, γ_C, steep, states, R.

    What a call has not, is empty.
    """
    plan, table = _lay_out(x, cu_seqlens)
    o, last, factors, T, P, end, steep, states, R = results(plan, x, cu_seqlens, final, save)
    if not save:
        factors, T, P, end, steep = _scratch(plan, x.q, cu_seqlens, False)
    writes = None
    if plan.write == 1:
        chunks = _most_chunks(x.q, cu_seqlens, plan.chunk)
        writes = o.new_empty(chunks, plan.value_heads, plan.chunk, dtype=torch.float32)
    tiles = table.chunks * plan.heads
    persists = plan.persists and _ready((x.q, x.k, x.b, factors)) and _ready((x.g,), LOG_DECAYS)
    tensors = x.q, x.k, x.g, x.b, x.w, factors, writes, T, P, end, table.spans, steep
    if persists:
        programs = min(tiles, PERSISTENT * processors(x.q.device))
        launch(persistent_prologue, "persistent prologue", plan, programs, tensors, (scale, tiles), SAVE=save)
    for which, programs in _launches(plan, tiles, "prologue")[1 if persists else 0 :]:
        launch(prologue, which, plan, programs, tensors, (scale, tiles), STEEP=which != "prologue", SAVE=save)
    launch(
        state_forward, "forward", plan, table.count * plan.state_programs,
        (x.q, x.k, x.v, x.w, factors, writes, T, P, end, initial, table.sequences, o, states, R, last), (tiles,),
        GIVEN=initial is not None, FINAL=final, SAVE=save,
    )  # fmt: skip
    if not save:
        factors, T, P, end, steep = (o.new_empty(0) for _ in range(5))
    return o, last, factors, T, P, end, steep, states, R


def run_backward(
    x: Inputs,
    initial: Tensor | None,
    cu_seqlens: Tensor | None,
    do: Tensor,
    dfinal: Tensor | None,
    kept: tuple[Tensor, ...],
    scale: float,
) -> tuple[Inputs, Tensor | None]:
    """The gradients of the inputs and of the initial state. ``kept``: what the forward pass saved, or as empty."""
    plan, table = _lay_out(x, cu_seqlens)
    if not kept[0].numel():
        kept = run_forward(x, initial, cu_seqlens, scale, False, True)[2:]
    factors, T, P, end, steep, states, R = kept
    dx = Inputs._make(None if y is None else torch.empty_like(y) for y in x)
    dinitial = None if initial is None else torch.empty_like(initial)
    dX, D = torch.empty_like(R), torch.empty_like(states)
    tiles = table.chunks * plan.heads
    launch(
        state_backward, "backward", plan, table.count * plan.state_programs,
        (x.q, x.k, do, factors, T, P, end, dfinal, table.sequences, dX, D, dinitial), (tiles,),
        GIVEN=initial is not None, FINAL=dfinal is not None,
    )  # fmt: skip
    _chunk_gradients(plan, table, x, dx, do, factors, steep, (dX, R, states, D), scale)
    return dx, dinitial


def _chunk_gradients(
    plan: Plan,
    table: Table,
    x: Inputs,
    dx: Inputs,
    do: Tensor,
    factors: Tensor,
    steep: Tensor,
    passes: tuple[Tensor, Tensor, Tensor, Tensor],
    scale: float,
) -> None:
    """Fill ``dx``, all chunks at once. passes: dX, R, states and D of the two passes over the state."""
    tiles, merges = table.chunks * plan.heads, plan.merges and _ready((x.v, do, x.w, x.b, factors))
    if merges:
        plane = tiles * plan.chunk * plan.padded_width  # of the chunks there are
        planes = factors.as_strided((len(factors), plane), (plane, 1)).unbind()
        launch(
            merged_gradients, "merged gradients", plan, min(tiles, processors(do.device)),
            (x.v, x.w, x.b, *planes, do, *passes, table.spans, steep,
             dx.v, dx.w, dx.q, dx.k, dx.g, dx.b), (scale, tiles),
        )  # fmt: skip
    for which, programs in _launches(plan, tiles, "key gradients")[1 if merges else 0 :]:
        squares = do.new_empty(programs, 2, plan.chunk, plan.chunk, dtype=plan.narrow)
        diagonals = do.new_empty(programs, plan.chunk, dtype=torch.float32)
        if which == "key gradients":
            launch(
                value_gradients, "value gradients", plan, tiles,
                (x.v, x.w, x.g, do, *passes[:2], table.spans, steep, squares, diagonals, dx.v, dx.w), (tiles,),
            )  # fmt: skip
        launch(
            key_gradients, which, plan, programs,
            (x.q, x.k, x.v, x.g, x.b, x.w, factors, do, *passes, table.spans, steep, squares, diagonals,
             dx.q, dx.k, dx.v, dx.g, dx.b, dx.w), (scale, tiles),
            STEEP=which != "key gradients",
        )  # fmt: skip


def _ready(given: tuple[Tensor | None, ...], dtypes: tuple[torch.dtype, ...] = (torch.bfloat16,)) -> bool:
    """Whether what a kernel in Gluon copies ahead, which are tensors with a row per token, is in a dtype that it takes
    and aligned."""
    rows = [y for y in given if y is not None and y.dim() > 3]
    return all(y.dtype in dtypes and y.data_ptr() % ALIGNED == 0 for y in rows)


def chunks_of(x: Inputs, cu_seqlens: Tensor | None, steep: Tensor) -> tuple[Tensor, Tensor] | None:
    """The chunks' spans, and which are steep, where a backward pass reads q, k and g of these alone; else none."""
    if not steep.numel():
        return None
    spans = _lay_out(x, cu_seqlens)[1].spans
    return spans, steep[: spans.shape[1]]


def _lay_out(x: Inputs, cu_seqlens: Tensor | None) -> tuple[Plan, Table]:
    plan = plan_of(x)
    return plan, table_of(x.q.shape[0], x.q.shape[1], cu_seqlens, plan.chunk, x.q.device)


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
    plan: Plan, q: Tensor, cu_seqlens: Tensor | None, save: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Factors, T, P, γ_C and which chunks are steep, as ``prologue`` fills them."""
    tiles = (_most_chunks(q, cu_seqlens, plan.chunk), plan.heads)
    if plan.rows:
        factors = q.new_empty(*tiles, plan.chunk, 4, dtype=torch.float32)
    else:
        planes = 4 if save and plan.decay == 2 else 3
        factors = q.new_empty(planes, *tiles, plan.chunk, plan.padded_width, dtype=plan.narrow)
    squares = [q.new_empty(*tiles, plan.chunk, plan.chunk, dtype=plan.narrow) for _ in range(2 if plan.erase else 1)]
    end = q.new_empty((*tiles, plan.padded_width) if plan.decay else (0,), dtype=torch.float32)
    steep = q.new_empty(tiles if plan.decay == 2 else (0,), dtype=torch.int32)
    return factors, squares[1] if plan.erase else q.new_empty(0), squares[0], end, steep


def results(plan: Plan, x: Inputs, cu_seqlens: Tensor | None, final: bool, save: bool) -> tuple[Tensor, ...]:
    """The results of ``run_forward``, unfilled."""
    q, v = x.q, x.v
    count = q.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    state = (plan.value_heads, plan.width, plan.values)
    last = q.new_empty((count, *state) if final else (0,), dtype=torch.float32)
    if not save:
        return torch.empty_like(v), last, *(q.new_empty(0) for _ in range(7))
    states = q.new_empty(_most_chunks(q, cu_seqlens, plan.chunk), *state, dtype=plan.narrow)
    R = torch.empty_like(v, dtype=plan.narrow)
    return torch.empty_like(v), last, *_scratch(plan, q, cu_seqlens, True), states, R
