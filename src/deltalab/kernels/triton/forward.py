"""K2, state and output: one program per sequence, value head and block of value channels, chunk after chunk.

    X = w ⊙ v − E S;   R = T X;   O = Qγ S + P R;   S ← Diag(γ_C) S + Ktᵀ R

The factors come without η (prologue.py), so that S is taken times η before and after. Where a backward follows, R and
the S that met the factors are kept.
"""

import triton
import triton.language as tl

from deltalab.kernels.triton.inputs import load_rows, read_rows, state_block, store_rows
from deltalab.kernels.triton.parts import dot, in_registers


@triton.jit
def load_factor(factors, x, which, tile, tiles, tokens, real, head, H: tl.constexpr, K: tl.constexpr,
                C: tl.constexpr, BK: tl.constexpr, ROWS: tl.constexpr, OP: tl.constexpr):  # fmt: skip
    """A factor [C, BK] from the prologue's tiles, or x itself, whose rows are scaled (ROWS)."""
    if ROWS:
        return read_rows(x, tokens, real, head, H, K, BK, 0).to(OP)
    else:  # noqa: RET505, Triton needs one branch
        place = (which * tiles + tile) * C * BK + tl.arange(0, C)[:, None] * BK + tl.arange(0, BK)[None, :]
        return tl.load(factors + place)


@triton.jit
def load_scales(factors, tile, C: tl.constexpr, ROWS: tl.constexpr):
    """Scales of the rows of E, Qγ and Kt [C], in one load; ones where the factors hold them."""
    if ROWS:
        places = tile * 4 * C + tl.arange(0, C)[:, None] * 4 + tl.arange(0, 4)[None, :]
        even, odd = tl.split(tl.reshape(tl.load(factors + places), [C, 2, 2]))
        scale_E, scale_Kt = tl.split(even)
        scale_Qg, _ = tl.split(odd)
        return scale_E, scale_Qg, scale_Kt
    else:  # noqa: RET505, Triton needs one branch
        one = tl.full([C], 1.0, tl.float32)
        return one, one, one


@triton.jit
def first_operand(x, REGISTERS: tl.constexpr):
    """x for a product, by way of registers where asked for (``Plan.through_registers``)."""
    if REGISTERS:
        return in_registers(x)
    else:  # noqa: RET505, Triton needs one branch
        return x


@triton.jit
def load_square(x, tile, C: tl.constexpr):
    """Scores or inverse [C, C] of a tile."""
    rows = tl.arange(0, C)
    return tl.load(x + tile * C * C + rows[:, None] * C + rows[None, :])


@triton.jit
def scaled(x, scales, ROWS: tl.constexpr):
    """x with its rows scaled, where they are."""
    if ROWS:
        return x * scales[:, None]
    return x


@triton.jit
def load_end(end, tile, BK: tl.constexpr):
    """η [BK, 1], what a chunk leaves of the state on the way in, and again on the way out."""
    return tl.load(end + tile * BK + tl.arange(0, BK))[:, None]


@triton.jit(do_not_specialize=["tiles"])
def state_forward(
    q, k, v, w, factors, writes, T, P, end, initial, sequences, o, states, R, final, tiles,
    H: tl.constexpr, HV: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    DECAY: tl.constexpr, ERASE: tl.constexpr, WRITE: tl.constexpr, ROWS: tl.constexpr, REGISTERS: tl.constexpr,
    GIVEN: tl.constexpr, FINAL: tl.constexpr, SAVE: tl.constexpr, OP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Args:
    v [tokens, HV, V]; w [tokens, HV(, V)]; factors, writes, T, P, end of ``prologue``.
    initial, final: states [N, HV, K, V].
    sequences: [2, N + 1] first token of each sequence, and its first chunk.
    tiles: chunks × H.
    o: [tokens, HV, V].
    states: [chunks, HV, K, V] at the chunks' starts, times η where there is one. R: [tokens, HV, V].
    """
    head, first, start, stop, chunk, _, place, own, inside = state_block(sequences, HV, K, V, BK, BV)
    key_head = head // (HV // H)
    rows = tl.arange(0, C)
    S = tl.zeros([BK, BV], tl.float32)
    if GIVEN:
        S += tl.load(initial + place + own, mask=inside, other=0.0).to(tl.float32)
    for begin in range(start, stop, C):
        tokens = begin + rows
        real = tokens < stop
        tile = chunk * H + key_head
        scale_E, scale_Qg, scale_Kt = load_scales(factors, tile, C, ROWS)
        if DECAY > 0:
            leaves = load_end(end, tile, BK)
            S *= leaves
        S_ = S.to(OP)
        if SAVE:
            tl.store(states + (chunk * HV + head) * K * V + own, S_.to(states.dtype.element_ty), mask=inside)
        if ERASE > 0:
            E = load_factor(factors, k, 0, tile, tiles, tokens, real, key_head, H, K, C, BK, ROWS, OP)
            erased = scaled(dot(first_operand(E, REGISTERS), S_, PRECISION), scale_E, ROWS)
        X = load_rows(v, tokens, real, head, HV, V, BV, first)
        if WRITE == 2:
            X *= load_rows(w, tokens, real, head, HV, V, BV, first)
        elif WRITE == 1:
            X *= tl.load(writes + (chunk * HV + head) * C + rows)[:, None]
        if ERASE > 0:
            X -= erased
            X = dot(first_operand(load_square(T, tile, C), REGISTERS), X.to(OP), PRECISION)
        R_ = X.to(OP)
        if SAVE:
            store_rows(R, R_, tokens, real, head, HV, V, BV, first)
        Qg = load_factor(factors, q, 1, tile, tiles, tokens, real, key_head, H, K, C, BK, ROWS, OP)
        O = scaled(dot(first_operand(Qg, REGISTERS), S_, PRECISION), scale_Qg, ROWS)
        O += dot(first_operand(load_square(P, tile, C), REGISTERS), R_, PRECISION)
        store_rows(o, O, tokens, real, head, HV, V, BV, first)
        # in rows both are k, which then is read once
        Kt = E if ROWS and ERASE > 0 else load_factor(
            factors, k, 2, tile, tiles, tokens, real, key_head, H, K, C, BK, ROWS, OP
        )  # fmt: skip
        S += dot(tl.trans(Kt), scaled(X, scale_Kt, ROWS).to(OP), PRECISION)
        if DECAY > 0:
            S *= leaves
        chunk += 1
    if FINAL:
        tl.store(final + place + own, S, mask=inside)
