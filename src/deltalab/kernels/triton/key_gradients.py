"""B2, second half: the gradients of q, k, g and b, one program per chunk and key head.

    dE = −dX Sᵀ;   dQγ = dO Sᵀ;   dKt = R Dᵀ;   dP = tril(dO Rᵀ);   dN = −dA = stril(dX Rᵀ)
    dq = scale · (γ ⊙ dQγ + dP̃ k);   e = γ ⊙ dE − dÑ k;   kc = scale · dP̃ᵀ q − dÑᵀ (b ⊙ k);   kt = (γ_C/γ) ⊙ dKt
    dk = b ⊙ e + kt + kc;   db = k ⊙ e

S and D come times η. With a decay per channel all the rest is made of what the prologue kept, k/u, u ⊙ scale q and
u ⊙ b ⊙ k, u = γ/η: no decay is left in the products, dq is u ⊙ (dO (ηS)ᵀ + dP (k/u)), and so on.

dg sums what stands on either side of a token: Σ_{s ≥ t} (q ⊙ dq + b ⊙ k ⊙ e − k ⊙ kc)_s of pairs and of what reads the
first state, Σ_{s < t} (k ⊙ kt)_s of what passes t on its way to the last, and Σ_v (ηS ⊙ ηD) of what passes all of it.
The factors of pairs are the same rounded numbers on both sides, so what must cancel does. A token's pair with itself is
kept out of it.

A program takes a block of channels at a time, with few programs a processor: it asks for all of a block before it waits
for any. What stays the same from one block to the next is not kept meanwhile, which takes more registers than there
are, no product may enter another one, and none be negated as it comes (tests/kernels/triton/test_ahead.py says why).
"""

import triton
import triton.language as tl

from deltalab.kernels.triton.inputs import (
    chunk_of,
    head_decay,
    load_channel_decay,
    read_erase,
    read_rows,
    store_rows,
    store_scalars,
)
from deltalab.kernels.triton.parts import (
    GROUP,
    any_steep,
    dot,
    first_level,
    half_decay,
    in_registers,
    level_factors,
    levels,
    sums_before,
)
from deltalab.kernels.triton.value_gradients import value_tile


