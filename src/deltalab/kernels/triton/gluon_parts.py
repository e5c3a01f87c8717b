"""What the kernels in Gluon share: tiles of a chunk between memory and shared memory, and names that Triton changed."""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy

copy_async = getattr(async_copy, "async_load", None) or async_copy.async_copy_global_to_shared  # Triton 3.9, before
barrier = getattr(gl, "barrier", None) or gl.thread_barrier  # since Triton 3.7, before
C = gl.constexpr(64)
D = gl.constexpr(128)
SHARED = gl.constexpr(gl.NVMMASharedLayout(128, 16, 2))
VECTOR = gl.constexpr(gl.SwizzledSharedLayout(1, 1, 1, [0]))
PLAIN = gl.constexpr(gl.SwizzledSharedLayout(1, 1, 1, [1, 0]))
PLUS_NOTHING = gl.constexpr("{ .reg .u64 t; mov.u64 t, %clock64; shr.u64 t, t, 63; add.s64 $0, $1, t; }")


@gluon.constexpr_function
def rows_layout(warps, vector=8):
    """Tiles as they come from memory and go there: 16 bytes a thread, of so many values, and whole rows a warp."""
    return gl.BlockedLayout([1, vector], [vector // 4, 128 // vector], [warps, 1], [1, 0])


@gluon.constexpr_function
def rows_apart_layout(warps, vector=8):
    """The same as [times, rows at once, channels]."""
    return gl.BlockedLayout([1, 1, vector], [1, vector // 4, 128 // vector], [1, warps, 1], [2, 1, 0])


@gluon.jit
def fresh(x):
    """x, where it stands: the clock's top bit is none. Else ptxas works addresses out long before they are used, has no
    registers left, and waits for what it spilled behind all that was asked of memory: 0.51 ms in place of 0.36."""
    x = gl.inline_asm_elementwise(PLUS_NOTHING, "=l,l", [x], dtype=gl.int64, is_pure=False, pack=1)
    return gl.multiple_of(x, 128)


@gluon.jit
def reciprocal(x):
    return gl.inline_asm_elementwise("rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=gl.float32, is_pure=True, pack=1)


@gluon.jit
def places(STRIDE: gl.constexpr, COUNT: gl.constexpr, VECTOR_OF: gl.constexpr = 8):
    """Where a tile's elements lie [COUNT, D], rows STRIDE apart: one number of each thread, and constants."""
    AT_ONCE: gl.constexpr = gl.num_warps() * VECTOR_OF // 4
    BY: gl.constexpr = rows_apart_layout(gl.num_warps(), VECTOR_OF)
    outer = gl.arange(0, COUNT // AT_ONCE, gl.SliceLayout(1, gl.SliceLayout(1, BY))).to(gl.int64)[:, None][:, None, :]
    inner = gl.arange(0, AT_ONCE, gl.SliceLayout(1, gl.SliceLayout(0, BY))).to(gl.int64)[:, None][None, :, :]
    channel = gl.arange(0, D, gl.SliceLayout(0, gl.SliceLayout(0, BY))).to(gl.int64)[None, :][None, :, :]
    found = outer * (AT_ONCE * STRIDE) + (inner * STRIDE + channel)
    found = gl.convert_layout(found.reshape([COUNT, D]), rows_layout(gl.num_warps(), VECTOR_OF), assert_trivial=True)
    return gl.max_contiguous(gl.multiple_of(found, [8, VECTOR_OF]), [1, VECTOR_OF])


@gluon.jit
def rows(COUNT: gl.constexpr, VECTOR_OF: gl.constexpr = 8):
    return gl.arange(0, COUNT, gl.SliceLayout(1, rows_layout(gl.num_warps(), VECTOR_OF)))


@gluon.jit
def ask(slot, x, base, STRIDE: gl.constexpr, real, VECTOR_OF: gl.constexpr = 8):
    """Begin to copy rows of x from element ``base`` on into shared memory, zeros from row ``real`` on.

    VECTOR_OF: values in 16 bytes.
    """
    here = x + fresh(base) + places(STRIDE, slot.shape[0], VECTOR_OF)
    copy_async(slot, here, mask=rows(slot.shape[0], VECTOR_OF)[:, None] < real)


@gluon.jit
def give(slot, x, base, STRIDE: gl.constexpr, real):
    """The reverse of ``ask`` for bf16, done when it returns."""
    here = x + fresh(base) + places(STRIDE, C)
    gl.store(here, slot.load(rows_layout(gl.num_warps())), mask=rows(C)[:, None] < real)


@gluon.jit
def chunk_at(spans, tile, tiles, H: gl.constexpr):
    """A tile's first token, and the token after its sequence's last."""
    chunk = gl.minimum(tile, tiles - 1) // H
    return gl.load(spans + chunk), gl.load(spans + tiles // H + chunk)


@gluon.jit
def rows_of(first, stop, tile, tiles):
    """A tile's real tokens: none beyond the last."""
    return gl.where(tile >= tiles, 0, stop - first)
