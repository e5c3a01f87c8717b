"""B2, second half: the gradients of q, k, g and b, one program per chunk and key head.

    dE = −dX Sᵀ;   dQγ = dO Sᵀ;   dKt = R Dᵀ;   dP and dA come from value_gradients.py
    dq = scale · (γ ⊙ dQγ + dP̃ k);   e = γ ⊙ dE + dÃ k;   kc = scale · dP̃ᵀ q + dÃᵀ (b ⊙ k);   kt = (γ_C/γ) ⊙ dKt
    dk = b ⊙ e + kt + kc;   db = k ⊙ e

dg sums what stands on either side of a token: Σ_{s ≥ t} (q ⊙ dq + b ⊙ k ⊙ e − k ⊙ kc)_s of pairs and of what reads the
first state, Σ_{s < t} (k ⊙ kt)_s of what passes t on its way to the last, and γ_C ⊙ Σ_v (S ⊙ D) of what passes all
of it. A program takes a block of channels at a time. What stays the same from one to the next is not kept meanwhile,
which takes more registers than there are, and no product may enter another one (tests/kernels/triton/test_ahead.py).
"""

import triton
import triton.language as tl

from deltalab.kernels.triton.inputs import (
    chunk_of,
    head_decay,
    load_channel_decay,
    load_erase,
    load_rows,
    store_rows,
)
from deltalab.kernels.triton.parts import (
    GROUP,
    any_steep,
    dot,
    first_level,
    level_factors,
    levels,
    sums_before,
)