@triton.jit
def anchored_pair_grads(
    bk, q, k, G, dP, dN, C: tl.constexpr, KB: tl.constexpr, ERASE: tl.constexpr, OP: tl.constexpr,
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
            dN_ = tl.where(mask, dN, 0.0).to(OP)
            e -= up * dot(dN_, columns, PRECISION)
            more -= dot(tl.trans(dN_), (bk * up).to(OP), PRECISION)
        kc += down * more
    return dq, e, kc


@triton.jit
def under_steep_decay(
    dQ, dE, dK, dP, dN, k, q, bk, decay, C: tl.constexpr, KB: tl.constexpr, ERASE: tl.constexpr, OP: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """What came through states, with its decay and, but for keys, with what pairs give; and what pairs give to keys."""
    G = tl.cumsum(decay, 0)
    last = tl.sum(decay, 0)
    half = half_decay(last)
    pair_q, pair_e, pair_k = anchored_pair_grads(bk, q, k, G, dP, dN, C, KB, ERASE, OP, PRECISION)
    lead = tl.exp2(G - half[None, :])
    return dQ * lead + pair_q, dE * lead - pair_e, dK * tl.exp2(last[None, :] - half[None, :] - G), pair_k


@triton.jit
def state_gradients(
    do, dX, R, states, D, tokens, real, key_head, chunk, first,
    HV: tl.constexpr, GROUP: tl.constexpr, K: tl.constexpr, V: tl.constexpr, C: tl.constexpr, KB: tl.constexpr,
    BV: tl.constexpr, DECAY: tl.constexpr, ERASE: tl.constexpr, OP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dO Sᵀ, dX Sᵀ, R Dᵀ [C, KB] of a block of channels, summed over a key head's value heads, and Σ_v S ⊙ D [KB]."""
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
            dO_ = read_rows(do, tokens, real, head, HV, V, BV, value).to(OP)
            R_ = read_rows(R, tokens, real, head, HV, V, BV, value).to(OP)
            if ERASE:
                dX_ = read_rows(dX, tokens, real, head, HV, V, BV, value).to(OP)
                dE += dot(dX_, tl.trans(S), PRECISION)
            dQ += dot(dO_, tl.trans(S), PRECISION)
            dK += dot(R_, tl.trans(S_end), PRECISION)
            if DECAY > 0:
                kept += tl.sum(S.to(tl.float32) * S_end.to(tl.float32), 1)
    return dQ, dE, dK, kept


@triton.jit
def read_pairs(
    q, k, factors, tokens, real, head, tile, tiles, first,
    H: tl.constexpr, K: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, KB: tl.constexpr,
    CENTRED: tl.constexpr, ERASE: tl.constexpr,
):  # fmt: skip
    """A block of channels of k, q, b ⊙ k and u [C, KB] as they are stored: of what the prologue kept (CENTRED), else of
    k and q alone."""
    if CENTRED:
        place = tile * C * BK + tl.arange(0, C)[:, None] * BK + first + tl.arange(0, KB)[None, :]
        plane = tiles * C * BK
        K_ = tl.load(factors + 2 * plane + place)
        E_ = K_
        if ERASE > 0:
            E_ = tl.load(factors + place)
        return K_, tl.load(factors + plane + place), E_, tl.load(factors + 3 * plane + place)
    else:  # noqa: RET505, Triton needs one branch
        K_ = read_rows(k, tokens, real, head, H, K, KB, first)
        return K_, read_rows(q, tokens, real, head, H, K, KB, first), K_, K_


@triton.jit
def key_block(
    q, k, g, b, factors, do, dX, R, states, D, square, dq, dk, dg, db, lead, tail, diagonal, scale, tokens, real, head,
    tile, tiles, first,
    H: tl.constexpr, HV: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    C: tl.constexpr, BK: tl.constexpr, KB: tl.constexpr, BV: tl.constexpr, DECAY: tl.constexpr, ERASE: tl.constexpr,
    STEEP: tl.constexpr, OP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A block of channels: its gradients stored; what it adds to those of one value per head: Σ k ⊙ e, the pairs' and
    the passing part of dg [C], and Σ S ⊙ D."""
    CENTRED: tl.constexpr = DECAY == 2 and not STEEP
    dP = tl.load(square)
    dN = dP
    if ERASE > 0:
        dN = tl.load(square + C * C)
    K_, Q_, E_, u = read_pairs(q, k, factors, tokens, real, head, tile, tiles, first, H, K, C, BK, KB, CENTRED, ERASE)
    b_ = read_erase(b, tokens, real, head, H, K, KB, first, ERASE)
    lower = tl.arange(0, C)[:, None] > tl.arange(0, C)[None, :]
    if not CENTRED:
        dP = tl.where(lower, dP, 0.0)
        dN = tl.where(lower, dN, 0.0)
        b_ = b_.to(tl.float32)
        u = 1.0
        E_ = (b_ * K_.to(tl.float32)).to(OP)
        Q_ = (Q_.to(tl.float32) * scale).to(OP)
        K_ = K_.to(OP)
    dQ, dE, dK, kept = state_gradients(
        do, dX, R, states, D, tokens, real, head, tile // H, first,
        HV, HV // H, K, V, C, KB, BV, DECAY, ERASE > 0, OP, PRECISION,
    )  # fmt: skip
    if CENTRED:
        dP = tl.where(lower, dP, 0.0)
        dN = tl.where(lower, dN, 0.0)
        K_ = in_registers(K_)
        Q_ = in_registers(Q_)
        E_ = in_registers(E_)
        b_ = b_.to(tl.float32)
        u = u.to(tl.float32)
    if STEEP:
        decay = load_channel_decay(g, tokens, real, head, H, K, KB, first)
        dQ, dE, dK, pair_k = under_steep_decay(dQ, dE, dK, dP, dN, K_, Q_, E_, decay, C, KB, ERASE > 0, OP, PRECISION)
    else:
        if DECAY == 1:
            dQ *= lead[:, None]
            dE *= lead[:, None]
            dK *= tail[:, None]
        dQ += dot(dP, K_, PRECISION)

    around = Q_ * dQ
    store_rows(dq, scale * u * (dQ + diagonal[:, None] * K_), tokens, real, head, H, K, KB, first)
    passing = K_ * dK
    erased = tl.zeros([C], tl.float32)
    if ERASE > 0:
        if not STEEP:
            dE += dot(dN, K_, PRECISION)
        around -= E_ * dE
        dE *= u
        if ERASE == 2:
            store_rows(db, -(K_ * dE * u), tokens, real, head, H, K, KB, first)
        else:
            erased = -tl.sum(K_ * dE * u, 1)
        dE *= b_
    if not STEEP:
        pair_k = dot(tl.trans(dP), Q_, PRECISION)
        if ERASE > 0:
            pair_k -= dot(tl.trans(dN), E_, PRECISION)
    around -= K_ * pair_k
    dK += pair_k + diagonal[:, None] * Q_
    if CENTRED:
        root = tl.rsqrt(u)  # u is positive; division takes longer, and registers
        dK *= root * root
    if ERASE > 0:
        dK -= dE
    store_rows(dk, dK, tokens, real, head, H, K, KB, first)
    around_head = tl.zeros([C], tl.float32)
    passing_head = around_head
    if DECAY == 2:
        grad = tl.cumsum(around, 0, reverse=True) + sums_before(passing, C, KB) + kept[None, :]
        store_rows(dg, grad, tokens, real, head, H, K, KB, first)
    elif DECAY == 1:
        around_head = tl.sum(around, 1)
        passing_head = tl.sum(passing, 1)
    return erased, around_head, passing_head, tl.sum(kept, 0)


@triton.jit
def key_tile(
    q, k, g, b, factors, do, dX, R, states, D, spans, steep, squares, diagonals, dq, dk, dg, db, scale, tile,
    tiles, slot,
    H: tl.constexpr, HV: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    C: tl.constexpr, BK: tl.constexpr, KB: tl.constexpr, BV: tl.constexpr, DECAY: tl.constexpr, ERASE: tl.constexpr,
    STEEP: tl.constexpr, OP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One chunk of one key head, block of channels after block; its pairs of tokens are at ``slot``."""
    tokens, real, head = chunk_of(spans, tile, tiles, H, C)
    if DECAY == 2 and not STEEP:  # the other launch does a steep chunk: this one then reads no row, and writes none
        real &= tl.load(steep + tile) == 0
    lead, tail, _, _ = head_decay(g, tokens, real, head, H, C, DECAY)
    rows = tl.arange(0, C)
    square = squares + 2 * slot * C * C + rows[:, None] * C + rows[None, :]
    diagonal = tl.load(diagonals + slot * C + rows)
    erased = tl.zeros([C], tl.float32)
    around = erased
    passing = erased
    kept = 0.0
    for first in tl.range(0, BK, KB, num_stages=1, disable_licm=True):
        more_erased, more_around, more_passing, more_kept = key_block(
            q, k, g, b, factors, do, dX, R, states, D, square, dq, dk, dg, db, lead, tail, diagonal, scale,
            tokens, real, head, tile, tiles, first, H, HV, K, V, C, BK, KB, BV, DECAY, ERASE, STEEP, OP, PRECISION,
        )  # fmt: skip
        erased += more_erased
        around += more_around
        passing += more_passing
        kept += more_kept
    if ERASE == 1:
        store_scalars(db, erased, tokens, real, head, H)
    if DECAY == 1:
        sums = tl.where(rows[:, None] > rows[None, :], passing[None, :], around[None, :])
        store_scalars(dg, tl.sum(sums, 1) + kept, tokens, real, head, H)


@triton.jit(do_not_specialize=["tiles"])
def key_gradients(
    q, k, v, g, b, w, factors, do, dX, R, states, D, spans, steep, squares, diagonals, dq, dk, dv, dg, db, dw,
    scale, tiles,
    H: tl.constexpr, HV: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    C: tl.constexpr, BK: tl.constexpr, KB: tl.constexpr, BV: tl.constexpr, DECAY: tl.constexpr, ERASE: tl.constexpr,
    WRITE: tl.constexpr, STEEP: tl.constexpr, OP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Args:
    inputs as in ``prologue`` and ``state_forward``; the prologue's factors; R, states, dX, D of the two passes over the
    state.
    squares, diagonals: of ``value_gradients``. The launch for steep chunks fills them itself, a chunk for each program.
    dq, dk, dg, db: the gradients, shaped as their inputs; dv, dw: those of steep chunks alone.
    steep, tiles, STEEP: as in ``prologue``, whose launches these follow.
    """
    slot = tl.program_id(0).to(tl.int64)
    if STEEP:
        for base in range(slot * GROUP, tiles, tl.num_programs(0) * GROUP):
            if any_steep(steep, base, tiles):
                for tile in range(base, tl.minimum(base + GROUP, tiles)):
                    if tl.load(steep + tile) != 0:
                        tokens, real, head = chunk_of(spans, tile, tiles, H, C)
                        value_tile(
                            v, w, g, do, dX, R, squares, diagonals, dv, dw, tokens, real, head, slot,
                            H, HV, V, C, BV, DECAY, ERASE, WRITE, OP, PRECISION,
                        )  # fmt: skip
                        tl.debug_barrier()  # every thread reads the pairs that others wrote
                        key_tile(
                            q, k, g, b, factors, do, dX, R, states, D, spans, steep, squares, diagonals, dq, dk, dg, db,
                            scale, tile, tiles, slot,
                            H, HV, K, V, C, BK, KB, BV, DECAY, ERASE, STEEP, OP, PRECISION,
                        )  # fmt: skip
                        tl.debug_barrier()
    else:
        key_tile(
            q, k, g, b, factors, do, dX, R, states, D, spans, steep, squares, diagonals, dq, dk, dg, db,
            scale, slot, tiles, slot,
            H, HV, K, V, C, BK, KB, BV, DECAY, ERASE, STEEP, OP, PRECISION,
        )  # fmt: skip
