"""B2 as one kernel, for Hopper: what value_gradients.py and key_gradients.py do, with a decay per channel and 128
channels of keys and values in bf16.

    dP = stril(dO Rᵀ);   δ = diag(dO Rᵀ);   dN = stril(dX Rᵀ);   dv = w ⊙ dX;   dw = v ⊙ dX
    y = dO (ηS)ᵀ + dP k̂;   x = dX (ηS)ᵀ + dN k̂;   κ = R (ηD)ᵀ;   π = dPᵀ q̂ − dNᵀ ê − u² ⊙ b ⊙ x
    dq = scale · u ⊙ (y + δ k̂);   db = −u² ⊙ k̂ ⊙ x;   dk = (κ + π + δ q̂) / u
    dg = Σ_{s ≥ t} (q̂ ⊙ y − ê ⊙ x − u² ⊙ b ⊙ k̂ ⊙ x − k̂ ⊙ π)_s + Σ_{s < t} (k̂ ⊙ κ)_s + Σ_v ηS ⊙ ηD

with k̂ = k/u, q̂ = u ⊙ scale q, ê = u ⊙ b ⊙ k as the prologue kept them: key_gradients.py's equations, where what dk has
of x is added to the pairs at once (and taken off again in dg).

Triton decides by itself what it copies ahead and where each value lies; in Gluon both are said here. One program for
each processor goes through its chunks. All that a chunk needs has its place in shared memory, which is asked for again,
for the next chunk, as soon as this one is through with it. On the key side channels are rows and tokens columns, so
that a thread has many tokens of few channels. Sums over tokens are products with a triangle of ones, of which what is
summed is taken in two parts of bf16 (17 bits).

A chunk that is steep is left out, dv and dw too: key_gradients' second launch does all of it.
"""

import triton.language as tl
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, warpgroup_mma, warpgroup_mma_wait

from deltalab.kernels.triton.gluon_parts import (
    SHARED,
    VECTOR,
    C,
    D,
    ask,
    barrier,
    chunk_at,
    fresh,
    give,
    places,
    reciprocal,
    rows,
    rows_layout,
    rows_of,
)

ROWS = gl.constexpr(rows_layout(8))
KEYS = gl.constexpr(gl.NVMMADistributedLayout([3, 0], [8, 1], [16, 64, 16]))
"""Products on the key side [channels, tokens]."""
HALF = gl.constexpr(gl.NVMMADistributedLayout([3, 0], [8, 1], [16, 32, 16]))
"""Half of their tokens."""
PAIRS = gl.constexpr(gl.NVMMADistributedLayout([3, 0], [4, 2], [16, 32, 16]))
"""Scores [tokens, tokens]."""
STATES = gl.constexpr(gl.BlockedLayout([1, 8], [16, 2], [8, 1], [1, 0]))
TOKENS = gl.constexpr(gl.BlockedLayout([1], [32], [8], [0]))


@gluon.jit
def ask_states(sO, sR, sX, sS, sD, do, R, dX, states, D_, base, place, real, H: gl.constexpr):
    """``ask`` for what the scores' gradients and the products with states are made of."""
    ask(sO, do, base, H * D, real)
    ask(sR, R, base, H * D, real)
    ask(sX, dX, base, H * D, real)
    ask(sS, states, 2 * place, D, 2 * C * real)
    ask(sD, D_, 2 * place, D, 2 * C * real)
    async_copy.commit_group()


@gluon.jit
def ask_values(sV, sW, v, w, base, real, H: gl.constexpr, WRITE: gl.constexpr):
    """``ask`` for v and a write gate per channel."""
    if WRITE > 0:
        ask(sV, v, base, H * D, real)
    if WRITE == 2:
        ask(sW, w, base, H * D, real)
    async_copy.commit_group()


@gluon.jit
def steep_at(steep, tile, tiles):
    return gl.load(steep + gl.minimum(tile, tiles - 1))


