"""K2, state and output: one program per sequence, value head and block of value channels, chunk after chunk.

    X = w ⊙ v − E S;   R = T X;   O = Qγ S + P R;   S ← Diag(γ_C) S + Ktᵀ R

With a decay per channel the factors come without η (prologue.py), so that S is taken times η before and after. Where a
backward follows, R and the S that met the factors are kept.
"""

import triton
import triton.language as tl

from deltalab.kernels.triton.inputs import load_rows, load_scalars, state_block, store_rows
from deltalab.kernels.triton.parts import dot, in_registers


@triton.jit
def load_factor(factors, x, which, tile, tiles, tokens, real, head, H: tl.constexpr, K: tl.constexpr,
                C: tl.constexpr, BK: tl.constexpr, ROWS: tl.constexpr, OP: tl.constexpr):  # fmt: skip
    """A factor [C, BK] and the scales [C] of its rows: from the prologue's tiles (scale one), or x itself (ROWS)."""
    rows = tl.arange(0, C)
    channels = tl.arange(0, BK)
    if ROWS:
        place = (tokens[:, None] * H + head) * K + channels[None, :]
        tile_ = tl.load(x + place, mask=real[:, None] & (channels < K)[None, :], other=0.0)
        return tile_.to(OP), tl.load(factors + (which * tiles + tile) * C + rows)
    else:  # noqa: RET505, Triton needs one branch
        place = (which * tiles + tile) * C * BK + rows[:, None] * BK + channels[None, :]
        return tl.load(factors + place), tl.full([C], 1.0, tl.float32)


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
def load_end(end, tile, BK: tl.constexpr, DECAY: tl.constexpr):
    """What a chunk leaves of the state: η [BK, 1], once on the way in and once on the way out, or γ_C."""
    if DECAY == 2:
        return tl.load(end + tile * BK + tl.arange(0, BK))[:, None]
    elif DECAY == 1:  # noqa: RET505, Triton needs one branch
        return tl.load(end + tile)
    else:
        return 1.0


@triton.jit(do_not_specialize=["tiles"])
def state_forward(
    q, k, v, w, factors, T, P, end, initial, sequences, tiles, o, states, R, final,
    H: tl.constexpr, HV: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    DECAY: tl.constexpr, ERASE: tl.constexpr, WRITE: tl.constexpr, ROWS: tl.constexpr, REGISTERS: tl.constexpr,
    GIVEN: tl.constexpr, FINAL: tl.constexpr, SAVE: tl.constexpr, OP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Args:
    v [tokens, HV, V]; w [tokens, HV(, V)]; factors, T, P, end of ``prologue``.
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
        leaves = load_end(end, tile, BK, DECAY)
        if DECAY == 2:
            S *= leaves
        S_ = S.to(OP)
        if SAVE:
            tl.store(states + (chunk * HV + head) * K * V + own, S_.to(states.dtype.element_ty), mask=inside)
        if DECAY == 1:
            S *= leaves
        if ERASE > 0:
            E, scales = load_factor(factors, k, 0, tile, tiles, tokens, real, key_head, H, K, C, BK, ROWS, OP)
            erased = scaled(dot(first_operand(E, REGISTERS), S_, PRECISION), scales, ROWS)
        v_, w_ = load_values(v, w, tokens, real, head, HV, V, BV, first, WRITE)
        X = v_ * w_
        if ERASE > 0:
            X -= erased
            X = dot(first_operand(load_square(T, tile, C), REGISTERS), X.to(OP), PRECISION)
        R_ = X.to(OP)
        if SAVE:
            store_rows(R, R_, tokens, real, head, HV, V, BV, first)
        Qg, scales = load_factor(factors, q, 1, tile, tiles, tokens, real, key_head, H, K, C, BK, ROWS, OP)
        O = scaled(dot(first_operand(Qg, REGISTERS), S_, PRECISION), scales, ROWS)
        O += dot(first_operand(load_square(P, tile, C), REGISTERS), R_, PRECISION)
        store_rows(o, O, tokens, real, head, HV, V, BV, first)
        Kt, scales = load_factor(factors, k, 2, tile, tiles, tokens, real, key_head, H, K, C, BK, ROWS, OP)
        S += dot(tl.trans(Kt), scaled(X, scales, ROWS).to(OP), PRECISION)
        if DECAY == 2:
            S *= leaves
        chunk += 1
    if FINAL:
        tl.store(final + place + own, S, mask=inside)
