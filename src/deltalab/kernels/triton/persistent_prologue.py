"""K1 for Hopper: what prologue.py does of a chunk that is not steep, with a decay and 128 channels of keys in bf16.

    u = γ/η;   q̂ = u ⊙ scale q;   k̂ = k/u;   ê = u ⊙ b ⊙ k;   P = tril(q̂ k̂ᵀ);   T = (I + stril(ê k̂ᵀ))^-1

Written in Gluon for the reasons that merged_gradients.py gives: a program goes through its chunks, and asks for the
next one's q, k, g and b as soon as this one's are factors. There are two programs a processor, so that one computes
while the other waits for a product.

A thread has half of the tokens of two channels, so that a sum over tokens is one of its own, and what the other half
adds to it. T is made row by row without a product, in fp32: of x (I + A) = e, x's elements are known from the last to
the first. A row has four threads; each element is taken off what is before it.
"""

import triton.language as tl
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, warpgroup_mma, warpgroup_mma_wait

from deltalab.kernels.triton.gluon_parts import (
    PLAIN,
    SHARED,
    VECTOR,
    C,
    D,
    ask,
    barrier,
    chunk_at,
    fresh,
    give,
    reciprocal,
    rows_of,
)
from deltalab.kernels.triton.parts import LOG2E, SPAN

COLUMNS = gl.constexpr(gl.BlockedLayout([32, 2], [1, 32], [2, 2], [1, 0]))
"""Tiles [tokens, channels], each thread with half of two columns."""
HALVES = gl.constexpr(gl.BlockedLayout([1, 32, 2], [1, 1, 32], [2, 1, 2], [2, 1, 0]))
"""The same as [halves, tokens, channels]."""
CHANNELS = gl.constexpr(gl.SliceLayout(0, gl.SliceLayout(1, HALVES.value)))
PAIRS = gl.constexpr(gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 64, 16]))
"""Scores [tokens, tokens]."""
SQUARE = gl.constexpr(gl.BlockedLayout([1, 8], [4, 8], [4, 1], [1, 0]))
"""Scores as they go to memory."""
SOLVED = gl.constexpr(gl.BlockedLayout([2, 4], [8, 4], [4, 1], [1, 0]))
"""A quarter of the columns of T, four threads to two rows: what is read of A serves both."""
TOKENS = gl.constexpr(gl.BlockedLayout([1], [32], [4], [0]))
QUARTER = gl.constexpr(16)


@gluon.jit
def add(x, y):
    return x + y