@gluon.jit
def flat_rows_of(first, stop, is_steep, tile, tiles):
    """``rows_of`` a tile that is not steep; of another none."""
    return gl.where(is_steep != 0, 0, rows_of(first, stop, tile, tiles))


@gluon.jit
def states_kept(sS, sD):
    """Σ_v ηS ⊙ ηD [D]."""
    return gl.sum(sS.load(STATES).to(gl.float32) * sD.load(STATES).to(gl.float32), 1)


@gluon.jit
def value_side(sX, sV, sW, w_, dv, dw, first, head, real, H: gl.constexpr, WRITE: gl.constexpr):
    """dv and dw."""
    base = (first.to(gl.int64) * H + head) * D
    inside = rows(C)[:, None] < real
    x = sX.load(ROWS).to(gl.float32)
    if WRITE == 2:
        w_ = sW.load(ROWS).to(gl.float32)
        gl.store(dw + fresh(base) + places(H * D, C), (x * sV.load(ROWS).to(gl.float32)).to(gl.bfloat16), mask=inside)
        gl.store(dv + fresh(base) + places(H * D, C), (x * w_).to(gl.bfloat16), mask=inside)
    elif WRITE == 1:
        gained = gl.sum(x * sV.load(ROWS).to(gl.float32), 1)
        tokens = first.to(gl.int64) + rows(C)
        gl.store(dw + tokens * H + head, gained.to(dw.dtype.element_ty), mask=rows(C) < real)
        gl.store(dv + fresh(base) + places(H * D, C), (x * w_[:, None]).to(gl.bfloat16), mask=inside)
    else:
        gl.store(dv + fresh(base) + places(H * D, C), sX.load(ROWS), mask=inside)


@gluon.jit
def erase_part(k, e, u, b, dE, pairs):
    """What is summed over later tokens, π without dPᵀ q̂, and db."""
    k = k.to(gl.float32)
    u = u.to(gl.float32)
    ue = u * (u * dE)
    bue = b.to(gl.float32) * ue
    return -(e.to(gl.float32) * dE) - k * bue, -bue - pairs, -(k * ue)


@gluon.jit
def key_part(k, q, u, own, dQ, dK, pairs, before, scale):
    """dq, dk, and what is summed over later tokens, and over earlier ones."""
    k = k.to(gl.float32)
    u = u.to(gl.float32)
    q = q.to(gl.float32)
    dq = scale * u * (dQ + own * k)
    dk = (dK + pairs + own * q) * reciprocal(u)
    return dq.to(gl.bfloat16), dk.to(gl.bfloat16), before + q * dQ - k * pairs, k * dK


