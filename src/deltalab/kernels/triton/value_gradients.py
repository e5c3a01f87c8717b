"""B2, first half: what the value side needs, one program per chunk and key head.

    dv = w ⊙ dX;   dw = v ⊙ dX;   dP = tril(dO Rᵀ);   dA = −stril(dX Rᵀ)

dO Rᵀ and dX Rᵀ are left in memory for the key side (key_gradients.py), which reads them both ways round and takes what
lies below their diagonals. A token's causal score with itself holds no decay: dP's diagonal is kept apart, or it would
drown small terms in the decay's gradient.
"""

import triton
import triton.language as tl

from deltalab.kernels.triton.inputs import (
    chunk_of,
    head_decay,
    load_rows,
    load_scalars,
    pair_decay,
    store_rows,
    store_scalars,
)
from deltalab.kernels.triton.parts import dot


@triton.jit
def load_values(v, w, tokens, real, head, HV: tl.constexpr, V: tl.constexpr, BV: tl.constexpr, first,
                WRITE: tl.constexpr):  # fmt: skip
    """v and the write gate [C, BV] (or [C, 1]) in fp32."""
    v_ = load_rows(v, tokens, real, head, HV, V, BV, first)
    if WRITE == 2:
        w_ = load_rows(w, tokens, real, head, HV, V, BV, first)
    elif WRITE == 1:
        w_ = load_scalars(w, tokens, real, head, HV)[:, None]
    else:
        w_ = tl.full([tokens.shape[0], 1], 1.0, tl.float32)
    return v_, w_


@triton.jit
def value_tile(
    v, w, g, do, dX, R, squares, diagonals, dv, dw, tokens, real, key_head, slot,
    H: tl.constexpr, HV: tl.constexpr, V: tl.constexpr, C: tl.constexpr, BV: tl.constexpr,
    DECAY: tl.constexpr, ERASE: tl.constexpr, WRITE: tl.constexpr, OP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One chunk of one key head; its pairs of tokens are left at ``slot``."""
    rows = tl.arange(0, C)
    _, _, _, G = head_decay(g, tokens, real, key_head, H, C, DECAY)
    dO_R = tl.zeros([C, C], tl.float32)
    dX_R = tl.zeros([C, C], tl.float32)
    diagonal = tl.zeros([C], tl.float32)
    for head in range(key_head * (HV // H), (key_head + 1) * (HV // H)):
        gained = tl.zeros([C], tl.float32)
        for first in range(0, V, BV):
            dO_ = load_rows(do, tokens, real, head, HV, V, BV, first)
            R_ = load_rows(R, tokens, real, head, HV, V, BV, first)
            dX_ = load_rows(dX, tokens, real, head, HV, V, BV, first)
            diagonal += tl.sum(dO_ * R_, 1)
            columns = tl.trans(R_.to(OP))
            dO_R += dot(dO_.to(OP), columns, PRECISION)
            if ERASE > 0:
                dX_R += dot(dX_.to(OP), columns, PRECISION)
            v_, w_ = load_values(v, w, tokens, real, head, HV, V, BV, first, WRITE)
            store_rows(dv, dX_ * w_, tokens, real, head, HV, V, BV, first)
            if WRITE == 2:
                store_rows(dw, dX_ * v_, tokens, real, head, HV, V, BV, first)
            elif WRITE == 1:
                gained += tl.sum(dX_ * v_, 1)
        if WRITE == 1:
            store_scalars(dw, gained, tokens, real, head, HV)
    if DECAY == 1:
        pairs = pair_decay(G, C)
        dO_R *= pairs
        dX_R *= pairs
    place = squares + 2 * slot * C * C + rows[:, None] * C + rows[None, :]
    tl.store(place, dO_R.to(OP))
    if ERASE > 0:
        tl.store(place + C * C, dX_R.to(OP))
    tl.store(diagonals + slot * C + rows, diagonal)


@triton.jit(do_not_specialize=["tiles"])
def value_gradients(
    v, w, g, do, dX, R, spans, steep, squares, diagonals, dv, dw, tiles,
    H: tl.constexpr, HV: tl.constexpr, V: tl.constexpr, C: tl.constexpr, BV: tl.constexpr,
    DECAY: tl.constexpr, ERASE: tl.constexpr, WRITE: tl.constexpr, OP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Args:
    v, w as in ``state_forward``; g, steep as in ``prologue``; R, dX of the two passes over the state.
    squares: dO Rᵀ and dX Rᵀ [chunks, H, 2, C, C], with the pairs' decay, summed over a key head's value heads.
    diagonals: dP's diagonal [chunks, H, C].
    dv, dw: shaped as v and w.
    """
    tile = tl.program_id(0).to(tl.int64)
    tokens, real, key_head = chunk_of(spans, tile, tiles, H, C)
    if DECAY == 2:  # a steep chunk is done by key_gradients' other launch: no row is read then, and none written
        real &= tl.load(steep + tile) == 0
    value_tile(
        v, w, g, do, dX, R, squares, diagonals, dv, dw, tokens, real, key_head, tile,
        H, HV, V, C, BV, DECAY, ERASE, WRITE, OP, PRECISION,
    )  # fmt: skip
