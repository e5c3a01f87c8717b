"""B1, the reverse pass over the state: one program per sequence, value head and block of value channels.

    dR = Pᵀ dO + Kt D;   dX = Tᵀ dR;   D ← Qγᵀ dO + Diag(γ_C) D − Eᵀ dX

D is the cotangent of the state at a chunk's end, η as in forward.py; dX and D are kept for the gradients that remain.
"""

import triton
import triton.language as tl

from deltalab.kernels.triton.forward import first_operand, load_end, load_factor, load_scales, load_square, scaled
from deltalab.kernels.triton.inputs import load_rows, state_block, store_rows
from deltalab.kernels.triton.parts import dot


@triton.jit(do_not_specialize=["tiles"])
def state_backward(
    q, k, do, factors, T, P, end, dfinal, sequences, dX, D, dinitial, tiles,
    H: tl.constexpr, HV: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    DECAY: tl.constexpr, ERASE: tl.constexpr, ROWS: tl.constexpr,
    REGISTERS: tl.constexpr, GIVEN: tl.constexpr, FINAL: tl.constexpr, OP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Args:
    do: [tokens, HV, V].
    factors, T, P, end, sequences, tiles: as in ``state_forward``.
    dfinal (FINAL), dinitial (GIVEN): cotangents of states [N, HV, K, V].
    dX: [tokens, HV, V].
    D: [chunks, HV, K, V] at the chunks' ends, times η where there is one.
    """
    head, first, start, stop, _, chunk, place, own, inside = state_block(sequences, HV, K, V, BK, BV)
    key_head = head // (HV // H)
    rows = tl.arange(0, C)
    S = tl.zeros([BK, BV], tl.float32)
    if FINAL:
        S += tl.load(dfinal + place + own, mask=inside, other=0.0).to(tl.float32)
    for back in range(0, stop - start, C):
        chunk -= 1
        begin = start + (tl.cdiv(stop - start, C) - 1) * C - back
        tokens = begin + rows
        real = tokens < stop
        tile = chunk * H + key_head
        scale_E, scale_Qg, scale_Kt = load_scales(factors, tile, C, ROWS)
        if DECAY > 0:
            leaves = load_end(end, tile, BK)
            S *= leaves
        S_ = S.to(OP)
        tl.store(D + (chunk * HV + head) * K * V + own, S_.to(D.dtype.element_ty), mask=inside)
        dO = load_rows(do, tokens, real, head, HV, V, BV, first).to(OP)
        Kt = load_factor(factors, k, 2, tile, tiles, tokens, real, key_head, H, K, C, BK, ROWS, OP)
        G = scaled(dot(first_operand(Kt, REGISTERS), S_, PRECISION), scale_Kt, ROWS)
        G += dot(tl.trans(load_square(P, tile, C)), dO, PRECISION)
        Qg = load_factor(factors, q, 1, tile, tiles, tokens, real, key_head, H, K, C, BK, ROWS, OP)
        S += dot(tl.trans(Qg), scaled(dO.to(tl.float32), scale_Qg, ROWS).to(OP), PRECISION)
        if ERASE > 0:
            G = dot(tl.trans(load_square(T, tile, C)), G.to(OP), PRECISION)
            # in rows both are k, which then is read once
            E = Kt if ROWS else load_factor(
                factors, k, 0, tile, tiles, tokens, real, key_head, H, K, C, BK, ROWS, OP
            )  # fmt: skip
            S -= dot(tl.trans(E), scaled(G, scale_E, ROWS).to(OP), PRECISION)
        if DECAY > 0:
            S *= leaves
        store_rows(dX, G, tokens, real, head, HV, V, BV, first)
    if GIVEN:
        tl.store(dinitial + place + own, S, mask=inside)