@triton.jit
def anchored_pair_grads(
    bk, q, k, G, dP, dA, C: tl.constexpr, KB: tl.constexpr, ERASE: tl.constexpr, OP: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """What pairs give to dq, e and kc [C, KB] under any decay, the counterpart of ``parts.anchored_scores``."""
    dq = tl.zeros([C, KB], tl.float32)
    e = tl.zeros([C, KB], tl.float32)
    kc = tl.zeros([C, KB], tl.float32)
    first = first_level(G, C, KB)
    for level in range(first, levels(C)):
        up, down, mask = level_factors(G, level, first, C, KB)
        columns = (k * down).to(OP)
        dP_ = tl.where(mask, dP, 0.0).to(OP)
        dq += up * dot(dP_, columns, PRECISION)
        more = dot(tl.trans(dP_), (q * up).to(OP), PRECISION)
        if ERASE:
            dA_ = tl.where(mask, dA, 0.0).to(OP)
            e += up * dot(dA_, columns, PRECISION)
            more += dot(tl.trans(dA_), (bk * up).to(OP), PRECISION)
        kc += down * more
    return dq, e, kc


@triton.jit
def state_gradients(
    do, dX, R, states, D, tokens, real, key_head, chunk, first,
    HV: tl.constexpr, GROUP: tl.constexpr, K: tl.constexpr, V: tl.constexpr, C: tl.constexpr, KB: tl.constexpr,
    BV: tl.constexpr, DECAY: tl.constexpr, ERASE: tl.constexpr, OP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dQγ, −dE, dKt [C, KB] of a block of channels, summed over a key head's value heads, and Σ_v S ⊙ D [KB]."""
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
            dO_ = load_rows(do, tokens, real, head, HV, V, BV, value).to(OP)
            R_ = load_rows(R, tokens, real, head, HV, V, BV, value).to(OP)
            if ERASE:
                dX_ = load_rows(dX, tokens, real, head, HV, V, BV, value).to(OP)
                dE += dot(dX_, tl.trans(S), PRECISION)
            dQ += dot(dO_, tl.trans(S), PRECISION)
            dK += dot(R_, tl.trans(S_end), PRECISION)
            if DECAY > 0:
                kept += tl.sum(S.to(tl.float32) * S_end.to(tl.float32), 1)
    return dQ, dE, dK, kept


@triton.jit
def key_block(
    q, k, g, b, do, dX, R, states, D, square, dq, dk, dg, db, gamma, tail, own, scale, tokens, real, head, chunk, first,
    H: tl.constexpr, HV: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    C: tl.constexpr, KB: tl.constexpr, BV: tl.constexpr, DECAY: tl.constexpr, ERASE: tl.constexpr,
    STEEP: tl.constexpr, OP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A block of channels: its gradients stored; what it adds to those of one value per head: Σ k ⊙ e, the pairs' and
    the passing part of dg [C], and Σ S ⊙ D."""
    k_ = load_rows(k, tokens, real, head, H, K, KB, first)
    q_ = load_rows(q, tokens, real, head, H, K, KB, first)
    b_ = load_erase(b, tokens, real, head, H, K, KB, first, ERASE)
    dP = tl.load(square)
    dA = dP
    if ERASE > 0:
        dA = tl.load(square + C * C)
    if DECAY == 2:
        decay = load_channel_decay(g, tokens, real, head, H, K, KB, first)
        G = tl.cumsum(decay, 0)
        last = tl.sum(decay, 0)
    dQ, dE, dK, kept = state_gradients(
        do, dX, R, states, D, tokens, real, head, chunk, first,
        HV, HV // H, K, V, C, KB, BV, DECAY, ERASE > 0, OP, PRECISION,
    )  # fmt: skip
    # of a cotangent, pairs give up ⊙ their part and the state up ⊙ lead ⊙ its; to keys, down and down ⊙ trail
    up = 1.0
    down = 1.0
    lead = gamma[:, None]
    trail = tail[:, None]
    if DECAY == 2:
        if STEEP:
            lead = tl.exp2(G)
            trail = tl.exp2(last[None, :] - G)
        else:
            up = tl.exp2(G - 0.5 * last[None, :])
            down = tl.exp2(0.5 * last[None, :] - G)
            lead = tl.exp2(0.5 * last)[None, :]
            trail = lead
        kept *= tl.exp2(last)
    if STEEP:
        pair_q, pair_e, kc = anchored_pair_grads(b_ * k_, q_ * scale, k_, G, dP, dA, C, KB, ERASE > 0, OP, PRECISION)

    erased = tl.zeros([C], tl.float32)
    around = tl.zeros([C, KB], tl.float32)
    dk_ = own * q_
    if ERASE > 0:
        if not STEEP:
            pair_e = dot(dA, (k_ * down).to(OP), PRECISION)
        e = up * pair_e - up * lead * dE
        if ERASE == 2:
            store_rows(db, k_ * e, tokens, real, head, H, K, KB, first)
        else:
            erased = tl.sum(k_ * e, 1)
        e *= b_
        around += k_ * e
        dk_ += e
    if not STEEP:
        pair_q = dot(dP, (k_ * down).to(OP), PRECISION)
    dq_ = scale * (up * pair_q + up * lead * dQ)
    around += q_ * dq_
    dq_ += own * k_
    store_rows(dq, dq_, tokens, real, head, H, K, KB, first)
    if not STEEP:
        kc = down * dot(tl.trans(dP), (q_ * (scale * up)).to(OP), PRECISION)
        if ERASE > 0:
            kc += down * dot(tl.trans(dA), (b_ * k_ * up).to(OP), PRECISION)
    around -= k_ * kc
    dk_ += kc
    kt = down * trail * dK
    dk_ += kt
    store_rows(dk, dk_, tokens, real, head, H, K, KB, first)
    around_head = tl.zeros([C], tl.float32)
    passing_head = around_head
    if DECAY == 2:
        grad = tl.cumsum(around, 0, reverse=True) + sums_before(k_ * kt, C, KB) + kept[None, :]
        store_rows(dg, grad, tokens, real, head, H, K, KB, first)
    elif DECAY == 1:
        around_head = tl.sum(around, 1)
        passing_head = tl.sum(k_ * kt, 1)
    return erased, around_head, passing_head, tl.sum(kept, 0)


@triton.jit
def key_tile(
    q, k, g, b, do, dX, R, states, D, spans, squares, diagonals, dq, dk, dg, db, scale, tile, tiles,
    H: tl.constexpr, HV: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    C: tl.constexpr, BK: tl.constexpr, KB: tl.constexpr, BV: tl.constexpr, DECAY: tl.constexpr, ERASE: tl.constexpr,
    STEEP: tl.constexpr, OP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One chunk of one key head, block of channels after block."""
    tokens, real, head = chunk_of(spans, tile, tiles, H, C)
    gamma, tail, _, last = head_decay(g, tokens, real, head, H, C, DECAY)
    rows = tl.arange(0, C)
    square = squares + 2 * tile * C * C + rows[:, None] * C + rows[None, :]
    own = scale * tl.load(diagonals + tile * C + rows)[:, None]
    erased = tl.zeros([C], tl.float32)
    around = erased
    passing = erased
    kept = 0.0
    for first in tl.range(0, BK, KB, num_stages=1, disable_licm=True):
        more_erased, more_around, more_passing, more_kept = key_block(
            q, k, g, b, do, dX, R, states, D, square, dq, dk, dg, db, gamma, tail, own, scale, tokens, real,
            head, tile // H, first, H, HV, K, V, C, KB, BV, DECAY, ERASE, STEEP, OP, PRECISION,
        )  # fmt: skip
        erased += more_erased
        around += more_around
        passing += more_passing
        kept += more_kept
    if ERASE == 1:
        tl.store(db + tokens * H + head, erased.to(db.dtype.element_ty), mask=real)
    if DECAY == 1:
        sums = tl.where(rows[:, None] > rows[None, :], passing[None, :], around[None, :])
        grad = tl.sum(sums, 1) + tl.exp2(last) * kept
        tl.store(dg + tokens * H + head, grad.to(dg.dtype.element_ty), mask=real)


@triton.jit(do_not_specialize=["tiles"])
def key_gradients(
    q, k, g, b, do, dX, R, states, D, spans, steep, squares, diagonals, dq, dk, dg, db, scale, tiles,
    H: tl.constexpr, HV: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    C: tl.constexpr, BK: tl.constexpr, KB: tl.constexpr, BV: tl.constexpr, DECAY: tl.constexpr, ERASE: tl.constexpr,
    STEEP: tl.constexpr, OP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Args:
    inputs as in ``prologue``; R, states, dX, D of the two passes over the state; squares, diagonals of
    ``value_gradients``.
    dq, dk, dg, db: the gradients, shaped as their inputs.
    steep, tiles, STEEP: as in ``prologue``, whose launches these follow.
    """
    if STEEP:
        for base in range(tl.program_id(0).to(tl.int64) * GROUP, tiles, tl.num_programs(0) * GROUP):
            if any_steep(steep, base, tiles):
                for tile in range(base, tl.minimum(base + GROUP, tiles)):
                    if tl.load(steep + tile) != 0:
                        key_tile(
                            q, k, g, b, do, dX, R, states, D, spans, squares, diagonals, dq, dk, dg, db, scale,
                            tile, tiles, H, HV, K, V, C, BK, KB, BV, DECAY, ERASE, STEEP, OP, PRECISION,
                        )  # fmt: skip
    else:
        tile = tl.program_id(0).to(tl.int64)
        due = True
        if DECAY == 2:
            due = tl.load(steep + tile) == 0
        if due:
            key_tile(
                q, k, g, b, do, dX, R, states, D, spans, squares, diagonals, dq, dk, dg, db, scale,
                tile, tiles, H, HV, K, V, C, BK, KB, BV, DECAY, ERASE, STEEP, OP, PRECISION,
            )  # fmt: skip
