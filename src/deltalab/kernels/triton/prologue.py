"""K1, the prologue: everything of a chunk that does not depend on the state, one program per chunk and key head.

    E = γ ⊙ b ⊙ k,  Qγ = scale · γ ⊙ q,  Kt = (γ_C/γ) ⊙ k,  P causal scores,  T = (I + A)^-1,  A erase scores

The factors are kept without the half of the chunk's decay that they have in common, η = √γ_C, which the passes over
the state put into the state instead. Of a decay per channel E/η, Qγ/η and Kt/η are what the scores are made of, and
make the gradients too (with γ/η, kept beside them).

A chunk too steep for one anchor (parts.py) is marked, and done by a second launch that does no other. There η is
2^-SPAN: what it leaves of the first state is nothing, as it should be.

With decay and erase gate of one value per head, E, Qγ and Kt are q and k with their rows scaled: then the scales are
kept instead, and the later stages read q and k themselves.
"""

import triton
import triton.language as tl

from deltalab.kernels.triton.inputs import (
    chunk_of,
    head_decay,
    load_channel_decay,
    load_rows,
    load_scalars,
    pair_decay,
    read_erase,
)
from deltalab.kernels.triton.parts import GROUP, SPAN, anchored_scores, any_steep, dot, half_decay, unit_lower_inverse


@triton.jit
def store_factors(
    factors, E, Qg, Kt, tile, tiles, first, C: tl.constexpr, BK: tl.constexpr, KB: tl.constexpr, ERASE: tl.constexpr
):
    """Keep a block of channels of the three factors."""
    place = tile * C * BK + tl.arange(0, C)[:, None] * BK + first + tl.arange(0, KB)[None, :]
    plane = tiles * C * BK
    if ERASE:
        tl.store(factors + place, E.to(factors.dtype.element_ty))
    tl.store(factors + plane + place, Qg.to(factors.dtype.element_ty))
    tl.store(factors + 2 * plane + place, Kt.to(factors.dtype.element_ty))


