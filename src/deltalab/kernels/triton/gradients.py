"""B2, everything that is not serial: the gradients of all inputs, one program per chunk and key head.

    dP = tril(dO Rᵀ);   dA = −stril(dX Rᵀ);   dE = −dX Sᵀ;   dQγ = dO Sᵀ;   dKt = R Dᵀ
    dq = scale · (γ ⊙ dQγ + dP̃ k);   e = γ ⊙ dE + dÃ k;   kc = scale · dP̃ᵀ q + dÃᵀ (b ⊙ k);   kt = (γ_C/γ) ⊙ dKt
    dk = b ⊙ e + kt + kc;   db = k ⊙ e;   dv = w ⊙ dX;   dw = v ⊙ dX

dg sums what stands on either side of a token: Σ_{s ≥ t} (q ⊙ dq + b ⊙ k ⊙ e − k ⊙ kc)_s of pairs and of what reads the
first state, Σ_{s < t} (k ⊙ kt)_s of what passes t on its way to the last, and γ_C ⊙ Σ_v (S ⊙ D) of what passes all
of it. A token's causal score with itself holds no decay: it is kept out of the sum, where it would drown small terms.
"""

import triton
import triton.language as tl

from deltalab.kernels.triton.forward import load_values
from deltalab.kernels.triton.inputs import (
    chunk_of,
    gate,
    gate_grad,
    head_decay,
    load_channel_decay,
    load_erase,
    load_rows,
    load_scalars,
    norms,
    pair_decay,
    store_rows,
)
from deltalab.kernels.triton.parts import (
    GROUP,
    LOG2E,
    any_steep,
    dot,
    first_level,
    level_factors,
    levels,
    sigmoid,
    sums_before,
)


@triton.jit
def pair_grads(bk, q, k, dP, dA, ERASE: tl.constexpr, OP: tl.constexpr, PRECISION: tl.constexpr):
    """dq, e and kc [C, KB] of pairs whose decay is absorbed in q, b ⊙ k and k."""
    columns = k.to(OP)
    dq = dot(dP, columns, PRECISION)
    kc = dot(tl.trans(dP), q.to(OP), PRECISION)
    e = tl.zeros_like(dq)
    if ERASE:
        e = dot(dA, columns, PRECISION)
        kc += dot(tl.trans(dA), bk.to(OP), PRECISION)
    return dq, e, kc