@gluon.jit
def halves(x):
    """[channels, tokens] as the two halves of its tokens; nothing moves."""
    first, second = x.reshape([D, 2, C // 2]).permute([0, 2, 1]).split()
    return gl.convert_layout(first, HALF, assert_trivial=True), gl.convert_layout(second, HALF, assert_trivial=True)


@gluon.jit
def whole(first, second):
    """The reverse of ``halves``."""
    return gl.convert_layout(gl.join(first, second).permute([0, 2, 1]).reshape([D, C]), KEYS, assert_trivial=True)


@gluon.jit
def half_of(slot, HALF_OF: gl.constexpr):
    """Half of the tokens of a tile in shared memory [channels, tokens]."""
    return slot.slice(HALF_OF * (C // 2), C // 2).permute((1, 0)).load(HALF)


@gluon.jit
def erase_half(sK, sE, sU, sB, sBeta, dE, pairs, HALF_OF: gl.constexpr, ERASE: gl.constexpr):
    """``erase_part`` of half of the tokens."""
    if ERASE == 2:
        b = half_of(sB, HALF_OF)
    else:
        b = sBeta.slice(HALF_OF * (C // 2), C // 2).load(gl.SliceLayout(0, HALF))[None, :]
    before, lost, db = gl.map_elementwise(
        erase_part, half_of(sK, HALF_OF), half_of(sE, HALF_OF), half_of(sU, HALF_OF), b, dE, pairs
    )
    if ERASE == 1:
        db = gl.sum(db, 0)
    return before, lost, db


@gluon.jit
def erase_side(sK, sE, sU, sB, sBeta, dE, pairs, db, first, head, real, H: gl.constexpr, ERASE: gl.constexpr):
    """``erase_part`` of all tokens, half after half: registers are short. db goes to where E was, or out."""
    dE_0, dE_1 = halves(dE)
    pairs_0, pairs_1 = halves(pairs)
    before_0, lost_0, db_0 = erase_half(sK, sE, sU, sB, sBeta, dE_0, pairs_0, 0, ERASE)
    before_1, lost_1, db_1 = erase_half(sK, sE, sU, sB, sBeta, dE_1, pairs_1, 1, ERASE)
    if ERASE == 2:
        sE.permute((1, 0)).store(whole(db_0, db_1).to(gl.bfloat16))
    else:
        token = gl.arange(0, C // 2, gl.SliceLayout(0, HALF))
        here = db + (first.to(gl.int64) + token) * H + head
        gl.store(here, db_0.to(db.dtype.element_ty), mask=token < real)
        gl.store(here + C // 2 * H, db_1.to(db.dtype.element_ty), mask=token + C // 2 < real)
    return whole(before_0, before_1), whole(lost_0, lost_1)


@gluon.jit
def in_two(x):
    """x as two operands in bf16 that add up to it."""
    OPERAND: gl.constexpr = gl.DotOperandLayout(0, KEYS, 2)
    high = x.to(gl.bfloat16)
    low = (x - high.to(gl.float32)).to(gl.bfloat16)
    return gl.convert_layout(high, OPERAND), gl.convert_layout(low, OPERAND)


@gluon.jit(do_not_specialize=["tiles"])
def merged_gradients(
    v, w, b, E, Qg, Kt, U, do, dX, R, states, D_, spans, steep, dv, dw, dq, dk, dg, db, scale, tiles,
    H: gl.constexpr, ERASE: gl.constexpr, WRITE: gl.constexpr,
):  # fmt: skip
    """Args:
    v, w, b: as in ``prologue`` and ``state_forward``, with as many value heads as key heads.
    E, Qg, Kt, U: the prologue's factors [chunks, H, C, D], ê, q̂, k̂ and u.
    do, dX, R, states, D_, spans, steep: as in ``key_gradients``.
    dv, dw, dq, dk, dg, db: the gradients, shaped as their inputs.
    tiles: chunks × H.
    """
    sO = gl.allocate_shared_memory(gl.bfloat16, [C, D], SHARED)
    sR = gl.allocate_shared_memory(gl.bfloat16, [C, D], SHARED)
    sX = gl.allocate_shared_memory(gl.bfloat16, [C, D], SHARED)
    s1 = gl.allocate_shared_memory(gl.bfloat16, [C, D], SHARED)  # v, then ê, then db
    s2 = gl.allocate_shared_memory(gl.bfloat16, [C, D], SHARED)  # w, then b
    sK = gl.allocate_shared_memory(gl.bfloat16, [C, D], SHARED)
    sQ = gl.allocate_shared_memory(gl.bfloat16, [C, D], SHARED)
    sU = gl.allocate_shared_memory(gl.bfloat16, [C, D], SHARED)
    sS = gl.allocate_shared_memory(gl.bfloat16, [D, D], SHARED)
    sD = gl.allocate_shared_memory(gl.bfloat16, [D, D], SHARED)
    sP = gl.allocate_shared_memory(gl.bfloat16, [C, C], SHARED)
    sN = gl.allocate_shared_memory(gl.bfloat16, [C, C], SHARED)
    later = gl.allocate_shared_memory(gl.bfloat16, [C, C], SHARED)
    sOwn = gl.allocate_shared_memory(gl.float32, [C], VECTOR)
    sBeta = gl.allocate_shared_memory(gl.float32, [C], VECTOR)

    i = gl.arange(0, C, gl.SliceLayout(1, PAIRS))[:, None]
    j = gl.arange(0, C, gl.SliceLayout(0, PAIRS))[None, :]
    later.store(gl.where(i > j, 1.0, 0.0).to(gl.bfloat16))
    fence_async_shared()

    start = gl.program_id(0)
    step = gl.num_programs(0)
    first, stop = chunk_at(spans, start, tiles, H)
    real = flat_rows_of(first, stop, steep_at(steep, start, tiles), start, tiles)
    base = (first.to(gl.int64) * H + start % H) * D
    place = start.to(gl.int64) * (C * D)
    ask_states(sO, sR, sX, sS, sD, do, R, dX, states, D_, base, place, real, H)
    ask_values(s1, s2, v, w, base, real, H, WRITE)
    ask(sK, Kt, place, D, real)
    ask(sQ, Qg, place, D, real)
    ask(sU, U, place, D, real)
    async_copy.commit_group()

    for tile in tl.range(start, tiles, step, disable_licm=True):
        following = tile + step
        base = (first.to(gl.int64) * H + tile % H) * D
        place = tile.to(gl.int64) * (C * D)
        next_first, next_stop = chunk_at(spans, following, tiles, H)
        next_steep = steep_at(steep, following, tiles)
        w_ = 0.0
        if WRITE == 1:
            w_ = gl.load(w + (first.to(gl.int64) + rows(C)) * H + tile % H, mask=rows(C) < real, other=0.0)
            w_ = w_.to(gl.float32)
        if ERASE == 1:
            token = gl.arange(0, C, TOKENS)
            beta = gl.load(b + (first.to(gl.int64) + token) * H + tile % H, mask=token < real, other=0.0)

        # scores' gradients
        async_copy.wait_group(2)
        fence_async_shared()
        zero = gl.zeros([C, C], gl.float32, PAIRS)
        dP = warpgroup_mma(sO, sR.permute((1, 0)), zero, use_acc=False, is_async=True)
        if ERASE > 0:
            dN = warpgroup_mma(sX, sR.permute((1, 0)), zero, use_acc=False, is_async=True)
            dP, dN = warpgroup_mma_wait(0, deps=(dP, dN))
            sN.store(gl.where(i > j, dN, 0.0).to(gl.bfloat16))
        else:
            dP = warpgroup_mma_wait(0, deps=(dP,))
        sP.store(gl.where(i > j, dP, 0.0).to(gl.bfloat16))
        fence_async_shared()

        # products with states; meanwhile dv and dw
        nothing = gl.zeros([D, C], gl.float32, KEYS)
        dQ = warpgroup_mma(sS, sO.permute((1, 0)), nothing, use_acc=False, is_async=True)
        if ERASE > 0:
            dE = warpgroup_mma(sS, sX.permute((1, 0)), nothing, use_acc=False, is_async=True)
        dK = warpgroup_mma(sD, sR.permute((1, 0)), nothing, use_acc=False, is_async=True)
        sOwn.store(gl.sum(gl.where(i == j, dP, 0.0), 0))
        async_copy.wait_group(1)
        value_side(sX, s1, s2, w_, dv, dw, first, tile % H, real, H, WRITE)
        if ERASE > 0:
            ask(s1, E, place, D, real)
        if ERASE == 2:
            ask(s2, b, base, H * D, real)
        elif ERASE == 1:
            sBeta.store(beta.to(gl.float32))
        async_copy.commit_group()
        kept = gl.convert_layout(states_kept(sS, sD), gl.SliceLayout(1, KEYS))
        if ERASE > 0:
            dQ, dE, dK = warpgroup_mma_wait(0, deps=(dQ, dE, dK))
        else:
            dQ, dK = warpgroup_mma_wait(0, deps=(dQ, dK))
        barrier()

        next_real = flat_rows_of(next_first, next_stop, next_steep, following, tiles)
        next_base = (next_first.to(gl.int64) * H + following % H) * D
        next_place = following.to(gl.int64) * (C * D)
        ask_states(sO, sR, sX, sS, sD, do, R, dX, states, D_, next_base, next_place, next_real, H)

        # pairs: x is done, and what it adds to dk and dg
        async_copy.wait_group(1)
        fence_async_shared()
        before = nothing
        pairs = nothing
        if ERASE > 0:
            dE = warpgroup_mma(sK.permute((1, 0)), sN.permute((1, 0)), dE, is_async=True)
            erased = warpgroup_mma(s1.permute((1, 0)), sN, nothing, use_acc=False, is_async=True)
            dQ = warpgroup_mma(sK.permute((1, 0)), sP.permute((1, 0)), dQ, is_async=True)
            dE, erased = warpgroup_mma_wait(1, deps=(dE, erased))
            barrier()
            before, pairs = erase_side(sK, s1, sU, s2, sBeta, dE, erased, db, first, tile % H, real, H, ERASE)
            pairs = warpgroup_mma(sQ.permute((1, 0)), sP, pairs, is_async=True)
            if ERASE == 2:
                give(s1, db, base, H * D, real)
        else:
            dQ = warpgroup_mma(sK.permute((1, 0)), sP.permute((1, 0)), dQ, is_async=True)
            pairs = warpgroup_mma(sQ.permute((1, 0)), sP, nothing, use_acc=False, is_async=True)

        ask_values(s1, s2, v, w, next_base, next_real, H, WRITE)

        # dq, dk, dg
        q_ = sQ.permute((1, 0)).load(KEYS)
        k_ = sK.permute((1, 0)).load(KEYS)
        dQ, pairs = warpgroup_mma_wait(0, deps=(dQ, pairs))
        barrier()
        u_ = sU.permute((1, 0)).load(KEYS)
        own = sOwn.load(gl.SliceLayout(0, KEYS))[None, :]
        dq_, dk_, before, passing = gl.map_elementwise(key_part, k_, q_, u_, own, dQ, dK, pairs, before, scale)
        sQ.permute((1, 0)).store(dq_)
        sK.permute((1, 0)).store(dk_)
        before_high, before_low = in_two(before)
        passing_high, passing_low = in_two(passing)
        sums = before + kept[:, None]
        sums = warpgroup_mma(before_high, later, sums, is_async=True)
        sums = warpgroup_mma(before_low, later, sums, is_async=True)
        sums = warpgroup_mma(passing_high, later.permute((1, 0)), sums, is_async=True)
        sums = warpgroup_mma(passing_low, later.permute((1, 0)), sums, is_async=True)
        give(sQ, dq, base, H * D, real)
        give(sK, dk, base, H * D, real)
        ask(sK, Kt, next_place, D, next_real)
        ask(sQ, Qg, next_place, D, next_real)
        sums, before_high, before_low, passing_high, passing_low = warpgroup_mma_wait(
            0, deps=(sums, before_high, before_low, passing_high, passing_low)
        )
        if dg.dtype.element_ty == gl.bfloat16:
            sU.permute((1, 0)).store(sums.to(gl.bfloat16))
            give(sU, dg, base, H * D, real)
        else:
            token = gl.arange(0, C, gl.SliceLayout(0, KEYS))[None, :]
            channel = gl.arange(0, D, gl.SliceLayout(1, KEYS))[:, None]
            gl.store(dg + base + token * (H * D) + channel, sums, mask=token < real)
        ask(sU, U, next_place, D, next_real)
        async_copy.commit_group()

        first = next_first
        real = next_real
    async_copy.wait_group(0)