@gluon.jit
def decays(sG):
    """u [C, D], and log2 γ_C and log2 η [D]."""
    decay = sG.load(COLUMNS).to(gl.float32) * LOG2E
    decay = gl.convert_layout(decay.reshape([2, C // 2, D]), HALVES, assert_trivial=True)
    own = gl.associative_scan(decay, 1, add)
    half_sums = gl.sum(decay, 1)
    last = gl.sum(half_sums, 0)
    half = gl.maximum(0.5 * last, -SPAN)  # as parts.half_decay
    second = gl.arange(0, 2, gl.SliceLayout(1, gl.SliceLayout(1, HALVES)))[:, None] > 0
    offset = gl.where(second, last[None, :] - half_sums, 0.0) - half[None, :]
    u = gl.exp2(own + offset[:, None, :])
    u = gl.convert_layout(u.reshape([C, D]), COLUMNS, assert_trivial=True)
    return u, last, half


@gluon.jit
def factors_of(u, q, k, b, scale):
    """q̂, k̂, ê and u in bf16."""
    k = k.to(gl.float32)
    Qg = u * (q.to(gl.float32) * scale)
    E = u * (b.to(gl.float32) * k)
    return Qg.to(gl.bfloat16), (k * reciprocal(u)).to(gl.bfloat16), E.to(gl.bfloat16), u.to(gl.bfloat16)


@gluon.constexpr_function
def column_code(column):
    """Of the four values of a row that a thread has, one from the thread that has this column."""
    copies = " ".join(f"mov.b32 ${place}, t;" for place in range(4))
    return f"{{ .reg .b32 t; shfl.sync.idx.b32 t, ${4 + column % 4}, {column // 4}, 0x1c1f, -1; {copies} }}"


@gluon.jit
def column_of(X, COLUMN: gl.constexpr):
    """A column of a quarter in place of each [C, QUARTER], from thread to thread."""
    code: gl.constexpr = column_code(COLUMN)
    return gl.inline_asm_elementwise(code, "=f,=f,=f,=f,f,f,f,f", [X], dtype=gl.float32, is_pure=True, pack=4)


@gluon.jit
def taken_off(X, x, line, QUARTER_OF: gl.constexpr):
    return X - x * line.slice(QUARTER_OF * QUARTER, QUARTER, dim=1).load(SOLVED)


@gluon.jit
def identity(QUARTER_OF: gl.constexpr):
    """A quarter of its columns."""
    row = gl.arange(0, C, gl.SliceLayout(1, SOLVED))[:, None]
    columns = gl.arange(0, QUARTER, gl.SliceLayout(0, SOLVED))[None, :]
    return gl.where(row == columns + QUARTER_OF * QUARTER, 1.0, 0.0)


@gluon.jit
def eliminated(X0, X1, X2, X3, sA, COLUMN: gl.constexpr):
    """Quarters of X with this column of X taken off what is before it."""
    line = sA.slice(COLUMN, 1)
    if COLUMN >= 3 * QUARTER:
        x = column_of(X3, COLUMN - 3 * QUARTER)
        X3 = taken_off(X3, x, line, 3)
    elif COLUMN >= 2 * QUARTER:
        x = column_of(X2, COLUMN - 2 * QUARTER)
    elif COLUMN >= QUARTER:
        x = column_of(X1, COLUMN - QUARTER)
    else:
        x = column_of(X0, COLUMN)
    if COLUMN >= 2 * QUARTER:
        X2 = taken_off(X2, x, line, 2)
    if COLUMN >= QUARTER:
        X1 = taken_off(X1, x, line, 1)
    return taken_off(X0, x, line, 0), X1, X2, X3


@gluon.jit
def unit_lower_inverse(sA):
    """(I + A)^-1 of a strictly lower A [C, C] in shared memory, in quarters of its columns."""
    X0 = identity(0)
    X1 = identity(1)
    X2 = identity(2)
    X3 = identity(3)
    for turn in gl.static_range(C - 1):
        X0, X1, X2, X3 = eliminated(X0, X1, X2, X3, sA, C - 1 - turn)
    return X0, X1, X2, X3


@gluon.jit
def store_quarter(T, place, X, QUARTER_OF: gl.constexpr):
    row = gl.arange(0, C, gl.SliceLayout(1, SOLVED))[:, None]
    columns = gl.arange(0, QUARTER, gl.SliceLayout(0, SOLVED))[None, :]
    gl.store(T + fresh(place) + row * C + (columns + QUARTER_OF * QUARTER), X.to(gl.bfloat16))


@gluon.jit
def ask_chunk(sQ, sK, sG, sB, q, k, g, b, base, real, H: gl.constexpr, ERASE: gl.constexpr):
    """``ask`` for what a chunk is made of."""
    ask(sG, g, base, H * D, real, 4 if g.dtype.element_ty == gl.float32 else 8)
    ask(sQ, q, base, H * D, real)
    ask(sK, k, base, H * D, real)
    if ERASE == 2:
        ask(sB, b, base, H * D, real)
    async_copy.commit_group()


@gluon.jit
def load_scalars(x, first, real, head, HEADS: gl.constexpr):
    """One value per token [C] in fp32."""
    token = gl.arange(0, C, TOKENS)
    here = x + (first.to(gl.int64) + token) * HEADS + head
    return gl.load(here, mask=token < real, other=0.0).to(gl.float32)


@gluon.jit(do_not_specialize=["tiles"])
def persistent_prologue(
    q, k, g, b, w, factors, writes, T, P, end, spans, steep, scale, tiles,
    H: gl.constexpr, HV: gl.constexpr, ERASE: gl.constexpr, WRITE: gl.constexpr, SAVE: gl.constexpr,
):  # fmt: skip
    """Args: as ``prologue``'s, with a decay per channel."""
    sQ = gl.allocate_shared_memory(gl.bfloat16, [C, D], SHARED)  # then q̂
    sK = gl.allocate_shared_memory(gl.bfloat16, [C, D], SHARED)  # then k̂
    sB = gl.allocate_shared_memory(gl.bfloat16, [C if ERASE > 0 else 8, D], SHARED)  # then ê
    sG = gl.allocate_shared_memory(g.dtype.element_ty, [C, D], PLAIN)
    sA = gl.allocate_shared_memory(gl.float32, [C if ERASE > 0 else 1, C], PLAIN)
    sBeta = gl.allocate_shared_memory(gl.float32, [C], VECTOR)

    i = gl.arange(0, C, gl.SliceLayout(1, PAIRS))[:, None]
    j = gl.arange(0, C, gl.SliceLayout(0, PAIRS))[None, :]
    plane = tiles.to(gl.int64) * (C * D)
    start = gl.program_id(0)
    step = gl.num_programs(0)
    first, stop = chunk_at(spans, start, tiles, H)
    real = rows_of(first, stop, start, tiles)
    ask_chunk(sQ, sK, sG, sB, q, k, g, b, (first.to(gl.int64) * H + start % H) * D, real, H, ERASE)
    if ERASE == 1:
        sBeta.store(load_scalars(b, first, real, start % H, H))

    for tile in tl.range(start, tiles, step, disable_licm=True):
        following = tile + step
        place = tile.to(gl.int64) * (C * D)
        next_first, next_stop = chunk_at(spans, following, tiles, H)
        async_copy.wait_group(0)
        barrier()

        u, last, half = decays(sG)
        gl.store(end + tile.to(gl.int64) * D + gl.arange(0, D, CHANNELS), gl.exp2(half))
        gl.store(steep + tile, (gl.min(last, 0) < -2 * SPAN).to(gl.int32))
        if ERASE == 2:
            b_ = sB.load(COLUMNS)
        elif ERASE == 1:
            b_ = sBeta.load(gl.SliceLayout(1, COLUMNS))[:, None]
        else:
            b_ = gl.zeros([1, D], gl.float32, COLUMNS)
        Qg, Kt, E, u = gl.map_elementwise(factors_of, u, sQ.load(COLUMNS), sK.load(COLUMNS), b_, scale)
        if SAVE:
            token = gl.arange(0, C, gl.SliceLayout(1, COLUMNS))[:, None]
            channel = gl.arange(0, D, gl.SliceLayout(0, COLUMNS))[None, :]
            gl.store(factors + fresh(3 * plane + place) + token * D + channel, u)
        sQ.store(Qg)
        sK.store(Kt)
        if ERASE > 0:
            sB.store(E)
        fence_async_shared()
        barrier()

        zero = gl.zeros([C, C], gl.float32, PAIRS)
        scores = warpgroup_mma(sQ, sK.permute((1, 0)), zero, use_acc=False, is_async=True)
        if ERASE > 0:
            A = warpgroup_mma(sB, sK.permute((1, 0)), zero, use_acc=False, is_async=True)
            give(sB, factors, place, D, C)
        give(sQ, factors, plane + place, D, C)
        give(sK, factors, 2 * plane + place, D, C)
        if ERASE > 0:
            scores, A = warpgroup_mma_wait(0, deps=(scores, A))
        else:
            scores = warpgroup_mma_wait(0, deps=(scores,))
        barrier()

        next_real = rows_of(next_first, next_stop, following, tiles)
        next_base = (next_first.to(gl.int64) * H + following % H) * D
        ask_chunk(sQ, sK, sG, sB, q, k, g, b, next_base, next_real, H, ERASE)
        if ERASE == 1:
            beta = load_scalars(b, next_first, next_real, following % H, H)

        square = tile.to(gl.int64) * (C * C)
        if ERASE > 0:
            sA.store(gl.where(i > j, A, 0.0))
        row = gl.arange(0, C, gl.SliceLayout(1, SQUARE))[:, None]
        column = gl.arange(0, C, gl.SliceLayout(0, SQUARE))[None, :]
        causal = gl.convert_layout(gl.where(i >= j, scores, 0.0).to(gl.bfloat16), SQUARE)
        gl.store(P + fresh(square) + row * C + column, causal)
        if ERASE > 0:
            barrier()
            X0, X1, X2, X3 = unit_lower_inverse(sA)
            store_quarter(T, square, X0, 0)
            store_quarter(T, square, X1, 1)
            store_quarter(T, square, X2, 2)
            store_quarter(T, square, X3, 3)
        if ERASE == 1:
            sBeta.store(beta)
        if WRITE == 1:
            for head in gl.static_range(HV // H):
                value_head = tile % H * (HV // H) + head
                written = load_scalars(w, first, real, value_head, HV)
                here = (tile // H * HV + value_head).to(gl.int64) * C
                gl.store(writes + here + gl.arange(0, C, TOKENS), written)
        first = next_first
        real = next_real
    async_copy.wait_group(0)