@triton.jit
def anchored_pair_grads(
    bk, q, k, G, dP, dA, C: tl.constexpr, KB: tl.constexpr, ERASE: tl.constexpr, OP: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """The same under any decay, the counterpart of ``parts.anchored_scores``."""
    dq = tl.zeros([C, KB], tl.float32)
    e = tl.zeros([C, KB], tl.float32)
    kc = tl.zeros([C, KB], tl.float32)
    first = first_level(G, C, KB)
    for level in range(first, levels(C)):
        up, down, mask = level_factors(G, level, first, C, KB)
        more_q, more_e, more_k = pair_grads(
            bk * up, q * up, k * down, tl.where(mask, dP, 0.0).to(OP), tl.where(mask, dA, 0.0).to(OP),
            ERASE, OP, PRECISION,
        )  # fmt: skip
        dq += up * more_q
        e += up * more_e
        kc += down * more_k
    return dq, e, kc


@triton.jit
def value_gradients(
    v, w, do, dX, R, dv, dw, squares, pairs, tokens, real, key_head, tile,
    HV: tl.constexpr, GROUP: tl.constexpr, V: tl.constexpr, C: tl.constexpr, BV: tl.constexpr, DECAY: tl.constexpr,
    ERASE: tl.constexpr, WRITE: tl.constexpr, SIGMOID: tl.constexpr, OP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Store dv and dw of a key head's value heads, and dP and dA below the diagonal; return dP's diagonal."""
    rows = tl.arange(0, C)
    dP = tl.zeros([C, C], tl.float32)
    dA = tl.zeros([C, C], tl.float32)
    diagonal = tl.zeros([C], tl.float32)
    for head in range(key_head * GROUP, key_head * GROUP + GROUP):
        gained = tl.zeros([C], tl.float32)
        for first in range(0, V, BV):
            dO_ = load_rows(do, tokens, real, head, HV, V, BV, first)
            R_ = load_rows(R, tokens, real, head, HV, V, BV, first)
            dX_ = load_rows(dX, tokens, real, head, HV, V, BV, first)
            diagonal += tl.sum(dO_ * R_, 1)
            columns = tl.trans(R_.to(OP))
            dP += dot(dO_.to(OP), columns, PRECISION)
            if ERASE:
                dA -= dot(dX_.to(OP), columns, PRECISION)
            v_, w_ = load_values(v, w, tokens, real, head, HV, V, BV, first, WRITE, SIGMOID)
            store_rows(dv, dX_ * w_, tokens, real, head, HV, V, BV, first)
            if WRITE == 2:
                store_rows(dw, gate_grad(dX_ * v_, w_, SIGMOID), tokens, real, head, HV, V, BV, first)
            elif WRITE == 1:
                gained += tl.sum(gate_grad(dX_ * v_, w_, SIGMOID), 1)
        if WRITE == 1:
            tl.store(dw + tokens * HV + head, gained.to(dw.dtype.element_ty), mask=real)
    if DECAY == 1:
        dP *= pairs
        dA *= pairs
    lower = rows[:, None] > rows[None, :]
    place = squares + 2 * tile * C * C + rows[:, None] * C + rows[None, :]
    tl.store(place, tl.where(lower, dP, 0.0).to(OP))
    if ERASE:
        tl.store(place + C * C, tl.where(lower, dA, 0.0).to(OP))
    return diagonal


@triton.jit
def state_gradients(
    do, dX, R, states, D, tokens, real, key_head, chunk, first,
    HV: tl.constexpr, GROUP: tl.constexpr, K: tl.constexpr, V: tl.constexpr, C: tl.constexpr, KB: tl.constexpr,
    BV: tl.constexpr, DECAY: tl.constexpr, ERASE: tl.constexpr, OP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dQγ, dE, dKt [C, KB] of a block of channels, summed over a key head's value heads, and Σ_v S ⊙ D [KB]."""
    channels = first + tl.arange(0, KB)
    dQ = tl.zeros([C, KB], tl.float32)
    dE = tl.zeros([C, KB], tl.float32)
    dK = tl.zeros([C, KB], tl.float32)
    kept = tl.zeros([KB], tl.float32)
    for head in range(key_head * GROUP, key_head * GROUP + GROUP):
        for value in range(0, V, BV):
            values = value + tl.arange(0, BV)
            place = (chunk * HV + head) * K * V + channels[:, None] * V + values[None, :]
            inside = (channels < K)[:, None] & (values < V)[None, :]
            S = tl.load(states + place, mask=inside, other=0.0)
            S_end = tl.load(D + place, mask=inside, other=0.0)
            dQ += dot(load_rows(do, tokens, real, head, HV, V, BV, value).to(OP), tl.trans(S), PRECISION)
            dK += dot(load_rows(R, tokens, real, head, HV, V, BV, value).to(OP), tl.trans(S_end), PRECISION)
            if ERASE:
                dE -= dot(load_rows(dX, tokens, real, head, HV, V, BV, value).to(OP), tl.trans(S), PRECISION)
            if DECAY > 0:
                kept += tl.sum(S.to(tl.float32) * S_end.to(tl.float32), 1)
    return dQ, dE, dK, kept


@triton.jit
def channel_decay_grads(
    g, a, delta, dg, ddelta, grad, tokens, real, head, tile, first,
    H: tl.constexpr, K: tl.constexpr, KB: tl.constexpr, SOFTPLUS: tl.constexpr,
):  # fmt: skip
    """From the cotangent of a block of channels' decay store dg and ddelta; return its part of da."""
    turned = 0.0
    if SOFTPLUS:
        channels = first + tl.arange(0, KB)
        decay, rate, raw = load_channel_decay(g, a, delta, tokens, real, head, H, K, KB, first, SOFTPLUS)
        grad = tl.where(real[:, None], grad, 0.0)
        turned = tl.sum(tl.sum(grad * decay, 1), 0) / LOG2E
        grad *= -rate * sigmoid(raw)
        tl.store(ddelta + tile * K + channels, tl.sum(grad, 0), mask=channels < K)
    store_rows(dg, grad, tokens, real, head, H, K, KB, first)
    return turned


@triton.jit
def head_decay_grads(
    decay, rate, raw, last, dg, da, ddelta, around, passing, kept, tokens, real, head, tile,
    H: tl.constexpr, C: tl.constexpr, SOFTPLUS: tl.constexpr,
):  # fmt: skip
    """The same for a decay of one value per head, from sums over all channels: [C], [C] and a number."""
    rows = tl.arange(0, C)
    grad = tl.sum(tl.where(rows[:, None] > rows[None, :], passing[None, :], around[None, :]), 1) + tl.exp2(last) * kept
    if SOFTPLUS:
        grad = tl.where(real, grad, 0.0)
        tl.store(da + tile, tl.sum(grad * decay, 0) / LOG2E)
        grad *= -rate * sigmoid(raw)
        tl.store(ddelta + tile, tl.sum(grad, 0))
    tl.store(dg + tokens * H + head, grad.to(dg.dtype.element_ty), mask=real)


@triton.jit
def divide_norm(grad, x, scale, along, tokens, real, head, H: tl.constexpr, K: tl.constexpr, KB: tl.constexpr, first):
    """Turn the stored cotangent of normed rows, which has the product ``along`` with them, into that of the rows."""
    d = load_rows(grad, tokens, real, head, H, K, KB, first)
    x_ = load_rows(x, tokens, real, head, H, K, KB, first) * scale[:, None]
    store_rows(grad, scale[:, None] * (d - x_ * along[:, None]), tokens, real, head, H, K, KB, first)


@triton.jit
def gradient_tile(
    q, k, v, g, b, w, a, delta, do, dX, R, states, D, spans, squares, e_room, kept_room,
    dq, dk, dv, dg, db, dw, da, ddelta, scale, tile, tiles,
    H: tl.constexpr, HV: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    C: tl.constexpr, BK: tl.constexpr, KB: tl.constexpr, BV: tl.constexpr,
    DECAY: tl.constexpr, ERASE: tl.constexpr, WRITE: tl.constexpr,
    NORM: tl.constexpr, SOFTPLUS: tl.constexpr, RANGE: tl.constexpr, SIGMOID: tl.constexpr,
    STEEP: tl.constexpr, OP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One chunk of one key head."""
    tokens, real, head = chunk_of(spans, tile, tiles, H, C)
    gamma, tail, G_, last_, head_decay_, rate, raw = head_decay(g, a, delta, tokens, real, head, H, C, DECAY, SOFTPLUS)
    diagonal = value_gradients(
        v, w, do, dX, R, dv, dw, squares, pair_decay(G_, C), tokens, real, head, tile,
        HV, HV // H, V, C, BV, DECAY, ERASE > 0, WRITE, SIGMOID, OP, PRECISION,
    )  # fmt: skip
    tl.debug_barrier()  # dP and dA come back through memory, where they can be read transposed
    square = squares + 2 * tile * C * C + tl.arange(0, C)[:, None] * C + tl.arange(0, C)[None, :]
    q_scale, k_scale = norms(q, k, tokens, real, head, H, K, BK, KB, NORM)
    own = scale * diagonal[:, None]
    zeros = tl.zeros([C], tl.float32)
    q_along = zeros
    k_along = zeros
    erased = zeros
    around_head = zeros
    passing_head = zeros
    kept_head = 0.0
    turned = 0.0
    for first in range(0, BK, KB):
        dQ, dE, dK, kept = state_gradients(
            do, dX, R, states, D, tokens, real, head, tile // H, first,
            HV, HV // H, K, V, C, KB, BV, DECAY, ERASE > 0, OP, PRECISION,
        )  # fmt: skip
        if DECAY == 2:
            decay, _, _ = load_channel_decay(g, a, delta, tokens, real, head, H, K, KB, first, SOFTPLUS)
            G = tl.cumsum(decay, 0)
            last = tl.sum(decay, 0)
            lead = tl.exp2(G)
            kt = tl.exp2(last[None, :] - G) * dK
        else:
            lead = gamma[:, None]
            kt = tail[:, None] * dK
        store_rows(dq, lead * dQ, tokens, real, head, H, K, KB, first)
        store_rows(dk, kt, tokens, real, head, H, K, KB, first)
        if ERASE > 0:
            store_rows(e_room, lead * dE, tokens, real, head, H, K, KB, first)
        if DECAY == 2:
            tl.store(kept_room + tile * BK + first + tl.arange(0, KB), tl.exp2(last) * kept)
        elif DECAY == 1:
            passing_head += tl.sum(kt * load_rows(k, tokens, real, head, H, K, KB, first), 1) * k_scale
            kept_head += tl.sum(kept, 0)
    tl.debug_barrier()
    for first in range(0, BK, KB):
        q_ = load_rows(q, tokens, real, head, H, K, KB, first) * q_scale[:, None]
        k_ = load_rows(k, tokens, real, head, H, K, KB, first) * k_scale[:, None]
        b_ = load_erase(b, tokens, real, head, H, K, KB, first, ERASE, RANGE)
        dP = tl.load(square)
        dA = dP
        if ERASE > 0:
            dA = tl.load(square + C * C)
        if DECAY == 2:
            decay, _, _ = load_channel_decay(g, a, delta, tokens, real, head, H, K, KB, first, SOFTPLUS)
            G = tl.cumsum(decay, 0)
            if STEEP:
                dq_, e, kc = anchored_pair_grads(b_ * k_, q_ * scale, k_, G, dP, dA, C, KB, ERASE > 0, OP, PRECISION)
            else:
                up = tl.exp2(G - 0.5 * tl.sum(decay, 0)[None, :])
                down = 1.0 / up
                dq_, e, kc = pair_grads(b_ * k_ * up, q_ * (scale * up), k_ * down, dP, dA, ERASE > 0, OP, PRECISION)
                dq_ *= up
                e *= up
                kc *= down
        else:
            dq_, e, kc = pair_grads(b_ * k_, q_ * scale, k_, dP, dA, ERASE > 0, OP, PRECISION)
        dq_ = scale * (dq_ + load_rows(dq, tokens, real, head, H, K, KB, first))
        around = q_ * dq_ - k_ * kc
        kt = load_rows(dk, tokens, real, head, H, K, KB, first)
        passing = k_ * kt
        dk_ = kc + kt
        if ERASE > 0:
            e += load_rows(e_room, tokens, real, head, H, K, KB, first)
            around += k_ * b_ * e
            dk_ += b_ * e
        if ERASE == 2:
            store_rows(db, gate_grad(k_ * e, b_, RANGE), tokens, real, head, H, K, KB, first)
        elif ERASE == 1:
            erased += tl.sum(k_ * e, 1)
        if DECAY == 2:
            kept = tl.load(kept_room + tile * BK + first + tl.arange(0, KB))
            grad = tl.cumsum(around, 0, reverse=True) + sums_before(passing, C) + kept[None, :]
            turned += channel_decay_grads(
                g, a, delta, dg, ddelta, grad, tokens, real, head, tile, first, H, K, KB, SOFTPLUS
            )
        elif DECAY == 1:
            around_head += tl.sum(around, 1)
        dq_ += own * k_
        dk_ += own * q_
        store_rows(dq, dq_, tokens, real, head, H, K, KB, first)
        store_rows(dk, dk_, tokens, real, head, H, K, KB, first)
        if NORM:
            q_along += tl.sum(q_ * dq_, 1)
            k_along += tl.sum(k_ * dk_, 1)
    if ERASE == 1:
        erase = gate(load_scalars(b, tokens, real, head, H), RANGE)
        tl.store(db + tokens * H + head, gate_grad(erased, erase, RANGE).to(db.dtype.element_ty), mask=real)
    if DECAY == 1:
        head_decay_grads(
            head_decay_, rate, raw, last_, dg, da, ddelta, around_head, passing_head, kept_head,
            tokens, real, head, tile, H, C, SOFTPLUS,
        )  # fmt: skip
    if SOFTPLUS and DECAY == 2:
        tl.store(da + tile, turned)
    if NORM:
        tl.debug_barrier()
        for first in range(0, BK, KB):
            divide_norm(dq, q, q_scale, q_along, tokens, real, head, H, K, KB, first)
            divide_norm(dk, k, k_scale, k_along, tokens, real, head, H, K, KB, first)


@triton.jit(do_not_specialize=["tiles"])
def gradients(
    q, k, v, g, b, w, a, delta, do, dX, R, states, D, spans, steep, squares, e_room, kept_room,
    dq, dk, dv, dg, db, dw, da, ddelta, scale, tiles,
    H: tl.constexpr, HV: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    C: tl.constexpr, BK: tl.constexpr, KB: tl.constexpr, BV: tl.constexpr,
    DECAY: tl.constexpr, ERASE: tl.constexpr, WRITE: tl.constexpr,
    NORM: tl.constexpr, SOFTPLUS: tl.constexpr, RANGE: tl.constexpr, SIGMOID: tl.constexpr,
    STEEP: tl.constexpr, OP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Args:
    inputs as in ``prologue`` and ``state_forward``; R, states, dX, D of the two passes over the state.
    dq, dk, dv, dg, db, dw: the gradients, shaped as their inputs.
    steep, tiles, STEEP: as in ``prologue``, whose launches these follow.
    squares: room for [chunks, H, 2, C, C].
    da [chunks, H], ddelta [chunks, H(, K)]: each chunk's part.
    """
    if STEEP:
        for base in range(tl.program_id(0).to(tl.int64) * GROUP, tiles, tl.num_programs(0) * GROUP):
            if any_steep(steep, base, tiles):
                for tile in range(base, tl.minimum(base + GROUP, tiles)):
                    if tl.load(steep + tile) != 0:
                        gradient_tile(
                            q, k, v, g, b, w, a, delta, do, dX, R, states, D, spans, squares, e_room, kept_room,
                            dq, dk, dv, dg, db, dw, da, ddelta, scale, tile, tiles,
                            H, HV, K, V, C, BK, KB, BV, DECAY, ERASE, WRITE, NORM, SOFTPLUS, RANGE, SIGMOID, STEEP,
                            OP, PRECISION,
                        )  # fmt: skip
    else:
        tile = tl.program_id(0).to(tl.int64)
        due = True
        if DECAY == 2:
            due = tl.load(steep + tile) == 0
        if due:
            gradient_tile(
                q, k, v, g, b, w, a, delta, do, dX, R, states, D, spans, squares, e_room, kept_room,
                dq, dk, dv, dg, db, dw, da, ddelta, scale, tile, tiles,
                H, HV, K, V, C, BK, KB, BV, DECAY, ERASE, WRITE, NORM, SOFTPLUS, RANGE, SIGMOID, STEEP, OP, PRECISION,
            )  # fmt: skip