@triton.jit
def channel_decay_block(
    q, k, g, b, factors, end, tokens, real, head, tile, tiles, first, scale,
    H: tl.constexpr, K: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, KB: tl.constexpr, ERASE: tl.constexpr,
    STEEP: tl.constexpr, SAVE: tl.constexpr, OP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A block of channels with a decay each: its factors kept; its part of the erase and causal scores, and
    whether it is steep."""
    channels = first + tl.arange(0, KB)
    q_ = load_rows(q, tokens, real, head, H, K, KB, first) * scale
    k_ = load_rows(k, tokens, real, head, H, K, KB, first)
    bk = k_ * read_erase(b, tokens, real, head, H, K, KB, first, ERASE).to(tl.float32)
    decay = load_channel_decay(g, tokens, real, head, H, K, KB, first)
    G = tl.cumsum(decay, 0)
    last = tl.sum(decay, 0)
    half = half_decay(last)
    tl.store(end + tile * BK + channels, tl.exp2(half))
    if STEEP:
        A, P = anchored_scores(bk, q_, k_, G, C, KB, ERASE > 0, OP, PRECISION)
        lead = tl.exp2(G - half[None, :])
        tail = tl.exp2(last[None, :] - half[None, :] - G)
        store_factors(factors, bk * lead, q_ * lead, k_ * tail, tile, tiles, first, C, BK, KB, ERASE > 0)
    else:
        up = tl.exp2(G - half[None, :])
        q_ *= up
        bk *= up
        k_ /= up
        columns = tl.trans(k_.to(OP))
        P = dot(q_.to(OP), columns, PRECISION)
        A = P
        if ERASE > 0:
            A = dot(bk.to(OP), columns, PRECISION)
        store_factors(factors, bk, q_, k_, tile, tiles, first, C, BK, KB, ERASE > 0)
        if SAVE:
            place = (3 * tiles + tile) * C * BK + tl.arange(0, C)[:, None] * BK + channels[None, :]
            tl.store(factors + place, up.to(factors.dtype.element_ty))
    return A, P, tl.min(last, 0) < -2 * SPAN


@triton.jit
def lay_out_writes(w, writes, spans, tile, tiles, H: tl.constexpr, HV: tl.constexpr, C: tl.constexpr):
    """A chunk's write gates of one value per head, side by side: as they come they are too far apart to be copied ahead
    of the pass over the state, which would wait for each chunk's."""
    tokens, real, key_head = chunk_of(spans, tile, tiles, H, C)
    for head in range(key_head * (HV // H), (key_head + 1) * (HV // H)):
        place = (tile // H * HV + head) * C + tl.arange(0, C)
        tl.store(writes + place, load_scalars(w, tokens, real, head, HV))


@triton.jit
def prologue_tile(
    q, k, g, b, factors, T, P, end, spans, steep, scale, tile, tiles,
    H: tl.constexpr, K: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, KB: tl.constexpr,
    DECAY: tl.constexpr, ERASE: tl.constexpr, ROWS: tl.constexpr, STEEP: tl.constexpr, SAVE: tl.constexpr,
    OP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One chunk of one key head."""
    tokens, real, head = chunk_of(spans, tile, tiles, H, C)
    rows = tl.arange(0, C)
    lead, tail, root, G = head_decay(g, tokens, real, head, H, C, DECAY)
    A = tl.zeros([C, C], tl.float32)
    causal = tl.zeros([C, C], tl.float32)
    is_steep = False
    for first in tl.range(0, BK, KB, num_stages=1, disable_licm=True):
        if DECAY == 2:
            more_A, more, more_steep = channel_decay_block(
                q, k, g, b, factors, end, tokens, real, head, tile, tiles, first, scale,
                H, K, C, BK, KB, ERASE, STEEP, SAVE, OP, PRECISION,
            )  # fmt: skip
            A += more_A
            causal += more
            is_steep |= more_steep
        else:
            q_ = load_rows(q, tokens, real, head, H, K, KB, first) * scale
            k_ = load_rows(k, tokens, real, head, H, K, KB, first)
            columns = tl.trans(k_.to(OP))
            causal += dot(q_.to(OP), columns, PRECISION)
            if ERASE > 0:
                bk = k_ * read_erase(b, tokens, real, head, H, K, KB, first, ERASE).to(tl.float32)
                A += dot(bk.to(OP), columns, PRECISION)
                if ERASE == 2:
                    store_factors(
                        factors, bk * lead[:, None], q_ * lead[:, None], k_ * tail[:, None],
                        tile, tiles, first, C, BK, KB, True,
                    )  # fmt: skip
    if DECAY == 2 and not STEEP:
        tl.store(steep + tile, is_steep.to(tl.int32))
    if DECAY == 1:
        tl.store(end + tile * BK + tl.arange(0, BK), tl.zeros([BK], tl.float32) + root)
        pairs = pair_decay(G, C)
        causal *= pairs
        A *= pairs
    if ROWS:
        scales = factors + (tile * C + rows) * 4
        if ERASE == 1:
            tl.store(scales, lead * load_scalars(b, tokens, real, head, H))
        tl.store(scales + 1, lead * scale)
        tl.store(scales + 2, tail)

    square = tile * C * C + rows[:, None] * C + rows[None, :]
    tl.store(P + square, tl.where(rows[:, None] >= rows[None, :], causal, 0.0).to(OP))
    if ERASE > 0:
        A = tl.where(rows[:, None] > rows[None, :], A, 0.0)
        tl.store(T + square, unit_lower_inverse(A, C, PRECISION).to(OP))


@triton.jit(do_not_specialize=["tiles"])
def prologue(
    q, k, g, b, w, factors, writes, T, P, end, spans, steep, scale, tiles,
    H: tl.constexpr, HV: tl.constexpr, K: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, KB: tl.constexpr,
    DECAY: tl.constexpr, ERASE: tl.constexpr, WRITE: tl.constexpr, ROWS: tl.constexpr, STEEP: tl.constexpr,
    SAVE: tl.constexpr, OP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Args:
    q, k [tokens, H, K]; g, b [tokens, H(, K)]; w [tokens, HV] (WRITE = 1).
    factors: E/η, Qγ/η, Kt/η [3, chunks, H, C, BK], or the scales of their rows [chunks, H, C, 4] (ROWS; one is unused);
        with a decay per channel γ/η too where a backward pass follows [4, …].
    writes: w in fp32, [chunks, HV, C].
    T, P: [chunks, H, C, C].
    end: η [chunks, H, BK].
    spans: [2, chunks] first token of a chunk, and the token after its last.
    steep: [chunks, H] which are too steep for one anchor.
    tiles: chunks × H.
    DECAY, ERASE: 0 none, 1 one value per head, 2 one per channel.
    STEEP: the launch that does the steep ones.
    SAVE: whether a backward pass follows.
    """
    if STEEP:
        for base in range(tl.program_id(0).to(tl.int64) * GROUP, tiles, tl.num_programs(0) * GROUP):
            if any_steep(steep, base, tiles):
                for tile in range(base, tl.minimum(base + GROUP, tiles)):
                    if tl.load(steep + tile) != 0:
                        prologue_tile(
                            q, k, g, b, factors, T, P, end, spans, steep, scale, tile, tiles,
                            H, K, C, BK, KB, DECAY, ERASE, ROWS, STEEP, SAVE, OP, PRECISION,
                        )  # fmt: skip
    else:
        tile = tl.program_id(0).to(tl.int64)
        if WRITE == 1:
            lay_out_writes(w, writes, spans, tile, tiles, H, HV, C)
        prologue_tile(
            q, k, g, b, factors, T, P, end, spans, steep, scale, tile, tiles,
            H, K, C, BK, KB, DECAY, ERASE, ROWS, STEEP, SAVE, OP, PRECISION,
        )  # fmt: skip
