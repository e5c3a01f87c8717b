"""Device functions that read the rows of a chunk's tokens, and write them.

Masks: ``real`` are the tokens within the sequence, the others read as zero and do nothing.
"""

import triton
import triton.language as tl

from deltalab.kernels.triton.parts import LOG2E, half_decay


@triton.jit
def read_rows(x, tokens, real, head, HEADS: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, first):
    """Rows [C, BD] of x [tokens, HEADS, D] from channel ``first`` on, as they are stored."""
    channels = first + tl.arange(0, BD)
    place = (tokens[:, None] * HEADS + head) * D + channels[None, :]
    return tl.load(x + place, mask=real[:, None] & (channels < D)[None, :], other=0.0)


@triton.jit
def load_rows(x, tokens, real, head, HEADS: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, first):
    """``read_rows`` in fp32."""
    return read_rows(x, tokens, real, head, HEADS, D, BD, first).to(tl.float32)


@triton.jit
def store_rows(x, value, tokens, real, head, HEADS: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, first):
    """The reverse of ``load_rows``."""
    channels = first + tl.arange(0, BD)
    place = (tokens[:, None] * HEADS + head) * D + channels[None, :]
    tl.store(x + place, value.to(x.dtype.element_ty), mask=real[:, None] & (channels < D)[None, :])


@triton.jit
def load_scalars(x, tokens, real, head, HEADS: tl.constexpr):
    """One value per token [C] of x [tokens, HEADS] in fp32."""
    return tl.load(x + tokens * HEADS + head, mask=real, other=0.0).to(tl.float32)


@triton.jit
def store_scalars(x, value, tokens, real, head, HEADS: tl.constexpr):
    """The reverse of ``load_scalars``."""
    tl.store(x + tokens * HEADS + head, value.to(x.dtype.element_ty), mask=real)


@triton.jit
def chunk_of(spans, tile, tiles, H: tl.constexpr, C: tl.constexpr):
    """Of a tile, a chunk of a key head: its tokens [C], which of them are real, and its head."""
    chunk = tile // H
    tokens = tl.load(spans + chunk).to(tl.int64) + tl.arange(0, C)
    return tokens, tokens < tl.load(spans + tiles // H + chunk), tile % H


@triton.jit
def state_block(sequences, HV: tl.constexpr, K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr):
    """Of a program over the state: its value head and first value channel; its sequence's first token, the token after
    its last, its first chunk and the next sequence's; the state's first element, its elements' places from there and
    which of them are real [BK, BV]."""
    blocks = tl.cdiv(V, BV)
    head = (tl.program_id(0) // blocks) % HV
    n = tl.program_id(0) // blocks // HV
    count = tl.num_programs(0) // blocks // HV
    first = tl.program_id(0) % blocks * BV
    channels = tl.arange(0, BK)
    values = first + tl.arange(0, BV)
    start = tl.load(sequences + n).to(tl.int64)
    stop = tl.load(sequences + n + 1).to(tl.int64)
    chunk = tl.load(sequences + count + 1 + n).to(tl.int64)
    next_chunk = tl.load(sequences + count + 1 + n + 1).to(tl.int64)
    own = channels[:, None] * V + values[None, :]
    inside = (channels < K)[:, None] & (values < V)[None, :]
    return head, first, start, stop, chunk, next_chunk, (n * HV + head).to(tl.int64) * K * V, own, inside


@triton.jit
def read_erase(b, tokens, real, head, H: tl.constexpr, K: tl.constexpr, KB: tl.constexpr, first,
               ERASE: tl.constexpr):  # fmt: skip
    """The erase gate of a block of channels, [C, KB] as stored or [C, 1]; zero without one."""
    if ERASE == 2:
        return read_rows(b, tokens, real, head, H, K, KB, first)
    elif ERASE == 1:  # noqa: RET505, Triton needs one branch
        return load_scalars(b, tokens, real, head, H)[:, None]
    else:
        return tl.zeros([tokens.shape[0], 1], tl.float32)


@triton.jit
def load_channel_decay(g, tokens, real, head, H: tl.constexpr, K: tl.constexpr, KB: tl.constexpr, first):
    """Log-decay to base 2 of a block of channels [C, KB]."""
    return load_rows(g, tokens, real, head, H, K, KB, first) * LOG2E


@triton.jit
def head_decay(g, tokens, real, head, H: tl.constexpr, C: tl.constexpr, DECAY: tl.constexpr):
    """Of a decay of one value per head γ/η, γ_C/γ/η [C] and η, and to base 2 G [C]. Else ones and zeros."""
    decay = tl.zeros([C], tl.float32)
    if DECAY == 1:
        decay = load_scalars(g, tokens, real, head, H) * LOG2E
    G = tl.cumsum(decay, 0)
    last = tl.sum(decay, 0)
    half = half_decay(last)
    return tl.exp2(G - half), tl.exp2(last - G - half), tl.exp2(half), G


@triton.jit
def pair_decay(G, C: tl.constexpr):
    """exp2(G_i − G_j) for i ≥ j [C, C], ones above."""
    rows = tl.arange(0, C)
    return tl.exp2(tl.where(rows[:, None] >= rows[None, :], G[:, None] - G[None, :], 0.0))
